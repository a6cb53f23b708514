//! The command line of `longshore-agent`: flags, the config file, the environment, and what to do with them.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::config::{self, Config, KEYS};
use super::settings::{self, BadSetting, Settings};

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    Run(Box<Config>),
    /// Print a text and end well.
    Print(String),
}

/// What was wrong with the command line or the configuration. Exit code 2.
#[derive(Debug)]
pub struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<BadSetting> for Usage {
    fn from(bad: BadSetting) -> Usage {
        Usage(bad.to_string())
    }
}

impl From<lexopt::Error> for Usage {
    fn from(error: lexopt::Error) -> Usage {
        Usage(format!("{error}; --help tells what there is"))
    }
}

/// Reads the command line (without the program's name) and everything it leads to.
///
/// # Errors
/// One line for the first fault.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Request, Usage> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(args);
    let mut settings = Settings::default();
    let (mut file, mut show) = (None::<PathBuf>, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Print(help())),
            Short('V') | Long("version") => {
                return Ok(Request::Print(format!("longshore-agent {}\n", crate::version::line())));
            }
            Long("config") => file = Some(parser.value()?.into()),
            Short('d') | Long(_) => {
                // The short name is the one that s6's own programs have.
                let name = if let Long(name) = arg { name } else { "ready-fd" };
                let key = settings::for_flag(KEYS, name)
                    .ok_or_else(|| Usage(format!("--{name}: unknown flag; --help tells what there is")))?;
                let value = parser.value()?.string()?;
                settings.add_flag(key, value);
            }
            Value(word) if word == "config" && !show => show = true,
            other => return Err(other.unexpected().into()),
        }
    }
    settings.add_environment(KEYS, environment)?;
    if let Some(path) = file {
        let text = fs::read_to_string(&path)
            .map_err(|e| Usage(format!("--config {}: cannot be read: {e}", path.display())))?;
        settings.add_file(KEYS, &path, &text)?;
        config::check_file(&settings, &path)?;
    }
    settings.add_defaults(KEYS);
    if show {
        // The file of effective values is shown even when one of them is wrong: that is when it is needed.
        let verdict = match Config::from_settings(&settings) {
            Ok(config) => format!("# node {}: this configuration is complete\n", config.node_id),
            Err(bad) => format!("# not usable: {bad}\n"),
        };
        return Ok(Request::Print(config::describe(&settings) + &verdict));
    }
    Ok(Request::Run(Box::new(Config::from_settings(&settings)?)))
}

fn help() -> String {
    let mut text = String::from(
        "longshore-agent: runs this node's game servers for a Panel\n\n\
         usage: longshore-agent [--config FILE] [--KEY VALUE]...\n       \
         longshore-agent config    print the effective configuration and where it came from\n       \
         longshore-agent --help | --version\n\n\
         Every key is a flag (--panel-url), an environment variable (PANEL_URL) or a line KEY=value of FILE,\n\
         the first of these that is set. A secret is never a flag.\n\n",
    );
    for key in KEYS {
        let default = key.default.map(|value| format!(" (default {value})")).unwrap_or_default();
        text += &format!("  {:<20} {}{default}\n", key.name, key.help);
    }
    text + "\nexit codes: 0 stopped by a signal, 1 failed, 2 wrong configuration\n"
}
