//! The Panel's process. Everything it does is in [`longshore::panel`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore::panel::main(std::env::args_os())
}
