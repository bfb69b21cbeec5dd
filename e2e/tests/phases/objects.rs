//! h: what people write by mistake, through kubectl.

use anyhow::{Context as _, ensure};
use pinkeeper::types::Cid;
use pinkeeper_e2e::kubernetes::{ContentPin, condition, holders, reason};

use tokio::time::Instant;

use super::{SOON, Trial, WEB, took};

/// A CID that is one.
const GOOD: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
/// One that has the shape of a CID but is none: its last character says more bits than there are.
const SHAPED: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdz";

fn yaml(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: pinkeeper.dev/v1alpha1, kind: Pin, metadata: {{name: {name}, namespace: {WEB}}}, \
         spec: {{{spec}}}}}"
    )
}

/// Refused with a reason by the API server, or told in the status; every spelling of a CID works.
pub async fn bad_input(trial: &Trial) -> anyhow::Result<()> {
    let long = "a".repeat(10_000);
    let refused = [
        ("cid: hello world", "not a CID by its characters"),
        ("cid: bafybeigdyrzt", "not a CID by its length"),
        ("cid: /ipfs/bafybeigdyrzt", "without /ipfs/"),
        (&format!("cid: {GOOD}, replicas: 0"), "greater than or equal to 1"),
        (&format!("cid: {GOOD}, minReplicas: 0"), "greater than or equal to 1"),
        (&format!("cid: {GOOD}, replicas: 1, minReplicas: 2"), "must not be larger"),
        (&format!("cid: {GOOD}, deletionPolicy: {long}"), "deletionPolicy"),
        (&format!("cid: {long}"), "may not be more than 256"),
        (&format!("cid: {GOOD}, copies: 3"), "copies"),
        ("replicas: 2", "Required value"),
    ];
    for (spec, why) in refused {
        let shown = &spec[..spec.len().min(80)];
        match trial.cluster.apply(&yaml("refused", spec)).await {
            Ok(_) => anyhow::bail!("accepted: {shown}"),
            Err(error) => {
                let said = error.to_string();
                ensure!(said.contains(why), "{shown}: does not say {why:?}: {said:.400}");
            }
        }
    }
    spellings(trial).await?;

    trial.cluster.apply(&yaml("shaped", &format!("cid: {SHAPED}"))).await?;
    let stalled = |pin: &_| reason(pin) == "InvalidCID";
    let pin = trial.pin_that((WEB, "shaped"), SOON, "is InvalidCID", stalled).await?;
    for (kind, status) in [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")] {
        let condition = condition(&pin, kind).with_context(|| format!("no {kind}"))?;
        ensure!(condition.status == status && !condition.message.is_empty(), "{condition:?}");
    }
    let changed = trial.cluster.apply(&yaml("shaped", &format!("cid: {GOOD}"))).await;
    let said = changed.err().context("a changed cid was accepted")?.to_string();
    ensure!(said.contains("cid cannot be changed"), "{said}");
    Ok(())
}

/// CIDv0, CIDv1 in base32 and in base58 of one file.
async fn spellings(trial: &Trial) -> anyhow::Result<()> {
    let daemon = trial.release.daemon(&format!("{}-0", trial.release.fullname)).await?;
    let old: Cid = daemon.add(trial.fresh_bytes(5000), "pin=false&cid-version=0").await?;
    let text = old.to_string();
    ensure!(text.starts_with("Qm"), "{text}");
    let inner: cid::Cid = text.parse()?;
    let new = cid::Cid::new_v1(inner.codec(), *inner.hash());
    let base58 = new.to_string_of_base(multibase::Base::Base58Btc)?;
    for (name, cid) in [("v0", text), ("base32", new.to_string()), ("base58", base58)] {
        let tail = cid[cid.len() - 6..].to_lowercase();
        let name = format!("spelt-{name}-{tail}");
        trial.cluster.apply(&yaml(&name, &format!("cid: {cid}, replicas: 2"))).await?;
        let pin = trial.ready(WEB, &name, SOON).await?;
        ensure!(holders(&pin).len() == 2, "{:?}", pin.status);
        trial.held_exactly_by(&cid.parse()?, &holders(&pin)).await?;
    }
    Ok(())
}

/// Nine copies on three peers: as many as can be, and Ready if that is enough.
pub async fn more_copies_than_peers(trial: &Trial) -> anyhow::Result<()> {
    let (few, many) = (trial.fresh_cid(), trial.fresh_cid());
    for (name, cid, min) in [("enough", &few, Some(2)), ("too-many", &many, None)] {
        let name = format!("{name}-{cid}");
        let (cid, namespace) = (cid.to_string(), WEB);
        let wanted = ContentPin { namespace, name: &name, cid, replicas: 9, min_replicas: min };
        trial.cluster.create_pin(&wanted).await?;
    }
    let began = Instant::now();
    let enough = format!("enough-{few}");
    let on_all = |pin: &_| holders(pin).len() == 3 && reason(pin) == "Pinned";
    let pin = trial.pin_that((WEB, &enough), SOON, "is Ready with three copies", on_all).await?;
    took("Ready with three copies after", began);
    let status = pin.status.clone().unwrap_or_default();
    ensure!(status.copies.as_deref() == Some("3/9"), "{status:?}");
    let numbers = [status.replicas, status.ready_replicas, status.desired_replicas];
    ensure!(numbers == [Some(3), Some(3), Some(9)], "{status:?}");
    for kind in ["Reconciling", "FullyReplicated"] {
        let found = condition(&pin, kind).context("a condition is missing")?;
        ensure!(found.status == "False", "{found:?}");
    }
    trial.held_exactly_by(&few, &holders(&pin)).await?;

    let short = |pin: &_| holders(pin).len() == 3 && reason(pin) == "NotEnoughPeers";
    let name = format!("too-many-{many}");
    let pin =
        trial.pin_that((WEB, &name), SOON, "is NotEnoughPeers with three copies", short).await?;
    took("NotEnoughPeers with three copies after", began);
    let ready = condition(&pin, "Ready").context("no Ready")?;
    ensure!(ready.status == "False", "{ready:?}");
    ensure!(ready.message.contains('9') && ready.message.contains('3'), "{}", ready.message);
    trial.held_exactly_by(&many, &holders(&pin)).await
}
