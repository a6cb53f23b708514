//! Each role against each route: the table of routes is the one that the Panel serves as its description.

use serde_json::{Value, json};

use super::browser::{Browser, grant};
use super::fake_agent::FakeAgent;
use super::process::Panel;

/// What a role is answered: not known, not there for it, not allowed, or anything that comes after that.
fn verdict(status: u16) -> &'static str {
    match status {
        401 => "unknown",
        403 => "forbidden",
        404 => "hidden",
        _ => "let in",
    }
}

#[test]
fn each_role_is_let_in_where_the_description_says() {
    let panel = Panel::start(&["n1"]);
    // Known and offline: nothing is waited for.
    let mut events = panel.events(None);
    drop(FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]));
    events.wait("node", |node| node["online"] == json!(true));
    events.wait("node", |node| node["online"] == json!(false));
    let rights = ["view", "console", "power", "files", "settings"];
    let (_, admin) = Browser::user(&panel, "adm", "admin");
    let (_, stranger) = Browser::user(&panel, "stranger", "member");
    let members: Vec<(&str, Browser)> = rights
        .iter()
        .map(|right| {
            let (id, browser) = Browser::user(&panel, right, "member");
            grant(&panel, &id, "s1", &[right]);
            (*right, browser)
        })
        .collect();
    let read_only = panel.user("reader", true, "read");
    let document = panel.get("/api/v1/openapi.json").json();
    let mut checked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let who = operation["x-who"].as_str().unwrap();
            let method = method.to_uppercase();
            // What would end the session or the node that the rest needs is asked for with ids that are not there.
            let path = path
                .replace("{node}", "n1")
                .replace("{server}", "s1")
                .replace("{template}", "none")
                .replace("{id}", "999999");
            if who == "anyone"
                || path == "/events"
                || (method.as_str(), path.as_str()) == ("DELETE", "/session")
            {
                continue;
            }
            let path = format!("/api/v1{path}");
            // A field that no call knows: whoever is let in is told so, and nothing happens.
            let body = if method == "GET" { None } else { Some(r#"{"no such field":1}"#) };
            let kind =
                if path.ends_with("/upload") { "application/octet-stream" } else { "application/json" };
            let ask = |browser: &Browser| {
                let headers = [
                    ("Cookie", browser.cookie.as_str()),
                    ("X-CSRF-Token", &browser.csrf),
                    ("Content-Type", kind),
                    ("Prefer", "respond-async"),
                ];
                panel.call(&method, &path, &headers, body)
            };
            let check = |role: &str, answer: super::process::Answer, expected: &[&str]| {
                let found = verdict(answer.status);
                assert!(expected.contains(&found), "{role}: {method} {path} ({who}): {answer:?}");
            };
            // Someone who is let in may still find nothing at 999999.
            let in_ = &["let in", "hidden"][..];
            check(
                "nobody",
                panel.call(&method, &path, &[("Cookie", ""), ("Content-Type", kind)], body),
                &["unknown"],
            );
            if method != "GET" {
                let headers = [("Cookie", admin.cookie.as_str()), ("Content-Type", kind)];
                assert_eq!(panel.call(&method, &path, &headers, body).error(), "403 CSRF", "{method} {path}");
            }
            if destructive(&method, &path) {
                continue;
            }
            check("admin", ask(&admin), in_);
            let on_server = path.contains("/servers/n1/s1");
            check(
                "stranger",
                ask(&stranger),
                match who {
                    "session" | "any" => in_,
                    _ if on_server => &["hidden"],
                    _ => &["forbidden"],
                },
            );
            for (right, browser) in &members {
                check(
                    right,
                    ask(browser),
                    match who {
                        "session" | "any" => in_,
                        "view" => in_,
                        who if who == *right => in_,
                        _ => &["forbidden"],
                    },
                );
            }
            let headers = [("Authorization", &*format!("Bearer {read_only}")), ("Content-Type", kind)];
            check(
                "token that reads",
                panel.call(&method, &path, &headers, body),
                match (who, method.as_str()) {
                    ("session", _) => &["forbidden"],
                    (_, "GET") => in_,
                    _ => &["forbidden"],
                },
            );
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} routes only");
}

/// Calls that take no body and would be carried out.
fn destructive(method: &str, path: &str) -> bool {
    method == "DELETE" && path == "/api/v1/nodes/n1"
}

#[test]
fn nothing_can_be_slipped_into_paths_headers_or_searches() {
    let panel = Panel::start(&["n1"]);
    let _agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "stopped")]);
    for path in [
        "/api/v1/servers/n1/..%2F..%2Fusers",
        "/api/v1/servers/n1/%2e%2e",
        "/api/v1/servers/n1/s1%00",
        "/api/v1/servers/n1/s1%0d%0aX-Evil:%201",
        "/api/v1/servers/../users",
        "/api/v1//users",
        "/api/v1/users/1%20OR%201=1",
        "/api/v1/users/1;DROP%20TABLE%20users",
        "/..%2f..%2fetc/passwd",
        "/api/v1/templates/..%2fdemo",
    ] {
        let answer = panel.get(path);
        assert!(matches!(answer.status, 404 | 400), "{path}: {answer:?}");
        assert!(!answer.head.contains("x-evil"), "{path}: {answer:?}");
    }
    // Values that would be SQL, a pattern or a header are texts.
    for text in ["'%20OR%20'1'='1", "%25", "_", "%22%3B--", "*"] {
        assert_eq!(panel.get(&format!("/api/v1/users?q={text}")).json()["items"], json!([]), "{text}");
        assert_eq!(panel.get(&format!("/api/v1/activity?q={text}%27x")).json()["items"], json!([]), "{text}");
    }
    // What cannot be read is told; left out, the call would be another one.
    for query in ["user=%07", "q=%ff", "%00=x", "node=%", "q=%0d%0aSet-Cookie:%20a=b"] {
        let answer = panel.get(&format!("/api/v1/activity?{query}"));
        assert_eq!(answer.error(), "422 INVALID_PAYLOAD", "{query}");
    }
    let made = panel.send("POST", "/api/v1/users", r#"{"name":"x\r\nSet-Cookie: a=b","role":"member"}"#);
    assert_eq!(made.error(), "422 INVALID_PAYLOAD");
    let made = panel.send("POST", "/api/v1/users", r#"{"name":"<img src=x>'; --","role":"member"}"#).json();
    assert_eq!(made["user"]["name"], json!("<img src=x>'; --"));
    let host = panel.call("GET", "/api/v1/nodes", &[("Host", "127.0.0.1\"><script>")], None);
    assert_eq!(host.status, 421);
    let value: Value = panel.get("/api/v1/users").json();
    assert!(value["items"].as_array().unwrap().len() >= 2);
}
