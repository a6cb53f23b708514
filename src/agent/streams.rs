//! The data lane's one [`Source`]: asks each kind of stream in turn, so that none starves another. Runs on the write
//! thread; never blocks.

use std::time::Instant;

use crate::link::Source;

/// See the module's description.
pub struct Streams {
    sources: Vec<Box<dyn Source>>,
    /// Which one is asked first.
    turn: usize,
}

impl Streams {
    pub fn new(sources: Vec<Box<dyn Source>>) -> Streams {
        Streams { sources, turn: 0 }
    }
}

impl Source for Streams {
    fn next(&mut self, max_bytes: usize) -> Option<String> {
        let count = self.sources.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Some(message) = self.sources[at].next(max_bytes) {
                self.turn = (at + 1) % count;
                return Some(message);
            }
        }
        None
    }

    fn due(&self) -> Option<Instant> {
        self.sources.iter().filter_map(|source| source.due()).min()
    }

    fn pinged(&mut self, number: u64) {
        self.sources.iter_mut().for_each(|source| source.pinged(number));
    }

    fn ponged(&mut self, number: u64) {
        self.sources.iter_mut().for_each(|source| source.ponged(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(&'static str, usize);

    impl Source for Says {
        fn next(&mut self, _max_bytes: usize) -> Option<String> {
            self.1 = self.1.checked_sub(1)?;
            Some(self.0.into())
        }
    }

    #[test]
    fn each_has_its_turn() {
        let mut streams =
            Streams::new(vec![Box::new(Says("a", 3)), Box::new(Says("b", 1)), Box::new(Says("c", 2))]);
        let said: Vec<_> = std::iter::from_fn(|| streams.next(1)).collect();
        assert_eq!(said, ["a", "b", "c", "a", "c", "a"]);
        assert_eq!(Streams::new(vec![]).next(1), None);
    }
}
