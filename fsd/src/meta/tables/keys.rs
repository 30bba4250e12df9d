//! Keys of the tables: big-endian by hand, so that redb's order of bytes is the order of numbers.

use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};

/// `ino`
#[must_use]
pub fn ino(ino: Ino) -> [u8; 8] {
    ino.0.to_be_bytes()
}

#[must_use]
pub fn ino_of(key: &[u8; 8]) -> Ino {
    Ino(u64::from_be_bytes(*key))
}

/// `session`
#[must_use]
pub fn session(session: SessionId) -> [u8; 8] {
    session.0.to_be_bytes()
}

/// `parent, cookie` of an entry, `ino, offset` of an extent, `session, ino` of a lock.
#[must_use]
pub fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&second.to_be_bytes());
    key
}

/// The first half of a [`pair`].
#[must_use]
pub fn first_of(key: &[u8; 16]) -> u64 {
    u64::from_be_bytes(key[..8].try_into().expect("the first 8 of 16 bytes"))
}

/// The second half of a [`pair`].
#[must_use]
pub fn second_of(key: &[u8; 16]) -> u64 {
    u64::from_be_bytes(key[8..].try_into().expect("the last 8 of 16 bytes"))
}

/// `ino, name`
#[must_use]
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    [&ino.0.to_be_bytes(), name].concat()
}

/// `volume, sequence, cookie`
#[must_use]
pub fn block(block: BlockRef) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&block.volume.0.to_be_bytes());
    key[4..8].copy_from_slice(&block.sequence.to_be_bytes());
    key[8..].copy_from_slice(&block.cookie.to_be_bytes());
    key
}

#[must_use]
pub fn block_of(key: &[u8; 12]) -> BlockRef {
    let word = |at: usize| u32::from_be_bytes(key[at..at + 4].try_into().expect("4 of 12 bytes"));
    BlockRef { volume: VolumeId(word(0)), sequence: word(4), cookie: word(8) }
}

/// `node`
#[must_use]
pub fn node(node: NodeId) -> [u8; 4] {
    node.0.to_be_bytes()
}

/// `volume`
#[must_use]
pub fn volume(volume: VolumeId) -> [u8; 4] {
    volume.0.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(ino(Ino(0x0102)), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(ino_of(&ino(Ino(0x0102))), Ino(0x0102));
        assert_eq!(pair(3, 0x0405), [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 4, 5]);
        assert_eq!(first_of(&pair(3, 0x0405)), 3);
        assert_eq!(second_of(&pair(3, 0x0405)), 0x0405);
        assert_eq!(xattr(Ino(1), b"user.a"), *b"\0\0\0\0\0\0\0\x01user.a");
        let reference = BlockRef { volume: VolumeId(1), sequence: 2, cookie: 0xaabb_ccdd };
        assert_eq!(block(reference), [0, 0, 0, 1, 0, 0, 0, 2, 0xaa, 0xbb, 0xcc, 0xdd]);
        assert_eq!(block_of(&block(reference)), reference);
        assert_eq!(session(SessionId(9)), [0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(node(NodeId(258)), [0, 0, 1, 2]);
        assert_eq!(volume(VolumeId(258)), [0, 0, 1, 2]);
    }
}
