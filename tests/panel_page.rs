//! The page as it is served: complete, small, and unable to run or fetch anything that is not its own.

#[path = "panel/process.rs"]
#[allow(dead_code)]
mod process;

use process::Panel;

const FILES: [&str; 11] = [
    "/",
    "/style.css",
    "/icon.svg",
    "/theme.js",
    "/app.js",
    "/dom.js",
    "/live.js",
    "/states.js",
    "/servers.js",
    "/nodes.js",
    "/forms.js",
];

#[test]
fn the_page_is_complete_and_strict() {
    let panel = Panel::start(&[]);
    let mut bytes = 0;
    for path in FILES {
        let file = panel.get(path);
        assert_eq!(file.status, 200, "{path}");
        bytes += file.body.len();
        let policy =
            file.head.lines().find(|line| line.starts_with("content-security-policy:")).unwrap_or_default();
        for part in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert!(file.head.contains("x-content-type-options: nosniff"), "{path}: {}", file.head);
        let foreign = file.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path} names another host");

        let etag = file.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again = panel.call("GET", path, &[("If-None-Match", etag)], None);
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        assert_eq!(panel.call("GET", path, &[("If-None-Match", "\"other\"")], None).status, 200);
    }
    assert!(bytes < 150_000, "{bytes} bytes are too many");
    assert_eq!(panel.call("HEAD", "/", &[], None).body, "");
    assert_eq!(panel.get("/nothing.js").error(), "404 NOT_FOUND");
}

#[test]
fn everything_the_page_asks_for_is_there_and_nothing_is_inline() {
    let panel = Panel::start(&[]);
    let html = panel.get("/").body;
    for part in ["<style", " style=", "javascript:", " onclick", " onload"] {
        assert!(!html.contains(part), "{part} is in the page");
    }
    for tag in html.split("<script").skip(1) {
        assert!(tag.contains("src=\"/") && tag.contains("></script>"), "an inline script: {tag:.60}");
    }
    let named =
        html.split(['"']).filter(|text| text.starts_with('/') && text.contains('.')).map(str::to_owned);
    let imported = FILES.iter().filter(|file| file.ends_with(".js")).flat_map(|file| {
        let body = panel.get(file).body;
        assert!(!body.contains("innerHTML") && !body.contains("eval("), "{file} makes code of text");
        let imports =
            body.split("from \"./").skip(1).map(|rest| format!("/{}", rest.split('"').next().unwrap()));
        imports.collect::<Vec<_>>()
    });
    for path in named.chain(imported) {
        assert!(FILES.contains(&path.as_str()), "{path} is asked for and not served");
    }
}
