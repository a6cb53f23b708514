//! An outcome as text, for keeping it over a restart: what was promised is kept as it was written, so that any dialect
//! can say it again without the types it came from.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::outcome::{Outcome, Reply};
use super::{Code, Fault, unified};

/// A success that was read back: its sentence, and its data as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReply {
    pub message: Option<String>,
    data: String,
}

impl KeptReply {
    /// The data as it was written; `None` only for what this module has not made.
    pub(super) fn data(&self) -> Option<&RawValue> {
        serde_json::from_str(&self.data).ok()
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.data.len() + self.message.as_ref().map_or(0, String::len)
    }
}

/// The outcome as text. `at` is when it was known.
pub fn keep(outcome: &Outcome, at: SystemTime) -> String {
    unified::encode_outcome(None, outcome, at)
}

/// What [`keep`] has written; `None` for any other text.
pub fn restore(text: &str) -> Option<Outcome> {
    #[derive(Deserialize)]
    struct Kept<'a> {
        message: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    struct Refusal {
        code: Code,
        message: String,
    }
    let Kept { message, data, error } = serde_json::from_str(text).ok()?;
    Some(match (error, data) {
        (Some(Refusal { code, message }), _) => Err(Fault { code, message }),
        (None, Some(data)) => Ok(Reply::Kept(Box::new(KeptReply { message, data: data.get().into() }))),
        (None, None) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::outcome::ServerReply;
    use crate::protocol::{Envelope, Status, encode_outcome};

    #[test]
    fn says_the_same_in_every_dialect() {
        let reply = ServerReply {
            exit_code: Some(-1),
            killed: Some(true),
            ..ServerReply::new("s".parse().unwrap(), Status::Stopped, "Server \"stopped\"")
        };
        let at = SystemTime::now();
        for outcome in
            [Ok(Reply::Server(Box::new(reply))), Err(Fault::new(Code::ServerExists, "There is one."))]
        {
            let kept = restore(&keep(&outcome, at)).expect("it was kept");
            for envelope in
                [Envelope::Unified { id: Some("x".into()) }, Envelope::Http { id: Some("x".into()) }]
            {
                assert_eq!(encode_outcome(&envelope, &kept, at), encode_outcome(&envelope, &outcome, at));
            }
        }
        assert_eq!(restore("{}"), None);
    }
}
