//! Blocks of a mount: put to the data daemon that the real rules choose, put again where that fails or is silent, read, and
//! checked.

use super::{Asked, DATA_LINKS, MountTimer, Process, data_link, passes};
use crate::data::{Answer, Call, daemon_at};
use crate::mount::Purpose;
use crate::net::{Peer, Tag};
use crate::work::{self, Stretches};
use crate::world::{MILLI, SECOND, World};
use bytes::Bytes;
use cairn_common::env::Clock;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, NodeId};
use cairn_common::proto::data::{GetRequest, PutRequest};
use cairn_common::proto::meta::MetaServiceRequest as Ask;
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::piece_checksums;
use cairn_mountd::client::nodes::Tries;
use rand::Rng;

/// A put that is not answered is repeated.
const PUT_DEADLINE: u64 = 30 * SECOND;

/// A block that is to be stored.
pub struct Write {
    /// The bytes of all stretches, and a summary.
    payload: Payload,
    summary_len: u32,
    stretches: Stretches,
    tries: Tries,
    /// The call under way, and whose answer it waits for. Answers to those before count no more.
    asked: Option<(u64, NodeId)>,
    /// Counts what happens to it, so that only the last timer counts.
    turn: u64,
    /// A daemon's disk was full or failed.
    refused: Option<usize>,
}

impl Write {
    pub fn new(payload: Payload, summary_len: u32, stretches: Stretches) -> Write {
        let tries = Tries::default();
        Write { payload, summary_len, stretches, tries, asked: None, turn: 0, refused: None }
    }

    fn waits_for(&self, call: u64) -> bool {
        self.asked.is_some_and(|(asked, _)| asked == call)
    }
}

impl Process {
    /// The block that a call is to store, unless it was given up.
    fn write_of(&self, call: u64) -> Option<u64> {
        self.writes.iter().find(|(_, write)| write.waits_for(call)).map(|(id, _)| *id)
    }
}

impl World {
    /// A time after which a call is given up, or is made again, is over.
    pub fn put_again(&mut self, index: usize, id: u64, turn: u64) {
        let Some(process) = self.process(index) else { return };
        process.reads.remove(&id);
        if process.writes.get(&id).is_some_and(|write| write.turn == turn) {
            self.put(index, id);
        }
    }

    pub fn put(&mut self, index: usize, id: u64) {
        let (life, now) = (self.mounts[index].life, self.mounts[index].clock.instant());
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let (Some(write), Some(session)) = (process.writes.get_mut(&id), process.session) else { return };
        if let Some((_, silent)) = write.asked.take() {
            process.nodes.failed(silent, now);
        }
        write.turn += 1;
        let Some((node, address)) = process.nodes.choose(now, write.tries.full()) else {
            return self.put_later(index, id);
        };
        let (call, turn) = (process.next_call, write.turn);
        process.next_call += 1;
        write.asked = Some((call, node));
        let (payload, summary_len) = (write.payload.clone(), write.summary_len);
        let checksums = piece_checksums(payload.segments());
        let request = PutRequest { session, summary_len, checksums, payload };
        let at = daemon_at(&address);
        let tag = Tag { peer: Peer::Mount(index), life, link: data_link(at), call };
        self.send_to_data(tag, at, Call::Put(request));
        self.mount_timer(index, PUT_DEADLINE, MountTimer::PutAgain { id, turn });
    }

    /// With a newer map, where there is one by then.
    fn put_later(&mut self, index: usize, id: u64) {
        self.ask_for_map(index);
        let after = self.rng.random_range(20 * MILLI..SECOND);
        let Some(write) = self.process(index).and_then(|process| process.writes.get_mut(&id)) else { return };
        write.turn += 1;
        let turn = write.turn;
        self.mount_timer(index, after, MountTimer::PutAgain { id, turn });
    }

    fn ask_for_map(&mut self, index: usize) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.attached && !process.is_asking(|asked| matches!(asked, Asked::Map)) {
            let known_epoch = process.nodes.epoch();
            self.ask(index, Asked::Map, &Ask::ClusterMap { known_epoch });
        }
    }

    pub fn read(&mut self, index: usize) {
        let life = self.mounts[index].life;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let extent = process.own.as_ref().and_then(|own| own.some_extent(&mut self.rng));
        let Some((block, offset, length)) = extent else { return };
        let Some((_, address)) = process.nodes.holder(block.volume) else {
            return self.ask_for_map(index);
        };
        let (id, at) = (process.next_call, daemon_at(&address));
        process.next_call += 1;
        process.reads.insert(id, (block, offset, length));
        let tag = Tag { peer: Peer::Mount(index), life, link: data_link(at), call: id };
        self.send_to_data(tag, at, Call::Get(GetRequest { block, offset, length }));
        // Not repeated: the next read will do.
        self.mount_timer(index, PUT_DEADLINE, MountTimer::PutAgain { id, turn: 0 });
    }

    /// A put or a get has failed at daemon `at`.
    pub fn data_call_failed(&mut self, index: usize, at: usize, call: u64, error: FsError) {
        let (node, now) = (self.datas[at].node, self.mounts[index].clock.instant());
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        process.reads.remove(&call);
        let (Some(id), Some(node)) = (process.write_of(call), node) else { return };
        let Some(write) = process.writes.get_mut(&id) else { return };
        process.nodes.failed(node, now);
        write.asked = None;
        if matches!(error, FsError::Io | FsError::NoSpace) {
            write.refused = Some(at);
        }
        if !write.tries.go_on(node, error) || !write.tries.may_help(error, &process.nodes) {
            // What comes is another put.
            write.tries = Tries::default();
        }
        self.put_later(index, id);
    }

    pub fn mount_hears_data(&mut self, tag: Tag, answer: Answer) {
        let Peer::Mount(index) = tag.peer else { return };
        if tag.life != self.mounts[index].life {
            return;
        }
        let at = (tag.link - DATA_LINKS) as usize;
        match answer {
            Answer::Put(Ok(block)) => self.stored(index, at, tag.call, block),
            Answer::Get(Ok((first, bytes))) => self.check_read(index, tag.call, first, &bytes),
            Answer::Put(Err(error)) | Answer::Get(Err(error)) => {
                self.check_data_error(index, tag.call, error);
                assert!(passes(error) || error == FsError::NotFound, "data answers {error}");
                self.data_call_failed(index, at, tag.call, error);
            }
        }
    }

    /// A block is on stable storage: now its stretches may become visible.
    fn stored(&mut self, index: usize, at: usize, call: u64, block: BlockRef) {
        let time = self.mounts[index].clock.now();
        let node = self.datas[at].node.expect("it gave the block a volume");
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        process.nodes.learn(block.volume, node);
        // A second answer, to a repeated put: its block is never committed.
        let Some(id) = process.write_of(call) else { return };
        let Some(write) = process.writes.remove(&id) else { return };
        self.record.elsewhere += u64::from(write.refused.is_some_and(|refused| refused != at));
        let bytes = write.payload.into_bytes();
        let length = bytes.len() as u32;
        self.record.stores(block, bytes);
        let files = process.files();
        if let Some(body) = work::commit((block, length), &write.stretches, &files, time) {
            self.record.commits += 1;
            self.submit(index, body, Purpose::Own);
            self.mount_ready(index);
        }
    }

    fn check_read(&mut self, index: usize, id: u64, first: u32, bytes: &Bytes) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some((block, offset, length)) = process.reads.remove(&id) else { return };
        let whole = &self.record.blocks[&block].bytes;
        let expected = &whole[first as usize..first as usize + bytes.len()];
        assert!(bytes == expected, "mount {index} reads other bytes of {block} than were written");
        assert!(first <= offset && first as usize + bytes.len() >= (offset + length) as usize);
        self.record.reads += 1;
    }

    /// A block may be gone only if the file has changed since it was asked for, or what is live of the block was moved.
    fn check_data_error(&mut self, index: usize, id: u64, error: FsError) {
        let Some(process) = self.mounts[index].process.as_ref() else { return };
        let Some((block, ..)) = process.reads.get(&id) else { return };
        let uses = process.own.as_ref().is_some_and(|own| own.uses(*block));
        let deleted = self.record.blocks[block].deleted;
        assert!(
            error != FsError::NotFound || !uses || deleted,
            "block {block} of a file of mount {index} is gone"
        );
    }
}
