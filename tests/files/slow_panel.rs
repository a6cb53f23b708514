//! A Panel that reads slowly gets all that it asked for in the end, and nobody else waits for it meanwhile.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::rig::Rig;
use crate::rootless_jobs::LATER;
use crate::support::*;

#[test]
fn downloads_wait_for_room_on_the_link_and_hold_up_nothing() {
    let rig = Rig::start();
    let content: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    rig.put("world", &content);
    rig.link.must("create_server", "other", demo(json!({})));
    rig.link.stop_reading();
    // Twice what may wait to be written.
    let asked: Vec<_> =
        (0..12).map(|_| rig.link.command("download_file", "s", json!({"path": "world"}))).collect();
    for n in 0..3 {
        for server in ["s", "other"] {
            let payload = json!({"path": format!("{n}"), "content": "x"});
            let written =
                rig.agent.http(&json!({"action": "write_file", "serverId": server, "payload": payload}));
            assert_eq!(written["success"], true, "{written}");
        }
        // Over HTTP there is no such lane.
        let read = json!({"action": "read_file", "serverId": "other", "payload": {"path": format!("{n}")}});
        assert_eq!(rig.agent.http(&read)["data"]["content"], "x");
    }
    rig.link.resume_reading();
    let expected = STANDARD.encode(&content);
    for id in asked {
        let response = rig.link.wait_from(0, LATER, "a download", |seen| match seen {
            Seen::Json(message) if message["type"] == "response" && message["id"] == id => {
                Some(message.clone())
            }
            _ => None,
        });
        assert_eq!(code(&response), "none", "{id} was refused");
        assert!(response["data"]["content"] == expected, "{id}: another content");
    }
}
