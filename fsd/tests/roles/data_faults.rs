//! One call of the disk fails, whichever it is: what is answered is right or an error, nobody waits for ever, the store goes
//! on in the same life, and the next has all that was acknowledged.
//!
//! The failure is met in a life that begins with what another left: nothing, volumes that were closed in order, or those of a
//! process that was killed. After it the store is killed, or stopped as far as it can be, and the power may go as well.

use crate::data_common::{Ids, content, open, put_request};
use crate::data_crash::{Model, VOLUME};
use cairn_fsd::data::Store;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::disk::sweep::{Failing, sweep};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;

/// Of operations in one life: about twice a volume.
const ROUNDS: usize = 6;

/// How a life ends in which a call may have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

/// What a life begins with.
#[derive(Clone, Default)]
struct Course {
    model: Model,
    ids: Arc<Ids>,
}

#[test]
fn one_failing_call_in_a_new_directory() {
    sweep_from(async |_| SimDisk::new());
}

#[test]
fn one_failing_call_after_an_orderly_end() {
    sweep_from(async |course| {
        let disk = SimDisk::new();
        course.begin(&disk).await.stop().await.unwrap();
        disk
    });
}

#[test]
fn one_failing_call_after_a_crash() {
    sweep_from(async |course| {
        let disk = SimDisk::new();
        let _store = course.begin(&disk).await;
        disk.kill()
    });
}

/// Lives that begin with the directory that `prepare` makes.
fn sweep_from(prepare: impl AsyncFnOnce(&mut Course) -> SimDisk) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut course = Course::default();
    let disk = runtime.block_on(prepare(&mut course));
    for end in [End::Killed, End::Stopped] {
        let met = sweep(&disk, |disk, failing| {
            let course = course.clone();
            async move { course.run(&disk, failing, end).await }
        });
        println!("failures met: {met:?}");
        assert!(met.iter().all(|(_, count)| *count > 0), "{met:?}");
    }
}

impl Course {
    /// The first life.
    async fn begin(&mut self, disk: &SimDisk) -> Arc<Store> {
        let store = open(disk, VOLUME, &self.ids).await.unwrap();
        self.model.operate(&store, &mut StdRng::seed_from_u64(1), ROUNDS).await;
        assert_eq!(self.model.refused, 0);
        store
    }

    /// A life on a disk of which one call fails, its end, and what is found afterwards.
    async fn run(mut self, disk: &SimDisk, failing: Failing, end: End) {
        let context = format!("{failing:?}, {end:?}");
        let opened = open(disk, VOLUME, &self.ids).await;
        match &opened {
            Ok(store) => self.live(store, disk, &context).await,
            Err(error) => assert!(disk.failures() > 0, "{context}: {error}"),
        }
        self.check(&disk.power_cycle(failing.nth), &context).await;
        if end == End::Stopped
            && let Ok(store) = &opened
        {
            let stopped = store.stop().await;
            assert!(stopped.is_ok() || disk.failures() > 0, "{context}: {stopped:?}");
        }
        let killed = disk.kill();
        drop(opened);
        let later = self.check(&killed, &context).await;
        later.check(&killed.power_cycle(failing.nth), &format!("{context}, then without power")).await;
    }

    async fn live(&mut self, store: &Store, disk: &SimDisk, context: &str) {
        self.model.operate(store, &mut StdRng::seed_from_u64(2), ROUNDS).await;
        self.model.look(store, context).await;
        assert!(self.model.refused == 0 || disk.failures() > 0, "{context}: refused without a failure");
        if disk.failures() > 0 {
            // What failed once is done in another way.
            let stored = store.put(put_request(content(0, 1000))).await;
            assert!(stored.is_ok(), "{context}: {stored:?}");
        }
    }

    /// What a start on a disk that works again finds, and that it takes blocks.
    async fn check(&self, disk: &SimDisk, context: &str) -> Course {
        let mut later = self.clone();
        later.model.refused = 0;
        let store = open(disk, VOLUME, &later.ids).await.unwrap();
        later.model.check(&store, context).await;
        later.model.operate(&store, &mut StdRng::seed_from_u64(3), 1).await;
        assert_eq!(later.model.refused, 0, "{context}: refused without a failure");
        later
    }
}
