//! A node and a server, from joining to deleting.

use std::fs;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::stage::Stage;
use crate::support::SOON;

pub fn join_a_node(stage: &mut Stage) {
    stage.browser.click(".steps a", "Add a node");
    stage.browser.find("dialog h2", "Add a node");
    stage.show("node-add");
    stage.browser.fill("dialog input[placeholder=node-1]", &stage.node);
    stage.browser.fill("dialog input[placeholder='play.example.org']", "play.example.org");
    stage.browser.click("dialog button", "Get the join command");
    let command = stage.browser.find("dialog pre", "longshore-agent join");
    let command = stage.browser.run("return arguments[0].textContent", json!([command]));
    stage.browser.find("dialog", "Waiting for");
    stage.show("node-join");
    stage.join(command.as_str().unwrap());
    // Seen as it happens, without a press.
    stage.browser.find("dialog .waiting", "is connected");
    stage.browser.click("dialog button", "To the node");
    stage.browser.find("main h1", &stage.node);
    stage.browser.find(".server-facts", "Online");
    stage.browser.find(".stacked", "Memory");
    stage.show("node");
}

pub fn create_the_demo_server(stage: &mut Stage) {
    stage.open("/servers/new");
    stage.browser.click(".template", "Demo server");
    stage.browser.find("aside", &stage.node);
    stage.show("create");
    stage.browser.fill("[data-variable=TICK_MS]", "fast");
    stage.browser.click("button", "Create server");
    stage.browser.find(".wrong", "A number is needed");
    stage.browser.fill("[data-variable=TICK_MS]", "200");
    stage.browser.click("button", "Create server");
    stage.browser.find("main h1", "Demo server");
    let path = stage.browser.path();
    stage.server = path.split('/').nth(3).unwrap().to_owned();
    stage.browser.find(".server-facts", "Running");
    stage.browser.find(".scroll", "tick");
    stage.show("console");
    assert!(stage.files().is_dir());
}

pub fn type_and_see_the_answer(stage: &Stage) {
    let browser = &stage.browser;
    browser.fill(".line", "say land ahead");
    browser.keys("\u{e007}");
    browser.find(".scroll", "land ahead");
    browser.fill(".console-find input", "land ahead");
    browser.until("/^[1-9]\\d* of [1-9]/.test(document.querySelector('.hits').textContent)");
    browser.fill(".line", "flood 6000");
    browser.keys("\u{e007}");
    // All of it came; what is kept is bounded, and the end is in sight.
    browser.until("document.querySelectorAll('.block > div').length >= 4900");
    browser.until("document.querySelectorAll('.block > div').length <= 5100");
    browser.until("(() => { const view = document.querySelector('.scroll'); return view.scrollHeight - view.clientHeight - view.scrollTop < 30 })()");
    // Scrolled up it stays where one reads, and counts what comes.
    browser.run("document.querySelector('.scroll').scrollTop = 1000", json!([]));
    browser.find(".pill", "new line");
    browser.click(".pill", "");
    browser.until("document.querySelector('.pill').hidden");
    // Arrow keys bring back what was typed.
    browser.click(".line", "");
    browser.keys("\u{e013}\u{e013}");
    assert_eq!(browser.run("return document.querySelector('.line').value", json!([])), "say land ahead");
    browser.fill(".line", "save");
    browser.keys("\u{e007}");
    // Smooth with all its lines: a step of scrolling, with the layout it causes, fits a frame of 60 in a second.
    let step = browser.run(
        "const view = document.querySelector('.scroll'); const times = []; \
         for (let count = 0; count < 100; count += 1) { const begun = performance.now(); view.scrollTop -= 400; \
         view.lastElementChild.getBoundingClientRect(); times.push(performance.now() - begun); } \
         return times.sort((a, b) => a - b)[50]",
        json!([]),
    );
    assert!(step.as_f64().unwrap() < 16.0, "{step} ms a step");
    assert_eq!(browser.complaints(), [""; 0]);
}

pub fn charts_move(stage: &Stage) {
    let browser = &stage.browser;
    browser.click(".tabs a", "Charts");
    let line = "document.querySelector('.plot .line')?.getAttribute('d')";
    let first = browser.until(line);
    browser.until(&format!("{line} !== {first}"));
    browser.until("document.querySelectorAll('.chart').length === 4");
    stage.show("charts");
    browser.click("button", "1 hour");
    browser.until("location.search.includes('range=1h')");
    browser.click("button", "Table");
    browser.until("document.querySelectorAll('.table-view tbody tr').length > 1");
    stage.show("charts-table");
}

pub fn edit_upload_and_download(stage: &Stage) {
    let browser = &stage.browser;
    browser.click(".tabs a", "Files");
    browser.find(".file-name", "world.txt");
    stage.show("files");
    let local = browser.dir.path().join("motd.txt");
    fs::write(&local, "welcome aboard\n").unwrap();
    let input = browser.until("document.querySelector('.file-bar input[type=file]')");
    browser.type_into(&input, local.to_str().unwrap());
    browser.find(".file-name", "motd.txt");
    browser.find(".uploads [data-state=done]", "motd.txt");
    browser.click(".file-name", "motd.txt");
    let area = browser.find("textarea", "");
    browser.until("document.querySelector('textarea').value.includes('welcome')");
    browser.type_into(&area, "\u{e009}\u{e010}\u{e000}and fair winds\n");
    browser.find(".tag", "Not saved");
    stage.show("editor");
    browser.click("button", "Save");
    browser.find(".toast", "motd.txt is saved");
    assert_eq!(
        fs::read_to_string(stage.files().join("motd.txt")).unwrap(),
        "welcome aboard\nand fair winds\n"
    );

    // Somebody else writes it meanwhile: nothing is overwritten unasked.
    fs::write(stage.files().join("motd.txt"), "written by the server\n").unwrap();
    browser.type_into(&area, "\u{e009}\u{e010}\u{e000}once more\n");
    browser.click("button", "Save");
    browser.find(".banner", "changed meanwhile");
    assert_eq!(fs::read_to_string(stage.files().join("motd.txt")).unwrap(), "written by the server\n");
    browser.click("button", "Load theirs");
    browser.click("dialog button", "Load again");
    browser.until("document.querySelector('textarea').value === 'written by the server\\n'");

    fs::remove_file(&local).unwrap();
    browser.click("a", "Download");
    let begun = Instant::now();
    while fs::read_to_string(&local).ok().as_deref() != Some("written by the server\n") {
        assert!(begun.elapsed() < SOON, "the download never came");
        thread::yield_now();
    }

    // Back in the list: a folder is made, the file is renamed into being deleted, all by what is offered.
    browser.click("button", "Back to the files");
    browser.click("button", "More for motd.txt");
    browser.click("[role=menuitem]", "Rename");
    browser.fill("dialog input", "old.txt");
    browser.click("dialog button", "Rename");
    browser.find(".file-name", "old.txt");
    browser.click("button", "More for old.txt");
    browser.click("[role=menuitem]", "Delete");
    browser.click("dialog button", "Delete");
    browser.until(
        "![...document.querySelectorAll('.file-name')].some((one) => one.textContent.includes('old.txt'))",
    );
    assert!(!stage.files().join("old.txt").exists());
}

pub fn change_settings(stage: &Stage) {
    let browser = &stage.browser;
    browser.click(".tabs a", "Settings");
    browser.find("h2", "Limits");
    stage.show("server-settings");
    browser.fill("[data-variable=TICK_MS]", "500");
    browser.click("button", "Save changes");
    browser.find(".toast", "are saved");
    browser.find(".banner", "Changes wait for a restart");
    // A crash is to stay one, so that it can be looked at.
    let path = format!("/servers/{}/{}", stage.node, stage.server);
    let changed = browser.run_later(
        "const [path, done] = arguments; import('/api.js').then(({command}) => command('PATCH', path, {spec: {restart: 'never'}})).then(() => done('done'), ({message}) => done(message))",
        json!([path]),
    );
    assert_eq!(changed, "done");
}

pub fn stop_and_start(stage: &Stage) {
    let browser = &stage.browser;
    browser.click(".tabs a", "Console");
    browser.click(".power button", "Stop");
    // Told at once, and true when it comes.
    browser.until("['Stopping', 'Stopped'].some((word) => document.querySelector('.server-facts').textContent.includes(word))");
    browser.find(".server-facts", "Stopped");
    browser.until("document.querySelector('.line').disabled");
    stage.show("stopped");
    browser.click(".power button", "Start");
    browser.find(".server-facts", "Running");
    browser.until("!document.querySelector('.line').disabled");
    browser.until("!document.querySelector('.banner')");
}

pub fn suspend_and_resume(stage: &Stage) {
    let browser = &stage.browser;
    stage.open(&stage.server_path("console"));
    browser.click(".power button", "More");
    browser.click("[role=menuitem]", "Suspend");
    browser.find("dialog h2", "Suspend Demo server?");
    browser.click("dialog button", "Suspend");
    browser.find(".server-facts", "Suspended");
    browser.until("document.querySelector('.line').disabled");
    stage.show("suspended");
    browser.click(".banner button", "Resume");
    browser.find(".server-facts", "Stopped");
    browser.click(".power button", "Start");
    browser.find(".server-facts", "Running");
    browser.until("!document.querySelector('.line').disabled");
}

pub fn see_a_crash(stage: &Stage) {
    let browser = &stage.browser;
    browser.fill(".line", "crash 3");
    browser.keys("\u{e007}");
    browser.find(".banner", "exit code 3");
    browser.find(".banner pre", "tick");
    stage.show("crash");
}

/// The stream ends and comes back, and the page with it.
pub fn survive_a_restart_of_the_panel(stage: &mut Stage) {
    stage.open(&stage.server_path("console"));
    stage.browser.click(".power button", "Start");
    stage.browser.find(".server-facts", "Running");
    stage.browser.find(".live", "Live");
    stage.end_panel();
    stage.browser.find(".live", "Reconnecting");
    stage.start_panel();
    stage.browser.find(".live", "Live");
    stage.browser.find(".server-facts", "Running");
    // The console goes on where it was: its ticks are without a hole. One that began anew counts on from its last save.
    let ticks = "[...document.querySelectorAll('[data-time] > span')].map((one) => /^tick (\\d+)/.exec(one.textContent)?.[1]).filter(Boolean).map(Number)";
    let before = stage.browser.until(&format!("{ticks}.at(-1)"));
    stage.browser.until(&format!("{ticks}.at(-1) > {before} + 3"));
    let holes = stage
        .browser
        .run(&format!("return {ticks}.filter((tick, at, all) => at && tick > all[at - 1] + 1)"), json!([]));
    assert_eq!(holes, json!([]));
    // A Panel that is away is a failed load to the browser; the page has told it in words.
    stage.browser.complaints();
}

pub fn delete_it(stage: &Stage) {
    let browser = &stage.browser;
    browser.click(".power button", "More");
    browser.click("[role=menuitem]", "Delete");
    browser.find("dialog h2", "Delete Demo server?");
    stage.show("delete");
    assert_eq!(browser.run("return document.querySelector('dialog .primary').disabled", json!([])), true);
    browser.fill("dialog input:not([type=checkbox])", "Demo server");
    browser.click("dialog input[type=checkbox]", "");
    browser.click("dialog button", "Delete server");
    browser.find(".empty", "No server yet");
    assert!(!stage.files().exists());
}
