//! How far a long job is, told at a bounded rate.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::abort::{Abort, Aborted};

/// Told at most this often, and once at each beginning of a stage.
const EVERY: Duration = Duration::from_millis(500);

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Waiting,
    Looking,
    Packing,
    Downloading,
    Extracting,
    Moving,
    Installing,
}

impl Stage {
    /// As the Panel is told.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Looking => "looking",
            Stage::Packing => "packing",
            Stage::Downloading => "downloading",
            Stage::Extracting => "extracting",
            Stage::Moving => "moving",
            Stage::Installing => "installing",
        }
    }
}

/// One thing to tell. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub stage: Stage,
    pub current: u64,
    pub total: Option<u64>,
}

/// Counts what a job has done and tells of it. It belongs to the job's thread.
pub struct Meter<'a> {
    abort: &'a Abort,
    tell: &'a dyn Fn(Step),
    step: Cell<Step>,
    told: RefCell<Option<Instant>>,
}

impl<'a> Meter<'a> {
    pub fn new(abort: &'a Abort, tell: &'a dyn Fn(Step)) -> Meter<'a> {
        let step = Cell::new(Step { stage: Stage::Waiting, current: 0, total: None });
        Meter { abort, tell, step, told: RefCell::new(None) }
    }

    /// A stage begins, of so many bytes.
    pub fn begin(&self, stage: Stage, total: Option<u64>) {
        self.step.set(Step { stage, current: 0, total });
        self.tell_now();
    }

    /// A stage whose end is not worth counting for.
    pub fn stage(&self, stage: Stage) {
        self.begin(stage, None);
    }

    pub fn add(&self, bytes: u64) {
        let step = self.step.get();
        self.step.set(Step { current: step.current.saturating_add(bytes), ..step });
        if self.told.borrow().is_none_or(|at| at.elapsed() >= EVERY) {
            self.tell_now();
        }
    }

    fn tell_now(&self) {
        self.told.replace(Some(Instant::now()));
        (self.tell)(self.step.get());
    }

    /// A reader whose bytes are counted here, and that fails once the job's end is asked for.
    pub fn reader<R: Read>(&'a self, inner: R) -> Metered<'a, R> {
        Metered { meter: self, inner }
    }
}

/// See [`Meter::reader`].
pub struct Metered<'a, R> {
    meter: &'a Meter<'a>,
    inner: R,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.abort.check().map_err(|Aborted| io::Error::other("ended before it was done"))?;
        let count = self.inner.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_beginnings_and_not_of_every_byte() {
        let (abort, told) = (Abort::default(), RefCell::new(Vec::new()));
        let tell = |step| told.borrow_mut().push(step);
        let meter = Meter::new(&abort, &tell);
        meter.begin(Stage::Packing, Some(9));
        let mut reader = meter.reader(&[7_u8; 9][..]);
        for _ in 0..9 {
            reader.read_exact(&mut [0]).unwrap();
        }
        meter.stage(Stage::Moving);
        let steps = told.borrow().iter().map(|step| (step.stage, step.current)).collect::<Vec<_>>();
        assert_eq!(steps, [(Stage::Packing, 0), (Stage::Moving, 0)]);
        assert_eq!(meter.step.get().current, 0);
        abort.ask();
        assert!(reader.read(&mut [0]).is_err());
    }
}
