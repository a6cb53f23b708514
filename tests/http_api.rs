//! Section 4 of the contract on the built Agent: the command API over HTTP, who may use it, and what it shares with the
//! link.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use support::*;

/// A server that does not end on SIGTERM, running and listening.
fn stubborn(agent: &AgentProcess, link: &Connection, server: &str) {
    link.must("create_server", server, demo(json!({"environment": {"QUIET": "1", "IGNORE_TERM": "1"}})));
    link.must("start_server", server, json!({}));
    engine().wait_output(&agent.container(server), "Demo server ready");
}

fn stop(id: &str, timeout: u32) -> Value {
    json!({"action": "stop_server", "serverId": "s", "payload": {"timeout": timeout}, "id": id})
}

/// Asks until it is answered with another status than `status`.
fn after(status: u16, ask: impl Fn() -> Answer) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if answer.status != status {
            return answer;
        }
        assert!(begun.elapsed() < SOON, "still {status}: {answer:?}");
        thread::yield_now();
    }
}

#[test]
fn both_shapes_and_both_ways_to_bear_the_secret() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    agent.wait_health("the link", |health| health["connected"] == true);
    let bearer = format!("Bearer {}", agent.secret);
    let lower = format!("bearer {}", agent.secret);
    let ways: [&[(&str, &str)]; 4] = [
        &[("Authorization", &bearer)],
        &[("authorization", &lower)],
        &[("X-API-Key", &agent.secret)],
        // A proxy's own.
        &[("Authorization", "Basic cHJveHk="), ("X-API-Key", &agent.secret)],
    ];
    for headers in ways {
        let (status, body) = get(agent.health_address(), "/api/status", headers);
        let shape = json!({
            "online": true, "version": env!("CARGO_PKG_VERSION"), "uptime": "<whole>", "serverCount": "<whole>",
            "nodeId": agent.node_id, "connected": true,
        });
        assert_eq!(status, 200, "{headers:?}");
        assert_shape("/api/status", &body, &shape);
        let body = Some(&br#"{"action":"system.ping"}"#[..]);
        let answer = exchange(agent.health_address(), "POST", "/api/command", headers, body, SOON).unwrap();
        let shape = json!({"success": true, "data": {"message": "pong", "timestamp": "<time>"}});
        assert_eq!(answer.status, 200, "{headers:?}");
        assert_shape("/api/command", &answer.json(), &shape);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
    }
    let mut old = demo(json!({}));
    old["serverId"] = "s".into();
    let created = json!({"serverId": "s", "status": "created", "containerId": "<id64>"});
    let created = json!({"success": true, "message": "<text>", "data": created});
    assert_shape("the older form", &agent.http(&json!({"action": "create_server", "data": old})), &created);
    let started = json!({"serverId": "s", "status": "running", "containerId": "<id64>", "pid": "<positive>"});
    let started = json!({"success": true, "message": "<text>", "data": started});
    let start = json!({"action": "start_server", "serverId": "s", "payload": {}});
    assert_shape("the newer form", &agent.http(&start), &started);
    assert_eq!(engine().state(&agent.container("s")), "running");
    assert_eq!(get(agent.health_address(), "/api/status", ways[0]).1["serverCount"], 1);

    for (command, code) in [
        (json!({"action": "make_coffee"}), "UNKNOWN_ACTION"),
        (json!({"action": "start_server"}), "INVALID_PAYLOAD"),
        (json!({"action": "start_server", "serverId": "../s"}), "INVALID_PAYLOAD"),
        (json!({"action": "start_server", "data": "s"}), "INVALID_PAYLOAD"),
        (json!({"action": "start_server", "serverId": "s", "id": 7}), "INVALID_MESSAGE"),
        (json!({"action": "start_server", "serverId": "s", "id": "x".repeat(129)}), "INVALID_MESSAGE"),
        (json!({"action": "start_server", "serverId": "nobody"}), "SERVER_NOT_FOUND"),
        (json!({"action": "docker.stop", "data": {"containerId": "nobody"}}), "CONTAINER_NOT_FOUND"),
    ] {
        let shape = json!({"success": false, "error": "<text>", "code": code});
        assert_shape(&command.to_string(), &agent.http(&command), &shape);
    }
}

#[test]
fn what_is_no_command_is_refused_with_its_status() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    let address = agent.health_address();
    let key = [("X-API-Key", agent.secret.as_str())];
    let check = |method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>, status: u16| {
        let answer = exchange(address, method, path, headers, body, SOON).unwrap();
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {answer:?}");
        answer
    };
    let deep = format!(r#"{{"action":"system.ping","payload":{}{}}}"#, "[".repeat(70), "]".repeat(70));
    for body in
        ["", "x", "{", "[]", "7", "null", "{}", r#"{"action":7}"#, r#"{"action":null}"#, "\u{feff}{}", &deep]
    {
        let answer = check("POST", "/api/command", &key, Some(body.as_bytes()), 400);
        let shape = json!({"success": false, "error": "<text>", "code": "INVALID_MESSAGE"});
        assert_shape(body, &answer.json(), &shape);
    }
    check("POST", "/api/command", &key, Some(b"{\"action\":\"system.ping\"}\xff"), 400);
    for (method, path, allow) in [
        ("GET", "/api/command", "POST"),
        ("PUT", "/api/command", "POST"),
        ("POST", "/api/status", "GET, HEAD"),
        ("DELETE", "/api/status", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
    ] {
        for body in [None, Some(&b"{}"[..])] {
            let answer = check(method, path, &key, body, 405);
            assert_eq!(answer.header("Allow"), Some(allow), "{method} {path}");
        }
    }
    for path in ["/", "/api", "/api/", "/api/command/", "/api/Status", "/api/../health", "/api/command%2f"] {
        check("GET", path, &key, None, 404);
        check("POST", path, &key, Some(b"{}"), 404);
    }
    assert_eq!(check("HEAD", "/api/status", &key, None, 200).body, b"");

    // Nothing of a body is read for who does not bear the secret, and too large a one is not waited for.
    let announced = |headers: &str, length: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "POST /api/command HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {length}\r\n\r\n")
            .unwrap();
        let mut status = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut status).unwrap();
        String::from_utf8_lossy(&status[9..]).into_owned()
    };
    let secret = format!("X-API-Key: {}\r\n", agent.secret);
    assert_eq!(announced("", 100), "401");
    assert_eq!(announced(&secret, (24 << 20) + 1), "413");
    assert_eq!(announced(&secret, usize::MAX), "413");
    for path in ["/api/command", "/api/status"] {
        let method = if path == "/api/command" { "POST" } else { "GET" };
        for headers in [
            &[][..],
            &[("X-API-Key", "")],
            &[("Authorization", "Bearer")],
            &[("Authorization", &agent.secret)],
        ] {
            for body in [None, Some(&b"{}"[..])].into_iter().filter(|body| body.is_none() || method == "POST")
            {
                let answer = check(method, path, headers, body, 401);
                assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
                let shape = json!({"success": false, "error": "<text>", "code": "PERMISSION_DENIED"});
                assert_shape(path, &answer.json(), &shape);
            }
        }
    }
    assert_eq!(agent.http(&json!({"action": "system.ping"}))["success"], true);
    assert!(!agent.log().join("\n").contains(&agent.secret), "the secret is in the log");
}

#[test]
fn a_large_body_is_taken_and_all_of_them_together_are_bounded() {
    let panel = FakePanel::start();
    // The allocator that ships gives large pieces back at once; this makes the C library's do so too.
    let agent = AgentProcess::start_with(&panel, engine(), &[("MALLOC_MMAP_THRESHOLD_", "131072")]);
    let _link = panel.accept();
    // As much as an upload of 16 MiB is, for an action that does not look at it.
    let content = "QUJD".repeat((16 << 20) / 3 + 1);
    let body = json!({"action": "system.ping", "payload": {"content": content}}).to_string();
    assert_eq!(agent.post(body.as_bytes()).status, 200);
    // One that stays unfinished holds its share; the next is told to come again.
    let mut half = TcpStream::connect(agent.health_address()).unwrap();
    let head = format!("POST /api/command HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", agent.secret);
    write!(half, "{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    half.write_all(&body.as_bytes()[..body.len() - 1]).unwrap();
    let answer = after(200, || agent.post(body.as_bytes()));
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    assert_eq!(agent.health().0, 200);
    drop(half);
    assert_eq!(after(503, || agent.post(body.as_bytes())).status, 200);
    let resident = agent.resident_kib();
    println!("{resident} KiB resident after bodies of {} KiB", body.len() >> 10);
    // The body itself would be half as much again.
    assert!(resident < 20 << 10, "{resident} KiB stay");
}

#[test]
fn a_repeat_joins_what_runs_whichever_way_it_comes() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    stubborn(&agent, &link, "s");
    let by_link = |id: &str, timeout: u32| {
        link.send(&json!({
            "id": id, "type": "command", "action": "stop_server", "serverId": "s", "payload": {"timeout": timeout},
        }));
    };
    // Begun over the link, joined over HTTP, twice at once.
    by_link("one", 2);
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopping");
    let answers: Vec<Value> = thread::scope(|scope| {
        let asks = [(); 2].map(|()| scope.spawn(|| agent.http(&stop("one", 2))));
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let response = link.response("one");
    for answer in &answers {
        let shape = json!({"success": true, "message": response["message"], "data": response["data"]});
        assert_shape("joined", answer, &shape);
        assert_eq!(answer["data"]["killed"], true, "{answer}");
    }
    // Begun over HTTP, joined over the link; the answer to each has its own form and its events the command's id.
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    let mark = link.mark();
    thread::scope(|scope| {
        let ask = scope.spawn(|| agent.http(&stop("two", 2)));
        link.wait_from(mark, SOON, "stopping", |seen| match seen {
            Seen::Json(m) if m["data"]["currentStatus"] == "stopping" && m["data"]["commandId"] == "two" => {
                Some(())
            }
            _ => None,
        });
        by_link("two", 2);
        let (answer, response) = (ask.join().unwrap(), link.response("two"));
        assert_eq!((&answer["data"], &answer["message"]), (&response["data"], &response["message"]));
        assert_eq!(answer["data"]["killed"], true, "{answer}");
    });
    // What was done is remembered for both: a restart that is repeated does not run again.
    link.must("start_server", "s", json!({}));
    let restart =
        json!({"action": "restart_server", "serverId": "s", "payload": {"timeout": 0}, "id": "three"});
    let first = agent.http(&restart);
    let started = || engine().inspect(&agent.container("s")).unwrap()["State"]["StartedAt"].clone();
    let at = started();
    assert_eq!(agent.http(&restart), first);
    link.send(&json!({"id": "three", "type": "command", "action": "restart_server", "serverId": "s", "payload": {"timeout": 0}}));
    assert_eq!(link.response("three")["data"], first["data"]);
    assert_eq!(started(), at, "it ran again");
    // Other content under the same id, and none at all, are other commands.
    for other in [json!({"timeout": 1, "signal": "SIGKILL"}), json!({"timeout": 0})] {
        let id = if other.get("signal").is_some() { "three" } else { "" };
        let before = started();
        agent.http(&json!({"action": "restart_server", "serverId": "s", "payload": other, "id": id}));
        assert_ne!(started(), before, "{other}");
    }
    assert_eq!(link.responses("one").len() + link.responses("two").len() + link.responses("three").len(), 3);
}

#[test]
fn what_takes_long_is_answered_as_it_stands_and_goes_on() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    stubborn(&agent, &link, "s");
    let begun = Instant::now();
    let answer = agent.http(&stop("long", 30));
    let took = begun.elapsed();
    let data = json!({"serverId": "s", "status": "stopping", "pending": true});
    assert_shape("pending", &answer, &json!({"success": true, "message": "<text>", "data": data}));
    assert!((Duration::from_secs(25)..Duration::from_secs(29)).contains(&took), "{took:?}");
    // The same again waits for the same.
    let answer = agent.http(&stop("long", 30));
    let data = json!({"serverId": "s", "status": "stopped", "exitCode": 137, "killed": true});
    assert_shape("the end", &answer, &json!({"success": true, "message": "<text>", "data": data}));
    assert!(begun.elapsed() < Duration::from_secs(36), "{:?}", begun.elapsed());
}

#[test]
fn sixteen_are_in_work_and_the_rest_come_again() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    stubborn(&agent, &link, "s");
    let (address, threads) = (agent.health_address(), agent.threads());
    let begin = |n: usize| {
        let body = stop(&format!("stop-{n}"), 600).to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let length = body.len();
        let head = format!("POST /api/command HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", agent.secret);
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        stream
    };
    let clients: Vec<TcpStream> = (0..16).map(begin).collect();
    let ping = br#"{"action":"system.ping"}"#;
    let begun = Instant::now();
    while !metrics(&agent).2.contains("longshore_commands_waiting 16\n") {
        assert!(begun.elapsed() < SOON, "sixteen never wait");
    }
    let refused = agent.post(ping);
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    assert_shape("busy", &refused.json(), &json!({"success": false, "error": "<text>", "code": "BUSY"}));
    for path in ["/health", "/metrics"] {
        assert_eq!(get(address, path, &[]).0, 200, "{path}");
    }
    link.must("system.ping", "", json!({}));
    assert!(agent.threads() <= threads + 18, "{} threads and {threads} before", agent.threads());
    // Half of them leave; what they asked for goes on, and all of it ends with the kill.
    let (gone, patient) = clients.split_at(8);
    gone.iter().for_each(|client| client.shutdown(std::net::Shutdown::Both).unwrap());
    link.must("kill_server", "s", json!({}));
    for mut client in patient {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
        assert!(answer.contains(r#""killed":true"#), "{answer}");
    }
    assert_eq!(after(503, || agent.post(ping)).status, 200);
    let (_, _, metrics) = metrics(&agent);
    assert!(metrics.contains("longshore_commands_waiting 0\n"), "{metrics}");
}

fn metrics(agent: &AgentProcess) -> (u16, String, String) {
    let answer = exchange(agent.health_address(), "GET", "/metrics", &[], None, SOON).unwrap();
    (answer.status, answer.head, String::from_utf8(answer.body).unwrap())
}

#[test]
fn an_agent_that_stops_says_so() {
    let panel = FakePanel::start();
    let open = std::sync::Arc::new(Watched::new(true));
    let held = open.clone();
    let proxy = EngineProxy::start(engine(), "1.41", move |request: &str| {
        if request.ends_with("/start") {
            held.wait(SOON, |open| open.then_some(()));
        }
        None
    });
    let mut agent = AgentProcess::start_with(&panel, proxy.engine(), &[]);
    let link = panel.accept();
    stubborn(&agent, &link, "s");
    link.must("create_server", "slow", demo(json!({})));
    open.update(|open| *open = false);
    let mark = proxy.requests().len();
    thread::scope(|scope| {
        let stop = scope.spawn(|| agent.http(&stop("stop", 600)));
        let start = scope.spawn(|| agent.http(&json!({"action": "start_server", "serverId": "slow"})));
        proxy.wait_requests(mark, "/start", 1);
        link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopping");
        agent.signal(Signal::TERM);
        agent.wait_log("signal 15");
        for action in ["kill_server", "list_servers"] {
            let answer = agent.http(&json!({"action": action, "serverId": "s"}));
            let shape = json!({"success": false, "error": "<text>", "code": "SHUTTING_DOWN"});
            assert_shape(action, &answer, &shape);
        }
        open.update(|open| *open = true);
        assert_eq!(start.join().unwrap()["data"]["status"], "running");
        assert_eq!(stop.join().unwrap()["code"], "INTERRUPTED");
    });
    assert_eq!(agent.wait(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn who_guesses_is_locked_out_for_a_while_and_this_machine_never_for_long() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let _link = panel.accept();
    let address = agent.health_address();
    let status =
        |key: &str| exchange(address, "GET", "/api/status", &[("X-API-Key", key)], None, SOON).unwrap();
    for _ in 0..6 {
        assert_eq!(status("wrong").status, 401);
    }
    let begun = Instant::now();
    // Not even the right one, else who guesses would learn which it is; with a body or without.
    for answer in [status("wrong"), status(&agent.secret), agent.post(br#"{"action":"system.ping"}"#)] {
        assert_eq!((answer.status, answer.header("Retry-After")), (429, Some("1")), "{answer:?}");
        assert_shape("locked", &answer.json(), &json!({"success": false, "error": "<text>", "code": "BUSY"}));
    }
    assert_eq!(agent.health().0, 200);
    assert_eq!(after(429, || status(&agent.secret)).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(status("wrong").status, 401);
    assert_eq!(status(&agent.secret).status, 200, "the right one begins anew");
    let line = agent.wait_log("wrong secret from 127.0.0.1");
    assert!(line.contains("WARN") && !line.contains(&agent.secret), "{line}");
}

#[test]
fn beyond_loopback_the_secret_is_long_and_who_guesses_waits_longer_and_longer() {
    let network = Network::new();
    let panel = FakePanel::start_at(network.here());
    let bound = format!("{}:0", network.there());
    let environment = [("ALLOW_INSECURE", "1"), ("HEALTH_ADDR", bound.as_str())];
    let mut agent = AgentProcess::prepare_in(&network, &panel.url(), engine(), &environment);
    agent.start_again();
    let _link = panel.accept();
    let warning = agent.wait_log("put a proxy with TLS in front");
    assert!(warning.contains("WARN"), "{warning}");
    let address = agent.health_address();
    let ask = |path: &str, key: &str| {
        let key = [("X-API-Key", key)];
        exchange(address, "GET", path, &key[..usize::from(!key[0].1.is_empty())], None, SOON).unwrap()
    };
    agent.wait_health("healthy", |health| health["status"] == "healthy");
    for (path, key, expected) in [
        ("/health", "", 200),
        ("/metrics", "", 401),
        ("/metrics", agent.secret.as_str(), 200),
        ("/api/status", "", 401),
        ("/api/status", agent.secret.as_str(), 200),
    ] {
        assert_eq!(ask(path, key).status, expected, "{path} {key}");
    }
    assert_eq!(ask("/health", "").json(), json!({"status": "healthy"}));
    assert_eq!(ask("/health", &agent.secret).json()["nodeId"], agent.node_id);

    // Guesses at one door count at all of them.
    for path in ["/health", "/metrics", "/api/status", "/health", "/metrics", "/api/status"] {
        ask(path, "wrong");
    }
    let mut waits = Vec::new();
    for _ in 0..3 {
        let locked = ask("/api/status", &agent.secret);
        assert_eq!(locked.status, 429);
        waits.push(locked.header("Retry-After").unwrap().parse::<u64>().unwrap());
        assert_eq!(
            ask("/health", &agent.secret).json(),
            json!({"status": "healthy"}),
            "the status is for all"
        );
        after(429, || ask("/api/status", "wrong"));
    }
    assert_eq!(waits, [1, 2, 4]);

    // A file that is given a short secret opens nothing, and the log says why.
    agent.change_secret("short-0123456789");
    after(429, || ask("/api/status", &agent.secret));
    let line = agent.wait_log("at least 32");
    assert!(line.contains("WARN") && !line.contains("short-"), "{line}");
}

#[test]
fn a_short_secret_beyond_loopback_is_refused_at_the_start() {
    let panel = FakePanel::start();
    let environment = [("ALLOW_INSECURE", "1"), ("HEALTH_ADDR", "0.0.0.0:0")];
    let mut agent = AgentProcess::prepare(&panel.url(), engine(), &environment);
    for secret in ["x".repeat(31), "short".to_owned()] {
        agent.change_secret(&secret);
        agent.start_again();
        assert_eq!(agent.wait(SOON).code(), Some(2), "{} bytes", secret.len());
        let line = agent.wait_log("AGENT_SECRET_FILE");
        assert!(
            line.contains("32 characters") && line.contains("HEALTH_ADDR") && !line.contains(&secret),
            "{line}"
        );
    }
    agent.change_secret(&"x".repeat(32));
    agent.start_again();
    panel.accept();
}

#[test]
fn a_thousand_slow_clients_and_want_of_descriptors_stop_nothing() {
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, ..own }).unwrap();
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let address = agent.health_address();
    agent.wait_health("healthy", |health| health["status"] == "healthy");
    assert_eq!(agent.http(&json!({"action": "system.ping"}))["success"], true);
    let pid = Pid::from_raw(agent.pid().cast_signed());
    let open = |below: u64| {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        numbers.filter(|number| *number < below).count() as u64
    };
    let idle = open(u64::MAX);
    let (before, threads) = (agent.resident_kib(), agent.threads());
    let key = &agent.secret;
    let head = format!(
        "POST /api/command HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 4000\r\n\r\n{{"
    );
    let (stop_tx, stop_rx) = std::sync::mpsc::channel::<()>();
    let (full_tx, full_rx) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut clients: Vec<Option<TcpStream>> =
                (0..1000).map(|_| TcpStream::connect(address).ok()).collect();
            full_tx.send(()).unwrap();
            // Silent, one byte a second, an endless head, an endless body; who is cut comes again.
            for turn in (0..clients.len()).cycle() {
                let bytes: &[u8] = match turn % 4 {
                    0 => b"",
                    1 => b"G",
                    2 => b"GET / HTTP/1.1\r\nX: y\r\n",
                    _ => head.as_bytes(),
                };
                let sent = clients[turn].as_mut().is_some_and(|client| client.write_all(bytes).is_ok());
                if !sent || turn % 4 == 0 {
                    clients[turn] = TcpStream::connect(address).ok();
                }
                if stop_rx.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        full_rx.recv_timeout(SOON).unwrap();
        let (begun, mut most, mut slowest) = (Instant::now(), (0, 0), Duration::ZERO);
        while begun.elapsed() < Duration::from_secs(11) {
            let asked = Instant::now();
            assert_eq!(agent.health().0, 200);
            slowest = slowest.max(asked.elapsed());
            link.must("system.ping", "", json!({}));
            most = (agent.threads().max(most.0), agent.resident_kib().max(most.1));
        }
        drop(stop_tx);
        let more = most.1.saturating_sub(before);
        println!(
            "slowest /health {slowest:.0?}, at most {} threads ({threads} before), {more} KiB more",
            most.0
        );
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        assert!(most.0 <= 64, "{} threads", most.0);
        assert!(more <= 4096, "{more} KiB more");
    });

    // All descriptors that it may have are taken by silent clients, and more come.
    let most = idle + 10;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), ..own }).unwrap();
    let mut silent: Vec<TcpStream> = Vec::new();
    let begun = Instant::now();
    while open(most) < most {
        assert!(begun.elapsed() < SOON, "{} of {most} are open", open(most));
        silent.push(TcpStream::connect(address).unwrap());
    }
    silent.extend((0..100).map(|_| TcpStream::connect(address).unwrap()));
    link.must("system.ping", "", json!({}));
    prlimit(pid, Resource::Nofile, Rlimit { current: own.maximum, ..own }).unwrap();
    agent.wait_health("healthy", |health| health["status"] == "healthy");
    assert_eq!(agent.http(&json!({"action": "system.ping"}))["success"], true);
}
