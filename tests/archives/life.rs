//! What ends a job half-way: another that wants in, a delete, a shutdown, a crash.

use super::make::{file, tar};
use super::*;

/// An archive that takes a while: many small files.
fn slow(node: &Node) {
    let names: Vec<String> = (0..30_000).map(|n| format!("d{}/{n}", n / 300)).collect();
    let entries: Vec<_> = names.iter().map(|name| file(name, b"x")).collect();
    fs::write(node.dir().join("slow.tar"), tar(&entries)).unwrap();
}

/// Sends the command and waits until its work has begun.
fn begin(node: &Node) -> (usize, String) {
    let mark = node.link.mark();
    let id = node.link.command("extract_archive", "s", extract("slow.tar"));
    node.link
        .wait_event("command_progress", |event| event["commandId"] == id && event["stage"] == "extracting");
    (mark, id)
}

#[test]
fn a_second_job_is_busy_and_commands_do_not_wait() {
    let node = Node::new(json!({}));
    slow(&node);
    let (mark, id) = begin(&node);
    let second = node.link.call("extract_archive", "s", extract("slow.tar"));
    assert_eq!(code(&second), "BUSY", "{second}");
    let third =
        node.link.call("install_mod", "s", json!({"modId": "m", "modUrl": "https://example.com/m.jar"}));
    assert_eq!(code(&third), "BUSY", "{third}");
    node.link.must("start_server", "s", json!({}));
    node.link.must("kill_server", "s", json!({}));
    node.link.must("list_mods", "s", json!({}));
    assert!(node.link.responses(&id).is_empty(), "all of that was answered while it ran");
    let done = node.response_from(mark, &id);
    assert_eq!(done["data"], json!({"files": 30_000, "bytes": 30_000}), "{done}");
    let told = node.link.messages();
    let told = told.iter().filter(|m| m["data"]["commandId"] == id && m["event"] == "command_progress");
    let told: Vec<_> = told.map(|event| event["data"]["current"].as_u64().unwrap()).collect();
    assert!(told.len() < 400, "{} events", told.len());
    let before = node.link.messages().iter().position(|m| m["id"] == id && m["type"] == "response");
    let last = node.link.messages().iter().rposition(|m| m["data"]["commandId"] == id);
    assert!(last < before, "a command's events come before its response");
}

#[test]
fn a_delete_ends_it_and_takes_everything_along() {
    let node = Node::new(json!({}));
    slow(&node);
    let (mark, id) = begin(&node);
    let delete = node.link.command("delete_server", "s", json!({"removeData": true}));
    let ended = node.response_from(mark, &id);
    assert_eq!(code(&ended), "SUPERSEDED", "{ended}");
    let deleted = node.response_from(mark, &delete);
    assert_eq!(deleted["data"]["status"], "deleted", "{deleted}");
    assert!(!node.dir().exists());
    assert_eq!(code(&node.link.call("extract_archive", "s", extract("x"))), "SERVER_NOT_FOUND");
    node.link.must("create_server", "s", demo(json!({})));
    assert_eq!(names(&node.dir()), Vec::<String>::new());
}

#[test]
fn a_shutdown_interrupts_it_and_leaves_nothing() {
    let mut node = Node::new(json!({}));
    slow(&node);
    let (mark, id) = begin(&node);
    assert!(node.agent.terminate().success());
    let ended = node.response_from(mark, &id);
    assert_eq!(code(&ended), "INTERRUPTED", "{ended}");
    assert_eq!(names(&node.dir()), ["slow.tar"]);
}

#[test]
fn after_a_crash_nothing_is_half_there_and_the_rest_is_swept() {
    let mut node = Node::new(json!({}));
    slow(&node);
    begin(&node);
    node.agent.kill();
    let left = names(&node.dir());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].starts_with(".longshore-job-") && left[1] == "slow.tar", "{left:?}");
    // Hidden, and entered by nobody else.
    assert_eq!(fs::metadata(node.dir().join(&left[0])).unwrap().mode() & 0o7777, 0o700);
    node.agent.start_again();
    node.link = node.panel.accept();
    let begun = std::time::Instant::now();
    while names(&node.dir()) != ["slow.tar"] {
        assert!(begun.elapsed() < LATER, "it was not swept: {:?}", names(&node.dir()));
        std::thread::yield_now();
    }
    // A server's own process cannot hide from it, nor harm it, under such a name.
    fs::create_dir_all(node.dir().join(".longshore-job-0123456789abcdef-1/d")).unwrap();
    std::os::unix::fs::symlink("/etc", node.dir().join(".longshore-job-link")).unwrap();
    fs::write(node.dir().join("a.tar"), tar(&[file("f", b"x")])).unwrap();
    node.must("extract_archive", json!({"archivePath": "a.tar"}));
    assert_eq!(names(&node.dir()), ["a.tar", "f", "slow.tar"]);
    assert!(Path::new("/etc/passwd").exists());
}
