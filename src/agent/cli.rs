//! The command line of `longshore-agent`: flags, the config file, the environment, and what to do with them.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::config::{self, Config, KEYS};
use super::policy::PolicyFile;
use super::settings::{self, BadSetting, Settings};
use crate::server::helper::serve;

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    Run(Box<Config>),
    /// Answer one question about a server's files, in a container made for that.
    Beneath,
    /// Print a text and end well.
    Print(String),
    /// Trade a token from standard input for this node's secret, and write the configuration.
    Join {
        url: String,
        file: Option<PathBuf>,
        settings: Settings,
    },
    /// Tell how the running Agent is.
    Status {
        settings: Settings,
        json: bool,
    },
    /// Explain the owner's policy, or tell what it has against the spec in a file.
    PolicyCheck {
        file: PolicyFile,
        spec: Option<PathBuf>,
    },
    /// Forget which Panel was the newest; it is stored in this file.
    ResetEpoch(PathBuf),
    /// Check everything that the Agent needs. `fault` is what is wrong with where the settings come from.
    Doctor {
        settings: Settings,
        fault: Option<String>,
        json: bool,
    },
}

/// What may stand on the command line beside flags.
#[derive(Clone, Copy, Debug)]
enum Word {
    Config,
    Status,
    Doctor,
    Join,
    Policy,
}

const WORDS: [(&str, Word); 5] = [
    ("config", Word::Config),
    ("status", Word::Status),
    ("doctor", Word::Doctor),
    ("join", Word::Join),
    ("policy", Word::Policy),
];

/// What may follow `policy`.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Check,
    ResetEpoch,
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
    let (mut file, mut word, mut json) = (None::<PathBuf>, None::<Word>, false);
    let (mut url, mut verb, mut spec) = (None::<String>, None::<Verb>, None::<PathBuf>);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Print(help())),
            Short('V') | Long("version") => {
                return Ok(Request::Print(format!("longshore-agent {}\n", crate::version::line())));
            }
            Long("config") => file = Some(parser.value()?.into()),
            Long("json") if matches!(word, Some(Word::Status | Word::Doctor)) => json = true,
            Short('d') | Long(_) => {
                // The short name is the one that s6's own programs have.
                let name = if let Long(name) = arg { name } else { "ready-fd" };
                let key = settings::for_flag(KEYS, name)
                    .ok_or_else(|| Usage(format!("--{name}: unknown flag; --help tells what there is")))?;
                let value = parser.value()?.string()?;
                settings.add_flag(key, value);
            }
            // Nothing that a person would say, so the help is silent about it.
            Value(text) if word.is_none() && text == serve::WORD => return Ok(Request::Beneath),
            Value(text) if word.is_none() => {
                let find = |(name, _): &&(&str, Word)| text == *name;
                let (_, found) = WORDS.iter().find(find).ok_or_else(|| Value(text.clone()).unexpected())?;
                word = Some(*found);
            }
            Value(text) if matches!(word, Some(Word::Join)) && url.is_none() => url = Some(text.string()?),
            Value(text) if matches!(word, Some(Word::Policy)) && verb.is_none() => {
                verb = Some(match text.to_str() {
                    Some("check") => Verb::Check,
                    Some("reset-epoch") => Verb::ResetEpoch,
                    _ => return Err(Value(text).unexpected().into()),
                });
            }
            Value(path) if matches!(verb, Some(Verb::Check)) && spec.is_none() => spec = Some(path.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(Word::Join) = word {
        let url = url.ok_or_else(|| {
            Usage("join: expected the Panel's address, such as https://panel.example".into())
        })?;
        settings.add_defaults(KEYS);
        // The file is what it will write.
        settings.add_environment(KEYS, environment)?;
        return Ok(Request::Join { url, file, settings });
    }
    let read = gather(&mut settings, file.as_deref(), environment);
    if let Some(Word::Doctor) = word {
        // What is wrong with the settings is the first thing that it tells.
        return Ok(Request::Doctor { settings, fault: read.err().map(|usage| usage.0), json });
    }
    read?;
    match word {
        Some(Word::Policy) => match verb {
            Some(Verb::Check) => Ok(Request::PolicyCheck { file: PolicyFile::of(&settings)?, spec }),
            Some(Verb::ResetEpoch) => Ok(Request::ResetEpoch(config::data_dir(&settings)?.join("epoch"))),
            None => Err(Usage("policy: expected check or reset-epoch".into())),
        },
        Some(Word::Status) => Ok(Request::Status { settings, json }),
        Some(Word::Config) => {
            // The effective values are shown even when one of them is wrong: that is when it is needed.
            let verdict = match Config::from_settings(&settings) {
                Ok(config) => format!("# node {}: this configuration is complete\n", config.node_id),
                Err(bad) => format!("# not usable: {bad}\n"),
            };
            Ok(Request::Print(config::describe(&settings) + &verdict))
        }
        _ => Ok(Request::Run(Box::new(Config::from_settings(&settings)?))),
    }
}

/// Reads the places that are weaker than flags.
fn gather(
    settings: &mut Settings,
    file: Option<&Path>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<(), Usage> {
    settings.add_defaults(KEYS);
    settings.add_environment(KEYS, environment)?;
    let Some(path) = file else { return Ok(()) };
    let text = fs::read_to_string(path)
        .map_err(|e| Usage(format!("--config {}: cannot be read: {e}", path.display())))?;
    settings.add_file(KEYS, path, &text)?;
    config::check_file(settings, path)?;
    Ok(())
}

fn help() -> String {
    let mut text = String::from(
        "longshore-agent: runs this node's game servers for a Panel\n\n\
         usage: longshore-agent [--config FILE] [--KEY VALUE]...\n       \
         longshore-agent join URL           join a Panel with a token from standard input\n       \
         longshore-agent config             print the effective configuration and where it came from\n       \
         longshore-agent status [--json]    tell how the running Agent is\n       \
         longshore-agent doctor [--json]    check everything that the Agent needs\n       \
         longshore-agent policy check [SPEC]  explain the owner's policy, or judge the spec in a file\n       \
         longshore-agent policy reset-epoch   let an older Panel command this node again\n       \
         longshore-agent --help | --version\n\n\
         Every key is a flag (--panel-url), an environment variable (PANEL_URL) or a line KEY=value of FILE,\n\
         the first of these that is set. A secret is never a flag.\n\n",
    );
    for key in KEYS {
        let default = key.default.map(|value| format!(" (default {value})")).unwrap_or_default();
        text += &format!("  {:<20} {}{default}\n", key.name, key.help);
    }
    text + "\nexit codes: 0 stopped by a signal, 1 failed, 2 wrong configuration;\n\
            of status: 0 healthy, 1 not healthy, 3 not running; of doctor: 1 when a check failed;\n\
            of policy check: 1 when the spec is refused, 2 when the policy is wrong\n"
}
