//! Every hard limit of Cairn, in one place. Sizes are bytes unless the name says otherwise.

/// Longest name of a directory entry, as on Linux.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, without the terminating NUL (Linux: PATH_MAX is 4096 with it).
pub const SYMLINK_MAX: usize = 4095;
/// Largest file size: what `off_t` can say.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;
/// Most bytes that the files of one file system hold together, once space is set aside: far more than there are
/// disks for, and far below where sums of them would overflow.
pub const ALLOCATED_MAX: u64 = 1 << 60;
/// Largest number of names of one inode, as ext4 on 64 KiB blocks rounds it; fits any 32-bit `nlink_t`.
pub const LINK_MAX: u32 = 65_000;
/// Largest extended attribute value (Linux: XATTR_SIZE_MAX).
pub const XATTR_SIZE_MAX: usize = 65_536;
/// Longest extended attribute name (Linux: XATTR_NAME_MAX).
pub const XATTR_NAME_MAX: usize = 255;
/// Largest list of extended attribute names of one inode (Linux: XATTR_LIST_MAX).
pub const XATTR_LIST_MAX: usize = 65_536;

/// Largest payload of one block.
pub const BLOCK_MAX: usize = 4 << 20;
/// A block is checksummed in pieces of this size (the last may be shorter).
pub const PIECE: usize = 64 << 10;
/// A volume is sealed when it has grown to this size.
pub const VOLUME_SIZE: u64 = 1 << 30;

/// Largest RPC header (everything but bulk payload) that a peer may send.
pub const FRAME_HEADER_MAX: usize = 4 << 20;
/// Largest bulk payload beside one RPC header: one block and its summary.
pub const FRAME_PAYLOAD_MAX: usize = BLOCK_MAX + SUMMARY_MAX;
/// Largest summary of a block.
pub const SUMMARY_MAX: usize = 1 << 20;

/// Most operations in one batch.
pub const BATCH_OPS_MAX: usize = 4096;
/// Most encoded bytes in one batch: it must fit a frame and a log record.
pub const BATCH_BYTES_MAX: usize = 2 << 20;
/// Most pieces that one commit operation makes visible.
pub const COMMIT_PIECES_MAX: usize = 16_384;
/// Most extents that one reply carries; more are paged.
pub const EXTENTS_PER_REPLY: usize = 4096;
/// A reply takes no more extents once they hold so many bytes of data themselves. The last one may be as
/// large as an operation: with it, and with all others, the reply is below [`FRAME_HEADER_MAX`].
pub const INLINE_BYTES_PER_REPLY: usize = 1 << 20;
/// Most bytes of names in one page of a directory.
pub const READDIR_PAGE_MAX: usize = 256 << 10;
/// Most files that one mount has open (or still dirty) at a time: when it takes its session up again it names
/// all of them in one frame, at most 19 bytes each.
pub const OPENS_MAX: usize = 200_000;
/// How many inode numbers a session gets at a time.
pub const INO_RANGE: u64 = 1 << 16;
/// Most extents that one operation removes from a reaped inode; the rest goes in the next.
pub const REAP_EXTENTS_MAX: usize = 4096;
/// Most byte-range locks that one owner holds on one inode.
pub const LOCKS_PER_INODE_MAX: usize = 16_384;
