//! A leader that cannot reach the API server hands leadership over: its controllers could do nothing.
//!
//! Each peer asks for the record now and then anyway (see `founding`), so silence means something. The
//! leader does not know whether the next one reaches the server; if it does not, it hands over in turn.
//! A peer that hands over again without having reached the server waits twice as long each time. Else
//! leadership would go round for hours while the server is down.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::Context;

/// A leader may be without an answer for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest patience after handing over in vain.
const PATIENCE_MAX: Duration = Duration::from_secs(480);
/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until `token` ends it.
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

/// A new leader gets its time too.
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
