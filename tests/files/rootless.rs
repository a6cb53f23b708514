//! An Agent without root: what it may not do itself a container of its own does, and nothing stays behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Instant;

use serde_json::json;

use crate::rig::Rig;
use crate::rootless_jobs::LATER;
use crate::support::*;

/// Not root, but of the group that may use the Engine's socket.
const AGENT: (u32, u32) = (4000, 0);

pub fn rig() -> Rig {
    rig_with(&[])
}

pub fn rig_with(environment: &[(&str, &str)]) -> Rig {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::prepare_as(&static_agent(), AGENT, &panel.url(), engine(), environment);
    agent.start_again();
    let link = panel.accept();
    Rig { panel, agent, link }
}

/// Waits until the Engine has removed the last container: it answers before it has.
pub fn none_stays_behind(rig: &Rig) {
    let begun = Instant::now();
    while !engine().list(&format!("longshore.helper={}", rig.agent.node_id)).is_empty() {
        assert!(begun.elapsed() < LATER, "a container stays behind");
    }
}

#[test]
fn files_of_other_users_are_at_hand_all_the_same() {
    let rig = rig();
    let limits = json!({"memory": "64m", "disk": "4m"});
    rig.must("create_server", demo(json!({"user": "4711:4712", "limits": limits})));
    let found = rig.dir().metadata().unwrap();
    assert_eq!((found.uid(), found.gid()), (4711, 4712), "the directory is its user's");
    rig.must("start_server", json!({}));
    rig.must("write_file", json!({"path": "config/a.yml", "content": "a: 1"}));
    for path in ["config", "config/a.yml"] {
        let found = rig.dir().join(path).metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (4711, 4712), "{path}");
    }
    // What the container's root made, for nobody else to read.
    rig.put("rooted/secret", "of root");
    fs::set_permissions(rig.dir().join("rooted/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(rig.dir().join("rooted"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(rig.must("read_file", json!({"path": "rooted/secret"}))["content"], "of root");
    let written = json!({"path": "rooted/secret", "content": "AAE=", "append": true});
    assert_eq!(rig.must("upload_file", written)["size"], 9);
    assert_eq!(rig.must("download_file", json!({"path": "rooted/secret", "offset": 7}))["content"], "AAE=");
    let found = rig.dir().join("rooted/secret").metadata().unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600), "it keeps its owner");
    assert_eq!(rig.must("list_files", json!({"path": "rooted"}))["files"][0]["name"], "secret");
    rig.must("set_file_permissions", json!({"path": "rooted/secret", "mode": "640"}));
    rig.must("copy_file", json!({"sourcePath": "rooted", "destinationPath": "copy"}));
    assert_eq!(rig.dir().join("copy/secret").metadata().unwrap().uid(), 4711);
    // The same rules hold there.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    symlink(outside.path(), rig.dir().join("rooted/out")).unwrap();
    assert_eq!(rig.refused("read_file", json!({"path": "rooted/out/secret"})), "PATH_INVALID");
    let large = json!({"path": "large", "content": "x".repeat(1 << 20)});
    for n in 0..3 {
        let payload = json!({"path": format!("large{n}"), "content": large["content"]});
        rig.must("write_file", payload);
    }
    assert_eq!(rig.refused("write_file", large), "QUOTA_EXCEEDED");
    rig.must("delete_file", json!({"path": "rooted"}));
    assert!(!rig.dir().join("rooted").exists() && outside.path().join("secret").exists());
    rig.must("kill_server", json!({}));
    rig.must("delete_server", json!({"removeData": true}));
    assert!(!rig.dir().exists());
    none_stays_behind(&rig);
}

#[test]
fn files_of_its_own_need_no_container() {
    let rig = rig();
    rig.must("create_server", demo(json!({})));
    rig.must("write_file", json!({"path": "a", "content": "b"}));
    rig.must("delete_server", json!({"removeData": true}));
    assert!(!rig.agent.log().iter().any(|line| line.contains("was made of the Agent's executable")));
    none_stays_behind(&rig);
}
