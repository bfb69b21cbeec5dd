//! Starts everything that may start now, and computes when to look again.

use std::time::Duration;

use super::Machine;

impl Machine {
    pub(super) fn pump(&mut self) {
        self.run_timers();
        self.show_absence();
        self.start_probe();
        if self.watch.is_up() {
            self.stop_stalled();
            self.start_list();
            self.advance_gc();
            if !self.collection.is_under_way() {
                self.start_pins();
            }
            self.start_asks();
            if !self.collection.is_under_way() {
                self.start_unpins();
                self.start_confirm();
            }
        }
        self.start_write();
    }

    /// When to send a [`super::Event::Tick`] if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let up = self.watch.is_up();
        let [probe, absence] = self.watch.deadlines(&self.config);
        [
            probe,
            absence,
            self.listing.deadline().filter(|_| up),
            self.unpins.deadline().filter(|_| up),
            self.pins.deadline(),
            self.collection.deadline(),
            self.writer.deadline(),
            self.timers.deadline(),
        ]
        .into_iter()
        .flatten()
        // Something that is due and did not happen does not wait for time.
        .filter(|at| *at > self.now.at)
        .min()
        // Nothing to wait for: a probe is under way, and its answer is an event.
        .unwrap_or(self.now.at + self.config.probe_period)
    }
}
