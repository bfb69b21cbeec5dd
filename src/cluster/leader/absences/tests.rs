#![allow(clippy::unwrap_used)]

use super::*;

const POLICY: MovePolicy =
    MovePolicy { after: Duration::from_secs(300), zone_after: Duration::from_secs(3600) };

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn peers(peers: &[u8]) -> BTreeSet<PeerId> {
    peers.iter().map(|n| peer(*n)).collect()
}

fn away(seconds: u32, absences: u8, back_seconds: u32) -> Away {
    Away { seconds, absences, back_seconds, zone: None }
}

#[test]
fn the_time_of_an_absence_adds_up_and_is_forgotten_after_an_hour() {
    // What is known, whether it is here and for how many seconds; what is noted.
    type Row = (Option<Away>, bool, u64, Option<Option<Away>>);
    let table: Vec<Row> = vec![
        (None, true, 9_999, None),
        (None, false, 29, None),
        (None, false, 30, Some(Some(away(30, 1, 0)))),
        (Some(away(30, 1, 0)), false, 31, Some(Some(away(61, 1, 0)))),
        // Another leader goes on with it.
        (Some(away(290, 1, 0)), false, 30, Some(Some(away(320, 1, 0)))),
        // Beyond the longest grace it is noted rarely.
        (Some(away(3_599, 1, 0)), false, 30, Some(Some(away(3_629, 1, 0)))),
        (Some(away(3_600, 1, 0)), false, 599, None),
        (Some(away(3_600, 1, 0)), false, 600, Some(Some(away(4_200, 1, 0)))),
        (Some(away(61, 1, 0)), true, 0, Some(Some(away(0, 1, 0)))),
        (Some(away(0, 1, 0)), true, 599, None),
        (Some(away(0, 1, 0)), true, 600, Some(Some(away(0, 1, 600)))),
        (Some(away(0, 1, 2_999)), true, 600, Some(Some(away(0, 1, 3_599)))),
        (Some(away(0, 1, 3_000)), true, 600, Some(None)),
        // Away again before that.
        (Some(away(0, 1, 3_000)), false, 30, Some(Some(away(30, 2, 0)))),
        (Some(away(0, u8::MAX, 0)), false, 30, Some(Some(away(30, u8::MAX, 0)))),
    ];
    for (known, here, seconds, noted) in table {
        let found = next(known.as_ref(), here, Duration::from_secs(seconds), None, POLICY);
        assert_eq!(found, noted, "{known:?} {here} {seconds}");
    }
}

#[test]
fn a_short_grace_is_counted_in_short_steps() {
    let policy = MovePolicy { after: Duration::from_secs(5), ..POLICY };
    let noted = |millis| next(None, false, Duration::from_millis(millis), None, policy);
    assert_eq!(noted(999), None);
    assert_eq!(noted(1_999), Some(Some(away(1, 1, 0))), "whole seconds, rounded down");
}

#[test]
fn the_zone_is_kept_when_its_peer_is_not_heard_any_more() {
    let time = Duration::from_secs(30);
    let zone = |known: Option<&Away>, zone: Option<&str>| {
        next(known, false, time, zone.map(str::to_owned).as_ref(), POLICY).unwrap().unwrap().zone
    };
    assert_eq!(zone(None, Some("a")), Some("a".to_owned()));
    let known = Away { zone: Some("a".to_owned()), ..away(30, 1, 0) };
    assert_eq!(zone(Some(&known), None), Some("a".to_owned()));
    assert_eq!(zone(Some(&known), Some("b")), Some("b".to_owned()));
}

#[test]
fn each_absence_doubles_the_grace_up_to_an_hour() {
    let grace = |absences| POLICY.grace(absences).as_secs();
    let graces: Vec<u64> = (0..7).map(grace).collect();
    assert_eq!(graces, [300, 300, 600, 1_200, 2_400, 3_600, 3_600]);
    assert_eq!(grace(u8::MAX), 3_600);
    let long = MovePolicy { after: Duration::from_secs(7_200), ..POLICY };
    assert_eq!(long.grace(3).as_secs(), 7_200);
    assert_eq!((long.longest().as_secs(), POLICY.longest().as_secs()), (7_200, 3_600));
}

/// Members 1 to `count`; these are away for that time, after so many absences; these peers have that zone.
fn attendance(count: u8, absent: &[(u8, u32, u8)], zones: &[(u8, &str)]) -> Gone {
    let members: BTreeSet<PeerId> = (1..=count).map(peer).collect();
    let known: BTreeMap<PeerId, Away> = absent
        .iter()
        .map(|(n, seconds, absences)| (peer(*n), away(*seconds, *absences, 0)))
        .collect();
    let is_absent = |peer: &&PeerId| known.get(*peer).is_some_and(|away| away.seconds > 0);
    let here = members.iter().filter(|peer| !is_absent(peer)).copied().collect();
    let zones = zones.iter().map(|(n, zone)| (peer(*n), (*zone).to_owned())).collect();
    gone(&Attendance { members, here, zones }, &known, POLICY)
}

#[test]
fn copies_move_after_the_grace_and_never_while_half_are_away() {
    let gone = |peers_gone: &[u8]| Gone { peers: peers(peers_gone), paused: false };
    let paused = || Gone { peers: BTreeSet::new(), paused: true };
    type Row<'a> = (u8, &'a [(u8, u32, u8)], Gone);
    let table: Vec<Row<'_>> = vec![
        (3, &[], gone(&[])),
        (0, &[], gone(&[])),
        (3, &[(1, 299, 1)], gone(&[])),
        (3, &[(1, 300, 1)], gone(&[1])),
        (3, &[(1, 599, 2)], gone(&[])),
        (3, &[(1, 600, 2)], gone(&[1])),
        (3, &[(1, 300, 1), (2, 30, 1)], paused()),
        (4, &[(1, 300, 1), (2, 30, 1)], paused()),
        (5, &[(1, 300, 1), (2, 30, 1)], gone(&[1])),
        (5, &[(1, 300, 1), (2, 400, 1)], gone(&[1, 2])),
        (2, &[(1, 9_999, 1)], paused()),
        (1, &[(1, 9_999, 1)], paused()),
        // It was away lately, and no member any more.
        (3, &[(1, 0, 4)], gone(&[])),
        (3, &[(9, 9_999, 1)], gone(&[])),
    ];
    for (count, absent, expected) in table {
        assert_eq!(attendance(count, absent, &[]), expected, "{count} {absent:?}");
    }
}

#[test]
fn copies_of_a_zone_that_is_away_as_a_whole_move_later() {
    let zones: &[(u8, &str)] = &[(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")];
    // Those that are away, of five; those that are gone.
    type Row<'a> = (&'a [(u8, u32, u8)], &'a [u8]);
    let table: &[Row<'_>] = &[
        (&[(1, 300, 1), (2, 300, 1)], &[]),
        (&[(1, 3_599, 1), (2, 3_600, 1)], &[2]),
        (&[(1, 300, 1), (3, 300, 1)], &[1, 3]),
        // The only peer of its zone.
        (&[(5, 300, 1)], &[5]),
    ];
    for (absent, expected) in table {
        let found = attendance(5, absent, zones);
        assert_eq!(found, Gone { peers: peers(expected), paused: false }, "{absent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_begins_anew_when_a_member_comes_or_goes() {
    let mut seen = BTreeMap::new();
    let at = |here: &[u8]| Attendance {
        members: peers(&[1, 2]),
        here: peers(here),
        zones: BTreeMap::new(),
    };
    let began = Instant::now();
    let later = |seconds| began + Duration::from_secs(seconds);
    see(&mut seen, &at(&[1]), began);
    see(&mut seen, &at(&[1]), later(1));
    assert_eq!((seen[&peer(1)].here, seen[&peer(1)].since), (true, began));
    assert_eq!((seen[&peer(2)].here, seen[&peer(2)].since), (false, began));
    see(&mut seen, &at(&[2]), later(2));
    assert_eq!((seen[&peer(1)].here, seen[&peer(1)].since), (false, later(2)));
    assert_eq!((seen[&peer(2)].here, seen[&peer(2)].since), (true, later(2)));
    let none = Attendance::default();
    see(&mut seen, &none, later(3));
    assert!(seen.is_empty(), "they are no members any more");
}
