//! The starts that the Agent makes by itself, after a reboot, crashes, or the Engine's return: so many at once and no more,
//! so that hundreds of them neither drown the machine nor hold up what is commanded meanwhile.

use super::*;

/// Which of them run, and which wait for their turn in their servers' `held`.
pub struct Starts {
    most: usize,
    running: BTreeSet<ServerId>,
    waiting: VecDeque<ServerId>,
}

impl Starts {
    pub fn new(most: usize) -> Starts {
        Starts { most, running: BTreeSet::new(), waiting: VecDeque::new() }
    }
}

impl Core {
    /// Whether a job has to wait for its turn; otherwise it counts as begun.
    pub(super) fn waits_its_turn(&mut self, id: &ServerId, job: &Job) -> bool {
        let Some(server) = self.servers.get(id) else { return false };
        if *job != Job::Start || server.machine.serves().is_some() {
            return false;
        }
        if self.starts.running.len() < self.starts.most {
            self.starts.running.insert(id.clone());
            return false;
        }
        self.starts.waiting.push_back(id.clone());
        true
    }

    /// A server's job has ended or was given up; when it was such a start, the next ones begin.
    pub(super) fn start_ended(&mut self, id: &ServerId) {
        if !self.starts.running.remove(id) || self.draining {
            return;
        }
        while self.starts.running.len() < self.starts.most
            && let Some(id) = self.starts.waiting.pop_front()
        {
            let server = self.servers.get_mut(&id);
            // What was given up meanwhile has left nothing.
            let held = server.and_then(|server| server.held.take_if(|job| *job == Job::Start));
            if let Some(job) = held
                && let Some(result) = self.submit(&id, job)
            {
                self.starts.running.remove(&id);
                self.step(&id, Input::Done(result));
            }
        }
    }
}
