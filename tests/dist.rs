//! What ships beside the binaries: every setting is explained, every script is clean and runs in the smallest shells, and
//! `make install` puts everything where it belongs.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::agent::config::KEYS;
use support::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn dist(path: &str) -> PathBuf {
    Path::new(ROOT).join("dist").join(path)
}

#[test]
fn agent_env_explains_every_key_with_its_default() {
    let text = fs::read_to_string(dist("agent.env")).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    for key in KEYS {
        let at = text.find(&format!("\n#{}=", key.name));
        assert!(at.is_some(), "dist/agent.env does not name {}", key.name);
        if let Some(default) = key.default {
            let line = format!("#{}={default}", key.name);
            assert!(lines.contains(line.as_str()), "dist/agent.env has another default than {line}");
        }
    }
    let set = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(set.collect::<Vec<_>>(), [""; 0], "it sets nothing by itself");
}

/// The scripts of dist/, by their first line.
fn scripts() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if fs::read(&path).unwrap().starts_with(b"#!") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&dist(""), &mut found);
    assert!(found.len() > 8, "the scripts are looked for in the wrong place");
    found
}

#[test]
fn shellcheck_has_nothing_to_say() {
    need(&["shellcheck:shellcheck"]);
    let mut command = Command::new("shellcheck");
    let output = command.args(scripts()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for script in scripts() {
        let mode = fs::metadata(&script).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} can be run", script.display());
    }
}

#[test]
fn install_sh_runs_in_the_smallest_shells_and_does_nothing_when_dry() {
    need(&["dash:dash", "busybox:busybox-static"]);
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "hunter2").unwrap();
    for shell in [&["dash"][..], &["busybox", "sh"]] {
        for init in ["systemd", "openrc", "runit", "s6", "sysv", "dinit", "procd"] {
            let run = |more: &[&str]| {
                let mut command = Command::new(shell[0]);
                command
                    .args(&shell[1..])
                    .arg(dist("install.sh"))
                    .args(["--dry-run", "--init", init])
                    .args(more);
                command.env("SERVICE_DIR", dir.path().join("service"));
                let output = command.output().unwrap();
                let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                (output.status.success(), told)
            };
            let prefix = dir.path().join("prefix");
            let agent = env!("CARGO_BIN_EXE_longshore-agent");
            let (well, told) = run(&[
                "--panel-url=wss://panel.example/agent",
                "--node-id=n",
                &format!("--secret-file={}", secret.display()),
                &format!("--prefix={}", prefix.display()),
                "--binary",
                agent,
            ]);
            assert!(well, "{shell:?} {init}: {told}");
            assert!(told.contains("would: write /etc/longshore/agent.env (0640 root:longshore)"), "{told}");
            assert!(!told.contains("hunter2") && !prefix.exists(), "{told}");
            let (well, told) = run(&["--uninstall"]);
            assert!(well && told.contains("would: rm"), "{shell:?} {init}: {told}");
        }
    }
}

#[test]
fn make_install_puts_everything_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let (built, destdir) = (dir.path().join("built"), dir.path().join("root"));
    fs::create_dir(&built).unwrap();
    for program in ["longshore-agent", "longshore-panel"] {
        fs::copy(env!("CARGO_BIN_EXE_longshore-agent"), built.join(program)).unwrap();
    }
    let install = || {
        let script = dist("build/install-files.sh");
        Command::new(script).args([&built, &destdir]).arg("/opt/longshore").output().unwrap()
    };
    for _ in 0..2 {
        let output = install();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let at = |path: &str| destdir.join("opt/longshore").join(path);
    for path in [
        "bin/longshore-agent",
        "bin/longshore-panel",
        "share/man/man8/longshore-agent.8",
        "share/man/man8/longshore-panel.8",
        "share/bash-completion/completions/longshore-agent",
        "share/zsh/site-functions/_longshore-agent",
        "share/fish/vendor_completions.d/longshore-agent.fish",
        "share/longshore/agent.env",
        "share/longshore/install.sh",
        "share/longshore/runit/log/run",
        "lib/systemd/system/longshore-agent.service",
    ] {
        assert!(at(path).is_file(), "{path} is missing");
    }
    let unit = fs::read_to_string(at("lib/systemd/system/longshore-agent.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/longshore/bin/longshore-agent "), "{unit}");
}

#[test]
fn bash_completes_every_flag() {
    let dir = Path::new(env!("CARGO_BIN_EXE_longshore-agent")).parent().unwrap();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let complete = |words: &str| {
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _longshore_agent; echo \"${{COMPREPLY[*]}}\"",
            dist("completions/longshore-agent.bash").display()
        );
        let output = Command::new("bash").args(["-c", &script]).env("PATH", &path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("longshore-agent --panel-u"), "--panel-url");
    assert_eq!(complete("longshore-agent do"), "doctor");
    assert_eq!(complete("longshore-agent --log-format j"), "json");
    let all = complete("longshore-agent --");
    for key in KEYS {
        let flag = format!("--{}", key.name.to_ascii_lowercase().replace('_', "-"));
        assert!(all.split(' ').any(|word| word == flag), "{flag} in {all}");
    }
}

#[test]
fn man_pages_are_well_formed() {
    need(&["mandoc:mandoc"]);
    for page in ["longshore-agent.8", "longshore-panel.8"] {
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(dist("man").join(page)).output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        // A page without a date is the same on each day that it is built.
        let told: Vec<&str> = told.lines().filter(|line| !line.contains("missing date")).collect();
        assert_eq!(told, [""; 0]);
    }
}
