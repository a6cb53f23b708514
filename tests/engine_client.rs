//! The Engine client against a real Engine: what each call does, and what each refusal looks like.

mod support;

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore::docker::*;
use support::{DEMO_IMAGE, PrivateEngine, SOON, engine, unique_name};

fn client() -> Client {
    Client::new(Endpoint::parse(engine().host(), None, None).unwrap(), None).unwrap()
}

/// A container that is removed when the test ends, however it ends.
struct Made {
    id: ContainerId,
    name: String,
}

impl Drop for Made {
    fn drop(&mut self) {
        engine().remove(&self.id);
    }
}

fn config(args: &[&str]) -> ContainerConfig {
    ContainerConfig {
        image: DEMO_IMAGE.into(),
        cmd: Some(std::iter::once("/demo-server").chain(args.iter().copied()).map(String::from).collect()),
        env: vec!["QUIET=1".into()],
        open_stdin: true,
        ..ContainerConfig::default()
    }
}

fn create(client: &Client, mut config: ContainerConfig) -> Made {
    let name = unique_name();
    config.labels.insert("longshore.test".into(), name.clone());
    Made { id: client.create(&name, &config).unwrap().id, name }
}

/// The log, followed, ends when the container does.
fn wait_for_end(client: &Client, made: &Made) -> State {
    let follow = LogQuery { follow: true, tail: Some(0), ..LogQuery::default() };
    let closer = Closer::new();
    let tty = client.inspect(&made.id).unwrap().config.tty;
    let mut log = client.logs(&made.id, tty, &follow, &closer).unwrap();
    within(SOON, closer, move || while log.read(|_| {}).unwrap() {});
    // The log may end an instant before the state says so.
    let deadline = Instant::now() + SOON;
    loop {
        let state = client.inspect(&made.id).unwrap().state;
        if !state.running {
            return state;
        }
        assert!(Instant::now() < deadline, "{} still runs", made.name);
    }
}

/// Runs what blocks on a thread of its own and fails when it takes too long.
fn within<T: Send + 'static>(
    limit: Duration,
    closer: Closer,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done_tx, done) = mpsc::channel();
    let thread = thread::spawn(move || done_tx.send(work()).unwrap());
    let result = done.recv_timeout(limit);
    closer.close();
    match result {
        Ok(result) => result,
        Err(error) => panic!("{error}: {:?}", thread.join()),
    }
}

/// Reads a log to its end, or until enough lines have come.
fn read_lines(mut log: LogStream, enough: usize) -> Vec<(u64, Output, String)> {
    let mut lines = Vec::new();
    while lines.len() < enough
        && log.read(|line| lines.push((line.time_ns, line.output, line.text.into_owned()))).unwrap()
    {}
    lines
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[test]
fn the_engine_says_what_it_is() {
    let client = client();
    let ping = client.ping().unwrap();
    assert_eq!(ping.os, "linux");
    assert!(ping.api_version >= ApiVersion::MIN, "{ping:?}");
    assert_eq!(client.api_version().unwrap(), ping.api_version.min(ApiVersion::MAX));
    assert_eq!(client.ping_fresh(SOON).unwrap(), ping);
    let version = client.version().unwrap();
    assert_eq!(version.api_version, ping.api_version.to_string());
    assert!(!version.version.is_empty() && !version.kernel_version.is_empty(), "{version:?}");
    let info = client.info().unwrap();
    assert_eq!(info.server_version, version.version);
    assert!(info.cpus > 0 && info.mem_total > 0 && !info.driver.is_empty(), "{info:?}");
    assert!(["cgroupfs", "systemd", "none"].contains(&&*info.cgroup_driver), "{info:?}");
}

#[test]
fn a_container_lives_from_create_to_remove() {
    let client = client();
    let before = now_ns();
    let mut wanted = config(&["ignore-term"]);
    wanted.labels.insert("longshore.colour".into(), "blue".into());
    wanted.user = Some("1000:1000".into());
    wanted.host_config = HostConfig {
        resources: Resources {
            memory: Some(64 << 20),
            memory_swap: Some(64 << 20),
            nano_cpus: Some(500_000_000),
            pids_limit: Some(50),
            ..Resources::default()
        },
        network_mode: Some("none".into()),
        init: Some(true),
        cap_drop: vec!["ALL".into()],
        cap_add: vec!["KILL".into()],
        security_opt: vec!["no-new-privileges".into()],
        tmpfs: [("/tmp".into(), "rw,nosuid,nodev,size=1m".into())].into(),
        log_config: Some(LogConfig::json_file(1 << 20, 2)),
        ..HostConfig::default()
    };
    let made = create(&client, wanted);

    let container = client.inspect(&made.id).unwrap();
    assert_eq!((&container.id, &container.name), (&made.id, &made.name));
    assert_eq!(container.state.status, Status::Created);
    assert_eq!((container.state.started_ns, container.state.finished_ns), (None, None));
    assert!(container.created_ns.unwrap().abs_diff(before) < 60_000_000_000);
    assert_eq!(container.config.labels["longshore.colour"], "blue");
    assert_eq!((&*container.config.image, &*container.config.user), (DEMO_IMAGE, "1000:1000"));
    assert!(container.config.open_stdin && !container.config.tty);
    let host = &container.host_config;
    assert_eq!((host.memory, host.memory_swap, host.nano_cpus), (64 << 20, 64 << 20, 500_000_000));
    assert_eq!((host.pids_limit, host.init, host.privileged), (Some(50), true, false));
    assert_eq!((&*host.restart_policy.name, &*host.log_config.driver), ("no", "json-file"));
    assert_eq!(host.cap_drop, ["ALL"]);
    assert_eq!(host.cap_add.len(), 1);
    assert_eq!(host.tmpfs["/tmp"], "rw,nosuid,nodev,size=1m");

    assert!(client.kill(&made.id, "SIGTERM").unwrap_err().is_conflict(), "a kill of what does not run");
    client.start(&made.id).unwrap();
    assert!(client.start(&made.id).unwrap_err().is_not_modified(), "a second start");
    let state = client.inspect(&made.name).unwrap().state;
    assert_eq!((state.status, state.running), (Status::Running, true));
    assert!(state.pid > 0 && state.started_ns.unwrap() >= before);

    client.update(&made.id, &Resources { nano_cpus: Some(250_000_000), ..Resources::default() }).unwrap();
    let host = client.inspect(&made.id).unwrap().host_config;
    assert_eq!((host.nano_cpus, host.memory), (250_000_000, 64 << 20));

    assert!(client.remove(&made.id, false).unwrap_err().is_conflict(), "removal of what runs");
    client.kill(&made.id, "SIGKILL").unwrap();
    let state = wait_for_end(&client, &made);
    assert_eq!((state.status, state.exit_code, state.pid), (Status::Exited, 137, 0));
    assert!(state.finished_ns >= state.started_ns);
    client.remove(&made.id, false).unwrap();
    assert!(client.inspect(&made.id).unwrap_err().is_not_found());
    assert!(client.remove(&made.id, true).unwrap_err().is_not_found());
}

#[test]
fn a_list_shows_what_has_every_label_and_nothing_else() {
    let client = client();
    let made = create(&client, config(&[]));
    let _other = create(&client, config(&[]));
    let label = format!("longshore.test={}", made.name);
    let list = client.list(&[&label, "longshore.test"]).unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((&list[0].id, &list[0].names), (&made.id, &vec![made.name.clone()]));
    assert_eq!((list[0].status, &*list[0].image), (Status::Created, DEMO_IMAGE));
    assert_eq!(client.list(&[&label, "longshore.none"]).unwrap(), []);
}

#[test]
fn refusals_are_told_apart() {
    let client = client();
    let made = create(&client, config(&[]));
    let taken = client.create(&made.name, &config(&[])).unwrap_err();
    assert!(taken.is_conflict() && taken.to_string().contains(&*made.id), "{taken}");
    let no_image = ContainerConfig { image: "longshore/none:1".into(), ..config(&[]) };
    assert!(client.create(&unique_name(), &no_image).unwrap_err().is_not_found());
    assert_eq!(client.create("x", &config(&[])).unwrap_err().status(), Some(400));
    assert_eq!(client.kill(&made.id, "SIGNONE").unwrap_err().status(), Some(400));
    // None of these is sent: they would reach another path.
    for name in ["", "..", ".", "a/b", "a?force=1", "../images", "é"] {
        assert!(client.inspect(name).unwrap_err().is_not_found(), "{name:?}");
        assert!(client.image_inspect(name).unwrap_err().is_not_found() || name == "a/b", "{name:?}");
    }
    let broken = create(&client, ContainerConfig { cmd: Some(vec!["/none".into()]), ..config(&[]) });
    let error = client.start(&broken.id).unwrap_err();
    assert!(matches!(error.status(), Some(400 | 500)), "{error}");
    assert!(error.to_string().contains("/none"), "{error}");
}

#[test]
fn an_image_is_inspected_and_a_pull_that_cannot_work_says_why() {
    let client = client();
    let image = client.image_inspect(DEMO_IMAGE).unwrap();
    assert_eq!(image.config.cmd, ["/demo-server"]);
    assert_eq!(image.config.working_dir, "/home/container");
    assert_eq!(client.image_inspect(&image.id).unwrap().id, image.id);
    let digest = format!("longshore/demo@sha256:{}", "0".repeat(64));
    for none in ["longshore/none:1", &digest] {
        let error = client.image_inspect(none).unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("No such image"), "{none}: {error}");
    }
    assert!(client.image_remove("longshore/none:1").unwrap_err().is_not_found());
    // Nothing listens at port 1.
    let reference: Reference = "localhost:1/longshore/none:1".parse().unwrap();
    let error = client.image_pull(&reference, None, &mut |_| {}, &Closer::new()).unwrap_err();
    assert!(error.status().is_some_and(|status| status >= 400), "{error}");
}

#[test]
fn an_engine_that_is_not_there_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::Unix(dir.path().join("none.sock"));
    let client = Client::new(endpoint, None).unwrap();
    assert!(matches!(client.inspect("a"), Err(Error::Unavailable(_))));
    assert!(matches!(client.ping_fresh(Duration::from_secs(1)), Err(Error::Unavailable(_))));
}

#[test]
fn events_tell_a_containers_life_and_resume_without_repetition() {
    let client = client();
    let name = unique_name();
    let label = format!("longshore.test={name}");
    let labels = [&*label];
    let closer = Closer::new();
    let query = EventQuery { labels: &labels, ..EventQuery::default() };
    let mut events = client.events(&query, &closer).unwrap();
    let mut wanted = config(&[]);
    wanted.labels.insert("longshore.test".into(), name.clone());
    let made = Made { id: client.create(&name, &wanted).unwrap().id, name: name.clone() };
    client.start(&made.id).unwrap();
    client.kill(&made.id, "SIGKILL").unwrap();
    let (cursor, seen, closed) = within(SOON, closer.clone(), move || {
        let mut cursor = EventCursor::default();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|event: &ContainerEvent| event.action != Action::Die) {
            let event = events.next().unwrap();
            assert!(cursor.is_new(&event), "{event:?}");
            seen.push(event);
        }
        (cursor, seen, events)
    });
    let actions: Vec<Action> = seen.iter().map(|event| event.action).collect();
    // The kill may be told after the death that it caused.
    assert_eq!(actions[..2], [Action::Create, Action::Start]);
    assert_eq!(seen.last().unwrap().exit_code, Some(137));
    assert!(seen.iter().all(|event| event.id == made.id && event.name() == name), "{seen:?}");
    assert_eq!(seen[0].attributes["longshore.test"], name);
    if let Some(kill) = seen.iter().find(|event| event.action == Action::Kill) {
        assert_eq!(kill.signal, Some(9));
    }
    drop(closed);

    client.remove(&made.id, true).unwrap();
    let closer = Closer::new();
    let query =
        EventQuery { since_ns: cursor.since_ns(), labels: &labels, actions: &["create", "start", "destroy"] };
    let mut events = client.events(&query, &closer).unwrap();
    let mut cursor = cursor;
    within(SOON, closer, move || {
        let mut repeated = 0;
        loop {
            let event = events.next().unwrap();
            assert!(!matches!(event.action, Action::Die | Action::Kill), "not asked for: {event:?}");
            if cursor.is_new(&event) {
                assert_eq!(event.action, Action::Destroy);
                break;
            }
            repeated += 1;
        }
        assert!(repeated > 0, "the overlap brings at least the newest event again");
    });
}

#[test]
fn a_closer_wakes_a_blocked_stream_at_once_and_is_final() {
    let client = client();
    let closer = Closer::new();
    let none = ["longshore.test=none"];
    let query = EventQuery { labels: &none, ..EventQuery::default() };
    let mut events = client.events(&query, &closer).unwrap();
    let (blocked_tx, blocked) = mpsc::channel();
    let reader = thread::spawn(move || {
        blocked_tx.send(()).unwrap();
        (events.next(), Instant::now())
    });
    blocked.recv().unwrap();
    let closed = Instant::now();
    closer.close();
    let (result, woke) = reader.join().unwrap();
    assert_eq!(result, Err(Error::Cancelled));
    assert!(woke - closed < Duration::from_secs(1), "{:?}", woke - closed);
    assert_eq!(client.events(&query, &closer).err(), Some(Error::Cancelled));
}

#[test]
fn a_log_is_followed_to_the_end_and_resumed_at_its_last_line() {
    let client = client();
    let made = create(&client, config(&["line 40000"]));
    client.start(&made.id).unwrap();
    let closer = Closer::new();
    let input = Closer::new();
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let log = client.logs(&made.id, false, &follow, &closer).unwrap();
    let mut stdin = client.attach_stdin(&made.id, &input).unwrap();
    assert!(stdin.is_open() && stdin.leftover().is_empty());
    stdin.write(b"stderr oh\nsay hi\nstop\n", SOON).unwrap();
    let lines = within(SOON, closer, move || read_lines(log, usize::MAX));
    let long: usize = lines.iter().map(|line| line.2.len()).filter(|length| *length > 5000).sum();
    assert_eq!(long, 40_000, "the long line is whole, in its two pieces");
    assert!(lines.iter().any(|line| line.1 == Output::Stderr && line.2 == "oh"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.2.contains('\n') && now_ns().abs_diff(line.0) < 60_000_000_000));
    wait_for_end(&client, &made);
    // The Engine notices that nobody is left to read only when there is something to pass on.
    let begun = Instant::now();
    while stdin.write(b"too late\n", SOON).is_ok() {
        assert!(begun.elapsed() < SOON, "an attach ends with its container");
        thread::yield_now();
    }
    assert!(!stdin.is_open());

    // Resumed at the last line's time, that line comes again, and none before it.
    let last = lines.last().unwrap();
    let resume = LogQuery { since_ns: Some(last.0), ..LogQuery::default() };
    let again = read_lines(client.logs(&made.id, false, &resume, &Closer::new()).unwrap(), usize::MAX);
    assert_eq!(again.last(), Some(last));
    assert!(again.iter().all(|line| line.0 >= last.0), "{again:?}");
    let tail = LogQuery { tail: Some(1), ..LogQuery::default() };
    let tail = read_lines(client.logs(&made.id, false, &tail, &Closer::new()).unwrap(), usize::MAX);
    assert_eq!(tail, std::slice::from_ref(last));
}

#[test]
fn a_ttys_log_reads_the_same() {
    let client = client();
    let made = create(&client, ContainerConfig { tty: true, ..config(&["line 40000"]) });
    client.start(&made.id).unwrap();
    let mut stdin = client.attach_stdin(&made.id, &Closer::new()).unwrap();
    // A terminal's end of line and what detaches by default: both are input.
    stdin.write(b"say hi\x10\x11\rstop\r", SOON).unwrap();
    wait_for_end(&client, &made);
    assert!(client.inspect(&made.id).unwrap().config.tty);
    let log = client.logs(&made.id, true, &LogQuery::default(), &Closer::new()).unwrap();
    let lines = read_lines(log, usize::MAX);
    // The terminal's echo of what was typed may have come in between, and with it the end of a line.
    let long: usize = lines.iter().map(|line| line.2.matches('x').count()).sum();
    assert_eq!(long, 40_000, "the long line is whole");
    assert!(lines.iter().all(|line| !line.2.contains(['\n']) && !line.2.contains("T00:")), "{lines:?}");
    assert!(lines.iter().any(|line| line.2.contains("hi")), "no answer");
}

#[test]
fn what_is_gone_has_no_streams() {
    let client = client();
    let gone = "f".repeat(64);
    assert!(client.logs(&gone, false, &LogQuery::default(), &Closer::new()).err().unwrap().is_not_found());
    assert!(client.attach_stdin(&gone, &Closer::new()).err().unwrap().is_not_found());
}

#[test]
fn input_that_nobody_reads_is_bounded_in_time() {
    let client = client();
    let made = create(&client, config(&[]));
    client.start(&made.id).unwrap();
    let closer = Closer::new();
    let mut stdin = client.attach_stdin(&made.id, &closer).unwrap();
    stdin.write(b"noread\n", SOON).unwrap();
    let begun = Instant::now();
    let full = loop {
        if let Err(error) = stdin.write(&[b'x'; 64 << 10], Duration::from_millis(300)) {
            break error;
        }
        assert!(begun.elapsed() < SOON, "the buffers between have some end");
    };
    assert!(matches!(full, Error::Timeout(_)), "{full}");
    // The rest of a line must not follow on its beginning.
    assert!(matches!(stdin.write(b"\n", SOON), Err(Error::Unavailable(_))));
    closer.close();
    assert_eq!(stdin.write(b"\n", SOON), Err(Error::Cancelled));
}

/// Carries bytes between a TCP port and the Engine's socket, as a socket proxy does. Returns the port.
fn tcp_door(socket: String) -> u16 {
    fn carry(mut from: impl io::Read, mut to: impl io::Write, end: impl FnOnce()) {
        let _ = io::copy(&mut from, &mut to);
        end();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let unix = UnixStream::connect(&socket).unwrap();
            let (tcp_in, unix_in): (TcpStream, UnixStream) =
                (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
            let (tcp_end, unix_end) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
            thread::spawn(move || carry(tcp_in, unix, || drop(unix_end.shutdown(Shutdown::Both))));
            thread::spawn(move || carry(unix_in, tcp, || drop(tcp_end.shutdown(Shutdown::Both))));
        }
    });
    port
}

#[test]
fn over_tcp_everything_is_the_same() {
    let Some(socket) = engine().host().strip_prefix("unix://") else { return };
    let port = tcp_door(socket.into());
    for host in ["127.0.0.1", "localhost"] {
        let endpoint = Endpoint::parse(&format!("tcp://{host}:{port}"), None, None).unwrap();
        let client = Client::new(endpoint, None).unwrap();
        let made = create(&client, config(&[]));
        client.start(&made.id).unwrap();
        let closer = Closer::new();
        let follow = LogQuery { follow: true, ..LogQuery::default() };
        let log = client.logs(&made.id, false, &follow, &closer).unwrap();
        client.attach_stdin(&made.id, &Closer::new()).unwrap().write(b"say hi\nstop\n", SOON).unwrap();
        let lines = within(SOON, closer, move || read_lines(log, usize::MAX));
        assert!(lines.iter().any(|line| line.2.contains("hi")), "{lines:?}");
        assert_eq!(wait_for_end(&client, &made).exit_code, 0);
        let closer = Closer::new();
        let mut events = client.events(&EventQuery::default(), &closer).unwrap();
        let ended = thread::spawn(move || while events.next() != Err(Error::Cancelled) {});
        closer.close();
        within(SOON, Closer::new(), move || ended.join().unwrap());
    }
    // Only over TCP would a first write after the end go nowhere without an error.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::parse(&format!("tcp://{}", listener.local_addr().unwrap()), None, None).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            io::Read::read_exact(&mut stream, &mut byte).unwrap();
            head.push(byte[0]);
        }
        io::Write::write_all(&mut stream, b"HTTP/1.1 101 UPGRADED\r\n\r\n").unwrap();
    });
    let client = Client::new(endpoint, Some(ApiVersion::MIN)).unwrap();
    let mut stdin = client.attach_stdin("a", &Closer::new()).unwrap();
    server.join().unwrap();
    assert!(matches!(stdin.write(b"x", SOON), Err(Error::Unavailable(_))));
}

#[test]
fn an_engine_that_was_restarted_between_two_calls_is_used_as_if_nothing_was() {
    let engine = PrivateEngine::start();
    let client = Client::new(Endpoint::parse(engine.host(), None, None).unwrap(), None).unwrap();
    let id = client.create("kept", &config(&[])).unwrap().id;
    let closer = Closer::new();
    let mut events = client.events(&EventQuery::default(), &closer).unwrap();
    engine.kill();
    assert!(matches!(client.inspect(&id), Err(Error::Unavailable(_))));
    assert!(matches!(client.ping_fresh(SOON), Err(Error::Unavailable(_))));
    let ended = within(SOON, closer, move || events.next());
    assert!(matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
    engine.start_again();
    assert_eq!(client.inspect(&id).unwrap().name, "kept");
    engine.terminate();
    engine.start_again();
    // Not repeatable, and yet no error: what is left in the pool is seen to be closed before it is used.
    client.start(&id).unwrap();
    client.kill(&id, "SIGKILL").unwrap();
}
