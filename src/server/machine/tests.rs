//! The machine against a model of Docker: random commands, crashes, operators and Engine failures, with jobs and
//! events delayed at random. Whatever happens, the invariants hold and in the end what is and what should be agree.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::docker::ContainerId;
use crate::protocol::spec::{Restart, Stop};

/// What can happen next.
#[derive(Clone, Debug)]
enum Step {
    Ask(Request),
    /// The worker gets to the job in flight; `true` makes it fail after its effect.
    Work {
        fails: bool,
    },
    /// The oldest event arrives.
    Hear,
    Crash {
        exit_code: i64,
    },
    OperatorKill {
        signal: i32,
    },
    OperatorStart,
    OperatorRemove,
    /// The Engine goes, with or without its containers.
    EngineDown {
        kills: bool,
    },
    EngineUp,
    /// The output of the present run shows a pattern.
    Ready,
    /// The present run, or the one before, was over its disk limit for too long.
    DiskLimit {
        late: bool,
    },
    Wait {
        seconds: u64,
    },
}

/// Docker as far as one server can see it.
struct World {
    exists: bool,
    running: bool,
    /// Whether a container that runs takes notice of anything but SIGKILL.
    ignores_term: bool,
    exit_code: i64,
    started_ns: u64,
    finished_ns: u64,
    image: bool,
    engine_up: bool,
    clock: u64,
    events: VecDeque<Input>,
}

struct Run {
    machine: Machine,
    world: World,
    now: Instant,
    job: Option<Job>,
    next_ticket: u64,
    /// How often each ticket was answered.
    answers: BTreeMap<Ticket, u32>,
    last_status: Status,
    /// The machine wants everything to be looked at again.
    doubt: bool,
    /// The last stop's reason, as told.
    reason: Option<Reason>,
    gone: bool,
}

fn id() -> ContainerId {
    ContainerId::new(&"a".repeat(64)).unwrap()
}

impl World {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn facts(&self) -> Option<Facts> {
        self.exists.then(|| Facts {
            id: id(),
            spec_hash: String::new(),
            running: self.running,
            pid: if self.running { 7 } else { 0 },
            exit_code: self.exit_code,
            oom_killed: false,
            started_ns: self.started_ns,
            finished_ns: self.finished_ns,
        })
    }

    fn start(&mut self) {
        self.exists = true;
        if !self.running {
            (self.running, self.exit_code) = (true, 0);
            self.started_ns = self.tick();
            let at_ns = self.tick();
            self.events.push_back(Input::Started { at_ns });
        }
    }

    fn end(&mut self, exit_code: i64) {
        if self.running {
            (self.running, self.exit_code) = (false, exit_code);
            self.finished_ns = self.tick();
            let at_ns = self.tick();
            self.events.push_back(Input::Died(Died { exit_code, at_ns }));
        }
    }

    fn signal(&mut self, signal: i32) {
        self.events.push_back(Input::Signalled { signal });
        if signal == 9 || !self.ignores_term {
            self.end(128 + i64::from(signal));
        }
    }

    fn remove(&mut self) {
        self.end(137);
        self.exists = false;
        self.events.push_back(Input::Destroyed { container: id() });
    }
}

impl Run {
    fn new(ignores_term: bool, image: bool, restart: Restart, done: bool) -> Run {
        let spec = Spec {
            image: "demo:1".into(),
            restart,
            done: if done { vec!["up".into()] } else { vec![] },
            stop: Stop { timeout: 5, ..Stop::default() },
            ..Spec::default()
        };
        let (machine, effects) = Machine::create(Arc::new(spec), Ticket(0), false);
        let machine = machine.with_ready_timeout(Duration::from_secs(20));
        let world = World {
            exists: false,
            running: false,
            ignores_term,
            exit_code: 0,
            started_ns: 0,
            finished_ns: 0,
            image,
            engine_up: true,
            clock: 1,
            events: VecDeque::new(),
        };
        let mut run = Run {
            machine,
            world,
            now: Instant::now(),
            job: None,
            next_ticket: 1,
            answers: BTreeMap::from([(Ticket(0), 0)]),
            last_status: Status::Installing,
            doubt: false,
            reason: None,
            gone: false,
        };
        run.carry_out(effects);
        run
    }

    fn input(&mut self, input: Input) {
        if self.gone {
            if let Input::Request(ticket, _) = input {
                // The agent loop answers these by itself.
                *self.answers.entry(ticket).or_default() += 1;
            }
            return;
        }
        let effects = self.machine.step(input, self.now);
        self.carry_out(effects);
        if !self.gone {
            assert_eq!(self.machine.status(), self.last_status, "every change of the status is told");
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Run(job) => {
                    assert!(self.job.is_none(), "one job at a time");
                    self.job = Some(job);
                    self.machine.take_dirty();
                }
                Effect::Answer(ticket, _) => {
                    let count = self.answers.get_mut(&ticket).expect("only what was asked is answered");
                    *count += 1;
                    assert_eq!(*count, 1, "{ticket:?} is answered once");
                }
                Effect::Status(change) => {
                    assert_eq!(change.previous, self.last_status, "no change is skipped");
                    self.last_status = change.current;
                    self.reason = change.reason;
                    if change.reason == Some(Reason::DiskLimit) {
                        assert!(matches!(
                            change.current,
                            Status::Stopping | Status::Stopped | Status::Suspended
                        ));
                        // A start that was waiting may have begun in the same step once it has stopped.
                        if change.current == Status::Stopping {
                            assert_eq!(self.machine.desired(), Desired::Stopped, "not by itself");
                        }
                    }
                }
                Effect::Forget => self.gone = true,
                Effect::Doubt => self.doubt = true,
                Effect::Begin(_) | Effect::Cancel => {}
            }
        }
    }

    fn work(&mut self, fails: bool) {
        let Some(job) = self.job.take() else { return };
        let fault = |code| JobResult::Failed { fault: Fault::new(code, "x"), facts: None };
        let world = &mut self.world;
        let result = if !world.engine_up {
            fault(Code::DockerUnavailable)
        } else {
            let facts = |world: &World| match world.facts() {
                Some(facts) => JobResult::Ok(Some(facts)),
                None => JobResult::NotRunning,
            };
            let result = match &job {
                Job::Create { .. } | Job::Start if !world.image => JobResult::ImageMissing,
                Job::Create { .. } => {
                    world.exists = true;
                    facts(world)
                }
                Job::Start => {
                    world.start();
                    facts(world)
                }
                Job::Pull => {
                    world.image = true;
                    JobResult::Ok(None)
                }
                Job::Signal(_) | Job::Console(_) if world.running => {
                    world.signal(15);
                    JobResult::Ok(None)
                }
                Job::Kill if world.running => {
                    world.signal(9);
                    JobResult::Ok(None)
                }
                Job::Signal(_) | Job::Console(_) | Job::Kill => JobResult::NotRunning,
                Job::Inspect => facts(world),
                Job::Remove { .. } => {
                    world.remove();
                    JobResult::Ok(None)
                }
                Job::Apply(_) | Job::Store(_) | Job::Save | Job::Probe => JobResult::Ok(None),
            };
            if fails { fault(Code::DockerError) } else { result }
        };
        self.input(Input::Done(result));
    }

    fn hear(&mut self) {
        if std::mem::take(&mut self.doubt) {
            return self.engine_up();
        }
        if let Some(event) = self.world.events.pop_front() {
            self.input(event);
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        if self.machine.deadline().is_some_and(|at| at <= self.now) {
            self.input(Input::Deadline);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(request) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.answers.insert(ticket, 0);
                self.input(Input::Request(ticket, request));
            }
            Step::Work { fails } => self.work(fails),
            Step::Hear if self.world.engine_up => self.hear(),
            Step::Crash { exit_code } => self.world.end(exit_code),
            Step::OperatorKill { signal } if self.world.engine_up && self.world.running => {
                self.world.signal(signal);
            }
            Step::OperatorStart if self.world.engine_up && self.world.exists => self.world.start(),
            Step::OperatorRemove if self.world.engine_up && self.world.exists => self.world.remove(),
            Step::EngineDown { kills } if self.world.engine_up => {
                self.world.engine_up = false;
                if kills {
                    self.world.end(137);
                }
                self.world.events.clear();
                self.input(Input::EngineLost);
                if !self.gone {
                    assert_eq!(self.machine.status(), Status::Unknown);
                }
            }
            Step::Ready => self.input(Input::Ready { started_ns: self.world.started_ns }),
            Step::DiskLimit { late } => {
                let started_ns = self.world.started_ns - u64::from(late && self.world.started_ns > 0);
                self.input(Input::DiskLimit { started_ns });
            }
            Step::EngineUp if !self.world.engine_up => self.engine_up(),
            Step::Wait { seconds } => self.wait(seconds),
            _ => {}
        }
    }

    fn engine_up(&mut self) {
        self.world.engine_up = true;
        self.world.events.clear();
        let facts = self.world.facts();
        self.input(Input::Inspected(facts));
    }

    /// Lets everything that is under way come to its end.
    fn come_to_rest(&mut self) {
        if !self.world.engine_up {
            self.engine_up();
        }
        for _ in 0..400 {
            self.work(false);
            self.hear();
            self.wait(1);
        }
        assert!(self.job.is_none() && self.world.events.is_empty());
    }
}

fn a_request() -> impl Strategy<Value = Request> {
    let options = || {
        proptest::option::of(0..8u64)
            .prop_map(|s| StopOptions { signal: None, timeout: s.map(Duration::from_secs) })
    };
    prop_oneof![
        4 => Just(Request::Start),
        3 => options().prop_map(Request::Stop),
        2 => options().prop_map(Request::Restart),
        2 => Just(Request::Kill),
        1 => Just(Request::Suspend),
        1 => Just(Request::Unsuspend),
        1 => any::<bool>().prop_map(|remove_data| Request::Delete { remove_data }),
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => a_request().prop_map(Step::Ask),
        12 => proptest::bool::weighted(0.15).prop_map(|fails| Step::Work { fails }),
        10 => Just(Step::Hear),
        2 => prop_oneof![Just(0i64), Just(1), Just(137)].prop_map(|exit_code| Step::Crash { exit_code }),
        1 => prop_oneof![Just(15), Just(9), Just(1)].prop_map(|signal| Step::OperatorKill { signal }),
        1 => Just(Step::OperatorStart),
        1 => Just(Step::OperatorRemove),
        1 => any::<bool>().prop_map(|kills| Step::EngineDown { kills }),
        2 => Just(Step::EngineUp),
        3 => Just(Step::Ready),
        2 => any::<bool>().prop_map(|late| Step::DiskLimit { late }),
        5 => (0..7u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_is_answered_and_the_truth_is_dockers(
        steps in proptest::collection::vec(a_step(), 0..60),
        ignores_term: bool,
        image: bool,
        done: bool,
        restart in prop_oneof![Just(Restart::OnFailure), Just(Restart::Never), Just(Restart::Always)],
    ) {
        let mut run = Run::new(ignores_term, image, restart, done);
        for step in steps {
            run.step(step);
        }
        run.come_to_rest();
        for (ticket, count) in &run.answers {
            prop_assert_eq!(*count, 1, "{:?} has one answer", ticket);
        }
        if !run.gone {
            let believed = run.machine.is_running();
            prop_assert_eq!(believed, run.world.running, "{:?}", run.machine);
            let status = run.machine.status();
            prop_assert_eq!(status == Status::Running, run.world.running, "{:?}", status);
            if run.machine.desired() == Desired::Running && !run.machine.suspended() {
                prop_assert!(run.world.running, "what should run does: {:?}", run.machine);
            }
        }
    }
}

/// A server that runs, with nothing in flight.
fn a_running_server(ignores_term: bool, done: bool) -> Run {
    let mut run = Run::new(ignores_term, true, Restart::Always, done);
    run.step(Step::Work { fails: false });
    run.step(Step::Ask(Request::Start));
    run.step(Step::Work { fails: false });
    run
}

#[test]
fn over_its_disk_limit_it_is_stopped_and_stays_so() {
    for ignores_term in [false, true] {
        let mut run = a_running_server(ignores_term, false);
        run.step(Step::DiskLimit { late: true });
        run.come_to_rest();
        assert_eq!(run.machine.status(), Status::Running, "what an earlier run used is no reason");
        run.step(Step::DiskLimit { late: false });
        assert_eq!((run.last_status, run.reason), (Status::Stopping, Some(Reason::DiskLimit)));
        run.come_to_rest();
        assert_eq!((run.last_status, run.reason), (Status::Stopped, Some(Reason::DiskLimit)));
        assert!(!run.world.running);
    }
}

#[test]
fn over_its_disk_limit_before_it_is_up_the_start_is_answered() {
    let mut run = a_running_server(false, true);
    assert_eq!(run.last_status, Status::Starting);
    run.step(Step::DiskLimit { late: false });
    run.come_to_rest();
    assert_eq!((run.last_status, run.answers[&Ticket(1)]), (Status::Stopped, 1));
}

#[test]
fn an_end_that_was_missed_while_a_start_was_under_way_is_no_crash() {
    for engine_goes in [false, true] {
        let mut run = Run::new(false, true, Restart::Always, false);
        run.step(Step::Work { fails: false });
        run.step(Step::Ask(Request::Start));
        assert_eq!(run.job.take(), Some(Job::Start));
        run.world.start();
        let started = run.world.facts();
        if engine_goes {
            run.step(Step::EngineDown { kills: true });
        } else {
            run.world.end(143);
            run.world.events.clear();
            run.input(Input::EventsMissed);
        }
        run.input(Input::Done(JobResult::Ok(started)));
        run.engine_up();
        assert_eq!((run.last_status, run.reason), (Status::Starting, Some(Reason::EngineRestart)));
        run.come_to_rest();
        assert_eq!(run.last_status, Status::Running);
    }
}
