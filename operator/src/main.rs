//! The binary `pinkeeper`: parses the command line and calls the library.
//!
//! Exit codes: 0 success, 1 failure, 2 invalid command line or configuration. An error is reported
//! in one line.

use std::{
    io::{self, Write},
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    thread,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use pinkeeper_operator::{crd, install, kubo, process, secret};
use rustix::fs::Mode;

// musl's own allocator is slow, and slower with threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a wrong command line or configuration; clap uses the same.
const EXIT_CONFIG: u8 = 2;

/// Keep IPFS content pinned, as declared by Kubernetes objects
#[derive(Debug, Parser)]
#[command(name = "pinkeeper", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a peer and the controllers in a pod
    Run(Box<process::RunArgs>),
    /// Run a peer without Kubernetes
    Peer(process::PeerArgs),
    /// Keep the IPFS daemon beside a peer running
    Kubo(Box<kubo::Args>),
    /// Print the definitions of the kinds Pin and ClusterPeer, for kubectl apply -f -
    Crds,
    /// Create the Secret with the cluster's shared key, unless it exists
    MakeSecret(secret::Args),
    /// Copy this program into a folder that another container of the pod can read
    Install {
        /// The folder; the copy is called pinkeeper
        folder: PathBuf,
    },
}

/// Why a command failed, by exit code.
#[derive(Debug)]
enum Failure {
    /// The input is invalid; a retry does not help.
    Config(anyhow::Error),
    /// It failed this time.
    Failed(anyhow::Error),
}

impl From<secret::SecretError> for Failure {
    fn from(error: secret::SecretError) -> Self {
        match error {
            secret::SecretError::Config(_) => Self::Config(error.into()),
            secret::SecretError::Kubernetes(_) | secret::SecretError::Randomness(_) => {
                Self::Failed(error.into())
            }
        }
    }
}

fn main() -> ExitCode {
    // Files of this process, its libraries and its daemon are readable by its user only.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let (error, code) = match run(Cli::parse().command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Config(error)) => (error, ExitCode::from(EXIT_CONFIG)),
        Err(Failure::Failed(error)) => (error, ExitCode::FAILURE),
    };
    // Errors of libraries may have several lines; a log has one line per message.
    let line =
        format!("error: {}", reasons(&error)).split_whitespace().collect::<Vec<_>>().join(" ");
    // If standard error is closed, there is nowhere to report to.
    let _ = writeln!(io::stderr(), "{line}");
    code
}

/// An error with its causes, without causes that its text already contains.
fn reasons(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match &*text {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => Ok(threads()?.block_on(process::run(*args))?),
        Command::Peer(args) => Ok(threads()?.block_on(process::peer(args))?),
        Command::Kubo(args) => one_thread()?.block_on(kubo::run(*args)).map_err(Failure::Failed),
        Command::Crds => print_definitions().map_err(Failure::Failed),
        Command::MakeSecret(args) => one_thread()?.block_on(make_secret(&args)),
        Command::Install { folder } => {
            let path = install::install(&folder)
                .with_context(|| format!("cannot copy this program to {}", folder.display()))
                .map_err(Failure::Failed)?;
            say(&format!("copied this program to {}", path.display()))
        }
    }
}

impl From<process::ProcessError> for Failure {
    fn from(error: process::ProcessError) -> Self {
        if error.is_config() { Self::Config(error.into()) } else { Self::Failed(error.into()) }
    }
}

/// One thread for every two processors; the rest is for the daemon beside the peer. With one thread
/// per processor the threads mostly wake each other: two processors busy with three peers and their
/// daemons do some 5 % less. Work that waits for the disk does not block these threads.
fn threads() -> Result<tokio::runtime::Runtime, Failure> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).max(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Failed)
}

fn one_thread() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::Failed)
}

fn print_definitions() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for definition in crd::definitions() {
        out.write_all(crd::yaml(&definition)?.as_bytes())?;
    }
    Ok(out.flush()?)
}

async fn make_secret(args: &secret::Args) -> Result<(), Failure> {
    let outcome = match secret::make(args).await? {
        secret::Outcome::Created => "created",
        secret::Outcome::Kept => "kept the existing",
    };
    say(&format!("{outcome} Secret {}/{}", args.namespace, args.name))
}

fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}")
        .context("cannot write to standard output")
        .map_err(Failure::Failed)
}
