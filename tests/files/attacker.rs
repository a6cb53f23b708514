//! An attacker inside the container swaps directories and files for links that leave, as fast as it can, while every
//! action is asked for. Nothing outside may be touched: the kernel itself tells of every access there.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::{Value, json};

use crate::kernel::without_openat2;
use crate::rig::Rig;
use crate::support::*;

const SECRET: &str = "OUTSIDE of the server's directory";
const ATTACK: Duration = Duration::from_secs(10);

/// Tells of whatever is done with what is in some directories.
struct Watch(OwnedFd);

impl Watch {
    fn over(directories: &[&Path]) -> Watch {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        for directory in directories {
            inotify::add_watch(&watch, *directory, WatchFlags::ALL_EVENTS).unwrap();
        }
        Watch(watch)
    }

    /// The first thing that was done since the last call.
    fn seen(&self) -> Option<(ReadFlags, String)> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let event = reader.next().ok()?;
        Some((event.events(), event.file_name().map_or_else(String::new, |name| format!("{name:?}"))))
    }
}

/// What is asked for below a directory that may or may not be one.
fn actions(dir: &str, n: usize) -> Vec<(&'static str, Value)> {
    let at = |name: &str| format!("{dir}/{name}");
    let inside = "inside";
    vec![
        ("list_files", json!({"path": dir})),
        ("list_files", json!({"path": at("dir")})),
        ("read_file", json!({"path": at("secret")})),
        ("download_file", json!({"path": at("secret")})),
        ("get_file_info", json!({"path": at("secret")})),
        ("search_files", json!({"path": dir, "query": "e"})),
        ("get_file_permissions", json!({"path": at("dir")})),
        ("write_file", json!({"path": at("secret"), "content": inside})),
        ("write_file", json!({"path": at(&format!("tree/{n}/new")), "content": inside})),
        ("upload_file", json!({"path": at("secret"), "content": inside, "encoding": "utf8", "append": true})),
        ("upload_file", json!({"path": at("uploaded"), "content": inside, "encoding": "utf8"})),
        ("create_directory", json!({"path": at(&format!("made-{n}"))})),
        ("set_file_permissions", json!({"path": at("secret"), "mode": "666"})),
        ("set_file_permissions", json!({"path": dir, "mode": "777"})),
        ("rename_file", json!({"oldPath": at("secret"), "newPath": at("renamed")})),
        ("rename_file", json!({"oldPath": at("renamed"), "newPath": at("secret")})),
        ("move_file", json!({"sourcePath": at("dir"), "destinationPath": at("moved")})),
        ("move_file", json!({"sourcePath": at("moved"), "destinationPath": at("dir")})),
        ("copy_file", json!({"sourcePath": dir, "destinationPath": format!("copies/{n}")})),
        ("copy_file", json!({"sourcePath": at("secret"), "destinationPath": at(&format!("copy-{n}"))})),
        ("delete_file", json!({"path": at(&format!("copy-{n}"))})),
        ("delete_file", json!({"path": at(&format!("made-{n}"))})),
        ("delete_file", json!({"path": at("uploaded")})),
        ("delete_file", json!({"path": at("tree")})),
        ("delete_file", json!({"path": "copies"})),
    ]
}

/// The same for a file that may or may not be one.
fn actions_on_file(file: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("read_file", json!({"path": file})),
        ("download_file", json!({"path": file})),
        ("write_file", json!({"path": file, "content": "inside"})),
        ("upload_file", json!({"path": file, "content": "x", "encoding": "utf8", "append": true})),
        ("set_file_permissions", json!({"path": file, "mode": "666"})),
        ("copy_file", json!({"sourcePath": file, "destinationPath": "copied"})),
        ("delete_file", json!({"path": "copied"})),
    ]
}

fn attack(rig: &Rig) {
    let outside = tempfile::tempdir_in(rig.agent.data_dir.parent().unwrap()).unwrap();
    fs::write(outside.path().join("secret"), SECRET).unwrap();
    fs::create_dir_all(outside.path().join("dir/only-outside")).unwrap();
    fs::create_dir_all(outside.path().join("tree/only-outside")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap().to_owned();
    for dir in ["a", "b", "deep/x"] {
        rig.put(&format!("{dir}/secret"), "inside");
        rig.put(&format!("{dir}/dir/more"), "inside");
    }
    rig.put("f", "inside");
    let dir = rig.dir();
    symlink(format!("../../../{name}"), dir.join("a.link")).unwrap();
    symlink(outside.path(), dir.join("b.link")).unwrap();
    symlink(format!("../../../../{name}"), dir.join("deep/x.link")).unwrap();
    symlink(format!("../../../{name}/secret"), dir.join("f.link")).unwrap();
    let inner = [outside.path().join("dir"), outside.path().join("tree")];
    let watch = Watch::over(&[outside.path(), &inner[0], &inner[1]]);

    rig.must("start_server", json!({}));
    rig.link.wait_event("server_log", |data| {
        data["message"].as_str().is_some_and(|message| message.contains("swapping a b f deep/x"))
    });
    let (begun, mut counts, mut n) = (Instant::now(), [0u32; 3], 0);
    let encoded = &STANDARD.encode(SECRET)[..16];
    while begun.elapsed() < ATTACK {
        let batch = ["a", "b", "deep/x"].iter().flat_map(|dir| actions(dir, n));
        let mark = rig.link.mark();
        let asked: Vec<_> = batch
            .chain(actions_on_file("f"))
            .map(|(action, payload)| (action, rig.link.command(action, "s", payload)))
            .collect();
        for (action, id) in asked {
            let response = rig.link.wait_from(mark, SOON, action, |seen| match seen {
                Seen::Json(message) if message["id"] == id => Some(message.clone()),
                _ => None,
            });
            let text = response.to_string();
            for leak in [SECRET, encoded, "only-outside"] {
                assert!(!text.contains(leak), "{action}: {text}");
            }
            let result = match code(&response) {
                "none" => 0,
                "PATH_INVALID" => 1,
                "INTERNAL" => panic!("{action}: {text}"),
                _ => 2,
            };
            counts[result] += 1;
        }
        n += 1;
    }
    // None of this is proved by an attack that did not happen.
    let [done, refused, other] = counts;
    println!("{done} done, {refused} refused as leaving, {other} refused otherwise");
    assert!(done > 100 && refused > 100, "{counts:?}");
    rig.must("kill_server", json!({}));
    rig.must("delete_server", json!({"removeData": true}));
    assert_eq!(watch.seen(), None, "something outside was touched");
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), SECRET);
    assert!(watch.seen().is_some(), "the watch sees what this test itself does");
    assert!(inner.iter().all(|dir| dir.join("only-outside").is_dir()));
}

fn spec() -> Value {
    json!({"startup": ["/demo-server", "swap", "a", "b", "f", "deep/x"], "user": "0:0"})
}

/// CVE-2024-27102: a link that was swapped in between the check and the use.
#[test]
fn cve_2024_27102_links_swapped_in_a_loop_lead_nowhere() {
    attack(&Rig::with(spec()));
}

#[test]
fn links_swapped_in_a_loop_lead_nowhere_without_openat2() {
    let rig = without_openat2(|| Rig::with(spec()));
    let status = fs::read_to_string(format!("/proc/{}/status", rig.agent.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "the Agent is under the filter");
    attack(&rig);
}
