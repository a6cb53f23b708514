//! What an Agent says, as the hub needs it: [`Message`], made from what the protocol's Panel side has read.
//!
//! Pure; runs on the thread that reads a node's link. An Agent of another version may say more than is known here:
//! unknown fields are ignored, unknown words for a reason count as none, unknown events are [`Event::Other`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::time::Time;
use crate::protocol::panel_side::{self, AgentConnected, AgentEvent, ErrorBody, FromAgent};
use crate::protocol::{Reason, ServerId, Skip, Status};

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
    Output(Box<Output>),
    SystemInfo(Box<SystemInfo>),
    Heartbeat,
    Pong(Pong),
    /// Known and of no use here, or unknown.
    Other,
}

/// The answer to a ping of the Panel's.
#[derive(Debug)]
pub struct Pong {
    pub id: Option<String>,
    pub time: Option<Time>,
    pub load: Option<Load>,
}

/// A node's use: percent of all cores, of memory and of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
}

/// Whole lines of one stream.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    pub server_id: ServerId,
    pub stream: Stream,
    pub message: String,
    /// Of the first line, within the boot.
    pub seq: u64,
    #[serde(default)]
    pub time: Option<String>,
    /// Nanoseconds after `time`, one for each line.
    #[serde(default)]
    pub dt: Vec<i64>,
    pub boot_id: String,
}

/// Where a line came from; a word that is not known here is one of the Agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Stream {
    Stdout,
    Stderr,
    Install,
    System,
}

impl From<String> for Stream {
    fn from(word: String) -> Stream {
        match word.as_str() {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            "install" => Stream::Install,
            _ => Stream::System,
        }
    }
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Install => "install",
            Stream::System => "system",
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

#[derive(Debug)]
pub enum Event {
    Connected(AgentConnected),
    Stopping,
    StatusChanged(StatusChange),
    Progress(Progress),
    Gap(Gap),
    Other,
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

/// Output that was dropped on its way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    #[serde(default)]
    pub server_id: Option<ServerId>,
    #[serde(default)]
    pub lines: u64,
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
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
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

/// Decodes one text frame.
///
/// # Errors
/// The frame is to be counted and skipped; the link stays up.
pub fn decode(text: &str) -> Result<Message, Skip> {
    Ok(match panel_side::decode(text)? {
        FromAgent::Response(response) => Message::Response(Response::try_from(response)?),
        FromAgent::Event(event) if event.event == "resource_update" => Message::Usage(event.data()?),
        FromAgent::Event(event) if event.event == "server_log" => Message::Output(event.data()?),
        FromAgent::Event(AgentEvent { seq, boot_id, event, data, .. }) => {
            let seq = seq.map(|number| Seq { boot: boot_id, number });
            Message::Event { seq, event: event_of(&event, &data)? }
        }
        FromAgent::SystemInfo { data } => Message::SystemInfo(parse(&data, "system_info")?),
        FromAgent::Heartbeat(_) => Message::Heartbeat,
        FromAgent::Pong { id, timestamp, data } => Message::Pong(pong(id, timestamp, data.as_deref())),
        FromAgent::LegacyStatus { .. } | FromAgent::LegacyOutput(_) | FromAgent::LegacyError { .. } => {
            Message::Other
        }
    })
}

fn pong(id: Option<String>, timestamp: Option<String>, data: Option<&RawValue>) -> Pong {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        system_load: Load,
    }
    let load = data.and_then(|data| serde_json::from_str::<Data>(data.get()).ok());
    let time = timestamp.and_then(|text| text.parse().ok());
    Pong { id, time, load: load.map(|data| data.system_load) }
}

fn event_of(name: &str, data: &RawValue) -> Result<Event, Skip> {
    Ok(match name {
        "agent_connected" => Event::Connected(parse(data, "agent_connected")?),
        "agent_stopping" => Event::Stopping,
        "server_status_changed" => Event::StatusChanged(parse(data, "server_status_changed")?),
        "command_progress" => Event::Progress(parse(data, "command_progress")?),
        "stream_gap" => Event::Gap(parse(data, "stream_gap")?),
        _ => Event::Other,
    })
}

fn parse<T: for<'de> Deserialize<'de>>(data: &RawValue, what: &'static str) -> Result<T, Skip> {
    serde_json::from_str(data.get()).map_err(|_| Skip::Malformed(what))
}

/// An answer without an id belongs to no command of ours, and one that neither succeeds nor fails says nothing.
impl TryFrom<panel_side::Response> for Response {
    type Error = Skip;

    fn try_from(response: panel_side::Response) -> Result<Response, Skip> {
        let id = response.id.ok_or(Skip::Malformed("response"))?;
        let outcome = match (response.success, response.error) {
            (true, _) => Ok(Success { message: response.message, data: response.data }),
            (false, Some(ErrorBody { code, message })) => Err(Failure { code, message }),
            (false, None) => return Err(Skip::Malformed("response")),
        };
        Ok(Response { id, outcome })
    }
}

impl Success {
    /// What the answer says of the server it is about.
    pub fn facts(&self) -> ServerFacts {
        self.data.as_deref().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
    }

    /// What an answer to `list_servers` says, server by server. An entry that cannot be read says nothing, and takes
    /// no other with it.
    pub fn listed(&self) -> BTreeMap<ServerId, ServerFacts> {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            servers: Vec<&'a RawValue>,
        }
        let list = self.data.as_deref().and_then(|data| serde_json::from_str::<List>(data.get()).ok());
        let entries = list.map_or_else(Vec::new, |list| list.servers);
        let facts =
            entries.into_iter().filter_map(|entry| serde_json::from_str::<ServerFacts>(entry.get()).ok());
        facts.filter_map(|facts| Some((facts.server_id.clone()?, facts))).collect()
    }
}

impl Failure {
    /// The payload field at fault, where the message of an `INVALID_PAYLOAD` begins with it as `field: `.
    pub fn field(&self) -> Option<&str> {
        let (field, _) = self.message.split_once(": ").filter(|_| self.code == "INVALID_PAYLOAD")?;
        (!field.is_empty() && field.len() <= 64 && !field.contains(char::is_whitespace)).then_some(field)
    }
}

/// Lays an update over a spec as the Agent does: objects are merged name by name, `ports` is one value in either of
/// its shapes, and `null` goes back to the default.
pub fn merge(spec: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch {
        match (spec.get_mut(field), value) {
            (_, Value::Null) => drop(spec.remove(field)),
            (Some(Value::Object(old)), Value::Object(new)) if field != "ports" => {
                old.extend(new.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            _ => drop(spec.insert(field.clone(), value.clone())),
        }
    }
}

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
    use serde_json::json;

    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = format!("{:?}", decode(text));
        assert!(shown.contains(expected), "{text}\n  gave     {shown}\n  expected {expected}");
    }

    #[test]
    fn what_an_agent_says_is_told_apart() {
        let cases = [
            (
                r#"{"id":"c","type":"response","success":true,"message":"Done","data":{"status":"running"}}"#,
                "Done",
            ),
            (
                r#"{"id":"c","type":"response","success":false,"error":{"code":"X","message":"y"}}"#,
                r#"code: "X""#,
            ),
            (r#"{"id":"c","type":"response","success":false}"#, r#"Malformed("response")"#),
            (r#"{"type":"response","success":true}"#, r#"Malformed("response")"#),
            (r#"{"type":"event","event":"agent_stopping","seq":4,"data":{}}"#, "number: 4"),
            (
                r#"{"type":"event","event":"agent_connected","bootId":"a","seq":4,"data":{"version":"1","bootId":"b","capabilities":[],"servers":[{"serverId":"s","status":"running"}]}}"#,
                "Connected",
            ),
            (
                r#"{"type":"event","event":"server_status_changed","data":{"serverId":"s","previousStatus":"?","currentStatus":"crashed","reason":"new_word","exitCode":3}}"#,
                "current_status: Crashed, reason: None, exit_code: Some(3)",
            ),
            (r#"{"type":"event","event":"server_status_changed","data":{"serverId":"../s"}}"#, "Malformed"),
            (
                r#"{"type":"event","event":"resource_update","data":{"serverId":"s","cpu":1.5,"memory":{"used":7}}}"#,
                "used: 7",
            ),
            (r#"{"type":"event","event":"something_new","data":[]}"#, "Other"),
            (r#"{"type":"ev\u0065nt","event":"agent_stopping","data":{}}"#, "Stopping"),
            (r#"{"type":"system_info","data":{"os":"Debian","cpuCount":4}}"#, "cpu_count: 4"),
            (r#"{"type":"heartbeat","data":{}}"#, "Heartbeat"),
            (
                r#"{"type":"pong","id":"p","timestamp":"2025-07-24T10:00:00Z","data":{"systemLoad":{"cpu":2.5}}}"#,
                "cpu: 2.5",
            ),
            (
                r#"{"type":"event","event":"server_log","data":{"serverId":"s","stream":"odd","message":"a","seq":4,"bootId":"b"}}"#,
                "stream: System",
            ),
            (r#"{"type":"new"}"#, "UnknownType"),
            ("[]", "NotAnObject"),
            ("{", "NotJson"),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
        check(&format!(r#"{{"type":"heartbeat","data":{}}}"#, "[".repeat(100_000)), "TooDeep");
    }

    #[test]
    fn answers_give_their_facts() {
        let success =
            |data: &str| Success { message: None, data: Some(RawValue::from_string(data.into()).unwrap()) };
        let facts = success(r#"{"serverId":"s","status":"stopped","exitCode":143,"killed":false}"#).facts();
        assert_eq!((facts.status, facts.exit_code), (Some(Status::Stopped), Some(143)));
        let listed = success(
            r#"{"servers":[{"serverId":"a","status":"odd","uptime":3},{},{"serverId":"../b"},4],"count":4}"#,
        )
        .listed();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed.values().next().unwrap().uptime, Some(3));
        assert!(success("3").facts().status.is_none() && success("3").listed().is_empty());
    }

    #[test]
    fn a_fault_names_its_field() {
        let field = |code: &str, message: &str| {
            Failure { code: code.into(), message: message.into() }.field().map(str::to_owned)
        };
        assert_eq!(
            field("INVALID_PAYLOAD", "ports[0].internal: expected a port").as_deref(),
            Some("ports[0].internal")
        );
        assert_eq!(field("INVALID_PAYLOAD", "a sentence: with a colon"), None);
        assert_eq!(field("CONFLICT", "image: x"), None);
    }

    #[test]
    fn an_update_is_laid_over_a_spec() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let mut spec =
            object(json!({"image": "a", "name": "n", "limits": {"memory": 1, "pids": 2}, "ports": {"1": 2}}));
        merge(
            &mut spec,
            &object(json!({"limits": {"memory": 3}, "ports": {"4": 5}, "name": null, "tty": true})),
        );
        let expected =
            json!({"image": "a", "limits": {"memory": 3, "pids": 2}, "ports": {"4": 5}, "tty": true});
        assert_eq!(spec, object(expected));
    }
}
