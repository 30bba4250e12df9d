//! What metadata and a volume say of each other. Pure.

use cairn_common::ids::{BlockRef, SessionId};
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::BlockFate;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a block that files use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The data daemon does not have it.
    Missing,
    /// It is there with another length, in bytes.
    Length { stored: u32, expected: u32 },
    /// Its bytes do not match their checksums.
    Damaged,
    /// Its disk can't read it.
    Unreadable,
    /// Nothing can be found in the file of its volume.
    VolumeDamaged,
}

/// Blocks of one volume that one of both knows otherwise than the other. Both may have changed since they were
/// asked, so each is only a suspicion.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub faults: Vec<(BlockRef, Fault)>,
    /// Stored, and used by no file.
    pub unused: Vec<BlockStat>,
}

/// `used`: what the metadata has of the volume; `stored`: what the volume has.
pub fn compare(used: &BTreeMap<BlockRef, BlockUse>, stored: &[BlockStat]) -> Differences {
    let live: BTreeMap<BlockRef, &BlockStat> =
        stored.iter().filter(|stat| !stat.deleted).map(|stat| (stat.block, stat)).collect();
    let fault = |(block, usage): (&BlockRef, &BlockUse)| match live.get(block) {
        None => Some((*block, Fault::Missing)),
        Some(stat) if stat.length != usage.length => {
            Some((*block, Fault::Length { stored: stat.length, expected: usage.length }))
        }
        Some(_) => None,
    };
    let faults = used.iter().filter_map(fault).collect();
    let unused = live.iter().filter(|(block, _)| !used.contains_key(block)).map(|(_, stat)| **stat).collect();
    Differences { faults, unused }
}

/// Faults of blocks that are used still. `fates` are asked after the suspicion: a block that was deleted meanwhile was
/// rightly not found.
pub fn confirmed(faults: Vec<(BlockRef, Fault)>, fates: &[BlockFate]) -> Vec<(BlockRef, Fault)> {
    let used = |(_, fate): &(_, &BlockFate)| matches!(fate, BlockFate::Used(_));
    faults.into_iter().zip(fates).filter(used).map(|(fault, _)| fault).collect()
}

/// Unused blocks that nobody can use any more: whoever wrote one of them had ended for good before its fate was asked for.
pub fn leaked(unused: Vec<BlockStat>, ended: &BTreeSet<SessionId>, fates: &[BlockFate]) -> Vec<BlockStat> {
    let lost = |(stat, fate): &(BlockStat, &BlockFate)| {
        matches!(fate, BlockFate::Unknown) && ended.contains(&stat.session)
    };
    unused.into_iter().zip(fates).filter(lost).map(|(stat, _)| stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_common::ids::VolumeId;

    fn block(sequence: u32, cookie: u32) -> BlockRef {
        BlockRef { volume: VolumeId(1), sequence, cookie }
    }

    fn stat(sequence: u32, session: u64) -> BlockStat {
        let block = block(sequence, 7);
        BlockStat { block, session: SessionId(session), length: 100, summary_len: 10, deleted: false }
    }

    fn used(blocks: &[BlockRef]) -> BTreeMap<BlockRef, BlockUse> {
        blocks.iter().map(|block| (*block, BlockUse { length: 100, live: 100 })).collect()
    }

    #[test]
    fn what_agrees_is_no_difference() {
        let used = used(&[block(1, 7), block(2, 7)]);
        assert_eq!(compare(&used, &[stat(1, 1), stat(2, 1)]), Differences::default());
    }

    #[test]
    fn a_block_is_missing_if_it_is_not_there_deleted_or_another() {
        let used = used(&[block(1, 7), block(2, 7), block(3, 8)]);
        let deleted = BlockStat { deleted: true, ..stat(2, 1) };
        let found = compare(&used, &[deleted, stat(3, 1)]);
        let missing = [block(1, 7), block(2, 7), block(3, 8)].map(|block| (block, Fault::Missing));
        assert_eq!(found.faults, missing);
        assert_eq!(found.unused, [stat(3, 1)]);
    }

    #[test]
    fn a_block_of_another_length_is_a_fault() {
        let shorter = BlockStat { length: 60, ..stat(1, 1) };
        let found = compare(&used(&[block(1, 7)]), &[shorter]);
        assert_eq!(found.faults, [(block(1, 7), Fault::Length { stored: 60, expected: 100 })]);
    }

    #[test]
    fn what_was_deleted_meanwhile_is_no_fault() {
        let faults = [1, 2, 3].map(|n| (block(n, 7), Fault::Missing)).to_vec();
        let fates =
            [BlockFate::Dying, BlockFate::Used(BlockUse { length: 100, live: 1 }), BlockFate::Unknown];
        assert_eq!(confirmed(faults, &fates), [(block(2, 7), Fault::Missing)]);
    }

    #[test]
    fn only_blocks_that_nobody_can_commit_are_leaked() {
        let unused = vec![stat(1, 1), stat(2, 1), stat(3, 1), stat(4, 2)];
        let usage = BlockUse { length: 100, live: 100 };
        let fates = [BlockFate::Unknown, BlockFate::Dying, BlockFate::Used(usage), BlockFate::Unknown];
        assert_eq!(leaked(unused, &BTreeSet::from([SessionId(1)]), &fates), [stat(1, 1)]);
    }
}
