//! Files over HTTP: larger pieces than over the link, and the same rules.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::rig::Rig;

const MIB: usize = 1 << 20;

fn ask(rig: &Rig, action: &str, payload: Value) -> Value {
    rig.agent.http(&json!({"action": action, "serverId": "s", "payload": payload}))
}

#[test]
fn a_piece_has_up_to_16_mib_both_ways_and_a_file_any_number_of_them() {
    let rig = Rig::start();
    let bytes: Vec<u8> = (0..17 * MIB as u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes().into_iter().take(1))
        .collect();
    let (first, second) = bytes.split_at(16 * MIB);
    // PHP writes `/` as `\/`.
    let body = format!(
        r#"{{"action":"upload_file","serverId":"s","payload":{{"path":"large.bin","content":"{}"}}}}"#,
        STANDARD.encode(first).replace('/', "\\/")
    );
    let answer = rig.agent.post(body.as_bytes());
    assert_eq!((answer.status, &answer.json()["data"]["size"]), (200, &json!(16 * MIB)), "{}", answer.head);
    let more = json!({"path": "large.bin", "content": STANDARD.encode(second), "append": true});
    assert_eq!(ask(&rig, "upload_file", more)["data"]["size"], 17 * MIB);
    assert!(rig.read("large.bin") == bytes, "what was uploaded differs");

    assert_eq!(ask(&rig, "download_file", json!({"path": "large.bin"}))["code"], "TOO_LARGE");
    let piece = |offset: usize, length: usize| {
        let answer =
            ask(&rig, "download_file", json!({"path": "large.bin", "offset": offset, "length": length}));
        assert_eq!(answer["data"]["encoding"], "base64", "{}", answer["error"]);
        STANDARD.decode(answer["data"]["content"].as_str().unwrap()).unwrap()
    };
    assert!([piece(0, 16 * MIB), piece(16 * MIB, MIB)].concat() == bytes, "what was downloaded differs");
    let too_much = json!({"path": "large.bin", "length": 16 * MIB + 1});
    assert_eq!(ask(&rig, "download_file", too_much)["code"], "TOO_LARGE");
    let too_much = json!({"path": "x", "content": STANDARD.encode(&bytes[..=16 * MIB])});
    assert_eq!(ask(&rig, "upload_file", too_much)["code"], "TOO_LARGE");
    assert!(!rig.dir().join("x").exists());
}

#[test]
fn a_change_is_made_once_whichever_way_it_is_repeated() {
    let rig = Rig::start();
    let payload = json!({"path": "log", "content": "x", "encoding": "utf8", "append": true});
    let command = json!({"id": "again", "action": "upload_file", "serverId": "s", "payload": payload});
    let first = rig.agent.http(&command);
    let mut by_link = command.clone();
    by_link["type"] = "command".into();
    rig.link.send(&by_link);
    assert_eq!(rig.link.response("again")["data"], first["data"]);
    assert_eq!(rig.agent.http(&command), first);
    assert_eq!(rig.read("log"), b"x");
}
