//! A small game server for the demo and the tests: it ticks, obeys its console and misbehaves on request.
//!
//! One loop on the main thread owns the game; `console` reads stdin and `signals` waits for SIGTERM and SIGINT, and
//! both only send to it. Its arguments, joined, are its first console command. Built static, it is the one file of the
//! image `longshore/demo:latest`, where it is `/bin/sh` too, so that a startup in the shell form has a shell to go
//! through. It opens no socket and writes one file, `world.txt` in its working directory.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio, exit};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const WORLD: &str = "world.txt";
/// Length of one flood line with its newline; a console reader can check that none is missing by the number in it.
const FLOOD_LINE: usize = 100;
const HELP: &str = "\
commands:
  help               this list
  players            who is online
  say <text>         speak to everybody
  save               write the world file
  stop               save and exit
  stderr <text>      print on standard error
  flood <n> [bytes]  print n numbered lines, or n bytes of them
  stream <n> <s>     print n bytes of numbered lines a second for s seconds, then how long a print took at most
  line <bytes>       print one line of that length
  work <percent> <s> keep so much of a core busy for s seconds
  alloc <MiB>        take memory and keep it
  probe              tell what the container allows
  swap <names>       swap each name and <name>.link for ever, as fast as it goes
  noread             never read the console again
  ignore-term        ignore SIGTERM and SIGINT from now on
  crash [code]       exit at once without saving (default 1)
environment: TICK_MS QUIET=1 START_DELAY_MS STOP_DELAY_MS CRASH_AFTER_MS FLOOD_BYTES EXIT_CODE IGNORE_TERM=1";

enum Event {
    Command(String),
    Signal(i32),
}

/// What the environment asks for; everything has a peaceful default.
struct Settings {
    tick: Option<Duration>,
    start_delay: Duration,
    stop_delay: Duration,
    crash_after: Option<Duration>,
    flood_bytes: usize,
    exit_code: i32,
}

impl Settings {
    fn from_env() -> Self {
        Settings {
            tick: (!is_set("QUIET")).then(|| Duration::from_millis(number("TICK_MS").unwrap_or(1000))),
            start_delay: Duration::from_millis(number("START_DELAY_MS").unwrap_or(0)),
            stop_delay: Duration::from_millis(number("STOP_DELAY_MS").unwrap_or(0)),
            crash_after: number("CRASH_AFTER_MS").map(Duration::from_millis),
            flood_bytes: number("FLOOD_BYTES").unwrap_or(0),
            exit_code: number("EXIT_CODE").unwrap_or(0),
        }
    }
}

struct Game {
    settings: Settings,
    ticks: u64,
    ignore_term: bool,
    hoard: Vec<Vec<u8>>,
}

fn main() {
    let mut args = env::args();
    let name = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    match args.as_slice() {
        [flag, script] if flag == "-c" && name.ends_with("sh") => exit(run_script(script)),
        _ => exit(play(&args.join(" "))),
    }
}

/// Starts the threads and plays to the end; returns the exit code.
fn play(first_command: &str) -> i32 {
    let (events_tx, events) = sync_channel(16);
    let mut signals = Signals::new([SIGTERM, SIGINT]).expect("SIGTERM and SIGINT may be caught");
    let signals_tx = events_tx.clone();
    spawn("signals", move || {
        signals.forever().take_while(|&signal| signals_tx.send(Event::Signal(signal)).is_ok()).for_each(drop);
    });
    spawn("console", move || read_console(&events_tx));

    let game = Game {
        ticks: load_world(),
        ignore_term: is_set("IGNORE_TERM"),
        hoard: Vec::new(),
        settings: Settings::from_env(),
    };
    game.run(&events, first_command)
}

impl Game {
    /// Plays until `stop` or a signal, and returns the exit code.
    fn run(mut self, events: &Receiver<Event>, first_command: &str) -> i32 {
        let started = Instant::now();
        let crash_at = self.settings.crash_after.map(|after| started + after);
        let mut ready_at = Some(started + self.settings.start_delay);
        let mut tick_at = None;
        print("Starting demo server");
        loop {
            let now = Instant::now();
            if crash_at.is_some_and(|at| at <= now) {
                complain("Crash: CRASH_AFTER_MS has passed");
                return if self.settings.exit_code == 0 { 1 } else { self.settings.exit_code };
            }
            if ready_at.is_some_and(|at| at <= now) {
                ready_at = None;
                tick_at = self.settings.tick.map(|tick| now + tick);
                flood(self.settings.flood_bytes);
                print("Demo server ready");
                if let Some(code) = self.obey(first_command) {
                    return code;
                }
            }
            if let Some(at) = tick_at.filter(|&at| at <= now) {
                self.ticks += 1;
                print(&format!("tick {}", self.ticks));
                tick_at = self.settings.tick.map(|tick| at + tick);
            }
            let event = match [crash_at, ready_at, tick_at].into_iter().flatten().min() {
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Signal(_)) if self.ignore_term => print("Signal ignored"),
                Ok(Event::Signal(signal)) => {
                    print(if signal == SIGTERM { "SIGTERM received" } else { "SIGINT received" });
                    return self.stop();
                }
                Ok(Event::Command(line)) => {
                    if let Some(code) = self.obey(line.trim()) {
                        return code;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The signal thread holds a sender for as long as the process lives.
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
        }
    }

    /// Carries out one console command; `Some(code)` ends the game with that exit code.
    fn obey(&mut self, line: &str) -> Option<i32> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split_whitespace();
        let amount: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match command {
            "" => {}
            "help" => print(HELP),
            "players" => print("There are 0 of 20 players online"),
            "say" => print(&format!("[Server] {rest}")),
            "save" => self.save(),
            "stop" => return Some(self.stop()),
            "stderr" => complain(rest),
            "flood" if words.next() == Some("bytes") => flood(amount),
            "flood" => flood(amount.saturating_mul(FLOOD_LINE)),
            "stream" => stream(amount, seconds(words.next())),
            "work" => work(amount, seconds(words.next())),
            "line" => print(&"x".repeat(amount)),
            // Written over, not only reserved, so that the kernel counts it.
            "alloc" => self.hoard.push(vec![1; amount << 20]),
            "probe" => self.probe(),
            "swap" => {
                let names: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
                spawn("swap", move || swap(&names));
            }
            // The console thread has already stopped reading.
            "noread" => print("The console is not read any more"),
            "ignore-term" => {
                self.ignore_term = true;
                print("SIGTERM and SIGINT are ignored from now on");
            }
            "crash" => {
                complain("Crash: told to by the console");
                return Some(rest.trim().parse().unwrap_or(1));
            }
            _ => print(&format!("Unknown command: {command}. Try help")),
        }
        None
    }

    /// What the server finds itself in, one fact a line.
    fn probe(&self) {
        let fact = |name: &str, value: &str| print(&format!("probe {name}: {value}"));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, value) in status.lines().filter_map(|line| line.split_once(":\t")) {
            if matches!(name, "Uid" | "Gid" | "CapBnd" | "CapEff" | "NoNewPrivs") {
                fact(name, value);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        fact("tmp mount", mounts.lines().find(|line| line.contains(" /tmp ")).unwrap_or("none"));
        fact("tmp program", if run_from_tmp().unwrap_or(false) { "runs" } else { "refused" });
        self.save();
        let writes = |path: &str| if fs::write(path, "x").is_ok() { "written" } else { "refused" };
        fact("own file", writes("own-file"));
        fact("root file", writes("/root-file"));
        print("probe ends");
    }

    fn stop(&mut self) -> i32 {
        print("Stopping the demo server");
        thread::sleep(self.settings.stop_delay);
        self.save();
        print("Demo server stopped");
        self.settings.exit_code
    }

    fn save(&self) {
        // A directory that is not ours to write is the test's business, so it is told and does not change the exit.
        match fs::write(WORLD, format!("ticks={}\n", self.ticks)) {
            Ok(()) => print(&format!("World saved at tick {}", self.ticks)),
            Err(error) => complain(&format!("World not saved: {error}")),
        }
    }
}

/// Swaps names and links to elsewhere, so that whoever looks twice finds two different things. Ends with the program.
fn swap(names: &[String]) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    print(&format!("swapping {}", names.join(" ")));
    for name in names.iter().cycle() {
        // Somebody else may have moved it for now.
        let _ = renameat_with(CWD, name, CWD, format!("{name}.link"), RenameFlags::EXCHANGE);
    }
}

/// Whether a program can be put into /tmp and run there, as Java does with its libraries.
fn run_from_tmp() -> io::Result<bool> {
    fs::copy("/proc/self/exe", "/tmp/demo-server")?;
    Ok(Command::new("/tmp/demo-server").args(["crash", "7"]).stdin(Stdio::null()).output()?.status.code()
        == Some(7))
}

/// All the shell that `sh -c` needs here: words, an `exec` in front or not. Returns only when there is no such program.
fn run_script(script: &str) -> i32 {
    let mut words = script.split_whitespace().skip_while(|&word| word == "exec");
    let program = words.next().unwrap_or_default();
    complain(&format!("sh: {program}: {}", Command::new(program).args(words).exec()));
    127
}

/// The tick at which an earlier run saved its world, or 0.
fn load_world() -> u64 {
    let Ok(world) = fs::read_to_string(WORLD) else { return 0 };
    let ticks = world.trim().strip_prefix("ticks=").and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    print(&format!("World loaded at tick {ticks}"));
    ticks
}

/// Passes console lines on until end of file or `noread`; the game goes on without a console.
fn read_console(events: &SyncSender<Event>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let last = line.trim() == "noread";
        if events.send(Event::Command(line)).is_err() || last {
            break;
        }
    }
}

/// Prints exactly `bytes` bytes of numbered lines.
fn flood(bytes: usize) {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for at in (0..bytes).step_by(FLOOD_LINE) {
        let line = format!("{:-<99}\n", format!("flood {:09} ", at / FLOOD_LINE + 1));
        let cut = line.len() - line.len().min(bytes - at);
        let _ = out.write_all(&line.as_bytes()[cut..]);
    }
    let _ = out.flush();
}

/// Prints numbered lines at a steady rate and tells whether whoever takes them has kept it waiting.
fn stream(bytes_per_second: usize, length: Duration) {
    const STEP: Duration = Duration::from_millis(20);
    let (begun, mut printed, mut longest) = (Instant::now(), 0, Duration::ZERO);
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for step in 1.. {
        let due = STEP * step;
        let wanted = (bytes_per_second as f64 * due.as_secs_f64()) as usize / FLOOD_LINE;
        let before = Instant::now();
        for number in printed..wanted {
            let _ = writeln!(out, "{:-<99}", format!("stream {:09} ", number + 1));
        }
        let _ = out.flush();
        printed = printed.max(wanted);
        longest = longest.max(before.elapsed());
        if due >= length {
            break;
        }
        thread::sleep((begun + due).saturating_duration_since(Instant::now()));
    }
    drop(out);
    print(&format!("stream of {printed} lines ends, a print took at most {} ms", longest.as_millis()));
}

/// Works for a part of each tenth of a second.
fn work(percent: usize, length: Duration) {
    const TURN: Duration = Duration::from_millis(100);
    print(&format!("Working at {percent} %"));
    let begun = Instant::now();
    while begun.elapsed() < length {
        let turn = Instant::now();
        while turn.elapsed() < TURN * percent.min(100) as u32 / 100 {
            std::hint::spin_loop();
        }
        thread::sleep(TURN.saturating_sub(turn.elapsed()));
    }
    print("Work done");
}

fn seconds(word: Option<&str>) -> Duration {
    Duration::from_secs(word.and_then(|word| word.parse().ok()).unwrap_or(0))
}

/// One line on standard output. A reader that went away is no reason to stop the game, so errors are left.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value == "1")
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.into()).spawn(work).expect("the system has room for two threads");
}
