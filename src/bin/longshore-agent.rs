//! The Agent's binary: reads what it is told, logs, runs, and maps the end to an exit code.

use std::io::Write;
use std::process::ExitCode;

use longshore::agent::epoch::Epoch;
use longshore::agent::{self, cli, doctor, join, policy, status};
use longshore::server::helper::serve::serve;

fn main() -> ExitCode {
    let request = match cli::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
        Ok(request) => request,
        Err(usage) => {
            eprintln!("longshore-agent: {usage}");
            return ExitCode::from(2);
        }
    };
    let config = match request {
        cli::Request::Print(text) => return print(&text, 0),
        cli::Request::Status { settings, json } => match status::run(&settings, json) {
            Ok((text, code)) => return print(&text, code),
            Err(bad) => {
                eprintln!("longshore-agent: {bad}");
                return ExitCode::from(2);
            }
        },
        cli::Request::Join { url, file, settings } => match join::run(&url, file.as_deref(), &settings) {
            Ok(text) => return print(&text, 0),
            Err(fault) => {
                eprintln!("longshore-agent: join: {fault}");
                return ExitCode::FAILURE;
            }
        },
        cli::Request::Doctor { settings, fault, json } => {
            let (text, code) = doctor::run(&settings, fault, json);
            return print(&text, code);
        }
        cli::Request::PolicyCheck { file, spec } => match policy::explain::run(&file, spec.as_deref()) {
            Ok((text, code)) => return print(&text, code),
            Err(bad) => {
                eprintln!("longshore-agent: {bad}");
                return ExitCode::from(2);
            }
        },
        cli::Request::ResetEpoch(path) => match Epoch::reset(&path) {
            Ok(Some(epoch)) => {
                return print(
                    &format!("epoch {epoch} is forgotten: the next Panel to say hello owns this node\n"),
                    0,
                );
            }
            Ok(None) => return print("no Panel has said an epoch yet, or it is forgotten already\n", 0),
            Err(error) => {
                eprintln!("longshore-agent: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        },
        cli::Request::Beneath => return beneath(),
        cli::Request::Run(config) => config,
    };
    agent::logging::start(config.log_level, config.log_format);
    match agent::run(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            log::error!("{failed}");
            ExitCode::FAILURE
        }
    }
}

fn beneath() -> ExitCode {
    match serve(std::io::stdin(), std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str, code: u8) -> ExitCode {
    // A reader that has gone is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code.into()
}
