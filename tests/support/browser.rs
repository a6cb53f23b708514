//! Headless Chromium, driven by plain WebDriver over HTTP, for tests that look at the page as a person would.
//!
//! `chromedriver` and the browser come from the distribution, `axe-core` from npm; what is missing is installed. A
//! change of the machine's networks aborts whatever Chromium is loading, and containers come and go in other tests:
//! so a test runs [`alone`], in a network namespace with nothing but a loopback of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use super::engine::{engine, need};

/// How long the page may take for what a person waits for.
const SOON: Duration = Duration::from_secs(30);
/// Set inside the namespace.
const ALONE: &str = "LONGSHORE_TEST_ALONE";
const AXE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/browser/node_modules/axe-core/axe.min.js");

/// Runs `body` in a fresh copy of this test process, named by its own test, in a network namespace. Takes root.
pub fn alone(test: &str, body: fn()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    need(&["chromium:chromium", "chromedriver:chromium-driver", "ip:iproute2", "npm:npm"]);
    install_axe();
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(program);
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").env("DOCKER_HOST", engine().host());
    let status = command.stdin(Stdio::null()).status().expect("unshare is part of every system");
    assert!(status.success(), "{test} failed in its namespace: {status}");
}

fn install_axe() {
    if Path::new(AXE).exists() {
        return;
    }
    // Two tests may come here at once: each installs aside, and the first to rename wins.
    let place = Path::new(AXE).ancestors().nth(3).unwrap();
    let aside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    let installed = npm.arg(aside.path()).arg("axe-core@4.11.0").output().expect("npm can be run");
    assert!(installed.status.success(), "npm: {}", String::from_utf8_lossy(&installed.stderr));
    let _ = fs::rename(aside.path(), place);
    assert!(Path::new(AXE).exists(), "axe-core is not at {AXE}");
}

pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// What the browser stores on its way, and what it downloads.
    pub dir: tempfile::TempDir,
}

/// Colours that the system asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

impl Browser {
    pub fn start() -> Browser {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.env("TMPDIR", dir.path()).spawn().expect("chromedriver can be run");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        // Its pipe is read to the end, or it would block on it.
        thread::spawn(move || lines.for_each(drop));
        let port = port.expect("chromedriver says where it listens");
        let mut browser = Browser { driver, port, session: String::new(), dir };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let options = json!({"args": arguments, "prefs": {"download.default_directory": browser.dir.path()}});
        let wanted = json!({"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options});
        let session = browser.call("POST", "/session", json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser.devtools(
            "Browser.setDownloadBehavior",
            json!({"behavior": "allow", "downloadPath": browser.dir.path()}),
        );
        browser.look(1280, 900, Theme::Light);
        browser
    }

    /// The window's size in CSS pixels, and the colours of the system.
    pub fn look(&self, width: u32, height: u32, theme: Theme) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        let value = if theme == Theme::Dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}, {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", json!({"url": url}));
    }

    /// Runs JavaScript; `arguments[n]` are the arguments, its `return` is the answer.
    pub fn run(&self, code: &str, arguments: Value) -> Value {
        self.ask("POST", "/execute/sync", json!({"script": code, "args": arguments}))
    }

    /// The same, answered by calling the last argument.
    pub fn run_later(&self, code: &str, arguments: Value) -> Value {
        self.ask("POST", "/execute/async", json!({"script": code, "args": arguments}))
    }

    /// Waits until an expression of JavaScript is true, and gives it.
    pub fn until(&self, expression: &str) -> Value {
        let begun = Instant::now();
        loop {
            // Waits in the page, a frame at a time: nothing there tells of all that a test may wait for.
            let code = "const [expression, done] = arguments; const end = performance.now() + 1000; \
                const read = new Function('return (' + expression + ')'); \
                (function look() { let found; try { found = read(); } catch { found = null; } \
                if (found || performance.now() > end) done(found ?? null); else setTimeout(look, 16); })();";
            let found = self.run_later(code, json!([expression]));
            if !matches!(found, Value::Null | Value::Bool(false)) {
                return found;
            }
            assert!(
                begun.elapsed() < SOON,
                "the page never came to {expression}; it shows:\n{}\nconsole: {:?}",
                self.text("body"),
                self.complaints()
            );
        }
    }

    /// Waits for an element, which is seen and holds `words`, and gives its reference.
    pub fn find(&self, selector: &str, words: &str) -> Value {
        let expression = format!(
            "[...document.querySelectorAll({})].find((one) => one.checkVisibility({{visibilityProperty: true}}) && \
             (one.textContent + ' ' + (one.getAttribute('aria-label') ?? '')).includes({}))",
            json!(selector),
            json!(words)
        );
        self.until(&expression)
    }

    /// Presses an element as a mouse does, which fails when something lies over it.
    pub fn click(&self, selector: &str, words: &str) {
        self.with(selector, words, "click");
    }

    /// Does something with an element. One that the page has drawn anew since it was found is looked for again.
    fn with(&self, selector: &str, words: &str, what: &str) -> Value {
        let begun = Instant::now();
        loop {
            let element = self.find(selector, words);
            let path = format!("/session/{}/element/{}/{what}", self.session, reference(&element));
            match self.answer("POST", &path, json!({})) {
                Ok(_) => return element,
                Err(fault) if fault.contains("stale element") && begun.elapsed() < SOON => {}
                Err(fault) => panic!("{what} {selector} {words:?}: {fault}"),
            }
        }
    }

    /// Types into the field with this label or selector, in place of what it held.
    pub fn fill(&self, selector: &str, words: &str) {
        let element = self.with(selector, "", "clear");
        self.type_into(&element, words);
    }

    pub fn type_into(&self, element: &Value, words: &str) {
        self.ask("POST", &format!("/element/{}/value", reference(element)), json!({"text": words}));
    }

    /// Presses keys, one after the other, wherever the focus is. Special keys are WebDriver's code points.
    pub fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                [
                    json!({"type": "keyDown", "value": key.to_string()}),
                    json!({"type": "keyUp", "value": key.to_string()}),
                ]
            })
            .collect();
        self.ask(
            "POST",
            "/actions",
            json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}),
        );
    }

    pub fn text(&self, selector: &str) -> String {
        let found =
            self.run("return document.querySelector(arguments[0])?.innerText ?? ''", json!([selector]));
        found.as_str().unwrap_or_default().to_owned()
    }

    pub fn path(&self) -> String {
        let path = self.run("return location.pathname + location.search", json!([]));
        path.as_str().unwrap_or_default().to_owned()
    }

    /// A picture of the window, kept as an artefact.
    pub fn picture(&self, name: &str) {
        let picture = self.ask("GET", "/screenshot", Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
        let place = pictures();
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(format!("{name}.png")), bytes).unwrap();
    }

    /// What the browser's console holds since it was last asked: errors and warnings, without refusals of the API,
    /// which the browser reports as failed loads although the page tells them where they belong.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.ask("POST", "/se/log", json!({"type": "browser"}));
        let lines = lines.as_array().cloned().unwrap_or_default();
        let bad = lines.iter().filter(|line| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING")));
        let words = bad.map(|line| line["message"].as_str().unwrap_or_default().to_owned());
        words.filter(|line| !(line.contains("/api/v1/") && line.contains("status of 4"))).collect()
    }

    /// What axe-core finds serious or critical on the page as it is, contrast among it.
    pub fn faults(&self) -> Vec<String> {
        let code = fs::read_to_string(AXE).expect("axe-core is installed");
        self.devtools("Runtime.evaluate", json!({"expression": code}));
        let found = self.run_later(
            "const done = arguments[0]; axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}) \
             .then(({violations}) => done(violations.filter(({impact}) => impact === 'serious' || impact === 'critical') \
             .flatMap(({id, nodes}) => nodes.map((node) => `${id}: ${node.target.join(' ')}: ${node.failureSummary}`))))",
            json!([]),
        );
        found.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    }

    /// What of the page sticks out to the right of the window.
    pub fn overflow(&self) -> Value {
        self.run(
            "return document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll('body *')] \
             .filter((one) => one.getBoundingClientRect().right > innerWidth + 1) \
             .slice(0, 5).map((one) => `${one.tagName} ${one.className}`) : []",
            json!([]),
        )
    }

    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.answer(method, path, body).unwrap_or_else(|fault| panic!("{method} {path}: {fault}"))
    }

    /// What chromedriver answers, or the fault that it tells.
    fn answer(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        // It keeps the connection open whatever it is asked, so the length counts.
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("chromedriver answers");
            match line.trim_end().to_ascii_lowercase().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap(),
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("chromedriver answers");
        let text = String::from_utf8_lossy(&body);
        let body = &*text;
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {text}"));
        let fault = &answer["value"]["error"];
        match fault.is_string() {
            true => Err(format!("{fault}: {}", answer["value"]["message"])),
            false => Ok(answer["value"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to; killed, it would leave it.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = write!(
                stream,
                "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
                self.session
            );
            let _ = stream.read(&mut [0]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Where pictures are kept: `target/screenshots`.
pub fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("screenshots")
}

/// WebDriver's reference to an element.
fn reference(element: &Value) -> String {
    let found = element.as_object().and_then(|fields| fields.values().next()).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("{element} is no element")).to_owned()
}
