//! The controllers. They run only on the Raft leader, and only for its term.
//!
//! ```text
//! Pins ──watch──▶ objects ──▶ claims ──one Raft entry for many──▶ state ──▶ statuses ──▶ Pins
//!                    ▲          │ comparison with the list          reports of peers ┘
//!                    └──────────┘
//! ```
//! Raft leadership is the operator's leadership; there is no second lock that could disagree with
//! it. The term fences every op, and the object's version fences every status write.

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

/// Wait before the controllers restart after one has failed.
const START_ANEW: Duration = Duration::from_secs(1);
/// Waits between attempts to catch up with the log.
const CATCH_UP: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Runs the leader's controllers whenever this peer leads, until `token` is cancelled.
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
            // Restart although the leadership did not change, but not at once.
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = sleep(START_ANEW) => continue,
            }
        }
        // Returns at once if the leadership changed while this peer led.
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
    /// Another peer leads, or this peer stops.
    Over,
    /// A controller has ended.
    Broken,
}

/// Runs one leadership until all its tasks have ended.
async fn lead(
    context: &Context,
    term: u64,
    directory: &watch::Receiver<Arc<Directory>>,
    token: CancellationToken,
) -> End {
    tracing::info!(term, "this peer leads; starting the controllers");
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
        tasks.spawn(peers::follow_scale(lead.clone(), directory.clone()));
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
        // The API server's data was set back, or something is broken: start again from nothing.
        Some(ended) = work => {
            match ended {
                Ok(()) => tracing::warn!("a controller ended; restarting them all"),
                Err(error) => tracing::error!(%error, "a controller failed; restarting them all"),
            }
            End::Broken
        }
    };
    token.cancel();
    while tasks.join_next().await.is_some() {}
    // Only the leader shows this count.
    context.counters.unpins_waiting.set(0);
    tracing::info!(term, "the controllers have stopped");
    end
}

/// Waits until every op that this peer proposed earlier in this term is applied or lost. The
/// comparison with the list would miss a claim that is applied after it.
async fn catch_up(lead: &Leading) {
    let mut backoff = Backoff::new(CATCH_UP.0, CATCH_UP.1);
    while let Err(error) = lead.context.cluster.submit(lead.term, Vec::new()).await {
        tracing::debug!(%error, "waiting for the log before starting the controllers");
        sleep(backoff.wait()).await;
    }
}
