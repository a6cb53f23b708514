//! The Agent under the init systems that Debian has, each the real one in a container of its own: installed by install.sh,
//! ready, killed and back, stopped in order, its log where that system's users look, removed again; and a game server that
//! runs on through all of it. What the service does is seen from the Panel, from inside the container and by the Engine.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

/// Group `docker` in the machine.
const DOCKER_GROUP: u32 = 990;
/// A stop has 30 s, and those who started it some more.
const STOPPED: Duration = Duration::from_secs(40);

/// One init system, and how its users ask it for things.
struct Init {
    name: &'static str,
    /// What is process 1.
    first: &'static [&'static str],
    /// Run before anything is installed.
    prepare: &'static str,
    stop: &'static str,
    start: &'static str,
    /// Prints the log.
    log: &'static str,
    /// Succeeds when the last end was exit code 0, as far as the init system knows.
    ended_well: &'static str,
}

/// A machine with the init system as process 1, a Panel that it can reach, and the Engine's socket. Dropping it removes
/// everything.
struct Machine {
    name: String,
    node: String,
    panel: FakePanel,
    dir: TempDir,
    engine: EngineProxy,
}

impl Machine {
    fn start(init: &Init) -> Machine {
        need(&["docker:docker.io"]);
        support::script("init-image.sh", &[], Some(engine().host()));
        // Its own path inside and outside, since servers' directories are mounted from it.
        let dir = tempfile::Builder::new().prefix("init-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let engine = EngineProxy::start(support::engine(), "1.41", |_| None);
        let socket = engine.engine().host().strip_prefix("unix://").unwrap().to_owned();
        chown(&socket, Some(0), Some(DOCKER_GROUP)).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
        let root = env!("CARGO_MANIFEST_DIR");
        let agent = Path::new(env!("CARGO_BIN_EXE_longshore-agent")).parent().unwrap().display();
        let name = unique_name();
        let mounts = [
            format!("{socket}:/engine.sock"),
            format!("{root}/dist:/dist:ro"),
            format!("{agent}:/built:ro"),
            format!("{0}:{0}", dir.path().display()),
        ];
        let mut arguments: Vec<&str> = vec!["run", "--detach", "--name", &name, "--label"];
        let label = format!("longshore.test={name}");
        // What systemd needs to be one; no more of the machine is given away.
        arguments.extend([&label, "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"]);
        arguments.extend([
            "--cgroupns",
            "private",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
            "--env",
            "container=docker",
        ]);
        arguments.extend(mounts.iter().flat_map(|mount| ["--volume", mount.as_str()]));
        arguments.push("longshore/init:latest");
        arguments.extend(init.first);
        must(&docker(&arguments));
        let gateway = support::engine().inspect(&name).unwrap()["NetworkSettings"]["Gateway"].clone();
        let panel = FakePanel::start_at(gateway.as_str().unwrap().parse().unwrap());
        let machine = Machine { node: unique_name(), name, panel, dir, engine };
        machine.must(&format!("groupadd --gid {DOCKER_GROUP} docker; {}", init.prepare));
        machine
    }

    /// Runs a line of shell inside.
    fn run(&self, line: &str) -> Output {
        docker(&["exec", &self.name, "sh", "-c", line])
    }

    #[track_caller]
    fn must(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", told(&output));
        told(&output)
    }

    /// Runs a line until it succeeds; there is nothing that would tell.
    #[track_caller]
    fn wait(&self, line: &str, within: Duration) -> String {
        let begun = std::time::Instant::now();
        loop {
            let output = self.run(line);
            if output.status.success() {
                return told(&output);
            }
            assert!(begun.elapsed() < within, "{line}: {}", told(&output));
        }
    }

    fn install(&self, init: &Init) -> Output {
        let data = self.dir.path().join("data");
        let settings = format!(
            "ALLOW_INSECURE=1\nDOCKER_HOST=unix:///engine.sock\nDATA_DIR={}\nLOG_LEVEL=debug\n",
            data.display()
        );
        fs::create_dir_all(&data).unwrap();
        fs::write(self.dir.path().join("settings"), settings).unwrap();
        fs::write(self.dir.path().join("secret"), "hunter2-hunter2\n").unwrap();
        let dir = self.dir.path().display();
        self.run(&format!(
            "mkdir -p /etc/longshore; [ -e /etc/longshore/agent.env ] || cat /dist/agent.env {dir}/settings >/etc/longshore/agent.env; \
             SERVICE_DIR=/service /dist/install.sh --init {} --panel-url {} --node-id {} --secret-file {dir}/secret \
             --group docker --binary /built/longshore-agent </dev/null; \
             code=$?; exit $code",
            init.name,
            self.panel.url(),
            self.node
        ))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", told(&docker(&["logs", "--tail", "50", &self.name])));
            let logs =
                "tail -n 30 /var/log/longshore-agent.log /var/log/longshore-agent/current; journalctl -n 30";
            eprintln!("{}", told(&self.run(logs)));
        }
        docker(&["rm", "--force", &self.name]);
        support::engine().remove_node(&self.node);
        let _ = &self.engine;
    }
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .env("DOCKER_HOST", engine().host())
        .output()
        .expect("docker is there")
}

fn told(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}").trim().to_owned()
}

#[track_caller]
fn must(output: &Output) {
    assert!(output.status.success(), "{}", told(output));
}

/// Sets `pid` to the Agent's own, neither a keeper's nor a supervisor's. Its `exe` link is hidden, since it is not dumpable.
const AGENT_RUNS: &str = r#"pid=; for one in $(busybox pidof longshore-agent); do
    case $(tr '\0' ' ' <"/proc/$one/cmdline") in /usr/local/bin/longshore-agent\ *) pid=$one ;; esac
done; [ -n "$pid" ]"#;

fn check(init: &Init) {
    let machine = Machine::start(init);
    let installed = machine.install(init);
    must(&installed);
    let words = String::from_utf8_lossy(&installed.stdout).into_owned();
    assert!(words.ends_with("install: ready\n"), "{}", told(&installed));
    let link = machine.panel.accept();
    assert_eq!(link.header("authorization"), Some("Bearer hunter2-hunter2"));

    // Least privilege.
    let status =
        machine.must(&format!("{AGENT_RUNS}; cat /proc/$pid/status; id longshore; ls -l /etc/longshore"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    assert_ne!(field("Uid:").split('\t').next(), Some("0"), "{status}");
    assert!(field("Groups:").split(' ').any(|group| group == DOCKER_GROUP.to_string()), "{status}");
    assert_eq!((field("Umask:"), field("CapEff:")), ("0027".into(), "0000000000000000".into()));
    let mode = machine.must("stat -c '%a %U:%G' /etc/longshore/agent.env /etc/longshore/secret");
    let secret = if init.name == "systemd" { "600 root:root" } else { "640 root:longshore" };
    assert_eq!(mode, format!("640 root:longshore\n{secret}"));

    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    let server = format!("longshore-{}-s", machine.node);
    let since = engine().inspect(&server).unwrap()["State"]["StartedAt"].clone();
    let untouched = || {
        let state = engine().inspect(&server).expect("it is there")["State"].clone();
        assert_eq!(
            (&state["Running"], &state["StartedAt"]),
            (&json!(true), &since),
            "the server is left alone"
        );
    };

    // Killed, and back.
    machine.must(&format!("{AGENT_RUNS} && kill -9 $pid"));
    let link = machine.panel.accept_within(Duration::from_secs(30)).expect("it is started again");
    untouched();

    // Stopped in order, within its time, and started again.
    let begun = std::time::Instant::now();
    machine.must(init.stop);
    machine.wait(&format!("! {{ {AGENT_RUNS}; }}"), STOPPED);
    assert!(begun.elapsed() < STOPPED);
    let closed = link.wait("the close", |seen| if let Seen::Close(code) = seen { Some(*code) } else { None });
    assert_eq!(closed, Some(1001), "an orderly end tells the Panel");
    machine.wait(init.ended_well, SOON);
    untouched();
    let log = machine.wait(&format!("{} | grep -F 'stopping; game servers keep running'", init.log), SOON);
    assert!(!log.contains("hunter2"), "{log}");
    machine.must(init.start);
    let link = machine.panel.accept_within(Duration::from_secs(30)).expect("it is started again");
    let reply = link.call("get_status", "s", json!({}));
    assert_eq!(reply["success"], Value::Bool(true), "{reply}");

    // Once more changes nothing.
    let before = machine.must("sha256sum /etc/longshore/agent.env");
    must(&machine.install(init));
    assert_eq!(machine.must("sha256sum /etc/longshore/agent.env"), before);

    let gone = machine
        .must(&format!("SERVICE_DIR=/service /dist/install.sh --init {} --uninstall --purge", init.name));
    assert!(gone.contains("removed"), "{gone}");
    machine.wait(&format!("! {{ {AGENT_RUNS}; }}"), STOPPED);
    machine.must(
        "! grep longshore /etc/passwd && [ ! -e /usr/local/bin/longshore-agent ] && [ ! -e /etc/longshore ]",
    );
    untouched();
}

/// Credentials are mounts that services have to see, which a container manager is to make possible.
const SYSTEMD: &[&str] = &["sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd"];

#[test]
fn under_systemd() {
    check(&Init {
        name: "systemd",
        first: SYSTEMD,
        prepare: "until systemctl is-system-running --wait >/dev/null 2>&1; do [ \"$(systemctl is-system-running)\" = degraded ] && break; done; true",
        stop: "systemctl stop longshore-agent",
        start: "systemctl start longshore-agent",
        log: "journalctl -u longshore-agent -p 6 -o cat",
        ended_well: "[ \"$(systemctl show -p Result -p ExecMainStatus longshore-agent | sort | tr '\\n' ' ')\" = 'ExecMainStatus=0 Result=success ' ]",
    });
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let init = Init {
        name: "systemd",
        first: SYSTEMD,
        prepare: "until systemctl list-units >/dev/null 2>&1; do :; done; true",
        stop: "",
        start: "",
        log: "",
        ended_well: "",
    };
    let machine = Machine::start(&init);
    must(&machine.install(&init));
    let verified =
        machine.must("systemd-analyze verify --man=no /etc/systemd/system/longshore-agent.service");
    assert_eq!(verified, "", "verify has nothing to say");
    let exposure = machine.must("systemd-analyze security --no-pager longshore-agent.service | tail -1");
    let number = exposure.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    assert!(number.is_some_and(|number| number <= 2.0), "{exposure}");
}

#[test]
fn under_runit() {
    check(&Init {
        name: "runit",
        first: &["runsvdir", "-P", "/service"],
        prepare: "mkdir -p /service",
        stop: "sv -w 35 down /service/longshore-agent",
        start: "sv up /service/longshore-agent",
        log: "cat /var/log/longshore-agent/current",
        ended_well: "sv status /service/longshore-agent | grep -q '^down:'",
    });
}

#[test]
fn under_s6() {
    check(&Init {
        name: "s6",
        first: &["sh", "-c", "mkdir -p /service; exec s6-svscan /service"],
        prepare: "until [ -p /service/.s6-svscan/control ]; do :; done",
        stop: "s6-svc -wD -T 35000 -d /service/longshore-agent",
        start: "s6-svc -wU -T 30000 -u /service/longshore-agent",
        log: "cat /var/log/longshore-agent/current",
        ended_well: "[ \"$(s6-svstat -o exitcode /service/longshore-agent)\" = 0 ]",
    });
}

#[test]
fn under_openrc() {
    check(&Init {
        name: "openrc",
        first: REAPER,
        // What its boot would have made.
        prepare: "mkdir -p /run/openrc && cd /run/openrc && touch softlevel && mkdir starting started stopping inactive \
                  wasinactive failed options exclusive scheduled init.d tmp daemons hotplugged coldplugged",
        stop: "rc-service longshore-agent stop",
        start: "rc-service longshore-agent start",
        log: "cat /var/log/longshore-agent.log",
        ended_well: "! rc-service longshore-agent status",
    });
}

/// A shell that does for orphans what every process 1 does.
const REAPER: &[&str] = &["sh", "-c", "while :; do sleep 3600; done"];

const SYSV: Init = Init {
    name: "sysv",
    first: REAPER,
    prepare: "",
    stop: "/etc/init.d/longshore-agent stop",
    start: "/etc/init.d/longshore-agent start",
    log: "cat /var/log/longshore-agent.log",
    ended_well: "/etc/init.d/longshore-agent status; [ $? -eq 3 ]",
};

#[test]
fn under_sysv_with_start_stop_daemon() {
    check(&SYSV);
}

#[test]
fn under_sysv_without_start_stop_daemon() {
    check(&Init { prepare: "rm -f /sbin/start-stop-daemon /usr/sbin/start-stop-daemon", ..SYSV });
}

#[test]
fn a_new_program_that_does_not_become_ready_is_rolled_back() {
    let machine = Machine::start(&SYSV);
    must(&machine.install(&SYSV));
    machine.panel.accept();
    // Tells its version and then hangs.
    let bad = "printf '#!/bin/sh\\n[ \"$1\" = --version ] && exec echo bad 1\\n[ \"$1\" = status ] && exit 3\\nexec sleep 1000\\n' >/root/bad; chmod 755 /root/bad";
    machine.must(bad);
    let upgraded = machine.run("/dist/install.sh --init sysv --group docker --binary /root/bad </dev/null");
    assert!(
        !upgraded.status.success() && told(&upgraded).contains("the old program runs again"),
        "{}",
        told(&upgraded)
    );
    machine.panel.accept_within(Duration::from_secs(30)).expect("the old program is linked again");
    machine.must("cmp /built/longshore-agent /usr/local/bin/longshore-agent && cmp /root/bad /usr/local/bin/longshore-agent.failed");
    let dry = machine.must(
        "/dist/install.sh --init sysv --dry-run --binary /root/bad --panel-url wss://other/ </dev/null",
    );
    assert!(
        dry.contains("would: ") && !machine.must("cat /etc/longshore/agent.env").contains("wss://other/"),
        "{dry}"
    );
}
