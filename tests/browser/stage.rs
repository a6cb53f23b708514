//! What a story plays on: the built Panel, the built Agent, the shared Engine, and one browser.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Browser, SOON, Theme, Watched, engine, unique_name};

pub const ADMIN: (&str, &str) = ("harbourmaster", "a quiet evening by the sea");

pub struct Stage {
    pub browser: Browser,
    pub node: String,
    /// The server's id, once it is made.
    pub server: String,
    pub setup: String,
    /// Whether [`Stage::show`] takes pictures.
    pub is_shown: bool,
    http: String,
    agents: String,
    panel: Option<Child>,
    agent: Option<Child>,
    dir: tempfile::TempDir,
}

impl Stage {
    pub fn begin() -> Stage {
        let dir =
            tempfile::Builder::new().prefix("browser-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let any = "127.0.0.1:0".to_owned();
        let mut stage = Stage {
            browser: Browser::start(),
            node: unique_name(),
            server: String::new(),
            setup: String::new(),
            is_shown: true,
            http: any.clone(),
            agents: any,
            panel: None,
            agent: None,
            dir,
        };
        stage.start_panel();
        stage
    }

    /// Starts the Panel, the second time where it was before, so that the Agent and the page find it again.
    pub fn start_panel(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-panel"));
        command.env("HTTP_ADDR", &self.http).env("AGENT_ADDR", &self.agents);
        command.env("DATA_DIR", self.dir.path().join("panel")).env("LOG_LEVEL", "info");
        command.stderr(fs::File::create(self.dir.path().join("panel.log")).unwrap());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Watched::new(Vec::<String>::new()));
        let (to_said, output) = (Arc::clone(&said), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                to_said.update(|lines| lines.push(line));
            }
        });
        self.panel = Some(child);
        let find = |start: &str| {
            let found = said.wait(SOON, |lines| {
                lines
                    .iter()
                    .find_map(|line| line.split(start).nth(1))
                    .map(|rest| rest.split_whitespace().next().unwrap().to_owned())
            });
            found.unwrap_or_else(|| panic!("the Panel never said {start:?}: {}", self.panel_log()))
        };
        let address = |text: String| text.trim_end_matches('/').to_owned();
        let (http, agents) = (address(find("page http://")), address(find("agents ws://")));
        if self.setup.is_empty() {
            self.setup = find("/setup#");
        }
        (self.http, self.agents) = (http, agents);
    }

    pub fn end_panel(&mut self) {
        end(self.panel.take());
    }

    /// Runs the command that the page shows, as one would by pasting it, and then the Agent with what it has written.
    pub fn join(&mut self, pasted: &str) {
        let mut lines = pasted.lines();
        let address = lines.next().unwrap().split_whitespace().nth(2).unwrap();
        let token = lines.next().expect("the token stands on a line of its own, for standard input");
        let mut join = self.agent_command();
        join.args(["join", address, "--config"]).arg(self.config()).stdin(Stdio::piped());
        let mut child = join.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        self.start_agent();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("agent.env")
    }

    /// Where the Agent reads its secret.
    pub fn secret_file(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn agent_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("ALLOW_INSECURE", "1");
        command
    }

    /// Starts the Agent with what `join` has written.
    pub fn start_agent(&mut self) {
        let mut command = self.agent_command();
        command.arg("--config").arg(self.config()).env("DATA_DIR", self.dir.path().join("agent"));
        // Mods come from this machine in these stories, over a certificate of the tests' own.
        let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/ca.pem");
        command.env("SSL_CERT_FILE", authority).env("ALLOW_PRIVATE_DOWNLOADS", "1");
        command
            .env("DOCKER_HOST", engine().host())
            .env("HEALTH_ADDR", "127.0.0.1:0")
            .env("STATS_INTERVAL", "1");
        command.stdout(Stdio::null()).stderr(fs::File::create(self.dir.path().join("agent.log")).unwrap());
        self.agent = Some(command.stdin(Stdio::null()).spawn().unwrap());
    }

    pub fn end_agent(&mut self) {
        end(self.agent.take());
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub fn open(&self, path: &str) {
        self.browser.open(&self.url(path));
    }

    /// The server's page, and one of its tabs.
    pub fn server_path(&self, tab: &str) -> String {
        format!("/servers/{}/{}/{tab}", self.node, self.server)
    }

    /// Where the server's files are on this machine.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("agent/servers").join(&self.server)
    }

    pub fn panel_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("panel.log")).unwrap_or_default()
    }

    /// Pictures of the page as it is, wide and narrow, light and dark; each is complete, readable and calm.
    pub fn show(&self, name: &str) {
        if !self.is_shown {
            return;
        }
        for (width, height, theme) in [
            (1280, 900, Theme::Light),
            (1280, 900, Theme::Dark),
            (360, 740, Theme::Dark),
            (360, 740, Theme::Light),
        ] {
            let browser = &self.browser;
            browser.look(width, height, theme);
            // Two frames: one for the new size, one for what has been drawn because of it.
            browser.run_later(
                "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)))",
                json!([]),
            );
            let look = format!("{name}-{width}-{}", if theme == Theme::Dark { "dark" } else { "light" });
            browser.picture(&look);
            assert_eq!(browser.overflow(), json!([]), "{look} is wider than its window");
            // Both themes and both sizes are in these two, and every rule is checked twice.
            if (width == 360) == (theme == Theme::Light) {
                let faults = browser.faults();
                assert!(faults.is_empty(), "{look}:\n{}", faults.join("\n"));
            }
        }
        self.browser.look(1280, 900, Theme::Light);
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "the console of {name} holds {complaints:?}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            self.browser.picture("failed");
            eprintln!("failed at {}\n{}", self.browser.path(), self.panel_log());
            eprintln!("{}", fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default());
        }
        end(self.agent.take());
        end(self.panel.take());
        if !self.server.is_empty() {
            engine().call(
                "DELETE",
                &format!("/containers/longshore-{}-{}?force=1&v=1", self.node, self.server),
                None,
            );
        }
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let _ = child.wait();
    }
}
