//! Hands leadership over if the leader cannot reach the API server, since its controllers can do
//! nothing without it.
//!
//! Each peer reads the record regularly (see `founding`), so silence means that the server does not
//! answer. The next leader may not reach it either, and then hands over in turn. A peer that hands
//! over again without an answer in between waits twice as long each time. Otherwise leadership
//! would rotate for as long as the server is down.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::Context;

/// A leader may stay without an answer for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest patience after repeated handovers.
const PATIENCE_MAX: Duration = Duration::from_secs(480);
/// How often the silence is checked.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until `token` is cancelled.
pub async fn run(context: Context, token: CancellationToken) {
    let mut leadership = context.cluster.leadership();
    let mut patience = PATIENCE;
    let mut leading_since: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let leads = leadership.borrow_and_update().local;
        let since =
            if leads { Some(*leading_since.get_or_insert_with(Instant::now)) } else { None };
        leading_since = since;
        let silence = context.reach.silence();
        if silence < PATIENCE {
            patience = PATIENCE;
        }
        if since.is_some_and(|since| must_hand_over(silence, since.elapsed(), patience)) {
            tracing::warn!(?silence, "the API server does not answer: handing over leadership");
            patience = (patience * 2).min(PATIENCE_MAX);
            leading_since = None;
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                () = context.cluster.hand_over() => {}
            }
        }
    }
}

/// A new leader gets its full patience, however long the silence is.
fn must_hand_over(silence: Duration, leading: Duration, patience: Duration) -> bool {
    silence.min(leading) >= patience
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_silence_in_a_long_leadership_counts() {
        let seconds = Duration::from_secs;
        assert!(must_hand_over(seconds(30), seconds(30), PATIENCE));
        assert!(!must_hand_over(seconds(300), seconds(5), PATIENCE));
        assert!(!must_hand_over(seconds(5), seconds(300), PATIENCE));
        assert!(!must_hand_over(seconds(40), seconds(40), PATIENCE * 2));
    }
}
