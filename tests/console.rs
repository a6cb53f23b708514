//! Consoles over a real link and on a real Engine: output with its numbers, what is asked of it, input, readiness, and
//! that neither a restart of the server nor one of the Agent loses or repeats a line.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::output::{Told, gaps, lines_of, told};
use support::*;

fn demo(environment: Value, extra: Value) -> Value {
    let mut spec = json!({"image": DEMO_IMAGE, "environment": environment, "limits": {"memory": "64m"}});
    for (name, value) in extra.as_object().expect("an object") {
        spec[name] = value.clone();
    }
    spec
}

fn quiet() -> Value {
    json!({"QUIET": "1"})
}

fn code(response: &Value) -> &str {
    response["error"]["code"].as_str().unwrap_or("none")
}

/// Creates and starts a server and waits until it has said that it is up.
fn started(link: &Connection, server: &str, spec: Value) {
    link.must("create_server", server, spec);
    link.must("start_server", server, json!({}));
    wait_line(link, server, "Demo server ready");
}

/// Waits for a line that holds `text` and returns it.
fn wait_line(link: &Connection, server: &str, text: &str) -> Told {
    wait_line_from(link, 0, server, text)
}

fn wait_line_from(link: &Connection, mark: usize, server: &str, text: &str) -> Told {
    link.wait_from(mark, SOON, &format!("line {text:?} of {server}"), |seen| match seen {
        Seen::Json(message) if message["event"] == "server_log" && message["data"]["serverId"] == server => {
            lines_of(&message["data"]).into_iter().find(|told| told.line.text.contains(text))
        }
        _ => None,
    })
}

/// The numbers of a boot go up by one, nothing left out and nothing twice.
fn assert_complete(told: &[Told]) {
    for pair in told.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "{:?} then {:?}", pair[0], pair[1]);
    }
}

#[test]
fn output_comes_with_its_numbers() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let boot = link.wait_event("agent_connected", |_| true)["data"]["bootId"].as_str().unwrap().to_owned();
    started(&link, "s", demo(quiet(), json!({})));
    for command in ["say hello", "stderr oops", "line 40000", "flood 500", "say é\u{1F980}", "players"] {
        link.must("send_server_command", "s", json!({"command": command}));
    }
    wait_line(&link, "s", "players online");
    // The two streams may overtake each other.
    wait_line(&link, "s", "oops");
    let all = told(&link, "s");
    assert_eq!(all[0].seq, 1);
    assert_complete(&all);
    assert!(all.iter().all(|told| told.boot_id == boot));
    let find = |text: &str| all.iter().find(|told| told.line.text.contains(text)).unwrap();
    assert_eq!(find("oops").line.stream, "stderr");
    assert_eq!(find("[Server] é\u{1F980}").line.stream, "stdout");
    let long: Vec<&Told> = all.iter().filter(|told| told.line.text.starts_with("xxx")).collect();
    assert_eq!(
        long.iter().map(|told| (told.line.text.len(), told.partial)).collect::<Vec<_>>(),
        [(32768, true), (7232, false)]
    );
    assert_eq!(long[0].line.time_ns, long[1].line.time_ns);
    assert_eq!([0, 1], [long[0].line.ordinal, long[1].line.ordinal]);
    // Every other line is the Engine's, in the Engine's order and with its times.
    let theirs: Vec<_> = engine()
        .log(&agent.container("s"))
        .into_iter()
        .filter(|line| !line.text.starts_with("xxx"))
        .collect();
    let ours: Vec<_> =
        all.iter().map(|told| told.line.clone()).filter(|line| !line.text.starts_with("xxx")).collect();
    assert_eq!(ours, theirs);
    assert_eq!(gaps(&link, "s"), []);
}

#[test]
fn what_is_asked_of_a_console_is_answered() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let refused = link.call("console:status", "s", json!({}));
    assert_eq!(code(&refused), "SERVER_NOT_FOUND");
    link.must("create_server", "s", demo(quiet(), json!({})));
    assert_eq!(
        code(&link.call("send_server_command", "s", json!({"command": "help"}))),
        "SERVER_NOT_RUNNING"
    );
    assert_eq!(code(&link.call("console:interrupt", "s", json!({}))), "SERVER_NOT_RUNNING");
    assert_eq!(link.must("get_server_logs", "s", json!({})), json!({"logs": [], "lines": 0}));
    assert_eq!(link.must("console:history", "s", json!({})), json!({"history": [], "lines": 0}));
    link.must("start_server", "s", json!({}));
    wait_line(&link, "s", "Demo server ready");

    let sent = link.must("console:command", "s", json!({"command": "say one"}));
    assert_eq!(sent, json!({"serverId": "s", "sent": true}));
    assert_eq!(link.must("console:input", "s", json!({"input": "say t"})), json!({"sent": true}));
    link.must("console:input", "s", json!({"input": "wo\nsay three\n"}));
    let three = wait_line(&link, "s", "three");
    let logs = link.must("get_server_logs", "s", json!({"lines": 3}));
    assert_eq!(logs, json!({"logs": ["[Server] one", "[Server] two", "[Server] three"], "lines": 3}));
    let history = link.must("console:history", "s", json!({"lines": 2}));
    let expected = json!({"history": ["[Server] two", "[Server] three"], "lines": 2, "firstSeq": three.seq - 1, "lastSeq": three.seq});
    assert_eq!(history, expected);
    let status = link.must("console:status", "s", json!({}));
    assert_eq!(status["connected"], true);
    assert!(status["bufferSize"].as_u64().unwrap() > 50 && status["lastActivity"].is_string(), "{status}");
    let text = link.must("console:download", "s", json!({}))["content"].as_str().unwrap().to_owned();
    assert_eq!(text.lines().last(), Some("[Server] three"));
    assert!(text.ends_with('\n') && text.contains("Starting demo server\n"), "{text}");
    let content =
        link.must("console:download", "s", json!({"format": "json"}))["content"].as_str().unwrap().to_owned();
    let entries: Vec<Value> = serde_json::from_str(&content).unwrap();
    assert_eq!(
        (entries.len(), &entries.last().unwrap()["message"]),
        (text.lines().count(), &json!("[Server] three"))
    );

    // Muted, then from where it was, then from now on.
    assert_eq!(link.must("console:disconnect", "s", json!({})), json!({"connected": false}));
    link.must("console:command", "s", json!({"command": "say four"}));
    link.must("console:command", "s", json!({"command": "say five"}));
    ask_until_last(&link, "s", "[Server] five");
    let mark = link.mark();
    assert_eq!(link.must("console:connect", "s", json!({"since": three.seq})), json!({"connected": true}));
    wait_line_from(&link, mark, "s", "five");
    let replayed: Vec<_> = told(&link, "s").into_iter().filter(|told| told.seq > three.seq).collect();
    assert_eq!(
        replayed.iter().map(|told| told.line.text.as_str()).collect::<Vec<_>>(),
        ["[Server] four", "[Server] five"]
    );
    let mark = link.mark();
    link.must("console:connect", "s", json!({"since": three.seq, "bootId": "another"}));
    assert_eq!(wait_line_from(&link, mark, "s", "Starting").seq, 1);

    // Another boot knows nothing, and the Engine has it all.
    let before = link.must("get_server_logs", "s", json!({"lines": 10000}));
    drop(link);
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    wait_running(&link, "s");
    let after = link.must("get_server_logs", "s", json!({"lines": 10000}));
    assert_eq!(after, before);
    assert_eq!(
        link.must("get_server_logs", "s", json!({"lines": 2}))["logs"],
        json!(["[Server] four", "[Server] five"])
    );
    link.must("console:command", "s", json!({"command": "say six"}));
    let six = wait_line(&link, "s", "six");
    let history = link.must("console:history", "s", json!({"lines": 10000}));
    assert_eq!(
        (&history["lastSeq"], history["lines"].as_u64()),
        (&json!(six.seq), Some(before["lines"].as_u64().unwrap() + 1))
    );

    assert_eq!(link.must("console:clear", "s", json!({})), json!({"cleared": true}));
    assert_eq!(link.must("get_server_logs", "s", json!({}))["lines"], 0, "what was cleared stays away");
    link.must("console:command", "s", json!({"command": "say seven"}));
    wait_line(&link, "s", "seven");
    assert_eq!(link.must("get_server_logs", "s", json!({}))["logs"], json!(["[Server] seven"]));

    link.must("console:interrupt", "s", json!({}));
    wait_line(&link, "s", "SIGINT received");
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopped");
    assert_eq!(
        link.must("get_server_logs", "s", json!({"lines": 1}))["logs"],
        json!(["Demo server stopped"])
    );
    link.must("delete_server", "s", json!({}));
    assert_eq!(code(&link.call("get_server_logs", "s", json!({}))), "SERVER_NOT_FOUND");
    assert!(!agent.data_dir.join("console/s").exists());
    assert_eq!(agent.terminate().code(), Some(0));
}

/// Waits until the Agent on this connection knows that the server runs.
fn wait_running(link: &Connection, server: &str) {
    link.wait_json(&format!("{server} running"), |message| {
        let data = &message["data"];
        let here = |known: &Value| known["serverId"] == server && known["status"] == "running";
        match message["event"].as_str() {
            Some("agent_connected") => {
                data["servers"].as_array().is_some_and(|servers| servers.iter().any(here))
            }
            Some("server_status_changed") => data["serverId"] == server && data["currentStatus"] == "running",
            _ => false,
        }
    });
}

/// Waits until so many lines have come and returns all there are.
fn wait_lines(link: &Connection, server: &str, count: usize) -> Vec<Told> {
    let mut found = 0;
    link.wait(&format!("{count} lines of {server}"), |seen| {
        if let Seen::Json(message) = seen
            && message["event"] == "server_log"
            && message["data"]["serverId"] == server
        {
            found += lines_of(&message["data"]).len();
        }
        (found >= count).then_some(())
    });
    told(link, server)
}

/// Asks for the last line until it is this one.
fn ask_until_last(link: &Connection, server: &str, line: &str) {
    let deadline = Instant::now() + SOON;
    while link.must("get_server_logs", server, json!({"lines": 1}))["logs"] != json!([line]) {
        assert!(Instant::now() < deadline, "{server} never printed {line:?}");
    }
}

#[test]
fn a_server_is_up_when_it_says_so() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let environment = json!({"QUIET": "1", "START_DELAY_MS": "700"});
    for (server, done) in
        [("text", json!("server ready")), ("regex", json!(["never", "regex:^Demo \\w+ ready$"]))]
    {
        link.must("create_server", server, demo(environment.clone(), json!({"done": done})));
        let began = Instant::now();
        let id = link.command("start_server", server, json!({}));
        link.wait_event("server_status_changed", |data| {
            data["serverId"] == server && data["currentStatus"] == "starting"
        });
        assert_eq!(link.response(&id)["data"]["status"], "running");
        assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
        wait_line(&link, server, "Demo server ready");
    }
    let id = link.command("restart_server", "text", json!({}));
    assert_eq!(link.response(&id)["data"]["status"], "running");
    let ready = told(&link, "text").iter().filter(|told| told.line.text == "Demo server ready").count();
    assert!(ready >= 1);
}

#[test]
fn restarts_of_the_server_lose_and_repeat_nothing() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({"TICK_MS": "1", "FLOOD_BYTES": "50000"}), json!({})));
    link.must("start_server", "s", json!({}));
    for _ in 0..3 {
        link.must("restart_server", "s", json!({}));
    }
    link.must("kill_server", "s", json!({}));
    link.must("start_server", "s", json!({}));
    link.must("stop_server", "s", json!({}));
    let theirs = engine().log(&agent.container("s"));
    let ours = wait_lines(&link, "s", theirs.len());
    assert_complete(&ours);
    assert_eq!(ours.into_iter().map(|told| told.line).collect::<Vec<_>>(), theirs);
    assert_eq!(gaps(&link, "s"), []);
}

#[test]
fn a_crash_of_the_agent_leaves_no_hole() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    started(&link, "s", demo(json!({"TICK_MS": "2"}), json!({})));
    let mut all = Vec::new();
    let mut link = link;
    for round in 0..3 {
        let mark = link.mark();
        wait_line_from(&link, mark, "s", "tick");
        agent.kill();
        link.wait_end(SOON);
        all.extend(told(&link, "s"));
        agent.start_again();
        link = panel.accept();
        wait_line(&link, "s", "tick");
        assert_eq!(gaps(&link, "s"), [], "round {round}");
    }
    link.must("stop_server", "s", json!({}));
    wait_line(&link, "s", "Demo server stopped");
    all.extend(told(&link, "s"));
    let theirs: BTreeSet<_> = engine().log(&agent.container("s")).into_iter().collect();
    let ours: BTreeSet<_> = all.iter().map(|told| told.line.clone()).collect();
    let lost: Vec<_> = theirs.difference(&ours).take(5).collect();
    let made_up: Vec<_> = ours.difference(&theirs).take(5).collect();
    assert!(lost.is_empty() && made_up.is_empty(), "lost {lost:?}, made up {made_up:?}");
}

#[test]
fn a_restart_of_the_agent_in_good_order_repeats_little() {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::start(&panel);
    let link = panel.accept();
    started(&link, "s", demo(quiet(), json!({})));
    link.must("console:command", "s", json!({"command": "flood 2000"}));
    wait_line(&link, "s", "flood 000002000");
    // A heartbeat's worth of waiting would confirm all; a ping of more output does the same.
    agent.terminate();
    agent.start_again();
    let link = panel.accept();
    wait_running(&link, "s");
    link.must("console:command", "s", json!({"command": "say again"}));
    wait_line(&link, "s", "again");
    let repeated = told(&link, "s").len() - 1;
    assert!(repeated <= 1400, "{repeated} lines came again");
}

#[test]
fn a_server_that_does_not_read_holds_up_nobody() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    started(
        &link,
        "deaf",
        demo(quiet(), json!({"stop": {"type": "command", "value": "stop", "timeout": 20}})),
    );
    started(&link, "other", demo(quiet(), json!({})));
    link.must("console:command", "deaf", json!({"command": "noread"}));
    wait_line(&link, "deaf", "not read any more");
    // The pipe, the Engine's buffers and the socket take some hundred KiB before anything has to wait.
    let filler = "x".repeat(4095) + "\n";
    let mut refused = Vec::new();
    let began = Instant::now();
    'full: for _ in 0..40 {
        let ids: Vec<String> =
            (0..16).map(|_| link.command("console:input", "deaf", json!({"input": filler}))).collect();
        for id in ids {
            let response = link.response(&id);
            if response["success"] == false {
                refused.push(code(&response).to_owned());
            }
        }
        if refused.len() >= 16 {
            break 'full;
        }
    }
    assert!(refused.iter().any(|code| code == "TIMEOUT"), "{refused:?}");
    assert!(refused.iter().all(|code| code == "TIMEOUT" || code == "BUSY"), "{refused:?}");
    println!("input was refused after {:?}", began.elapsed());
    // While one more is being refused, everything else goes on.
    let stuck = link.command("console:command", "deaf", json!({"command": "help"}));
    let began = Instant::now();
    link.must("get_status", "deaf", json!({}));
    link.must("console:command", "other", json!({"command": "say hi"}));
    wait_line(&link, "other", "hi");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // A stop by its command cannot be heard; a kill does not wait for that.
    let stop = link.command("stop_server", "deaf", json!({}));
    link.wait_event("server_status_changed", |data| {
        data["serverId"] == "deaf" && data["currentStatus"] == "stopping"
    });
    let began = Instant::now();
    link.must("kill_server", "deaf", json!({}));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(link.response(&stop)["data"]["killed"], true);
    assert_eq!(link.response(&stuck)["success"], false);
    // A new run has a console of its own.
    link.must("start_server", "deaf", json!({}));
    let mark = link.mark();
    link.must("console:command", "deaf", json!({"command": "say back"}));
    wait_line_from(&link, mark, "deaf", "back");
}

#[test]
fn a_server_is_stopped_by_its_own_command() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let stop = json!({"stop": {"type": "command", "value": "stop", "timeout": 20}});
    started(&link, "s", demo(quiet(), stop.clone()));
    let stopped = link.must("stop_server", "s", json!({}));
    assert_eq!((&stopped["exitCode"], &stopped["killed"]), (&json!(0), &json!(false)));
    wait_line(&link, "s", "World saved");
    assert!(!told(&link, "s").iter().any(|told| told.line.text.contains("SIGTERM")));
    // Again, on an attach of the new run.
    link.must("start_server", "s", json!({}));
    let mark = link.mark();
    link.must("console:command", "s", json!({"command": "say two"}));
    wait_line_from(&link, mark, "s", "two");
    assert_eq!(link.must("stop_server", "s", json!({}))["killed"], false);
    // One that hears neither its command nor a signal is killed.
    started(&link, "deaf", demo(json!({"QUIET": "1", "IGNORE_TERM": "1"}), stop));
    link.must("console:command", "deaf", json!({"command": "noread"}));
    wait_line(&link, "deaf", "not read any more");
    let stopped = link.must("stop_server", "deaf", json!({"timeout": 1}));
    assert_eq!((&stopped["exitCode"], &stopped["killed"]), (&json!(137), &json!(true)));
}

#[test]
fn a_tty_has_a_console_like_any_other() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    started(&link, "s", demo(quiet(), json!({"tty": true, "done": "server ready"})));
    link.must("console:command", "s", json!({"command": "say hello"}));
    assert_eq!(wait_line(&link, "s", "[Server] hello").line.text, "[Server] hello");
    link.must("console:interrupt", "s", json!({}));
    wait_line(&link, "s", "SIGINT received");
    link.wait_event("server_status_changed", |data| data["currentStatus"] == "stopped");
    assert_complete(&told(&link, "s"));
}

#[test]
fn on_demand_nothing_is_said_unasked() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start_with(&panel, engine(), &[("CONSOLE", "on-demand")]);
    let link = panel.accept();
    link.must("create_server", "s", demo(quiet(), json!({"done": "server ready"})));
    assert_eq!(
        link.must("start_server", "s", json!({}))["status"],
        "running",
        "readiness is seen all the same"
    );
    assert_eq!(link.must("console:status", "s", json!({}))["connected"], false);
    link.must("console:command", "s", json!({"command": "say early"}));
    engine().wait_output(&agent.container("s"), "early");
    assert_eq!(link.must("get_server_logs", "s", json!({"lines": 1}))["logs"], json!(["[Server] early"]));
    link.must("console:connect", "s", json!({}));
    link.must("console:command", "s", json!({"command": "say late"}));
    let late = wait_line(&link, "s", "late");
    assert_eq!(told(&link, "s"), std::slice::from_ref(&late), "only what came after it was asked for");
    link.must("console:disconnect", "s", json!({}));
    link.must("console:command", "s", json!({"command": "say unheard"}));
    engine().wait_output(&agent.container("s"), "unheard");
    let mark = link.mark();
    link.must("console:connect", "s", json!({"since": late.seq}));
    wait_line_from(&link, mark, "s", "unheard");
    assert_complete(&told(&link, "s"));
}

#[test]
fn a_legacy_panel_hears_and_commands() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.legacy("server_create", json!({"serverId": "s", "image": DEMO_IMAGE, "environment": quiet()}));
    link.wait_json("created", |message| {
        message["type"] == "server_status" && message["data"]["status"] == "created"
    });
    link.legacy("server_start", json!({"serverId": "s"}));
    let output = |text: &'static str| {
        link.wait_json(text, |message| {
            message["type"] == "server_output"
                && message["data"]["output"].as_str().is_some_and(|output| output.contains(text))
        })["data"]
            .clone()
    };
    assert_eq!(output("Demo server ready")["stream"], "stdout");
    link.legacy("server_command", json!({"serverId": "s", "command": "stderr oops"}));
    assert_eq!(output("oops")["stream"], "stderr");
    link.legacy("server_command", json!({"serverId": "none", "command": "x"}));
    let error = link.wait_json("an error", |message| message["type"] == "error");
    assert_eq!(
        (&error["data"]["code"], &error["data"]["serverId"]),
        (&json!("SERVER_NOT_FOUND"), &json!("none"))
    );
    assert!(
        !link.messages().iter().any(|message| message["event"] == "server_log"),
        "it has not spoken the other dialect"
    );
    link.must("get_status", "s", json!({}));
    link.legacy("server_command", json!({"serverId": "s", "command": "say both"}));
    output("both");
    wait_line(&link, "s", "both");
}

#[test]
fn what_is_wrong_is_named() {
    let panel = FakePanel::start();
    let _agent = AgentProcess::start(&panel);
    let link = panel.accept();
    let check = |action: &str, payload: Value, field: &str| {
        let response = link.call(action, "s", payload.clone());
        assert_eq!(code(&response), "INVALID_PAYLOAD", "{action} {payload}");
        let message = response["error"]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(&format!("{field}: ")), "{action} {payload}: {message}");
    };
    check("send_server_command", json!({}), "command");
    check("send_server_command", json!({"command": "a\nb"}), "command");
    check("console:command", json!({"command": "x".repeat(4097)}), "command");
    check("console:input", json!({"input": 5}), "input");
    check("console:input", json!({"input": "x".repeat(4097)}), "input");
    check("get_server_logs", json!({"lines": 0}), "lines");
    check("console:history", json!({"lines": 10_001}), "lines");
    check("console:connect", json!({"since": -1}), "since");
    check("console:connect", json!({"bootId": 1}), "bootId");
    check("console:download", json!({"format": "zip"}), "format");
}
