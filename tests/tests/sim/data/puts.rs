//! Blocks that come in: written at once, answered when they are on stable storage. A sync takes its time, and what is written
//! meanwhile is for the next.

use super::{Answer, DataTimer, Running};
use crate::net::{Peer, Tag};
use crate::world::World;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::proto::data::PutRequest;
use cairn_fsd::data::lanes::{Put, PutJob, PutOutcome};
use cairn_fsd::data::volume::segment::Turn;
use cairn_fsd::data::volume::{Volume, volume_name};
use std::sync::Arc;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot};

/// The puts of one process that are not answered.
pub(super) struct Incoming {
    in_flight: Arc<Semaphore>,
    /// What the lanes have taken.
    written: Vec<(Tag, oneshot::Receiver<PutOutcome>)>,
    /// For which there is no volume yet.
    waiting: Vec<(Tag, Put)>,
    /// Syncs that are under way.
    syncs: Vec<(Arc<Volume>, Turn)>,
}

impl Default for Incoming {
    fn default() -> Incoming {
        let in_flight = Arc::new(Semaphore::new(1024));
        Incoming { in_flight, written: Vec::new(), waiting: Vec::new(), syncs: Vec::new() }
    }
}

impl Incoming {
    pub fn is_syncing(&self, volume: VolumeId) -> bool {
        self.syncs.iter().any(|(syncing, _)| syncing.id() == volume)
    }

    pub fn is_any_syncing(&self) -> bool {
        !self.syncs.is_empty()
    }

    pub fn lacks_volume(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn take_waiting(&mut self) -> Vec<(Tag, Put)> {
        std::mem::take(&mut self.waiting)
    }

    fn begin(&self, request: PutRequest) -> Put {
        let permit = self.in_flight.clone().try_acquire_owned().expect("there are plenty");
        Put { request, permit, has_failed: false }
    }

    /// What has become of them meanwhile.
    fn outcomes(&mut self) -> Vec<(Tag, FsResult<BlockRef>)> {
        let mut answers = Vec::new();
        for (tag, mut outcome) in std::mem::take(&mut self.written) {
            match outcome.try_recv() {
                Ok(PutOutcome::Done(result)) => answers.push((tag, result)),
                Ok(PutOutcome::NoVolume(put)) => self.waiting.push((tag, put)),
                Err(TryRecvError::Empty) => self.written.push((tag, outcome)),
                Err(TryRecvError::Closed) => panic!("each job is answered"),
            }
        }
        answers
    }
}

impl Running {
    /// Writes blocks as one lane does; into which volumes.
    fn write(&mut self, puts: Vec<(Tag, Put)>) -> Vec<Arc<Volume>> {
        let (queue, jobs) = crossbeam_channel::unbounded();
        for (tag, put) in puts {
            let (reply, outcome) = oneshot::channel();
            assert!(queue.send(PutJob { put, reply }).is_ok());
            self.incoming.written.push((tag, outcome));
        }
        drop(queue);
        let mut volumes = Vec::new();
        self.lanes.run_with(&jobs, |volume| volumes.push(volume.clone()));
        volumes
    }
}

impl World {
    pub(super) fn data_put(&mut self, at: usize, tag: Tag, request: PutRequest) {
        let Some(running) = self.datas[at].running.as_ref() else { return };
        let put = running.incoming.begin(request);
        self.data_puts(at, vec![(tag, put)]);
    }

    /// Those among them that waited for a volume were begun before.
    pub(super) fn data_puts(&mut self, at: usize, puts: Vec<(Tag, Put)>) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        for volume in running.write(puts) {
            self.data_syncs(at, &volume);
        }
        self.data_answers(at);
    }

    /// As the lane that wrote: it syncs, unless another is at it, who will see to what was written meanwhile.
    fn data_syncs(&mut self, at: usize, volume: &Arc<Volume>) {
        let time = self.sync_time();
        let Some(turn) = volume.segment().begin_sync() else { return };
        if time == 0 {
            return volume.segment().sync(turn, &**volume);
        }
        self.datas[at].disk.begin_sync(&volume_name(volume.id()));
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.incoming.syncs.push((volume.clone(), turn));
        self.data_timer(at, time, DataTimer::Synced(volume.id()));
    }

    pub(super) fn data_synced(&mut self, at: usize, id: VolumeId) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let syncs = &mut running.incoming.syncs;
        let ends = syncs.iter().position(|(volume, _)| volume.id() == id).expect("its sync has begun");
        let (volume, turn) = syncs.swap_remove(ends);
        volume.segment().sync(turn, &*volume);
        self.data_syncs(at, &volume);
        self.data_answers(at);
        self.data_power_check(at);
    }

    /// Answers whatever can be answered now.
    fn data_answers(&mut self, at: usize) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let answers = running.incoming.outcomes();
        running.do_chores();
        for (tag, answer) in answers {
            if matches!(tag.peer, Peer::Data(_)) {
                self.clean_is_stored(at, answer);
                continue;
            }
            let data = &mut self.datas[at];
            data.full |= answer == Err(FsError::NoSpace);
            self.record.puts_without_room += u64::from(answer == Err(FsError::NoSpace));
            self.record.puts_with_room_again += u64::from(answer.is_ok() && std::mem::take(&mut data.full));
            self.send_from_data(tag, at, Answer::Put(answer));
        }
        self.plan_ask(at, 0);
    }
}
