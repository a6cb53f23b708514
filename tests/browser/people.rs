//! Coming in and what one may: set-up, log-in, members, the second factor.

use serde_json::{Value, json};

use crate::stage::{ADMIN, Stage};

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

pub fn a_second_factor(stage: &Stage) {
    let browser = &stage.browser;
    stage.open("/settings");
    browser.click("button", "Set up");
    browser.fill("dialog input[type=password]", ADMIN.1);
    browser.click("dialog button", "Continue");
    let key = browser.find("dialog .secret code", "");
    let key = browser.run("return arguments[0].textContent.replaceAll(' ', '')", json!([key]));
    browser.fill("dialog input", &totp(key.as_str().unwrap()));
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

/// RFC 6238 with SHA-1, six digits and steps of 30 s, as the apps have it.
fn totp(base32: &str) -> String {
    let mut bits = 0u64;
    let (mut count, mut key) = (0, Vec::new());
    for letter in base32.bytes().filter(|letter| *letter != b'=') {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter).unwrap();
        bits = bits << 5 | value as u64;
        count += 5;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count) as u8);
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 30;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = ring::hmac::sign(&key, &now.to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 15);
    let word = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}
