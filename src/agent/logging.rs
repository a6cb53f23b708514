//! Log lines on standard error, in the form that whoever reads them wants: time, level and text for a terminal or a
//! file; a priority instead of both where the journal reads; one JSON object a line for a collector. The level is the
//! Agent's own; its libraries are asked for warnings only, because what they say at more may show headers.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::time::SystemTime;

use log::{Level, LevelFilter};
use serde::Serialize;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `<n>text` where standard error goes to systemd's journal, which knows the time itself; else as [`Format::Plain`].
    Auto,
    Plain,
    Json,
}

/// A line for a collector.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    message: &'a str,
}

/// Starts logging for the whole process, and sends panics the same way. A second call changes nothing.
pub fn start(level: LevelFilter, format: Format) {
    let write: fn(&mut dyn Write, Level, &Arguments) -> io::Result<()> = match format {
        Format::Json => json,
        Format::Auto if is_journal() => journal,
        Format::Auto | Format::Plain => plain,
    };
    let started = env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        // Its one message is an error for each orderly end; the gate tells itself when it stops accepting.
        .filter_module("tiny_http", LevelFilter::Off)
        .filter_module("longshore", level)
        .filter_module("longshore_agent", level)
        .format(move |out, record| write(out, record.level(), record.args()))
        .try_init();
    if started.is_ok() {
        std::panic::set_hook(Box::new(panicked));
    }
}

fn plain(out: &mut dyn Write, level: Level, text: &Arguments) -> io::Result<()> {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    writeln!(out, "{time} {level:<5} {text}")
}

/// `sd-daemon(3)`: the priorities of syslog. A text of several lines has one on each.
fn journal(out: &mut dyn Write, level: Level, text: &Arguments) -> io::Result<()> {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    text.to_string().lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
}

fn json(out: &mut dyn Write, level: Level, text: &Arguments) -> io::Result<()> {
    let line = Line {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        level: match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        },
        message: &text.to_string(),
    };
    let line = serde_json::to_string(&line).map_err(io::Error::other)?;
    writeln!(out, "{line}")
}

/// Whether standard error is the connection that `JOURNAL_STREAM` names by device and inode: a process that was started
/// by a service and given another output inherits the variable all the same.
fn is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// One line instead of the standard library's several, which no journal would put together again.
fn panicked(info: &PanicHookInfo) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let text = info.payload_as_str().unwrap_or("no text");
    log::error!("{} panicked at {place}: {text}", thread.name().unwrap_or("a thread"));
}

#[cfg(test)]
mod tests {
    use super::*;

    type Form = fn(&mut dyn Write, Level, &Arguments) -> io::Result<()>;

    fn line(form: Form, level: Level, text: &str) -> String {
        let mut out = Vec::new();
        form(&mut out, level, &format_args!("{text}")).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_reader_gets_its_form() {
        assert_eq!(line(journal, Level::Error, "a\nb"), "<3>a\n<3>b\n");
        assert_eq!(line(journal, Level::Info, "a"), "<6>a\n");
        let plain = line(plain, Level::Warn, "x \"y\"");
        let (time, rest) = plain.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{plain}");
        assert_eq!(rest, "WARN  x \"y\"\n");
        let json = line(json, Level::Debug, "x \"y\"\nz");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["level"], &value["message"]), (&"debug".into(), &"x \"y\"\nz".into()));
        assert!(humantime::parse_rfc3339(value["time"].as_str().unwrap()).is_ok());
        assert_eq!(json.matches('\n').count(), 1, "one line a message: {json}");
    }
}
