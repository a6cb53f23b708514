//! A refusal or failure as the API tells it: status, code, one plain sentence, and the field at fault.
//!
//! Pure. Codes are the contract's, plus the Panel's own that no Agent says (`NODE_OFFLINE` and the like).

use std::borrow::Cow;

use serde::Serialize;

use super::store::StoreError;
use super::wire::Failure;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(skip)]
    pub status: u16,
    pub code: Cow<'static, str>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Seconds after which it is worth another try.
    #[serde(skip)]
    pub retry_after: Option<u64>,
    /// The methods that a path has, where one was asked for that it has not.
    #[serde(skip)]
    pub allow: Option<String>,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            status,
            code: code.into(),
            message: message.into(),
            field: None,
            retry_after: None,
            allow: None,
        }
    }

    /// 422 for a field of the request's body.
    pub fn field(field: &str, message: impl Into<String>) -> Problem {
        Problem { field: Some(field.into()), ..Problem::new(422, "INVALID_PAYLOAD", message) }
    }

    /// `{"error":{…}}`
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a Problem,
        }
        serde_json::to_string(&Body { error: self }).expect("strings always serialise")
    }
}

/// An Agent's failure keeps its code; the status says whose fault it is.
impl From<&Failure> for Problem {
    fn from(failure: &Failure) -> Problem {
        let status = match failure.code.as_str() {
            "INVALID_MESSAGE" | "UNKNOWN_ACTION" | "INVALID_PAYLOAD" | "PATH_INVALID" | "NOT_TEXT"
            | "IMAGE_NOT_FOUND" | "CHECKSUM_MISMATCH" => 422,
            "SERVER_NOT_FOUND" | "CONTAINER_NOT_FOUND" | "FILE_NOT_FOUND" => 404,
            "SERVER_EXISTS" | "FILE_EXISTS" | "PORT_CONFLICT" | "SERVER_NOT_RUNNING" | "SERVER_SUSPENDED"
            | "CONFLICT" | "SUPERSEDED" | "WRONG_AGENT" | "WRONG_EPOCH" | "INTERRUPTED" => 409,
            "PERMISSION_DENIED" => 403,
            "TOO_LARGE" => 413,
            "TIMEOUT" => 504,
            "BUSY" | "SHUTTING_DOWN" => 503,
            "INSUFFICIENT_RESOURCES" | "QUOTA_EXCEEDED" => 507,
            _ => 502,
        };
        let field = failure.field().map(str::to_owned);
        // The field is told apart from the sentence, so that the page can say it where it belongs.
        let message = match &field {
            Some(field) => failure.message[field.len() + 2..].to_owned(),
            None => failure.message.clone(),
        };
        Problem { status, code: failure.code.clone().into(), message, field, retry_after: None, allow: None }
    }
}

/// The Panel's own disk: the cause goes to its log.
impl From<StoreError> for Problem {
    fn from(fault: StoreError) -> Problem {
        match fault {
            StoreError::Exists(what) => Problem::new(409, "CONFLICT", format!("There is a {what} already.")),
            StoreError::Unknown(what) => Problem::new(404, "NOT_FOUND", format!("There is no {what}.")),
            fault => {
                log::error!("store: {fault}");
                let what = match fault.is_full() {
                    true => {
                        "The Panel's disk is full, so nothing was changed. Make room on it and try again."
                    }
                    false => {
                        "The Panel could not store this, so nothing was changed. Check its disk and log."
                    }
                };
                Problem::new(507, "STORE_FAILED", what)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_failure_becomes_a_status_and_a_field() {
        let check = |code: &str, message: &str, expected: (u16, &str)| {
            let problem = Problem::from(&Failure { code: code.into(), message: message.into() });
            assert_eq!((problem.status, problem.body().as_str()), expected);
        };
        check(
            "INVALID_PAYLOAD",
            "image: is missing",
            (422, r#"{"error":{"code":"INVALID_PAYLOAD","message":"is missing","field":"image"}}"#),
        );
        check("SOME_NEW_CODE", "a: b", (502, r#"{"error":{"code":"SOME_NEW_CODE","message":"a: b"}}"#));
        check("SERVER_NOT_FOUND", "gone", (404, r#"{"error":{"code":"SERVER_NOT_FOUND","message":"gone"}}"#));
    }
}
