//! An attacker inside the container swaps directories and files for links that leave, as fast as it can, while every
//! action is asked for. Nothing outside may be touched: the kernel itself tells of every access there.

use std::fs;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::{Value, json};

use crate::kernel::without_openat2;
use crate::make::{file, tar};
use crate::rig::Rig;
use crate::rootless_jobs::LATER;
use crate::support::*;

const SECRET: &str = "OUTSIDE of the server's directory";
/// The mods come from this machine.
const DOWNLOADS: &[(&str, &str)] = &[("ALLOW_PRIVATE_DOWNLOADS", "1"), ("ALLOW_INSECURE_DOWNLOADS", "1")];
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

/// Archives and mods into and out of such a directory: one at a time, as the Agent does them.
fn long_actions(dir: &str, n: usize, server: &DownloadServer) -> Vec<(&'static str, Value)> {
    let at = |name: &str| format!("{dir}/{name}");
    let create = |files: Value, archive: String, format: &str| {
        ("create_archive", json!({"files": files, "archivePath": archive, "format": format}))
    };
    let extract =
        |archive: &str, into: &str| ("extract_archive", json!({"archivePath": archive, "extractPath": into}));
    vec![
        create(json!([dir]), format!("packed/{n}.tar"), "tar"),
        create(json!([at("secret"), at("dir")]), at("packed.zip"), "zip"),
        create(json!(["f", at("dir/only-outside")]), at("packed.tar"), "tar"),
        extract("good.tar", dir),
        extract("good.tar", &at(&format!("unpacked-{n}"))),
        extract(&at("secret"), "unpacked"),
        extract(&at("packed.zip"), &at("dir")),
        ("install_mod", json!({"modId": "one", "modUrl": server.url("/mod.jar")})),
        ("install_mod", json!({"modId": "pack", "modUrl": server.url("/pack.tar"), "unpack": true})),
        ("list_mods", json!({})),
        ("uninstall_mod", json!({"modId": "pack"})),
        ("uninstall_mod", json!({"modId": "one"})),
        ("delete_file", json!({"path": "packed"})),
        ("delete_file", json!({"path": "unpacked"})),
    ]
}

/// Asks for these one after the other for as long as the attack takes. Gives how many were done, refused as leaving, and
/// refused otherwise.
fn one_by_one(rig: &Rig, begun: Instant, actions: impl Fn(usize) -> Vec<(&'static str, Value)>) -> [u32; 3] {
    let mut counts = [0; 3];
    for n in 0.. {
        for (action, payload) in actions(n) {
            if begun.elapsed() >= ATTACK {
                return counts;
            }
            let mark = rig.link.mark();
            let id = rig.link.command(action, "s", payload);
            count(action, &response(rig, mark, action, &id), &mut counts);
        }
    }
    counts
}

fn response(rig: &Rig, mark: usize, action: &str, id: &str) -> Value {
    rig.link.wait_from(mark, LATER, action, |seen| match seen {
        Seen::Json(message) if message["type"] == "response" && message["id"] == id => Some(message.clone()),
        _ => None,
    })
}

/// Looks at what is told, and counts it.
fn count(action: &str, response: &Value, counts: &mut [u32; 3]) {
    let text = response.to_string();
    let encoded = &STANDARD.encode(SECRET)[..16];
    for leak in [SECRET, encoded, "only-outside"] {
        // The name that a test itself asks for may be named.
        let asked = action == "create_archive" && leak == "only-outside" && code(response) != "none";
        assert!(asked || !text.contains(leak), "{action}: {text}");
    }
    counts[match code(response) {
        "none" => 0,
        "PATH_INVALID" => 1,
        "INTERNAL" => panic!("{action}: {text}"),
        _ => 2,
    }] += 1;
}

/// Whether a file anywhere below holds what is outside.
fn holds_the_secret(top: &Path) -> bool {
    fs::read_dir(top).unwrap().map(|entry| entry.unwrap()).any(|entry| {
        let kind = entry.file_type().unwrap();
        let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        (kind.is_file() && holds(&fs::read(entry.path()).unwrap()))
            || (kind.is_dir() && holds_the_secret(&entry.path()))
    })
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
    let pack = tar(&[file("dir/mod", b"inside"), file("tree/mod", b"inside"), file("pack", b"inside")]);
    let good =
        tar(&[file("secret", b"inside"), file("dir/more", b"inside"), file("tree/deep/new", b"inside")]);
    rig.put("good.tar", good);
    let server =
        DownloadServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), false, move |path| match path {
            "/pack.tar" => Served::ok(pack.clone()),
            _ => Served::ok("inside"),
        });
    let begun = Instant::now();
    let long = |n| ["a", "b", "deep/x"].iter().flat_map(|dir| long_actions(dir, n, &server)).collect();
    let (counts, counts_of_long) = thread::scope(|scope| {
        let long = scope.spawn(|| one_by_one(rig, begun, long));
        (short(rig, begun), long.join().expect("the attack goes on"))
    });
    // None of this is proved by an attack that did not happen.
    for ([done, refused, other], what, at_least) in [(counts, "files", 100), (counts_of_long, "jobs", 10)] {
        println!("{what}: {done} done, {refused} refused as leaving, {other} refused otherwise");
        assert!(done > at_least && refused > at_least, "{what}: {done} {refused} {other}");
    }
    rig.must("kill_server", json!({}));
    assert!(!holds_the_secret(&rig.dir()), "what is outside was read or packed");
    rig.must("delete_server", json!({"removeData": true}));
    assert_eq!(watch.seen(), None, "something outside was touched");
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), SECRET);
    assert!(watch.seen().is_some(), "the watch sees what this test itself does");
    assert!(inner.iter().all(|dir| dir.join("only-outside").is_dir()));
}

/// All the actions on files at once, again and again.
fn short(rig: &Rig, begun: Instant) -> [u32; 3] {
    let mut counts = [0; 3];
    for n in 0.. {
        if begun.elapsed() >= ATTACK {
            break;
        }
        let batch = ["a", "b", "deep/x"].iter().flat_map(|dir| actions(dir, n));
        let mark = rig.link.mark();
        let asked: Vec<_> = batch
            .chain(actions_on_file("f"))
            .map(|(action, payload)| (action, rig.link.command(action, "s", payload)))
            .collect();
        for (action, id) in asked {
            count(action, &response(rig, mark, action, &id), &mut counts);
        }
    }
    counts
}

fn spec() -> Value {
    json!({"startup": ["/demo-server", "swap", "a", "b", "f", "deep/x"], "user": "0:0", "modDir": "deep/x"})
}

/// CVE-2024-27102: a link that was swapped in between the check and the use.
#[test]
fn cve_2024_27102_links_swapped_in_a_loop_lead_nowhere() {
    attack(&Rig::start_with(DOWNLOADS, spec()));
}

#[test]
fn links_swapped_in_a_loop_lead_nowhere_without_openat2() {
    let rig = without_openat2(|| Rig::start_with(DOWNLOADS, spec()));
    let status = fs::read_to_string(format!("/proc/{}/status", rig.agent.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "the Agent is under the filter");
    attack(&rig);
}
