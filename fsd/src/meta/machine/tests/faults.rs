//! One call of the disk fails, whichever it is: what is answered is right or an error, nobody waits for ever, and the next
//! start has all that was durable.
//!
//! The failure is met while the directory is made, or in a life that begins with what another left: one that ended in order,
//! or one that was killed. After it the machine is killed, or closed as far as it can be, and the power may go as well.

use super::crash::{Reached, Script, begin, open_on};
use super::*;
use crate::disk::sim::{Call, SimDisk};
use crate::disk::sweep::{Failing, sweep};
use std::sync::Arc;

const SEED: u64 = 40;
const BATCHES: usize = 8;

/// How a life ends in which a call may have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    Closed,
}

/// What a life begins with, and what it does.
struct Course {
    script: Script,
    session: SessionId,
    before: Reached,
}

#[test]
fn one_failing_call_after_an_orderly_end() {
    sweep_from(async || {
        let (disk, machine, mut course) = start().await;
        course.before = course.go_on(&machine, 3).await;
        machine.shutdown().await.unwrap();
        course.before.synced = course.before.done;
        (disk, course)
    });
}

#[test]
fn one_failing_call_after_a_crash() {
    sweep_from(async || {
        let (disk, machine, mut course) = start().await;
        course.before = course.go_on(&machine, 5).await;
        assert!(course.before.synced < course.before.done, "the log has no tail that nobody synced");
        (disk.kill(), course)
    });
}

#[test]
fn one_failing_call_while_the_directory_is_made() {
    let met = sweep(&SimDisk::new(), |disk, failing| async move {
        let context = format!("{failing:?}");
        let begun = begin(&disk, SEED).await;
        assert!(begun.is_ok() || disk.failures() > 0, "{context}");
        let session = begun.as_ref().ok().map(|(_, session, _)| *session);
        for disk in [disk.power_cycle(failing.nth), disk.kill()] {
            let machine = open_on(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(machine.check().unwrap(), Vec::<String>::new(), "{context}");
            assert!(machine.read(|snapshot| snapshot.inode(Ino::ROOT)).unwrap().is_some(), "{context}");
            assert!(session.is_none_or(|session| machine.session(session).is_some()), "{context}");
        }
    });
    check_counts(&met);
}

async fn start() -> (SimDisk, Machine, Course) {
    let disk = SimDisk::new();
    let script = Script::new(SEED, &[40; BATCHES]).await;
    let (machine, session, _) = begin(&disk, SEED).await.unwrap();
    (disk, machine, Course { script, session, before: Reached::default() })
}

/// Lives that begin with the directory that `prepare` makes.
fn sweep_from(prepare: impl AsyncFnOnce() -> (SimDisk, Course)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (disk, course) = runtime.block_on(prepare());
    let course = Arc::new(course);
    for end in [End::Killed, End::Closed] {
        let met = sweep(&disk, |disk, failing| {
            let course = course.clone();
            async move { course.run(&disk, failing, end).await }
        });
        check_counts(&met);
    }
}

/// There is nothing that the log or the tables punch.
fn check_counts(met: &[(Call, u64)]) {
    println!("failures met: {met:?}");
    assert!(met.iter().all(|(call, count)| (*call == Call::Punch) == (*count == 0)), "{met:?}");
}

impl Course {
    /// As long as nothing fails.
    async fn go_on(&self, machine: &Machine, end: usize) -> Reached {
        let mut reached = Reached::default();
        self.script.go_on(machine, self.session, end, &mut reached).await.unwrap();
        reached
    }

    /// A life on a disk of which one call fails, its end, and what is found afterwards.
    async fn run(&self, disk: &SimDisk, failing: Failing, end: End) {
        let context = format!("{failing:?}, {end:?}");
        let mut reached = self.before;
        let machine = open_on(disk);
        match &machine {
            Ok(machine) => {
                // Once the tables are read by who looks, once by what applies and stores.
                if end == End::Killed {
                    self.look(machine, disk, &context);
                }
                self.live(machine, disk, &mut reached, &context).await;
            }
            Err(error) => {
                assert!(disk.failures() > 0, "{context}: {error}");
                assert!(!error.to_string().contains("panicked"), "{context}: {error}");
            }
        }
        let context = format!("{context}, {reached:?}");
        self.check(&disk.power_cycle(failing.nth), reached.synced, &context);
        if end == End::Closed
            && let Ok(machine) = &machine
        {
            close(machine, disk, &mut reached, &context).await;
        }
        let killed = disk.kill();
        drop(machine);
        // What was answered is in the kernel's memory at least, which a failed sync takes back.
        let kept = if failing.call == Call::Sync { reached.synced } else { reached.done };
        self.check(&killed, kept, &context);
        self.check(&killed.power_cycle(failing.nth), kept, &format!("{context}, then without power"));
    }

    /// Does what is left of the script, and looks at all of it.
    async fn live(&self, machine: &Machine, disk: &SimDisk, reached: &mut Reached, context: &str) {
        let gone_on = self.script.go_on(machine, self.session, BATCHES, reached).await;
        assert!(gone_on.is_ok() || disk.failures() > 0, "{context}: {gone_on:?}");
        self.look(machine, disk, context);
        let failure = machine.inner.shared.failure.borrow().clone().unwrap_or_default();
        assert!(failure.is_empty() || disk.failures() > 0, "{context}: {failure}");
        assert!(!failure.contains("panicked"), "{context}: {failure}");
    }

    fn look(&self, machine: &Machine, disk: &SimDisk, context: &str) {
        let applied = machine.session(self.session).unwrap().applied;
        match machine.read(|snapshot| snapshot.dump()) {
            Ok(tables) => assert!(tables == *self.script.tables_at(applied), "{context}: other tables"),
            Err(error) => {
                assert_eq!(error, FsError::Io, "{context}");
                assert!(disk.failures() > 0, "{context}");
                // redb answers nothing more: the daemon has to begin anew.
                assert!(
                    machine.inner.shared.failure.borrow().is_some(),
                    "{context}: goes on without its tables"
                );
            }
        }
    }

    /// What a start on a disk that works again finds.
    fn check(&self, disk: &SimDisk, least: Seq, context: &str) {
        let machine = open_on(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        self.script.check(&machine, self.session, least, context);
        assert_eq!(machine.check().unwrap(), Vec::<String>::new(), "{context}");
    }
}

/// What was answered is durable after an orderly end.
async fn close(machine: &Machine, disk: &SimDisk, reached: &mut Reached, context: &str) {
    match machine.shutdown().await {
        Ok(()) => reached.synced = reached.done,
        Err(error) => assert!(disk.failures() > 0, "{context}: {error}"),
    }
}
