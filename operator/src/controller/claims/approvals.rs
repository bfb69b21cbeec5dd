//! What waits for a person: told, and let go when a person allows it.
//!
//! The approval is an annotation of the record with the digest of what waits. It is applied in the
//! log, where it is compared with the set once more, and only then taken off the record: a crash in
//! between loses nothing. It is good once, because the digest also counts approvals.

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

/// How often it is looked at; the record is read only while something waits.
const EVERY: Duration = Duration::from_secs(2);
/// What waits is told when it has not changed for so long: a mass deletion takes its time.
const SETTLED: Duration = Duration::from_secs(4);
/// Pins that are named as examples.
const EXAMPLES: usize = 3;

/// What people are told while something waits; the same for the same state, on every peer.
#[must_use]
pub fn message(pins: &PinSet, settings: &Settings) -> Option<String> {
    let Waiting { cids, digest } = pins.waiting()?;
    let (namespace, record) = (&settings.namespace, settings.record());
    Some(format!(
        "{cids} CIDs lost their last Pin, too many within an hour, and stay pinned until a person \
         decides. To unpin them: kubectl annotate configmap -n {namespace} {record} --overwrite \
         {ALLOW_UNPIN}={digest} (good once, for exactly these). To keep them, create Pins of them \
         again. Among them: {}",
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
                tracing::warn!(%error, "whether unpins are allowed is not known");
            }
        }
    }
}

struct Approvals {
    lead: Arc<Leading>,
    notes: mpsc::Sender<Told>,
    /// What waits, and since when it is that.
    seen: (Option<Waiting>, Instant),
    told: Option<Waiting>,
    /// Why deletions are held, as it was told last.
    held: Option<String>,
    /// An annotation that names something else, and has been told of.
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
                tracing::info!("no unpin waits for a person any more");
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

    /// Takes a person's word.
    async fn decide(&mut self, waiting: Waiting, approval: Approval) -> Result<(), RecordError> {
        let Some(word) = approval.word.clone() else { return Ok(()) };
        if word.parse::<WaitingDigest>() != Ok(waiting.digest) {
            if self.passed_over.as_ref() != Some(&word) {
                let now = waiting.digest;
                let text = format!(
                    "{ALLOW_UNPIN}={word:.20} does not name what waits now, which is {now}: nothing \
                     was unpinned; look at it again"
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
                tracing::warn!(%error, "the cluster did not take an approval; trying again");
                return Ok(());
            }
        };
        if outcomes.first() == Some(&Outcome::Changed) {
            let text = format!("{} CIDs are unpinned, as allowed ({digest})", waiting.cids);
            tracing::info!("{text}");
            self.tell(&approval, false, "UnpinsAllowed", text);
            // Should this fail: it names nothing that could wait again.
            record::used(&self.lead.context.client, &self.lead.context.settings, approval).await?;
        }
        Ok(())
    }

    /// Deletions that are held because nothing can be proven of them any more.
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
