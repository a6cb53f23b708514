//! A browser as far as the API sees one: it has a cookie, and sends its session's token with what changes something.

use serde_json::Value;

use super::process::{Answer, Panel};

pub struct Browser {
    pub cookie: String,
    pub csrf: String,
}

impl Browser {
    /// Logs in, which has to succeed.
    pub fn log_in(panel: &Panel, body: &str) -> Browser {
        let answer = log_in(panel, body);
        assert_eq!(answer.status, 201, "{answer:?}");
        Browser::of(&answer)
    }

    /// The session that an answer begins.
    pub fn of(answer: &Answer) -> Browser {
        let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        for part in ["; httponly", "; samesite=strict", "; path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Browser { cookie, csrf: answer.json()["csrf"].as_str().unwrap().to_owned() }
    }

    /// A user with this password, logged in.
    pub fn user(panel: &Panel, name: &str, role: &str) -> (String, Browser) {
        let body = format!(r#"{{"name":"{name}","role":"{role}","password":"a long password"}}"#);
        let made = panel.send("POST", "/api/v1/users", &body);
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.json()["user"]["id"].as_str().unwrap().to_owned();
        let body = format!(r#"{{"name":"{name}","password":"a long password"}}"#);
        (id, Browser::log_in(panel, &body))
    }

    pub fn get(&self, panel: &Panel, path: &str) -> Answer {
        panel.call("GET", path, &[("Cookie", &self.cookie)], None)
    }

    pub fn send(&self, panel: &Panel, method: &str, path: &str, body: &str) -> Answer {
        let headers = [
            ("Cookie", self.cookie.as_str()),
            ("X-CSRF-Token", &self.csrf),
            ("Content-Type", "application/json"),
            ("Prefer", "respond-async"),
        ];
        panel.call(method, path, &headers, Some(body))
    }
}

pub fn log_in(panel: &Panel, body: &str) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Cookie", "")];
    panel.call("POST", "/api/v1/session", &headers, Some(body))
}

/// Gives a user rights on a server.
pub fn grant(panel: &Panel, user: &str, server: &str, rights: &[&str]) {
    let grant: Value = serde_json::json!({"items": [{"node": "n1", "server": server, "rights": rights}]});
    let answer = panel.send("PUT", &format!("/api/v1/users/{user}/grants"), &grant.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}
