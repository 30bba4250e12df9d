//! Each single call of a disk made to fail, one in each run: for tests.

use super::sim::{Call, SimDisk};
use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// A run takes milliseconds; one that takes this long waits for what never comes.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// What fails in one run: the `nth` call of a kind, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub call: Call,
    pub nth: u64,
}

/// For each kind of call, and for n from 0 on: `run` gets a copy of `disk` whose n-th call of that kind fails, once, until a
/// run does not meet the failure. Answers how many did, for each kind.
///
/// # Panics
/// If a run does, or does not end.
pub fn sweep<F>(disk: &SimDisk, run: impl Fn(SimDisk, Failing) -> F) -> Vec<(Call, u64)>
where
    F: Future<Output = ()> + Send + 'static,
{
    let count = |call| (0..).find(|nth| !meets(disk, &run, Failing { call, nth: *nth })).expect("runs end");
    Call::ALL.into_iter().map(|call| (call, count(call))).collect()
}

/// One run; true if it met the failure.
fn meets<F>(disk: &SimDisk, run: &impl Fn(SimDisk, Failing) -> F, failing: Failing) -> bool
where
    F: Future<Output = ()> + Send + 'static,
{
    let disk = disk.kill();
    disk.fail_once(failing.call, failing.nth, io::ErrorKind::Other);
    // One of its own: nothing that an earlier run left behind takes its threads.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("start threads");
    run_bounded(runtime, run(disk.clone(), failing), failing);
    disk.failures() > 0
}

fn run_bounded(runtime: Runtime, run: impl Future<Output = ()> + Send + 'static, failing: Failing) {
    let ended = runtime.block_on(async { tokio::time::timeout(HANGS_AFTER, tokio::spawn(run)).await });
    // Its threads are not waited for: one of them may be what hangs.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(panicked)) => panic!("{failing:?}: {panicked}"),
        Err(_late) => panic!("{failing:?}: hangs"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::{Disk, write_all_at};
    use std::sync::Mutex;

    #[test]
    fn each_call_fails_once_and_the_disk_begins_as_it_was() {
        let disk = SimDisk::new();
        disk.create("f").unwrap();
        let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
        let counts = sweep(&disk, |disk, failing| {
            let seen = seen.clone();
            async move {
                assert_eq!(disk.list().unwrap_or(vec!["f".into()]), ["f"]);
                let failed = (0..3).filter(|n| disk.create(&format!("{n}")).is_err()).count();
                let file = disk.open("f");
                let written = file.and_then(|file| write_all_at(&*file, &[&[1]], 0));
                seen.lock().unwrap().push((failing, failed, written.is_ok()));
            }
        });
        let met = |call: Call| counts.iter().find(|(of, _)| *of == call).unwrap().1;
        assert_eq!(Call::ALL.map(met), [2, 1, 0, 0, 0, 3]);
        for (failing, failed, written) in &*seen.lock().unwrap() {
            let name_fails = failing.call == Call::Name && failing.nth < 3;
            assert_eq!(*failed, usize::from(name_fails), "{failing:?}");
            let write_fails = matches!((failing.call, failing.nth), (Call::Read, 1) | (Call::Write, 0));
            assert_eq!(*written, !write_fails, "{failing:?}");
        }
    }

    #[test]
    #[should_panic(expected = "Failing { call: Write, nth: 0 }")]
    fn a_run_that_panics_is_named() {
        sweep(&SimDisk::new(), |disk, _| async move {
            let file = disk.create("f").unwrap();
            write_all_at(&*file, &[&[1]], 0).unwrap();
        });
    }
}
