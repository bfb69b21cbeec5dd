//! The final state of a world after the faults have ended, and that nothing is written then.

use std::{collections::BTreeSet, time::Duration};

use pinkeeper::{
    state::PinSet,
    types::{Cid, Owner, Uid},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    api::store::Kind,
    oracle::needed,
    pods::pod_name,
    users::{FOREIGN, Life, cid_of, pins, uid},
    world::{World, cid, reason},
};

/// Virtual time within which the world settles: a hanging connection is given up after 295 s.
const SETTLE_MAX: Duration = Duration::from_secs(480);
/// Virtual time after which a person does what the pods ask for.
const PERSON_AFTER: Duration = Duration::from_secs(20);
/// How long the world must stay settled, which allows for late writes (numbers of a ClusterPeer).
const CALM: Duration = Duration::from_secs(30);
/// Virtual time without a single write.
const QUIET: Duration = Duration::from_secs(60);

impl World {
    /// Waits until the world is settled, and then checks that no pod writes.
    ///
    /// # Errors
    /// What is not settled, or which pod writes.
    pub async fn settle(&mut self) -> Result<(), String> {
        let (until, person) = (Instant::now() + SETTLE_MAX, Instant::now() + PERSON_AFTER);
        loop {
            self.check().await?;
            if Instant::now() >= person {
                self.answer_the_pods();
            }
            match self.unsettled() {
                None => break,
                Some(what) if Instant::now() >= until => return Err(format!("in vain: {what}")),
                Some(_) => sleep(Duration::from_millis(500)).await,
            }
        }
        self.note("settled".into());
        sleep(CALM).await;
        let before = self.api.lock().writes;
        self.note("from now on nothing is to be written".into());
        sleep(QUIET).await;
        self.check().await?;
        let writes = self.api.lock().writes - before;
        if writes > 0 {
            return Err(format!("nothing changed, and {writes} writes were sent"));
        }
        self.unsettled().map_or(Ok(()), |what| Err(format!("no longer settled: {what}")))
    }

    /// What is not settled yet, if anything.
    fn unsettled(&self) -> Option<String> {
        let mut states: Vec<PinSet> = Vec::new();
        for pod in &self.pods {
            let Some(cluster) = pod.cluster() else {
                return Some(format!("pod-{} is away", pod.n));
            };
            let members = cluster.members();
            if members.len() != self.pods.len() || members.values().any(|member| !member.voter) {
                return Some(format!("pod-{} knows the members {members:?}", pod.n));
            }
            if cluster.is_joint() {
                return Some(format!("pod-{} knows of two sets of voters", pod.n));
            }
            states.push(cluster.state().read(PinSet::clone));
        }
        let state = &states[0];
        if states.iter().any(|other| other != state) {
            return Some("the replicas of the state differ".into());
        }
        if let Some(waiting) = state.waiting() {
            return Some(format!("unpins wait: {waiting:?}"));
        }
        let living = pins(&self.api);
        self.wrong_claims(state, &living)
            .or_else(|| self.wrong_retained(state))
            .or_else(|| self.wrong_holdings(state))
            .or_else(|| {
                living.iter().find_map(|(key, pin)| {
                    Some(format!("{key}: {}", self.wrong_status(state, pin)?))
                })
            })
            .or_else(|| self.wrong_peers())
    }

    /// Each living Pin has a claim, and there are no other claims.
    fn wrong_claims(
        &self,
        state: &PinSet,
        living: &[(crate::api::store::Key, Value)],
    ) -> Option<String> {
        let wanted: BTreeSet<(Uid, Cid)> =
            living.iter().filter_map(|(_, pin)| Some((Uid(uid(pin)), cid(pin)?))).collect();
        let claimed: BTreeSet<(Uid, Cid)> =
            state.objects().map(|(uid, cid)| (uid.clone(), cid)).collect();
        let missing = wanted.difference(&claimed).next();
        let over = claimed.difference(&wanted).next();
        missing
            .map(|(uid, cid)| format!("{uid:?} has no claim on {cid}"))
            .or_else(|| over.map(|(uid, cid)| format!("{uid:?} is gone and claims {cid}")))
    }

    /// Only content of a Pin with `Retain` is kept without an owner.
    fn wrong_retained(&self, state: &PinSet) -> Option<String> {
        let left = |cid: &Cid| {
            self.users
                .lives
                .values()
                .any(|life| life.dead && life.cid == Some(*cid) && life.policies.contains("Retain"))
        };
        let for_nobody = state
            .iter()
            .find(|(cid, pin)| pin.claims.contains(&Owner::Retained) && !left(cid))
            .map(|(cid, _)| format!("{cid} is retained for nobody"));
        for_nobody.or_else(|| self.lost_retained(state))
    }

    /// Content whose Pins all had `Retain` stays pinned, once one of them was Ready.
    fn lost_retained(&self, state: &PinSet) -> Option<String> {
        let lives = || self.users.lives.values();
        let retained = |life: &&Life| {
            let always = |other: &Life| other.policies.iter().all(|policy| policy == "Retain");
            life.was_ready && lives().filter(|other| other.cid == life.cid).all(always)
        };
        let cids = lives().filter(retained).filter_map(|life| life.cid);
        cids.filter(|cid| state.get(cid).is_none())
            .map(|cid| format!("{cid} was to be retained, and is not"))
            .next()
    }

    /// Daemons hold exactly their allocated pins and foreign content.
    fn wrong_holdings(&self, state: &PinSet) -> Option<String> {
        for (cid, pin) in state.iter() {
            let peers = self.pods.len();
            let wanted = pin.replication().wanted(peers).min(peers);
            if pin.holders().count() != wanted || pin.allocations.iter().any(|a| a.leaving) {
                return Some(format!("{cid} is on {:?}, wanted {wanted}", pin.allocations));
            }
        }
        self.pods.iter().find_map(|pod| {
            let mut wanted: BTreeSet<Cid> = FOREIGN.map(cid_of).collect();
            let ours = state.iter().filter(|(_, pin)| pin.is_on(pod.host.id));
            wanted.extend(ours.map(|(cid, _)| cid));
            // Strays: a peer pinned them on a new daemon before it noticed that the daemon was
            // replaced. Their owner is unknown, so they may stay.
            let (held, strays) = (pod.host.daemon.held(), pod.host.daemon.strays());
            let wrong = |cid: &Cid| wanted.contains(cid) || !strays.contains(cid);
            held.symmetric_difference(&wanted)
                .any(wrong)
                .then(|| format!("the daemon of pod-{} holds {held:?}, wanted {wanted:?}", pod.n))
        })
    }

    fn wrong_status(&self, state: &PinSet, pin: &Value) -> Option<String> {
        let Some((ready, reason)) = reason(pin) else {
            return Some(format!("nothing is said of the spec: {}", pin["status"]));
        };
        let wanted = match cid(pin) {
            None => (false, "InvalidCID"),
            Some(_) if needed(&pin["spec"]) > self.pods.len() as u64 => (false, "NotEnoughPeers"),
            Some(_) => (true, "Pinned"),
        };
        if (ready, reason.as_str()) != wanted {
            return Some(format!("{reason} (Ready {ready}), not {wanted:?}"));
        }
        let allocated: BTreeSet<String> = self
            .pods
            .iter()
            .filter(|pod| {
                cid(pin).is_some_and(|cid| state.get(&cid).is_some_and(|p| p.is_on(pod.host.id)))
            })
            .map(|pod| pod_name(pod.n))
            .collect();
        let copies = pin["status"]["allocations"].as_array().cloned().unwrap_or_default();
        let told: BTreeSet<String> = copies
            .iter()
            .filter(|copy| copy["state"] == "Pinned")
            .map(|copy| copy["peer"].as_str().unwrap_or_default().to_owned())
            .collect();
        (told != allocated || copies.len() != told.len())
            .then(|| format!("{copies:?} is told, it is on {allocated:?}"))
    }

    /// Each pod has a ClusterPeer that is Ready and correct.
    fn wrong_peers(&self) -> Option<String> {
        let server = self.api.lock();
        let mut peers =
            server.home().objects().iter().filter(|(key, _)| key.kind == Kind::ClusterPeer);
        let count = peers.clone().count();
        if count != self.pods.len() {
            return Some(format!("{count} ClusterPeers"));
        }
        peers.find_map(|(key, peer)| {
            let pod = self.pods.iter().find(|pod| pod_name(pod.n) == key.name)?;
            let leads = pod.cluster()?.leadership().borrow().local;
            let status = &peer["status"];
            let right = status["conditions"][0]["status"] == "True"
                && status["role"] == if leads { "Leader" } else { "Voter" }
                && status["peerID"] == pod.host.id.to_string().as_str()
                && status["clusterID"] == pod.cluster()?.cluster_id()?.to_string().as_str();
            (!right).then(|| format!("{key} says {status}"))
        })
    }
}
