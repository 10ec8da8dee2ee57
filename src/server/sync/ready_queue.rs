//! A queue whose length can be read without its lock.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use super::primitives::{AtomicUsize, Mutex};

/// First in, first out. Whoever adds to it calls [`ParkedThreads::wake_one`](super::ParkedThreads::wake_one) next,
/// unless it takes the items itself.
pub(crate) struct ReadyQueue<T> {
    items: Mutex<VecDeque<T>>,
    len: AtomicUsize,
}

impl<T> ReadyQueue<T> {
    pub(crate) fn new() -> ReadyQueue<T> {
        ReadyQueue { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0) }
    }

    pub(crate) fn push(&self, item: T) {
        self.append(|items| items.push_back(item));
    }

    /// Adds the items that `add` pushes; returns how many.
    pub(crate) fn append(&self, add: impl FnOnce(&mut VecDeque<T>)) -> usize {
        let mut items = self.items.lock();
        let before = items.len();
        add(&mut items);
        self.len.store(items.len(), Relaxed);
        items.len() - before
    }

    /// Takes the item that has waited longest.
    pub(crate) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut items = self.items.lock();
        let item = items.pop_front();
        self.len.store(items.len(), Relaxed);
        item
    }

    /// Reads the length without the lock: an item just pushed by another thread may not be seen yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }
}
