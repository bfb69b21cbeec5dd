//! `pinkeeper run`: a peer and the controllers in one process.
//!
//! Invariants: every task is owned here and has ended when [`run`] returns. The controllers end
//! before the peer, so that a stopping peer proposes nothing.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use kube::{Client, Config};
use pinkeeper::{
    cluster::{FatalError, Standing, new_cluster_id},
    peer::Peer,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{self, hand_over, peers},
    founding::{self, FoundingError},
    kubernetes::{self, Context},
};

/// How often a pod that stops looks whether it is still scaled in.
const SCALE_EVERY: Duration = Duration::from_secs(2);
/// A pod that stops asks the API server so often before it takes it for a restart.
const SCALE_ASKS_MAX: u32 = 2;

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
    // The controllers go on while this peer leaves.
    let stop = CancellationToken::new();
    let mut tasks = controllers(&context, &stop);
    let ended = tokio::select! {
        biased;
        () = token.cancelled() => leave_if_scaled_in(&mut peer, &context).boxed().await,
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
    match ended {
        Err(RunError::Peer(FatalError::Removed)) => ended,
        _ if token.is_cancelled() => Ok(()),
        ended => ended,
    }
}

/// Gives this peer's copies to others if its pod is not wanted any more, and returns when it is removed
/// from the cluster, or wanted again. Kubernetes waits for the end of the grace period at most.
async fn leave_if_scaled_in(peer: &mut Peer, context: &Context) -> Result<(), RunError> {
    let own = context.cluster.id();
    let mut told = false;
    let mut refusal = String::new();
    let mut asked = 0;
    loop {
        // It has neither copies nor a vote.
        if context.cluster.standing() == Standing::Blank {
            return Ok(());
        }
        let scaled_in = peers::is_scaled_in(context).await;
        let departs = context.cluster.state().read(|pins| pins.departing().contains(&own));
        asked += 1;
        match scaled_in {
            Some(true) => {}
            // The API server does not answer: what is agreed already goes on.
            None if departs => {}
            None if asked < SCALE_ASKS_MAX => {}
            Some(false) | None => return Ok(()),
        }
        if scaled_in == Some(true) {
            if !std::mem::replace(&mut told, true) {
                tracing::info!("this pod is scaled in: it ends when others have its copies");
            }
            if let Err(error) = context.cluster.scale(own, true).await
                && std::mem::replace(&mut refusal, error.to_string()) != error.to_string()
            {
                tracing::warn!(%error, "this pod cannot leave the cluster yet; asking again");
            }
        }
        tokio::select! {
            biased;
            error = peer.failed() => return Err(error.into()),
            () = sleep(SCALE_EVERY) => {}
        }
    }
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
