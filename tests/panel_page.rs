//! The page as it is served: complete, small, and unable to run or fetch anything that is not its own.

#[path = "panel/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;

use process::{Answer, Panel};

/// All of it that a browser may ever load, in bytes as sent.
const BUDGET: usize = 150_000;

#[test]
fn the_page_is_complete_and_strict() {
    let panel = Panel::start(&[]);
    let (files, mut sent) = (everything(&panel), 0);
    assert!(files.contains_key("/app.js") && files.contains_key("/console.js"), "{:?}", files.keys());
    for (path, body) in &files {
        let plain = panel.get(path);
        let policy = header(&plain, "content-security-policy");
        for part in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(header(&plain, "x-content-type-options"), "nosniff", "{path}");
        let foreign = body.replace("http://www.w3.org/2000/svg", "").replace("https://…", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path} names another host");

        let zipped = panel.call("HEAD", path, &[("Accept-Encoding", "gzip, br")], None);
        assert_eq!(header(&zipped, "content-encoding"), "gzip", "{path}");
        assert_eq!(header(&zipped, "vary"), "accept-encoding", "{path}");
        sent += header(&zipped, "content-length").parse::<usize>().unwrap();

        let etag = header(&plain, "etag");
        assert_ne!(etag, header(&zipped, "etag"), "{path}: each form has a tag of its own");
        let again = panel.call("GET", path, &[("If-None-Match", &etag)], None);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(panel.call("GET", path, &[("If-None-Match", "\"other\"")], None).status, 200);
    }
    assert!(sent < BUDGET, "{sent} bytes are too many");
    assert_eq!(panel.call("HEAD", "/", &[], None).body, "");
}

#[test]
fn every_address_of_the_page_is_answered_with_it_and_nothing_else_is() {
    let panel = Panel::start(&[]);
    let document = panel.get("/").body;
    for path in ["/servers", "/servers/node-1/demo/files?path=a", "/nodes/x", "/login", "/setup", "/settings"]
    {
        assert_eq!(panel.get(path).body, document, "{path}");
    }
    for path in ["/nothing.js", "/index.html", "/api/nothing", "/nothing"] {
        assert_eq!(panel.get(path).status, 404, "{path}");
    }
}

#[test]
fn nothing_is_inline_and_no_text_becomes_code() {
    let panel = Panel::start(&[]);
    let files = everything(&panel);
    let html = &files["/"];
    for part in ["<style", " style=", "javascript:", " onclick", " onload"] {
        assert!(!html.contains(part), "{part} is in the page");
    }
    for tag in html.split("<script").skip(1) {
        assert!(tag.contains("src=\"/") && tag.contains("></script>"), "an inline script: {tag:.60}");
    }
    for (path, body) in files.iter().filter(|(path, _)| path.ends_with(".js")) {
        for part in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!body.contains(part), "{path} makes code of text: {part}");
        }
    }
}

/// The document, and whatever it or its modules name, each as it is served.
fn everything(panel: &Panel) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut wanted = vec!["/".to_owned()];
    while let Some(path) = wanted.pop() {
        if files.contains_key(&path) {
            continue;
        }
        let answer = panel.get(&path);
        assert_eq!(answer.status, 200, "{path} is asked for and not served");
        let names = |start: &str| -> Vec<String> {
            let parts = answer.body.split(start).skip(1);
            parts.map(|rest| format!("/{}", rest.split('"').next().unwrap())).collect()
        };
        if path == "/" {
            wanted.extend(["href=\"/", "src=\"/"].into_iter().flat_map(names));
        } else if path.ends_with(".js") {
            wanted.extend(["from \"./", "import(\"./"].into_iter().flat_map(names));
        }
        files.insert(path, answer.body);
    }
    files
}

fn header(answer: &Answer, name: &str) -> String {
    let start = format!("{name}: ");
    let mut lines = answer.head.lines();
    lines.find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
}
