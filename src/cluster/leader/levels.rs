//! The leader raises the cluster's level when the programs of all members know a higher one.
//!
//! Every member counts, also one that is away: each must have reported its level in this term. A report
//! of a lower level restarts the wait.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::Leader;
use crate::{
    cluster::{Cluster, FatalError},
    state::{Op, Outcome},
    types::{PeerId, Program, Refusal},
};

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(500);

/// The levels that members reported in one term.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Levels(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    levels: BTreeMap<PeerId, u32>,
    /// The highest level that all members know, and since when.
    since: Option<(u32, Instant)>,
}

impl Levels {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock()
    }

    pub(in crate::cluster) fn note(&self, peer: PeerId, level: u32) {
        self.heard().levels.insert(peer, level);
    }
}

impl Heard {
    /// The level to raise the cluster to, if it is time for that. `program` is the leader's program.
    fn due(
        &mut self,
        members: impl IntoIterator<Item = PeerId>,
        current: u32,
        program: Program,
        now: Instant,
    ) -> Option<u32> {
        let level_of = |peer: PeerId| self.levels.get(&peer).copied().unwrap_or_default();
        let common = members.into_iter().map(level_of).min().unwrap_or_default();
        let common = common.min(program.level);
        if common <= current {
            self.since = None;
            return None;
        }
        let since = match self.since {
            Some((level, at)) if level == common => at,
            _ => now,
        };
        self.since = Some((common, since));
        (now - since >= program.raise_after).then_some(common)
    }
}

impl Cluster {
    /// On the leader: checks that a program of this level knows all ops of the cluster.
    pub(in crate::cluster) fn check_program(&self, level: u32) -> Result<(), Refusal> {
        let program = Program { level, ..self.program() };
        let cluster = self.state().read(|pins| pins.level());
        Ok(program.check(cluster)?)
    }

    /// Proposes an op of the next level, for tests of upgrades.
    #[cfg(feature = "next-level")]
    async fn use_next_level(&self, current: u32, term: u64) {
        if current >= Op::Next.level() {
            // After an error, the next turn or the next leader proposes it again.
            let _ = self.submit(term, vec![Op::Next]).await;
        }
    }

    pub(super) async fn raise_level(
        self,
        leader: Arc<Leader>,
        term: u64,
    ) -> Result<(), FatalError> {
        loop {
            sleep(LOOK).await;
            let current = self.state().read(|pins| pins.level());
            #[cfg(feature = "next-level")]
            self.use_next_level(current, term).await;
            let members = self.members().into_keys();
            let due = leader.levels.heard().due(members, current, self.program(), Instant::now());
            if let Some(level) = due {
                match self.submit(term, vec![Op::Raise { level, term }]).await {
                    Ok(outcomes) if outcomes == [Outcome::Changed] => {
                        tracing::info!(level, "cluster level raised: no downgrade from here");
                    }
                    Ok(outcomes) => tracing::debug!(level, ?outcomes, "cluster level not raised"),
                    Err(error) => tracing::debug!(level, %error, "cluster level not raised"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(600);

    fn peers(count: u8) -> impl Iterator<Item = PeerId> {
        (0..count).map(|n| PeerId([n; 32]))
    }

    #[test]
    fn a_level_is_raised_when_all_members_have_known_it_for_long() {
        let start = Instant::now();
        let program = Program { level: 3, raise_after: WAIT };
        // Reported levels by peer, time of the check, expected level to raise to.
        let second = Duration::from_secs(1);
        type Reported = &'static [(u8, u32)];
        let steps: [(Reported, Duration, Option<u32>); 9] = [
            (&[(0, 3), (1, 3)], Duration::ZERO, None),
            // Peer 2 has not reported yet. No wait replaces its report.
            (&[], 3 * WAIT, None),
            (&[(2, 2)], 3 * WAIT + second, None),
            (&[], 4 * WAIT, None),
            (&[], 4 * WAIT + second, Some(2)),
            // Peer 1 was downgraded, so the wait starts again.
            (&[(1, 1)], 4 * WAIT + 2 * second, None),
            (&[(1, 3), (2, 3)], 5 * WAIT, None),
            (&[], 6 * WAIT - second, None),
            (&[], 6 * WAIT, Some(3)),
        ];
        let mut heard = Heard::default();
        for (reported, after, expected) in steps {
            heard.levels.extend(reported.iter().map(|(n, level)| (PeerId([*n; 32]), *level)));
            assert_eq!(heard.due(peers(3), 1, program, start + after), expected, "{after:?}");
        }
        assert_eq!(
            heard.due(peers(3), 3, program, start + 9 * WAIT),
            None,
            "the level is raised already"
        );
        assert_eq!(
            heard.due(peers(4), 1, program, start + 20 * WAIT),
            None,
            "a new member has not reported"
        );
    }

    #[test]
    fn a_leader_raises_only_to_levels_that_it_knows() {
        let mut heard = Heard { levels: peers(2).map(|peer| (peer, 9)).collect(), since: None };
        let start = Instant::now();
        for (level, expected) in [(1, None), (2, Some(2))] {
            let program = Program { level, raise_after: WAIT };
            assert_eq!(heard.due(peers(2), 1, program, start), None);
            assert_eq!(heard.due(peers(2), 1, program, start + WAIT), expected);
        }
    }
}
