//! The buffers of one connection to the Engine: small while little comes, so that 500 followers of quiet logs hold little,
//! and larger while much does.
//!
//! Written by whichever thread makes the call; ureq says when.

use ureq::unversioned::transport::Buffers;

/// Bytes of input that a connection holds at least.
const LEAST: usize = 512;
/// ureq wants as many for reading a request's body in.
const BODY: usize = 10 * 1024;

/// See the module's description.
#[derive(Debug)]
pub(super) struct StreamBuffers {
    /// What was read and not consumed lies between `start` and `end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the last read.
    last: usize,
    most_input: usize,
    output: Vec<u8>,
    output_size: usize,
    consumed: bool,
}

impl StreamBuffers {
    /// Nothing is allocated yet. `most_input` is the most bytes that are read at once.
    pub fn new(most_input: usize, output_size: usize) -> StreamBuffers {
        StreamBuffers {
            input: Vec::new(),
            start: 0,
            end: 0,
            last: 0,
            most_input,
            output: Vec::new(),
            output_size,
            consumed: false,
        }
    }

    /// What was written has gone out: a stream never writes again, and whoever does has it allocated again.
    pub fn output_sent(&mut self) {
        self.output = Vec::new();
    }

    /// Makes the input buffer `size` bytes; what it holds fits.
    fn resize(&mut self, size: usize) {
        let mut input = Vec::with_capacity(size);
        input.extend_from_slice(&self.input[self.start..self.end]);
        (self.start, self.end) = (0, input.len());
        input.resize(size, 0);
        self.input = input;
    }
}

impl Buffers for StreamBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.output.resize(self.output_size, 0);
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        let (held, size) = (self.end - self.start, self.input.len());
        if self.end == size && size < self.most_input {
            // It was filled to its end: more comes than fits.
            self.resize((size * 2).clamp(LEAST, self.most_input));
        } else if held == 0 && size > LEAST && self.last < size / 8 {
            self.resize(LEAST);
        } else if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
        self.last = amount;
    }

    fn input_consume(&mut self, amount: usize) {
        self.consumed = amount > 0;
        self.start += amount;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.input.len() - self.end < BODY {
            self.resize(self.end - self.start + BODY);
        }
        self.output.resize(self.output_size, 0);
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.end > self.start && self.consumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `bytes` as far as there is room, and consumes so many.
    fn read(buffers: &mut StreamBuffers, bytes: &[u8], consumed: usize) -> usize {
        let room = buffers.input_append_buf();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        buffers.input_appended(count);
        buffers.input_consume(consumed.min(buffers.input().len()));
        count
    }

    #[test]
    fn grows_while_much_comes_and_shrinks_after() {
        let mut buffers = StreamBuffers::new(16 << 10, 4096);
        let much = vec![7; 64 << 10];
        let sizes: Vec<usize> = (0..6).map(|_| read(&mut buffers, &much, usize::MAX)).collect();
        assert_eq!(sizes, [512, 1024, 2048, 4096, 8192, 16384]);
        read(&mut buffers, b"little", usize::MAX);
        read(&mut buffers, b"little", usize::MAX);
        assert_eq!(buffers.input.capacity(), LEAST);
    }

    #[test]
    fn keeps_what_is_not_consumed_in_order() {
        let mut buffers = StreamBuffers::new(4096, 16);
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        let (mut at, mut got) = (0, Vec::new());
        while got.len() < bytes.len() {
            let before = buffers.input().len();
            at += {
                let room = buffers.input_append_buf();
                let count = room.len().min(bytes.len() - at).min(700);
                room[..count].copy_from_slice(&bytes[at..at + count]);
                buffers.input_appended(count);
                count
            };
            assert!(buffers.input().len() >= before);
            let taken = (buffers.input().len() / 2 + 1).min(buffers.input().len());
            got.extend_from_slice(&buffers.input()[..taken]);
            buffers.input_consume(taken);
        }
        assert_eq!(got, bytes);
    }

    #[test]
    fn an_answer_without_an_end_fills_it_and_no_more() {
        let mut buffers = StreamBuffers::new(4096, 16);
        let much = vec![7; 64 << 10];
        while read(&mut buffers, &much, 0) > 0 {}
        assert_eq!(buffers.input().len(), 4096);
        assert!(!buffers.can_use_input());
    }

    #[test]
    fn output_is_there_when_it_is_wanted() {
        let mut buffers = StreamBuffers::new(4096, 16);
        buffers.output()[0] = 1;
        buffers.output_sent();
        assert_eq!(buffers.output.capacity(), 0);
        assert_eq!(buffers.output().len(), 16);
        let (body, output) = buffers.tmp_and_output();
        assert_eq!((body.len() >= BODY, output.len()), (true, 16));
    }
}
