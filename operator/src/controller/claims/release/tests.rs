#![allow(clippy::unwrap_used)]
use futures::FutureExt as _;
use pinkeeper::{
    state::{Fence, Found},
    types::{LogPosition, Timestamp},
};

use super::*;
use crate::{
    controller::{
        objects::tests::pin,
        stand::{DEFINITION, GENERATION, RECORD, Stand, cid, watched},
    },
    kubernetes::answers::{absent, error, going, there},
};

fn gone_with(content: &str, fence: Fence) -> Op {
    let (ruling, at) = (Ruling::Take(Found::Watched), Timestamp(0));
    Op::Gone { cid: cid(content), uid: Uid(content.into()), ruling, at, fence }
}

#[test]
fn what_lives_again_is_not_dead() {
    let mut objects = Objects::default();
    objects.upsert(pin("docs", "listed", 1, "no CID"));
    let alive = BTreeSet::from([Uid("answered".into())]);
    for (uid, expected) in [("listed", false), ("answered", false), ("dead", true)] {
        assert_eq!(is_dead(&Uid(uid.into()), &alive, &objects), expected, "{uid}");
    }
}

#[test]
fn what_lives_again_keeps_its_claim() {
    Stand::test(async |stand| {
        for uid in ["listed", "answered", "dead"] {
            stand.claim(uid).await;
        }
        stand.lead.objects_mut().upsert(pin("listed", "listed", 1, "no CID"));
        stand.api.set("answered", [there("answered")]);
        let old = |uid| Deletion { is_old: true, ..watched(uid) };
        assert!(release(&stand.lead, &["listed", "answered", "dead"].map(old)).await);
        assert!(stand.is_claimed("listed") && stand.is_claimed("answered"));
        assert!(!stand.is_claimed("dead"));
    });
}

#[test]
fn what_was_said_last_is_noted_before_the_claim_goes() {
    Stand::test(async |stand| {
        stand.claim("kept").await;
        stand.claim("let-go").await;
        let kept = Deletion { retain: Some(true), ..watched("kept") };
        assert!(release(&stand.lead, &[kept, watched("let-go")]).await);
        assert!(!stand.is_claimed("kept") && !stand.is_claimed("let-go"));
        let (kept, let_go) = (cid("kept"), cid("let-go"));
        let owners = |pins: &PinSet| {
            pins.get(&kept).unwrap().claims.owners().cloned().collect::<Vec<Owner>>()
        };
        assert_eq!(stand.read(owners), [Owner::Retained]);
        assert!(stand.read(|pins| pins.get(&let_go).is_none()));
    });
}

#[test]
fn what_is_not_proven_keeps_its_claim() {
    // Which object has which answer; whether it is tried again, or left to the comparison.
    let cases = [
        ("docs", error(403), true),
        (RECORD, error(500), true),
        (RECORD, absent(RECORD), true),
        (DEFINITION, error(404), true),
        (DEFINITION, absent(DEFINITION), false),
        (DEFINITION, going(DEFINITION), false),
        (DEFINITION, there("anew"), false),
    ];
    for (name, answer, again) in cases {
        Stand::test(async |stand| {
            stand.claim("docs").await;
            anchors::check(&stand.lead).await.unwrap();
            let case = format!("{name}: {answer:?}");
            stand.api.set(name, [answer]);
            let docs = Deletion { is_old: true, ..watched("docs") };
            assert_eq!(release(&stand.lead, &[docs]).await, !again, "{case}");
            assert!(stand.is_claimed("docs"), "{case}");
            let compared = stand.lead.listed.notified().now_or_never().is_some();
            assert_eq!(compared, !again, "{case}");
        });
    }
}

#[test]
fn many_go_in_several_entries() {
    Stand::test(async |stand| {
        let many: Vec<String> = (0..BATCH_LEN_MAX + 1).map(|n| n.to_string()).collect();
        let object = |uid: &String| Owner::Object(Uid(uid.clone()));
        let claims = many.iter().map(|uid| stand.claim_of(uid, object(uid), false)).collect();
        assert!(submit(&stand.lead, claims).await);
        assert_eq!(stand.read(PinSet::len), many.len());
        let deletions: Vec<Deletion> = many.iter().map(|uid| watched(uid)).collect();
        assert!(release(&stand.lead, &deletions).await);
        let waiting = stand.read(PinSet::waiting).unwrap();
        assert_eq!(waiting.cids, many.len() as u64, "so many at once wait for a person");
    });
}

#[test]
fn what_another_term_refuses_is_tried_again() {
    Stand::test(async |stand| {
        stand.claim("docs").await;
        let term = stand.lead.term;
        let fence = |term, generation| Fence { term, generation };
        assert!(!submit(&stand.lead, vec![gone_with("docs", fence(term + 1, GENERATION))]).await);
        // A stale op is not tried again.
        assert!(submit(&stand.lead, vec![gone_with("docs", fence(term, GENERATION - 1))]).await);
        assert!(!release(&stand.of_another_term(), &[watched("docs")]).await);
        assert!(stand.is_claimed("docs"));
        assert!(release(&stand.lead, &[watched("docs")]).await);
        assert!(!stand.is_claimed("docs"));
    });
}

#[test]
fn where_a_claim_went_refused_ones_have_their_turn() {
    Stand::test(async |stand| {
        stand.claim("docs").await;
        for uid in ["refused", "another"] {
            let object = pin(uid, uid, 1, &cid("docs").to_string());
            stand.lead.objects_mut().upsert(object);
        }
        let refused = Some((1, Refused::TooManyClaims));
        stand.lead.refused(&Uid("refused".into()), refused);
        // If nothing changes, nothing is claimed again.
        let term = stand.lead.term;
        let older = Fence { term, generation: GENERATION - 1 };
        assert!(submit(&stand.lead, vec![gone_with("docs", older)]).await);
        assert!(stand.lead.claims.is_empty());
        assert!(release(&stand.lead, &[watched("docs")]).await);
        let key = |name| pin(name, "", 1, "").key;
        assert_eq!(stand.lead.claims.pop(true), Some((Priority::Fresh, key("refused"))));
        assert!(stand.lead.claims.is_empty());
    });
}

#[test]
fn what_had_to_wait_is_asked_for_by_its_name_when_it_was_claimed() {
    let mut pins = PinSet::default();
    Stand::test(async |stand| {
        let owner = Owner::Object(Uid("uid".into()));
        let position = LogPosition { term: stand.lead.term, index: 0 };
        pins.apply(position, &stand.claim_of("docs", owner, false));
    });
    let of = [watched("uid"), watched("unclaimed")];
    let key = pin("docs", "uid", 1, "").key;
    assert_eq!(missing_of(&pins, of.iter()), [Missing { uid: Uid("uid".into()), key }]);
}
