//! How a node comes in: the built Agent's `join`, secrets that rotate, and links that are revoked.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::fake_agent::{FakeAgent, dial, dial_at};
use super::process::Panel;

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/server.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/server.key");

/// Runs the Agent's `join` with this token on its standard input.
fn join(url: &str, config: &Path, token: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
    command.args(["join", url, "--config"]).arg(config).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_node_joins_once_over_a_certificate_that_nobody_vouches_for() {
    let mut panel = Panel::start(&[]);
    panel.kill();
    let tls = [("TLS_CERT", CERTIFICATE), ("TLS_KEY", KEY)];
    panel.start_again(&tls);
    let printed = Command::new(env!("CARGO_BIN_EXE_longshore-panel"))
        .args(["node", "join", "n1"])
        .env("DATA_DIR", panel.data_dir())
        .envs(tls)
        .output()
        .unwrap();
    let token = String::from_utf8(printed.stdout).unwrap().trim().to_owned();
    let (dir, url) = (tempfile::tempdir().unwrap(), format!("https://{}", panel.http));
    let config = dir.path().join("etc/agent.env");

    // A machine in between has another certificate: nothing is sent to it.
    let (rest, pin) = token.rsplit_once(':').unwrap();
    let other: String = pin.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    let refused = join(&url, &config, &format!("{rest}:{other}"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("not the pinned one"), "{said}");
    assert!(!config.exists());

    let joined = join(&url, &config, &token);
    let said = String::from_utf8_lossy(&joined.stdout).into_owned();
    assert!(joined.status.success(), "{joined:?}");
    assert!(said.contains("node n1 has joined") && said.contains("was tried and works"), "{said}");
    let written = std::fs::read_to_string(&config).unwrap();
    assert!(written.contains(&format!("PANEL_URL=wss://{}/agent\n", panel.http)), "{written}");
    assert!(written.contains(&format!("PANEL_PIN={pin}\n")) && written.contains("NODE_ID=n1\n"), "{written}");
    let secret = std::fs::read_to_string(dir.path().join("etc/secret")).unwrap();
    for text in [&said, &written, &panel.log()] {
        assert!(!text.contains(secret.trim()) && !text.contains(rest), "a secret is shown: {text}");
    }

    let again = join(&url, &config, &token);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("401") && said.contains("was used"), "{said}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("etc/secret")).unwrap(),
        secret,
        "nothing was changed"
    );
    let nonsense = join(&url, &config, "hello");
    assert!(String::from_utf8_lossy(&nonsense.stderr).contains("no join token"));
}

#[test]
fn a_secret_rotates_with_overlap_and_a_revoked_one_closes_the_link() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    let rotated = panel.send("POST", "/api/v1/nodes/n1/rotate", r#"{"overlapHours":1}"#).json();
    let fresh = rotated["secret"].as_str().unwrap();
    let knock = |secret: &str| {
        dial(&panel, "/", &[("Authorization", &format!("Bearer {secret}")), ("X-Node-Id", "n1")]).map(drop)
    };
    let node = || panel.get("/api/v1/nodes/n1").json();
    assert_eq!(node()["rotation"]["newUsed"], json!(false));
    assert!(knock(&panel.secret("n1")).is_ok(), "the secret before still works");
    assert_eq!(agent.closed(), 4001, "the newest connection wins");
    assert!(knock(fresh).is_ok());
    assert_eq!(node()["rotation"]["newUsed"], json!(true));
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[]);
    let none = panel.send("POST", "/api/v1/nodes/n1/rotate", r#"{"overlapHours":0}"#).json();
    assert_eq!(knock(fresh), Err(401), "without an overlap the one before is void");
    assert!(knock(none["secret"].as_str().unwrap()).is_ok());
    assert_eq!(agent.closed(), 4001);

    let bearer = format!("Bearer {}", none["secret"].as_str().unwrap());
    let mut link = dial(&panel, "/", &[("Authorization", &bearer), ("X-Node-Id", "n1")]).unwrap();
    assert_eq!(panel.send("POST", "/api/v1/nodes/n1/revoke", "{}").json()["revoked"], json!(true));
    assert_eq!(link.closed(), 4003);
    assert_eq!(knock(none["secret"].as_str().unwrap()), Err(401));
}

#[test]
fn agents_also_come_in_beside_the_page() {
    let panel = Panel::start(&["n1"]);
    let bearer = format!("Bearer {}", panel.secret("n1"));
    let headers = [("Authorization", bearer.as_str()), ("X-Node-Id", "n1")];
    assert!(dial_at(&panel.http, "/agent", &headers).is_ok());
    assert_eq!(dial_at(&panel.http, "/elsewhere", &headers).err(), Some(404));
}
