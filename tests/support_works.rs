//! The tests' own tools, tried against themselves: a fake Panel that lies would make every other test worthless.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Behaviour, DEMO_IMAGE, FakePanel, Network, PrivateEngine, SOON, Seen, engine, unique_name};
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::{Error, Message, WebSocket};

fn dial(panel: &FakePanel) -> tungstenite::Result<WebSocket<TcpStream>> {
    let request = format!("{}?nodeId=node-1", panel.url()).into_client_request()?;
    let stream = TcpStream::connect(panel.address())?;
    stream.set_read_timeout(Some(SOON))?;
    tungstenite::client(request, stream).map(|(socket, _)| socket).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => error,
        tungstenite::HandshakeError::Interrupted(_) => Error::Io(ErrorKind::TimedOut.into()),
    })
}

#[test]
fn panel_records_in_order_and_answers_pings_only_while_told_to() {
    let panel = FakePanel::start();
    let mut agent = dial(&panel).unwrap();
    let connection = panel.accept();
    assert_eq!(connection.path, "/agent?nodeId=node-1");
    assert_eq!(connection.header("host"), Some(panel.address().to_string().as_str()));
    agent.send(Message::text(r#"{"type":"heartbeat"}"#)).unwrap();
    agent.send(Message::text("not json")).unwrap();
    agent.send(Message::Ping("a".into())).unwrap();
    assert_eq!(agent.read().unwrap(), Message::Pong("a".into()));
    connection.answer_pings(false);
    agent.send(Message::Ping("b".into())).unwrap();
    connection.wait("the second ping", |seen| (*seen == Seen::Ping(b"b".into())).then_some(()));
    let id = connection.command("get_status", "s1", json!({}));
    // A pong to the second ping would have come before the command.
    let command: Value = serde_json::from_str(agent.read().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(
        command,
        json!({"id": id, "type": "command", "action": "get_status", "serverId": "s1", "payload": {}})
    );
    let seen = [
        Seen::Json(json!({"type": "heartbeat"})),
        Seen::Text("not json".into()),
        Seen::Ping(b"a".into()),
        Seen::Ping(b"b".into()),
    ];
    assert_eq!(connection.seen(), seen);
    connection.close(4001, "replaced");
    let Message::Close(Some(frame)) = agent.read().unwrap() else { panic!("a close frame comes") };
    assert_eq!(u16::from(frame.code), 4001);
    assert!(matches!(agent.read(), Err(Error::ConnectionClosed)));
    connection.wait_end(SOON);
}

#[test]
fn panel_cuts_with_a_reset() {
    let panel = FakePanel::start();
    let mut agent = dial(&panel).unwrap();
    let connection = panel.accept();
    connection.cut();
    let error = agent.read().unwrap_err();
    assert!(
        matches!(&error, Error::Io(error) if error.kind() == ErrorKind::ConnectionReset)
            || matches!(error, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)),
        "{error:?}"
    );
}

#[test]
fn panel_that_stops_reading_blocks_the_writer_until_it_reads_again() {
    let panel = FakePanel::start();
    let mut agent = dial(&panel).unwrap();
    let connection = panel.accept();
    connection.stop_reading();
    agent.get_mut().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let message = Message::text("x".repeat(1 << 20));
    let mut sent = 0;
    while agent.send(message.clone()).is_ok() {
        sent += 1;
        assert!(sent < 64, "64 MiB went into a connection that nobody reads");
    }
    assert_eq!(connection.mark(), 0);
    connection.resume_reading();
    agent.get_mut().set_write_timeout(None).unwrap();
    agent.flush().unwrap();
    connection.wait_from(0, SOON, "everything", {
        let mut texts = 0;
        move |seen| {
            texts += u32::from(matches!(seen, Seen::Text(_)));
            (texts > sent).then_some(())
        }
    });
}

#[test]
fn panel_refuses_goes_away_and_comes_back_on_the_same_port() {
    let panel = FakePanel::start();
    panel.behave(Behaviour::Refuse(503, vec![("retry-after", "7".into())]));
    let Err(Error::Http(response)) = dial(&panel) else { panic!("the handshake is refused") };
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"7".parse().unwrap())
    );
    panel.behave(Behaviour::HangUp);
    assert!(dial(&panel).is_err());
    panel.behave(Behaviour::Garbage(b"SSH-2.0-OpenSSH\r\n".into()));
    assert!(dial(&panel).is_err());
    panel.behave(Behaviour::Accept);
    let mut standing = dial(&panel).unwrap();
    let connection = panel.accept();
    panel.go_away();
    assert_eq!(TcpStream::connect(panel.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    connection.send_text("still here");
    assert_eq!(standing.read().unwrap(), Message::text("still here"));
    panel.come_back();
    dial(&panel).unwrap();
    assert!(panel.wait_attempts(5, SOON));
}

#[test]
fn panel_holds_a_handshake_without_an_answer() {
    let panel = FakePanel::start();
    panel.behave(Behaviour::Hang);
    let stream = TcpStream::connect(panel.address()).unwrap();
    assert!(panel.wait_attempts(1, SOON));
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = std::io::Read::read(&mut &stream, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn network_loses_packets_without_a_word_and_finds_them_again() {
    let network = Network::new();
    let panel = FakePanel::start_at(network.here());
    let mut agent = network.command("bash");
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; read -t 0.3 -u 3 _; cat <&3",
        network.here(),
        panel.address().port()
    );
    let agent = agent.args(["-c", &script]).stdout(Stdio::piped());
    panel.behave(Behaviour::Hang);
    let mut child = agent.spawn().unwrap();
    assert!(panel.wait_attempts(1, SOON));
    let mut stream = panel.take_hanging();
    network.lose_everything();
    stream.write_all(b"lost\n").unwrap();
    drop(stream);
    let mut output = child.stdout.take().unwrap();
    let (line_tx, line) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        line_tx.send(text).unwrap();
    });
    assert!(line.recv_timeout(Duration::from_millis(500)).is_err(), "nothing arrives, not even the end");
    network.lose_nothing();
    assert!(line.recv_timeout(SOON).is_ok(), "the kernel sends it again");
    reader.join().unwrap();
    child.wait().unwrap();
}

#[test]
fn engine_runs_the_demo_image_and_keeps_others_apart() {
    let engine = engine();
    assert_eq!(engine.call("GET", &format!("/images/{DEMO_IMAGE}/json"), None).0, 200);
    let name = unique_name();
    engine.run_foreign(&name, json!({"Cmd": ["/bin/sh", "-c", "exec /demo-server say ahoy"]}));
    assert_eq!(engine.state(&name), "running");
    assert_eq!(engine.list(&format!("longshore.test={name}")).len(), 1);
    engine.wait_output(&name, "[Server] ahoy");
    engine.must("POST", &format!("/containers/{name}/stop"), None);
    assert_eq!(engine.inspect(&name).unwrap()["State"]["ExitCode"], 0);
    engine.remove(&name);
    assert_eq!(engine.state(&name), "gone");
}

#[test]
fn private_engine_dies_in_every_way_and_comes_back_with_its_containers() {
    let engine = PrivateEngine::start();
    let name = unique_name();
    engine.run_foreign(&name, json!({}));
    let pid = |engine: &PrivateEngine| engine.inspect(&name).unwrap()["State"]["Pid"].as_u64().unwrap();
    let start = |engine: &PrivateEngine| engine.must("POST", &format!("/containers/{name}/start"), None);

    engine.terminate();
    assert!(!engine.answers());
    engine.start_again();
    assert_eq!(engine.state(&name), "exited");

    start(&engine);
    let process = format!("/proc/{}", pid(&engine));
    engine.kill();
    assert!(!engine.answers() && runs(&process), "the container outlives its dockerd");
    engine.start_again();
    assert!(engine.answers());

    start(&engine);
    let process = format!("/proc/{}", pid(&engine));
    engine.cut();
    assert!(!runs(&process), "a power cut ends the container too");
    engine.start_again();
    assert_eq!(engine.state(&name), "exited");
}

/// Whether a process of this `/proc` directory lives; a zombie that nobody has reaped yet does not.
fn runs(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains(['Z', 'X']))
}
