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

/// How long it waits for an answer.
const DEADLINE: Micros = 5 * SECOND;

impl World {
    pub(super) fn data_tag(&self, call: u64) -> Tag {
        Tag { peer: Peer::Data, life: self.data.life, link: 0, call }
    }

    /// Sends a call; its number.
    pub(super) fn data_calls(&mut self, request: &MetaServiceRequest) -> Option<u64> {
        let running = self.data.running.as_mut()?;
        running.calls += 1;
        let call = running.calls;
        self.send_to_meta(self.data_tag(call), self.meta.life, request);
        self.data_timer(DEADLINE, DataTimer::Deadline(call));
        Some(call)
    }

    /// One call at a time, beside the cleaner's.
    fn data_asks(&mut self, request: &MetaServiceRequest) {
        let call = self.data_calls(request);
        if let Some(running) = self.data.running.as_mut() {
            running.asked = call;
        }
    }

    fn is_asking(&self) -> bool {
        self.data.running.as_ref().is_none_or(|running| running.asked.is_some())
    }

    pub(super) fn data_registers(&mut self) {
        if self.is_asking() {
            return self.data_timer(RETRY, DataTimer::Register);
        }
        let request = RegisterRequest { node: self.data.node, identity: IDENTITY, address: "data:1".into() };
        self.data_asks(&MetaServiceRequest::Register { request });
    }

    pub(super) fn data_wants_volume(&mut self) {
        let Some(running) = self.data.running.as_mut() else { return };
        running.ask_planned = false;
        let Some(node) = self.data.node.filter(|_| running.wants_volume) else { return };
        if self.is_asking() {
            return self.plan_ask(RETRY / 10);
        }
        self.data_asks(&MetaServiceRequest::CreateVolume { node });
    }

    pub(super) fn data_reports(&mut self) {
        let Some(running) = self.data.running.as_mut() else { return };
        running.report_planned = false;
        let Some(node) = self.data.node else { return };
        if self.is_asking() {
            return self.plan_report(RETRY / 10);
        }
        let Some(running) = self.data.running.as_mut() else { return };
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
        self.data_asks(&MetaServiceRequest::Report { request: ReportRequest { stat, deleted } });
    }

    /// The network breaks the connection; what is on its way may still arrive.
    pub fn data_cut(&mut self) {
        let Some(running) = self.data.running.as_ref() else { return };
        for call in [running.asked, running.cleaning.call()].into_iter().flatten() {
            self.data_lost_connection(self.data_tag(call));
        }
    }

    pub fn data_lost_connection(&mut self, tag: Tag) {
        let Some(running) = self.data.running.as_mut() else { return };
        if tag.life != self.data.life {
            return;
        }
        if running.asked == Some(tag.call) {
            running.asked = None;
            self.data_timer(RETRY, DataTimer::Register);
        } else if running.cleaning.waits_for(tag.call) {
            self.clean_is_lost();
        }
    }

    pub fn data_hears(&mut self, tag: Tag, answer: MetaServiceResponse) {
        let Some(running) = self.data.running.as_mut() else { return };
        if tag.life != self.data.life {
            return;
        }
        if running.asked == Some(tag.call) {
            running.asked = None;
            self.role_hears(answer);
        } else if running.cleaning.waits_for(tag.call) {
            self.clean_hears(answer);
        }
        self.data_power_check();
    }

    fn role_hears(&mut self, answer: MetaServiceResponse) {
        if !matches!(answer, MetaServiceResponse::Report(Ok(_))) {
            say!(self, "data hears {answer:?}");
        }
        match answer {
            MetaServiceResponse::Register(Ok(reply)) => {
                assert!(self.data.node.is_none_or(|node| node == reply.node), "the node has another number");
                self.data.node = Some(reply.node);
                self.plan_report(0);
                self.plan_ask(0);
            }
            MetaServiceResponse::CreateVolume(Ok(volume)) => self.data_makes_volume(volume),
            MetaServiceResponse::Report(Ok(reply)) => self.data_deletes(reply.delete),
            _ => self.data_timer(RETRY, DataTimer::Register),
        }
    }

    fn data_makes_volume(&mut self, id: VolumeId) {
        assert!(self.record.volumes.insert(id), "volume {id} is given twice");
        let (Some(node), nonce) = (self.data.node, self.rng.random()) else { return };
        let Some(running) = self.data.running.as_mut() else { return };
        running.wants_volume = false;
        let disk = running.lanes.disk.clone();
        match Volume::create(disk, owner(node), id, 0, nonce, LIMITS) {
            Ok(volume) => {
                let volume = Arc::new(volume);
                running.volumes.insert(id, volume.clone());
                running.lanes.open.lock().spare = Some(volume);
                let waiting = std::mem::take(&mut running.waiting);
                let answers = running.put_all(waiting);
                self.data_answers(answers);
            }
            Err(error) => {
                say!(self, "volume {id} not made: {error}");
                if let Some(running) = self.data.running.as_mut() {
                    running.wants_volume = true;
                }
                self.plan_ask(RETRY);
            }
        }
    }

    fn data_deletes(&mut self, blocks: Vec<BlockRef>) {
        self.check_dead(&blocks);
        self.record.deletes_begin(&blocks);
        let Some(running) = self.data.running.as_mut() else { return };
        let mut by_volume: BTreeMap<VolumeId, Vec<BlockRef>> = BTreeMap::new();
        for block in blocks {
            by_volume.entry(block.volume).or_default().push(block);
        }
        for (id, blocks) in by_volume {
            let volume = running.volumes.get(&id).cloned();
            let deleted = volume.as_ref().map_or(Ok(()), |volume| volume.delete(&blocks));
            let no_space = deleted.as_ref().is_err_and(is_full);
            // What is reserved is for this.
            assert!(!no_space || self.plan.data_disk, "a full disk keeps blocks from being deleted");
            if deleted.is_ok() {
                if self.data.full {
                    self.record.deletes_when_full += blocks.len() as u64;
                }
                volume.inspect(|volume| running.retire(volume));
                self.record.deletes_end(&blocks);
                running.deleted.extend(blocks);
            }
        }
        // What was deleted is confirmed at once: there may be more.
        let pause = if running.deleted.is_empty() { REPORT_EVERY } else { 0 };
        self.plan_report(pause);
    }
}
