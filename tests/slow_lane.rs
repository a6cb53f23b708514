//! Pulls: what they tell, how they fail, who may take part, and that whatever they do they hold up nobody else.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;

const LOGIN: &str = "keeper:open-sesame-4711";

/// Removes a pulled image from the Engine, after the Agent's containers.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        let _ = engine().call("DELETE", &format!("/images/{}?force=1", self.0), None);
    }
}

/// Makes a server whose next start has to pull `image`.
fn pulls_at_start(link: &Connection, server: &str, image: &str) {
    link.must("create_server", server, demo(json!({})));
    link.must("update_server", server, json!({"image": image}));
}

#[test]
fn pulls_that_hang_delay_nobody() {
    let (registry, mute) = (Registry::start(""), Registry::mute());
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "victim", demo(json!({"environment": {"IGNORE_TERM": "1"}})));
    link.must("start_server", "victim", json!({}));
    let hangs = |tag: &str| registry.image(Image::Hangs, tag);
    for server in ["stopped", "killed", "deleted", "suspended"] {
        pulls_at_start(&link, server, &hangs(server));
    }
    let start = |server: &str| link.command("start_server", server, json!({}));
    // As many as there are slow workers, each of another kind; what comes after waits for one of them.
    let mut starts = vec![("deleted", start("deleted"))];
    assert!(registry.wait_hanging(1, SOON));
    let create =
        link.command("create_server", "made", demo(json!({"image": format!("{}/x:1", mute.host())})));
    assert!(mute.wait_hanging(1, SOON));
    starts.extend(["stopped", "killed", "suspended"].map(|server| (server, start(server))));

    let begun = Instant::now();
    let timed = |action: &str, server: &str, status: &str| {
        let begun = Instant::now();
        let answer = link.must(action, server, json!({}));
        assert_eq!(answer["status"], status, "{action} of {server}");
        begun.elapsed()
    };
    assert!(timed("kill_server", "victim", "stopped") < Duration::from_secs(2), "beside two pulls that hang");
    // They were never started.
    timed("stop_server", "stopped", "created");
    timed("kill_server", "killed", "created");
    timed("suspend_server", "suspended", "suspended");
    let waited =
        |request: &String| ["stopped", "killed", "suspended"].iter().any(|tag| request.contains(tag));
    assert!(!registry.requests().iter().any(waited), "a pull that nobody wants any more has begun");
    timed("delete_server", "deleted", "deleted");
    assert!(registry.wait_given_up(1, SOON), "a pull that nobody wants goes on");
    timed("delete_server", "made", "deleted");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    for (server, id) in starts.iter().map(|(server, id)| (*server, id)).chain([("made", &create)]) {
        let answer = link.response(id);
        assert_eq!(code(&answer), "SUPERSEDED", "{server}: {answer}");
        assert_eq!(link.responses(id).len(), 1, "{server}");
    }
    // Both slow workers are free again, and what was overtaken can be asked for anew.
    let again = link.command("start_server", "killed", json!({}));
    assert!(registry.wait_hanging(2, SOON));
    link.must("kill_server", "killed", json!({}));
    assert_eq!(code(&link.response(&again)), "SUPERSEDED");
    assert_eq!(code(&link.call("get_status", "made", json!({}))), "SERVER_NOT_FOUND");
    assert_eq!(agent.terminate().code(), Some(0));
}

#[test]
fn a_pull_tells_how_far_it_is_and_its_image_runs() {
    let registry = Registry::start("");
    let panel = FakePanel::start();
    let image = Pulled(registry.image(Image::Good, "1"));
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let id = link.command("create_server", "s", demo(json!({"image": image.0})));
    let answer = link.response(&id);
    assert_eq!(answer["success"], true, "{answer}");
    let mut messages = link.messages();
    let answered = messages.iter().position(|m| m["id"] == id.as_str()).expect("it was answered");
    messages.truncate(answered);
    let steps: Vec<Value> = messages.into_iter().filter(|m| m["event"] == "command_progress").collect();
    assert!(steps.len() >= 2, "{steps:?}");
    for step in &steps {
        let data = &step["data"];
        assert_eq!(
            (&data["commandId"], &data["serverId"], &data["stage"]),
            (&json!(id), &json!("s"), &json!("pulling"))
        );
    }
    let part = |step: &Value| (step["data"]["current"].as_u64(), step["data"]["total"].as_u64());
    assert!(steps.iter().map(part).is_sorted_by_key(|part| part.0), "{steps:?}");
    assert!(
        steps.iter().any(|step| matches!(part(step), (Some(now), Some(all)) if now > 0 && now <= all)),
        "{steps:?}"
    );

    // The image has no shell for the spec's startup, but a program of its own.
    assert_eq!(link.must("start_server", "s", json!({}))["status"], "running");
    engine().wait_output(&agent.container("s"), "Demo server ready");
    drop(agent);
}

#[test]
fn each_way_to_fail_is_told_in_plain_words() {
    let registry = Registry::start("");
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    // Nobody listens where a registry has just ended.
    let gone = Registry::mute().host();
    let cases = [
        (format!("{}/nobody-knows:1", registry.host()), "IMAGE_NOT_FOUND"),
        (registry.image(Image::WithoutLayer, "1"), "IMAGE_PULL_FAILED"),
        (registry.image(Image::Damaged, "1"), "IMAGE_PULL_FAILED"),
        (format!("{gone}/x:1"), "IMAGE_PULL_FAILED"),
    ];
    link.must("create_server", "have", demo(json!({})));
    for (image, expected) in &cases {
        let made = link.call("create_server", "new", demo(json!({"image": image})));
        link.must("update_server", "have", json!({"image": image}));
        let started = link.call("start_server", "have", json!({}));
        for answer in [made, started] {
            let text = answer["error"]["message"].as_str().unwrap_or_default();
            assert_eq!(code(&answer), *expected, "{image}: {answer}");
            assert!(!text.contains("127.0.0.1") && !text.contains("sha256") && text.ends_with('.'), "{text}");
        }
        assert_eq!(code(&link.call("get_status", "new", json!({}))), "SERVER_NOT_FOUND");
        assert_eq!(link.must("get_status", "have", json!({}))["status"], "created", "{image}");
        assert!(!agent.data_dir.join("servers/new").exists(), "{image}");
    }
    assert!(agent.has_logged("WARN", &gone), "the log has the cause");
    // Back to an image that is there, and all is well.
    link.must("update_server", "have", json!({"image": DEMO_IMAGE}));
    assert_eq!(link.must("start_server", "have", json!({}))["status"], "running");
}

#[test]
fn a_login_is_used_for_its_own_registry_alone() {
    let (registry, other) = (Registry::start(LOGIN), Registry::start(LOGIN));
    let panel = FakePanel::start();
    let image = Pulled(registry.image(Image::Private, "1"));
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let name_hosts = |hosts: &[&str]| {
        let auth = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, LOGIN);
        let auths: serde_json::Map<String, Value> =
            hosts.iter().map(|host| ((*host).to_owned(), json!({"auth": auth}))).collect();
        std::fs::write(file.path(), json!({"auths": auths}).to_string()).expect("space for a line");
    };
    let path = file.path().to_str().expect("plain letters");
    name_hosts(&["127.0.0.1", &other.host(), "127.0.0.1:1"]);
    let agent = AgentProcess::start_with(&panel, engine(), &[("REGISTRY_AUTH_FILE", path)]);
    let link = panel.accept();
    let refused = link.call("create_server", "s", demo(json!({"image": image.0})));
    assert_eq!(code(&refused), "IMAGE_PULL_FAILED", "{refused}");
    let seen = registry.requests();
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.contains("(login)")), "{seen:?}");

    // The file is read again for each pull.
    name_hosts(&[&registry.host()]);
    link.must("create_server", "s", demo(json!({"image": image.0})));
    assert!(
        registry.requests().iter().any(|request| request.contains("blobs") && request.contains("(login)"))
    );
    assert_eq!(other.requests(), Vec::<String>::new());
    let secret = LOGIN.split_once(':').expect("it has both").1;
    assert!(agent.log().iter().all(|line| !line.contains(secret)));
    drop(agent);
}
