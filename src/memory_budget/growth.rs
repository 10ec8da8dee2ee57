//! Memory of what grows, and of which nobody knows beforehand how large it will be.

use std::fmt;
use std::io::{self, Write};

use crate::blocking::Refused;

use super::reserve;

/// Reserves for something that grows: nothing while it is small, and then a step at a time.
#[derive(Debug)]
pub struct Growth {
    bytes: usize,
    reserved: usize,
    step: usize,
    times: usize,
}

impl Growth {
    /// For something whose first `step` bytes are not reserved. Each byte takes `times` as much, with its copies.
    pub const fn new(step: usize, times: usize) -> Growth {
        Growth { bytes: 0, reserved: step, step, times }
    }

    /// It becomes larger by so many bytes. `take` reserves memory for that.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn add<E>(&mut self, bytes: usize, take: impl FnOnce(usize) -> Result<(), E>) -> Result<(), E> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.reserved {
            let more = (self.bytes - self.reserved).div_ceil(self.step).saturating_mul(self.step);
            take(more.saturating_mul(self.times))?;
            self.reserved = self.reserved.saturating_add(more);
        }
        Ok(())
    }
}

/// The least capacity of such a text.
const LEAST: usize = 4 * 1024;

/// A text that is written, and takes memory for the request that this thread works on as it grows.
#[derive(Debug, Default)]
pub struct ReservedBytes {
    bytes: Vec<u8>,
    reserved: usize,
    refused: Option<Refused>,
}

impl ReservedBytes {
    /// Adds bytes.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let needed = self.bytes.len().saturating_add(bytes.len());
        if needed > self.bytes.capacity() {
            let wanted = needed.max(self.bytes.capacity().saturating_mul(2)).max(LEAST);
            if wanted > super::SMALL {
                let outcome = reserve(wanted.saturating_sub(self.reserved));
                self.refused = outcome.err();
                outcome?;
                self.reserved = wanted;
            }
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Why the last write failed, if there was no memory.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// All that was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Write for ReservedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for ReservedBytes {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::memory_budget::{MemoryBudget, install, take};

    #[test]
    fn what_grows_is_reserved_by_steps() {
        let (mut growth, mut taken) = (Growth::new(100, 3), Vec::new());
        for bytes in [60, 40, 1, 99, 250] {
            let take = |more| {
                taken.push(more);
                Ok::<_, Refused>(())
            };
            growth.add(bytes, take).unwrap();
        }
        assert_eq!(taken, [300, 900]);
        assert_eq!(growth.add(100, |_| Err(Refused::Full)), Err(Refused::Full));
    }

    #[test]
    fn a_text_takes_memory_before_it_grows() {
        thread::spawn(|| {
            let budget = Arc::new(MemoryBudget::new(1_000_000));
            install(Arc::clone(&budget));
            let mut text = ReservedBytes::default();
            let mut written = 0;
            while text.write_all(&[b'x'; 1000]).is_ok() {
                written += 1;
            }
            assert_eq!((text.refused(), text.bytes.len()), (Some(Refused::Full), written * 1000));
            assert!(written > 100 && text.bytes.capacity() <= budget.used(), "{written}");
            drop(take());
            let mut small = ReservedBytes::default();
            small.write_all(&vec![b'x'; 60_000]).unwrap();
            assert_eq!((budget.used(), small.into_bytes().len()), (0, 60_000));
        })
        .join()
        .unwrap();
    }
}
