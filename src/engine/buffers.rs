//! The buffers of a connection to an upstream. There are as many as calls, most of which wait for the next piece of a
//! stream, so they take memory only while there is something in them.

use ureq::unversioned::transport::Buffers;

/// Most bytes in each direction. The head of a response must fit.
pub(super) const MOST: usize = 16 * 1024;
/// Bytes that are read at first; more once so many came at once.
const FEW: usize = 2 * 1024;

#[derive(Debug)]
pub(super) struct IdleBuffers {
    /// What was received is at `consumed..filled`.
    input: Vec<u8>,
    consumed: usize,
    filled: usize,
    /// Bytes to make room for at the next read.
    room: usize,
    /// The last call consumed something.
    has_progressed: bool,
    output: Vec<u8>,
    /// Where a body is read to before it is encoded.
    scratch: Vec<u8>,
}

impl IdleBuffers {
    pub(super) fn new() -> IdleBuffers {
        IdleBuffers {
            input: Vec::new(),
            consumed: 0,
            filled: 0,
            room: FEW,
            has_progressed: false,
            output: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Gives memory back before a wait for input: nothing is being sent, and perhaps nothing was received.
    pub(super) fn free(&mut self) {
        self.output = Vec::new();
        self.scratch = Vec::new();
        if self.consumed == self.filled {
            (self.input, self.consumed, self.filled) = (Vec::new(), 0, 0);
        }
    }
}

fn allocated(buffer: &mut Vec<u8>) -> &mut [u8] {
    if buffer.is_empty() {
        *buffer = vec![0; MOST];
    }
    buffer
}

impl Buffers for IdleBuffers {
    fn output(&mut self) -> &mut [u8] {
        allocated(&mut self.output)
    }

    fn input(&self) -> &[u8] {
        &self.input[self.consumed..self.filled]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.input.copy_within(self.consumed..self.filled, 0);
        (self.consumed, self.filled) = (0, self.filled - self.consumed);
        let wanted = (self.filled + self.room).min(MOST);
        if self.input.len() < wanted {
            self.input.resize(wanted, 0);
        }
        &mut self.input[self.filled..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.filled = (self.filled + amount).min(self.input.len());
        if self.filled == self.input.len() {
            self.room = MOST;
        }
    }

    fn input_consume(&mut self, amount: usize) {
        self.has_progressed = amount > 0;
        self.consumed = (self.consumed + amount).min(self.filled);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        (allocated(&mut self.scratch), allocated(&mut self.output))
    }

    fn can_use_input(&self) -> bool {
        self.consumed < self.filled && self.has_progressed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receive(buffers: &mut IdleBuffers, bytes: &[u8]) -> usize {
        let room = buffers.input_append_buf();
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        buffers.input_appended(n);
        n
    }

    proptest! {
        #[test]
        fn what_is_received_comes_out_in_order(steps in prop::collection::vec((0_usize..9000, 0_usize..9000, any::<bool>()), 1..50)) {
            let mut buffers = IdleBuffers::new();
            let (mut sent, mut taken) = (0_u32, 0_u32);
            for (most, consumed, waits) in steps {
                let next: Vec<u8> = (sent..).take(most).map(|n| (n % 251) as u8).collect();
                sent += u32::try_from(receive(&mut buffers, &next)).unwrap();
                let consumed = consumed.min(buffers.input().len());
                for byte in &buffers.input()[..consumed] {
                    prop_assert_eq!(u32::from(*byte), taken % 251);
                    taken += 1;
                }
                buffers.input_consume(consumed);
                prop_assert_eq!(buffers.can_use_input(), consumed > 0 && taken < sent);
                if waits {
                    buffers.free();
                }
                prop_assert_eq!(buffers.input().len(), (sent - taken) as usize);
                prop_assert!(buffers.input.len() <= MOST);
            }
        }
    }

    #[test]
    fn memory_is_taken_only_while_there_is_something_in_it() {
        let mut buffers = IdleBuffers::new();
        assert_eq!((buffers.tmp_and_output().0.len(), buffers.output().len()), (MOST, MOST));
        assert_eq!(receive(&mut buffers, &[7; 100]), 100);
        buffers.free();
        assert_eq!((buffers.output.capacity(), buffers.input()), (0, &[7; 100][..]));
        buffers.input_consume(100);
        buffers.free();
        assert_eq!((buffers.input.capacity(), buffers.input().len()), (0, 0));
    }

    #[test]
    fn a_full_buffer_takes_no_more() {
        let mut buffers = IdleBuffers::new();
        let mut received = 0;
        while received < MOST {
            received += receive(&mut buffers, &[1; MOST]);
        }
        assert_eq!((buffers.input_append_buf().len(), buffers.input().len()), (0, MOST));
    }
}
