//! The Panel's side of the unified format: commands to text, and what an Agent says to [`Message`].
//!
//! Pure; runs on the thread that reads a node's link. An Agent of another version may say more than is known here:
//! unknown fields are ignored, unknown events are [`Message::Other`], and only what has no sense is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::time::Time;
use crate::protocol::{NodeId, Reason, ServerId, Status};

/// What an Agent says.
#[derive(Debug)]
pub enum Message {
    Response(Response),
    /// A control event with the place in its order, by which one that was sent again is known.
    Event {
        seq: Option<Seq>,
        event: Event,
    },
    Usage(Box<Usage>),
    SystemInfo(Box<SystemInfo>),
    Heartbeat,
    /// Known and of no use here, such as console output while nobody looks, or unknown.
    Other,
}

/// `boot` is missing where the event belongs to the boot that the Agent is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seq {
    pub boot: Option<String>,
    pub number: u64,
}

#[derive(Debug)]
pub struct Response {
    pub id: String,
    pub outcome: Result<Success, Failure>,
}

#[derive(Debug)]
pub struct Success {
    pub message: Option<String>,
    /// As it came, to be handed on.
    pub data: Option<Box<RawValue>>,
}

/// An error as the Agent tells it: a code of the contract and a plain sentence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

#[derive(Debug)]
pub enum Event {
    Connected(Connected),
    Stopping,
    StatusChanged(StatusChange),
    Progress(Progress),
    Gap,
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    #[serde(default)]
    pub version: String,
    pub boot_id: String,
    #[serde(default)]
    pub servers: Vec<KnownServer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownServer {
    pub server_id: ServerId,
    pub status: Status,
    #[serde(default)]
    pub exit_code: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChange {
    pub server_id: ServerId,
    pub current_status: Status,
    /// A word that is not known here says no more than none.
    #[serde(default, deserialize_with = "lenient")]
    pub reason: Option<Reason>,
    #[serde(default)]
    pub exit_code: Option<i64>,
}

/// How far a command is, such as the bytes of an image pulled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    #[serde(skip_serializing)]
    pub command_id: Option<String>,
    pub stage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub server_id: ServerId,
    #[serde(flatten)]
    pub resources: Resources,
}

/// CPU in percent of one core, memory and disk in bytes, network in bytes since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu: f64,
    pub memory: Memory,
    pub network: Network,
    pub disk: Disk,
    pub pids: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub used: u64,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub rx: u64,
    pub tx: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    pub used: u64,
}

/// A node as it describes itself; sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemInfo {
    pub os: String,
    pub arch: String,
    pub cpu: String,
    pub cpu_count: u32,
    pub total_memory: u64,
    pub free_memory: u64,
    pub total_disk: u64,
    pub free_disk: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
}

/// What the answers to server actions and to `list_servers` say of a server, all of it optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerFacts {
    pub server_id: Option<ServerId>,
    #[serde(deserialize_with = "lenient")]
    pub status: Option<Status>,
    pub exit_code: Option<i64>,
    pub needs_restart: Option<bool>,
    pub name: Option<String>,
    pub image: Option<String>,
    pub ports: Option<Value>,
    pub uptime: Option<u64>,
    pub resources: Option<Resources>,
}

/// Why a frame says nothing.
#[derive(Debug, PartialEq)]
pub enum WireError {
    NotJson,
    /// A known type or event without what it must have.
    Incomplete(&'static str),
}

/// One command as text.
pub fn command(id: &str, node: &NodeId, server: Option<&ServerId>, action: &str, payload: &Value) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Frame<'a> {
        id: &'a str,
        r#type: &'static str,
        action: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        server_id: Option<&'a ServerId>,
        timestamp: Time,
        agent_id: &'a NodeId,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a Value>,
    }
    let frame = Frame {
        id,
        r#type: "command",
        action,
        server_id: server,
        timestamp: Time::now(),
        agent_id: node,
        payload: Some(payload).filter(|payload| !payload.is_null()),
    };
    serde_json::to_string(&frame).expect("strings and JSON values always serialise")
}

/// The greeting by which an Agent knows which Panel is the newest.
pub fn hello(epoch: u64) -> String {
    format!(r#"{{"type":"hello","epoch":{epoch}}}"#)
}

/// Decodes one text frame.
///
/// # Errors
/// The frame is to be counted and skipped; the link stays up.
pub fn decode(text: &str) -> Result<Message, WireError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
        id: Option<String>,
        success: Option<bool>,
        message: Option<String>,
        error: Option<Failure>,
        event: Option<String>,
        seq: Option<u64>,
        #[serde(rename = "bootId")]
        boot: Option<String>,
    }
    let frame: Envelope = serde_json::from_str(text).map_err(|_| WireError::NotJson)?;
    Ok(match &*frame.r#type {
        "response" => {
            let id = frame.id.ok_or(WireError::Incomplete("response"))?;
            let outcome = match (frame.success, frame.error) {
                (Some(true), _) => Ok(Success { message: frame.message, data: frame.data.map(RawValue::to_owned) }),
                (Some(false), Some(error)) => Err(error),
                _ => return Err(WireError::Incomplete("response")),
            };
            Message::Response(Response { id, outcome })
        }
        "event" => {
            let name = frame.event.ok_or(WireError::Incomplete("event"))?;
            if name == "resource_update" {
                return parse(frame.data, "resource_update").map(Message::Usage);
            }
            let event = event(&name, frame.data)?;
            Message::Event { seq: frame.seq.map(|number| Seq { boot: frame.boot, number }), event }
        }
        "system_info" => Message::SystemInfo(parse(frame.data, "system_info")?),
        "heartbeat" => Message::Heartbeat,
        _ => Message::Other,
    })
}

fn event(name: &str, data: Option<&RawValue>) -> Result<Event, WireError> {
    Ok(match name {
        "agent_connected" => Event::Connected(parse(data, "agent_connected")?),
        "agent_stopping" => Event::Stopping,
        "server_status_changed" => Event::StatusChanged(parse(data, "server_status_changed")?),
        "command_progress" => Event::Progress(parse(data, "command_progress")?),
        "stream_gap" => Event::Gap,
        _ => Event::Other,
    })
}

fn parse<T: for<'de> Deserialize<'de>>(data: Option<&RawValue>, what: &'static str) -> Result<T, WireError> {
    let text = data.ok_or(WireError::Incomplete(what))?.get();
    serde_json::from_str(text).map_err(|_| WireError::Incomplete(what))
}

impl Success {
    /// What the answer says of the server it is about.
    pub fn facts(&self) -> ServerFacts {
        self.data.as_deref().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }

    /// What an answer to `list_servers` says, server by server; entries without an id say nothing.
    pub fn listed(&self) -> BTreeMap<ServerId, ServerFacts> {
        #[derive(Deserialize)]
        struct List {
            servers: Vec<ServerFacts>,
        }
        let list = self.data.as_deref().and_then(|data| serde_json::from_str::<List>(data.get()).ok());
        let servers = list.map_or_else(Vec::new, |list| list.servers);
        servers.into_iter().filter_map(|facts| Some((facts.server_id.clone()?, facts))).collect()
    }
}

impl Failure {
    /// The payload field at fault, where the message of an `INVALID_PAYLOAD` begins with it as `field: `.
    pub fn field(&self) -> Option<&str> {
        let (field, _) = self.message.split_once(": ").filter(|_| self.code == "INVALID_PAYLOAD")?;
        (!field.is_empty() && field.len() <= 64 && !field.contains(char::is_whitespace)).then_some(field)
    }
}

/// Merges an update over a spec, field by field as the Agent does.
pub fn merge(spec: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch {
        spec.insert(field.clone(), value.clone());
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::NotJson => f.write_str("what is no JSON object with a type"),
            WireError::Incomplete(what) => write!(f, "an incomplete {what}"),
        }
    }
}

impl std::error::Error for WireError {}

fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: for<'a> Deserialize<'a>,
{
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = format!("{:?}", decode(text));
        assert!(shown.contains(expected), "{text}\n  gave     {shown}\n  expected {expected}");
    }

    #[test]
    fn what_an_agent_says_is_told_apart() {
        let cases = [
            (r#"{"id":"c","type":"response","success":true,"message":"Done","data":{"status":"running"}}"#, "Done"),
            (r#"{"id":"c","type":"response","success":false,"error":{"code":"X","message":"y"}}"#, r#"code: "X""#),
            (r#"{"id":"c","type":"response","success":false}"#, r#"Incomplete("response")"#),
            (r#"{"type":"response","success":true}"#, r#"Incomplete("response")"#),
            (r#"{"type":"event","event":"agent_stopping","seq":4}"#, "number: 4"),
            (r#"{"type":"event","event":"agent_connected","bootId":"a","seq":4,"data":{"bootId":"b"}}"#, "Connected"),
            (
                r#"{"type":"event","event":"server_status_changed","data":{"serverId":"s","previousStatus":"?","currentStatus":"crashed","reason":"new_word","exitCode":3}}"#,
                "current_status: Crashed, reason: None, exit_code: Some(3)",
            ),
            (r#"{"type":"event","event":"server_status_changed","data":{"serverId":"../s"}}"#, "Incomplete"),
            (
                r#"{"type":"event","event":"resource_update","data":{"serverId":"s","cpu":1.5,"memory":{"used":7}}}"#,
                "used: 7",
            ),
            (r#"{"type":"event","event":"something_new","data":[]}"#, "Other"),
            (r#"{"type":"ev\u0065nt","event":"agent_stopping"}"#, "Stopping"),
            (r#"{"type":"system_info","data":{"os":"Debian","cpuCount":4}}"#, "cpu_count: 4"),
            (r#"{"type":"heartbeat","data":{}}"#, "Heartbeat"),
            (r#"{"type":"server_output","data":{}}"#, "Other"),
            ("[]", "NotJson"),
            ("{", "NotJson"),
            ("{}", "NotJson"),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
        check(&format!(r#"{{"type":"heartbeat","data":{}}}"#, "[".repeat(100_000)), "NotJson");
    }

    #[test]
    fn answers_give_their_facts() {
        let success = |data: &str| Success { message: None, data: Some(RawValue::from_string(data.into()).unwrap()) };
        let facts = success(r#"{"serverId":"s","status":"stopped","exitCode":143,"killed":false}"#).facts();
        assert_eq!((facts.status, facts.exit_code), (Some(Status::Stopped), Some(143)));
        let listed = success(r#"{"servers":[{"serverId":"a","status":"odd","uptime":3},{}],"count":2}"#).listed();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed.values().next().unwrap().uptime, Some(3));
        assert!(success("3").facts().status.is_none() && success("3").listed().is_empty());
    }

    #[test]
    fn a_fault_names_its_field() {
        let field = |code: &str, message: &str| {
            Failure { code: code.into(), message: message.into() }.field().map(str::to_owned)
        };
        assert_eq!(field("INVALID_PAYLOAD", "ports[0].internal: expected a port").as_deref(), Some("ports[0].internal"));
        assert_eq!(field("INVALID_PAYLOAD", "a sentence: with a colon"), None);
        assert_eq!(field("CONFLICT", "image: x"), None);
    }

    #[test]
    fn a_command_has_the_unified_shape() {
        let (node, server) = ("n".parse().unwrap(), "s".parse().unwrap());
        let text = command("c1", &node, Some(&server), "stop_server", &serde_json::json!({"timeout": 3}));
        let mut value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["timestamp"].take().is_string());
        let expected = serde_json::json!({"id": "c1", "type": "command", "action": "stop_server", "serverId": "s",
            "timestamp": null, "agentId": "n", "payload": {"timeout": 3}});
        assert_eq!(value, expected);
        assert!(!command("c1", &node, None, "system.ping", &Value::Null).contains("payload"));
    }
}
