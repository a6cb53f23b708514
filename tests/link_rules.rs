//! Section 1 of the contract on the built Agent: what a dial carries, what a connection begins with, what is passed
//! over, what ends it, and what follows a Panel that refuses or misbehaves.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use support::*;
use tungstenite::Message;

/// A message that every Agent answers: what came before it has been dealt with when its answer is there.
fn ping_pong(link: &Connection) {
    assert_eq!(link.must("system.ping", "", json!({}))["message"], "pong");
}

fn kind(message: &Value) -> String {
    let name = message["event"].as_str().or(message["type"].as_str());
    name.unwrap_or_default().to_owned()
}

/// How long the Agent said that it would wait before its next dial, in seconds.
fn next_dial(agent: &AgentProcess) -> f64 {
    let line = agent.wait_log("next dial in");
    let seconds = line.rsplit("next dial in ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    seconds.unwrap_or_else(|| panic!("no seconds in {line:?}"))
}

#[test]
fn a_dial_carries_the_node_and_the_secret() {
    for (query, path) in [
        ("", "/agent?nodeId={}"),
        ("?nodeId=another", "/agent?nodeId={}"),
        ("?a=1&nodeId=x&nodeId=y&b=2", "/agent?a=1&b=2&nodeId={}"),
    ] {
        let panel = FakePanel::start();
        let mut agent = AgentProcess::prepare(&format!("{}{query}", panel.url()), engine(), &[]);
        agent.start_again();
        let link = panel.accept();
        assert_eq!(link.path, path.replace("{}", &agent.node_id), "all that some panels read");
        for (name, value) in [
            ("authorization", format!("Bearer {}", agent.secret)),
            ("x-node-id", agent.node_id.clone()),
            ("x-agent-id", agent.node_id.clone()),
            ("user-agent", format!("longshore-agent/{}", env!("CARGO_PKG_VERSION"))),
        ] {
            let values: Vec<_> = link.headers.iter().filter(|(have, _)| have == name).collect();
            assert_eq!(values, [&(name.to_owned(), value)]);
        }
    }
}

#[test]
fn a_connection_begins_in_order_and_what_was_not_delivered_comes_first() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let first = panel.accept();
    // Nothing is known as delivered without a pong.
    first.answer_pings(false);
    first.must("create_server", "s", demo(json!({})));
    first.must("start_server", "s", json!({}));
    first.wait_json("heartbeat", |message| message["type"] == "heartbeat");
    let kinds: Vec<_> = first.messages().iter().map(kind).collect();
    assert_eq!(&kinds[..2], ["system_info", "agent_connected"]);
    let told: Vec<Value> = first.cut().into_iter().filter_map(as_json).collect();

    let second = panel.accept();
    let last = second.wait_event("agent_connected", |data| data["servers"] != json!([]));
    let again = second.messages();
    assert_eq!(again[0]["type"], "system_info");
    let end = again.iter().position(|message| *message == last).expect("it came");
    let kept = |messages: &[Value]| {
        let kept = |message: &&Value| message["seq"].is_u64() || message["type"] == "response";
        messages.iter().filter(kept).cloned().collect::<Vec<_>>()
    };
    assert_eq!(kept(&again[..end]), kept(&told), "the same, in the same order");
    let seqs: Vec<_> = again[..=end].iter().filter_map(|message| message["seq"].as_u64()).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    assert_shape(
        "the last agent_connected",
        &last["data"]["servers"],
        &json!([{"serverId": "s", "status": "running"}]),
    );
    drop(agent);
}

fn as_json(seen: Seen) -> Option<Value> {
    if let Seen::Json(value) = seen { Some(value) } else { None }
}

#[test]
fn a_heartbeat_comes_at_once_and_then_every_thirty_seconds_with_a_ping() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let is_beat = |seen: &Seen| matches!(seen, Seen::Json(message) if message["type"] == "heartbeat");
    let beat = |mark, within| {
        link.wait_from(mark, within, "heartbeat", |seen| {
            is_beat(seen).then(|| (seen.clone(), Instant::now()))
        })
    };
    let (Seen::Json(message), first_at) = beat(0, Duration::from_secs(5)) else { unreachable!() };
    let shape = json!({"nodeId": agent.node_id, "timestamp": "<time>", "status": "online"});
    assert_shape("heartbeat", &message, &json!({"type": "heartbeat", "data": shape, "timestamp": "<time>"}));
    // The ping that asks whether the answer has arrived is the last for a while.
    let mark = link.mark();
    ping_pong(&link);
    let ping = |mark| link.wait_from(mark, SOON, "ping", |seen| matches!(seen, Seen::Ping(_)).then_some(()));
    ping(mark);
    let mark = link.mark();
    let (_, second_at) = beat(mark, Duration::from_secs(40));
    let pause = second_at - first_at;
    assert!((Duration::from_secs(28)..Duration::from_secs(33)).contains(&pause), "{pause:?}");
    ping(mark);
}

#[test]
fn what_is_no_message_is_passed_over_and_told_in_the_log_once() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let nested =
        |depth: usize| format!(r#"{{"type":"command","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    for text in [
        "",
        "not json",
        "[]",
        "7",
        "null",
        "{",
        r#"{"type":"command""#,
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"no_such_type","data":{}}"#,
        "{\"type\":\"\u{1b}[2J\"}",
        &nested(64),
        &nested(10_000),
        &"[".repeat(10_000),
        // As long as a message may be: read, and of no known type.
        &format!(r#"{{"type":"x","data":"{}"}}"#, "x".repeat((16 << 20) - 24)),
    ] {
        link.send_text(text);
    }
    for bytes in [vec![], vec![0; 1 << 20], br#"{"type":"hello"}"#.to_vec()] {
        link.send_binary(bytes);
    }
    ping_pong(&link);
    // The deepest that is allowed: 64 levels with the object itself.
    link.send(&serde_json::from_str(&nested(63)).expect("valid"));
    link.wait_json("an answer", |message| message["error"]["code"] == "INVALID_MESSAGE");
    let replies = link.messages().into_iter().filter(|message| message["type"] == "response").count();
    assert_eq!(replies, 2, "nobody is answered for what was passed over");
    agent.wait_log("skipped");
    let told: Vec<_> = agent.log().into_iter().filter(|line| line.contains("skipped")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(agent.log().iter().all(|line| !line.contains('\u{1b}')));
}

/// The ways of a Panel to be bad.
enum Bad {
    Away,
    InTheHandshake(Behaviour),
    /// Does this on the link, where a Close with this code has to come, and then the end.
    OnTheLink(Option<u16>, fn(&Connection)),
}

/// A frame header of a server: an unmasked text of so many bytes.
fn announce(link: &Connection, bytes: u64) {
    link.send_raw(&[&[0x81, 127][..], &bytes.to_be_bytes()].concat()).expect("the Agent reads");
}

fn raw(link: &Connection, bytes: &[u8]) {
    link.send_raw(bytes).expect("the Agent reads");
}

#[test]
fn a_panel_that_misbehaves_does_not_hurt_the_next_good_connection() {
    use Bad::*;
    let garbage = |bytes: &[u8]| InTheHandshake(Behaviour::Garbage(bytes.into()));
    let cases = [
        (Away, "refused"),
        (InTheHandshake(Behaviour::Refuse(500, vec![])), "refused with 500"),
        (InTheHandshake(Behaviour::Hang), "timed out"),
        (InTheHandshake(Behaviour::HangUp), "upgrade"),
        (garbage(&[0xff; 4096]), "upgrade"),
        (garbage(b"SSH-2.0-x\r\n\r\n"), "upgrade"),
        (OnTheLink(Some(1009), |link| announce(link, 1 << 30)), "too big"),
        (OnTheLink(Some(1009), |link| announce(link, (1 << 63) - 1)), "too big"),
        (OnTheLink(Some(1009), |link| link.send_text(&"x".repeat((16 << 20) + 1))), "too big"),
        (OnTheLink(Some(1002), |link| raw(link, &[0xf1, 1, b'x'])), "protocol"),
        (OnTheLink(Some(1007), |link| raw(link, &[0x81, 2, 0xff, 0xfe])), "UTF-8"),
        (OnTheLink(None, |link| raw(link, &[0x88, 0])), "closed by the peer with 1005"),
    ];
    thread::scope(|scope| {
        for (bad, told) in cases {
            scope.spawn(move || {
                let panel = FakePanel::start();
                match &bad {
                    Away => panel.go_away(),
                    InTheHandshake(behaviour) => panel.behave(behaviour.clone()),
                    OnTheLink(..) => {}
                }
                let mut agent = AgentProcess::start(&panel);
                if let OnTheLink(code, act) = bad {
                    let link = panel.accept();
                    act(&link);
                    if let Some(code) = code {
                        link.wait("Close", |seen| (*seen == Seen::Close(Some(code))).then_some(()));
                    }
                    link.wait_end(SOON);
                }
                let line = agent.wait_log("next dial in");
                assert!(line.contains(told), "{told:?} is not in {line:?}");
                assert!(next_dial(&agent) <= 1.0, "{line}");
                panel.behave(Behaviour::Accept);
                panel.come_back();
                ping_pong(&panel.accept());
                assert_eq!(agent.terminate().code(), Some(0));
            });
        }
    });
}

#[test]
fn a_refusal_decides_when_the_next_dial_comes_and_shows_in_health() {
    let refuse = |status, after: Option<&str>| {
        let headers = after.map(|after| ("retry-after", after.to_owned()));
        Ok(Behaviour::Refuse(status, headers.into_iter().collect()))
    };
    // The log rounds.
    let at_once = 0.2..=1.0;
    let capped = 30.0..=60.0;
    let cases = [
        (refuse(401, None), capped.clone(), "401"),
        (refuse(403, None), capped.clone(), "403"),
        (refuse(401, Some("2")), capped.clone(), "401"),
        (Err(4001), capped.clone(), "4001"),
        (Err(4003), capped, "4003"),
        (refuse(429, Some("100")), 100.0..=101.0, "429"),
        (refuse(503, Some("100")), 100.0..=101.0, "503"),
        (refuse(503, Some("86400")), 600.0..=600.0, "503"),
        (refuse(429, None), at_once.clone(), "429"),
        (refuse(500, Some("100")), at_once.clone(), "500"),
        (refuse(302, None), at_once.clone(), "302"),
        (Err(1012), at_once, "1012"),
    ];
    thread::scope(|scope| {
        for (refusal, expected, told) in cases {
            scope.spawn(move || {
                let panel = FakePanel::start();
                if let Ok(behaviour) = &refusal {
                    panel.behave(behaviour.clone());
                }
                let agent = AgentProcess::start(&panel);
                if let Err(code) = refusal {
                    panel.accept().close(code, "because");
                }
                let wait = next_dial(&agent);
                assert!(expected.contains(&wait), "{told}: {wait} s");
                let shown =
                    |health: &Value| health["trouble"].as_str().is_some_and(|text| text.contains(told));
                if wait > 10.0 {
                    let (status, health) = agent.wait_health(told, shown);
                    assert_eq!((status, &health["connected"]), (503, &json!(false)), "{health}");
                }
            });
        }
        scope.spawn(|| {
            let panel = FakePanel::start();
            panel.behave(Behaviour::Refuse(429, vec![("retry-after", "2".into())]));
            let agent = AgentProcess::start(&panel);
            assert!(panel.wait_attempts(1, SOON));
            let refused = Instant::now();
            panel.behave(Behaviour::Accept);
            panel.accept();
            assert!(refused.elapsed() > Duration::from_millis(1900), "it was asked to wait 2 s");
            drop(agent);
        });
    });
}

#[test]
fn the_secret_is_read_again_at_each_dial() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let bearer = |link: &Connection| link.header("authorization").expect("a secret is sent").to_owned();
    let first = panel.accept();
    assert_eq!(bearer(&first), format!("Bearer {}", agent.secret));
    agent.change_secret("another-secret-0123456789\n");
    first.cut();
    let second = panel.accept();
    assert_eq!(bearer(&second), "Bearer another-secret-0123456789");

    // One that others can read is not used, and the Agent goes on when that is mended.
    let file = agent.data_dir.parent().expect("the test's directory").join("secret");
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    second.cut();
    let line = agent.wait_log("AGENT_SECRET_FILE");
    assert!(line.contains("next dial in") && !line.contains("another-secret"), "{line}");
    mode(0o600);
    panel.accept();
    assert!(agent.log().iter().all(|line| !line.contains("another-secret")));
}

#[test]
fn an_older_panel_is_fenced_off_over_a_restart_of_the_agent() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let hello = |link: &Connection, epoch: Value| link.send(&json!({"type": "hello", "epoch": epoch}));
    link.must("create_server", "s", demo(json!({})));
    for epoch in [json!("8"), json!(-1), json!(1.5), json!(null), json!({})] {
        hello(&link, epoch);
    }
    ping_pong(&link);
    let refused = link.messages().into_iter().filter(|message| code(message) == "INVALID_MESSAGE").count();
    assert_eq!(refused, 5);
    hello(&link, json!(7));
    ping_pong(&link);
    assert_eq!(agent.terminate().code(), Some(0));
    agent.start_again();

    let link = panel.accept();
    let fenced = |link: &Connection| {
        for (action, server) in [("start_server", "s"), ("get_status", "s"), ("system.ping", "")] {
            assert_eq!(code(&link.call(action, server, json!({}))), "WRONG_EPOCH");
        }
        let mark = link.mark();
        link.send(&json!({"type": "server_start", "data": {"serverId": "s"}, "messageId": "m"}));
        let error = link.wait_from(mark, SOON, "legacy error", |seen| match seen {
            Seen::Json(message) if message["type"] == "error" => Some(message.clone()),
            _ => None,
        });
        assert_eq!((&error["data"]["code"], &error["messageId"]), (&json!("WRONG_EPOCH"), &json!("m")));
    };
    fenced(&link);
    hello(&link, json!(6));
    fenced(&link);
    link.send(&json!({"id": "hb", "type": "ping"}));
    link.wait_json("pong", |message| message["type"] == "pong" && message["id"] == "hb");
    assert_eq!(engine().state(&agent.container("s")), "created", "nothing was run");
    hello(&link, json!(7));
    ping_pong(&link);
    link.cut();

    let link = panel.accept();
    hello(&link, json!(8));
    ping_pong(&link);
    hello(&link, json!(7));
    fenced(&link);
    link.cut();
    let link = panel.accept();
    fenced(&link);
    hello(&link, json!(9));
    link.must("start_server", "s", json!({}));
}

#[test]
fn a_proxy_is_asked_for_a_tunnel() {
    let panel = FakePanel::start();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_url = format!("http://user:hunter2@{}", proxy.local_addr().unwrap());
    // The Panel's name is the proxy's to resolve: here it does not exist.
    let environment = [("HTTP_PROXY", proxy_url.as_str()), ("ALLOW_INSECURE", "1")];
    let mut agent = AgentProcess::prepare("ws://panel.test:8080/agent", engine(), &environment);
    agent.start_again();
    let (client_tx, client) = channel();
    thread::spawn(move || client_tx.send(proxy.accept().unwrap().0));
    let mut client = client.recv_timeout(SOON).expect("the proxy is asked");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("CONNECT panel.test:8080 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n"), "{head}");
    assert!(!head.contains(&agent.secret), "the secret is the Panel's alone");
    let mut server = TcpStream::connect(panel.address()).unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || drop(std::io::copy(&mut from, &mut back)));
    thread::spawn(move || drop(std::io::copy(&mut server, &mut client)));
    ping_pong(&panel.accept());

    let direct = AgentProcess::start_with(
        &panel,
        engine(),
        &[("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "10.0.0.0/8,127.0.0.1")],
    );
    assert_eq!(panel.accept().header("x-node-id"), Some(direct.node_id.as_str()));
    assert!(agent.log().iter().all(|line| !line.contains("hunter2")));
}

/// The certificate of a Panel that only its own authority, `ca.pem`, vouches for.
fn tls_config() -> Arc<rustls::ServerConfig> {
    let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name);
    let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

#[test]
fn a_self_signed_panel_is_trusted_through_ca_file_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/agent", listener.local_addr().unwrap());
    let (said_tx, said) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(tls_config()).unwrap();
            // A handshake that the Agent breaks off is the next one's turn.
            let Ok(mut link) = tungstenite::accept(rustls::StreamOwned::new(tls, stream.unwrap())) else {
                continue;
            };
            let ask = json!({"id": "over-tls", "type": "command", "action": "system.ping"});
            link.send(Message::text(ask.to_string())).unwrap();
            while let Ok(message) = link.read() {
                let _ = said_tx.send(message);
            }
        }
    });
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
    let ca = |name| root.join(name).to_str().expect("a readable path").to_owned();
    for stranger in [None, Some(ca("engine-certs/ca.pem"))] {
        let environment: Vec<_> = stranger.iter().map(|file| ("CA_FILE", file.as_str())).collect();
        let mut agent = AgentProcess::prepare(&url, engine(), &environment);
        agent.start_again();
        let line = agent.wait_log("next dial in");
        assert!(line.contains("tls: ") && line.contains("certificate"), "{line}");
    }
    let mut agent = AgentProcess::prepare(&url, engine(), &[("CA_FILE", &ca("tls/ca.pem"))]);
    agent.start_again();
    let mut texts = std::iter::from_fn(|| said.recv_timeout(SOON).ok());
    assert!(texts.any(|message| message.to_text().is_ok_and(|text| text.contains("over-tls"))));
}
