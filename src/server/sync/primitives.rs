//! What the other files of this folder are built on. The models replace this file by one made of `loom`.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};

pub(crate) use parking_lot::{Condvar, Mutex};
