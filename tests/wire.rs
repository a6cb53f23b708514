//! The wire contract, text by text: what each dialect's messages are read as, and how every reply and event is written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore::protocol::event::{KnownServer, Progress, StatusChange};
use longshore::protocol::outcome::{
    Disk, Memory, Network, Resources, ServerCount, ServerReply, ServerReport, Share, SystemInfo,
    SystemMetrics,
};
use longshore::protocol::panel_side::{self, AgentConnected, FromAgent};
use longshore::protocol::spec::{Port, Protocol, Rules};
use longshore::protocol::{
    Action, Code, Command, Decoder, Dialect, Envelope, Event, Fault, Incoming, MAX_IN, MAX_OUT, Outcome,
    Reason, Rejected, Reply, ServerAction, ServerId, Skip, Status, capabilities, encode_outcome, http,
    legacy, unified,
};
use serde_json::{Value, json};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_753_351_200_123)
}

fn decoder() -> Decoder {
    Decoder::new("node-1".parse().unwrap(), Rules::default())
}

fn server(id: &str) -> ServerId {
    id.parse().unwrap()
}

fn read(message: &Value) -> Result<Result<Incoming, Rejected>, Skip> {
    decoder().message(&message.to_string())
}

/// A message that is a command.
fn command(message: Value) -> Command {
    match read(&message) {
        Ok(Ok(Incoming::Command(command))) => command,
        other => panic!("{message}: {other:?}"),
    }
}

/// The answer to a message that is refused.
fn refused(message: Value) -> (Rejected, Value) {
    match read(&message) {
        Ok(Err(rejected)) => {
            let answer = encode_outcome(&rejected.envelope, &Err(rejected.fault.clone()), now()).unwrap();
            (rejected, serde_json::from_str(&answer).unwrap())
        }
        other => panic!("{message}: {other:?}"),
    }
}

fn unified_command(action: &str, payload: Value) -> Value {
    json!({"id":"cmd_123","type":"command","action":action,"serverId":"server_456","payload":payload})
}

fn report() -> ServerReport {
    ServerReport {
        server_id: server("s1"),
        status: Status::Running,
        container_id: Some("c0ffee".into()),
        uptime: 61,
        exit_code: None,
        resources: Resources {
            cpu: 12.345_678,
            memory: Memory { used: 1024, limit: 2048, percentage: 50.0 },
            network: Network { rx: 1, tx: 2 },
            disk: Disk { used: 3 },
            pids: 4,
        },
        name: Some("Lobby".into()),
        image: "demo:1".into(),
        ports: vec![Port { internal: 25565, external: 30000, protocol: Protocol::Tcp, ip: None }],
    }
}

fn metrics() -> SystemMetrics {
    SystemMetrics {
        cpu: 25.5,
        memory: Share { total: 100, used: 65, percentage: 65.2 },
        disk: Share { total: 10, used: 4, percentage: 40.1 },
        load: [0.5, 0.25, 0.0],
        network: Network { rx: 7, tx: 8 },
        uptime: 99,
        servers: ServerCount { total: 4, running: 3 },
    }
}

fn unified(id: Option<&str>, outcome: Outcome) -> String {
    encode_outcome(&Envelope::Unified { id: id.map(str::to_owned) }, &outcome, now()).unwrap()
}

fn over_http(outcome: Outcome) -> String {
    encode_outcome(&Envelope::Http { id: None }, &outcome, now()).unwrap()
}

// ---- what is read ------------------------------------------------------------------------------------------------

#[test]
fn the_contracts_own_command_is_read() {
    let got =
        command(json!({"id":"cmd_123","type":"command","action":"start_server","serverId":"server_456",
        "timestamp":"2025-07-24T10:00:00Z","agentId":"node-1","payload":{}}));
    assert_eq!(got.envelope, Envelope::Unified { id: Some("cmd_123".into()) });
    assert_eq!(got.action, Action::Server(server("server_456"), ServerAction::Start));
    assert_eq!(got.key.unwrap().id, "cmd_123");
    let bare = command(
        json!({"type":"command","action":"start_server","serverId":"server_456","timestamp":[],"x":1}),
    );
    assert_eq!((bare.envelope, bare.key), (Envelope::Unified { id: None }, None));
}

#[test]
fn every_action_and_its_other_names_are_read_the_same() {
    let check = |name: &str, payload: Value, canonical: &str, read: bool| {
        let got = command(unified_command(name, payload));
        assert_eq!((got.action.name(), got.is_read()), (canonical, read), "{name}");
        assert_eq!(got.key.is_some(), !read, "{name}: what changes something is remembered");
        assert!(capabilities().contains(&name));
    };
    check("create_server", json!({"image":"x"}), "create_server", false);
    check("update_server", json!({"name":"x"}), "update_server", false);
    for name in [
        "start_server",
        "stop_server",
        "restart_server",
        "kill_server",
        "delete_server",
        "suspend_server",
        "unsuspend_server",
    ] {
        check(name, json!({}), name, false);
    }
    check("get_status", json!({}), "get_status", true);
    check("get_server_status", json!({}), "get_status", true);
    check("list_servers", json!({}), "list_servers", true);
    check("get_server_logs", json!({"lines":5}), "get_server_logs", true);
    check("console:history", json!({}), "console:history", true);
    check("console:status", json!({}), "console:status", true);
    check("console:download", json!({"format":"json"}), "console:download", true);
    for name in ["send_server_command", "console:command"] {
        check(name, json!({"command":"say hi"}), "send_server_command", false);
    }
    check("console:input", json!({"input":"\u{3}"}), "console:input", false);
    check("console:connect", json!({"since":5,"bootId":"b"}), "console:connect", false);
    for name in ["console:interrupt", "console:disconnect", "console:clear"] {
        check(name, json!({}), name, false);
    }
    let archive = json!({"files":["world"],"archivePath":"a.zip","format":"zip"});
    check("create_archive", archive.clone(), "create_archive", false);
    check("extract_archive", archive, "extract_archive", false);
    check("install_mod", json!({"name":"m","downloadUrl":"https://h/m.jar"}), "install_mod", false);
    check("uninstall_mod", json!({"modId":"m"}), "uninstall_mod", false);
    check("list_mods", json!({}), "list_mods", true);
    check("docker.list", json!({}), "list_servers", true);
    check("get_system_metrics", json!({}), "get_system_metrics", true);
    check("system.status", json!({}), "get_system_metrics", true);
    check("system.ping", json!({}), "system.ping", true);
    let container = json!({"containerId":"/longshore-node-1-s1"});
    check("docker.start", container.clone(), "docker.start", false);
    check("docker.stop", container.clone(), "docker.stop", false);
    check("docker.remove", container.clone(), "docker.remove", false);
    check("docker.inspect", container, "docker.inspect", true);
}

#[test]
fn options_reach_the_action() {
    let action = |name: &str, payload: Value| match command(unified_command(name, payload)).action {
        Action::Server(_, action) => action,
        other => panic!("{other:?}"),
    };
    for name in ["stop_server", "restart_server"] {
        let (ServerAction::Stop(options) | ServerAction::Restart(options)) =
            action(name, json!({"signal":"int","timeout":3}))
        else {
            panic!("{name}")
        };
        assert_eq!(
            (options.signal.as_deref(), options.timeout),
            (Some("SIGINT"), Some(Duration::from_secs(3)))
        );
    }
    assert_eq!(
        action("delete_server", json!({"removeData":true})),
        ServerAction::Delete { remove_data: true }
    );
    assert_eq!(action("delete_server", json!(null)), ServerAction::Delete { remove_data: false });
    let ServerAction::Create(create) =
        action("create_server", json!({"eggConfig":{"image":"x"},"keepData":true}))
    else {
        panic!()
    };
    assert!(create.keep_data && !create.skip_scripts && create.spec.image == "x");
    let got = command(
        json!({"type":"command","action":"docker.stop","payload":{"containerId":"/abc","timeout":1}}),
    );
    let Action::Container(name, ServerAction::Stop(options)) = got.action else { panic!() };
    assert_eq!((name.as_str(), options.timeout), ("abc", Some(Duration::from_secs(1))));
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let check = |message: Value, code: &str, start: &str| {
        let (_, answer) = refused(message.clone());
        assert_eq!(answer["type"], "response");
        assert_eq!(answer["success"], false);
        assert_eq!(answer["error"]["code"], code, "{message}: {answer}");
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.starts_with(start), "{message}: {answer}");
        answer
    };
    let answer = check(unified_command("make_coffee", json!({})), "UNKNOWN_ACTION", "make_coffee");
    assert_eq!(answer["id"], "cmd_123");
    check(unified_command("install_mod", json!({"modId":"x"})), "INVALID_PAYLOAD", "modUrl");
    check(json!({"type":"command","id":"1"}), "INVALID_MESSAGE", "action");
    check(json!({"type":"command","id":"1","action":5}), "INVALID_MESSAGE", "action");
    check(
        json!({"type":"command","action":"start_server","agentId":"node-2","serverId":"s"}),
        "WRONG_AGENT",
        "agentId",
    );
    check(json!({"type":"command","action":"nope","agentId":"node-2"}), "WRONG_AGENT", "agentId");
    check(
        json!({"type":"command","action":"start_server","agentId":7,"serverId":"s"}),
        "INVALID_MESSAGE",
        "agentId",
    );
    for id in [json!(5), json!(true), json!({}), json!("x".repeat(129)), json!("\u{1}".repeat(129))] {
        let answer = check(json!({"type":"command","id":id,"action":"system.ping"}), "INVALID_MESSAGE", "id");
        assert_eq!(answer.get("id"), None);
    }
    for id in
        [json!(null), json!(""), json!(7), json!("-x"), json!("../x"), json!("x".repeat(65)), json!("a b")]
    {
        check(json!({"type":"command","action":"start_server","serverId":id}), "INVALID_PAYLOAD", "serverId");
    }
    check(
        json!({"type":"command","action":"start_server","serverId":"a","payload":{"serverId":"b"}}),
        "INVALID_PAYLOAD",
        "serverId",
    );
    for payload in [json!([]), json!("x"), json!(1)] {
        check(unified_command("start_server", payload), "INVALID_PAYLOAD", "payload");
    }
    check(unified_command("create_server", json!({})), "INVALID_PAYLOAD", "image");
    check(unified_command("create_server", json!({"image":"x","keepData":1})), "INVALID_PAYLOAD", "keepData");
    check(
        unified_command("create_server", json!({"image":"x","install":{"image":"y","script":"z"}})),
        "INVALID_PAYLOAD",
        "install",
    );
    check(unified_command("stop_server", json!({"signal":"SIGFOO"})), "INVALID_PAYLOAD", "signal");
    check(unified_command("stop_server", json!({"timeout":3601})), "INVALID_PAYLOAD", "timeout");
    check(unified_command("delete_server", json!({"removeData":"yes"})), "INVALID_PAYLOAD", "removeData");
    check(unified_command("update_server", json!({})), "INVALID_PAYLOAD", "payload");
    check(json!({"type":"command","action":"docker.stop"}), "INVALID_PAYLOAD", "containerId");
    check(
        json!({"type":"command","action":"docker.stop","payload":{"containerId":"a/../b"}}),
        "INVALID_PAYLOAD",
        "containerId",
    );
    check(json!({"type":"hello"}), "INVALID_MESSAGE", "epoch");
    check(json!({"type":"hello","epoch":-1}), "INVALID_MESSAGE", "epoch");
}

#[test]
fn a_name_given_twice_is_refused_at_every_level() {
    let check = |text: &str, code: Code, start: &str| {
        let rejected = decoder().message(text).unwrap().unwrap_err();
        assert_eq!(rejected.fault.code, code, "{text}");
        assert!(rejected.fault.message.starts_with(start), "{text}: {}", rejected.fault);
    };
    check(
        r#"{"type":"command","action":"start_server","serverId":"a","serverId":"b"}"#,
        Code::InvalidMessage,
        "serverId: ",
    );
    check(r#"{"type":"command","type":"hello","action":"system.ping"}"#, Code::InvalidMessage, "type: ");
    check(
        r#"{"type":"command","action":"create_server","serverId":"a","payload":{"image":"x","image":"y"}}"#,
        Code::InvalidPayload,
        "image: ",
    );
    check(
        r#"{"type":"command","action":"create_server","serverId":"a","payload":{"image":"x","environment":{"A":"1","\u0041":"2"}}}"#,
        Code::InvalidPayload,
        "A: ",
    );
    check(
        r#"{"type":"server_start","data":{"serverId":"a","serverId":"b"}}"#,
        Code::InvalidPayload,
        "serverId: ",
    );
}

#[test]
fn the_same_content_has_the_same_identity() {
    let key = |message: &str| match decoder().message(message) {
        Ok(Ok(Incoming::Command(command))) => command.key.map(|key| key.content),
        other => panic!("{message}: {other:?}"),
    };
    let base = key(
        r#"{"id":"1","type":"command","action":"create_server","serverId":"s","payload":{"image":"x","tty":true}}"#,
    );
    assert!(base.is_some());
    for same in [
        r#"{"payload":{ "tty":true, "image":"\u0078"},"serverId":"s","action":"create_server","type":"command","id":"1"}"#,
        r#"{"id":"1","type":"command","action":"create_server","payload":{"serverId":"s","image":"x","tty":true},"timestamp":"z"}"#,
    ] {
        assert_eq!(key(same), base);
    }
    for other in [
        r#"{"id":"1","type":"command","action":"create_server","serverId":"t","payload":{"image":"x","tty":true}}"#,
        r#"{"id":"1","type":"command","action":"create_server","serverId":"s","payload":{"image":"x"}}"#,
        r#"{"id":"1","type":"command","action":"update_server","serverId":"s","payload":{"image":"x","tty":true}}"#,
    ] {
        assert_ne!(key(other), base);
    }
    assert_eq!(key(r#"{"id":"","type":"command","action":"start_server","serverId":"s"}"#), None);
    let http = |body: &str| decoder().http(body.as_bytes()).unwrap().unwrap().key.unwrap().content;
    let older = http(r#"{"id":"1","action":"create_server","data":{"serverId":"s","image":"x","tty":true}}"#);
    assert_eq!(Some(older), base, "the dialect is no part of a command");
}

#[test]
fn texts_that_are_no_message_are_passed_over() {
    let check = |text: &str, skip: Skip| assert_eq!(decoder().message(text), Err(skip), "{:.60}", text);
    let unknown = |kind: &str| Skip::UnknownType(kind.to_owned());
    check("", Skip::NotJson);
    check("{", Skip::NotJson);
    check("hello", Skip::NotJson);
    check("{} {}", Skip::NotJson);
    check("\u{0}", Skip::NotJson);
    check("[]", Skip::NotAnObject);
    check("\"command\"", Skip::NotAnObject);
    check("17", Skip::NotAnObject);
    check("null", Skip::NotAnObject);
    check("{}", unknown(""));
    check(r#"{"type":5}"#, unknown(""));
    check(r#"{"type":"coffee\n"}"#, unknown("coffee\\n"));
    check(r#"{"action":"start_server","serverId":"s"}"#, unknown(""));
    check(&format!(r#"{{"type":"{}"}}"#, "x".repeat(500)), unknown(&"x".repeat(64)));
    let deep =
        |levels: usize| format!(r#"{{"type":"pong","x":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(decoder().message(&deep(63)), Ok(Ok(Incoming::Pong)));
    check(&deep(64), Skip::TooDeep);
    check(&deep(10_000), Skip::TooDeep);
    check(&"[".repeat(10_000), Skip::TooDeep);
    check(&" ".repeat(MAX_IN + 1), Skip::TooLarge);
}

#[test]
fn large_messages_are_cheap_to_refuse() {
    let message = |payload: &str| {
        let text = format!(
            r#"{{"id":"1","type":"command","action":"create_server","serverId":"s","payload":{payload}}}"#
        );
        assert!(text.len() <= MAX_IN);
        decoder().message(&text).unwrap().unwrap_err().fault
    };
    let room = MAX_IN - 200;
    let fault = message(&format!(r#"{{"x":[{}0]}}"#, "0,".repeat(room / 2)));
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (Code::InvalidPayload, "payload: expected at most 65536 values")
    );
    let fault = message(&format!(r#"{{"image":"{}"}}"#, "x".repeat(room)));
    assert!(fault.message.starts_with("image: "), "{fault}");
    assert!(fault.message.len() < 200);
}

#[test]
fn what_is_no_command_is_told_apart() {
    let spoken = |message: Value| match read(&message) {
        Ok(Ok(Incoming::Command(command))) => (command.envelope.dialect(), command.envelope.shows_dialect()),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(&json!({"type":"hello","epoch":7})), Ok(Ok(Incoming::Hello { epoch: 7 })));
    let ack = Incoming::Ack { boot_id: "b".into(), seq: 7 };
    assert_eq!(read(&json!({"type":"ack","bootId":"b","seq":7})), Ok(Ok(ack)));
    for (wrong, field) in
        [(json!({"type":"ack","seq":7}), "bootId"), (json!({"type":"ack","bootId":"b"}), "seq")]
    {
        let Ok(Err(rejected)) = read(&wrong) else { panic!("{wrong}") };
        assert_eq!(rejected.fault.code, Code::InvalidMessage);
        assert!(rejected.fault.message.starts_with(field), "{}", rejected.fault.message);
    }
    assert_eq!(read(&json!({"type":"ping","id":"hb_1"})), Ok(Ok(Incoming::Ping { id: Some("hb_1".into()) })));
    assert_eq!(read(&json!({"type":"ping"})), Ok(Ok(Incoming::Ping { id: None })));
    assert_eq!(spoken(json!({"type":"system_info_request"})), (Dialect::Legacy, false));
    assert_eq!(spoken(json!({"type":"server_start","data":{"serverId":"s"}})), (Dialect::Legacy, true));
    assert_eq!(spoken(unified_command("system.ping", json!({}))), (Dialect::Unified, true));
}

// ---- legacy ------------------------------------------------------------------------------------------------------

#[test]
fn legacy_messages_are_the_same_commands() {
    let check = |kind: &str, data: Value, name: &str| {
        let got = command(json!({"type":kind,"data":data,"messageId":"m1"}));
        assert_eq!(got.action.name(), name, "{kind}");
        assert_eq!(got.key, None, "{kind}: legacy messages are never remembered");
        let Envelope::Legacy { message_id, server, .. } = got.envelope else { panic!("{kind}") };
        assert_eq!(message_id.as_deref(), Some("m1"));
        assert_eq!(server.is_some(), kind != "system_info_request");
    };
    check("system_info_request", json!(null), "system_info_request");
    let create = json!({"serverId":"s","image":"x","startup":"run {{A}}","environment":{"A":1},"limits":{"memory":1024},"ports":{"80":8080}});
    check("server_create", create.clone(), "create_server");
    let ServerAction::Create(create) = (match command(json!({"type":"server_create","data":create})).action {
        Action::Server(_, action) => action,
        other => panic!("{other:?}"),
    }) else {
        panic!()
    };
    assert_eq!((create.spec.limits.memory, create.spec.server_port), (Some(1 << 30), Some(80)));
    let data = json!({"serverId":"s"});
    check("server_start", data.clone(), "start_server");
    check("server_stop", data.clone(), "stop_server");
    check("server_restart", data.clone(), "restart_server");
    check("server_delete", data.clone(), "delete_server");
    check("server_suspend", data.clone(), "suspend_server");
    check("server_unsuspend", data, "unsuspend_server");
    check("server_update", json!({"serverId":"s","limits":{"memory":512}}), "update_server");
    for (word, name) in [
        ("start", "start_server"),
        ("stop", "stop_server"),
        ("restart", "restart_server"),
        ("kill", "kill_server"),
    ] {
        check("server_power", json!({"serverId":"s","action":word}), name);
    }
}

#[test]
fn legacy_faults_are_errors_that_name_the_server() {
    let check = |message: Value, error: Value| {
        let (_, answer) = refused(message.clone());
        assert_eq!(answer["type"], "error", "{message}");
        assert_eq!(answer["data"], error, "{message}");
        answer
    };
    let power = "action: expected start, stop, restart or kill";
    let answer = check(
        json!({"type":"server_power","messageId":"m","data":{"serverId":"s","action":"fly"}}),
        json!({"code":"INVALID_PAYLOAD","message":power,"serverId":"s"}),
    );
    assert_eq!(answer["messageId"], "m");
    check(json!({"type":"server_power"}), json!({"code":"INVALID_PAYLOAD","message":power}));
    check(json!({"type":"server_start"}), json!({"code":"INVALID_PAYLOAD","message":"serverId: missing"}));
    check(
        json!({"type":"server_start","messageId":1,"data":{"serverId":"s"}}),
        json!({"code":"INVALID_MESSAGE","message":"messageId: expected a text of at most 128 bytes","serverId":"s"}),
    );
    let path = "path: missing; expected a text";
    for file in ["file_read", "file_write"] {
        check(
            json!({"type":file,"data":{"serverId":"s"}}),
            json!({"code":"INVALID_PAYLOAD","message":path,"serverId":"s"}),
        );
    }
    let (rejected, _) = refused(json!({"type":"server_reinstall","data":{"serverId":"s"}}));
    assert_eq!(rejected.fault.code, Code::UnknownAction);
}

#[test]
fn legacy_replies_are_the_status_itself() {
    let envelope = |message: Value| command(message).envelope;
    let start = envelope(json!({"type":"server_start","data":{"serverId":"s1"},"messageId":"m1"}));
    let mut reply = ServerReply::new(server("s1"), Status::Running, "Server started successfully");
    reply.container_id = Some("c0ffee".into());
    let reply: Outcome = Ok(Reply::Server(Box::new(reply)));
    assert_eq!(
        encode_outcome(&start, &reply, now()).unwrap(),
        r#"{"type":"server_status","data":{"serverId":"s1","status":"running"},"messageId":"m1","timestamp":"2025-07-24T10:00:00.123Z"}"#
    );
    let bare = envelope(json!({"type":"server_start","data":{"serverId":"s1"}}));
    assert_eq!(
        encode_outcome(&bare, &Err(Fault::new(Code::ServerNotFound, "There is no such server")), now())
            .unwrap(),
        r#"{"type":"error","data":{"code":"SERVER_NOT_FOUND","message":"There is no such server","serverId":"s1"},"timestamp":"2025-07-24T10:00:00.123Z"}"#
    );
    let info = envelope(json!({"type":"system_info_request","messageId":"q"}));
    let info = encode_outcome(&info, &Ok(Reply::SystemInfo(Box::default())), now()).unwrap();
    assert!(info.starts_with(r#"{"type":"system_info","data":{"nodeId":"","os":"""#), "{info}");
    assert!(info.ends_with(r#""messageId":"q","timestamp":"2025-07-24T10:00:00.123Z"}"#), "{info}");
    let silent = Envelope::Legacy {
        message_id: None,
        request: longshore::protocol::command::LegacyRequest::Silent,
        server: None,
    };
    assert_eq!(encode_outcome(&silent, &reply, now()), None);
    assert!(encode_outcome(&silent, &Err(Fault::new(Code::ServerNotRunning, "x")), now()).is_some());
}

#[test]
fn what_legacy_panels_hear_unasked() {
    let at = r#""timestamp":"2025-07-24T10:00:00.123Z"}"#;
    assert_eq!(
        legacy::encode_heartbeat(&"node-1".parse().unwrap(), now()),
        format!(
            r#"{{"type":"heartbeat","data":{{"nodeId":"node-1","timestamp":"2025-07-24T10:00:00.123Z","status":"online"}},{at}"#
        )
    );
    let info = SystemInfo {
        node_id: "node-1".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        memory: 8,
        cpu: "CPU".into(),
        docker_version: Some("20.10.24".into()),
        capabilities: vec!["start_server"],
        networks: vec!["eth0".into()],
        cpu_count: 2,
        total_memory: 8,
        free_memory: 4,
        total_disk: 16,
        free_disk: 1,
        uptime: 5,
        platform: "Debian 12".into(),
    };
    assert_eq!(
        legacy::encode_system_info(&info, now()),
        format!(
            r#"{{"type":"system_info","data":{{"nodeId":"node-1","os":"linux","arch":"x86_64","memory":8,"cpu":"CPU","dockerVersion":"20.10.24","capabilities":["start_server"],"networks":["eth0"],"cpuCount":2,"totalMemory":8,"freeMemory":4,"totalDisk":16,"freeDisk":1,"uptime":5,"platform":"Debian 12"}},{at}"#
        )
    );
    assert_eq!(
        legacy::encode_status(&server("s1"), Status::Stopped, now()),
        format!(r#"{{"type":"server_status","data":{{"serverId":"s1","status":"stopped"}},{at}"#)
    );
    assert_eq!(
        legacy::encode_event(&Event::ServerStatusChanged(crash()), now()).unwrap(),
        format!(
            r#"{{"type":"server_status","data":{{"serverId":"s1","status":"crashed","error":"The server ran out of memory (exit code 137)"}},{at}"#
        )
    );
    let gap = |server_id| Event::StreamGap { server_id, stream: "stdout", lines: 312, bytes: 9, seqs: None };
    assert_eq!(
        legacy::encode_event(&gap(Some(server("s1"))), now()).unwrap(),
        format!(
            r#"{{"type":"server_output","data":{{"serverId":"s1","output":"312 lines were dropped here","stream":"system","timestamp":"2025-07-24T10:00:00.123Z"}},{at}"#
        )
    );
    assert_eq!(legacy::encode_event(&gap(None), now()), None);
    assert_eq!(legacy::encode_event(&Event::AgentStopping, now()), None);
}

fn crash() -> StatusChange {
    StatusChange {
        server_id: server("s1"),
        previous_status: Status::Running,
        current_status: Status::Crashed,
        reason: Some(Reason::Oom),
        exit_code: Some(137),
        oom_killed: Some(true),
        pid: None,
        command_id: None,
    }
}

// ---- unified and HTTP --------------------------------------------------------------------------------------------

#[test]
fn unified_responses() {
    let mut reply = ServerReply::new(server("server_456"), Status::Running, "Server started successfully");
    let ok = |reply: &ServerReply| -> Outcome { Ok(Reply::Server(Box::new(reply.clone()))) };
    assert_eq!(
        unified(Some("cmd_123"), ok(&reply)),
        r#"{"id":"cmd_123","type":"response","timestamp":"2025-07-24T10:00:00.123Z","success":true,"message":"Server started successfully","data":{"serverId":"server_456","status":"running"}}"#
    );
    assert_eq!(
        unified(Some("cmd_123"), Err(Fault::new(Code::ContainerNotFound, "Container not found"))),
        r#"{"id":"cmd_123","type":"response","timestamp":"2025-07-24T10:00:00.123Z","success":false,"error":{"code":"CONTAINER_NOT_FOUND","message":"Container not found"}}"#
    );
    reply.container_id = Some("c0ffee".into());
    reply.pid = Some(7);
    reply.exit_code = Some(-1);
    reply.killed = Some(true);
    reply.applied = Some(vec!["limits.memory"]);
    reply.needs_restart = Some(false);
    let text = unified(None, ok(&reply));
    assert!(text.starts_with(r#"{"type":"response","timestamp""#), "a missing id stays missing: {text}");
    assert!(text.ends_with(r#""data":{"serverId":"server_456","status":"running","containerId":"c0ffee","pid":7,"exitCode":-1,"killed":true,"applied":["limits.memory"],"needsRestart":false}}"#), "{text}");
    assert!(unified(Some(""), ok(&reply)).starts_with(r#"{"id":"","type""#), "an empty one stays empty");
}

#[test]
fn data_of_the_reads() {
    let resources = r#""resources":{"cpu":12.35,"memory":{"used":1024,"limit":2048,"percentage":50.0},"network":{"rx":1,"tx":2},"disk":{"used":3},"pids":4}"#;
    let head =
        format!(r#""serverId":"s1","status":"running","containerId":"c0ffee","uptime":61,{resources}"#);
    let full = format!(
        r#"{{{head},"name":"Lobby","image":"demo:1","ports":[{{"internal":25565,"external":30000,"protocol":"tcp"}}]}}"#
    );
    let check = |reply: Reply, data: &str| {
        let outcome = Ok(reply);
        let text = unified(Some("1"), outcome.clone());
        assert_eq!(
            text,
            format!(
                r#"{{"id":"1","type":"response","timestamp":"2025-07-24T10:00:00.123Z","success":true,"data":{data}}}"#
            )
        );
        assert_eq!(over_http(outcome), format!(r#"{{"success":true,"data":{data}}}"#));
    };
    check(Reply::Status(Box::new(report())), &format!(r#"{{{head},"server":{full}}}"#));
    check(Reply::Servers(vec![report(), report()]), &format!(r#"{{"servers":[{full},{full}],"count":2}}"#));
    check(Reply::Servers(Vec::new()), r#"{"servers":[],"count":0}"#);
    check(Reply::Pong, r#"{"message":"pong","timestamp":"2025-07-24T10:00:00.123Z"}"#);
    check(
        Reply::SystemMetrics(Box::new(metrics())),
        r#"{"cpu":25.5,"memory":{"total":100,"used":65,"percentage":65.2},"disk":{"total":10,"used":4,"percentage":40.1},"load":[0.5,0.25,0.0],"network":{"rx":7,"tx":8},"uptime":99,"servers":{"total":4,"running":3}}"#,
    );
    let gone = ServerReport { container_id: None, exit_code: Some(1), name: None, ..report() };
    let text = over_http(Ok(Reply::Status(Box::new(gone))));
    assert!(
        text.contains(r#""containerId":null,"uptime":61,"exitCode":1,"#) && text.contains(r#""name":null"#),
        "{text}"
    );
}

#[test]
fn http_answers() {
    let mut reply = ServerReply::new(server("s1"), Status::Stopping, "Server is stopping");
    reply.pending = Some(true);
    assert_eq!(
        over_http(Ok(Reply::Server(Box::new(reply)))),
        r#"{"success":true,"message":"Server is stopping","data":{"serverId":"s1","status":"stopping","pending":true}}"#
    );
    assert_eq!(
        over_http(Err(Fault::new(Code::ServerNotFound, "There is no such server"))),
        r#"{"success":false,"error":"There is no such server","code":"SERVER_NOT_FOUND"}"#
    );
    assert_eq!(
        http::encode_error(Code::InvalidMessage, "not JSON"),
        r#"{"success":false,"error":"not JSON","code":"INVALID_MESSAGE"}"#
    );
}

#[test]
fn http_requests() {
    let read = |body: &str| decoder().http(body.as_bytes());
    let stop = |body: &str| {
        let got = read(body).unwrap().unwrap();
        assert_eq!(got.envelope.dialect(), Dialect::Http);
        let Action::Server(id, ServerAction::Stop(options)) = got.action else { panic!("{body}") };
        assert_eq!((id, options.timeout), (server("s"), Some(Duration::from_secs(1))));
        got.key.is_some()
    };
    assert!(stop(r#"{"action":"stop_server","serverId":"s","payload":{"timeout":1},"id":"1"}"#));
    assert!(!stop(r#"{"action":"stop_server","data":{"serverId":"s","timeout":1}}"#));
    assert_eq!(read("nonsense"), Err(Skip::NotJson));
    assert_eq!(decoder().http(b"\xff"), Err(Skip::NotJson));
    assert_eq!(read("[]"), Err(Skip::NotAnObject));
    assert_eq!(read("{}"), Err(Skip::NoAction));
    assert_eq!(read(r#"{"action":5}"#), Err(Skip::NoAction));
    assert_eq!(read(&"[".repeat(10_000)), Err(Skip::TooDeep));
    assert_eq!(read(r#"{"action":"nope"}"#).unwrap().unwrap_err().fault.code, Code::UnknownAction);
    assert_eq!(
        read(r#"{"action":"system.ping","id":5}"#).unwrap().unwrap_err().fault.code,
        Code::InvalidMessage
    );
}

#[test]
fn unified_events() {
    let check = |event: Event, name: &str, data: &str| {
        assert_eq!(
            unified::encode_event(&event, 42, "boot", now()),
            format!(
                r#"{{"type":"event","timestamp":"2025-07-24T10:00:00.123Z","event":"{name}","seq":42,"bootId":"boot","data":{data}}}"#
            )
        );
    };
    let plain = StatusChange {
        server_id: server("server_456"),
        previous_status: Status::Starting,
        current_status: Status::Running,
        reason: None,
        exit_code: None,
        oom_killed: None,
        pid: None,
        command_id: None,
    };
    check(
        Event::ServerStatusChanged(plain),
        "server_status_changed",
        r#"{"serverId":"server_456","previousStatus":"starting","currentStatus":"running"}"#,
    );
    let full = StatusChange { pid: Some(9), command_id: Some("c".into()), ..crash() };
    check(
        Event::ServerStatusChanged(full),
        "server_status_changed",
        r#"{"serverId":"s1","previousStatus":"running","currentStatus":"crashed","reason":"oom","exitCode":137,"oomKilled":true,"pid":9,"commandId":"c"}"#,
    );
    check(Event::AgentStopping, "agent_stopping", "{}");
    let servers = vec![
        KnownServer { server_id: server("a"), status: Status::Running, exit_code: None },
        KnownServer { server_id: server("b"), status: Status::Crashed, exit_code: Some(1) },
    ];
    check(
        Event::AgentConnected {
            version: "0.1.0".into(),
            boot_id: "boot".into(),
            capabilities: vec!["start_server"],
            servers,
        },
        "agent_connected",
        r#"{"version":"0.1.0","bootId":"boot","capabilities":["start_server"],"servers":[{"serverId":"a","status":"running"},{"serverId":"b","status":"crashed","exitCode":1}]}"#,
    );
    let progress = Progress {
        command_id: Some("c".into()),
        server_id: server("s1"),
        stage: "pulling",
        current: Some(1),
        total: Some(2),
        message: None,
    };
    check(
        Event::CommandProgress(progress),
        "command_progress",
        r#"{"commandId":"c","serverId":"s1","stage":"pulling","current":1,"total":2}"#,
    );
    check(
        Event::StreamGap { server_id: None, stream: "control", lines: 1, bytes: 2, seqs: None },
        "stream_gap",
        r#"{"stream":"control","lines":1,"bytes":2}"#,
    );
    check(
        Event::StreamGap { server_id: Some(server("s1")), stream: "stdout", lines: 1, bytes: 2, seqs: None },
        "stream_gap",
        r#"{"serverId":"s1","stream":"stdout","lines":1,"bytes":2}"#,
    );
}

#[test]
fn a_ping_is_answered_with_the_load() {
    assert_eq!(
        unified::encode_pong(Some("hb_1"), true, &metrics(), now()),
        r#"{"id":"hb_1","type":"pong","timestamp":"2025-07-24T10:00:00.123Z","data":{"agentStatus":"healthy","activeServers":3,"systemLoad":{"cpu":25.5,"memory":65.2,"disk":40.1}}}"#
    );
    let text = unified::encode_pong(None, false, &SystemMetrics { cpu: f64::NAN, ..metrics() }, now());
    assert!(text.starts_with(r#"{"type":"pong""#) && text.contains(r#""agentStatus":"degraded""#), "{text}");
    assert!(text.contains(r#""cpu":0.0"#), "{text}");
}

#[test]
fn lists_over_two_mebibytes_are_shortened_and_say_so() {
    let name = Some("n".repeat(200));
    let list: Vec<_> = (0..20_000).map(|_| ServerReport { name: name.clone(), ..report() }).collect();
    for text in
        [unified(Some("1"), Ok(Reply::Servers(list.clone()))), over_http(Ok(Reply::Servers(list.clone())))]
    {
        assert!(text.len() <= MAX_OUT && text.len() > MAX_OUT - 1000, "{}", text.len());
        let answer: Value = serde_json::from_str(&text).unwrap();
        let data = &answer["data"];
        assert_eq!((&data["truncated"], &data["count"]), (&json!(true), &json!(20_000)));
        assert!(data["servers"].as_array().unwrap().len() < 20_000);
    }
    let servers = (0..100_000)
        .map(|n| KnownServer {
            server_id: server(&format!("s{n}")),
            status: Status::Running,
            exit_code: None,
        })
        .collect();
    let event = Event::AgentConnected {
        version: "1".into(),
        boot_id: "b".into(),
        capabilities: capabilities(),
        servers,
    };
    let text = unified::encode_event(&event, 1, "b", now());
    assert!(text.len() <= MAX_OUT && text.len() > MAX_OUT - 1000, "{}", text.len());
    let FromAgent::Event(event) = panel_side::decode(&text).unwrap() else { panic!() };
    assert!(event.data::<AgentConnected>().unwrap().truncated);
}

#[test]
fn a_wrong_clock_still_gives_a_timestamp() {
    let pong: Outcome = Ok(Reply::Pong);
    let envelope = Envelope::Unified { id: None };
    let before = encode_outcome(&envelope, &pong, UNIX_EPOCH - Duration::from_secs(1)).unwrap();
    assert!(before.contains("1970-01-01T00:00:00.000Z"), "{before}");
    let far = encode_outcome(&envelope, &pong, UNIX_EPOCH + Duration::from_secs(1 << 40)).unwrap();
    assert!(far.contains("9999-12-31T23:59:59.000Z"), "{far}");
}

// ---- the Panel's side --------------------------------------------------------------------------------------------

#[test]
fn a_panel_reads_what_an_agent_writes() {
    let read = |text: &str| panel_side::decode(text).unwrap_or_else(|skip| panic!("{text}: {skip}"));
    let reply = ServerReply::new(server("s1"), Status::Running, "Server started successfully");
    let FromAgent::Response(response) = read(&unified(Some("1"), Ok(Reply::Server(Box::new(reply))))) else {
        panic!()
    };
    assert_eq!((response.id.as_deref(), response.success), (Some("1"), true));
    assert_eq!(response.data.unwrap().get(), r#"{"serverId":"s1","status":"running"}"#);
    let FromAgent::Response(response) = read(&unified(None, Err(Fault::new(Code::Busy, "later")))) else {
        panic!()
    };
    let error = response.error.unwrap();
    assert_eq!((response.id, error.code.as_str(), error.message.as_str()), (None, "BUSY", "later"));
    let FromAgent::Event(event) =
        read(&unified::encode_event(&Event::ServerStatusChanged(crash()), 3, "b", now()))
    else {
        panic!()
    };
    assert_eq!((event.seq, event.boot_id.as_deref()), (Some(3), Some("b")));
    assert_eq!(event.data::<StatusChange>(), Ok(crash()));
    let FromAgent::Heartbeat(beat) = read(&legacy::encode_heartbeat(&"node-1".parse().unwrap(), now()))
    else {
        panic!()
    };
    assert_eq!(beat.status.as_deref(), Some("online"));
    let FromAgent::SystemInfo { data } = read(&legacy::encode_system_info(&SystemInfo::default(), now()))
    else {
        panic!()
    };
    assert!(data.get().starts_with('{'));
    let FromAgent::Pong { id, data, .. } = read(&unified::encode_pong(Some("p"), true, &metrics(), now()))
    else {
        panic!()
    };
    assert_eq!((id.as_deref(), data.is_some()), (Some("p"), true));
    let FromAgent::LegacyStatus { status, .. } =
        read(&legacy::encode_status(&server("s1"), Status::Running, now()))
    else {
        panic!()
    };
    assert_eq!((status.server_id, status.status), (server("s1"), Status::Running));
    let FromAgent::LegacyOutput(output) = read(&legacy::encode_output(&server("s1"), "hi", "stdout", now()))
    else {
        panic!()
    };
    assert_eq!((output.output.as_str(), output.stream.as_str()), ("hi", "stdout"));
    let envelope = command(json!({"type":"server_start","messageId":"m","data":{"serverId":"s1"}})).envelope;
    let text = encode_outcome(&envelope, &Err(Fault::new(Code::Busy, "later")), now()).unwrap();
    let FromAgent::LegacyError { message_id, error } = read(&text) else { panic!() };
    assert_eq!(
        (message_id.as_deref(), error.code.as_str(), error.server_id),
        (Some("m"), "BUSY", Some(server("s1")))
    );
}

#[test]
fn a_panel_passes_over_what_it_cannot_read() {
    let check =
        |text: &str, skip: Skip| assert_eq!(panel_side::decode(text).unwrap_err(), skip, "{text:.60}");
    check("x", Skip::NotJson);
    check("[]", Skip::NotAnObject);
    check(&"[".repeat(10_000), Skip::TooDeep);
    check(r#"{"type":"command"}"#, Skip::UnknownType("command".into()));
    check(r#"{"type":"response"}"#, Skip::Malformed("response"));
    check(r#"{"type":"response","success":true,"success":false}"#, Skip::Malformed("response"));
    check(r#"{"type":"event","event":"x"}"#, Skip::Malformed("event"));
    check(
        r#"{"type":"server_status","data":{"serverId":"../x","status":"running"}}"#,
        Skip::Malformed("server_status"),
    );
    check(r#"{"type":"heartbeat"}"#, Skip::Malformed("heartbeat"));
}

#[test]
fn a_panels_messages_are_the_contracts() {
    let action = Action::Server(server("server_456"), ServerAction::Start);
    let node = "node-1".parse().unwrap();
    assert_eq!(
        panel_side::action("cmd_123", Some(&node), &action, now()),
        r#"{"id":"cmd_123","type":"command","action":"start_server","serverId":"server_456","timestamp":"2025-07-24T10:00:00.123Z","agentId":"node-1","payload":{}}"#
    );
    assert_eq!(panel_side::hello(7), r#"{"type":"hello","epoch":7}"#);
    assert_eq!(panel_side::ping("hb_1"), r#"{"id":"hb_1","type":"ping"}"#);
    let raw = panel_side::command("1", None, "list_files", Some(&server("s")), &json!({"path":"/"}), now());
    assert_eq!(
        raw,
        r#"{"id":"1","type":"command","action":"list_files","serverId":"s","timestamp":"2025-07-24T10:00:00.123Z","payload":{"path":"/"}}"#
    );
}
