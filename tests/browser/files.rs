//! A server's files beyond the editor: dropped ones, archives, permissions, mods.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::stage::Stage;
use crate::support::{DownloadServer, Served};

const MOD: &str = "a mod, as far as anybody knows";

/// Drags a file of so many bytes over the list, as the page hears of it, and lets it go if asked to.
fn drag(stage: &Stage, name: &str, bytes: usize, events: &[&str]) {
    let code = "const [name, length, events] = arguments; const data = new DataTransfer(); \
        data.items.add(new File([new Uint8Array(length)], name)); \
        for (const type of events) document.querySelector('.file-list') \
            .dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));";
    stage.browser.run(code, json!([name, bytes, events]));
}

pub fn drop_with_progress(stage: &Stage) {
    let browser = &stage.browser;
    fs::write(stage.files().join("log.txt"), "all is well\n").unwrap();
    stage.open(&stage.server_path("files"));
    browser.find(".file-name", "log.txt");
    drag(stage, "charts.bin", 1, &["dragenter", "dragover"]);
    browser.find(".drop", "Drop to upload here");
    stage.show("files-drop");
    // Every value that the bar has had is kept, since a person would see them all.
    let watch = "window.seen = []; new MutationObserver((changes) => changes.forEach(({target}) => \
        window.seen.push(Number(target.getAttribute('aria-valuenow'))))) \
        .observe(document.querySelector('.uploads'), {subtree: true, attributes: true, attributeFilter: ['aria-valuenow']})";
    browser.run(watch, json!([]));
    drag(stage, "charts.bin", 3 << 20, &["dragover", "drop"]);
    browser.find(".uploads [data-state=done]", "charts.bin");
    browser.find(".file-name", "charts.bin");
    let seen = browser.run("return window.seen", json!([]));
    let seen: Vec<u64> = serde_json::from_value(seen).unwrap();
    assert!(seen.iter().any(|share| (1..100).contains(share)) && seen.last() == Some(&100), "{seen:?}");
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(fs::metadata(stage.files().join("charts.bin")).unwrap().len(), 3 << 20);

    // One that is too long is called back, and what there is of it is told.
    drag(stage, "endless.bin", 256 << 20, &["dragenter", "drop"]);
    browser.click(".uploads button", "Cancel endless.bin");
    browser.find(".uploads [data-state=cancelled]", "endless.bin");
    stage.show("uploads");
    browser.click(".uploads button", "Clear");
    browser.until("document.querySelector('.uploads').hidden");
}

pub fn pack_and_unpack(stage: &Stage) {
    let browser = &stage.browser;
    browser.click("input[aria-label='Choose charts.bin']", "");
    browser.click(".picked button", "Archive");
    browser.fill("dialog input", "backup");
    stage.show("archive");
    browser.click("dialog button", "Archive");
    browser.find(".toast", "backup.zip is written");
    browser.find(".file-name", "backup.zip");
    browser.click("button", "More for charts.bin");
    browser.click("[role=menuitem]", "Delete");
    browser.click("dialog button", "Delete");
    browser.until("!document.querySelector('tr[data-name=\"charts.bin\"]')");
    browser.click("button", "More for backup.zip");
    browser.click("[role=menuitem]", "Unpack here");
    browser.find(".file-name", "charts.bin");
    assert_eq!(fs::metadata(stage.files().join("charts.bin")).unwrap().len(), 3 << 20);
}

pub fn set_permissions(stage: &Stage) {
    let browser = &stage.browser;
    browser.click("button", "More for charts.bin");
    browser.click("[role=menuitem]", "Permissions");
    browser.find("dialog h2", "Permissions of charts.bin");
    browser.fill("dialog input[pattern]", "640");
    // The boxes and the number are one: what one changes the other shows.
    browser.click("dialog input[aria-label='Group: write']", "");
    assert_eq!(browser.run("return document.querySelector('dialog input[pattern]').value", json!([])), "660");
    stage.show("permissions");
    browser.click("dialog button", "Set");
    browser.find("tr[data-name='charts.bin'] .f-mode", "660");
    let mode = fs::metadata(stage.files().join("charts.bin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

pub fn install_and_remove_a_mod(stage: &Stage) {
    let browser = &stage.browser;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = DownloadServer::start(listener, true, |path| match path {
        "/sails-1.0.jar" => Served::ok(MOD),
        _ => Served { status: 404, ..Served::default() },
    });
    browser.click(".tabs a", "Mods");
    browser.find(".empty h2", "No mods");
    stage.show("mods-empty");
    browser.click("button", "Install a mod");
    browser.fill("dialog input:not([type])", "Sails");
    browser.fill("dialog input[type=url]", &source.url("/gone.jar"));
    stage.show("mod-install");
    browser.click("dialog button", "Install");
    browser.until("document.querySelector('dialog .wrong').textContent");
    assert_eq!(browser.run("return document.querySelector('dialog input').value", json!([])), "Sails");
    browser.fill("dialog input[type=url]", &source.url("/sails-1.0.jar"));
    browser.click("dialog button", "Install");
    browser.find(".toast", "Sails is installed");
    browser.find("td", "Sails");
    let installed = stage.files().join("mods/sails-1.0.jar");
    assert_eq!(fs::read_to_string(&installed).unwrap(), MOD);
    stage.show("mods");
    browser.click("td button", "Remove");
    browser.click("dialog button", "Remove");
    browser.find(".empty h2", "No mods");
    assert!(!installed.exists());
}
