//! Worlds of one real log: raft-log, our code above it, and real files, under a sequence of requests
//! drawn from a seed.
//!
//! A crash is simulated on copies: a log is opened on the files as a crash at that instant could have
//! left them. The world knows what is synced from raft-log's own count of syncs. It gets unanswered
//! requests by blocking raft-log's thread in a callback.
//!
//! Each world checks:
//! - everything acknowledged is there after each crash;
//! - the contents equal the log at some moment since the last acknowledgement;
//! - `flushed` and the mark never exceed what a crash keeps;
//! - a log that lost acknowledged data is refused;
//! - after an error the log either works on or refuses everything.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use openraft::{
    alias::OneshotReceiverOf,
    storage::{IOFlushed, RaftLogStorage as _},
    type_config::TypeConfigExt as _,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinHandle, yield_now},
};

use super::{
    super::{DiskLog, TypeConfig, position_in, vote_in},
    hold,
    image::Files,
    model::{Contents, Record},
};
use crate::{
    high_water::HighWater,
    sim::{damage, run_seeded, seeds::run_worlds},
    types::ClusterId,
};

const WORLDS: u64 = 200;

type Outcome<T> = Result<T, String>;

/// A request made.
struct Asked {
    /// Index of the state it was made in.
    before: usize,
    /// Index of the state it leads to.
    state: usize,
    answer: Answer,
    /// Whether it asks for a sync.
    syncs: bool,
}

enum Answer {
    Vote(JoinHandle<io::Result<()>>),
    Append(OneshotReceiverOf<TypeConfig, io::Result<()>>),
    /// Accepted, without an acknowledgement.
    Taken,
    Failed,
}

/// What is known at the moment of a crash.
struct Moment {
    contents: Contents,
    acknowledged: usize,
    flushed: Option<u64>,
    synced: u64,
    mark: u64,
}

struct World {
    random: StdRng,
    home: TempDir,
    /// Number of logs so far.
    lives: u32,
    folder: PathBuf,
    chunk_len: usize,
    log: DiskLog,
    term: u64,
    contents: Contents,
    /// The contents after each record since the opening.
    states: Vec<Contents>,
    /// Index of the last acknowledged state.
    acknowledged: usize,
    /// Bytes of the log that a crash keeps.
    synced: u64,
    /// Bytes of the log that were acknowledged.
    kept: u64,
    syncs: u64,
    names: BTreeSet<String>,
    /// The log's thread has ended.
    ended: bool,
    /// The disk of this process may be full.
    may_fill: bool,
    is_full: bool,
    said: Vec<String>,
}

impl World {
    fn new(seed: u64, may_fill: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let chunk_len = random.random_range(200..1500);
        let home = damage::folder();
        let folder = home.path().join("0/log");
        let log = DiskLog::open_with(&folder, chunk_len).expect("a log on an empty disk");
        let mut world = Self {
            random,
            home,
            lives: 1,
            folder,
            chunk_len,
            log,
            term: 1,
            contents: Contents::default(),
            states: vec![Contents::default()],
            acknowledged: 0,
            synced: 0,
            kept: 0,
            syncs: 0,
            names: BTreeSet::new(),
            ended: false,
            may_fill,
            is_full: false,
            said: Vec::new(),
        };
        world.names = world.names_now();
        world
    }

    async fn run(&mut self) -> Outcome<()> {
        for _ in 0..self.random.random_range(20..80) {
            match self.random.random_range(0..100) {
                0..12 => self.held().await?,
                12..18 => self.crash(Files::torn).await?,
                // The process is killed: its writes are there, synced or not.
                18..26 => self.crash(|files, _, _| files.clone()).await?,
                26..30 => self.reopen().await?,
                30..34 => self.lose()?,
                34..38 => self.away().await?,
                38..40 => self.vanish().await?,
                40..50 if self.may_fill => self.fill().await?,
                _ => {
                    let asked = self.ask().await?;
                    self.settle(vec![asked]).await?;
                    self.look().await?;
                }
            }
            if self.ended {
                self.nothing_works().await?;
                self.crash(Files::torn).await?;
            }
        }
        Ok(())
    }

    /// Makes a request.
    async fn ask(&mut self) -> Outcome<Asked> {
        self.term += 1;
        let records = self.contents.draw(&mut self.random, self.term);
        self.ask_for(records).await
    }

    async fn ask_for(&mut self, records: Vec<Record>) -> Outcome<Asked> {
        self.said.push(format!("{records:?}"));
        let before = self.states.len() - 1;
        for record in &records {
            self.contents.apply(record);
            self.states.push(self.contents.clone());
        }
        let mut log = self.log.clone();
        let (answer, syncs) = match &records[0] {
            Record::Cluster(epoch) => (taken(log.set_cluster(ClusterId([7; 16]), *epoch)), true),
            Record::Committed(at) => {
                (taken(log.save_committed(Some(position_in(*at))).await), false)
            }
            Record::Truncate(kept) => {
                (taken(log.truncate_after(kept.map(position_in)).await), false)
            }
            Record::Purge(upto) => (taken(log.purge(position_in(*upto)).await), true),
            Record::Vote(vote) => {
                let vote = vote_in(*vote);
                let saved = tokio::spawn(async move { log.save_vote(&vote).await });
                yield_now().await;
                (Answer::Vote(saved), true)
            }
            Record::Entry(_) => {
                let entries = records.iter().filter_map(|record| match record {
                    Record::Entry(entry) => Some(entry.clone()),
                    _ => None,
                });
                let (callback, called) = TypeConfig::oneshot();
                let appended = log.append(entries, IOFlushed::signal(callback)).await;
                (appended.map_or(Answer::Failed, |()| Answer::Append(called)), true)
            }
        };
        if matches!(answer, Answer::Failed) {
            self.take_back(before).await?;
        }
        Ok(Asked { before, state: self.states.len() - 1, answer, syncs })
    }

    /// Forgets what a failed request, made in state `before`, did not do: part of it may be done.
    async fn take_back(&mut self, before: usize) -> Outcome<()> {
        let now = self.contents_now().await?;
        let at = self.states[before..].iter().position(|state| *state == now);
        let at = at.ok_or_else(|| format!("a failed request made something else: {now:?}"))?;
        self.states.truncate(before + at + 1);
        self.contents = now;
        Ok(())
    }

    /// Waits for the answers, and until the log's thread is idle.
    async fn settle(&mut self, asked: Vec<Asked>) -> Outcome<()> {
        let mut expected = 0;
        let mut last_synced = false;
        let mut acknowledged = None;
        let first = asked.first().map(|asked| asked.before);
        for Asked { state, answer, syncs, .. } in asked {
            let taken = !matches!(answer, Answer::Failed);
            let (is_acknowledgement, answered) = match answer {
                Answer::Failed => (false, false),
                Answer::Taken => (false, true),
                Answer::Vote(saved) => (true, matches!(saved.await, Ok(Ok(())))),
                Answer::Append(called) => (true, matches!(called.await, Ok(Ok(())))),
            };
            if is_acknowledgement && answered {
                acknowledged = Some(state);
            }
            expected += u64::from(taken && syncs);
            last_synced = taken && syncs;
        }
        self.ended = self.log.lock().wait_worker_idle().is_err();
        let names = self.names_now();
        let files = Files::of(&self.folder_now());
        let begun = names.difference(&self.names).count() as u64;
        let syncs = self.log.lock().stat().flush_metrics.sync_batch_count;
        let done = syncs - self.syncs;
        (self.names, self.syncs) = (names, syncs);
        let is_written = !(self.ended && self.is_full);
        if is_written && last_synced && done >= expected + begun {
            self.synced = files.end();
        } else if is_written && begun > 0 && done >= begun {
            // A file is synced before the next one is written.
            self.synced = self.synced.max(files.start_of_last());
        }
        if let Some(state) = acknowledged {
            self.acknowledged = self.acknowledged.max(state);
            self.kept = self.kept.max(self.synced);
        }
        match first.filter(|_| self.ended) {
            Some(first) => self.take_back(first).await,
            None => Ok(()),
        }
    }

    /// Checks that a working log holds what was requested.
    async fn look(&mut self) -> Outcome<()> {
        let now = self.contents_now().await?;
        if now != self.contents {
            return Err(format!("the log is {now:?}\nand should be {:?}", self.contents));
        }
        let flushed = *self.log.flushed().borrow();
        if flushed > now.last().map(|last| last.index) {
            return Err(format!("flushed is {flushed:?}, the log ends at {:?}", now.last()));
        }
        let mark = self.mark();
        if mark > self.synced {
            return Err(format!("the mark is {mark}, {} is synced", self.synced));
        }
        Ok(())
    }

    /// Makes requests while the log's thread is blocked; then crashes before it continues, or lets it
    /// continue. None of them may fail: an error would wait for the thread forever.
    async fn held(&mut self) -> Outcome<()> {
        let flushed = watch::Sender::new(None);
        let watched = flushed.subscribe();
        let aside = self.home.path().join("aside");
        let mut asked = Vec::new();
        let crashes = self.random.random_bool(0.5);
        let moment = {
            // A sender of a watch waits for its readers.
            let _held = watched.borrow();
            hold(&self.log, flushed, &aside);
            self.said.push("held".to_owned());
            for _ in 0..self.random.random_range(1..6) {
                asked.push(self.ask().await?);
            }
            for early in &mut asked {
                let answered = match &mut early.answer {
                    Answer::Vote(saved) => saved.is_finished(),
                    Answer::Append(called) => called.try_recv().is_ok(),
                    Answer::Taken | Answer::Failed => false,
                };
                if answered {
                    return Err("it was answered before it was written".to_owned());
                }
            }
            self.link();
            self.moment()
        };
        if crashes {
            self.settle(asked).await?;
            self.said.push("crash before that was written".to_owned());
            return self.crash_at(moment, Files::torn).await;
        }
        asked.push(self.sync_by_vote().await?);
        self.settle(asked).await?;
        self.unlink();
        self.look().await
    }

    async fn sync_by_vote(&mut self) -> Outcome<Asked> {
        self.term += 1;
        let candidate = crate::types::PeerId([1; 32]);
        let vote = crate::types::Vote { term: self.term, candidate, committed: false };
        self.ask_for(vec![Record::Vote(vote)]).await
    }

    async fn crash(&mut self, left: impl FnOnce(&Files, u64, &mut StdRng) -> Files) -> Outcome<()> {
        self.said.push("crash".to_owned());
        self.link();
        let moment = self.moment();
        self.crash_at(moment, left).await
    }

    /// Opens a log on the files that a crash at that moment left.
    async fn crash_at(
        &mut self,
        moment: Moment,
        left: impl FnOnce(&Files, u64, &mut StdRng) -> Files,
    ) -> Outcome<()> {
        let files = Files::of(&self.folder).and(Files::of(&self.linked()));
        self.unlink();
        let image = left(&files, moment.synced, &mut self.random);
        let is_kill = image == files;
        let folder = self.next_life();
        image.write(&folder).expect("space");
        // After a crash of the machine the mark may be an older one.
        let mark = match self.random.random_bool(0.2) && !is_kill {
            true => self.random.random_range(0..=moment.mark),
            false => moment.mark,
        };
        raise(&folder, mark);
        self.folder = folder;
        self.log = DiskLog::open_with(&self.folder, self.chunk_len)
            .map_err(|error| format!("not opened after a crash: {error}"))?;
        let found = self.contents_now().await?;
        let possible = self.states.iter().enumerate().skip(moment.acknowledged);
        if !possible.rev().any(|(_, state)| *state == found) {
            let acknowledged = &self.states[moment.acknowledged];
            return Err(format!("found {found:?}\nacknowledged was {acknowledged:?}"));
        }
        let gone = moment.contents.entries.iter().find(|(index, entry)| {
            Some(**index) <= moment.flushed
                && Some(**index) > found.purged.map(|purged| purged.index)
                && found.entries.get(index) != Some(entry)
        });
        if let Some((index, _)) = gone {
            return Err(format!("{index} is gone; flushed said {:?}: {found:?}", moment.flushed));
        }
        self.begin(found, if is_kill { moment.synced } else { image.end() })
    }

    /// Continues with an opened log and its contents; `synced` bytes would have survived a crash
    /// before.
    fn begin(&mut self, found: Contents, synced: u64) -> Outcome<()> {
        if found.committed > found.last() {
            return Err(format!("committed is beyond the end: {found:?}"));
        }
        let flushed = *self.log.flushed().borrow();
        if flushed != found.last().map(|last| last.index) {
            return Err(format!("flushed is {flushed:?} after an opening: {found:?}"));
        }
        self.contents = found.clone();
        self.states = vec![found];
        self.acknowledged = 0;
        self.names = self.names_now();
        self.syncs = 0;
        self.ended = false;
        // At an opening, whole data is synced before the mark is raised to it.
        self.synced = synced.max(self.mark()).min(Files::of(&self.folder).end());
        self.kept = self.synced.min(self.mark());
        self.said.push(format!("opened with {:?}", self.contents));
        Ok(())
    }

    /// Closes the log and opens it again.
    async fn reopen(&mut self) -> Outcome<()> {
        self.said.push("closed".to_owned());
        let nowhere = self.home.path().join("nowhere/log");
        self.log = DiskLog::open_with(&nowhere, self.chunk_len).expect("another log");
        let synced = Files::of(&self.folder).end();
        let opened = DiskLog::open_with(&self.folder, self.chunk_len);
        self.log = opened.map_err(|error| format!("not opened again: {error}"))?;
        let found = self.contents_now().await?;
        if found != self.contents {
            return Err(format!("closed as {:?}\nopened as {found:?}", self.contents));
        }
        self.begin(found, synced)
    }

    /// Checks that a log that lost acknowledged data is refused.
    fn lose(&mut self) -> Outcome<()> {
        let files = Files::of(&self.folder);
        let first = files.0.first().map_or(0, |(_, start, _)| *start);
        if first >= self.kept {
            return Ok(());
        }
        let len = self.random.random_range(first..self.kept);
        let folder = self.next_life();
        files.cut(len).write(&folder).expect("space");
        raise(&folder, self.mark());
        match DiskLog::open_with(&folder, self.chunk_len) {
            Ok(_) => Err(format!("{} bytes were acknowledged, {len} are taken", self.kept)),
            Err(_) => Ok(()),
        }
    }

    /// Moves the folder away: no file can be created or removed.
    async fn away(&mut self) -> Outcome<()> {
        self.said.push("the folder is away".to_owned());
        fs::rename(&self.folder, self.away_path()).expect("a name");
        for _ in 0..self.random.random_range(1..6) {
            let asked = [self.ask().await?];
            self.settle(asked.into()).await?;
        }
        fs::rename(self.away_path(), &self.folder).expect("a name");
        self.look().await
    }

    /// Removes a purged file before the log does: that ends the log's thread.
    async fn vanish(&mut self) -> Outcome<()> {
        let asked = self.sync_by_vote().await?;
        self.settle(vec![asked]).await?;
        let (names, last) = (self.names_now(), self.contents.last());
        if let (true, Some(last), Some(first)) = (names.len() > 1, last, names.first())
            && Some(last) > self.contents.purged
        {
            self.said.push("a file vanishes".to_owned());
            let aside = self.home.path().join("vanished");
            fs::rename(self.folder.join(first), &aside).expect("a file");
            let asked = self.ask_for(vec![Record::Purge(last)]).await?;
            self.settle(vec![asked]).await?;
            if !self.ended {
                // It is still needed: the truncated entries reached further.
                fs::rename(&aside, self.folder.join(first)).expect("a name");
                self.names.insert(first.clone());
            }
        }
        Ok(())
    }

    /// Leaves the disk almost no space for a while.
    async fn fill(&mut self) -> Outcome<()> {
        let longest = Files::of(&self.folder).0.iter().map(|(.., bytes)| bytes.len()).max();
        let limit = longest.unwrap_or(0) as u64 + self.random.random_range(12..300);
        self.said.push(format!("no file may have more than {limit} bytes"));
        limit_files(Some(limit));
        self.is_full = true;
        for _ in 0..self.random.random_range(1..6) {
            let asked = [self.ask().await?];
            self.settle(asked.into()).await?;
        }
        limit_files(None);
        self.is_full = false;
        self.look().await
    }

    /// Once the log's thread has ended, nothing is acknowledged any more.
    async fn nothing_works(&mut self) -> Outcome<()> {
        self.said.push("the log's thread has ended".to_owned());
        let mark = self.mark();
        for _ in 0..3 {
            let acknowledged = self.acknowledged;
            let asked = self.sync_by_vote().await?;
            self.settle(vec![asked]).await?;
            let asked = self.ask().await?;
            self.settle(vec![asked]).await?;
            if self.acknowledged > acknowledged || self.mark() != mark {
                return Err("acknowledged after the log's thread has ended".to_owned());
            }
        }
        Ok(())
    }

    fn moment(&self) -> Moment {
        Moment {
            contents: self.contents.clone(),
            acknowledged: self.acknowledged,
            flushed: *self.log.flushed().borrow(),
            synced: self.synced,
            mark: self.mark(),
        }
    }

    async fn contents_now(&self) -> Outcome<Contents> {
        Contents::of(&self.log).await.map_err(|error| format!("not read: {error}"))
    }

    /// Links the current files into another folder too, so that they survive when the log removes them.
    fn link(&self) {
        fs::create_dir(self.linked()).expect("a folder");
        for name in self.names_now() {
            fs::hard_link(self.folder.join(&name), self.linked().join(&name)).expect("a link");
        }
    }

    fn unlink(&self) {
        fs::remove_dir_all(self.linked()).expect("a folder");
    }

    fn linked(&self) -> PathBuf {
        self.home.path().join("linked")
    }

    fn away_path(&self) -> PathBuf {
        self.home.path().join("away")
    }

    fn folder_now(&self) -> PathBuf {
        if self.away_path().exists() { self.away_path() } else { self.folder.clone() }
    }

    fn names_now(&self) -> BTreeSet<String> {
        Files::of(&self.folder_now()).0.into_iter().map(|(name, ..)| name).collect()
    }

    fn mark(&self) -> u64 {
        let mark = HighWater::open(&self.folder.with_extension("synced")).expect("the mark");
        mark.1.unwrap_or_default()
    }

    fn next_life(&mut self) -> PathBuf {
        self.lives += 1;
        self.home.path().join(format!("{}/log", self.lives))
    }
}

fn taken(result: io::Result<()>) -> Answer {
    result.map_or(Answer::Failed, |()| Answer::Taken)
}

fn raise(folder: &Path, mark: u64) {
    HighWater::open(&folder.with_extension("synced")).expect("a file").0.raise(mark);
}

fn limit_files(len: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: len, maximum: None }).expect("a limit");
}

/// The report of a failed world.
pub(super) fn tried(seed: u64, may_fill: bool) -> Option<String> {
    run_seeded(seed, async {
        let mut world = World::new(seed, may_fill);
        let reason = world.run().await.err()?;
        Some(format!("seed {seed}: {reason}\n\n{}", world.said.join("\n")))
    })
}

#[test]
fn in_every_world_of_a_log_what_was_acknowledged_is_there_after_a_crash() {
    run_worlds(&[], WORLDS, |seed| tried(seed, false)).unwrap_or_else(|failed| panic!("{failed}"));
}
