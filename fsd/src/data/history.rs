//! Is this directory what the metadata takes it for, or an old copy of itself?
//!
//! The metadata names, for each volume, the last block that files use. Blocks are appended, a volume's number is higher than
//! those of all made before it, and a block is durable before files use it. So a copy that was made earlier, or a disk that lost
//! what it had stored, *ends* too early: in a volume that still grows, or before a volume was made. What is missing elsewhere, as
//! the file of a volume among newer ones, or a block whose header is damaged, is damage: the rest is served.
//!
//! No counter is needed for this, on either side: nothing can be written too late or lost, directories of any age can be
//! asked, and an older metadata directory only asks for less.

use cairn_common::ids::{BlockRef, VolumeId};

/// What the directory has in place of a block that files use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The block, or damage.
    Block,
    /// The volume ends before it, or another block has its place: something else was written there.
    Nothing,
    /// There is no such volume, or it cannot be opened.
    NoVolume,
}

/// The first of the blocks in `used` that shows the directory to be old. `newest` is the highest volume in it.
pub fn beyond_end(
    used: &[BlockRef],
    newest: Option<VolumeId>,
    find: impl Fn(BlockRef) -> Found,
) -> Option<BlockRef> {
    let is_beyond = |block: &BlockRef| match find(*block) {
        Found::Block => false,
        Found::Nothing => true,
        Found::NoVolume => newest.is_none_or(|newest| block.volume > newest),
    };
    used.iter().copied().find(is_beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(volume: u32, sequence: u32) -> BlockRef {
        BlockRef { volume: VolumeId(volume), sequence, cookie: 7 }
    }

    /// Volumes 2, 3 and 5, of which 3 and 5 end before their 10th block.
    fn find(block: BlockRef) -> Found {
        match block.volume.0 {
            2 => Found::Block,
            3 | 5 if block.sequence < 10 => Found::Block,
            3 | 5 => Found::Nothing,
            _ => Found::NoVolume,
        }
    }

    #[test]
    fn a_directory_that_has_all_is_not_old() {
        let used = [block(2, 999), block(3, 9), block(5, 1)];
        assert_eq!(beyond_end(&used, Some(VolumeId(5)), find), None);
        assert_eq!(beyond_end(&[], None, find), None);
    }

    #[test]
    fn one_that_ends_within_a_volume_is() {
        let used = [block(2, 999), block(3, 10), block(5, 10)];
        assert_eq!(beyond_end(&used, Some(VolumeId(5)), find), Some(block(3, 10)));
    }

    #[test]
    fn one_that_ends_before_a_volume_was_made_is() {
        let used = [block(3, 9), block(6, 1)];
        assert_eq!(beyond_end(&used, Some(VolumeId(5)), find), Some(block(6, 1)));
        assert_eq!(beyond_end(&used, None, |_| Found::NoVolume), Some(block(3, 9)));
    }

    #[test]
    fn a_volume_that_is_missing_among_newer_ones_is_damage() {
        assert_eq!(beyond_end(&[block(4, 10)], Some(VolumeId(5)), find), None);
    }
}
