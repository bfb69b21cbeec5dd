//! The Kubo connector, the tracker and the supervisor on a real Kubo, and garbage collection by
//! real peers.
//!
//! What Kubo 0.43 does, and the test that we get along with it:
//!
//! | Kubo | test |
//! |---|---|
//! | `pin/add?progress=true` tells progress in objects, `{}` for none, and `Pins` last | `pins_are_added_asked_about_listed_and_removed`, `a_missing_block_never_counts_as_pinned` |
//! | a late error is HTTP 200, a clean end and the trailer `X-Stream-Error` | `a_missing_block_never_counts_as_pinned`, `a_pin_interrupted_by_a_stop_is_pinned_when_its_block_appears` |
//! | a pin whose content is missing never ends by itself | `a_pin_interrupted_by_a_stop_is_pinned_when_its_block_appears`, `a_pin_of_ours_that_they_broke_is_told_until_it_is_whole` |
//! | it stops in mid-pin, is killed, leaves `repo.lock` behind | `a_missing_block_never_counts_as_pinned`, `killed_in_mid_pin_it_never_counts_and_its_lock_file_does_no_harm` |
//! | it forgets pins: unpinned by others, emptied, another identity | `what_is_unpinned_behind_our_back_is_pinned_again`, `an_emptied_repository_and_another_identity_are_filled_again` |
//! | pinning what is pinned takes the pin away first, and its name | `what_is_pinned_is_never_pinned_again` |
//! | whose a pin is, it does not say | `foreign_pins_stay_and_ours_go_also_when_deleted_while_away`, `what_others_add_after_our_attempt_failed_is_theirs` |
//! | a recursive pin excludes a direct one; it replaces a direct one | `direct_and_indirect_pins_are_told_apart_from_ours` |
//! | `pin/rm` and `pin/ls` of what is pinned indirectly are errors | `direct_and_indirect_pins_are_told_apart_from_ours` |
//! | names over 255 bytes are refused | `a_name_is_never_a_reason_not_to_pin` |
//! | `pin/ls` ends at the first CID that is not pinned | `pins_are_added_asked_about_listed_and_removed` |
//! | only `pin/ls?type=…&stream=true` does not grow with the number of pins | `twenty_thousand_pins_of_others_go_by`, `the_length_of_the_list_costs_no_memory` |
//! | `pin/ls` can take hours while all else works | `a_list_that_never_comes_holds_nothing_else_up`, `an_answer_after_a_minute_is_a_failure_that_says_so` |
//! | `pin/add` is never answered, though it may have pinned | `a_pin_that_is_never_answered_is_stopped_and_others_go_on`, `a_pin_whose_answer_is_lost_counts_when_the_daemon_confirms_it` |
//! | it may carry out what nobody waits for any more | `an_unpin_that_takes_effect_late_is_made_good` |
//! | a process that hangs keeps its connections | `a_daemon_that_hangs_is_told_within_ten_seconds` |
//! | `StorageMax` stops nothing: the volume gets full | `a_full_volume_is_told_and_collecting_garbage_makes_room` |
//! | `repo/stat?size-only=true` knows sizes and not the volume | `pins_are_added_asked_about_listed_and_removed` |
//! | some CIDs it never pins | `what_can_never_be_pinned_is_refused` |
//! | `repo/gc` behind a pin that stalls freezes everything | `a_stalled_pin_of_ours_gives_way_and_the_daemon_does_not_freeze`, `a_stalled_pin_of_somebody_else_is_not_waited_for` |
//! | while it collects, pins wait | `pins_wanted_during_a_collection_are_made_after_it` |
//! | what is unpinned stays until it collects | `what_is_unpinned_is_gone_after_a_collection_and_nothing_else` |
//! | connections are its own affair unless it is told | `daemons_connected_to_each_other_fetch_from_each_other` |
//! | it is slower with many pins at once | `thousands_of_pins_arrive` |
//! | its first start makes the repository | `the_supervisor_keeps_a_real_daemon_running` |
#![allow(clippy::unwrap_used, missing_docs)]

mod behaviours;
