//! From a Panel's text to a typed command, or to a reason why not. The envelope is read without reading what is in it,
//! so a message is refused for its form at the cost of one pass over its bytes.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::{Command, Envelope};
use super::fault::{Code, Fault};
use super::json::{self, TooDeep};
use super::spec::Rules;
use super::{MAX_IN, NodeId, http, legacy, unified};

/// Longest id of a command in bytes.
pub const MAX_ID: usize = 128;

/// Reads what Panels send to one node. Pure: the same text always gives the same answer.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub(super) node: NodeId,
    pub(super) rules: Rules,
}

/// A message that was understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Command(Command),
    /// The Panel's fencing epoch for this connection.
    Hello {
        epoch: u64,
    },
    /// The Panel has taken in the events up to this one.
    Ack {
        boot_id: String,
        seq: u64,
    },
    /// To be answered by [`unified::encode_pong`] with the same id.
    Ping {
        id: Option<String>,
    },
    /// Needs nothing.
    Pong,
}

/// A message that asks for what cannot be: to be answered with the fault, in the dialect of the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub envelope: Envelope,
    pub fault: Fault,
}

/// Why a text is no message: there is nobody to answer, so it is to be counted, logged (rate limited) and passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A binary frame. Said by the link's reader; texts never are.
    Binary,
    TooLarge,
    TooDeep,
    NotJson,
    NotAnObject,
    /// The `type`, made fit for a log line; empty when there is none.
    UnknownType(String),
    /// HTTP only: no `action` in it.
    NoAction,
    /// Read by a Panel: a message of this `type` that lacks what such a message has.
    Malformed(&'static str),
}

impl Decoder {
    pub fn new(node: NodeId, rules: Rules) -> Decoder {
        Decoder { node, rules }
    }

    /// Reads one text frame of the link. The outer error is for the reader, the inner one for the Panel.
    pub fn message(&self, text: &str) -> Result<Result<Incoming, Rejected>, Skip> {
        let head = Head::read(text, MAX_IN)?;
        let kind = head.kind.and_then(json::text).unwrap_or_default();
        match kind.as_ref() {
            "command" | "hello" | "ack" | "ping" | "pong" => Ok(unified::decode(self, &kind, &head)),
            kind => legacy::decode(self, kind, &head),
        }
    }

    /// Reads the body of `POST /api/command`, at most [`MAX_HTTP_IN`](super::MAX_HTTP_IN). The outer error is answered with status 400 by
    /// [`http::encode_error`], the inner one like any outcome.
    pub fn http(&self, body: &[u8]) -> Result<Result<Command, Rejected>, Skip> {
        http::decode(self, body)
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::Binary => f.write_str("binary frame"),
            Skip::TooLarge => f.write_str("too large"),
            Skip::TooDeep => f.write_str("nested deeper than 64 levels"),
            Skip::NotJson => f.write_str("not JSON"),
            Skip::NotAnObject => f.write_str("not a JSON object"),
            Skip::UnknownType(kind) if kind.is_empty() => f.write_str("no type"),
            Skip::UnknownType(kind) => write!(f, "unknown type: {kind}"),
            Skip::NoAction => f.write_str("no action"),
            Skip::Malformed(kind) => write!(f, "malformed {kind}"),
        }
    }
}

/// The names beside the payload, their values unread. `null` is the same as missing.
#[derive(Default)]
pub(super) struct Head<'a> {
    pub kind: Option<&'a RawValue>,
    pub id: Option<&'a RawValue>,
    pub message_id: Option<&'a RawValue>,
    pub action: Option<&'a RawValue>,
    pub server: Option<&'a RawValue>,
    pub agent: Option<&'a RawValue>,
    pub payload: Option<&'a RawValue>,
    pub data: Option<&'a RawValue>,
    pub epoch: Option<&'a RawValue>,
    pub boot: Option<&'a RawValue>,
    pub seq: Option<&'a RawValue>,
    /// The first of them that came twice. Readers differ in which one they believe, so nobody's is.
    pub doubled: Option<&'static str>,
}

/// A name of the envelope. The contract lets any other stand beside them.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    Type,
    Id,
    MessageId,
    Action,
    ServerId,
    AgentId,
    Payload,
    Data,
    Epoch,
    BootId,
    Seq,
    #[serde(other)]
    Other,
}

impl<'a> Head<'a> {
    pub fn read(text: &'a str, most: usize) -> Result<Head<'a>, Skip> {
        if text.len() > most {
            return Err(Skip::TooLarge);
        }
        json::measure(text.as_bytes()).map_err(|TooDeep| Skip::TooDeep)?;
        serde_json::from_str(text).map_err(|e| if e.is_data() { Skip::NotAnObject } else { Skip::NotJson })
    }

    /// An id to echo: a text of at most [`MAX_ID`] bytes, or none.
    pub fn id(raw: Option<&RawValue>, name: &str) -> Result<Option<String>, Fault> {
        let Some(raw) = raw else { return Ok(None) };
        // An escape takes at most six bytes for one, so a longer text is refused unread.
        let short = Some(raw).filter(|raw| raw.get().len() <= 6 * MAX_ID + 2).and_then(json::text);
        match short.filter(|id| id.len() <= MAX_ID) {
            Some(id) => Ok(Some(id.into_owned())),
            None => Err(Fault::new(
                Code::InvalidMessage,
                format!("{name}: expected a text of at most {MAX_ID} bytes"),
            )),
        }
    }

    /// The fault of an envelope that says two things at once.
    pub fn unambiguous(&self) -> Result<(), Fault> {
        match self.doubled {
            None => Ok(()),
            Some(name) => Err(Fault::new(Code::InvalidMessage, format!("{name}: given twice"))),
        }
    }
}

impl<'de> Deserialize<'de> for Head<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Head<'de>, D::Error> {
        struct Fill;

        impl<'de> Visitor<'de> for Fill {
            type Value = Head<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Head<'de>, A::Error> {
                let mut head = Head::default();
                let mut seen = [false; Name::Other as usize];
                while let Some(name) = entries.next_key::<Name>()? {
                    let (slot, text) = match name {
                        Name::Type => (&mut head.kind, "type"),
                        Name::Id => (&mut head.id, "id"),
                        Name::MessageId => (&mut head.message_id, "messageId"),
                        Name::Action => (&mut head.action, "action"),
                        Name::ServerId => (&mut head.server, "serverId"),
                        Name::AgentId => (&mut head.agent, "agentId"),
                        Name::Payload => (&mut head.payload, "payload"),
                        Name::Data => (&mut head.data, "data"),
                        Name::Epoch => (&mut head.epoch, "epoch"),
                        Name::BootId => (&mut head.boot, "bootId"),
                        Name::Seq => (&mut head.seq, "seq"),
                        Name::Other => {
                            entries.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let value = entries.next_value::<&RawValue>()?;
                    if std::mem::replace(&mut seen[name as usize], true) {
                        head.doubled.get_or_insert(text);
                    } else {
                        *slot = Some(value).filter(|value| value.get() != "null");
                    }
                }
                Ok(head)
            }
        }

        deserializer.deserialize_map(Fill)
    }
}
