//! The body of a request: the bytes that were received already, and a source of the rest.

use std::fmt;
use std::io::{self, Read};

use crate::blocking::Refused;
use crate::memory_budget;

/// The first piece of a large body that memory is reserved for.
const FIRST_PIECE: usize = 64 * 1024;

/// A body, which can be read once. The server buffers small bodies, and reads large ones on demand.
#[derive(Default)]
pub struct Body {
    buffered: Vec<u8>,
    read: usize,
    rest: Option<Box<dyn Read + Send>>,
    declared: Option<u64>,
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// It was not received in time.
    #[error("the body did not arrive in time")]
    Timeout,
    /// It ended early or was framed wrongly.
    #[error("the body is incomplete or malformed")]
    Malformed(#[source] io::Error),
    /// There is no memory for it.
    #[error("there is no memory for the body")]
    Refused(#[from] Refused),
}

impl From<io::Error> for BodyError {
    fn from(e: io::Error) -> BodyError {
        match e.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => BodyError::Timeout,
            _ => BodyError::Malformed(e),
        }
    }
}

impl Body {
    /// A body that was received completely.
    pub fn from_bytes(buffered: Vec<u8>) -> Body {
        let declared = Some(buffered.len() as u64);
        Body { buffered, read: 0, rest: None, declared }
    }

    /// A body of which `buffered` was received; `rest` reads what follows, and blocks. `declared` is the total length in
    /// bytes, if the client sent it.
    pub fn streamed(buffered: Vec<u8>, rest: Box<dyn Read + Send>, declared: Option<u64>) -> Body {
        Body { buffered, read: 0, rest: Some(rest), declared }
    }

    /// The total length in bytes, if it is known in advance.
    pub fn declared_length(&self) -> Option<u64> {
        self.declared
    }

    /// Whether all of it is in memory already, so that reading cannot block.
    pub fn is_buffered(&self) -> bool {
        self.rest.is_none()
    }

    /// How many bytes of it are in memory.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered.capacity()
    }

    /// Reads the whole body into memory.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] if it has more than `limit` bytes; before anything is read if the length was declared.
    /// [`BodyError::Refused`] if there is no [memory](memory_budget) for it.
    pub fn into_bytes(&mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        if self.declared.is_some_and(|n| n > limit as u64) {
            return Err(BodyError::TooLarge(limit));
        }
        let mut bytes = std::mem::take(&mut self.buffered);
        bytes.drain(..std::mem::take(&mut self.read));
        if let Some(rest) = &mut self.rest {
            let declared = self.declared.and_then(|n| usize::try_from(n).ok());
            let most = declared.unwrap_or(limit.saturating_add(1));
            memory_budget::read_up_to(rest, &mut bytes, (FIRST_PIECE, most), |more| {
                memory_budget::reserve_in_time(more).map_err(BodyError::from)
            })?;
        }
        if bytes.len() > limit { Err(BodyError::TooLarge(limit)) } else { Ok(bytes) }
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let here = &self.buffered[self.read..];
        if here.is_empty() {
            return self.rest.as_mut().map_or(Ok(0), |rest| rest.read(out));
        }
        let n = here.len().min(out.len());
        out[..n].copy_from_slice(&here[..n]);
        self.read += n;
        Ok(n)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("buffered", &self.buffered.len())
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_the_received_part_and_the_rest() {
        let mut body = Body::streamed(b"ab".to_vec(), Box::new(&b"cd"[..]), None);
        let mut one = [0; 1];
        assert_eq!(body.read(&mut one).unwrap(), 1);
        assert_eq!(body.into_bytes(3).unwrap(), b"bcd");
    }

    #[test]
    fn stops_at_the_limit() {
        assert!(matches!(Body::from_bytes(vec![0; 5]).into_bytes(4), Err(BodyError::TooLarge(4))));
        let mut endless = Body::streamed(Vec::new(), Box::new(io::repeat(0)), None);
        assert!(matches!(endless.into_bytes(1000), Err(BodyError::TooLarge(1000))));
    }
}
