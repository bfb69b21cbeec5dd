//! What the figures were made on and with.

use std::{path::Path, process::Command};

use pinkeeper_e2e::{daemon::ipfs_program, peer::program};

/// Names and values, in order.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        ("processor", format!("{cores} cores, {}", processor())),
        ("memory", memory()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("disk", disk(&std::env::temp_dir())),
        ("pinkeeper", version(program().ok().as_deref(), &["--version"])),
        ("Kubo", version(Some(&ipfs_program()), &["version"])),
        ("rustc", version(Some(Path::new("rustc")), &["--version"])),
    ]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The value after the first `name:` of a file under `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> String {
    let name = field("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    match field("/proc/cpuinfo", "cpu MHz") {
        Some(clock) => format!("{name}, {clock} MHz"),
        None => name,
    }
}

fn memory() -> String {
    let total = field("/proc/meminfo", "MemTotal");
    let kilobytes = total.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    kilobytes.map_or_else(unknown, |kilobytes| format!("{:.1} GiB", kilobytes / 1024.0 / 1024.0))
}

/// The file system that the peers' folders are on.
fn disk(folder: &Path) -> String {
    let args = ["--output=source,fstype", &folder.display().to_string()];
    let text = output(Path::new("df"), &args).unwrap_or_default();
    let line = text.lines().nth(1).unwrap_or("unknown");
    line.split_whitespace().collect::<Vec<_>>().join(", ")
}

fn version(program: Option<&Path>, args: &[&str]) -> String {
    program.and_then(|program| output(program, args)).unwrap_or_else(unknown)
}

fn output(program: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
