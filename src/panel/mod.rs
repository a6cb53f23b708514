//! The Panel: the control plane that Agents dial, with its page and API, in one process of blocking threads.
//!
//! ```text
//! Agent --ws--> gate -> agents -> link (agent-read, agent-write) --Message--> hub <--ask-- http-N <- gate <--http-- page
//!                                        ^--------- Line ----------------------'  `--server-sent events--------------^
//! ```
//!
//! | thread | blocks on | ends when |
//! |---|---|---|
//! | main | one `select!` | signal, or another thread has ended |
//! | signals | signal-hook `forever()` | `Handle::close()`; a second signal exits at once |
//! | hub | one `select!`; owns all state | [`hub::Hub::shutdown`] |
//! | agents | links that begin and end | [`agents::Agents::shutdown`] |
//! | door-N | upgrades from the gates; one handshake each | the same |
//! | agent-read, agent-write | one node's socket, its outbox | the link ends |
//! | metrics | its timer; stores measurements | [`metrics::Recorder::shutdown`] |
//! | download | a node's answer, a browser that takes it | the file or its client ends |
//! | two gates with their threads | accept, requests | `Gate::shutdown` |
//!
//! Knows `protocol`, `link` and `gate`; never Docker and never the Agent's own code.

pub mod cli;
pub mod config;

pub mod secret;
pub mod store;
pub mod time;

pub mod accounts;
pub mod journal;
pub mod metrics;
pub mod templates;

pub mod wire;

pub mod events;
pub mod hub;
pub mod problem;

pub mod agents;
pub mod limit;

pub mod api;
pub mod guard;
pub mod page;
pub mod tls;

mod serve;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use config::Invocation;
pub use serve::ServeError;
use store::StoreError;

/// Does what the command line asks for, and gives the process's exit code: 0, 1 for a failure, 2 for a wrong
/// configuration.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (invocation, config) = match config::read(arguments, |key| std::env::var_os(key)) {
        Ok(read) => read,
        Err(fault) => {
            eprintln!("longshore-panel: {fault}");
            return ExitCode::from(2);
        }
    };
    log_to_stderr(config.log_level);
    let done = match invocation {
        Invocation::Help => print(config::HELP),
        Invocation::Version => print(&format!("longshore-panel {}\n", crate::version::line())),
        Invocation::Command(command) => cli::run(command, &config),
        Invocation::Serve => serve::run(config).map_err(PanelError::Serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("longshore-panel: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Why the Panel did not do what it was asked for.
#[derive(Debug)]
pub enum PanelError {
    Store(StoreError),
    /// The system has no random numbers.
    Random,
    /// Standard output is closed.
    Output(std::io::Error),
    /// Standard input cannot be read.
    Input(std::io::Error),
    /// What was asked for is not allowed or not possible, in plain words.
    Refused(problem::Problem),
    /// So many things that the doctor has found.
    Unwell(usize),
    Serve(ServeError),
}

fn print(text: &str) -> Result<(), PanelError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(PanelError::Output)
}

/// One line each: time, level, part, text. Control characters are shown as escapes, so that what a peer has said
/// cannot make lines of its own.
fn log_to_stderr(level: log::LevelFilter) {
    let mut builder = env_logger::Builder::new();
    // It reports the end of its own listener, which is how it is stopped, as errors.
    builder.filter_level(level).filter_module("tiny_http", log::LevelFilter::Off);
    // On its finer levels it writes whole frames, and with them what must not be in a log.
    builder.filter_module("tungstenite", level.min(log::LevelFilter::Warn));
    builder.format(|out, record| {
        let text = record.args().to_string();
        let shown: String = text
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
            .collect();
        writeln!(out, "{} {:5} {}: {shown}", time::Time::now(), record.level(), record.target())
    });
    // Fails only when a logger is set already, by a test in the same process: then that one is used.
    let _ = builder.try_init();
}

impl fmt::Display for PanelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PanelError::Store(cause) => cause.fmt(f),
            PanelError::Random => f.write_str("the system gave no random numbers"),
            PanelError::Output(cause) => write!(f, "standard output: {cause}"),
            PanelError::Input(cause) => write!(f, "standard input: {cause}"),
            PanelError::Refused(problem) => match &problem.field {
                Some(field) => write!(f, "{field}: {}", problem.message),
                None => f.write_str(&problem.message),
            },
            PanelError::Unwell(count) => write!(f, "{count} found wrong"),
            PanelError::Serve(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for PanelError {}

impl From<problem::Problem> for PanelError {
    fn from(problem: problem::Problem) -> PanelError {
        PanelError::Refused(problem)
    }
}

impl From<StoreError> for PanelError {
    fn from(cause: StoreError) -> PanelError {
        PanelError::Store(cause)
    }
}
