//! Who waits for whom: pieces keep their order, and nothing that takes long holds up a listing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::rig::Rig;
use crate::support::*;

#[test]
fn pieces_that_are_sent_behind_each_other_keep_their_order() {
    let rig = Rig::start();
    let pieces: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 10_000]).collect();
    let ids: Vec<String> = pieces
        .iter()
        .map(|piece| {
            let payload = json!({"path": "world", "content": STANDARD.encode(piece), "append": true});
            rig.link.command("upload_file", "s", payload)
        })
        .collect();
    // A look behind the last piece sees all of them.
    let size = rig.must("get_file_info", json!({"path": "world"}))["size"].clone();
    assert_eq!(size, 400_000);
    for id in ids {
        assert_eq!(rig.link.response(&id)["success"], true);
    }
    assert_eq!(rig.read("world"), pieces.concat());
}

#[test]
fn two_pulls_that_hang_hold_up_no_listing() {
    let panel = FakePanel::start();
    // A registry that accepts and says nothing.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    let image = format!("{}/never:1", hanging.local_addr().unwrap());
    for server in ["p1", "p2"] {
        link.command("create_server", server, demo(json!({"image": image})));
        agent.wait_log(&format!("{server}: pulling"));
    }
    link.must("write_file", "s", json!({"path": "a", "content": "b"}));
    let listed = link.must("list_files", "s", json!({}));
    assert_eq!(listed["files"][0]["name"], "a");
    for server in ["p1", "p2"] {
        link.must("kill_server", server, json!({}));
    }
}

/// Content goes below everything else, and is kept until it is delivered all the same.
#[test]
fn content_that_was_not_delivered_comes_again_on_the_next_link() {
    let rig = Rig::start();
    rig.put("world", vec![7; 1 << 20]);
    rig.link.answer_pings(false);
    let id = rig.link.command("download_file", "s", json!({"path": "world"}));
    let first = rig.link.response(&id);
    let Rig { panel, agent: _agent, link } = rig;
    link.cut();
    let link = panel.accept();
    let again = link.response(&id);
    assert_eq!(again, first);
    link.must("system.ping", "", json!({}));
    assert_eq!(link.responses(&id).len(), 1);
}
