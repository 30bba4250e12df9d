//! Opens that have ended and that the server must still hear of, summed up by inode.

use cairn_common::ids::Ino;
use cairn_common::proto::meta::CloseItem;
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::sync::Notify;

/// See the module. Bounded by the number of open inodes.
#[derive(Debug, Default)]
pub struct CloseQueue {
    items: Mutex<HashMap<Ino, CloseItem>>,
    added: Notify,
}

impl CloseQueue {
    /// Adds ended opens.
    pub fn add(&self, item: CloseItem) {
        let mut items = self.items.lock();
        let sum = items.entry(item.ino).or_insert(CloseItem { ino: item.ino, opens: 0, writers: 0 });
        sum.opens += item.opens;
        sum.writers += item.writers;
        drop(items);
        self.added.notify_one();
    }

    /// Waits until something was added since the last call.
    pub async fn queued(&self) {
        self.added.notified().await;
    }

    /// All there is.
    pub fn take(&self) -> Vec<CloseItem> {
        self.items.lock().drain().map(|(_, item)| item).collect()
    }

    /// Forgets all: the server is told otherwise.
    pub fn clear(&self) {
        self.items.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_of_one_inode_are_summed_up() {
        let queue = CloseQueue::default();
        queue.add(CloseItem { ino: Ino(7), opens: 1, writers: 0 });
        queue.add(CloseItem { ino: Ino(7), opens: 2, writers: 1 });
        assert_eq!(queue.take(), vec![CloseItem { ino: Ino(7), opens: 3, writers: 1 }]);
        assert!(queue.take().is_empty());
    }
}
