//! The end of a run: all mounts go, and whatever no file uses is given back. Then what the data daemons have is, block by block
//! and byte by byte, what the metadata daemon counts.

use crate::checks::used_blocks;
use crate::mount::Mount;
use crate::say;
use crate::world::{Micros, SECOND, World};
use cairn_common::ids::BlockRef;
use cairn_fsd::meta::machine::Machine;
use std::collections::BTreeMap;

/// Nothing goes wrong any more, and the daemons search often.
const GIVEN_BACK_WITHIN: Micros = 60 * SECOND;

impl World {
    /// See the module.
    pub fn give_back(&mut self) {
        for session in self.mounts.iter().filter_map(Mount::session).collect::<Vec<_>>() {
            self.meta_ends(session);
        }
        (0..self.mounts.len()).for_each(|index| self.mount_leaves(index));
        let end = self.now + GIVEN_BACK_WITHIN;
        while !self.is_given_back() {
            assert!(self.now < end, "blocks of nobody stay: {}", self.who_has_blocks());
            self.run_until(self.now + SECOND);
        }
        say!(self, "all is given back");
    }

    fn is_given_back(&self) -> bool {
        let Some(machine) = self.meta.machine() else { return false };
        machine.sessions().is_empty() && self.stored_blocks() == counted_blocks(machine)
    }

    /// What the data daemons have, and how long each is.
    fn stored_blocks(&self) -> BTreeMap<BlockRef, u32> {
        let contents = self.datas.iter().flat_map(|data| data.contents());
        contents.flat_map(|(_, blocks)| blocks).map(|stat| (stat.block, stat.length)).collect()
    }

    fn who_has_blocks(&self) -> String {
        let Some(machine) = self.meta.machine() else { return "no metadata daemon".into() };
        let (stored, counted) = (self.stored_blocks(), counted_blocks(machine));
        let nobodys: Vec<_> = stored.iter().filter(|(block, _)| !counted.contains_key(block)).collect();
        let missing: Vec<_> = counted.iter().filter(|(block, _)| !stored.contains_key(block)).collect();
        format!("{nobodys:?} are nobody's, {missing:?} are missing, {:?}", machine.sessions())
    }
}

/// What files use.
fn counted_blocks(machine: &Machine) -> BTreeMap<BlockRef, u32> {
    used_blocks(machine).into_iter().map(|(block, usage)| (block, usage.length)).collect()
}
