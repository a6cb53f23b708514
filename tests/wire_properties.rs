//! What holds of the wire contract for any input: nothing panics, canonical forms read back as what they were, and a
//! command means the same by every way it can come.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use longshore::protocol::command::CreateServer;
use longshore::protocol::console::LogFormat;
use longshore::protocol::spec::{
    Limits, Port, Protocol, Restart, RestartPolicy, Rules, Startup, Stop, StopMethod, User,
};
use longshore::protocol::{
    Action, ConsoleAction, Decoder, Incoming, ServerAction, Spec, StopOptions, encode_outcome, panel_side,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

fn decoder() -> Decoder {
    Decoder::new("node-1".parse().unwrap(), Rules::default())
}

/// Reads `text` by every door; whatever is answered must be JSON.
fn read_everywhere(text: &str) {
    let answer = |rejected: longshore::protocol::Rejected| {
        let text =
            encode_outcome(&rejected.envelope, &Err(rejected.fault), UNIX_EPOCH).expect("faults are told");
        serde_json::from_str::<Value>(&text).expect("an answer is JSON");
    };
    if let Ok(Err(rejected)) = decoder().message(text) {
        answer(rejected);
    }
    if let Ok(Err(rejected)) = decoder().http(text.as_bytes()) {
        answer(rejected);
    }
    let _ = panel_side::decode(text);
    let _ = Spec::stored(text);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        select(vec!["start_server", "create_server", "s1", "node-1", "{{A}}", "regex:(", "2g", "/data"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        let name = prop_oneof![
            3 => select(vec![
                "image", "startup", "environment", "limits", "memory", "cpu", "swap", "ports", "internal", "external",
                "stop", "type", "value", "timeout", "done", "user", "mountPath", "capabilities", "serverId", "eggConfig",
                "signal", "containerId", "25565", "19132/udp", "restartPolicy",
            ])
            .prop_map(str::to_owned),
            1 => ".{0,6}",
        ];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(name, inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Value> {
    let kind = select(vec![
        "command",
        "hello",
        "ping",
        "server_create",
        "server_power",
        "server_update",
        "response",
        "event",
        "error",
    ]);
    let action =
        select(vec!["create_server", "update_server", "stop_server", "docker.stop", "list_servers", "nope"]);
    (kind, action, any_json(), any_json(), any_json()).prop_map(|(kind, action, id, server, payload)| {
        json!({"type":kind,"action":action,"id":id,"serverId":server,"payload":payload,"data":payload,"messageId":id,"epoch":id})
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let bytes = || prop_oneof![1u64..(8 << 20), (8u64 << 20)..(1 << 50)];
    let memory = option::of(prop_oneof![Just(6u64 << 20), (6u64 << 20)..(1 << 50)]);
    let swap = option::of(prop_oneof![Just(-1i64), 1i64..(1 << 50)]);
    (
        memory,
        swap,
        option::of(bytes()),
        option::of(10_000_000u64..=1_024_000_000_000),
        option::of(10u16..=1000),
        1u32..=1_000_000,
    )
        .prop_map(|(memory, swap, disk, nano_cpus, io, pids)| Limits {
            memory,
            swap,
            disk,
            nano_cpus,
            io,
            pids,
        })
}

/// Ports whose external halves differ.
fn port_list() -> impl Strategy<Value = Vec<Port>> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    let ip = option::of(any::<std::net::IpAddr>());
    btree_map(1u16.., (1u16.., protocol, ip), 0..6).prop_map(|map| {
        let port = |(external, (internal, protocol, ip))| Port { internal, external, protocol, ip };
        map.into_iter().map(port).collect()
    })
}

fn startup() -> impl Strategy<Value = Option<Startup>> {
    let piece =
        || select(vec!["run", " -x ", "{{A}}", "{{SERVER_MEMORY}}", "{{ SERVER_ID }}", "{ {", "ä\"$"]);
    let text = move || vec(piece(), 1..5).prop_map(|pieces| pieces.concat());
    option::of(prop_oneof![
        vec(text(), 1..4).prop_map(Startup::Exec),
        text().prop_filter("not blank", |text| !text.trim().is_empty()).prop_map(Startup::Shell),
    ])
}

fn stop() -> impl Strategy<Value = Stop> {
    let method = prop_oneof![
        select(vec!["SIGTERM", "SIGINT", "SIGKILL"]).prop_map(|name| StopMethod::Signal(name.into())),
        "[a-z/]{1,20}".prop_map(StopMethod::Command),
    ];
    (method, 0u32..=3600).prop_map(|(method, timeout)| Stop { method, timeout })
}

fn spec() -> impl Strategy<Value = Spec> {
    let what = (
        "[a-z]{1,8}(/[a-z0-9]{1,8})?(:[a-z0-9][a-z0-9.]{0,7})?",
        option::of("[a-zA-Zäöü ]{1,20}"),
        startup(),
        btree_map("[B-Z][A-Z_]{0,5}", "[^\0]{0,12}", 0..5),
        limits(),
        port_list(),
        stop(),
    );
    let how = (
        vec(prop_oneof!["[a-z ]{1,10}".prop_map(String::from), Just("regex:^a+$".to_owned())], 0..3),
        select(vec![Restart::Never, Restart::OnFailure, Restart::Always]),
        (1u32..=86_400, 0u32..=1000, 1u32..=3600),
        0u32..=86_400,
        any::<bool>(),
        "(/[d-m][a-z]{0,5}x){1,3}",
        "[a-z]{1,5}(/[a-z.]{2,5}z)?",
        option::of(prop_oneof![
            Just(User::Image),
            (0..1u32 << 31, 0..1u32 << 31).prop_map(|(uid, gid)| User::Ids { uid, gid })
        ]),
        subsequence(vec!["DAC_OVERRIDE".to_owned(), "FOWNER".to_owned()], 0..=2),
    );
    (what, how).prop_map(|((image, name, startup, mut environment, limits, ports, stop), how)| {
        let (
            done,
            restart,
            (window, max, backoff_cap),
            disk_grace,
            tty,
            mount_path,
            mod_dir,
            user,
            capabilities,
        ) = how;
        environment.insert("A".into(), "plain".into());
        let server_port = ports.first().map(|port| port.internal);
        let restart_policy = RestartPolicy { window, max, backoff_cap };
        Spec {
            image,
            name,
            startup,
            environment,
            limits,
            ports,
            ports_as_map: false,
            server_port,
            stop,
            done,
            restart,
            restart_policy,
            disk_grace,
            tty,
            mount_path,
            mod_dir,
            user,
            capabilities,
        }
    })
}

fn console() -> impl Strategy<Value = ConsoleAction> {
    prop_oneof![
        (1u32..=10_000).prop_map(|lines| ConsoleAction::Logs { lines }),
        (1u32..=10_000).prop_map(|lines| ConsoleAction::History { lines }),
        "[ -~]{0,40}".prop_map(ConsoleAction::Command),
        any::<String>().prop_map(|text| ConsoleAction::Input(text.chars().take(40).collect())),
        (option::of(0u64..1 << 53), option::of("[0-9a-f]{32}".prop_map(String::from)))
            .prop_map(|(since, boot_id)| ConsoleAction::Connect { since, boot_id }),
        select(vec![
            ConsoleAction::Interrupt,
            ConsoleAction::Disconnect,
            ConsoleAction::Status,
            ConsoleAction::Clear,
            ConsoleAction::Download { format: LogFormat::Txt },
            ConsoleAction::Download { format: LogFormat::Json },
        ]),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let options = || {
        (option::of(select(vec!["SIGTERM", "SIGINT"])), option::of(0u64..=3600)).prop_map(
            |(signal, seconds)| StopOptions {
                signal: signal.map(str::to_owned),
                timeout: seconds.map(Duration::from_secs),
            },
        )
    };
    let delete = || any::<bool>().prop_map(|remove_data| ServerAction::Delete { remove_data });
    let server = prop_oneof![
        (spec(), any::<bool>(), any::<bool>()).prop_map(|(spec, keep_data, skip_scripts)| {
            ServerAction::Create(Box::new(CreateServer { spec, keep_data, skip_scripts }))
        }),
        Just(ServerAction::Start),
        options().prop_map(ServerAction::Stop),
        options().prop_map(ServerAction::Restart),
        Just(ServerAction::Kill),
        delete(),
        Just(ServerAction::Suspend),
        Just(ServerAction::Unsuspend),
        Just(ServerAction::Status),
        console().prop_map(ServerAction::Console),
    ];
    let container = prop_oneof![
        Just(ServerAction::Start),
        options().prop_map(ServerAction::Stop),
        delete(),
        Just(ServerAction::Status),
    ];
    prop_oneof![
        4 => ("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63}", server).prop_map(|(id, action)| Action::Server(id.parse().unwrap(), action)),
        1 => ("[a-zA-Z0-9._-]{1,64}", container).prop_map(|(name, action)| Action::Container(name, action)),
        1 => select(vec![Action::ListServers, Action::SystemMetrics, Action::SystemPing, Action::SystemInfo]),
    ]
}

fn decoded(text: &str) -> Action {
    match decoder().message(text) {
        Ok(Ok(Incoming::Command(command))) => command.action,
        other => panic!("{text}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decoder().http(&bytes);
        read_everywhere(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn texts_that_look_like_json_never_panic(text in r#"[{}\[\]":,0-9eE.\\u+a-d ntrue-]{0,200}"#) {
        read_everywhere(&text);
    }

    #[test]
    fn messages_never_panic(message in any_message()) {
        read_everywhere(&message.to_string());
    }

    #[test]
    fn cut_and_damaged_messages_never_panic(message in any_message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = message.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        read_everywhere(&String::from_utf8_lossy(&bytes));
        read_everywhere(&String::from_utf8_lossy(&bytes[..at]));
    }

    #[test]
    fn a_spec_reads_back_from_its_canonical_form(spec in spec()) {
        let text = spec.to_json();
        prop_assert_eq!(&Spec::stored(&text).unwrap(), &spec);
        prop_assert_eq!(&serde_json::from_str::<Spec>(&text).unwrap(), &spec);
        let map: Map<String, Value> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&Spec::parse(&map, &Rules::default()).unwrap(), &spec);
        prop_assert_eq!(spec.hash(), Spec::stored(&text).unwrap().hash());
        prop_assert!(spec.resolve(&"s1".parse().unwrap()).is_ok());
    }

    #[test]
    fn what_was_read_reads_back(payload in btree_map("[a-z]{1,4}", any_json(), 0..4), limits in any_json(), ports in any_json(), environment in any_json()) {
        let mut map: Map<String, Value> = payload.into_iter().collect();
        map.extend([("image".into(), json!("x")), ("limits".into(), limits), ("ports".into(), ports), ("environment".into(), environment)]);
        if let Ok(spec) = Spec::parse(&map, &Rules::default()) {
            prop_assert_eq!(Spec::stored(&spec.to_json()).unwrap(), spec);
        }
    }

    #[test]
    fn ports_as_a_map_read_back(ports in btree_map((1u16.., select(vec!["", "/tcp", "/udp"])), 1u16.., 0..5), wanted in 1u16..) {
        let entries: BTreeMap<String, u16> = ports.into_iter().map(|((port, kind), external)| (format!("{port}{kind}"), external)).collect();
        let map = json!({"image":"x","ports":entries,"environment":{"SERVER_PORT":wanted.to_string()}});
        if let Ok(spec) = Spec::parse(map.as_object().unwrap(), &Rules::default()) {
            prop_assert_eq!(Spec::stored(&spec.to_json()).unwrap(), spec);
        }
    }

    #[test]
    fn an_agent_reads_what_a_panel_asks(action in action()) {
        let text = panel_side::action("1", Some(&"node-1".parse().unwrap()), &action, UNIX_EPOCH);
        prop_assert_eq!(decoded(&text), action);
    }

    #[test]
    fn every_way_of_asking_means_the_same(spec in spec(), id in "[a-z0-9]{1,10}") {
        let fields: Value = serde_json::from_str(&spec.to_json()).unwrap();
        let mut inside = fields.clone();
        inside["serverId"] = json!(id);
        let message = |value: Value| decoded(&value.to_string());
        let one = message(json!({"type":"command","action":"create_server","serverId":id,"payload":fields}));
        prop_assert_eq!(&message(json!({"type":"command","action":"create_server","payload":inside})), &one);
        prop_assert_eq!(&message(json!({"type":"command","action":"create_server","serverId":id,"payload":{"eggConfig":fields}})), &one);
        prop_assert_eq!(&message(json!({"type":"server_create","data":inside})), &one);
        for body in [json!({"action":"create_server","serverId":id,"payload":fields}), json!({"action":"create_server","data":inside})] {
            prop_assert_eq!(&decoder().http(body.to_string().as_bytes()).unwrap().unwrap().action, &one);
        }
    }
}
