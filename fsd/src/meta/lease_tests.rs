//! Single rules by example, and all of them together against random histories.
#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]

use super::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::HashSet;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const FILE: Ino = Ino(10);

/// Two sessions; the events that made them known to each other are over.
fn two() -> Leases {
    let mut leases = Leases::new(100, []);
    assert_eq!(leases.attaching(), None);
    assert!(leases.attach(A).sole);
    let wait = leases.attaching().unwrap();
    let shared = sent(&mut leases, A)[0].clone();
    assert!(matches!(shared.body, EventBody::Shared { generation } if generation > 100));
    leases.acknowledge(A, shared.id);
    assert_eq!(leases.take_commands(), [Command::Resume(wait)]);
    assert!(!leases.attach(B).sole);
    leases
}

/// What is sent to `session` now; nothing else may come out.
fn sent(leases: &mut Leases, session: SessionId) -> Vec<Event> {
    let take = |command| match command {
        Command::Send { session: to, event, .. } if to == session => event,
        other => panic!("unexpected {other:?}"),
    };
    leases.take_commands().into_iter().map(take).collect()
}

fn close(leases: &mut Leases, session: SessionId, opens: u32, writers: u32) {
    leases.close(session, CloseItem { ino: FILE, opens, writers });
}

#[test]
fn readers_cache_together_and_a_writer_ends_it() {
    let mut leases = two();
    let first = leases.open(A, FILE, false).unwrap();
    assert_eq!((first.lease, first.wait), (DataLease::Cached, None));
    assert_eq!(leases.open(B, FILE, false).unwrap().lease, DataLease::Cached);
    let writing = leases.open(B, FILE, true).unwrap();
    assert_eq!(writing.lease, DataLease::Shared);
    let events = sent(&mut leases, A);
    let EventBody::Uncache { ino: FILE, generation } = events[0].body else { panic!("{events:?}") };
    assert!(generation > first.generation && writing.generation > generation);
    leases.acknowledge(A, events[0].id);
    assert_eq!(leases.take_commands(), [Command::Resume(writing.wait.unwrap())]);
    // Still shared for whoever opens now, without asking anyone.
    let again = leases.open(A, FILE, false).unwrap();
    assert_eq!((again.lease, again.wait), (DataLease::Shared, None));
    // Without a writer it may be cached again.
    close(&mut leases, B, 2, 1);
    assert_eq!(leases.open(A, FILE, true).unwrap().lease, DataLease::Cached);
}

#[test]
fn a_second_open_waits_for_a_recall_under_way() {
    let mut leases = two();
    leases.open(A, FILE, true).unwrap();
    let first = leases.open(B, FILE, false).unwrap().wait.unwrap();
    let second = leases.open(B, FILE, false).unwrap().wait.unwrap();
    let look = leases.look(B, &[FILE]).unwrap();
    let events = sent(&mut leases, A);
    assert_eq!(events.len(), 1, "one recall serves all");
    assert_eq!(leases.open(A, FILE, true).unwrap().lease, DataLease::Shared, "not while it is recalled");
    leases.cancel(second);
    leases.acknowledge(A, events[0].id);
    assert_eq!(leases.take_commands(), [Command::Resume(first), Command::Resume(look)]);
    assert_eq!(leases.look(B, &[FILE]), None, "shared writes are committed as they come");
}

#[test]
fn looking_flushes_the_writer_once_for_many_files() {
    let mut leases = two();
    for ino in 10..15 {
        leases.open(A, Ino(ino), ino != 12).unwrap();
    }
    assert_eq!(leases.look(A, &[FILE]), None);
    let inos: Vec<Ino> = (8..20).map(Ino).collect();
    let wait = leases.look(B, &inos).unwrap();
    let events = sent(&mut leases, A);
    let flushed = [10, 11, 13, 14].map(Ino).to_vec();
    assert_eq!(events[0].body, EventBody::Flush { inos: flushed });
    leases.end(A);
    assert!(leases.take_commands().contains(&Command::Resume(wait)), "an eviction ends the wait");
}

#[test]
fn a_session_opens_no_more_files_than_it_can_name_when_it_comes_back() {
    let mut leases = two();
    for ino in 0..OPENS_MAX as u64 {
        leases.open(A, Ino(100 + ino), false).unwrap();
    }
    assert_eq!(leases.open(A, FILE, false), Err(FsError::TooManyOpen));
    assert!(leases.open(A, Ino(100), true).is_ok(), "no further file");
    assert!(leases.open(B, FILE, false).is_ok(), "each has its own bound");
    leases.close(A, CloseItem { ino: Ino(101), opens: 1, writers: 0 });
    assert!(leases.open(A, FILE, false).is_ok());
}

#[test]
fn settled_grows_when_writes_stop_being_cached() {
    let mut leases = two();
    leases.open(A, FILE, true).unwrap();
    let before = leases.settled();
    close(&mut leases, A, 1, 0);
    assert_eq!(leases.settled(), before, "still dirty");
    assert!(leases.look(B, &[FILE]).is_some());
    close(&mut leases, A, 0, 1);
    assert!(leases.settled() > before);
    assert_eq!(leases.look(B, &[FILE]), None);
}

#[test]
fn changes_invalidate_all_others_and_flush_circles_are_cut() {
    let mut leases = two();
    let other = Ino(11);
    leases.open(A, FILE, true).unwrap();
    leases.open(B, other, true).unwrap();
    let by_b = leases.before_change(B, &[FILE]).unwrap();
    assert_eq!(leases.before_change(A, &[other]), None, "B's batch waits for A already");
    let commands = leases.take_commands();
    let events: Vec<(SessionId, u64)> = commands.iter().filter_map(owed_event).collect();
    assert_eq!(events.len(), 2, "both are told to flush");
    leases.acknowledge(A, events.iter().find(|(session, _)| *session == A).unwrap().1);
    assert_eq!(leases.take_commands(), [Command::Resume(by_b)]);
    let changed = leases.after_change(B, &[FILE]).unwrap();
    let events = sent(&mut leases, A);
    assert_eq!(events[0].body, EventBody::Invalidate { ino: FILE });
    leases.acknowledge(A, events[0].id);
    assert_eq!(leases.take_commands(), [Command::Resume(changed)]);
    assert_eq!(leases.after_change(A, &[FILE]), None, "nobody else has it open");
}

/// Two mounts store from shared mappings of one file. Neither can drop its pages while its own write is
/// unanswered.
#[test]
fn two_that_change_one_file_do_not_wait_for_each_other() {
    let mut leases = two();
    leases.open(A, FILE, true).unwrap();
    let opened = leases.open(B, FILE, true).unwrap().wait.unwrap();
    let uncache = sent(&mut leases, A)[0].id;
    leases.acknowledge(A, uncache);
    assert_eq!(leases.take_commands(), [Command::Resume(opened)]);

    let by_a = leases.after_change(A, &[FILE]).unwrap();
    let at_b = sent(&mut leases, B)[0].clone();
    assert_eq!(leases.after_change(B, &[FILE]), None, "A's batch waits for B already");
    let at_a = sent(&mut leases, A)[0].clone();
    assert_eq!(at_a.body, EventBody::Invalidate { ino: FILE }, "it is told all the same");
    // B's write is answered, so B can drop its pages.
    leases.acknowledge(B, at_b.id);
    assert_eq!(leases.take_commands(), [Command::Resume(by_a)]);
    leases.acknowledge(A, at_a.id);
    // Before a change, the batches that wait after theirs count as well.
    let other = Ino(11);
    leases.open(A, other, true).unwrap();
    leases.after_change(A, &[FILE]).unwrap();
    assert_eq!(leases.before_change(B, &[other]), None, "A flushes only when its batch is answered");
}

#[test]
fn files_without_names_are_reaped_after_the_last_close() {
    let mut leases = two();
    leases.open(A, FILE, false).unwrap();
    leases.open(B, FILE, false).unwrap();
    leases.orphan(FILE);
    close(&mut leases, A, 1, 0);
    assert_eq!(leases.take_commands(), []);
    leases.end(B);
    let commands = leases.take_commands();
    assert!(commands.contains(&Command::Reap(FILE)), "{commands:?}");
    leases.open(A, FILE, false).expect("found just before it lost its name");
    assert!(!leases.reap_begins(FILE));
    assert_eq!(leases.take_commands(), []);
    close(&mut leases, A, 1, 0);
    assert_eq!(leases.take_commands(), [Command::Reap(FILE)], "again");
    assert!(leases.reap_begins(FILE));
    assert!(!leases.reap_begins(FILE), "once");
    assert_eq!(leases.open(A, FILE, false), Err(FsError::Stale), "on its way out");
    leases.reaped(FILE);
    leases.creating(A, Seq(1), FILE);
    leases.creating(A, Seq(1), FILE);
    leases.orphan(FILE);
    leases.linked(FILE);
    close(&mut leases, A, 1, 1);
    assert_eq!(leases.take_commands(), [], "it has a name again");
    leases.orphan(Ino(77));
    assert_eq!(leases.take_commands(), [Command::Reap(Ino(77))], "nobody had it open");
    leases.open(A, Ino(77), false).unwrap();
    leases.linked(Ino(77));
    assert!(!leases.reap_begins(Ino(77)), "it has a name again");
    leases.close(A, CloseItem { ino: Ino(77), opens: 1, writers: 0 });
    assert_eq!(leases.take_commands(), []);
}

#[test]
fn a_batch_that_comes_again_opens_nothing_again() {
    let mut leases = two();
    leases.creating(A, Seq(5), FILE);
    close(&mut leases, A, 1, 1);
    leases.creating(A, Seq(5), FILE);
    assert_eq!(leases.open_files(A), 0, "it was made, opened and closed before");
    leases.attach_again(A, &[]).unwrap();
    leases.creating(A, Seq(5), FILE);
    assert_eq!(leases.open_files(A), 1, "it was not answered, so it was not among the opens");
    // The server has lost what it knew of the file; the mount has closed it, and makes it again.
    leases.attach_again(A, &[OpenState { ino: FILE, opens: 0, writers: 0 }]).unwrap();
    leases.creating(A, Seq(5), FILE);
    assert_eq!(leases.open_files(A), 0, "nobody would ever close it");
}

#[test]
fn lock_waiters_are_told_once() {
    let mut leases = two();
    assert!(leases.lock_attempt(A, FILE));
    assert!(!leases.lock_attempt(A, FILE));
    assert!(leases.lock_attempt(B, FILE));
    leases.lock_granted(B, FILE);
    leases.lock_released(FILE);
    let events = sent(&mut leases, A);
    assert_eq!(events[0].body, EventBody::LockReleased { ino: FILE });
    leases.lock_released(FILE);
    assert_eq!(leases.take_commands(), []);
    leases.lock_attempt(A, FILE);
    leases.end(B);
    let commands = leases.take_commands();
    let told = |command: &Command| {
        matches!(command, Command::Send { session: A, event, .. }
            if event.body == EventBody::LockReleased { ino: FILE })
    };
    assert!(commands.iter().any(told), "B's locks are gone: {commands:?}");
}

#[test]
fn alone_again_and_attach_cancelled() {
    let mut leases = two();
    leases.end(B);
    assert!(matches!(sent(&mut leases, A)[0].body, EventBody::Sole { .. }));
    let wait = leases.attaching().unwrap();
    let event = sent(&mut leases, A)[0].id;
    leases.cancel(wait);
    leases.attach_cancelled();
    assert_eq!(leases.take_commands(), [], "not before A has acknowledged");
    leases.acknowledge(A, event);
    assert!(matches!(sent(&mut leases, A)[0].body, EventBody::Sole { .. }));
    // A sole session that does not answer is evicted; the newcomer goes on.
    let wait = leases.attaching().unwrap();
    leases.take_commands();
    leases.end(A);
    assert_eq!(leases.take_commands(), [Command::Resume(wait)]);
    assert!(leases.attach(B).sole);
}

#[test]
fn who_cannot_store_keeps_the_file_and_is_asked_again() {
    let mut leases = two();
    leases.open(A, FILE, true).unwrap();
    let refused = leases.open(B, FILE, false).unwrap().wait.unwrap();
    let event = sent(&mut leases, A)[0].id;
    assert!(leases.refuse(A, event, FsError::NoSpace));
    assert_eq!(leases.take_commands(), [Command::Refuse(refused, FsError::NoSpace)]);
    assert!(leases.refuse(A, event, FsError::NoSpace), "repeated");
    leases.acknowledge(A, event);
    assert_eq!(leases.take_commands(), [], "it is over");
    close(&mut leases, B, 1, 0);
    // Who looks at the file, and who opens it, asks again.
    let look = leases.look(B, &[FILE]).unwrap();
    let flush = sent(&mut leases, A);
    assert_eq!(flush[0].body, EventBody::Flush { inos: vec![FILE] });
    assert!(leases.refuse(A, flush[0].id, FsError::Unavailable));
    assert_eq!(leases.take_commands(), [Command::Refuse(look, FsError::Unavailable)]);
    let opened = leases.open(B, FILE, false).unwrap();
    assert_eq!(leases.open(A, FILE, true).unwrap().lease, DataLease::Shared);
    let event = sent(&mut leases, A)[0].id;
    leases.acknowledge(A, event);
    assert_eq!(leases.take_commands(), [Command::Resume(opened.wait.unwrap())]);
    // What a mount can always do is not refused.
    let changed = leases.after_change(B, &[FILE]).unwrap();
    let event = sent(&mut leases, A)[0].id;
    assert!(!leases.refuse(A, event, FsError::NoSpace));
    leases.acknowledge(A, event);
    assert_eq!(leases.take_commands(), [Command::Resume(changed)]);
}

#[test]
fn after_a_restart_opens_come_back_and_conflicts_are_recalled() {
    let mut leases = Leases::new(1000, [A, B]);
    leases.orphan(Ino(5));
    assert_eq!(leases.take_commands(), [], "someone absent may have it open");
    let open = |writers| [OpenState { ino: FILE, opens: 1, writers }];
    leases.attach_again(A, &open(1)).unwrap();
    assert_eq!(leases.attach_again(SessionId(9), &[]), Err(FsError::Evicted));
    assert_eq!(leases.absent(), 1);
    leases.attach_again(B, &open(0)).unwrap();
    let commands = leases.take_commands();
    let uncached: Vec<_> = commands.iter().filter_map(owed_event).map(|(session, _)| session).collect();
    assert_eq!(uncached, [A, B]);
    assert_eq!(commands.last(), Some(&Command::ScanOrphans));
    // The table is what the mount says, also without a restart.
    leases.attach_again(A, &[]).unwrap();
    assert_eq!((leases.open_files(A), leases.open_files(B)), (0, 1));
}

#[test]
fn the_only_known_session_stays_sole_over_a_restart() {
    let mut leases = Leases::new(1000, [A]);
    let wait = leases.attaching().expect("it may believe to be alone");
    leases.cancel(wait);
    leases.attach_cancelled();
    let event = sent(&mut leases, A)[0].id;
    assert!(!leases.attach_again(A, &[]).unwrap().sole);
    leases.acknowledge(A, event);
    let commands = leases.take_commands();
    assert!(matches!(commands.last(), Some(Command::Send { event, .. })
        if matches!(event.body, EventBody::Sole { .. })));
    assert!(leases.attach_again(A, &[]).unwrap().sole);
}

fn owed_event(command: &Command) -> Option<(SessionId, u64)> {
    match command {
        Command::Send { session, event, owed: true } => Some((*session, event.id)),
        _ => None,
    }
}

// Random histories ------------------------------------------------------------------------------

/// What the mounts and waiting requests know, beside the machine.
#[derive(Default)]
struct World {
    leases: Option<Leases>,
    /// Open counts as (opens, writers) per session and file.
    opens: BTreeMap<(SessionId, Ino), (u32, u32)>,
    /// Events not acknowledged yet.
    owed: Vec<(SessionId, u64)>,
    waits: HashSet<WaitId>,
    /// Batches under way that wait: one of a session at a time. Until it is answered, its mount does nothing
    /// that an event asks for.
    batches: HashMap<SessionId, WaitId>,
    alive: Vec<SessionId>,
    attaching: Option<WaitId>,
    orphans: HashSet<Ino>,
    /// Announced, and to begin at some time.
    announced: Vec<Ino>,
    next_session: u64,
}

impl World {
    fn machine(&mut self) -> &mut Leases {
        self.leases.as_mut().unwrap()
    }

    fn drain(&mut self) {
        for command in self.machine().take_commands() {
            match command {
                Command::Send { session, event, owed } => {
                    assert!(self.alive.contains(&session), "event for a dead session");
                    if owed {
                        self.owed.push((session, event.id));
                    }
                }
                Command::Resume(id) => {
                    self.batches.retain(|_, batch| *batch != id);
                    let attached = self.attaching.take_if(|wait| *wait == id).is_some();
                    assert!(attached || self.waits.remove(&id), "resumed twice or never waited");
                    if attached {
                        self.attach();
                    }
                }
                Command::Refuse(id, error) => {
                    assert_eq!(error, FsError::NoSpace);
                    self.batches.retain(|_, batch| *batch != id);
                    assert!(self.waits.remove(&id), "refused twice, never waited, or an attach");
                }
                Command::Reap(ino) => {
                    assert!(self.orphans.contains(&ino), "{ino} was not orphaned, or reaped twice");
                    assert!(!self.opens.keys().any(|(_, open)| *open == ino), "announced while open");
                    self.announced.push(ino);
                }
                Command::ScanOrphans => {}
            }
        }
    }

    fn reap(&mut self, ino: Ino) {
        if self.machine().reap_begins(ino) {
            assert!(self.orphans.remove(&ino), "{ino} was not orphaned, or reaped twice");
            assert!(!self.opens.keys().any(|(_, open)| *open == ino), "reaped while open");
            self.machine().reaped(ino);
        }
    }

    fn attach(&mut self) {
        self.next_session += 1;
        let session = SessionId(self.next_session);
        self.alive.push(session);
        let sole = self.machine().attach(session).sole;
        assert_eq!(sole, self.alive.len() == 1);
    }

    fn wait(&mut self, wait: Option<WaitId>) {
        self.waits.extend(wait);
    }

    /// The session's batch waits.
    fn wait_batch(&mut self, session: SessionId, wait: Option<WaitId>) {
        self.wait(wait);
        self.batches.extend(wait.map(|wait| (session, wait)));
    }

    /// Someone can always do what an event asks for: else all wait for each other.
    fn check_progress(&self) {
        let blocked = |(session, _): &(SessionId, u64)| self.batches.contains_key(session);
        let stuck = !self.owed.is_empty() && self.owed.iter().all(blocked);
        assert!(!stuck, "batches wait in a circle: {:?}", self.batches);
    }

    /// The invariants of data leases.
    fn check(&mut self) {
        let opens = self.opens.clone();
        let leases = self.machine();
        for (ino, file) in &leases.files {
            assert!(!file.holders.is_empty(), "{ino} is kept for nobody");
            let cached = |holder: &&Holder| holder.caching == Caching::Cached;
            let caching = file.holders.iter().filter(cached).count();
            let writers = file.holders.iter().filter(|holder| cached(holder) && holder.writers > 0).count();
            assert!(writers == 0 || (writers == 1 && caching == 1), "{ino}: {file:?}");
            assert!(writers == 0 || file.holders.len() == 1, "a caching writer is alone: {file:?}");
            for holder in &file.holders {
                let known = opens.get(&(holder.session, *ino));
                assert_eq!(known, Some(&(holder.opens, holder.writers)), "{ino}");
            }
        }
        let held: usize = leases.files.values().map(|file| file.holders.len()).sum();
        assert_eq!(held, opens.len());
        let counted: u64 = leases.members.values().map(|member| member.open_files).sum();
        assert_eq!(counted, held as u64);
    }

    fn step(&mut self, rng: &mut StdRng) {
        let Some(&session) = self.alive.choose(rng) else {
            if self.attaching.is_none() {
                self.begin_attach();
            }
            return;
        };
        let ino = Ino(rng.random_range(2..8));
        let entry = self.opens.get(&(session, ino)).copied();
        match rng.random_range(0..100) {
            0..30 => {
                let write = rng.random_bool(0.5);
                let opened = self.machine().open(session, ino, write).unwrap();
                let (opens, writers) = entry.unwrap_or_default();
                self.opens.insert((session, ino), (opens + 1, writers + u32::from(write)));
                self.wait(opened.wait);
            }
            30..55 => self.close(session, ino, entry, rng),
            55..62 => {
                let wait = self.machine().look(session, &[ino, Ino(2), Ino(3)]);
                self.wait(wait);
            }
            62..68 if !self.batches.contains_key(&session) => {
                let wait = self.machine().before_change(session, &[ino]);
                self.wait_batch(session, wait);
            }
            68..73 if !self.batches.contains_key(&session) => {
                let wait = self.machine().after_change(session, &[ino]);
                self.wait_batch(session, wait);
            }
            62..73 => {}
            73..90 => self.acknowledge(rng),
            90..92 => {
                self.orphans.insert(ino);
                self.machine().orphan(ino);
            }
            92..94 => {
                let waits: Vec<WaitId> = self.waits.iter().copied().collect();
                if let Some(wait) = waits.choose(rng) {
                    self.waits.remove(wait);
                    self.batches.retain(|_, batch| batch != wait);
                    self.machine().cancel(*wait);
                }
            }
            94..96 => self.end(session),
            96..98 if self.attaching.is_none() && self.alive.len() < 5 => self.begin_attach(),
            _ => {
                let opens: Vec<OpenState> = (self.opens.iter())
                    .filter(|((of, _), _)| *of == session)
                    .map(|((_, ino), (opens, writers))| OpenState {
                        ino: *ino,
                        opens: *opens,
                        writers: *writers,
                    })
                    .collect();
                self.machine().attach_again(session, &opens).unwrap();
            }
        }
    }

    fn begin_attach(&mut self) {
        match self.machine().attaching() {
            Some(wait) => self.attaching = Some(wait),
            None => self.attach(),
        }
    }

    fn close(&mut self, session: SessionId, ino: Ino, entry: Option<(u32, u32)>, rng: &mut StdRng) {
        let Some((opens, writers)) = entry else { return };
        let item =
            CloseItem { ino, opens: rng.random_range(0..=opens), writers: rng.random_range(0..=writers) };
        let left = (opens - item.opens, writers - item.writers);
        if left == (0, 0) {
            self.opens.remove(&(session, ino));
        } else {
            self.opens.insert((session, ino), left);
        }
        self.machine().close(session, item);
    }

    fn acknowledge(&mut self, rng: &mut StdRng) {
        let able = |at: &usize| !self.batches.contains_key(&self.owed[*at].0);
        let able: Vec<usize> = (0..self.owed.len()).filter(able).collect();
        if let Some(&at) = able.choose(rng) {
            let (session, id) = self.owed.swap_remove(at);
            if rng.random_bool(0.8) || !self.machine().refuse(session, id, FsError::NoSpace) {
                self.machine().acknowledge(session, id);
            }
        }
    }

    fn end(&mut self, session: SessionId) {
        self.alive.retain(|other| *other != session);
        self.opens.retain(|(of, _), _| *of != session);
        self.owed.retain(|(of, _)| *of != session);
        self.batches.remove(&session);
        self.machine().end(session);
    }

    fn finish(&mut self, rng: &mut StdRng) {
        while !self.owed.is_empty() {
            self.check_progress();
            self.acknowledge(rng);
            self.drain();
        }
        assert!(self.waits.is_empty(), "every wait ends by acknowledgements: {:?}", self.waits);
        for session in self.alive.clone() {
            self.end(session);
            self.drain();
            while let Some((session, id)) = self.owed.pop() {
                self.machine().acknowledge(session, id);
                self.drain();
            }
        }
        for session in self.alive.clone() {
            self.end(session);
            self.drain();
        }
        for ino in std::mem::take(&mut self.announced) {
            self.reap(ino);
        }
        assert!(self.orphans.is_empty(), "all are reaped in the end");
        let leases = self.machine();
        assert!(leases.files.is_empty() && leases.recalls.is_empty() && leases.reaping.is_empty());
        assert!(leases.lock_waiters.is_empty() && leases.members.is_empty());
    }
}

#[test]
fn random_histories_keep_the_invariants() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World { leases: Some(Leases::new(0, [])), ..World::default() };
        for _ in 0..600 {
            world.step(&mut rng);
            world.drain();
            if !world.announced.is_empty() && rng.random_bool(0.2) {
                let ino = world.announced.swap_remove(rng.random_range(0..world.announced.len()));
                world.reap(ino);
            }
            world.check();
            world.check_progress();
        }
        world.finish(&mut rng);
    }
}
