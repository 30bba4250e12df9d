//! What the data daemon asks of the metadata daemon: a number, volumes, what to delete, and what its cleaner asks.

use super::{DataTimer, IDENTITY, LIMITS, REPORT_EVERY, RETRY, owner};
use crate::net::{Peer, Tag};
use crate::say;
use crate::world::{Micros, SECOND, World};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::proto::data::DataStat;
use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse, RegisterRequest, ReportRequest};
use cairn_fsd::data::volume::Volume;
use cairn_fsd::disk::is_full;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where mounts find a daemon.
fn address(at: usize) -> String {
    format!("data{at}:1")
}

/// The daemon at an address.
pub fn daemon_at(address: &str) -> usize {
    let number = address.strip_prefix("data").and_then(|rest| rest.strip_suffix(":1"));
    number.and_then(|number| number.parse().ok()).expect("an address of this world")
}

/// How long it waits for an answer.
const DEADLINE: Micros = 5 * SECOND;

impl World {
    pub(super) fn data_tag(&self, at: usize, call: u64) -> Tag {
        Tag { peer: Peer::Data(at), life: self.datas[at].life, link: 0, call }
    }

    /// Sends a call; its number.
    pub(super) fn data_calls(&mut self, at: usize, request: &MetaServiceRequest) -> Option<u64> {
        let running = self.datas[at].running.as_mut()?;
        running.calls += 1;
        let call = running.calls;
        self.send_to_meta(self.data_tag(at, call), self.meta.life, request);
        self.data_timer(at, DEADLINE, DataTimer::Deadline(call));
        Some(call)
    }

    /// One call at a time, beside the cleaner's.
    fn data_asks(&mut self, at: usize, request: &MetaServiceRequest) {
        let call = self.data_calls(at, request);
        if let Some(running) = self.datas[at].running.as_mut() {
            running.asked = call;
        }
    }

    fn is_asking(&self, at: usize) -> bool {
        self.datas[at].running.as_ref().is_none_or(|running| running.asked.is_some())
    }

    pub(super) fn data_registers(&mut self, at: usize) {
        if self.is_asking(at) {
            return self.data_timer(at, RETRY, DataTimer::Register);
        }
        let request = RegisterRequest {
            node: self.datas[at].node,
            identity: IDENTITY + at as u128,
            address: address(at),
        };
        self.data_asks(at, &MetaServiceRequest::Register { request });
    }

    pub(super) fn data_wants_volume(&mut self, at: usize) {
        let data = &mut self.datas[at];
        let Some(running) = data.running.as_mut() else { return };
        running.ask_planned = false;
        let Some(node) = data.node.filter(|_| running.wants_volume) else { return };
        if self.is_asking(at) {
            return self.plan_ask(at, RETRY / 10);
        }
        self.data_asks(at, &MetaServiceRequest::CreateVolume { node });
    }

    pub(super) fn data_reports(&mut self, at: usize) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.report_planned = false;
        let Some(node) = self.datas[at].node else { return };
        if self.is_asking(at) {
            return self.plan_report(at, RETRY / 10);
        }
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let deleted = std::mem::take(&mut running.deleted);
        let stat = DataStat {
            node,
            capacity: 1 << 40,
            available: 1 << 39,
            puts: 0,
            gets: 0,
            put_bytes: 0,
            get_bytes: 0,
            syncs: 0,
            volumes: running.volumes.values().map(|volume| volume.stat()).collect(),
        };
        self.data_asks(at, &MetaServiceRequest::Report { request: ReportRequest { stat, deleted } });
    }

    /// The network breaks the connection; what is on its way may still arrive.
    pub fn data_cut(&mut self, at: usize) {
        let Some(running) = self.datas[at].running.as_ref() else { return };
        let calls = [running.asked, running.cleaning.call(), running.search.call()];
        for call in calls.into_iter().flatten() {
            self.data_lost_connection(at, self.data_tag(at, call));
        }
    }

    pub fn data_lost_connection(&mut self, at: usize, tag: Tag) {
        let data = &mut self.datas[at];
        let Some(running) = data.running.as_mut() else { return };
        if tag.life != data.life {
            return;
        }
        if running.asked == Some(tag.call) {
            running.asked = None;
            self.data_timer(at, RETRY, DataTimer::Register);
        } else if running.cleaning.waits_for(tag.call) {
            self.clean_is_lost(at);
        } else if running.search.waits_for(tag.call) {
            self.search_is_lost(at);
        }
    }

    pub fn data_hears(&mut self, at: usize, tag: Tag, answer: MetaServiceResponse) {
        let data = &mut self.datas[at];
        let Some(running) = data.running.as_mut() else { return };
        if tag.life != data.life {
            return;
        }
        if running.asked == Some(tag.call) {
            running.asked = None;
            self.role_hears(at, answer);
        } else if running.cleaning.waits_for(tag.call) {
            self.clean_hears(at, answer);
        } else if running.search.waits_for(tag.call) {
            self.search_hears(at, answer);
        }
        self.data_power_check(at);
    }

    fn role_hears(&mut self, at: usize, answer: MetaServiceResponse) {
        if !matches!(answer, MetaServiceResponse::Report(Ok(_))) {
            say!(self, "data {at} hears {answer:?}");
        }
        match answer {
            MetaServiceResponse::Register(Ok(reply)) => {
                assert!(
                    self.datas[at].node.is_none_or(|node| node == reply.node),
                    "the node has another number"
                );
                self.datas[at].node = Some(reply.node);
                self.plan_report(at, 0);
                self.plan_ask(at, 0);
            }
            MetaServiceResponse::CreateVolume(Ok(volume)) => self.data_makes_volume(at, volume),
            MetaServiceResponse::Report(Ok(reply)) => self.data_deletes(at, reply.delete),
            _ => self.data_timer(at, RETRY, DataTimer::Register),
        }
    }

    fn data_makes_volume(&mut self, at: usize, id: VolumeId) {
        assert!(self.record.volumes.insert(id, at).is_none(), "volume {id} is given twice");
        let (Some(node), nonce) = (self.datas[at].node, self.rng.random()) else { return };
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.wants_volume = false;
        let disk = running.lanes.disk.clone();
        match Volume::create(disk, owner(node), id, 0, nonce, LIMITS) {
            Ok(volume) => {
                let volume = Arc::new(volume);
                running.volumes.insert(id, volume.clone());
                running.lanes.open.lock().spare = Some(volume);
                let waiting = running.incoming.take_waiting();
                self.data_puts(at, waiting);
            }
            Err(error) => {
                say!(self, "volume {id} not made: {error}");
                if let Some(running) = self.datas[at].running.as_mut() {
                    running.wants_volume = true;
                }
                self.plan_ask(at, RETRY);
            }
        }
    }

    fn data_deletes(&mut self, at: usize, blocks: Vec<BlockRef>) {
        let (gone, _) = self.delete(at, blocks);
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.deleted.extend(gone);
        // What was deleted is confirmed at once: there may be more.
        let pause = if running.deleted.is_empty() { REPORT_EVERY } else { 0 };
        self.plan_report(at, pause);
    }

    /// Deletes what nobody will commit. False if some is left.
    pub(super) fn delete_leaked(&mut self, at: usize, blocks: Vec<BlockRef>) -> bool {
        self.delete(at, blocks).1
    }

    /// Which ones are deleted, and whether all are.
    fn delete(&mut self, at: usize, blocks: Vec<BlockRef>) -> (Vec<BlockRef>, bool) {
        self.check_dead(&blocks);
        self.record.deletes_begin(&blocks);
        let mut by_volume: BTreeMap<VolumeId, Vec<BlockRef>> = BTreeMap::new();
        for block in blocks {
            by_volume.entry(block.volume).or_default().push(block);
        }
        let (mut gone, mut all) = (Vec::new(), true);
        for (id, blocks) in by_volume {
            let Some(running) = self.datas[at].running.as_mut() else { break };
            let volume = running.volumes.get(&id).cloned();
            let deleted = volume.as_ref().map_or(Ok(()), |volume| volume.delete(&blocks));
            let no_space = deleted.as_ref().is_err_and(is_full);
            // What is reserved is for this.
            assert!(!no_space || self.plan.data_disk, "a full disk keeps blocks from being deleted");
            if deleted.is_err() {
                all = false;
                continue;
            }
            volume.inspect(|volume| running.retire(volume));
            if self.datas[at].full {
                self.record.deletes_when_full += blocks.len() as u64;
            }
            self.record.deletes_end(&blocks);
            gone.extend(blocks);
        }
        (gone, all)
    }
}
