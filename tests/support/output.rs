//! A server's output as a Panel was told of it and as the Engine has it, line by line, to be compared.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Connection, Engine};

/// One line, or a piece of one that is longer than 32 KiB.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub stream: String,
    pub ordinal: u64,
    pub text: String,
}

/// A line as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub seq: u64,
    pub boot_id: String,
    pub partial: bool,
    pub line: Line,
}

/// The lines of one `server_log` event.
pub fn lines_of(data: &Value) -> Vec<Told> {
    let text = data["message"].as_str().expect("a message");
    let (seq, time) =
        (data["seq"].as_u64().expect("a number"), nanoseconds(data["time"].as_str().expect("a time")));
    let dt: Vec<i64> =
        data["dt"].as_array().expect("a list").iter().map(|dt| dt.as_i64().expect("a number")).collect();
    let texts: Vec<&str> = text.split('\n').collect();
    assert_eq!(
        (texts.len() as u64, texts.len()),
        (data["count"].as_u64().expect("a number"), dt.len()),
        "{data}"
    );
    assert!(text.len() <= 32 << 10, "a message of {} bytes", text.len());
    let stream = data["stream"].as_str().expect("a stream").to_owned();
    let mut ordinal = data["ordinal"].as_u64().expect("a number");
    let mut last = None;
    let line = |(at, text): (usize, &str)| {
        ordinal = match last {
            None => ordinal,
            Some(before) if before == dt[at] => ordinal + 1,
            Some(_) => 0,
        };
        last = Some(dt[at]);
        Told {
            seq: seq + at as u64,
            boot_id: data["bootId"].as_str().expect("a boot").to_owned(),
            partial: at + 1 == dt.len() && data["partial"] == true,
            line: Line {
                time_ns: time.checked_add_signed(dt[at]).expect("a time"),
                stream: stream.clone(),
                ordinal,
                text: text.to_owned(),
            },
        }
    };
    texts.iter().copied().enumerate().map(line).collect()
}

/// All lines of a server that came in on a connection, in their order.
pub fn told(link: &Connection, server: &str) -> Vec<Told> {
    let ours = |message: &&Value| message["event"] == "server_log" && message["data"]["serverId"] == server;
    link.messages().iter().filter(ours).flat_map(|message| lines_of(&message["data"])).collect()
}

/// The gaps of a server that were told: first number, last number, lines, bytes.
pub fn gaps(link: &Connection, server: &str) -> Vec<(u64, u64, u64, u64)> {
    let ours = |message: &&Value| message["event"] == "stream_gap" && message["data"]["serverId"] == server;
    let number = |message: &Value, name: &str| message["data"][name].as_u64().expect("a number");
    let gap =
        |message: &Value| ["firstSeq", "lastSeq", "lines", "bytes"].map(|name| number(message, name)).into();
    link.messages().iter().filter(ours).map(gap).collect()
}

/// RFC 3339 in UTC, to nanoseconds since 1970.
fn nanoseconds(time: &str) -> u64 {
    let (seconds, fraction) = time.trim_end_matches('Z').split_once('.').expect("a fraction");
    let whole = humantime::parse_rfc3339(&format!("{seconds}Z")).expect("RFC 3339");
    let whole = whole.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    whole + format!("{fraction:0<9}").parse::<u64>().expect("digits")
}

impl Engine {
    /// A container's whole log, read from the Engine, with ordinals counted here. For lines of at most 16 KiB.
    pub fn log(&self, container: &str) -> Vec<Line> {
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&timestamps=1");
        let (status, body) = self.exchange("GET", &path, None).expect("the Engine answers");
        assert_eq!(status, 200);
        let (mut lines, mut counts) = (Vec::new(), BTreeMap::<(String, u64), u64>::new());
        let mut rest = &body[..];
        while let [stream, _, _, _, a, b, c, d, tail @ ..] = rest {
            let (frame, tail) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            rest = tail;
            let text = String::from_utf8_lossy(frame);
            let (time, text) = text.split_once(' ').expect("a stamp");
            let stream = if *stream == 2 { "stderr" } else { "stdout" }.to_owned();
            let time_ns = nanoseconds(time);
            let count = counts.entry((stream.clone(), time_ns)).or_default();
            lines.push(Line {
                time_ns,
                stream,
                ordinal: *count,
                text: text.trim_end_matches('\n').to_owned(),
            });
            *count += 1;
        }
        lines
    }
}
