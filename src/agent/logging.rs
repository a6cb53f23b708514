//! Log lines on standard error: time, level and text. The level is the Agent's own; its libraries are asked for
//! warnings only, because what they say at more may show headers.

use std::io::Write;
use std::time::SystemTime;

use log::LevelFilter;

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(level: LevelFilter) {
    let _ = env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        // Its one message is an error for each orderly end; the gate tells itself when it stops accepting.
        .filter_module("tiny_http", LevelFilter::Off)
        .filter_module("longshore", level)
        .filter_module("longshore_agent", level)
        .format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            writeln!(out, "{time} {:<5} {}", record.level(), record.args())
        })
        .try_init();
}
