//! What goes over the wire of a console: lines with their numbers, gaps, and answers within the bound of a message.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore::protocol::console::Stream;
use longshore::protocol::{
    ConsoleReply, Envelope, Event, MAX_OUT, Reply, ServerId, ServerLog, encode_outcome, legacy, unified,
};
use serde_json::{Value, json};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_753_351_200_123)
}

fn server() -> ServerId {
    "s1".parse().unwrap()
}

fn data(reply: ConsoleReply) -> Value {
    let outcome = Ok(Reply::Console(Box::new(reply)));
    let text = encode_outcome(&Envelope::Unified { id: Some("c".into()) }, &outcome, now()).unwrap();
    assert!(text.len() <= MAX_OUT, "{}", text.len());
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&message["success"], message["message"].is_string()), (&json!(true), true));
    message["data"].clone()
}

#[test]
fn lines_carry_what_identifies_them() {
    let server = server();
    let log = ServerLog {
        server_id: &server,
        stream: Stream::Stderr,
        message: "one\n\"two\"\u{1b}[0m",
        seq: 41,
        count: 2,
        time_ns: 1_753_351_200_000_000_042,
        dt: &[0, -7],
        ordinal: 3,
        boot_id: "b",
        partial: false,
    };
    assert_eq!(
        unified::encode_server_log(&log, now()),
        r#"{"type":"event","timestamp":"2025-07-24T10:00:00.123Z","event":"server_log","data":{"serverId":"s1","stream":"stderr","message":"one\n\"two\"\u001b[0m","seq":41,"count":2,"time":"2025-07-24T10:00:00.000000042Z","dt":[0,-7],"ordinal":3,"bootId":"b"}}"#
    );
    let piece = ServerLog { partial: true, stream: Stream::Install, ..log };
    let message: Value = serde_json::from_str(&unified::encode_server_log(&piece, now())).unwrap();
    assert_eq!((&message["data"]["partial"], &message["data"]["stream"]), (&json!(true), &json!("install")));
}

#[test]
fn a_gap_names_the_lines_that_are_missing() {
    let gap = Event::StreamGap {
        server_id: Some(server()),
        stream: "console",
        lines: 3,
        bytes: 30,
        seqs: Some((5, 7)),
    };
    let text = unified::encode_event(&gap, 9, "b", now());
    let message: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({"serverId":"s1","stream":"console","lines":3,"bytes":30,"firstSeq":5,"lastSeq":7});
    assert_eq!(
        (&message["event"], &message["seq"], &message["data"]),
        (&json!("stream_gap"), &json!(9), &expected)
    );
    assert!(legacy::encode_event(&gap, now()).unwrap().contains("3 lines were dropped here"));
}

#[test]
fn answers_have_the_fields_of_the_contract() {
    let lines = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let check = |reply: ConsoleReply, expected: Value| assert_eq!(data(reply), expected);
    check(ConsoleReply::Logs { lines: lines.clone() }, json!({"logs":["a","b","c"],"lines":3}));
    check(
        ConsoleReply::History { lines: lines.clone(), numbered: 2, last_seq: 9 },
        json!({"history":["a","b","c"],"lines":3,"firstSeq":8,"lastSeq":9}),
    );
    check(ConsoleReply::History { lines: vec![], numbered: 0, last_seq: 0 }, json!({"history":[],"lines":0}));
    check(ConsoleReply::Sent { server: Some(server()), message: "x" }, json!({"serverId":"s1","sent":true}));
    check(ConsoleReply::Sent { server: None, message: "x" }, json!({"sent":true}));
    check(ConsoleReply::Connected(false), json!({"connected":false}));
    check(ConsoleReply::Cleared, json!({"cleared":true}));
    check(ConsoleReply::Download { content: "x\n".into() }, json!({"content":"x\n"}));
    check(
        ConsoleReply::Status { connected: true, last_activity_ns: Some(1), buffer_size: 7 },
        json!({"connected":true,"lastActivity":"1970-01-01T00:00:00.000000001Z","bufferSize":7}),
    );
    check(
        ConsoleReply::Status { connected: false, last_activity_ns: None, buffer_size: 0 },
        json!({"connected":false,"lastActivity":null,"bufferSize":0}),
    );
}

#[test]
fn what_does_not_fit_loses_the_oldest_lines() {
    // Each byte takes six on the wire.
    let lines: Vec<String> = (0..1000).map(|n| format!("{n} {}", "\u{1}".repeat(1000))).collect();
    let logs = data(ConsoleReply::Logs { lines: lines.clone() });
    let kept = logs["lines"].as_u64().unwrap() as usize;
    assert!(logs["truncated"] == true && (300..350).contains(&kept), "{kept}");
    assert_eq!(logs["logs"].as_array().unwrap().last().unwrap(), &json!(lines[999]));
    let history = data(ConsoleReply::History { lines, numbered: 1000, last_seq: 5000 });
    let kept = history["lines"].as_u64().unwrap();
    assert_eq!((&history["firstSeq"], &history["lastSeq"]), (&json!(5001 - kept), &json!(5000)));
}
