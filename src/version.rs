//! Which build this is. The Makefile gives what git knows; a plain `cargo build` has the package's version alone.

/// The version, as it is told to Panels, in headers and by `--version`.
pub const VERSION: &str = match option_env!("LONGSHORE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// What `--version` prints after the program's name: the version, then the commit and its date where they are known.
pub fn line() -> String {
    match option_env!("LONGSHORE_BUILD") {
        Some(build) if !build.is_empty() => format!("{VERSION} ({build})"),
        _ => VERSION.to_owned(),
    }
}
