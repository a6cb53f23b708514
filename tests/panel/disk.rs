//! What is on the disk after a crash, after an update, and when there is no room.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::fake_agent::FakeAgent;
use super::process::Panel;

#[test]
fn what_was_acknowledged_survives_being_killed_at_any_moment() {
    let mut panel = Panel::start(&["n1"]);
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        // Killed while calls are in work: those that were answered are there afterwards, whole.
        let (address, token) = (panel.http.clone(), panel.token.clone());
        let (done, dones) = crossbeam_channel::unbounded();
        let writer = std::thread::spawn(move || {
            for number in 0.. {
                let name = format!("user-{round}-{number}");
                let body = format!(r#"{{"id":"node-{round}-{number}","name":"{name}"}}"#);
                let request = format!(
                    "POST /api/v1/nodes HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                match std::panic::catch_unwind(|| super::process::ask(&address, &request)) {
                    Ok(answer) if answer.status == 201 => drop(done.send(format!("node-{round}-{number}"))),
                    _ => return,
                }
            }
        });
        for _ in 0..=round * 3 {
            acknowledged.push(dones.recv_timeout(super::process::SOON).unwrap());
        }
        panel.kill();
        writer.join().unwrap();
        acknowledged.extend(dones.try_iter());
        panel.start_again(&[]);
        for id in &acknowledged {
            assert_eq!(
                panel.get(&format!("/api/v1/nodes/{id}")).status,
                200,
                "{id} was acknowledged and is gone"
            );
        }
    }
    panel.kill();
    let doctor = panel.run(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.success() && said.contains("database: whole"), "{said}");
}

#[test]
fn a_copy_is_made_while_it_runs_and_can_be_put_back() {
    let mut panel = Panel::start(&["n1"]);
    let copy = panel.data_dir().join("copy.db");
    let copy = copy.to_str().unwrap();
    assert!(panel.run(&["backup", copy]).status.success());
    assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!panel.run(&["backup", copy]).status.success(), "a copy overwrites nothing");
    assert_eq!(panel.send("POST", "/api/v1/nodes", r#"{"id":"later"}"#).status, 201);
    let refused = panel.run(&["restore", copy]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use"), "{refused:?}");
    panel.kill();
    let noise = panel.data_dir().join("noise");
    std::fs::write(&noise, "no database").unwrap();
    assert!(!panel.run(&["restore", noise.to_str().unwrap()]).status.success());
    assert!(panel.run(&["restore", copy]).status.success());
    panel.start_again(&[]);
    assert_eq!(panel.get("/api/v1/nodes/n1").status, 200);
    assert_eq!(panel.get("/api/v1/nodes/later").status, 404);
}

#[test]
fn an_older_database_is_copied_and_brought_up_to_date() {
    let mut panel = Panel::start(&[]);
    panel.kill();
    // As a Panel of the first version left it, with a node, a server of its, and something that was done.
    let old = include_str!("../../src/panel/store/schema-1.sql");
    let path = panel.data_dir().join("panel.db");
    for file in ["panel.db", "panel.db-wal", "panel.db-shm"] {
        let _ = std::fs::remove_file(panel.data_dir().join(file)); // the last two are there only at times
    }
    let hash = "0".repeat(64);
    let node = format!(r#"{{"secret":"{hash}","created":"2026-01-01T00:00:00.000Z","joined":true}}"#);
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch(old).unwrap();
    database.pragma_update(None, "user_version", 1).unwrap();
    database.execute("INSERT INTO nodes VALUES ('n7', ?)", [&node]).unwrap();
    database
        .execute(
            "INSERT INTO activity (time, user, via, action, outcome) VALUES (1, 'ann', 'token', 'server.start', 'ok')",
            [],
        )
        .unwrap();
    drop(database);
    panel.token = panel.user("admin", true, "read,admin");
    panel.start_again(&[]);
    assert_eq!(panel.get("/api/v1/nodes/n7").status, 200);
    let kept = panel.get("/api/v1/activity?user=ann").json();
    assert_eq!(kept["items"][0]["action"], "server.start", "{kept}");
    assert_eq!(panel.send("PATCH", "/api/v1/nodes/n7", r#"{"name":"new"}"#).status, 200);
    let made = panel.get("/api/v1/activity?action=node.update").json();
    assert_eq!(made["items"][0]["token"], "test", "{made}");

    // The copy is the database of before, whole, and only its owner's; it can be put back, and is brought up again.
    let names = std::fs::read_dir(panel.data_dir()).unwrap().flatten().map(|entry| entry.path());
    let copies: Vec<_> = names.filter(|path| path.to_string_lossy().contains("panel.db.v1.")).collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(std::fs::metadata(&copies[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = rusqlite::Connection::open(&copies[0]).unwrap();
    let version: i64 = copy.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let nodes: String = copy.query_row("SELECT record FROM nodes", [], |row| row.get(0)).unwrap();
    let fields = copy.prepare("SELECT * FROM activity").unwrap().column_count();
    assert_eq!((version, nodes, fields), (1, node, 10));
    drop(copy);
    panel.kill();
    let restored = panel.run(&["restore", copies[0].to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    panel.token = panel.user("again", true, "read");
    panel.start_again(&[]);
    assert_eq!(panel.get("/api/v1/nodes/n7").json()["name"], "");
}

/// A file system of its own with a few megabytes, in a mount namespace that ends with the Panel's process.
#[test]
fn a_full_disk_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m,mode=700", "longshore-test"])
        .arg(dir.path())
        .status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "this test mounts a small file system, which needs root"
    );
    let _unmount = Unmount(dir.path().to_owned());
    let data = dir.path().join("data");
    let mut panel = Panel::start_in(&data, &["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    let filler = dir.path().join("filler");
    std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display()))
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    // Until what SQLite has reserved is used up, changes still fit; then they are refused, each whole.
    let mut kept = Vec::new();
    let refused = (0..2_000).find_map(|number| {
        let body = format!(r#"{{"id":"node-{number}","name":"{}"}}"#, "x".repeat(60));
        let answer = panel.send("POST", "/api/v1/nodes", &body);
        match answer.status {
            201 => {
                kept.push(number);
                None
            }
            _ => Some((number, answer)),
        }
    });
    let (number, refused) = refused.expect("the disk is never full");
    assert_eq!(refused.error(), "507 STORE_FAILED");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("full"), "{refused:?}");
    assert_eq!(panel.get(&format!("/api/v1/nodes/node-{number}")).status, 404, "half a change is none");
    let start = panel.send("POST", "/api/v1/servers/n1/s1/start", "{}");
    assert_eq!(start.error(), "507 STORE_FAILED");
    agent.is_linked();
    assert_eq!(panel.get("/api/v1/nodes").status, 200, "what needs no room still works");
    std::fs::remove_file(&filler).unwrap();
    let body = format!(r#"{{"id":"node-{number}"}}"#);
    assert_eq!(panel.send("POST", "/api/v1/nodes", &body).status, 201);
    panel.kill();
    panel.start_again(&[]);
    for number in kept {
        assert_eq!(panel.get(&format!("/api/v1/nodes/node-{number}")).status, 200);
    }
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily: the Panel may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
