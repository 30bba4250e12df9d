//! Finds damaged blocks without looking at each that is read. Readers verify what they get, and ask again for what
//! does not match. So what is asked for twice in a row is looked at here, where the log can name the disk; all
//! else goes out unread.

use cairn_common::ids::BlockRef;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads that are remembered.
const RECENT: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Suspects {
    /// What was read last, each at a place that follows from it.
    recent: Box<[AtomicU64; RECENT]>,
}

impl Default for Suspects {
    fn default() -> Suspects {
        Suspects { recent: Box::new([const { AtomicU64::new(0) }; RECENT]) }
    }
}

impl Suspects {
    /// Notes a read; whether it is one of those that were made just before.
    pub fn is_repeated(&self, block: BlockRef, offset: u32) -> bool {
        let key = mix(u64::from(block.volume.0) << 32 | u64::from(block.sequence), offset);
        let place = usize::try_from(key >> 56).expect("one byte");
        self.recent[place].swap(key, Ordering::Relaxed) == key
    }
}

/// A number that is hardly ever the same for two reads, and whose first byte is any. 0 stands for no read.
fn mix(block: u64, offset: u32) -> u64 {
    let mixed = (block ^ u64::from(offset).rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_common::ids::VolumeId;

    fn block(sequence: u32) -> BlockRef {
        BlockRef { volume: VolumeId(1), sequence, cookie: 5 }
    }

    #[test]
    fn what_is_read_twice_in_a_row_is_noticed() {
        let suspects = Suspects::default();
        assert!(!suspects.is_repeated(block(1), 0));
        assert!(!suspects.is_repeated(block(1), 65536));
        assert!(suspects.is_repeated(block(1), 0));
        assert!(suspects.is_repeated(block(1), 65536));
        let repeated = (2..100).filter(|sequence| suspects.is_repeated(block(*sequence), 0)).count();
        assert_eq!(repeated, 0);
    }

    #[test]
    fn what_was_never_read_or_is_another_block_is_not_noticed() {
        let suspects = Suspects::default();
        let zero = BlockRef::default();
        assert!(!suspects.is_repeated(zero, 0), "the place is empty");
        assert!(suspects.is_repeated(zero, 0));
        let elsewhere = |volume| BlockRef { volume: VolumeId(volume), ..block(1) };
        assert_eq!((1..100).filter(|volume| suspects.is_repeated(elsewhere(*volume), 0)).count(), 0);
    }

    /// The last read of many is remembered, and the first is not for ever.
    #[test]
    fn what_was_read_long_ago_is_forgotten() {
        let suspects = Suspects::default();
        assert!(!suspects.is_repeated(block(0), 0));
        let reads = 1..=100 * u32::try_from(RECENT).expect("a small number");
        reads.for_each(|sequence| assert!(!suspects.is_repeated(block(sequence), 0)));
        assert!(!suspects.is_repeated(block(0), 0));
    }
}
