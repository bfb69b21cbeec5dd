//! The controllers: they act on the Raft leader alone, for as long as its term lasts.
//!
//! ```text
//! Pins ──watch──▶ objects ──▶ claims ──one Raft entry for many──▶ state ──▶ statuses ──▶ Pins
//!                    ▲          │ comparison with the list          reports of peers ┘
//!                    └──────────┘
//! ```
//! Raft leadership is the operator's leadership: there is no other lock that could disagree with it.
//! Every op is fenced by the term, every status write by the object's version.

mod bucket;
pub mod claims;
pub mod deletions;
pub mod events;
mod guard_time;
pub mod hand_over;
pub mod leading;
pub mod objects;
pub mod peers;
mod pins;
pub mod queue;
#[cfg(test)]
mod stand;
pub mod status;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::leading::Leading;
use crate::kubernetes::{Backoff, Context, Directory};

/// Between the end of a controller that has ended by itself and a new start.
const START_ANEW: Duration = Duration::from_secs(1);
/// Waits between attempts to write behind all that was proposed before.
const CATCH_UP: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Runs the leader's controllers whenever this peer leads, until `token` ends them.
pub async fn run(
    context: Context,
    directory: watch::Receiver<Arc<Directory>>,
    token: CancellationToken,
) {
    let mut leadership = context.cluster.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.local
            && lead(&context, now.term, &directory, token.child_token()).await == End::Broken
        {
            // At the next turn, also if nothing changes; not at once.
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = sleep(START_ANEW) => continue,
            }
        }
        // What changed while leading has not been looked at yet: then this returns at once.
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// How a leadership ended.
#[derive(PartialEq, Eq)]
enum End {
    /// Somebody else leads, or the peer stops.
    Over,
    /// A controller has ended.
    Broken,
}

/// One leadership, from its first moment until all its tasks have ended.
async fn lead(
    context: &Context,
    term: u64,
    directory: &watch::Receiver<Arc<Directory>>,
    token: CancellationToken,
) -> End {
    tracing::info!(term, "this peer leads: its controllers start");
    let lead = Arc::new(Leading::new(context.clone(), term, token.clone()));
    let (told, notes) = mpsc::channel(events::QUEUE_LEN_MAX);
    let mut tasks = JoinSet::new();
    let work = async {
        catch_up(&lead).await;
        tasks.spawn(status::run(lead.clone(), told.clone()));
        tasks.spawn(events::run(lead.clone(), notes));
        tasks.spawn(claims::run(lead.clone()));
        tasks.spawn(claims::compare(lead.clone()));
        tasks.spawn(claims::approvals(lead.clone(), told));
        tasks.spawn(peers::mark_silent(lead.clone(), directory.clone()));
        tasks.spawn(pins::run(lead.clone()));
        tasks.join_next().await
    };
    let mut leadership = context.cluster.leadership();
    let ended = leadership.wait_for(|now| !now.local || now.term != term);
    let end = tokio::select! {
        biased;
        () = token.cancelled() => End::Over,
        // Also when the peer is gone.
        _ = ended => End::Over,
        // When what they know is of no use any more, or something is broken: a new start is the way on.
        Some(ended) = work => {
            match ended {
                Ok(()) => tracing::warn!("a controller has ended; all start anew"),
                Err(error) => tracing::error!(%error, "a controller has failed; all start anew"),
            }
            End::Broken
        }
    };
    token.cancel();
    while tasks.join_next().await.is_some() {}
    // The next leader counts.
    context.counters.unpins_waiting.set(0);
    tracing::info!(term, "the controllers of this leadership have ended");
    end
}

/// Waits until all that an earlier leadership of this peer proposed in this term is applied, or never
/// will be: a claim that came in after the comparison with the list would be missed by it.
async fn catch_up(lead: &Leading) {
    let mut backoff = Backoff::new(CATCH_UP.0, CATCH_UP.1);
    while let Err(error) = lead.context.cluster.submit(lead.term, Vec::new()).await {
        tracing::debug!(%error, "the controllers wait for the log");
        sleep(backoff.wait()).await;
    }
}
