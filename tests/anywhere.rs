//! The static Agent where there is nothing else: a bare chroot, a container FROM scratch with a read-only root and a kernel
//! that lacks what is new, little memory, no names, no Engine. Part of `make test-all`, which builds it as it ships and
//! names it in LONGSHORE_AGENT.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use support::*;
use tempfile::TempDir;

fn agent() -> PathBuf {
    std::env::var_os("LONGSHORE_AGENT").expect("LONGSHORE_AGENT names the Agent of `make release`").into()
}

/// A directory with the Agent and nothing else.
fn bare_root() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(agent(), dir.path().join("agent")).unwrap();
    dir
}

/// Starts a line of shell, with an environment that has nothing but the Agent's own settings, LANG not among them.
fn start(line: &str, root: &Path, panel: &str) -> Child {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", line, root.to_str().unwrap()]).env_clear();
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("PANEL_URL", panel)
        .env("NODE_ID", unique_name());
    command.env("AGENT_SECRET", "hunter2-hunter2").env("HEALTH_ADDR", "127.0.0.1:0").env("DATA_DIR", "/data");
    command.env("DOCKER_HOST", NO_ENGINE).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Asks it to end, and holds that it does so in order.
#[track_caller]
fn ends_well(child: Child) -> String {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    log
}

/// It dials the Panel by the name `localhost`, which nothing but itself can know here, and answers.
#[track_caller]
fn works(line: &str) -> String {
    let (root, panel) = (bare_root(), FakePanel::start());
    let child = start(line, root.path(), &format!("ws://localhost:{}/agent", panel.address().port()));
    let link = panel.accept();
    assert_eq!(link.call("list_servers", "", json!({}))["success"], true);
    ends_well(child)
}

#[test]
fn in_a_bare_chroot() {
    works(r#"exec chroot "$0" /agent"#);
}

#[test]
fn with_32_mib_of_address_space() {
    works(r#"exec prlimit --as=33554432 chroot "$0" /agent"#);
}

#[test]
fn without_a_root_that_can_be_written() {
    let log = works(
        r#"mkdir "$0/data" && mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs none "$0/data" &&
           exec chroot "$0" /agent"#,
    );
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_name_that_nobody_resolves_is_told_and_does_not_hold_it_up() {
    let root = bare_root();
    let child = start(r#"exec chroot "$0" /agent"#, root.path(), "wss://panel.example/agent");
    let log = {
        let mut child = child;
        let mut log = String::new();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        // The first dial fails within its bound, without a resolver to ask.
        while !log.contains("dns: panel.example") {
            log += &lines.next().expect("the log goes on").unwrap();
        }
        ends_well(child);
        log
    };
    assert!(log.contains("no system certificates found, using the built-in ones"), "{log}");
}

/// What older kernels answer to newer calls.
const OLD_KERNEL: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO", "errnoRet": 38,
    "names": ["openat2", "statx", "clone3", "getrandom", "pidfd_open", "pidfd_getfd", "faccessat2", "close_range"]}]}"#;

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker")
        .args(arguments)
        .env("DOCKER_HOST", engine().host())
        .output()
        .expect("docker is there")
}

#[test]
fn from_scratch_on_a_kernel_without_what_is_new() {
    need(&["docker:docker.io"]);
    let (root, name) = (bare_root(), unique_name());
    let (profile, image) = (root.path().join("profile"), format!("longshore/{name}"));
    fs::write(&profile, OLD_KERNEL).unwrap();
    let imported = Command::new("sh")
        .args(["-c", r#"tar -C "$0" -c agent | docker import --change 'ENTRYPOINT ["/agent"]' - "$1""#])
        .args([root.path().as_os_str(), image.as_ref()])
        .env("DOCKER_HOST", engine().host())
        .output()
        .unwrap();
    assert!(imported.status.success(), "{imported:?}");
    let created = docker(&[
        "create",
        "--name",
        &name,
        "--label",
        &format!("longshore.test={name}"),
        "--read-only",
        "--tmpfs",
        "/data",
        "--network",
        "host",
        "--cap-drop",
        "ALL",
        "--security-opt",
        &format!("seccomp={}", profile.display()),
        "--volume",
        &format!("{}:/engine.sock", engine().host().trim_start_matches("unix://")),
        "--env",
        "DOCKER_HOST=unix:///engine.sock",
        "--env",
        "DATA_DIR=/data",
        "--env",
        "HEALTH_ADDR=127.0.0.1:0",
        "--env",
        &format!("NODE_ID={name}"),
        "--env",
        "AGENT_SECRET=hunter2-hunter2",
        "--env",
        "PANEL_URL=ws://localhost:1/agent",
        "--env",
        "READY_FD=1",
        &image,
    ]);
    assert!(created.status.success(), "{created:?}");
    assert!(docker(&["start", &name]).status.success());
    // What it logs once it has both tried the Panel and asked the Engine.
    let begun = std::time::Instant::now();
    let logs = loop {
        let logs = docker(&["logs", &name]);
        let logs = String::from_utf8_lossy(&[logs.stdout, logs.stderr].concat()).into_owned();
        if logs.contains("next dial") && logs.contains("engine: version") || begun.elapsed() > SOON {
            break logs;
        }
    };
    assert!(docker(&["stop", "--time", "30", &name]).status.success());
    let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &name]);
    docker(&["rm", "--force", &name]);
    docker(&["rmi", "--force", &image]);
    assert_eq!(String::from_utf8_lossy(&code.stdout).trim(), "0", "{logs}");
    assert!(logs.contains("engine: version") && !logs.contains("ERROR"), "{logs}");
}
