//! What a crash leaves between the writing of a file and its name is removed by the next start, and nothing else is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use serde_json::{Value, json};

use crate::rig::Rig;
use crate::rootless::rig_with;
use crate::rootless_jobs::LATER;
use crate::support::*;

const FILE: &str = ".longshore-0123456789abcdef";

/// Leaves things behind while no Agent runs, and starts it again.
fn plant(rig: &mut Rig) {
    rig.agent.terminate();
    rig.put(&format!("deep/er/{FILE}"), "half a file");
    rig.put(&format!("deep/{FILE}/copy/of"), "half a directory");
    rig.put(&format!("rooted/{FILE}"), "half a file");
    fs::set_permissions(rig.dir().join("rooted"), fs::Permissions::from_mode(0o700)).unwrap();
    rig.put(".longshore-job-0123456789abcdef-7/content", "half a job");
    for name in [
        ".longshore-0123456789abcde",
        ".longshore-0123456789abcdef0",
        ".longshore-0123456789ABCDEF",
        ".longshore-notes",
        "longshore-0123456789abcdef",
        "deep/.longshore-0123456789abcdef.jar",
    ] {
        rig.put(name, "the server's own");
    }
    symlink("deep", rig.dir().join(".longshore-fedcba9876543210")).unwrap();
    rig.agent.start_again();
    rig.link = rig.panel.accept();
}

/// Waits until all of it is gone, and looks at what is left.
fn is_swept(rig: &Rig) {
    let gone = [
        &format!("deep/er/{FILE}"),
        &format!("deep/{FILE}"),
        &format!("rooted/{FILE}"),
        ".longshore-job-0123456789abcdef-7",
    ];
    let begun = Instant::now();
    while let Some(path) = gone.iter().find(|path| rig.dir().join(path).exists()) {
        assert!(begun.elapsed() < LATER, "{path} stays");
        std::thread::yield_now();
    }
    let mut left: Vec<_> =
        fs::read_dir(rig.dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let expected = [
        ".longshore-0123456789ABCDEF",
        ".longshore-0123456789abcde",
        ".longshore-0123456789abcdef0",
        ".longshore-fedcba9876543210",
        ".longshore-notes",
        "deep",
        "longshore-0123456789abcdef",
        "rooted",
    ];
    assert_eq!(left, expected);
    assert!(
        rig.dir().join("deep/er").is_dir() && rig.dir().join("deep/.longshore-0123456789abcdef.jar").exists()
    );
}

#[test]
fn what_a_crash_left_is_swept_and_what_is_in_use_is_hidden() {
    let mut rig = Rig::start();
    plant(&mut rig);
    is_swept(&rig);
    // What this Agent may be writing right now is neither shown nor swept.
    rig.put(&format!("now/{FILE}"), "in use");
    rig.put("now/shown", "x");
    let shown =
        |data: Value| data["files"].as_array().unwrap().iter().map(|f| f["name"].clone()).collect::<Vec<_>>();
    assert_eq!(shown(rig.must("list_files", json!({"path": "now"}))), ["shown"]);
    assert_eq!(shown(rig.must("search_files", json!({"path": "now", "query": "*"}))), ["shown"]);
    assert!(rig.dir().join("now").join(FILE).exists());
    rig.must("delete_file", json!({"path": "now"}));
}

#[test]
fn what_an_agent_without_root_may_not_look_at_is_swept_too() {
    let mut rig = rig_with(&[]);
    let id = rig.link.command("create_server", "s", demo(json!({"user": "4711:4712"})));
    let created = rig.link.wait_from(0, LATER, "a server", |seen| match seen {
        Seen::Json(message) if message["type"] == "response" && message["id"] == id => Some(message.clone()),
        _ => None,
    });
    assert_eq!(created["success"], true, "{created}");
    plant(&mut rig);
    is_swept(&rig);
}
