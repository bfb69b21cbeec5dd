#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn peers(peers: &[u8]) -> BTreeSet<PeerId> {
    peers.iter().map(|n| peer(*n)).collect()
}

const LIVE: u64 = 0;
/// Neither live nor dead.
const SILENT: u64 = 30;
const DEAD: u64 = 60;

fn seat(n: u8, votes: bool, silent: u64) -> (PeerId, Seat) {
    let seat = Seat {
        name: format!("pod-{n}"),
        zone: None,
        votes,
        silent: Duration::from_secs(silent),
        caught_up: true,
        departs: false,
        removed: false,
    };
    (peer(n), seat)
}

/// Voters and learners with the time since each was heard.
fn seated(voters: &[(u8, u64)], learners: &[(u8, u64)]) -> Seats {
    let voters = voters.iter().map(|(n, silent)| seat(*n, true, *silent));
    voters.chain(learners.iter().map(|(n, silent)| seat(*n, false, *silent))).collect()
}

fn voters_after(seats: &Seats) -> Option<BTreeSet<PeerId>> {
    match next_membership(peer(1), seats, None)? {
        Change::Voters(voters) => Some(voters),
        Change::Remove(_) => None,
    }
}

#[test]
fn voters_grow_in_odd_numbers_up_to_five_and_shrink_to_odd_ones() {
    let table = [
        (1, 0, None),
        (1, 1, None),
        (1, 2, Some(3)),
        (1, 4, Some(5)),
        (1, 9, Some(5)),
        (3, 1, None),
        (3, 2, Some(5)),
        (5, 3, None),
        (2, 0, Some(1)),
        (2, 1, Some(3)),
        (4, 0, Some(3)),
        (4, 1, Some(5)),
    ];
    for (voters, learners, expected) in table {
        let votes = (0..voters).map(|n| (n, LIVE)).collect::<Vec<_>>();
        let follow = (voters..voters + learners).map(|n| (n, LIVE)).collect::<Vec<_>>();
        let next = voters_after(&seated(&votes, &follow));
        let case = format!("{voters} voters, {learners} learners");
        assert_eq!(next.as_ref().map(BTreeSet::len), expected, "{case}");
        if let Some(next) = next {
            let dropped = (0..voters).filter(|n| !next.contains(&peer(*n))).count();
            assert_eq!(dropped, usize::from(voters).saturating_sub(next.len()), "{case}");
            assert!(voters == 0 || next.contains(&peer(1)) || voters == 1, "{case}: the leader");
        }
    }
}

#[test]
fn only_live_learners_that_have_caught_up_become_voters() {
    let mut seats = seated(&[(1, LIVE)], &[(2, LIVE), (3, LIVE)]);
    assert_eq!(voters_after(&seats), Some(peers(&[1, 2, 3])));
    seats.get_mut(&peer(3)).unwrap().caught_up = false;
    assert_eq!(voters_after(&seats), None);
    let silent = LIVE_TIME.as_secs();
    assert_eq!(voters_after(&seated(&[(1, LIVE)], &[(2, LIVE), (3, silent)])), None);
}

#[test]
fn a_dead_voter_is_replaced_by_a_learner_and_stays_without_one() {
    // Voters and learners with the time since each was heard; the voters then.
    type Row<'a> = (&'a [(u8, u64)], &'a [(u8, u64)], Option<&'a [u8]>);
    let table: &[Row<'_>] = &[
        (&[(1, LIVE), (2, LIVE), (3, DEAD)], &[(4, LIVE)], Some(&[1, 2, 4])),
        (&[(1, LIVE), (2, LIVE), (3, DEAD)], &[], None),
        (&[(1, LIVE), (2, LIVE), (3, DEAD)], &[(4, SILENT)], None),
        (&[(1, LIVE), (2, LIVE), (3, DEAD - 1)], &[(4, LIVE)], None),
        // One replaces the dead one, the others make five.
        (
            &[(1, LIVE), (2, LIVE), (3, DEAD)],
            &[(4, LIVE), (5, LIVE), (6, LIVE)],
            Some(&[1, 2, 4, 5, 6]),
        ),
        (
            &[(1, LIVE), (2, LIVE), (3, DEAD), (4, DEAD), (5, LIVE)],
            &[(6, LIVE)],
            Some(&[1, 2, 4, 5, 6]),
        ),
        // Without a live majority nothing changes.
        (&[(1, LIVE), (2, DEAD), (3, DEAD)], &[(4, LIVE), (5, LIVE)], None),
        (&[(1, LIVE), (2, SILENT), (3, DEAD)], &[(4, LIVE)], None),
    ];
    for (voters, learners, expected) in table {
        let found = voters_after(&seated(voters, learners));
        assert_eq!(found, expected.map(peers), "{voters:?}, {learners:?}");
    }
}

#[test]
fn a_silent_member_is_succeeded_by_a_live_one_of_its_name() {
    let succeeded = SUCCEEDED_TIME.as_secs();
    let named = |silent: u64, live: u64, name: &str| {
        let mut seats = seated(&[(1, LIVE), (2, LIVE), (3, silent)], &[(13, live)]);
        seats.get_mut(&peer(13)).unwrap().name = name.to_owned();
        seats
    };
    let seats = named(succeeded, LIVE, "pod-3");
    assert_eq!(successors(&seats), [(peer(3), peer(13))].into());
    assert_eq!(voters_after(&seats), Some(peers(&[1, 2, 13])), "long before it counts as dead");
    for seats in [
        named(succeeded - 1, LIVE, "pod-3"),
        named(succeeded, LIVE_TIME.as_secs(), "pod-3"),
        named(succeeded, LIVE, "pod-4"),
        named(succeeded, LIVE, ""),
    ] {
        assert!(successors(&seats).is_empty(), "{seats:?}");
        assert_eq!(voters_after(&seats), None, "{seats:?}");
    }
    let mut removed = named(succeeded, LIVE, "pod-3");
    removed.get_mut(&peer(13)).unwrap().removed = true;
    assert!(successors(&removed).is_empty());
    let mut nameless = named(succeeded, LIVE, "");
    nameless.get_mut(&peer(3)).unwrap().name = String::new();
    assert!(successors(&nameless).is_empty());
}

#[test]
fn a_successor_takes_the_seat_of_its_own_predecessor() {
    let succeeded = SUCCEEDED_TIME.as_secs();
    let named = |voters: &[(u8, u64)], learners: &[(u8, u64)]| {
        let mut seats = seated(voters, learners);
        seats.get_mut(&peer(13)).unwrap().name = "pod-3".to_owned();
        seats
    };
    let five = [(1, LIVE), (2, DEAD), (3, succeeded), (4, LIVE), (5, LIVE)];
    let seats = named(&five, &[(13, LIVE)]);
    assert_eq!(voters_after(&seats), Some(peers(&[1, 2, 4, 5, 13])), "and not that of peer 2");
    // It has got another seat already: the lost one goes without a replacement.
    let seats = named(&[(1, LIVE), (3, succeeded), (4, LIVE), (5, LIVE), (13, LIVE)], &[]);
    assert_eq!(voters_after(&seats), Some(peers(&[1, 4, 5])), "four are no better than three");
}

#[test]
fn a_name_is_taken_until_its_peer_can_be_succeeded() {
    let succeeded = SUCCEEDED_TIME.as_secs();
    let seats = seated(&[(1, LIVE), (2, succeeded - 1), (3, succeeded)], &[]);
    let taken = |of, name: &str| live_namesake(&seats, peer(of), name);
    assert_eq!(taken(9, "pod-1"), Some(peer(1)));
    assert_eq!(taken(9, "pod-2"), Some(peer(2)));
    assert_eq!(taken(9, "pod-3"), None, "its successor may join");
    assert_eq!(taken(1, "pod-1"), None, "its own");
    assert_eq!(taken(9, "pod-4"), None);
    let mut removed = seats.clone();
    removed.get_mut(&peer(1)).unwrap().removed = true;
    assert_eq!(live_namesake(&removed, peer(9), "pod-1"), None);
}

#[test]
fn voters_spread_over_zones() {
    let zoned = |zones: &[(u8, &str)], mut seats: Seats| {
        for (n, zone) in zones {
            seats.get_mut(&peer(*n)).unwrap().zone = Some((*zone).to_owned());
        }
        voters_after(&seats)
    };
    let seats = seated(&[(1, LIVE), (2, LIVE), (3, DEAD)], &[(4, LIVE), (5, LIVE)]);
    let zones = |last| [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, last)];
    let seats = |silent| {
        let mut seats = seats.clone();
        seats.get_mut(&peer(4)).unwrap().silent = Duration::from_secs(silent);
        seats
    };
    assert_eq!(zoned(&zones("c"), seats(LIVE)), Some(peers(&[1, 2, 5])));
    assert_eq!(zoned(&zones("a"), seats(LIVE)), Some(peers(&[1, 2, 4])), "both are as good");
    assert_eq!(zoned(&zones("a"), seats(SILENT)), Some(peers(&[1, 2, 5])));
}

#[test]
fn a_departing_voter_loses_its_vote_with_or_without_a_replacement() {
    // Voters, learners, departing ones; the voters then. Peer 1 leads.
    type Row<'a> = (&'a [(u8, u64)], &'a [(u8, u64)], &'a [u8], Option<&'a [u8]>);
    let table: &[Row<'_>] = &[
        (&[(1, LIVE), (2, LIVE), (3, LIVE)], &[(4, LIVE)], &[3], Some(&[1, 2, 4])),
        // Of two voters each one would be needed.
        (&[(1, LIVE), (2, LIVE), (3, LIVE)], &[], &[3], Some(&[1])),
        (&[(0, LIVE), (1, LIVE), (2, LIVE), (3, LIVE), (4, LIVE)], &[], &[3], Some(&[0, 1, 2])),
        (&[(0, SILENT), (1, LIVE), (2, LIVE), (3, LIVE), (4, LIVE)], &[], &[3], Some(&[1, 2, 4])),
        (&[(1, LIVE), (2, LIVE), (3, LIVE)], &[], &[2, 3], Some(&[1])),
        (&[(1, LIVE), (2, LIVE), (3, DEAD)], &[], &[3], Some(&[1])),
        // The leader hands over first.
        (&[(1, LIVE), (2, LIVE), (3, LIVE)], &[(4, LIVE)], &[1], None),
        (&[(1, LIVE)], &[], &[1], None),
        // Another one has to vote before it can.
        (&[(1, LIVE)], &[(2, LIVE)], &[1], Some(&[1, 2])),
        (&[(1, LIVE)], &[(2, LIVE), (3, LIVE)], &[1, 3], Some(&[1, 2])),
        (&[(1, LIVE)], &[(2, SILENT)], &[1], None),
        // It takes no vote.
        (&[(1, LIVE)], &[(2, LIVE), (3, LIVE)], &[3], None),
        (&[(1, LIVE), (2, LIVE), (3, DEAD)], &[(4, LIVE)], &[4], None),
    ];
    for (voters, learners, departing, expected) in table {
        let mut seats = seated(voters, learners);
        departing.iter().for_each(|n| seats.get_mut(&peer(*n)).unwrap().departs = true);
        assert_eq!(
            voters_after(&seats),
            expected.map(peers),
            "{voters:?} {learners:?} {departing:?}"
        );
    }
}

#[test]
fn an_unfinished_change_is_finished_as_it_was_proposed_last() {
    let seats = seated(&[(1, LIVE), (2, DEAD), (3, DEAD)], &[(4, LIVE)]);
    let change = next_membership(peer(1), &seats, Some(peers(&[1, 4])));
    assert_eq!(change, Some(Change::Voters(peers(&[1, 4]))));
}

#[test]
fn a_removed_peer_loses_its_vote_and_then_its_membership() {
    let mut seats = seated(&[(1, LIVE), (2, LIVE), (3, DEAD)], &[(4, LIVE)]);
    seats.get_mut(&peer(3)).unwrap().removed = true;
    assert_eq!(next_membership(peer(1), &seats, None), Some(Change::Voters(peers(&[1, 2, 4]))));
    let mut seats = seated(&[(1, LIVE), (2, LIVE), (4, LIVE)], &[(3, DEAD)]);
    assert_eq!(next_membership(peer(1), &seats, None), None);
    seats.get_mut(&peer(3)).unwrap().removed = true;
    assert_eq!(next_membership(peer(1), &seats, None), Some(Change::Remove(peer(3))));
}

#[test]
fn a_departing_leader_keeps_another_voter_until_it_has_handed_over() {
    // Voters, learners, departing ones; the voters in the end. Peer 1 leads.
    type Row<'a> = (&'a [u8], &'a [u8], &'a [u8], &'a [u8]);
    let table: &[Row<'_>] = &[
        (&[1], &[2], &[1], &[1, 2]),
        (&[1, 2], &[], &[1], &[1, 2]),
        (&[0, 1, 2], &[], &[1, 2], &[0, 1]),
        (&[0, 1, 2, 3, 4], &[], &[1, 2, 3, 4], &[0, 1]),
        (&[0, 1, 2, 3, 4], &[], &[1, 2], &[0, 1, 3, 4]),
    ];
    for (votes, follow, departing, expected) in table {
        let live = |of: &[u8]| of.iter().map(|n| (*n, LIVE)).collect::<Vec<_>>();
        let mut seats = seated(&live(votes), &live(follow));
        departing.iter().for_each(|n| seats.get_mut(&peer(*n)).unwrap().departs = true);
        let case = format!("{votes:?} {follow:?} {departing:?}");
        for _ in 0..4 {
            let Some(next) = voters_after(&seats) else { break };
            seats.iter_mut().for_each(|(peer, seat)| seat.votes = next.contains(peer));
        }
        assert_eq!(voters_after(&seats), None, "{case}: it never ends");
        assert_eq!(voters(&seats), peers(expected), "{case}");
    }
    // Without another one that is up it waits.
    let mut seats = seated(&[(0, SILENT), (1, LIVE), (2, LIVE)], &[]);
    [1, 2].into_iter().for_each(|n| seats.get_mut(&peer(n)).unwrap().departs = true);
    assert_eq!(voters_after(&seats), None);
}

proptest! {
    #[test]
    fn no_change_lacks_a_live_majority_and_changes_end(
        facts in proptest::collection::btree_map(
            1..12_u8,
            (any::<bool>(), prop_oneof![Just(LIVE), Just(SILENT), Just(DEAD)], any::<bool>(),
                0..6_u8, 0..3_u8),
            1..9,
        ),
    ) {
        let mut seats: Seats = facts.iter().map(|(n, (votes, silent, caught_up, name, zone))| {
            let (peer, seat) = seat(*n, *votes, *silent);
            let zone = Some(zone.to_string());
            (peer, Seat { name: name.to_string(), caught_up: *caught_up, zone, ..seat })
        }).collect();
        for _ in 0..10 {
            let before = voters(&seats);
            let Some(change) = next_membership(peer(0), &seats, None) else { return Ok(()) };
            let Change::Voters(next) = change else { panic!("nobody was removed") };
            prop_assert!(has_live_majority(&seats, &before) && has_live_majority(&seats, &next));
            let twice = |peer: &&PeerId| successors(&seats).get(*peer).is_some_and(|by| next.contains(by) || before.contains(by));
            let dropped = before.difference(&next).filter(twice).count();
            prop_assert!(next.len() + dropped + 1 >= before.len());
            prop_assert!(next.len() % 2 == 1, "an even number");
            prop_assert!(next.len() <= before.len().max(VOTERS_MAX));
            let dropped = before.difference(&next).filter(|peer| seats[*peer].is_live());
            prop_assert!(dropped.count() <= 1, "a live voter was dropped without need");
            for (peer, seat) in &mut seats {
                prop_assert!(!next.contains(peer) || seat.votes || seat.is_live() && seat.caught_up);
                seat.votes = next.contains(peer);
            }
        }
        prop_assert!(false, "it never ends");
    }
}
