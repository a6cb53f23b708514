//! What the Agent has taken from itself, read off the kernel for each of its threads, and off what it can still reach.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use longshore::agent::confine::has_landlock;
use serde_json::json;
use support::*;

/// A field of every thread's status: all of them have the same.
fn of_threads(agent: &AgentProcess, name: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
    let values = tasks.filter_map(|task| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned();
        Some(value)
    });
    let mut values: Vec<String> = values.collect();
    assert!(values.len() > 10, "the threads are read wrongly");
    values.dedup();
    assert_eq!(values.len(), 1, "{name} {values:?}");
    values.remove(0)
}

fn is_confined(agent: &AgentProcess, capabilities: &str) {
    agent.wait_health("what holds", |health| health["confinement"].is_string());
    assert_eq!(of_threads(agent, "NoNewPrivs:"), "1");
    assert_eq!(of_threads(agent, "Seccomp:"), "2");
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(of_threads(agent, set), capabilities, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(of_threads(agent, set), "0000000000000000", "{set}");
    }
    let (_, health) = agent.health();
    let told = health["confinement"].as_str().unwrap();
    assert!(told.contains("no new privileges") && told.contains("system calls refused"), "{told}");
    assert_eq!(told.contains("no Landlock"), !has_landlock(), "{told}");
}

#[test]
fn the_agent_is_confined_and_works_all_the_same() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3.
    is_confined(&agent, "000000000000000b");
    link.must("create_server", "s", demo(json!({"user": "4711:4712"})));
    link.must("start_server", "s", json!({}));
    link.must("write_file", "s", json!({"path": "a/b", "content": "x"}));
    link.must("create_archive", "s", json!({"files": ["a"], "archivePath": "a.zip", "format": "zip"}));
    link.must("stop_server", "s", json!({"timeout": 0}));

    let panel = FakePanel::start();
    let mut other = AgentProcess::prepare_as(&static_agent(), (4000, 0), &panel.url(), engine(), &[]);
    other.start_again();
    panel.accept().must("create_server", "s", demo(json!({})));
    is_confined(&other, "0000000000000000");
}

/// Leads the Agent's records out of its directory and has one written; gives where they now are.
fn written_outside(landlock: &str) -> (String, PathBuf, tempfile::TempDir) {
    let outside =
        tempfile::Builder::new().prefix("outside-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("LANDLOCK", landlock)]);
    let link = panel.accept();
    let state = agent.data_dir.join("state");
    let moved = outside.path().join("state");
    fs::rename(&state, &moved).unwrap();
    symlink(&moved, &state).unwrap();
    let response = link.call("create_server", "s", demo(json!({})));
    (code(&response).to_owned(), moved, outside)
}

fn holds(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn landlock_can_be_switched_off() {
    let (code, outside, _dir) = written_outside("1");
    match has_landlock() {
        true => {
            assert_eq!((code.as_str(), holds(&outside)), ("INSUFFICIENT_RESOURCES", 0), "out of its reach")
        }
        // Such a kernel has nothing to switch off, which the Agent tells: see the other test.
        false => assert_eq!((code.as_str(), holds(&outside)), ("none", 1)),
    }
    let (code, outside, _dir) = written_outside("0");
    assert_eq!((code.as_str(), holds(&outside)), ("none", 1), "within reach of its user");
}
