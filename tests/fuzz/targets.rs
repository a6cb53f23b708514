//! What is done with an input, for each fuzz target: it must not panic, and what holds for every input is asserted. Used
//! by cargo-fuzz, which looks for new inputs, and by `tests/fuzz.rs`, which runs those that were kept.

#[path = "archives.rs"]
pub mod archives;

use std::path::{Component, Path};
use std::time::UNIX_EPOCH;

use longshore::docker::Error;
use longshore::docker::frames::{Frames, Piece};
use longshore::docker::lines::{LINE_CAP, Lines};
use longshore::protocol::command::CreateServer;
use longshore::protocol::spec::{Limits, Rules};
use longshore::protocol::{
    Action, Command, Decoder, Envelope, Fault, Incoming, MAX_OUT, RelPath, ServerAction, Spec, encode_outcome,
};
use longshore::server::archive::name::EntryName;
use longshore::server::download::filename;
use serde_json::{Value, json};

/// A target by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("unified", unified),
    ("legacy", legacy),
    ("http", http),
    ("limits", limits),
    ("frames", frames),
    ("lines", lines),
    ("paths", paths),
    ("archives", archives::extract),
];

fn decoder() -> Decoder {
    Decoder::new("node-1".parse().expect("an id"), Rules::default())
}

/// A text frame of the link, as it comes.
pub fn unified(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    message(text);
}

/// A legacy message: its type, a line end, and its data.
pub fn legacy(input: &[u8]) {
    let Some((kind, data)) = std::str::from_utf8(input).ok().and_then(|text| text.split_once('\n')) else {
        return;
    };
    message(&format!(r#"{{"type":{},"messageId":"m","data":{data}}}"#, json!(kind)));
}

fn message(text: &str) {
    let read = decoder().message(text);
    assert_eq!(read, decoder().message(text), "the same text means the same");
    match read {
        Ok(Ok(Incoming::Command(command))) => understood(&command),
        Ok(Err(rejected)) => answered(&rejected.envelope, rejected.fault),
        Ok(Ok(_)) | Err(_) => {}
    }
}

/// The body of a command over HTTP.
pub fn http(input: &[u8]) {
    let read = decoder().http(input);
    assert_eq!(read, decoder().http(input), "the same body means the same");
    match read {
        Ok(Ok(command)) => understood(&command),
        Ok(Err(rejected)) => answered(&rejected.envelope, rejected.fault),
        Err(_) => {}
    }
}

fn understood(command: &Command) {
    let id = command.envelope.id();
    if let Some(key) = &command.key {
        assert!(!command.is_read() && id == Some(&key.id) && !key.id.is_empty());
    }
    if let Action::Server(_, ServerAction::Create(create)) = &command.action {
        let CreateServer { spec, .. } = &**create;
        assert_eq!(Spec::stored(&spec.to_json()).as_ref(), Ok(spec), "a spec reads back as it was");
    }
    answered(&command.envelope, Fault::field("payload", "refused"));
}

/// A refusal is one JSON object that a Panel understands and that echoes the id.
fn answered(envelope: &Envelope, fault: Fault) {
    assert!(!fault.message.is_empty() && fault.message.len() < 4096, "{fault}");
    assert!(!fault.message.contains(char::is_control), "{fault:?}");
    let code = json!(fault.code);
    let text = encode_outcome(envelope, &Err(fault), UNIX_EPOCH).expect("a refusal is told");
    assert!(text.len() < MAX_OUT);
    let answer: Value = serde_json::from_str(&text).expect("an answer is JSON");
    let (echoed, told) = match envelope {
        Envelope::Unified { id } => (id.as_deref() == answer["id"].as_str(), &answer["error"]["code"]),
        Envelope::Legacy { message_id, .. } => {
            (message_id.as_deref() == answer["messageId"].as_str(), &answer["data"]["code"])
        }
        Envelope::Http { .. } => (answer["error"].is_string(), &answer["code"]),
    };
    assert!(echoed && *told == code, "{text}");
}

/// The limits of a server's spec, as JSON.
pub fn limits(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(limits) = limits_of(text) else { return };
    assert!(limits.memory.is_none_or(|bytes| bytes >= 6 << 20), "{limits:?}");
    assert!(limits.swap.is_none_or(|bytes| bytes >= -1), "{limits:?}");
    assert!(limits.disk != Some(0) && limits.nano_cpus.is_none_or(|nanos| nanos >= 10_000_000), "{limits:?}");
    assert!(limits.io.is_none_or(|weight| (10..=1000).contains(&weight)) && limits.pids > 0, "{limits:?}");
    let again = serde_json::to_string(&limits).expect("limits are JSON");
    assert_eq!(limits_of(&again).as_ref(), Some(&limits), "{again} reads back as it was");
}

fn limits_of(text: &str) -> Option<Limits> {
    let body =
        format!(r#"{{"action":"create_server","serverId":"s","payload":{{"image":"a","limits":{text}}}}}"#);
    let command = decoder().http(body.as_bytes()).ok()?.ok()?;
    match command.action {
        Action::Server(_, ServerAction::Create(create)) => Some(create.spec.limits),
        _ => None,
    }
}

/// Bytes of an Engine's stream. The first bytes say how it is cut, which must not matter.
pub fn frames(input: &[u8]) {
    let (sizes, stream) = cut(input);
    let whole = decode(&[stream]);
    assert_eq!(decode(&pieces(&sizes, stream)), whole, "cut at {sizes:?}");
}

type Frame = (u8, Vec<u8>, bool);

/// The frames of a stream that comes in these pieces, and how it ended.
fn decode(pieces: &[&[u8]]) -> (Vec<Frame>, Result<bool, Error>) {
    let mut decoder = Frames::new();
    let mut frames: Vec<Frame> = Vec::new();
    for piece in pieces {
        let result = decoder.decode(piece, |Piece { output, bytes, begins, ends }| {
            if begins {
                frames.push((output as u8, Vec::new(), false));
            }
            let frame = frames.last_mut().expect("a frame begins with its first piece");
            assert!(!frame.2 && frame.0 == output as u8, "a piece belongs to the frame that is open");
            frame.1.extend_from_slice(bytes);
            frame.2 = ends;
        });
        if let Err(error) = result {
            return (frames, Err(error));
        }
    }
    // An empty piece of a frame is no news.
    frames.retain(|(_, bytes, ended)| *ended || !bytes.is_empty());
    (frames, Ok(decoder.is_between_frames()))
}

/// The same stream as lines, with a TTY and without.
pub fn lines(input: &[u8]) {
    let (sizes, stream) = cut(input);
    for tty in [false, true] {
        let whole = assemble(tty, &[stream]);
        assert_eq!(assemble(tty, &pieces(&sizes, stream)), whole, "tty {tty}, cut at {sizes:?}");
    }
}

/// Time, output, text, and whether it goes on.
type Text = (u64, u8, String, bool);

fn assemble(tty: bool, pieces: &[&[u8]]) -> (Vec<Text>, Option<Error>) {
    let mut lines = Vec::new();
    let mut assembler = Lines::new(tty);
    let mut take = |line: longshore::docker::Line| {
        // A byte that is no UTF-8 becomes a character of three.
        assert!(line.text.len() <= 3 * LINE_CAP && !line.text.contains('\n'));
        lines.push((line.time_ns, line.output as u8, line.text.into_owned(), line.partial));
    };
    let error = pieces.iter().find_map(|piece| assembler.push(piece, &mut take).err());
    if error.is_none() {
        assembler.finish(&mut take);
    }
    (lines, error)
}

/// The sizes of the pieces that a stream comes in, and the stream.
fn cut(input: &[u8]) -> (Vec<usize>, &[u8]) {
    let (sizes, stream) = input.split_at(input.len().min(4));
    (sizes.iter().map(|size| usize::from(*size) + 1).collect(), stream)
}

fn pieces<'a>(sizes: &[usize], mut stream: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(stream.len().min(*size));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// A path of a command, an archive's entry, and what a download may be called.
pub fn paths(input: &[u8]) {
    let plain = |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    for read in [EntryName::parse, EntryName::parse_dos] {
        if let Ok(Some(name)) = read(input) {
            assert!(plain(name.as_str()) && !name.as_str().contains(char::is_control), "{name}");
            assert_eq!(EntryName::parse(name.as_str().as_bytes()), Ok(Some(name)), "reads back as it was");
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(path) = RelPath::parse("path", text) {
        assert!(path.is_root() || plain(path.as_str()), "{path:?}");
        assert_eq!(
            RelPath::parse("path", path.as_str()).map(|again| again.as_str() == path.as_str()),
            Ok(true)
        );
        if let Some((parent, name)) = path.split() {
            assert!(!name.contains('/') && (parent == "." || path.as_str() == format!("{parent}/{name}")));
            let parent = RelPath::parse("path", parent).expect("a part of a path is one");
            assert!(path.is_within(&parent) && !parent.is_within(&path), "{path:?}");
        }
    }
    let named = [text.to_owned(), format!("attachment; {text}"), format!("attachment; filename=\"{text}\"")];
    let named = named.iter().filter_map(|header| filename::from_disposition(header));
    for name in named.chain(filename::from_url(&format!("https://host/{text}"))) {
        assert!(
            plain(&name) && Path::new(&name).components().count() == 1 && !name.starts_with('.'),
            "{name}"
        );
    }
}
