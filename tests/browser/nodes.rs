//! A node over time: maintenance, a secret that rotates, a machine that is away, and one that is turned away.

use std::fs;

use serde_json::json;

use crate::stage::Stage;

fn open(stage: &Stage) {
    stage.open(&format!("/nodes/{}", stage.node));
    stage.browser.find("main h1", &stage.node);
}

/// Chooses from the node's menu.
fn choose(stage: &Stage, words: &str) {
    stage.browser.click(".server-head button", "More");
    stage.browser.click("[role=menuitem]", words);
}

pub fn maintain(stage: &Stage) {
    let browser = &stage.browser;
    open(stage);
    choose(stage, "Begin maintenance");
    browser.find(".banner", "It is in maintenance");
    stage.show("node-maintenance");
    // Nothing new is placed there, and the Panel would refuse it too.
    stage.open("/servers/new");
    browser.find(".node-card", "in maintenance");
    browser.until("document.querySelector('.node-card input').disabled");
    let refused = browser.run_later(
        "const [node, done] = arguments; import('/api.js').then(({call}) => call('POST', '/servers', {node, name: 'x', image: 'x'})).then(() => done('done'), ({status}) => done(status))",
        json!([stage.node]),
    );
    assert_eq!(refused, 409, "a node in maintenance was given a server");
    open(stage);
    browser.click(".banner button", "End maintenance");
    browser.until("!document.querySelector('.banner')");
}

pub fn rotate_the_secret(stage: &mut Stage) {
    open(stage);
    choose(stage, "Rotate the secret");
    stage.browser.click("dialog button", "Rotate");
    let secret = stage.browser.find("dialog .secret code", "");
    let secret = stage.browser.run("return arguments[0].textContent", json!([secret]));
    stage.show("node-rotate");
    stage.browser.click("dialog button", "I have it");
    stage.browser.find(".banner", "A new secret waits to be used");
    // It is read at the next dial, which a restart of the Panel brings about.
    fs::write(stage.secret_file(), secret.as_str().unwrap()).unwrap();
    stage.end_panel();
    stage.browser.find(".live", "Reconnecting");
    stage.start_panel();
    stage.browser.find(".live", "Live");
    stage.browser.find(".banner", "The new secret is in use");
    stage.browser.find(".server-facts", "Online");
    stage.browser.complaints(); // of a Panel that was away, which the page has told in words
}

pub fn be_away(stage: &mut Stage) {
    open(stage);
    stage.end_agent();
    stage.browser.find(".banner", "It is offline");
    stage.browser.find(".card", "Not known while the node is offline");
    stage.show("node-offline");
    stage.open(&stage.server_path("console"));
    stage.browser.find(".server-facts", "Unknown");
    stage.browser.find(".banner", "offline");
    stage.browser.until("document.querySelector('.line').disabled");
    let buttons = stage.browser.text(".power");
    assert!(!buttons.contains("Start") && !buttons.contains("Stop"), "{buttons}");
    stage.show("server-offline");
    stage.start_agent();
    stage.browser.find(".server-facts", "Running");
    stage.browser.until("!document.querySelector('.banner')");
}

pub fn revoke(stage: &Stage) {
    let browser = &stage.browser;
    open(stage);
    choose(stage, "Revoke");
    browser.find("dialog h2", "Revoke");
    assert_eq!(browser.run("return document.querySelector('dialog .primary').disabled", json!([])), true);
    browser.fill("dialog input", &stage.node);
    browser.click("dialog button", "Revoke");
    browser.find(".banner", "Its secrets are revoked");
    browser.until("!document.querySelector('.server-facts').textContent.includes('Online')");
    stage.show("node-revoked");
}
