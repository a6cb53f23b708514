//! The second factor: turned on with a code, asked for at each log-in, used once, replaced by recovery codes.

use serde_json::{Value, json};

use super::browser::{Browser, log_in};
use super::process::Panel;
use super::totp;

const PASSWORD: &str = "a long password";

#[test]
fn a_second_factor_is_asked_for_once_it_is_on() {
    let panel = Panel::start(&[]);
    let (id, ann) = Browser::user(&panel, "ann", "admin");
    let attempt = |code: Option<&str>| {
        let body = json!({"name": "ann", "password": PASSWORD, "code": code.unwrap_or_default()});
        log_in(&panel, &body.to_string())
    };
    let wrong = ann.send(&panel, "POST", "/api/v1/account/totp", r#"{"password":"not this one"}"#);
    assert_eq!(wrong.json()["error"]["field"], json!("password"), "it is asked for again: {wrong:?}");
    let begun =
        ann.send(&panel, "POST", "/api/v1/account/totp", &json!({"password": PASSWORD}).to_string()).json();
    let secret = begun["secret"].as_str().unwrap();
    assert!(begun["uri"].as_str().unwrap().starts_with("otpauth://totp/"), "{begun}");
    assert_eq!(attempt(None).status, 201, "not before it was confirmed");
    let confirm = |code: &str| {
        ann.send(&panel, "POST", "/api/v1/account/totp/confirm", &json!({"code": code}).to_string())
    };
    assert_eq!(confirm("000000").error(), "422 INVALID_PAYLOAD");
    // The code of the time before counts too: a clock may be a little off.
    let on = confirm(&totp::code(secret, -1));
    assert_eq!(on.status, 200, "{on:?}");
    let codes: Vec<String> = serde_json::from_value(on.json()["recoveryCodes"].clone()).unwrap();

    assert_eq!(attempt(None).error(), "401 TOTP_NEEDED");
    assert_eq!(attempt(Some("000000")).error(), "401 TOTP_WRONG");
    let code = totp::code(secret, 0);
    assert_eq!(attempt(Some(&code)).status, 201);
    assert_eq!(attempt(Some(&code)).error(), "401 TOTP_WRONG", "a code counts once");
    assert_eq!(attempt(Some(&codes[0])).status, 201);
    assert_eq!(attempt(Some(&codes[0])).error(), "401 TOTP_WRONG", "a recovery code counts once");
    let shown = panel.get(&format!("/api/v1/users/{id}"));
    assert_eq!(shown.json()["totp"], json!(true));
    let log = panel.log();
    for hidden in [secret, &codes[0], &codes[1], &code] {
        assert!(!shown.body.contains(hidden) && !log.contains(hidden), "{hidden} is shown");
    }

    // Whoever has lost it all is helped by an admin.
    assert_eq!(panel.send("DELETE", &format!("/api/v1/users/{id}/totp"), "").status, 204);
    let fresh = Value::String("anything".into());
    let body = json!({"name": "ann", "password": PASSWORD, "code": fresh});
    let answer = log_in(&panel, &body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
}
