//! Buffers that are reused, so that payload memory is not freshly faulted for each message.
//!
//! Touching new pages costs more than copying into old ones (several times more for 1 MiB). A
//! [`BufferPool`] keeps a bounded number of buffers of one size; [`PayloadBuffers`] is a set of pools
//! by size class. Taking never waits: beyond what is kept, memory is allocated and later freed;
//! a [`Budget`] counts what is in use of what peers send, for servers to take no more in than they can hold.
//!
//! A frozen buffer returns to its pool when the last slice of it is dropped. So who keeps a small
//! slice for long (a cache) keeps the whole buffer: copy the slice instead.

use crate::budget::{Budget, Spent};
use crate::limits::FRAME_PAYLOAD_MAX;
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

/// Below this a buffer comes from the allocator, which reuses small memory well by itself.
const POOLED_MIN: usize = 16 << 10;

/// Sizes of [`PayloadBuffers`] and how many free buffers of each are kept: 61 MiB at most together.
const CLASSES: [(usize, usize); 4] =
    [(64 << 10, 80), (256 << 10, 16), (1 << 20, 12), (FRAME_PAYLOAD_MAX + (64 << 10), 8)];

/// Bytes received beyond which a server takes no more payloads in, over all connections: what many clients send at once, to
/// a disk that is slower than they are, waits in their sockets.
const IN_USE_MAX: usize = 512 << 20;

/// A bounded store of free buffers of one size. Cloning shares it.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    buffer_size: usize,
    max_buffers: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool of buffers of `buffer_size` bytes that keeps at most `max_buffers` free ones.
    #[must_use]
    pub fn new(buffer_size: usize, max_buffers: usize) -> BufferPool {
        let free = Mutex::new(Vec::new());
        BufferPool { shelf: Arc::new(Shelf { buffer_size, max_buffers, free }) }
    }

    /// An empty buffer: a kept one, or a new one. Never waits.
    #[must_use]
    pub fn take(&self) -> PooledBuf {
        let kept = self.shelf.free.lock().pop();
        let memory = kept.unwrap_or_else(|| vec![0; self.shelf.buffer_size]);
        PooledBuf { memory, filled: 0, home: Some(self.shelf.clone()), spent: None }
    }

    /// Capacity of each buffer.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.shelf.buffer_size
    }

    /// How many free buffers are kept right now.
    #[must_use]
    pub fn free_buffers(&self) -> usize {
        self.shelf.free.lock().len()
    }
}

impl Shelf {
    fn put_back(&self, memory: Vec<u8>) {
        let mut free = self.free.lock();
        if free.len() < self.max_buffers {
            free.push(memory);
        } else {
            drop(free); // not under the lock: freeing megabytes is a system call
            drop(memory);
        }
    }
}

/// A buffer of fixed capacity, filled from the front. Its memory is initialised once, when it is
/// first allocated; what lies behind the filled part is left over from earlier use.
#[derive(Debug)]
pub struct PooledBuf {
    memory: Vec<u8>,
    filled: usize,
    home: Option<Arc<Shelf>>,
    spent: Option<Spent>,
}

impl PooledBuf {
    /// A buffer that belongs to no pool.
    #[must_use]
    pub fn unpooled(capacity: usize) -> PooledBuf {
        PooledBuf { memory: vec![0; capacity], filled: 0, home: None, spent: None }
    }

    /// How many bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// How many more bytes it can take.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.memory.len() - self.filled
    }

    /// The part not filled yet, to read into; then call [`PooledBuf::advance`].
    pub fn unfilled(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled..]
    }

    /// Says that the first `count` bytes of [`PooledBuf::unfilled`] were written.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advance beyond the capacity");
        self.filled += count;
    }

    /// Appends as much of `bytes` as fits; returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.remaining());
        self.memory[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Sets the length; new bytes are zero.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.memory.len(), "resize beyond the capacity");
        if len > self.filled {
            self.memory[self.filled..len].fill(0);
        }
        self.filled = len;
    }

    /// Forgets the content.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Moves what lies behind `start` to the front.
    pub fn drop_front(&mut self, start: usize) {
        self.memory.copy_within(start..self.filled, 0);
        self.filled -= start;
    }

    /// The filled part as shared bytes; the memory returns to the pool with the last of them.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.filled == 0 { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl Deref for PooledBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.filled]
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.put_back(std::mem::take(&mut self.memory));
        }
    }
}

/// Buffers for payloads of any size a frame may have, by size class.
#[derive(Clone, Debug)]
pub struct PayloadBuffers {
    classes: Arc<[BufferPool]>,
    budget: Arc<Budget>,
}

impl PayloadBuffers {
    /// A set of its own. Most callers want [`PayloadBuffers::shared`].
    #[must_use]
    pub fn new() -> PayloadBuffers {
        PayloadBuffers::within(IN_USE_MAX)
    }

    /// The same with another limit of what may be in use.
    #[must_use]
    pub fn within(limit: usize) -> PayloadBuffers {
        let classes = CLASSES.map(|(size, count)| BufferPool::new(size, count));
        PayloadBuffers { classes: Arc::new(classes), budget: Budget::new(limit) }
    }

    /// The set of this process: connections share what is kept.
    #[must_use]
    pub fn shared() -> PayloadBuffers {
        static SHARED: OnceLock<PayloadBuffers> = OnceLock::new();
        SHARED.get_or_init(PayloadBuffers::new).clone()
    }

    /// An empty buffer for at least `len` bytes.
    #[must_use]
    pub fn take(&self, len: usize) -> PooledBuf {
        if len < POOLED_MIN {
            return PooledBuf::unpooled(len);
        }
        match self.classes.iter().find(|class| class.buffer_size() >= len) {
            Some(class) => class.take(),
            None => PooledBuf::unpooled(len),
        }
    }

    /// The same for what a peer sends, which counts in the budget; small ones do not.
    #[must_use]
    pub fn take_counted(&self, len: usize) -> PooledBuf {
        let mut taken = self.take(len);
        if len >= POOLED_MIN {
            taken.spent = Some(self.budget.spend(taken.capacity()));
        }
        taken
    }

    /// What is in use of those that are counted.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether a buffer for `len` bytes that counts can be taken without going beyond what may be in use.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        len < POOLED_MIN || self.budget.has_room(len)
    }

    /// Bytes kept in free buffers right now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.free_buffers() * class.buffer_size()).sum()
    }
}

impl Default for PayloadBuffers {
    fn default() -> PayloadBuffers {
        PayloadBuffers::shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_returns_with_the_last_slice_and_is_reused() {
        let pool = BufferPool::new(1024, 2);
        let mut buffer = pool.take();
        let address = buffer.unfilled().as_ptr();
        assert_eq!(buffer.append(b"hello world"), 11);
        let whole = buffer.freeze();
        let slice = whole.slice(6..);
        drop(whole);
        assert_eq!(pool.free_buffers(), 0, "a slice still holds the buffer");
        assert_eq!(&slice[..], b"world");
        drop(slice);
        assert_eq!(pool.free_buffers(), 1);
        let mut again = pool.take();
        assert_eq!((again.len(), again.unfilled().as_ptr()), (0, address));
    }

    #[test]
    fn takes_beyond_the_bound_are_not_kept() {
        let pool = BufferPool::new(64, 2);
        let taken: Vec<_> = (0..5).map(|_| pool.take()).collect();
        drop(taken);
        assert_eq!(pool.free_buffers(), 2);
    }

    #[test]
    fn filling_stops_at_the_capacity_and_resize_zeroes() {
        let pool = BufferPool::new(4, 1);
        let mut buffer = pool.take();
        assert_eq!(buffer.append(b"abcdef"), 4);
        drop(buffer);
        let mut buffer = pool.take();
        buffer.resize(3);
        assert_eq!(&buffer[..], [0, 0, 0], "old content must not show");
        buffer.append(b"x");
        buffer.drop_front(2);
        assert_eq!(&buffer[..], [0, b'x']);
    }

    /// What a server sends is bounded elsewhere, and must not keep it from receiving.
    #[test]
    fn only_what_peers_send_counts() {
        let buffers = PayloadBuffers::within(1 << 20);
        let replies: Vec<_> = (0..4).map(|_| buffers.take(1 << 20)).collect();
        assert!(buffers.budget().used() == 0 && buffers.has_room(1 << 20));
        let mut received = buffers.take_counted(1 << 20);
        received.append(b"payload");
        assert!(buffers.budget().used() == 1 << 20 && !buffers.has_room(POOLED_MIN));
        let bytes = received.freeze();
        assert_eq!(buffers.budget().used(), 1 << 20, "frozen, it is as much");
        drop((bytes, replies));
        assert!(buffers.has_room(1 << 20));
    }

    #[test]
    fn classes_cover_every_payload() {
        let buffers = PayloadBuffers::new();
        for len in [0, 1, POOLED_MIN, 64 << 10, (64 << 10) + 1, 4 << 20, FRAME_PAYLOAD_MAX] {
            assert!(buffers.take(len).capacity() >= len);
        }
        assert!(buffers.free_bytes() > 0);
    }
}
