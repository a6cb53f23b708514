//! Coming in and what one may: set-up, log-in, members, the second factor.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::stage::{ADMIN, Stage};
use crate::support::{DownloadServer, Served, totp};

pub fn set_up(stage: &Stage) {
    let browser = &stage.browser;
    stage.open("/");
    browser.find("h1", "Set up Longshore");
    stage.open(&format!("/setup#{}", stage.setup));
    browser.find("h1", "Welcome to Longshore");
    assert_eq!(browser.run("return location.hash", json!([])), "", "the token stays in no history");
    stage.show("setup");
    browser.fill("input[name=username]", ADMIN.0);
    browser.fill("input[type=password]", "short");
    browser.click("button", "Create admin");
    browser.find(".wrong", "At least 10 characters");
    browser.fill("input[type=password]", ADMIN.1);
    browser.click("button", "Create admin");
    browser.find("h1", "Servers");
    browser.find(".steps", "0 of 3 done");
    browser.find(".empty", "No server yet");
    stage.show("first-run");
}

pub fn log_in(stage: &Stage, name: &str, password: &str) {
    let browser = &stage.browser;
    browser.find("h1", "Log in");
    browser.fill("input[name=username]", name);
    browser.fill("input[type=password]", password);
    browser.click("button", "Log in");
}

pub fn log_out(stage: &Stage) {
    stage.browser.click(".who", "");
    stage.browser.click("[role=menuitem]", "Log out");
    stage.browser.find("h1", "Log in");
}

/// Every page that the stories have not shown.
pub fn look_around(stage: &Stage) {
    let browser = &stage.browser;
    for (path, words, name) in [
        ("/servers", "Servers", "servers"),
        ("/nodes", "Nodes", "nodes"),
        ("/activity", "Activity", "activity"),
        ("/users", "Users", "users"),
        ("/settings", "Settings", "settings"),
        ("/settings?tab=tokens", "Settings", "tokens"),
        ("/settings?tab=templates", "Settings", "templates"),
        ("/nothing/here", "There is no page here", "not-found"),
    ] {
        if name == "not-found" {
            browser.run(
                "history.pushState(null, '', arguments[0]); dispatchEvent(new PopStateEvent('popstate'))",
                json!([path]),
            );
        } else {
            stage.open(path);
        }
        browser.find("h1", words);
        browser.until("!document.querySelector('.bone')");
        if name == "activity" {
            browser.find(".entry", ADMIN.0);
        }
        stage.show(name);
    }
    // A token is shown once, and works.
    stage.open("/settings?tab=tokens");
    browser.click("button", "Make a token");
    browser.fill("dialog input[maxlength]", "the bot");
    browser.click("dialog button", "Make the token");
    let secret = browser.find("dialog .secret code", "lsp_");
    let secret = browser.run("return arguments[0].textContent", json!([secret]));
    let status = browser.run_later(
        "const [token, done] = arguments; fetch('/api/v1/servers', {credentials: 'omit', headers: {Authorization: `Bearer ${token}`}}).then(({status}) => done(status))",
        json!([secret]),
    );
    assert_eq!(status, 200);
    browser.click("dialog button", "I have it");
    browser.find("td", "the bot");

    // Keys alone: to the nodes, to the list of keys, to the search.
    browser.keys("gn");
    browser.find("h1", "Nodes");
    browser.keys("?");
    browser.find("dialog h2", "Keys");
    browser.keys("\u{e00c}");
    browser.until("!document.querySelector('dialog')");
    browser.keys("/demo");
    browser.find(".found a", "Demo");
    browser.keys("\u{e007}");
    browser.find("main h1", "Demo");
    assert!(browser.path().starts_with(&stage.server_path("").trim_end_matches('/').to_owned()));
}

pub fn a_member_sees_what_is_granted(stage: &Stage) {
    let browser = &stage.browser;
    stage.open("/users");
    browser.click("button", "Invite someone");
    browser.fill("dialog input[maxlength]", "ada");
    browser.click("dialog button", "Make an invitation link");
    let link = browser.find("dialog .secret code", "/login#");
    let link = browser.run("return arguments[0].textContent", json!([link]));
    browser.click("dialog button", "I have it");
    browser.find("main h1", "ada");
    browser.click("input[aria-label='Demo server: view']", "");
    browser.click("button", "Save");
    browser.find(".toast", "The grants are saved");
    stage.show("user");
    log_out(stage);

    browser.open(link.as_str().unwrap());
    browser.find("h1", "Welcome, ada");
    browser.fill("input[type=password]", "ada likes tall ships");
    browser.click("button", "Save and go on");
    browser.find("td a", "Demo server");
    let rail = browser.text(".rail");
    assert!(!rail.contains("Nodes") && !rail.contains("Users"), "{rail}");
    browser.click("td a", "Demo server");
    browser.find("main h1", "Demo server");
    browser.until("document.querySelector('.line')?.disabled && document.querySelector('.line').placeholder.includes('read this console')");
    let buttons = browser.text(".power");
    assert!(!buttons.contains("Start") && !buttons.contains("Stop"), "{buttons}");
    let tabs = browser.text(".tabs");
    assert!(!tabs.contains("Files") && !tabs.contains("Settings"), "{tabs}");
    stage.show("member");
    // What the page does not offer, the Panel refuses.
    let refused = browser.run_later(
        "const [path, done] = arguments; import('/api.js').then(({call}) => call('POST', path)).then(() => done('done'), ({code}) => done(code))",
        json!([format!("/servers/{}/{}/stop", stage.node, stage.server)]),
    );
    assert_eq!(refused, "FORBIDDEN");
    browser.run(
        "history.pushState(null, '', '/nodes'); dispatchEvent(new PopStateEvent('popstate'))",
        json!([]),
    );
    browser.find("h1", "There is no page here");
    log_out(stage);

    log_in(stage, ADMIN.0, "not the password");
    browser.find(".wrong", "password");
    assert_eq!(
        browser.run("return document.querySelector('input[name=username]').value", json!([])),
        ADMIN.0
    );
    stage.show("login");
    browser.fill("input[type=password]", ADMIN.1);
    browser.click("button", "Log in");
    browser.find(".rail", "Servers");
}

/// How soon a person sees something, by the browser's own clock: with nothing in its cache, and with all of it.
pub fn see_the_first_view_soon(stage: &Stage) {
    let browser = &stage.browser;
    // What the browser takes on this machine at this time for a page of one word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bare = DownloadServer::start(listener, false, |_| {
        Served::ok("<!doctype html><title>x</title><p>here").with("Content-Type", "text/html")
    });
    let median = |url: &str| {
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                browser.open(url);
                browser
                    .until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
                    .as_f64()
                    .unwrap()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let cache = |on: bool| {
        browser.devtools("Network.enable", json!({}));
        browser.devtools("Network.setCacheDisabled", json!({"cacheDisabled": !on}));
    };
    cache(false);
    let (word, cold) = (median(&bare.url("/")), median(&stage.url("/servers")));
    cache(true);
    let warm = median(&stage.url("/servers"));
    browser.complaints(); // of the bare page, which has no icon
    println!(
        "first view after {cold:.0} ms, {warm:.0} ms with a cache; a page of one word after {word:.0} ms"
    );
    // Some twenty files make it up, from a debug build here.
    let slow = f64::max(100.0, word * 10.0);
    assert!(cold < slow && warm < slow, "it may take {slow:.0} ms here");
}

pub fn bring_a_template(stage: &Stage) {
    let browser = &stage.browser;
    stage.open("/settings?tab=templates");
    browser.find("li", "Demo server");
    let upload = |text: &str| {
        let file = browser.dir.path().join("dinghy.json");
        fs::write(&file, text).unwrap();
        let input = browser.until("document.querySelector('.settings-tab input[type=file]')");
        browser.type_into(&input, file.to_str().unwrap());
    };
    upload("{");
    browser.find(".toast", "dinghy.json is not JSON");
    browser.click(".toast button", "Close this message");
    let template = |kind: &str| {
        let variable =
            json!({"name": "QUIET", "label": "Quiet", "default": "1", "required": true, "kind": kind});
        json!({"id": "dinghy", "name": "Dinghy", "summary": "A small boat of one's own.", "image": "longshore/demo:latest",
            "variables": [variable], "ports": [{"internal": 2456, "protocol": "udp"}, {"internal": 2457, "protocol": "udp", "offset": 1}]})
        .to_string()
    };
    upload(&template("sail"));
    browser.find(".toast", "unknown variant");
    browser.click(".toast button", "Close this message");
    upload(&template("boolean"));
    browser.find(".toast", "Dinghy is there");
    browser.find("li", "A small boat of one's own");
    stage.show("templates-own");
    stage.open("/servers/new");
    browser.click(".template", "Dinghy");
    // Its second port is one above the first, before anything is made.
    browser.until("(() => { const [first, second] = [...document.querySelectorAll('.port')].map((row) => Number(row.querySelector('input').placeholder)); return first && second === first + 1 })()");
    stage.show("create-own");
    stage.open("/settings?tab=templates");
    browser.click("li button", "Remove");
    browser.click("dialog button", "Remove");
    browser.until("![...document.querySelectorAll('li')].some((one) => one.textContent.includes('Dinghy'))");
}

/// Three members with one right each: what the page offers, and that it works.
pub fn members_do_what_each_may(stage: &Stage) {
    let browser = &stage.browser;
    let password = "a tall ship and a star";
    for right in ["power", "console", "files"] {
        let made = browser.run_later(
            "const [name, password, node, server, right, done] = arguments; \
             import('/api.js').then(async ({call}) => { \
               const {user} = await call('POST', '/users', {name, password, role: 'member'}); \
               await call('PUT', `/users/${user.id}/grants`, {items: [{node, server, rights: ['view', right]}]}); \
               done('done'); }).catch(({message}) => done(message))",
            json!([right, password, stage.node, stage.server, right]),
        );
        assert_eq!(made, "done");
    }
    log_out(stage);
    for right in ["power", "console", "files"] {
        log_in(stage, right, password);
        browser.click("td a", "Demo server");
        browser.find(".server-facts", "Running");
        browser.find(".scroll", "tick");
        let (power, tabs) = (browser.text(".power"), browser.text(".tabs"));
        assert_eq!(power.contains("Stop"), right == "power", "{right}: {power}");
        assert_eq!(tabs.contains("Files"), right == "files", "{right}: {tabs}");
        assert_eq!(
            browser.run("return document.querySelector('.line').disabled", json!([])),
            right != "console"
        );
        match right {
            "power" => {
                browser.click(".power button", "Restart");
                browser.find(".server-facts", "Running");
                browser.until("!document.querySelector('.server-facts').textContent.includes('Restarting')");
            }
            "console" => {
                browser.fill(".line", "say all hands");
                browser.keys("\u{e007}");
                browser.find(".scroll", "all hands");
            }
            _ => {
                browser.click(".tabs a", "Files");
                browser.find(".file-name", "log.txt");
            }
        }
        stage.show(&format!("member-{right}"));
        log_out(stage);
    }
    log_in(stage, ADMIN.0, ADMIN.1);
    browser.find(".rail", "Servers");
}

pub fn a_second_factor(stage: &Stage) {
    let browser = &stage.browser;
    stage.open("/settings");
    browser.click("button", "Set up");
    browser.fill("dialog input[type=password]", ADMIN.1);
    browser.click("dialog button", "Continue");
    let key = browser.find("dialog .secret code", "");
    let key = browser.run("return arguments[0].textContent.replaceAll(' ', '')", json!([key]));
    browser.fill("dialog input", &totp::code(key.as_str().unwrap(), 0));
    browser.click("dialog button", "Turn on");
    browser.find("dialog h2", "Your recovery codes");
    let codes = browser
        .run("return document.querySelector('dialog .secret code').textContent.split('\\n')", json!([]));
    browser.click("dialog button", "I have it");
    browser.find(".card", "A code is asked for");
    log_out(stage);

    log_in(stage, ADMIN.0, ADMIN.1);
    browser.find("h1", "One more step");
    stage.show("second-factor");
    browser.fill("input", "000000");
    browser.click("button", "Continue");
    browser.until("document.querySelector('.wrong').textContent");
    let code: &Value = &codes[0];
    browser.fill("input", code.as_str().unwrap());
    browser.click("button", "Continue");
    browser.find(".rail", "Servers");
}
