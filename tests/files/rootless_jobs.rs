//! Archives and mods of an Agent without root, over files of root's and other users': the same as with root, by a container
//! that ends with the work.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::make::{file, gzip, special, tar};
use crate::rig::Rig;
use crate::rootless::{none_stays_behind, rig, rig_with};
use crate::support::*;

/// For jobs that take as long as a busy disk does.
pub const LATER: Duration = Duration::from_secs(300);
const USER: (u32, u32) = (4711, 4712);

/// Sends a command and waits for its response, as long as it takes.
fn call(rig: &Rig, action: &str, payload: Value) -> Value {
    let mark = rig.link.mark();
    let id = rig.link.command(action, "s", payload);
    response_from(rig, mark, &id)
}

fn response_from(rig: &Rig, mark: usize, id: &str) -> Value {
    rig.link.wait_from(mark, LATER, &format!("response to {id}"), |seen| match seen {
        Seen::Json(message) if message["type"] == "response" && message["id"] == id => Some(message.clone()),
        _ => None,
    })
}

fn must(rig: &Rig, action: &str, payload: Value) -> Value {
    let response = call(rig, action, payload);
    assert_eq!(response["success"], true, "{action}: {response}");
    response["data"].clone()
}

/// A server whose files belong to nobody whom the Agent is.
fn create(rig: &Rig, extra: Value) {
    let mut spec = demo(json!({"user": format!("{}:{}", USER.0, USER.1)}));
    for (name, value) in extra.as_object().unwrap() {
        spec[name] = value.clone();
    }
    must(rig, "create_server", spec);
}

/// Path, mode, owner, and the content of a file.
type Thing = (String, u32, (u32, u32), Option<Vec<u8>>);

/// Everything in a directory.
fn tree(top: &Path) -> Vec<Thing> {
    let (mut found, mut waiting) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = about.is_file().then(|| fs::read(&path).unwrap());
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            found.push((name, about.mode() & 0o7777, (about.uid(), about.gid()), content));
            if about.is_dir() {
                waiting.push(path);
            }
        }
    }
    found.sort();
    found
}

fn names(rig: &Rig) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(rig.dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the container's root, the server's user and a third one made, for nobody else to read.
fn fill(rig: &Rig) {
    rig.put("world/level.dat", (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    rig.put("world/rooted/secret", "of root");
    rig.put("world/other/theirs", "of another");
    rig.put("world/start.sh", "#!/bin/sh\n");
    for (path, owner, mode) in [
        ("world/level.dat", USER, 0o600),
        ("world/rooted/secret", (0, 0), 0o600),
        ("world/rooted", (0, 0), 0o700),
        ("world/other/theirs", (5000, 5000), 0o640),
        ("world/other", (5000, 5000), 0o700),
        ("world/start.sh", USER, 0o755),
        ("world", USER, 0o755),
    ] {
        let path = rig.dir().join(path);
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn archives_of_files_of_other_users_come_back_whole() {
    let rig = rig();
    create(&rig, json!({}));
    // Nobody but the server's user enters it, nor the Agent by itself.
    fs::set_permissions(rig.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    fill(&rig);
    let expected: Vec<_> = tree(&rig.dir().join("world"))
        .into_iter()
        .map(|(name, mode, _, content)| (name, mode, USER, content))
        .collect();
    let bytes: usize = expected.iter().filter_map(|(.., content)| content.as_ref()).map(Vec::len).sum();
    for format in ["zip", "tar", "tar.gz"] {
        let archive = format!("backups/world.{format}");
        let mark = rig.link.mark();
        let payload = json!({"files": ["world"], "archivePath": archive, "format": format});
        let id = rig.link.command("create_archive", "s", payload);
        let made = response_from(&rig, mark, &id);
        let on_disk = rig.dir().join(&archive).metadata().unwrap();
        let data = json!({"path": archive, "size": on_disk.len(), "files": 4, "skipped": 0});
        assert_eq!(made["data"], data, "{format}: {made}");
        assert_eq!((on_disk.uid(), on_disk.gid(), on_disk.mode() & 0o7777), (USER.0, USER.1, 0o644));
        let told = rig.link.messages();
        let told =
            |stage: &str| told.iter().any(|m| m["data"]["commandId"] == id && m["data"]["stage"] == stage);
        assert!(told("looking") && told("packing"), "{format}: no progress");
        let target = format!("restored/{format}");
        let payload = json!({"archivePath": archive, "extractPath": target});
        let done = must(&rig, "extract_archive", payload);
        assert_eq!(done, json!({"files": 4, "bytes": bytes}), "{format}");
        assert_eq!(tree(&rig.dir().join(&target).join("world")), expected, "{format}");
        assert_eq!(rig.dir().join("restored").metadata().unwrap().uid(), USER.0);
    }
    assert_eq!(names(&rig), ["backups", "restored", "world"], "nothing else is left");
    none_stays_behind(&rig);
}

#[test]
fn what_is_hostile_or_too_large_leaves_nothing() {
    let rig = rig();
    create(&rig, json!({"limits": {"memory": "64m", "disk": "6m"}}));
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    for (name, bytes) in [
        ("climbs.tar", tar(&[file("fine", b"x"), file("../climbs", b"x")])),
        ("setuid.tar", tar(&[special("s", b'0', 0o4755)])),
        ("link.tar", tar(&[special("l", b'2', 0o777)])),
        ("large.tar", tar(&[file("fine", b"x"), file("large", &vec![7; 7 << 20])])),
    ] {
        rig.put(name, bytes);
    }
    symlink(outside.path(), rig.dir().join("out")).unwrap();
    let before = tree(&rig.dir());
    for (archive, into, expected) in [
        ("climbs.tar", "made", "PATH_INVALID"),
        ("setuid.tar", "made", "PATH_INVALID"),
        ("link.tar", "made", "PATH_INVALID"),
        ("large.tar", "made", "QUOTA_EXCEEDED"),
        ("none.tar", "made", "FILE_NOT_FOUND"),
        ("climbs.tar", "out", "PATH_INVALID"),
        ("out/secret", "made", "PATH_INVALID"),
    ] {
        let response = call(&rig, "extract_archive", json!({"archivePath": archive, "extractPath": into}));
        assert_eq!(code(&response), expected, "{archive}: {response}");
        assert!(tree(&rig.dir()) == before, "{archive}: something was made");
    }
    let payload = json!({"files": ["large.tar"], "archivePath": "again.tar", "format": "tar"});
    assert_eq!(code(&call(&rig, "create_archive", payload)), "QUOTA_EXCEEDED");
    assert!(tree(&rig.dir()) == before);
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "outside");
    none_stays_behind(&rig);
}

#[test]
fn what_a_container_writes_and_what_the_agent_does_is_one_count() {
    let rig = rig();
    // What a walk finds beside the files is less than half a MiB.
    create(&rig, json!({"limits": {"memory": "64m", "disk": "6656k"}}));
    rig.put("a.tar.gz", gzip(&tar(&[file("large", &vec![7; 3 << 20])])));
    must(&rig, "extract_archive", json!({"archivePath": "a.tar.gz", "extractPath": "out"}));
    let piece = |n: u32| json!({"path": format!("piece{n}"), "content": "x".repeat(1 << 20)});
    let fits = (0..6).take_while(|n| code(&call(&rig, "write_file", piece(*n))) == "none").count();
    assert_eq!(fits, 3, "MiB beside the 3 that were unpacked");
    // What is replaced, removed or refused comes back.
    assert_eq!(code(&call(&rig, "extract_archive", json!({"archivePath": "a.tar.gz"}))), "QUOTA_EXCEEDED");
    must(&rig, "delete_file", json!({"path": "out"}));
    must(&rig, "extract_archive", json!({"archivePath": "a.tar.gz"}));
    let payload = json!({"files": ["large"], "archivePath": "again.tar", "format": "tar"});
    assert_eq!(code(&call(&rig, "create_archive", payload)), "QUOTA_EXCEEDED");
    none_stays_behind(&rig);
}

#[test]
fn mods_are_installed_told_and_removed_exactly() {
    let (zip, jar) = (zip(&[("core.jar", "core"), ("conf/a.yml", "a")]), "first");
    let server =
        DownloadServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), false, move |path| match path {
            "/pack.zip" => Served::ok(zip.clone()),
            "/one-1.jar" => Served::ok(jar),
            "/one-2.jar" => Served::ok("second, longer"),
            "/token?secret=hush" => {
                Served::ok("t").with("Content-Disposition", "attachment; filename=token.jar")
            }
            "/large.jar" => Served::ok(vec![1; 9 << 20]),
            _ => Served { status: 404, ..Served::default() },
        });
    let rig = rig_with(&[("ALLOW_PRIVATE_DOWNLOADS", "1"), ("ALLOW_INSECURE_DOWNLOADS", "1")]);
    create(&rig, json!({"limits": {"memory": "64m", "disk": "8m"}}));
    rig.put("mods/own.jar", "own");
    chown(rig.dir().join("mods"), Some(0), Some(0)).unwrap();
    fs::set_permissions(rig.dir().join("mods"), fs::Permissions::from_mode(0o700)).unwrap();
    let install = |id: &str, path: &str, more: Value| {
        let mut payload = json!({"modId": id, "modUrl": server.url(path)});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        call(&rig, "install_mod", payload)
    };
    let one = install("one", "/one-1.jar", json!({"sha256": sha256(b"first")}));
    assert_eq!(one["data"]["mod"]["files"], json!(["mods/one-1.jar"]), "{one}");
    let pack = install("pack", "/pack.zip", json!({"unpack": true}));
    assert_eq!(pack["data"]["mod"]["files"], json!(["mods/conf/a.yml", "mods/core.jar"]), "{pack}");
    for path in ["mods/one-1.jar", "mods/core.jar", "mods/conf/a.yml", "mods/conf"] {
        let found = rig.dir().join(path).metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), USER, "{path}");
    }
    let two = install("one", "/one-2.jar", json!({}));
    assert_eq!(two["data"]["mod"]["files"], json!(["mods/one-2.jar"]), "{two}");
    assert!(!rig.dir().join("mods/one-1.jar").exists());
    install("token", "/token?secret=hush", json!({}));
    for (id, path, more, expected) in [
        ("x", "/one-1.jar", json!({"sha256": sha256(b"second")}), "CHECKSUM_MISMATCH"),
        ("x", "/gone.jar", json!({}), "DOWNLOAD_FAILED"),
        ("x", "/large.jar", json!({}), "QUOTA_EXCEEDED"),
        ("x", "/one-2.jar", json!({}), "CONFLICT"),
        ("x", "/one-1.jar", json!({"unpack": true}), "INVALID_PAYLOAD"),
    ] {
        let before = tree(&rig.dir());
        let response = install(id, path, more);
        assert_eq!(code(&response), expected, "{path}: {response}");
        assert!(tree(&rig.dir()) == before, "{path}: something was made");
    }
    // The server's own process changes some.
    fs::write(rig.dir().join("mods/conf/a.yml"), "b").unwrap();
    fs::remove_file(rig.dir().join("mods/core.jar")).unwrap();
    let list = must(&rig, "list_mods", json!({}));
    assert_eq!(list["count"], 3, "{list}");
    let pack = list["mods"].as_array().unwrap().iter().find(|m| m["id"] == "pack").unwrap();
    let state = (&pack["changed"], &pack["missing"]);
    assert_eq!(state, (&json!(["mods/conf/a.yml"]), &json!(["mods/core.jar"])));
    let left = must(&rig, "uninstall_mod", json!({"modId": "pack"}));
    assert_eq!((&left["count"], &left["removed"]), (&json!(2), &json!(1)), "{left}");
    must(&rig, "uninstall_mod", json!({"modId": "token"}));
    let left: Vec<String> = tree(&rig.dir()).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(left, ["mods", "mods/one-2.jar", "mods/own.jar"]);
    assert_eq!(fs::read_dir(rig.agent.data_dir.join("downloads")).unwrap().count(), 0);
    assert!(!rig.agent.log().iter().any(|line| line.contains("hush")), "an address is never logged");
    none_stays_behind(&rig);
}

/// An archive that takes a while: many small files.
fn slow(rig: &Rig) {
    let names: Vec<String> = (0..10_000).map(|n| format!("d{}/{n}", n / 300)).collect();
    let entries: Vec<_> = names.iter().map(|name| file(name, b"x")).collect();
    rig.put("slow.tar", tar(&entries));
}

/// Sends the command and waits until a container works at it.
fn begin(rig: &Rig) -> (usize, String) {
    let mark = rig.link.mark();
    let payload = json!({"archivePath": "slow.tar", "extractPath": "out"});
    let id = rig.link.command("extract_archive", "s", payload);
    rig.link.wait_from(mark, LATER, "the beginning of an extraction", |seen| match seen {
        Seen::Json(m) => (m["data"]["commandId"] == id && m["data"]["stage"] == "extracting").then_some(()),
        _ => None,
    });
    (mark, id)
}

#[test]
fn a_second_job_is_busy_and_a_delete_takes_everything_along() {
    let rig = rig();
    create(&rig, json!({}));
    slow(&rig);
    let (mark, id) = begin(&rig);
    let payload = json!({"archivePath": "slow.tar", "extractPath": "out"});
    assert_eq!(code(&rig.link.call("extract_archive", "s", payload)), "BUSY");
    rig.must("list_files", json!({}));
    assert!(rig.link.responses(&id).is_empty(), "all of that was answered while it ran");
    let delete = rig.link.command("delete_server", "s", json!({"removeData": true}));
    assert_eq!(code(&response_from(&rig, mark, &id)), "SUPERSEDED");
    let deleted = response_from(&rig, mark, &delete);
    assert_eq!(deleted["data"]["status"], "deleted", "{deleted}");
    assert!(!rig.dir().exists());
    none_stays_behind(&rig);
}

#[test]
fn a_shutdown_ends_the_container_and_leaves_nothing() {
    let mut rig = rig();
    create(&rig, json!({}));
    slow(&rig);
    let (mark, id) = begin(&rig);
    rig.agent.signal(Signal::TERM);
    assert_eq!(code(&response_from(&rig, mark, &id)), "INTERRUPTED");
    assert!(rig.agent.wait(LATER).success());
    none_stays_behind(&rig);
    assert_eq!(names(&rig), ["slow.tar"]);
}

#[test]
fn a_container_whose_agent_was_killed_undoes_its_work_and_ends() {
    let mut rig = rig();
    create(&rig, json!({}));
    slow(&rig);
    begin(&rig);
    assert_eq!(names(&rig).len(), 2, "{:?}", names(&rig));
    rig.agent.kill();
    none_stays_behind(&rig);
    assert_eq!(names(&rig), ["slow.tar"]);
    rig.agent.start_again();
    rig.link = rig.panel.accept();
    must(&rig, "extract_archive", json!({"archivePath": "slow.tar", "extractPath": "out"}));
    assert_eq!(names(&rig), ["out", "slow.tar"]);
}

#[test]
fn an_end_reaches_a_container_that_copies() {
    let mut rig = rig();
    create(&rig, json!({}));
    rig.put("rooted/large", vec![7; 256 << 20]);
    fs::set_permissions(rig.dir().join("rooted"), fs::Permissions::from_mode(0o700)).unwrap();
    let payload = json!({"sourcePath": "rooted", "destinationPath": "copy"});
    let id = rig.link.command("copy_file", "s", payload);
    let begun = Instant::now();
    while names(&rig).len() < 2 {
        assert!(begun.elapsed() < LATER, "no copy begins");
    }
    rig.agent.signal(Signal::TERM);
    assert_eq!(code(&response_from(&rig, 0, &id)), "INTERRUPTED");
    assert!(rig.agent.wait(LATER).success());
    none_stays_behind(&rig);
    assert_eq!(names(&rig), ["rooted"]);
}

#[test]
fn what_an_older_agent_was_made_into_goes_when_there_is_a_new_one() {
    let rig = rig();
    create(&rig, json!({}));
    let label = format!("longshore.helper={}", rig.agent.node_id);
    let filter = format!("%7B%22label%22%3A%5B%22{label}%22%5D%7D");
    let images = || {
        let found = engine().must("GET", &format!("/images/json?filters={filter}"), None);
        found.as_array().unwrap().iter().map(|image| image["RepoTags"][0].clone()).collect::<Vec<_>>()
    };
    // The directory was given to its user already.
    none_stays_behind(&rig);
    let [current] = &images()[..] else { panic!("{:?}", images()) };
    engine().must("DELETE", &format!("/images/{}?force=1", current.as_str().unwrap()), None);
    let container = rig.agent.container("s");
    let older =
        format!("/commit?container={container}&repo=longshore/helper&tag={}-older", rig.agent.node_id);
    engine().must("POST", &format!("{older}&changes=LABEL%20{label}"), Some(&json!({})));
    assert_eq!(images().len(), 1);
    must(&rig, "write_file", json!({"path": "a", "content": "b"}));
    assert_eq!(images(), std::slice::from_ref(current), "the new one alone is left");
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(name, content)| file(name, content.as_bytes())).collect();
    crate::make::zip(&files)
}
