//! The API against its own description: schemathesis makes calls of it, right and wrong ones, and looks at the answers.
//!
//! The tool comes from the package registry, pinned, into a directory under `target`; without it the test fails and says
//! why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Panel;
use crate::support::need;

const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/schemathesis.toml");
const PINNED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/schemathesis.txt");
/// Calls to each operation, beyond those that go through the description's own bounds one by one.
const EXAMPLES: &str = "10";
/// Two are left out. Names and values may be right by their form and still unknown (`positive_data_acceptance`), and the
/// token of this test goes with every call (`ignored_auth`; the table of roles is a test of its own).
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,\
    allow_header_conformance";

/// The tool, installed when it is not there as pinned.
fn schemathesis() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let (program, stamp) = (place.join("bin/schemathesis"), place.join("pinned.txt"));
    let pinned = fs::read_to_string(PINNED).unwrap();
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == pinned) {
        return program;
    }
    need(&["python3:python3-venv"]);
    let run = |command: &mut Command| {
        let output = command.output().expect("python can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "schemathesis cannot be installed: {command:?}: {said}");
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", PINNED];
    run(Command::new(place.join("bin/python")).args(pip));
    fs::write(&stamp, pinned).unwrap();
    program
}

#[test]
fn the_api_is_what_its_description_says() {
    let schemathesis = schemathesis();
    let mut panel = Panel::start(&["n1"]);
    panel.kill();
    panel.start_again(&[("LOG_LEVEL", "warn")]);
    let report = tempfile::tempdir().unwrap();
    let output = Command::new(schemathesis)
        .args(["--config-file", SETTINGS, "run", &format!("http://{}/api/v1/openapi.json", panel.http)])
        .args(["--header", &format!("Authorization: Bearer {}", panel.token)])
        // A stream has no end that could be waited for.
        .args(["--exclude-path", "/events", "--phases", "examples,coverage,fuzzing", "--checks", CHECKS])
        .args([
            "--max-examples",
            EXAMPLES,
            "--seed",
            "1",
            "--workers",
            "1",
            "--continue-on-failure",
            "--no-shrink",
        ])
        .args(["--suppress-health-check", "all", "--request-timeout", "60", "--warnings", "off"])
        .current_dir(report.path())
        .env("NO_COLOR", "1")
        .output()
        .expect("it was installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let tested = said.lines().find(|line| line.contains("generated")).unwrap_or_default();
    println!("schemathesis:{tested}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested: 76"), "not all operations were tested: {said}");
    assert_eq!(panel.get("/health").status, 200);
}
