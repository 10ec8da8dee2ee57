//! Gives memory back to the system: what the allocator keeps of large allocations, and the stacks of threads that wait.
#![allow(unsafe_code)] // The system's calls for this have no safe form.

use std::cell::Cell;

/// Allocations of this many bytes or more are mapped one by one, so that their memory goes back to the system when they
/// are freed: a password hash takes 19 MiB for 20 ms, and a body that grows leaves smaller copies of itself behind. At 4 MiB,
/// 126 MB stayed of an attack with 160 such bodies; at this, 31 MB. Far smaller, there could be more than the 65,530 mappings
/// that Linux allows.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: i32 = 512 * 1024;
/// Free memory at the end of a heap that is not given back, because it will soon be needed again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 8 * 1024 * 1024;

/// Fixes the limits above, which glibc raises to the size of the largest allocation that was freed: after thirty
/// log-ins, the process held 240 MB. To be called before other threads are started. Other allocators are left alone.
pub fn configure_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes numbers only, and no other thread allocates meanwhile.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// The part of a stack below the current frame that is given back. Nothing goes deeper between two long waits.
const RELEASED: usize = 256 * 1024;
/// What is kept below the current frame: the frames of the call itself.
const MARGIN: usize = 2048;
/// Bytes of a stack that are left alone at its low end, where it may have a guard, and by which its beginning may be
/// misjudged.
const SLACK: usize = 64 * 1024;

thread_local! {
    /// The lowest address of this thread's stack that may be given back; 0 if it is not known.
    static LOWEST: Cell<usize> = const { Cell::new(0) };
    /// Where the stack ended when it was last given back.
    static RELEASED_BELOW: Cell<usize> = const { Cell::new(0) };
}

/// Notes that this thread's stack, of `size` bytes, begins about here, so that [`release_stack`] can give it back.
pub fn note_stack(size: usize) {
    let here = 0_u8;
    let top = std::ptr::from_ref(&here).addr();
    LOWEST.set(top.saturating_sub(size).saturating_add(SLACK));
}

/// Notes that this thread has begun other work, which may use its stack anew.
pub fn note_stack_used() {
    RELEASED_BELOW.set(0);
}

/// Gives back the memory of this thread's stack that was used by calls which have returned. To be called before a long
/// wait; a system call, unless it was done already and nothing above was released since.
#[inline(never)]
pub fn release_stack() {
    let here = 0_u8;
    let here = std::ptr::from_ref(&here).addr();
    let (lowest, before) = (LOWEST.get(), RELEASED_BELOW.get());
    if lowest == 0 || (before != 0 && here <= before) {
        return;
    }
    RELEASED_BELOW.set(here);
    release_between(here.saturating_sub(RELEASED).max(lowest), here.saturating_sub(MARGIN));
}

#[cfg(target_os = "linux")]
fn release_between(from: usize, to: usize) {
    let page = rustix::param::page_size();
    let (from, to) = (from.next_multiple_of(page), to - to % page);
    if from < to {
        // SAFETY: these pages are this thread's own stack, below its current frame by more than the frames of this call.
        // Nothing refers to them; when they are used again, they are zero.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(from), to - from, libc::MADV_DONTNEED);
        }
    }
}

/// Not known to be safe on this system.
#[cfg(not(target_os = "linux"))]
fn release_between(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1024 * 1024;

    /// Uses this many bytes of stack, and returns their sum, so that they are really written.
    #[inline(never)]
    fn use_stack(depth: usize) -> usize {
        let block = std::hint::black_box([1_u8; 4096]);
        let below = if depth > 4096 { use_stack(depth - 4096) } else { 0 };
        below + usize::from(block[depth % 4096])
    }

    #[cfg(target_os = "linux")]
    fn resident(name: &str) -> usize {
        // In kB, of the mapping that holds this address.
        let address = std::ptr::from_ref(&name).addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_ours = false;
        for line in maps.lines() {
            let range = line.split(' ').next().unwrap().split_once('-');
            let range = range.and_then(|(from, to)| {
                Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
            });
            is_ours = range.map_or(is_ours, |range| range.contains(&address));
            if let Some(size) = line.strip_prefix("Rss:").filter(|_| is_ours) {
                return size.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("{name} is not mapped");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_used_of_a_stack_is_given_back_and_can_be_used_again() {
        let thread = std::thread::Builder::new().stack_size(SIZE).spawn(|| {
            note_stack(SIZE);
            let sum = use_stack(200 * 1024);
            let before = resident("the stack");
            release_stack();
            let after = resident("the stack");
            assert!(before >= 200 && after + 150 < before, "{before} kB, then {after}");
            // Given back once; again only after other work.
            assert_eq!(use_stack(200 * 1024), sum);
            release_stack();
            assert!(resident("the stack") >= 200);
            note_stack_used();
            release_stack();
            assert!(resident("the stack") + 150 < before);
            assert_eq!(use_stack(700 * 1024), use_stack(700 * 1024));
            release_stack();
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn an_unknown_stack_is_left_alone() {
        std::thread::spawn(|| {
            let sum = use_stack(100 * 1024);
            release_stack();
            assert_eq!((use_stack(100 * 1024), RELEASED_BELOW.get()), (sum, 0));
        })
        .join()
        .unwrap();
    }
}
