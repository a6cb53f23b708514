//! The program in the container: takes one question from its input, does the work on the main thread, and says how it
//! went. A second thread hears what it is told meanwhile, and ends it when there is nobody to hear any more.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cap_std::fs::Dir;
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::talk::{Answer, Done, Line, Question, Refused, Tools, Word, Work};
use super::{DIRECTORY, DOWNLOAD, MAX_LINE};
use crate::protocol::spec::Rules;
use crate::protocol::{Action, Code, Command, Decoder, NodeId, Reply, ServerAction, ServerId};
use crate::server::abort::Abort;
use crate::server::archive;
use crate::server::download::{self, Downloaded, Fetch};
use crate::server::files::{Owner, Quota, Root, Trouble, perform, place, quota::Lend, temporary, tree};
use crate::server::mods::records::{Keep, Mods};
use crate::server::progress::{Meter, Stage};
use crate::server::stats::Disks;
use crate::server::workshop::{self, Bench, Wants};

/// The word on the command line of the program in the container.
pub const WORD: &str = "beneath";
/// How long it may take to undo what is half done. What is left after that is swept later.
const UNDO: Duration = Duration::from_secs(8);
/// A use from which it can go down and up: what the other side counts is only the difference.
const BASE: u64 = 1 << 62;

/// What a line can be written to from any thread.
pub trait Output: Write + Send + fmt::Debug + 'static {}
impl<W: Write + Send + fmt::Debug + 'static> Output for W {}

/// The way to the Agent.
#[derive(Debug)]
struct Wire<W> {
    output: Mutex<W>,
    words_rx: Receiver<Word>,
    /// Bytes lent in all.
    lent: AtomicU64,
}

/// The program in the container: one question from `input`, its answer to `output`.
///
/// # Errors
/// What keeps it from answering at all.
pub fn serve(input: impl Read + Send + 'static, output: impl Output) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let question: Question = read(&mut input)?;
    let abort = Abort::default();
    let (words_tx, words_rx) = bounded(1);
    let asked = abort.clone();
    thread::Builder::new().name("hear".into()).spawn(move || hear(input, &words_tx, &asked))?;
    let wire = Arc::new(Wire { output: Mutex::new(output), words_rx, lent: AtomicU64::new(0) });
    let answer = answer(question, &wire, &abort)?;
    wire.say(&Line::Done(Box::new(answer)))
}

fn read<T: serde::de::DeserializeOwned>(input: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Passes on what is said until the input ends. Then the work is given up; a disk that hangs does not keep the process.
fn hear(mut input: impl BufRead, words_tx: &Sender<Word>, abort: &Abort) {
    while let Ok(word) = read(&mut input) {
        if words_tx.send(word).is_err() {
            return;
        }
    }
    abort.ask();
    thread::sleep(UNDO);
    std::process::exit(1);
}

impl<W: Write> Wire<W> {
    fn say(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        // Whole lines only are written under the lock.
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&text)?;
        output.flush()
    }

    fn ask(&self, line: &Line) -> io::Result<Word> {
        self.say(line)?;
        self.words_rx.recv().map_err(|_| io::ErrorKind::UnexpectedEof.into())
    }
}

impl<W: Output> Lend for Wire<W> {
    fn lend(&self, bytes: u64) -> u64 {
        match self.ask(&Line::Lend(bytes)) {
            Ok(Word::Lent(lent)) => {
                self.lent.fetch_add(lent, Ordering::Relaxed);
                lent
            }
            _ => 0,
        }
    }
}

/// The record of mods, which the Agent keeps.
struct Sent<'a, W> {
    wire: &'a Wire<W>,
    mods: &'a Mods,
}

impl<W: Write> Keep for Sent<'_, W> {
    fn load(&self) -> io::Result<Mods> {
        Ok(self.mods.clone())
    }

    fn save(&self, mods: &Mods) -> io::Result<()> {
        match self.wire.ask(&Line::Save(mods.clone()))? {
            Word::Saved(true) => Ok(()),
            _ => Err(io::Error::other("it could not be kept")),
        }
    }
}

/// What the Agent has downloaded already.
struct Brought<'a>(&'a Option<Downloaded>);

impl Fetch for Brought<'_> {
    fn fetch(
        &self,
        _: &str,
        to: &mut dyn Write,
        room: &mut dyn FnMut(u64) -> Result<(), archive::Error>,
        abort: &Abort,
        meter: &Meter,
    ) -> Result<Downloaded, download::Error> {
        let failed = |error: io::Error| download::Error::Write(error.into());
        let brought = self.0.clone().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        meter.begin(Stage::Moving, Some(brought.size));
        let mut file = meter.reader(File::open(DOWNLOAD).map_err(failed)?);
        let mut buffer = vec![0; 64 << 10];
        loop {
            abort.check().map_err(|_| download::Error::Aborted)?;
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(brought),
                count => {
                    room(count as u64).map_err(download::Error::Write)?;
                    to.write_all(&buffer[..count]).map_err(failed)?;
                }
            }
        }
    }
}

fn answer<W: Output>(question: Question, wire: &Arc<Wire<W>>, abort: &Abort) -> io::Result<Answer> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(openat(CWD, DIRECTORY, flags, Mode::empty())?);
    let stat = fstat(&directory)?;
    let (uid, gid) = question.owner.unwrap_or((stat.st_uid, stat.st_gid));
    let server: ServerId = "server".parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let (disks, _) = Disks::new(PathBuf::new());
    disks.measured(&server, BASE);
    let quota = match question.limited {
        true => Quota::borrowed(disks.clone(), server.clone(), BASE, wire.clone()),
        false => Quota::new(disks.clone(), server.clone(), None),
    };
    let root = Root { dir: Dir::from_std_file(directory), owner: Owner { uid, gid }, quota };
    let result = work(&root, question.work, wire, abort);
    let lent = wire.lent.load(Ordering::Relaxed);
    let used = disks.known(&server).unwrap_or(BASE).saturating_add(lent);
    Ok(Answer { result, change: used.wrapping_sub(BASE).cast_signed() })
}

fn work<W: Write>(root: &Root, work: Work, wire: &Wire<W>, abort: &Abort) -> Result<Done, Refused> {
    let refused = |trouble: Trouble| {
        let cause = if let Trouble::Io(error) = &trouble { error.to_string() } else { String::new() };
        Refused { cause, ..trouble.fault().into() }
    };
    let nothing = |result: Result<(), Trouble>| result.map(|()| Done::Nothing).map_err(refused);
    match work {
        Work::Give => nothing(root.owner.give(&root.dir).map_err(Trouble::from)),
        Work::Empty => {
            let top = place::readable(&root.dir).map_err(Trouble::from);
            nothing(top.and_then(|top| tree::empty(top, Some(&root.quota), abort)))
        }
        Work::Sweep { run, before } => {
            run.sweep(&root.dir).map_err(|error| error.fault("path"))?;
            nothing(temporary::sweep(&root.dir, before, &root.quota, abort))
        }
        Work::Act { command, most } => match decode(&command)? {
            ServerAction::File(action) => {
                let reply = perform(root, &action, most, abort).map_err(refused)?;
                Ok(Done::File(reply.message.to_string(), Box::new(reply)))
            }
            _ => Err(unknown()),
        },
        Work::Long { command, tools } => {
            let wants = match decode(&command)? {
                ServerAction::Archive(action) => Wants::Archive(action),
                ServerAction::Mod(action) => Wants::Mod(action),
                _ => return Err(unknown()),
            };
            long(root, &wants, &tools, wire, abort)
        }
    }
}

/// An archive or mod, exactly as the Agent itself would do it.
fn long<W: Write>(
    root: &Root,
    wants: &Wants,
    tools: &Tools,
    wire: &Wire<W>,
    abort: &Abort,
) -> Result<Done, Refused> {
    // An Agent that does not hear it has gone, which is noticed elsewhere.
    let tell = |step| drop(wire.say(&Line::Step(step)));
    let meter = Meter::new(abort, &tell);
    let bench = Bench {
        run: &tools.run,
        number: tools.number,
        mod_dir: &tools.mod_dir,
        keep: &Sent { wire, mods: &tools.mods },
        fetch: &Brought(&tools.download),
        job: &archive::Job { root, abort, meter: &meter },
    };
    match workshop::work(wants, &bench) {
        Ok(Reply::Archive(reply)) => Ok(Done::Archive(reply)),
        Ok(Reply::Mod(reply)) => Ok(Done::Mod(reply)),
        Ok(_) => Err(unknown()),
        Err(failed) => Err(Refused { cause: failed.cause, ..failed.fault.into() }),
    }
}

/// Reads a command that the Agent has read before.
fn decode(command: &str) -> Result<ServerAction, Refused> {
    let node: NodeId = "node".parse().map_err(|_| unknown())?;
    // The form with the larger bound.
    match Decoder::new(node, Rules::default()).http(command.as_bytes()) {
        Ok(Ok(Command { action: Action::Server(_, action), .. })) => Ok(action),
        Ok(Err(rejected)) => Err(rejected.fault.into()),
        _ => Err(unknown()),
    }
}

fn unknown() -> Refused {
    Refused {
        code: Code::Internal,
        message: "The Agent could not finish this. Its log says why.".into(),
        cause: "the container was asked for what it does not do".into(),
    }
}
