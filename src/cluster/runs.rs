//! Runs: long work that short calls begin and ask for. One run goes at a time, and the caller's ticket
//! identifies it.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::types::{Refusal, Run};

/// One call waits this long for the end of a run; less than the deadline of a call.
const WAIT: Duration = Duration::from_secs(3);

/// The run under way, or the last one with its outcome.
#[derive(Debug)]
pub(crate) struct Runs<J, T>(watch::Sender<Option<Known<J, T>>>);

#[derive(Debug)]
struct Known<J, T> {
    ticket: u64,
    job: J,
    outcome: Option<T>,
}

impl<J, T> Default for Runs<J, T> {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl<J: Clone, T: Clone> Runs<J, T> {
    /// Whether the ticket is that of the run under way, or of the last one.
    pub(super) fn knows(&self, ticket: u64) -> bool {
        self.0.borrow().as_ref().is_some_and(|known| known.ticket == ticket)
    }

    /// Begins a run if `run.begin` says so, unless the run is known already.
    ///
    /// # Errors
    /// When another run is under way, or the call only asks for a run that is not known.
    pub(super) fn ask(&self, run: Run, job: J) -> Result<(), Refusal> {
        let mut answer = Ok(());
        self.0.send_if_modified(|known| {
            let busy = known.as_ref().is_some_and(|known| known.outcome.is_none());
            if known.as_ref().is_some_and(|known| known.ticket == run.ticket) {
                return false;
            }
            if !run.begin {
                let reason = "this collection is not known here: its leader or peer has stopped";
                answer = Err(Refusal::Invalid(reason.to_owned()));
                return false;
            }
            if busy {
                let reason = "garbage is being collected already; try again later";
                answer = Err(Refusal::GcRunning(reason.to_owned()));
                return false;
            }
            *known = Some(Known { ticket: run.ticket, job, outcome: None });
            true
        });
        answer
    }

    /// The outcome of a run; `None` if it is still under way after a short wait, or not known.
    pub(super) async fn outcome(&self, ticket: u64) -> Option<T> {
        let mut runs = self.0.subscribe();
        let ended = runs.wait_for(|known| {
            known.as_ref().is_none_or(|known| known.ticket != ticket || known.outcome.is_some())
        });
        let known = timeout(WAIT, ended).await.ok()?.ok()?;
        known.as_ref().filter(|known| known.ticket == ticket)?.outcome.clone()
    }

    /// Waits for a run without an outcome, and returns its job.
    pub(super) async fn next(&self) -> J {
        let mut runs = self.0.subscribe();
        let begun = |known: &Option<Known<J, T>>| {
            known.as_ref().filter(|known| known.outcome.is_none()).map(|known| known.job.clone())
        };
        loop {
            if let Some(job) = begun(&runs.borrow_and_update()) {
                return job;
            }
            // The sender lives as long as `self`.
            let _ = runs.changed().await;
        }
    }

    /// Sets the outcome of the run under way.
    pub(super) fn end(&self, outcome: T) {
        self.0.send_modify(|known| {
            if let Some(known) = known {
                known.outcome = Some(outcome);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ticket: u64, begin: bool) -> Run {
        Run { ticket, begin }
    }

    #[tokio::test(start_paused = true)]
    async fn one_run_goes_at_a_time_and_its_ticket_gets_the_outcome() {
        let runs = Runs::<&str, u8>::default();
        assert!(matches!(runs.ask(run(1, false), "a"), Err(Refusal::Invalid(_))));
        assert_eq!(runs.ask(run(1, true), "a"), Ok(()));
        // A call that is repeated after a lost answer begins nothing new.
        assert_eq!(runs.ask(run(1, true), "a"), Ok(()));
        assert_eq!(runs.next().await, "a");
        assert!(matches!(runs.ask(run(2, true), "b"), Err(Refusal::GcRunning(_))));
        assert_eq!(runs.outcome(1).await, None);
        runs.end(7);
        assert_eq!((runs.outcome(1).await, runs.outcome(2).await), (Some(7), None));
        assert_eq!(runs.ask(run(1, false), "a"), Ok(()));
        assert_eq!(runs.ask(run(2, true), "b"), Ok(()));
        assert!(runs.knows(2) && !runs.knows(1));
        assert_eq!(runs.outcome(1).await, None);
    }
}
