//! What the dialects share when they write: times, the data of a reply, and the bound on a message. Structs go
//! straight to one string; no tree is built in between.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::archive::ArchiveReply;
use super::console::{ConsoleReply, nanoseconds};
use super::file::{FileEntry, FileReply};
use super::mods::ModData;
use super::outcome::{Reply, Resources, ServerMetrics, ServerReply, ServerReport, SystemInfo, SystemMetrics};
use super::{MAX_OUT, ServerId, Status};

/// A time on the wire: RFC 3339, UTC, milliseconds. A clock outside of what that can write is told as the nearest
/// time it can.
#[derive(Clone, Copy)]
pub(super) struct Timestamp(pub SystemTime);

/// 9999-12-31T23:59:59Z
const LAST: Duration = Duration::from_secs(253_402_300_799);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
        s.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + since))
    }
}

/// Writes a message.
pub(super) fn text(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("our messages have text keys only and no failing serialiser")
}

/// Writes a message with all of `items`, or, when that would pass [`MAX_OUT`], with as many of the first ones as fit
/// and `true`.
pub(super) fn fitted<T: Serialize>(items: &[T], encode: impl Fn(&[T], bool) -> String) -> String {
    let whole = encode(items, false);
    if whole.len() <= MAX_OUT {
        return whole;
    }
    let mut room = MAX_OUT.saturating_sub(encode(&[], true).len());
    let fits = items.iter().take_while(|item| {
        let length = length(item) + 1;
        let fits = length <= room;
        room -= if fits { length } else { 0 };
        fits
    });
    encode(&items[..fits.count()], true)
}

/// The same with as many of the last items as fit.
fn fitted_last<T: Serialize>(items: &[T], encode: impl Fn(&[T], bool) -> String) -> String {
    let whole = encode(items, false);
    if whole.len() <= MAX_OUT {
        return whole;
    }
    drop(whole);
    let mut room = MAX_OUT.saturating_sub(encode(&[], true).len());
    let fits = items.iter().rev().take_while(|item| {
        let length = length(item) + 1;
        let fits = length <= room;
        room -= if fits { length } else { 0 };
        fits
    });
    encode(&items[items.len() - fits.count()..], true)
}

/// Bytes of a value's JSON, counted without writing it.
fn length(value: &impl Serialize) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value)
        .expect("our values have text keys only and the count takes every byte");
    count.0
}

/// The sentence of a reply, where it has one.
pub(super) fn message(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Server(reply) => Some(&reply.message),
        Reply::Console(reply) => Some(reply.message()),
        Reply::File(reply) => Some(&reply.message),
        Reply::Archive(reply) => Some(reply.message()),
        Reply::Mod(reply) => reply.message(),
        Reply::Kept(reply) => reply.message.as_deref(),
        _ => None,
    }
}

/// A reply's `data`, the same in the unified dialect and over HTTP.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Data<'a> {
    Server(&'a ServerReply),
    Status(StatusData<'a>),
    Servers {
        servers: &'a [ServerReport],
        /// All there are, also when not all of them fit.
        count: usize,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    ServerMetrics(MetricsData<'a>),
    Metrics(&'a SystemMetrics),
    Pong {
        message: &'static str,
        timestamp: Timestamp,
    },
    Info(&'a SystemInfo),
    Console(ConsoleData<'a>),
    Archive(&'a ArchiveReply),
    Mod(ModData<'a>),
    Kept(Option<&'a RawValue>),
    File(&'a FileReply),
    Files {
        path: Option<&'a str>,
        files: &'a [FileEntry],
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<bool>,
    },
}

impl<'a> Data<'a> {
    /// Writes a message around a reply's data, within the bound.
    pub fn fitted(reply: &'a Reply, now: SystemTime, encode: impl Fn(Data) -> String) -> String {
        let data = match reply {
            Reply::Server(reply) => Data::Server(reply),
            Reply::Status(report) => Data::Status(StatusData::of(report)),
            Reply::Servers(list) => {
                return fitted(list, |servers, truncated| {
                    encode(Data::Servers { servers, count: list.len(), truncated })
                });
            }
            Reply::Metrics(metrics) => {
                Data::ServerMetrics(MetricsData { all: metrics, timestamp: Timestamp(now), metrics })
            }
            Reply::SystemMetrics(metrics) => Data::Metrics(metrics),
            Reply::Pong => Data::Pong { message: "pong", timestamp: Timestamp(now) },
            Reply::SystemInfo(info) => Data::Info(info),
            Reply::Console(reply) => return ConsoleData::fitted(reply, |data| encode(Data::Console(data))),
            Reply::Archive(reply) => Data::Archive(reply),
            Reply::Mod(reply) => return ModData::fitted(reply, |data| encode(Data::Mod(data))),
            Reply::Kept(reply) => Data::Kept(reply.data()),
            Reply::File(reply) => match &reply.files {
                None => Data::File(reply),
                Some(files) => {
                    let path = reply.path.as_deref();
                    return fitted(files, |files, shortened| {
                        let truncated = if shortened { Some(true) } else { reply.truncated };
                        encode(Data::Files { path, files, truncated })
                    });
                }
            },
        };
        encode(data)
    }
}

/// A server's figures at the top level, for panels that read them there, and the same under `metrics`.
#[derive(Serialize)]
pub(super) struct MetricsData<'a> {
    #[serde(flatten)]
    all: &'a ServerMetrics,
    timestamp: Timestamp,
    metrics: &'a ServerMetrics,
}

/// A server's status at the top level, for panels that read it there, and the whole report under `server`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusData<'a> {
    server_id: &'a ServerId,
    status: Status,
    container_id: Option<&'a str>,
    uptime: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    resources: &'a Resources,
    server: &'a ServerReport,
}

impl StatusData<'_> {
    fn of(report: &ServerReport) -> StatusData<'_> {
        StatusData {
            server_id: &report.server_id,
            status: report.status,
            container_id: report.container_id.as_deref(),
            uptime: report.uptime,
            exit_code: report.exit_code,
            resources: &report.resources,
            server: report,
        }
    }
}

/// What a console answers.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ConsoleData<'a> {
    Logs {
        logs: &'a [String],
        lines: usize,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    #[serde(rename_all = "camelCase")]
    Sent {
        #[serde(skip_serializing_if = "Option::is_none")]
        server_id: Option<&'a ServerId>,
        sent: bool,
    },
    Connected {
        connected: bool,
    },
    #[serde(rename_all = "camelCase")]
    Status {
        connected: bool,
        last_activity: Option<Activity>,
        buffer_size: usize,
    },
    #[serde(rename_all = "camelCase")]
    History {
        history: &'a [String],
        lines: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_seq: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_seq: Option<u64>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    Cleared {
        cleared: bool,
    },
    Download {
        content: &'a str,
    },
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Activity(#[serde(serialize_with = "nanoseconds")] u64);

impl<'a> ConsoleData<'a> {
    fn fitted(reply: &'a ConsoleReply, encode: impl Fn(ConsoleData) -> String) -> String {
        encode(match reply {
            ConsoleReply::Logs { lines } => {
                return fitted_last(lines, |logs, truncated| {
                    encode(ConsoleData::Logs { logs, lines: logs.len(), truncated })
                });
            }
            ConsoleReply::History { lines, numbered, last_seq } => {
                return fitted_last(lines, |history, truncated| {
                    let numbered = (*numbered).min(history.len()) as u64;
                    let first_seq = (numbered > 0).then(|| last_seq + 1 - numbered);
                    let last_seq = (*last_seq > 0).then_some(*last_seq);
                    let lines = history.len();
                    encode(ConsoleData::History { history, lines, first_seq, last_seq, truncated })
                });
            }
            ConsoleReply::Sent { server, .. } => ConsoleData::Sent { server_id: server.as_ref(), sent: true },
            ConsoleReply::Connected(connected) => ConsoleData::Connected { connected: *connected },
            ConsoleReply::Status { connected, last_activity_ns, buffer_size } => ConsoleData::Status {
                connected: *connected,
                last_activity: last_activity_ns.map(Activity),
                buffer_size: *buffer_size,
            },
            ConsoleReply::Cleared => ConsoleData::Cleared { cleared: true },
            ConsoleReply::Download { content } => ConsoleData::Download { content },
        })
    }
}
