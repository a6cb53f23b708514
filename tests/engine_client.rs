//! The Engine client against a real Engine: what each call does, and what each refusal looks like.

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore::docker::*;
use support::{DEMO_IMAGE, SOON, engine, unique_name};

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
    let state = loop {
        let state = client.inspect(&made.id).unwrap().state;
        if !state.running {
            break state;
        }
    };
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
    assert!(client.image_inspect("longshore/none:1").unwrap_err().is_not_found());
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
