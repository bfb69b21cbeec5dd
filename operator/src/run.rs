//! `pinkeeper run`: a peer and the controllers in one process.
//!
//! Invariants: every task is owned here and has ended when [`run`] returns. The controllers end
//! before the peer, so that a stopping peer proposes nothing.

use std::sync::Arc;

use kube::{Client, Config};
use pinkeeper::{
    cluster::{FatalError, new_cluster_id},
    peer::Peer,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{self, hand_over, peers},
    founding::{self, FoundingError},
    kubernetes::{self, Context},
};

/// Why the process failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// This peer must not take part as it is.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The peer failed.
    #[error(transparent)]
    Peer(#[from] FatalError),
    /// A task ended that must not end.
    #[error("a part has stopped: {0}")]
    Stopped(String),
}

impl RunError {
    /// The exit code of the process: 2 if a person must correct something, otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Founding(FoundingError::OtherCluster(..))
            | Self::Peer(
                FatalError::DaemonTaken(_)
                | FatalError::NameTaken(_)
                | FatalError::Removed
                | FatalError::AnotherCluster { .. }
                | FatalError::FolderGone(_)
                | FatalError::NotKnown(_),
            ) => 2,
            Self::Founding(FoundingError::NotFounded(_)) | Self::Peer(_) | Self::Stopped(_) => 1,
        }
    }
}

/// A client from the pod's service account, or from a kubeconfig outside a pod.
///
/// The client does not retry, since the controllers do. Its retries would hide an overload and
/// continue for minutes, even for a deposed leader.
///
/// # Errors
/// When there is no valid configuration.
pub async fn client() -> Result<Client, kube::Error> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.default_retry = false;
    Client::try_from(config)
}

/// Runs the controllers beside a started peer until `token` is cancelled or a part fails, then
/// stops both.
///
/// # Errors
/// Why a part failed.
pub async fn run(
    mut peer: Peer,
    context: Context,
    token: &CancellationToken,
) -> Result<(), RunError> {
    let stop = token.child_token();
    let mut tasks = controllers(&context, &stop);
    let ended = tokio::select! {
        biased;
        () = token.cancelled() => Ok(()),
        error = peer.failed() => Err(error.into()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => Err(RunError::Stopped("a controller ended".into())),
            Err(error) => Err(RunError::Stopped(error.to_string())),
        },
    };
    tracing::info!("stopping pinkeeper");
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    peer.stop().await;
    tracing::info!("pinkeeper stopped");
    // A failure while stopping on request does not count.
    if token.is_cancelled() { Ok(()) } else { ended }
}

fn controllers(context: &Context, stop: &CancellationToken) -> JoinSet<Result<(), RunError>> {
    let directory = watch::Sender::new(Arc::default());
    let waiting = watch::Sender::new("starting".to_owned());
    let (listed, told) = (directory.subscribe(), waiting.subscribe());
    let mut tasks = JoinSet::new();
    let founding =
        founding::run(context.clone(), listed.clone(), waiting, new_cluster_id, stop.clone());
    tasks.spawn(async move { Ok(founding.await?) });
    let watching = kubernetes::watch_peers(context.clone(), directory, stop.clone());
    let own = peers::keep_own(context.clone(), listed.clone(), told, stop.clone());
    let leading = controller::run(context.clone(), listed, stop.clone());
    let handing_over = hand_over::run(context.clone(), stop.clone());
    for never_ends in [
        Box::pin(watching) as futures::future::BoxFuture<'static, ()>,
        Box::pin(own),
        Box::pin(leading),
        Box::pin(handing_over),
    ] {
        tasks.spawn(async move {
            never_ends.await;
            Ok(())
        });
    }
    tasks
}
