//! The chart on a real node: three pods, three daemons, and what people and machines do to them.
//!
//! One installation serves all phases, because most of a phase would be the installation. Each
//! phase says what it checks and how long it took; one that fails does not hide the next. All that
//! is made here is removed at the end. `PINKEEPER_CHART_PHASES`, as in "b,e", runs these alone
//! (after a) and leaves the installation.
#![allow(missing_docs)]

mod phases;

use futures::{FutureExt as _, future::LocalBoxFuture};
use phases::{Trial, content, crashes, deletion, doors, objects, say, scale, setup};
use tokio::time::Instant;

type Phase = for<'a> fn(&'a Trial) -> LocalBoxFuture<'a, anyhow::Result<()>>;

const PHASES: [(&str, Phase); 16] = [
    ("a. three restricted pods form one cluster", |t| setup::forms_a_cluster(t).boxed_local()),
    ("b. a folder of files is kept twice, and truthfully so", |t| {
        content::a_folder(t).boxed_local()
    }),
    ("c. 200 Pins while a follower is killed", |t| crashes::a_follower_is_killed(t).boxed_local()),
    ("c. 200 Pins while the leader is killed", |t| crashes::the_leader_is_killed(t).boxed_local()),
    ("c. 200 Pins while the third is killed", |t| crashes::the_third_is_killed(t).boxed_local()),
    ("d. deleted content is released; a second Pin keeps it", |t| deletion::live(t).boxed_local()),
    ("d. what others have pinned stays", |t| deletion::foreign_content_stays(t).boxed_local()),
    ("d. deleted while nobody ran", |t| deletion::while_nobody_runs(t).boxed_local()),
    ("d. too many deleted at once", |t| deletion::too_many_at_once(t).boxed_local()),
    ("e. content that exists nowhere", |t| content::nowhere_and_then_somewhere(t).boxed_local()),
    ("f. a daemon stopped in mid-pin", |t| content::a_daemon_stops_in_mid_pin(t).boxed_local()),
    ("g. all pods deleted at once", |t| crashes::all_pods_are_deleted(t).boxed_local()),
    ("h. bad input", |t| objects::bad_input(t).boxed_local()),
    ("h. more copies than peers", |t| objects::more_copies_than_peers(t).boxed_local()),
    ("j. reached from outside", |t| doors::a_stranger_fetches_a_pin(t).boxed_local()),
    ("k. scaled in and out", |t| scale::in_and_out(t).boxed_local()),
];

#[tokio::test]
async fn the_chart_keeps_content_pinned() {
    let only = std::env::var("PINKEEPER_CHART_PHASES").ok();
    let chosen =
        |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|p| name.starts_with(p)));
    let trial = match Trial::begin(only.is_some()).await {
        Ok(trial) => trial,
        Err(error) => panic!("{error:#}"),
    };
    let mut failed = Vec::new();
    for (name, phase) in PHASES {
        if !chosen(name) && !name.starts_with("a.") {
            continue;
        }
        let began = Instant::now();
        let result = phase(&trial).await;
        let took = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => say(&format!("{name}: {took:.1} s")),
            Err(error) => {
                say(&format!("{name}: FAILED after {took:.1} s: {error:#}"));
                say(&trial.diagnosis().await);
                failed.push(name);
                if name.starts_with("a.") {
                    break;
                }
            }
        }
    }
    if only.is_none() {
        let began = Instant::now();
        let result = setup::uninstall(&trial).await;
        let name = "i. uninstalled; volumes and Pins stay until they are deleted";
        match result {
            Ok(()) => say(&format!("{name}: {:.1} s", began.elapsed().as_secs_f64())),
            Err(error) => {
                say(&format!("{name}: FAILED: {error:#}"));
                failed.push(name);
            }
        }
        if let Err(error) = trial.remove_everything().await {
            say(&format!("removing everything: FAILED: {error:#}"));
            failed.push("removing everything");
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}
