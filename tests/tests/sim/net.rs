//! The network: each message takes its own time, so they overtake each other; while faults last some are lost, some
//! arrive twice, and connections break.

use crate::data::{Answer, Call};
use crate::world::{Event, MILLI, Micros, SECOND, World};
use bytes::Bytes;
use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse};
use cairn_common::wire::codec;
use rand::Rng;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Mount(usize),
    Data(usize),
    /// The metadata daemon asked itself.
    Nobody,
}

/// Whose call this is: of which process, over which of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub peer: Peer,
    pub life: u64,
    pub link: u64,
    pub call: u64,
}

/// What is wrong with the network.
#[derive(Default)]
pub struct Net {
    /// Who does not get through, and until when.
    away: Vec<(Peer, Micros, Direction)>,
}

/// Which way nothing gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Both,
    ToServer,
    FromServer,
}

impl Net {
    pub fn partition(&mut self, peer: Peer, until: Micros, direction: Direction) {
        self.away.push((peer, until, direction));
    }

    pub fn heal(&mut self) {
        self.away.clear();
    }

    fn is_away(&mut self, peer: Peer, now: Micros, to_server: bool) -> bool {
        self.away.retain(|(_, until, _)| *until > now);
        self.away.iter().any(|(who, _, direction)| {
            *who == peer
                && match direction {
                    Direction::Both => true,
                    Direction::ToServer => to_server,
                    Direction::FromServer => !to_server,
                }
        })
    }
}

/// Requests that a server may get twice: their senders repeat them over a new connection while the old one's may still be
/// on its way.
fn may_repeat(request: &MetaServiceRequest) -> bool {
    use MetaServiceRequest as Asked;
    match request {
        Asked::Apply { .. }
        | Asked::Sync { .. }
        | Asked::Acknowledge { .. }
        | Asked::Detach { .. }
        | Asked::AllocateInos { .. }
        | Asked::Events { .. }
        | Asked::ClusterMap { .. } => true,
        // Of data daemons.
        Asked::Register { .. }
        | Asked::Report { .. }
        | Asked::CreateVolume { .. }
        | Asked::Blocks { .. }
        | Asked::LivePieces { .. }
        | Asked::Ended { .. }
        | Asked::Fates { .. } => true,
        _ => false,
    }
}

impl World {
    fn delay(&mut self) -> Micros {
        match self.rng.random_range(0..1000) {
            _ if self.now >= self.plan.horizon => self.rng.random_range(50..500),
            0..900 => self.rng.random_range(50..500),
            900..990 => self.rng.random_range(MILLI..50 * MILLI),
            _ => self.rng.random_range(50 * MILLI..3 * SECOND),
        }
    }

    /// True if a message is lost.
    fn is_lost(&mut self, peer: Peer, to_server: bool) -> bool {
        if self.now >= self.plan.horizon {
            return false;
        }
        let loss = self.plan.loss_permille;
        self.rng.random_range(0..1000) < loss || self.net.is_away(peer, self.now, to_server)
    }

    fn is_repeated(&mut self) -> bool {
        self.now < self.plan.horizon && self.rng.random_range(0..1000) < self.plan.repeat_permille
    }

    /// `life`: the process at the other end of the connection.
    pub fn send_to_meta(&mut self, tag: Tag, life: u64, request: &MetaServiceRequest) {
        let bytes = Bytes::from(codec::encode(request).expect("requests of the simulation fit a frame"));
        if may_repeat(request) && self.is_repeated() {
            let after = self.delay() + self.rng.random_range(0..SECOND);
            self.record.repeats += 1;
            self.schedule(after, Event::ToMeta { tag, life, request: bytes.clone() });
        }
        if self.is_lost(tag.peer, true) {
            return;
        }
        let after = self.delay();
        self.schedule(after, Event::ToMeta { tag, life, request: bytes });
    }

    pub fn send_from_meta(&mut self, tag: Tag, answer: MetaServiceResponse) {
        if self.is_lost(tag.peer, false) {
            return;
        }
        let after = self.delay();
        self.schedule(after, Event::FromMeta { tag, answer });
    }

    /// Any of them may come twice: a mount repeats what it hears no answer to.
    pub fn send_to_data(&mut self, tag: Tag, at: usize, request: Call) {
        let life = self.datas[at].life;
        if self.is_repeated() {
            let after = self.delay() + self.rng.random_range(0..SECOND);
            self.record.data_repeats += 1;
            self.schedule(after, Event::ToData { tag, at, life, request: request.clone() });
        }
        if self.is_lost(tag.peer, true) || self.is_lost(Peer::Data(at), true) {
            return;
        }
        let after = self.delay();
        self.schedule(after, Event::ToData { tag, at, life, request });
    }

    pub fn send_from_data(&mut self, tag: Tag, at: usize, answer: Answer) {
        if self.is_lost(tag.peer, false) || self.is_lost(Peer::Data(at), false) {
            return;
        }
        let after = self.delay();
        self.schedule(after, Event::FromData { tag, answer });
    }

    /// The other end of the connection is gone: the peer hears of it, at once or never.
    pub fn refuse(&mut self, tag: Tag) {
        if self.now >= self.plan.horizon || self.chance(70) {
            let after = self.delay();
            self.schedule(after, Event::Broken { tag });
        }
    }

    pub fn answer_arrives(&mut self, tag: Tag, answer: MetaServiceResponse) {
        match tag.peer {
            Peer::Mount(index) => self.mount_hears(index, tag, answer),
            Peer::Data(at) => self.data_hears(at, tag, answer),
            Peer::Nobody => {}
        }
    }

    pub fn connection_broke(&mut self, tag: Tag) {
        match tag.peer {
            Peer::Mount(index) => self.mount_lost_connection(index, tag),
            Peer::Data(at) => self.data_lost_connection(at, tag),
            Peer::Nobody => {}
        }
    }
}
