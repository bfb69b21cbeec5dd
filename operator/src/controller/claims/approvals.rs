//! Reports the deletions that wait for approval, and applies the approval.
//!
//! A person approves by an annotation on the record, with the digest of the waiting set. The
//! approval goes through the log, which compares the digest with the set again. The annotation is
//! removed only after that, so a crash in between loses nothing. An approval works once: the digest
//! includes the number of approvals.

use std::{sync::Arc, time::Duration};

use pinkeeper::state::{Op, Outcome, PinSet, Waiting, WaitingDigest};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::rule::some_waiting;
use crate::{
    controller::{
        events::{Note, Told},
        leading::Leading,
    },
    kubernetes::{
        Settings,
        record::{self, ALLOW_UNPIN, Approval, RecordError},
    },
};

/// How often the waiting set is checked. The record is read only while something waits.
const EVERY: Duration = Duration::from_secs(2);
/// The waiting set is reported after it has not changed for this long: a mass deletion takes time.
const SETTLED: Duration = Duration::from_secs(4);
/// Pins named as examples in the message.
const EXAMPLES: usize = 3;

/// The message shown while deletions wait. It depends on the state only, so every peer shows the
/// same.
#[must_use]
pub fn message(pins: &PinSet, settings: &Settings) -> Option<String> {
    let Waiting { cids, digest } = pins.waiting()?;
    let (namespace, record) = (&settings.namespace, settings.record());
    Some(format!(
        "{cids} CIDs lost their last Pin, too many within an hour, and stay pinned until a person \
         decides. To unpin them: kubectl annotate configmap -n {namespace} {record} --overwrite \
         {ALLOW_UNPIN}={digest} (works once, for exactly these CIDs). To keep them, create Pins \
         for them again. Examples: {}",
        some_waiting(pins, EXAMPLES).join(", ")
    ))
}

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>, notes: mpsc::Sender<Told>) {
    let mut approvals = Approvals {
        lead: lead.clone(),
        notes,
        seen: (None, Instant::now()),
        told: None,
        held: None,
        passed_over: None,
    };
    loop {
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            looked = approvals.look() => if let Err(error) = looked {
                tracing::warn!(%error, "cannot read or clear the approval; trying again");
            }
        }
    }
}

struct Approvals {
    lead: Arc<Leading>,
    notes: mpsc::Sender<Told>,
    /// The waiting set, and since when it has not changed.
    seen: (Option<Waiting>, Instant),
    told: Option<Waiting>,
    /// The last reported reason why deletions are held.
    held: Option<String>,
    /// A reported annotation that names another set.
    passed_over: Option<String>,
}

impl Approvals {
    async fn look(&mut self) -> Result<(), RecordError> {
        let lead = self.lead.clone();
        self.tell_held().await?;
        let waiting = lead.context.cluster.state().read(PinSet::waiting);
        let cids = waiting.map_or(0, |waiting| waiting.cids);
        lead.context.counters.unpins_waiting.set(i64::try_from(cids).unwrap_or(i64::MAX));
        if self.seen.0 != waiting {
            self.seen = (waiting, Instant::now());
        }
        let Some(waiting) = waiting else {
            if self.told.take().is_some() {
                tracing::info!("no deletion waits for approval any more");
            }
            return Ok(());
        };
        let approval = record::approval(&lead.context.client, &lead.context.settings).await?;
        if self.told != Some(waiting) && self.seen.1.elapsed() >= SETTLED {
            self.told = Some(waiting);
            let state = lead.context.cluster.state();
            if let Some(text) = state.read(|pins| message(pins, &lead.context.settings)) {
                tracing::warn!("{text}");
                self.tell(&approval, true, "UnpinsWaiting", text);
            }
        }
        self.decide(waiting, approval).await
    }

    /// Applies the approval if it names the waiting set.
    async fn decide(&mut self, waiting: Waiting, approval: Approval) -> Result<(), RecordError> {
        let Some(word) = approval.word.clone() else { return Ok(()) };
        if word.parse::<WaitingDigest>() != Ok(waiting.digest) {
            if self.passed_over.as_ref() != Some(&word) {
                let now = waiting.digest;
                let text = format!(
                    "nothing was unpinned: {ALLOW_UNPIN}={word:.20} does not match the CIDs that \
                     wait now, which have the digest {now}; check them again"
                );
                tracing::warn!("{text}");
                self.tell(&approval, true, "UnpinsNotAllowed", text);
                self.passed_over = Some(word);
            }
            return Ok(());
        }
        let (digest, term) = (waiting.digest, self.lead.term);
        let cluster = &self.lead.context.cluster;
        let outcomes = match cluster.submit(term, vec![Op::Allow { digest, term }]).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, "cannot propose the approval; trying again");
                return Ok(());
            }
        };
        if outcomes.first() == Some(&Outcome::Changed) {
            let text = format!("unpinning {} CIDs, as approved ({digest})", waiting.cids);
            tracing::info!("{text}");
            self.tell(&approval, false, "UnpinsAllowed", text);
            // If this fails, the annotation stays, but its digest never matches again.
            record::used(&self.lead.context.client, &self.lead.context.settings, approval).await?;
        }
        Ok(())
    }

    /// Reports deletions that are held because nothing proves them.
    async fn tell_held(&mut self) -> Result<(), RecordError> {
        let held = self.lead.context.held.get();
        if self.held == held {
            return Ok(());
        }
        if let Some(text) = &held {
            let context = &self.lead.context;
            let approval = record::approval(&context.client, &context.settings).await?;
            self.tell(&approval, true, "DeletionsHeld", text.clone());
        }
        self.held = held;
        Ok(())
    }

    fn tell(&self, approval: &Approval, warning: bool, reason: &'static str, text: String) {
        let note = Note { warning, reason, text };
        if self.notes.try_send((approval.record.clone(), note)).is_err() {
            self.lead.context.counters.events_left_out.inc();
        }
    }
}

#[cfg(test)]
mod tests;
