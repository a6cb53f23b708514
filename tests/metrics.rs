//! `GET /metrics`: the text format, what is counted, and who is told.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use support::*;

/// One HTTP request with these header lines; the status, the head and the body.
fn ask(agent: &AgentProcess, method: &str, headers: &str) -> (u16, String, String) {
    ask_as(agent, "127.0.0.1", method, "/metrics", headers)
}

fn ask_as(
    agent: &AgentProcess,
    host: &str,
    method: &str,
    path: &str,
    headers: &str,
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(agent.health_address()).expect("the Agent listens");
    stream.set_read_timeout(Some(SOON)).expect("an option of every socket");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Every sample by its name and labels. Panics where the text is not in the format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let (mut family, mut families) = (String::new(), Vec::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(!families.contains(&name.to_owned()), "{name} is in two places");
            families.push(name.to_owned());
            family = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(name.starts_with(&family), "{name} stands under {family}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    assert!(text.ends_with('\n') && text.len() <= 1 << 20);
    found
}

#[test]
fn tells_of_the_link_of_commands_of_servers_and_of_itself() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("STATS_INTERVAL", "1")]);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    std::fs::write(agent.data_dir.join("servers/s/world"), [1; 10_000]).expect("the directory is there");
    link.must("start_server", "s", json!({}));
    assert_eq!(code(&link.call("start_server", "nobody", json!({}))), "SERVER_NOT_FOUND");
    assert_eq!(code(&link.call("dance", "s", json!({}))), "UNKNOWN_ACTION");
    link.wait_event("resource_update", |data| data["disk"]["used"].as_u64() > Some(0));
    link.close(1012, "restart");
    let again = panel.accept();
    again.must("get_status", "s", json!({}));

    let (status, head, body) = ask(&agent, "GET", "");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let found = samples(&body);
    let get = |name: &str| *found.get(name).unwrap_or_else(|| panic!("no {name} in\n{body}"));
    assert_eq!(get("longshore_link_up"), 1.0);
    assert_eq!(get("longshore_link_connections_total"), 2.0);
    assert_eq!(get("longshore_link_setbacks_total{cause=\"closed\"}"), 1.0);
    assert_eq!(get("longshore_commands_total{action=\"start_server\",result=\"ok\"}"), 1.0);
    assert_eq!(get("longshore_commands_total{action=\"start_server\",result=\"server_not_found\"}"), 1.0);
    assert_eq!(get("longshore_commands_total{action=\"none\",result=\"unknown_action\"}"), 1.0);
    assert_eq!(get("longshore_command_seconds_count{action=\"start_server\"}"), 2.0);
    assert_eq!(get("longshore_command_seconds_bucket{action=\"start_server\",le=\"+Inf\"}"), 2.0);
    assert!(get("longshore_command_seconds_sum{action=\"start_server\"}") > 0.0);
    assert_eq!((get("longshore_servers"), get("longshore_servers_running")), (1.0, 1.0));
    assert!(get("longshore_server_memory_bytes{server=\"s\"}") > 0.0);
    assert_eq!(get("longshore_server_memory_limit_bytes{server=\"s\"}"), f64::from(64 << 20));
    assert!(get("longshore_server_pids{server=\"s\"}") >= 1.0);
    assert!(get("longshore_server_disk_bytes{server=\"s\"}") >= 10_000.0);
    assert_eq!(get("longshore_stats_engine_calls_total"), 0.0);
    let resident = get("process_resident_memory_bytes") / 1024.0;
    let seen = agent.resident_kib() as f64;
    assert!((resident - seen).abs() < seen * 0.2, "{resident} is not about {seen}");
    assert!((get("process_threads") - agent.threads() as f64).abs() <= 4.0);
    assert!(get("longshore_console_memory_bytes") > 0.0);
    assert_eq!(get("longshore_console_dropped_lines_total"), 0.0);
    for name in [
        "longshore_console_waiting_bytes",
        "longshore_console_dropped_bytes_total",
        "longshore_outbox_messages",
        "longshore_outbox_dropped_messages_total",
        "longshore_uptime_seconds",
    ] {
        get(name);
    }
}

#[test]
fn tells_strangers_nothing() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    // Whoever stands behind a proxy is not on this machine.
    let far = "Forwarded: for=192.0.2.1\r\n";
    let check = |method: &str, headers: &str, expected: u16| {
        let (status, head, body) = ask(&agent, method, headers);
        assert_eq!(status, expected, "{method} {headers}");
        assert_eq!(body.contains("longshore_link_up"), method == "GET" && expected == 200, "{body}");
        assert_eq!(head.contains("www-authenticate"), expected == 401, "{head}");
    };
    check("GET", "", 200);
    check("HEAD", "", 200);
    check("POST", "Content-Length: 0\r\n", 405);
    check("GET", far, 401);
    check("GET", &format!("{far}Authorization: Bearer not-it\r\n"), 401);
    check("GET", &format!("{far}Authorization: Bearer {}\r\n", agent.secret), 200);
    check("GET", &format!("{far}X-API-Key: {}\r\n", agent.secret), 200);
}

#[test]
fn a_page_that_points_its_own_name_here_reads_nothing() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    let bearer = format!("Authorization: Bearer {}\r\n", agent.secret);
    let check = |host: &str, headers: &str, expected: u16| {
        let (status, _, body) = ask_as(&agent, host, "GET", "/metrics", headers);
        assert_eq!((status, body.contains("longshore_")), (expected, expected == 200), "{host}: {body}");
        let (_, _, body) = ask_as(&agent, host, "GET", "/health", headers);
        assert_eq!(body.contains(&agent.node_id), expected == 200, "{host}: {body}");
        assert!(body.contains("\"status\":"), "{host}: {body}");
    };
    for own in ["localhost", "LocalHost:8081", "a.localhost", "127.0.0.1:8081", "[::1]:8081", "192.0.2.7"] {
        check(own, "", 200);
    }
    for strange in ["evil.example", "localhost.evil.example:8081", "127.0.0.1.evil.example", "", "[evil]"] {
        check(strange, "", 421);
        check(strange, &bearer, 200);
    }
}
