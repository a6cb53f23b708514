//! Setting up, logging in, sessions, invitations and tokens.

use serde_json::json;

use super::browser::{Browser, grant, log_in};
use super::fake_agent::FakeAgent;
use super::process::Panel;

const PASSWORD: &str = "a long password";

#[test]
fn the_first_admin_is_made_once_by_the_link_on_the_terminal() {
    let panel = Panel::fresh();
    let anybody = [("Content-Type", "application/json"), ("Cookie", "")];
    let call = |body: String| panel.call("POST", "/api/v1/setup", &anybody, Some(&body));
    assert_eq!(panel.get("/api/v1/setup").json()["needed"], json!(true));
    assert_eq!(panel.get("/api/v1/session").error(), "401 NOT_LOGGED_IN");
    let body = |token: &str, password: &str| {
        json!({"token": token, "name": "ann", "password": password}).to_string()
    };
    let token = panel.setup_token();
    assert!(!panel.log().contains(&token), "the way in is in the log");
    assert_eq!(call(body("wrong", PASSWORD)).error(), "403 SETUP_TOKEN");
    assert_eq!(call(body(&token, "short")).error(), "422 INVALID_PAYLOAD");
    let made = call(body(&token, PASSWORD));
    assert_eq!(made.status, 201, "{made:?}");
    let ann = Browser::of(&made);
    let session = ann.get(&panel, "/api/v1/session").json();
    assert_eq!((&session["user"]["name"], &session["user"]["role"]), (&json!("ann"), &json!("admin")));
    assert_eq!(panel.get("/api/v1/setup").json()["needed"], json!(false));
    assert_eq!(call(body(&token, PASSWORD)).error(), "403 SETUP_DONE");
    Browser::log_in(&panel, &json!({"name": "Ann", "password": PASSWORD}).to_string());
}

#[test]
fn a_session_needs_its_token_to_change_something_and_ends_for_good() {
    let panel = Panel::start(&[]);
    let (_, ann) = Browser::user(&panel, "ann", "admin");
    let json_type = ("Content-Type", "application/json");
    let create =
        |headers: &[(&str, &str)]| panel.call("POST", "/api/v1/nodes", headers, Some(r#"{"id":"n9"}"#));
    // CSRF: the cookie comes along by itself, the token does not.
    let cookie = ("Cookie", ann.cookie.as_str());
    assert_eq!(create(&[cookie, json_type]).error(), "403 CSRF");
    assert_eq!(create(&[cookie, json_type, ("X-CSRF-Token", "")]).error(), "403 CSRF");
    let (_, other) = Browser::user(&panel, "ben", "admin");
    assert_eq!(create(&[cookie, json_type, ("X-CSRF-Token", &other.csrf)]).error(), "403 CSRF");
    assert_eq!(ann.send(&panel, "POST", "/api/v1/nodes", r#"{"id":"n9"}"#).status, 201);

    // Fixation: a cookie that was there before is never made a session.
    let planted = "longshore_session=0000000000000000000000000000000000000000000000000000000000000000";
    let body = json!({"name": "ann", "password": PASSWORD}).to_string();
    let answer = panel.call("POST", "/api/v1/session", &[json_type, ("Cookie", planted)], Some(&body));
    let again = Browser::of(&answer);
    assert!(again.cookie != planted && again.cookie != ann.cookie);
    assert_eq!(panel.call("GET", "/api/v1/session", &[("Cookie", planted)], None).status, 401);

    // A new password ends the others, logging out this one; its open stream says so and ends.
    let change = json!({"current": PASSWORD, "new": "another password"}).to_string();
    assert_eq!(again.send(&panel, "POST", "/api/v1/account/password", &change).status, 204);
    assert_eq!(ann.get(&panel, "/api/v1/session").status, 401);
    assert_eq!(again.get(&panel, "/api/v1/session").status, 200);
    assert_eq!(again.send(&panel, "DELETE", "/api/v1/session", "").status, 204);
    assert_eq!(again.get(&panel, "/api/v1/session").status, 401);
}

#[test]
fn wrong_logins_are_slowed_down_and_tell_nothing() {
    let panel = Panel::start(&[]);
    Browser::user(&panel, "ann", "admin");
    let wrong = |name: &str| log_in(&panel, &json!({"name": name, "password": "wrong password"}).to_string());
    let (known, unknown) = (wrong("ann"), wrong("nobody"));
    assert_eq!((known.error(), &known.body), ("401 LOGIN_FAILED".into(), &unknown.body));
    let begun = std::time::Instant::now();
    let mut let_through = 0;
    for _ in 0..10_000 {
        let answer = wrong("ann");
        match answer.status {
            401 => let_through += 1,
            429 => assert!(answer.head.contains("retry-after: "), "{answer:?}"),
            other => panic!("{other}: {answer:?}"),
        }
    }
    let allowed = 5 + begun.elapsed().as_secs() / 10 + 1;
    assert!(let_through <= allowed, "{let_through} guesses were let through in {:?}", begun.elapsed());
    // Who is logged in and who asks with a token notices nothing.
    assert_eq!(panel.get("/api/v1/nodes").status, 200);
    let refused = panel.get("/api/v1/activity?action=login&user=ann").json();
    assert_eq!(refused["items"][0]["outcome"], json!("failed"), "{}", refused["items"][0]);
}

#[test]
fn an_invitation_lets_in_once_and_asks_for_a_password() {
    let panel = Panel::start(&[]);
    let made = panel.send("POST", "/api/v1/users", r#"{"name":"cat","role":"member"}"#).json();
    let link = made["link"].as_str().unwrap().split('#').nth(1).unwrap().to_owned();
    let body = json!({"link": link}).to_string();
    let cat = log_in(&panel, &body);
    assert_eq!((cat.status, &cat.json()["mustSetPassword"]), (201, &json!(true)));
    let cat = Browser::of(&cat);
    assert_eq!(log_in(&panel, &body).error(), "401 LINK_INVALID");
    let first = r#"{"new":"the first password"}"#;
    assert_eq!(cat.send(&panel, "POST", "/api/v1/account/password", first).status, 204);
    let session = cat.get(&panel, "/api/v1/session").json();
    assert_eq!(session["mustSetPassword"], json!(false));
    let again = cat.send(&panel, "POST", "/api/v1/account/password", r#"{"new":"without the old one"}"#);
    assert_eq!(again.json()["error"]["field"], json!("current"));
    // Disabled: everything ends at once.
    let id = made["user"]["id"].as_str().unwrap();
    let off = panel.send("PATCH", &format!("/api/v1/users/{id}"), r#"{"disabled":true}"#);
    assert_eq!(off.json()["disabled"], json!(true));
    assert_eq!(cat.get(&panel, "/api/v1/session").status, 401);
    let log_in = log_in(&panel, r#"{"name":"cat","password":"the first password"}"#);
    assert_eq!(log_in.error(), "401 LOGIN_FAILED");
}

#[test]
fn there_is_always_an_admin() {
    let panel = Panel::start(&[]);
    let users = panel.get("/api/v1/users").json();
    let path = format!("/api/v1/users/{}", users["items"][0]["id"].as_str().unwrap());
    assert_eq!(panel.send("DELETE", &path, "").error(), "409 LAST_ADMIN");
    assert_eq!(panel.send("PATCH", &path, r#"{"role":"member"}"#).error(), "409 LAST_ADMIN");
    assert_eq!(panel.send("PATCH", &path, r#"{"disabled":true}"#).error(), "409 LAST_ADMIN");
    assert_eq!(panel.get("/api/v1/users").status, 200);
}

#[test]
fn tokens_are_shown_once_and_open_what_their_scopes_say() {
    let panel = Panel::start(&["n1"]);
    let (_, ann) = Browser::user(&panel, "ann", "admin");
    let made =
        ann.send(&panel, "POST", "/api/v1/tokens", r#"{"name":"ci","scopes":["read"],"expiresIn":1}"#).json();
    let bearer = format!("Bearer {}", made["secret"].as_str().unwrap());
    let asks = |method: &str, path: &str, body: Option<&str>| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        panel.call(method, path, &headers, body).status
    };
    assert_eq!(asks("GET", "/api/v1/nodes", None), 200);
    assert_eq!(asks("POST", "/api/v1/nodes", Some("{}")), 403);
    assert_eq!(asks("GET", "/api/v1/session", None), 403, "a token is no person");
    let listed = ann.get(&panel, "/api/v1/tokens");
    assert!(!listed.body.contains(made["secret"].as_str().unwrap()));
    let path = format!("/api/v1/tokens/{}", listed.json()["items"][0]["id"].as_str().unwrap());
    assert_eq!(ann.send(&panel, "DELETE", &path, "").status, 204);
    assert_eq!(asks("GET", "/api/v1/nodes", None), 401);
}

#[test]
fn members_see_what_is_granted_and_nothing_else() {
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("mine", "running"), ("other", "running")]);
    let (id, ben) = Browser::user(&panel, "ben", "member");
    let names = |browser: &Browser| {
        let servers = browser.get(&panel, "/api/v1/servers").json();
        servers["items"].as_array().unwrap().iter().map(|server| server["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&ben), [json!(null); 0]);
    grant(&panel, &id, "mine", &["power"]);
    assert_eq!(names(&ben), ["mine"]);
    let mine = ben.get(&panel, "/api/v1/servers/n1/mine").json();
    assert_eq!((&mine["rights"], &mine["spec"]), (&json!(["view", "power"]), &json!(null)));
    // What may not be seen is as if it were not there.
    let hidden = ben.get(&panel, "/api/v1/servers/n1/other");
    let absent = ben.get(&panel, "/api/v1/servers/n1/absent");
    assert_eq!(hidden.error(), "404 SERVER_NOT_FOUND");
    assert_eq!(hidden.body.replace("other", "x"), absent.body.replace("absent", "x"));
    let stop = ben.send(&panel, "POST", "/api/v1/servers/n1/mine/stop", "{}");
    assert_eq!(stop.status, 202);
    let command = agent.command("stop_server");
    let answer = ben.send(&panel, "POST", "/api/v1/servers/n1/mine/console", r#"{"command":"x"}"#);
    assert_eq!(answer.error(), "403 FORBIDDEN");
    agent.succeed(&command, json!({"serverId": "mine", "status": "stopped"}));
    // Another's command is not theirs to look at.
    let foreign = panel.order("POST", "/api/v1/servers/n1/other/start", "{}");
    assert_eq!(ben.get(&panel, &format!("/api/v1/commands/{foreign}")).error(), "404 COMMAND_NOT_FOUND");
    let activity = ben.get(&panel, "/api/v1/activity").json();
    assert!(
        activity["items"].as_array().unwrap().iter().all(|entry| entry["server"] != "other"),
        "{activity}"
    );
    // A server that is deleted takes what was granted on it along.
    let deleted = panel.send_while("DELETE", "/api/v1/servers/n1/mine", r#"{"confirm":"mine"}"#, || {
        loop {
            let command = agent.next();
            if command["action"] == "delete_server" {
                break agent.succeed(&command, json!({"serverId": "mine", "status": "deleted"}));
            }
        }
    });
    assert_eq!(deleted.status, 200);
    let grants = panel.get(&format!("/api/v1/users/{id}/grants")).json();
    assert_eq!(grants["items"], json!([]));
}
