//! Who a data directory belongs to: the file `NODE`.
//!
//! It is made with a random identity before the daemon registers for the first time, so that a
//! registration whose answer was lost gets the same number when it is repeated.

use super::volume::Owner;
use crate::disk::{Disk, read_whole};
use crate::durable;
use cairn_common::ids::{ClusterId, NodeId};
use cairn_common::wire::checksum::crc32c_of_parts;
use std::io;

const NAME: &str = "NODE";
const MAGIC: [u8; 8] = *b"CAIRNNOD";
const VERSION: u32 = 1;
const LENGTH: usize = 56;
const CRC: usize = 52;

/// Content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, drawn when the directory was first used.
    pub identity: u128,
    /// What the metadata daemon gave it.
    pub owner: Option<Owner>,
}

impl Identity {
    /// Reads the file; `None` if there is none.
    pub fn load(disk: &dyn Disk) -> io::Result<Option<Identity>> {
        let bytes = match read_whole(disk, NAME) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Identity::decode(&bytes).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "NODE is damaged or of another version")
        })
    }

    /// Writes the file, durable on return.
    pub fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        durable::replace(disk, NAME, &[&self.encode()])
    }

    fn encode(&self) -> [u8; LENGTH] {
        let (cluster, node) = self.owner.map_or((0, 0), |owner| (owner.cluster.0, owner.node.0));
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[12..28].copy_from_slice(&self.identity.to_be_bytes());
        bytes[28..44].copy_from_slice(&cluster.to_be_bytes());
        bytes[44..48].copy_from_slice(&node.to_be_bytes());
        bytes[48..52].copy_from_slice(&u32::from(self.owner.is_some()).to_be_bytes());
        let crc = crc32c_of_parts(&[&bytes[..CRC]]);
        bytes[CRC..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Identity> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u128_at = |at: usize| u128::from_be_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
        if bytes[..8] != MAGIC || u32_at(8) != VERSION || u32_at(CRC) != crc32c_of_parts(&[&bytes[..CRC]]) {
            return None;
        }
        let owner = Owner { cluster: ClusterId(u128_at(28)), node: NodeId(u32_at(44)) };
        Some(Identity { identity: u128_at(12), owner: (u32_at(48) == 1).then_some(owner) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::SimDisk;

    #[test]
    fn golden_bytes_and_damage() {
        let owner = Owner { cluster: ClusterId(0x11), node: NodeId(0x22) };
        let identity = Identity { identity: 0x33, owner: Some(owner) };
        let bytes = identity.encode();
        let hex: String = bytes[..CRC].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "434149524e4e4f4400000001000000000000000000000000000000330000000000000000000000000000001100000022\
             00000001"
        );
        for bit in 0..LENGTH * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Identity::decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn is_remembered() {
        let disk = SimDisk::new();
        assert_eq!(Identity::load(&disk).unwrap(), None);
        let identity = Identity { identity: 5, owner: None };
        identity.store(&disk).unwrap();
        assert_eq!(Identity::load(&disk.power_cycle(1)).unwrap(), Some(identity));
    }
}
