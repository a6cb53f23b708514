//! Stands between an Agent and the real Engine, and pretends: another API version, the event shape of a later one,
//! refusals, broken connections, slowness.
//!
//! One thread accepts and each connection has one of its own, for one request: the Engine is spoken to in HTTP/1.0,
//! where the end of the connection ends a body, so bodies pass unread.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tempfile::TempDir;

use super::{Engine, SOON, Watched};

/// What becomes of a request: `None` lets it through.
pub enum Passage {
    /// Answered in the Engine's place.
    Answer(u16, String),
    /// The Engine does it, and the connection ends before its answer is through.
    CutAfter,
    /// The connection ends before the Engine has heard of it.
    CutBefore,
    /// The Engine does it, and no more than so many bytes of its answer's body come through.
    Truncate(u64),
}

type Guard = Box<dyn Fn(&str) -> Option<Passage> + Send + Sync>;

/// A socket where an Engine seems to listen. Dropping it ends its connections.
pub struct EngineProxy {
    engine: Engine,
    listener: UnixListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _dir: TempDir,
}

struct Shared {
    upstream: String,
    /// What a ping names, such as `1.52`.
    version: Watched<String>,
    /// Method and path of every request, with the version that it came with.
    requests: Watched<Vec<String>>,
    guard: Guard,
    open: Watched<Vec<UnixStream>>,
}

impl EngineProxy {
    /// In front of `engine`, claiming `version`. `guard` is shown each request as `METHOD /vX.Y/path`, on the
    /// request's own thread: it may block.
    pub fn start(
        engine: &Engine,
        version: &str,
        guard: impl Fn(&str) -> Option<Passage> + Send + Sync + 'static,
    ) -> EngineProxy {
        // Not under the target directory: a socket's path has room for 107 bytes.
        let dir = tempfile::Builder::new().prefix("longshore-").tempdir().expect("a directory can be made");
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("nobody listens in a new directory");
        let upstream = engine.host().strip_prefix("unix://").expect("the tests' Engine is at a socket");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            version: Watched::new(version.to_owned()),
            requests: Watched::new(Vec::new()),
            guard: Box::new(guard),
            open: Watched::new(Vec::new()),
        });
        let (accepting, accepted) =
            (listener.try_clone().expect("a descriptor is free"), Arc::clone(&shared));
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&accepted);
                shared.open.update(|open| open.extend(stream.try_clone()));
                thread::spawn(move || {
                    let _ = pass(&shared, &stream);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        let engine = Engine::at(&format!("unix://{}", path.display()));
        EngineProxy { engine, listener, shared, thread: Some(thread), _dir: dir }
    }

    /// As an Agent and the tests' own calls see it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// From now on a ping names this version.
    pub fn claim(&self, version: &str) {
        self.shared.version.update(|claimed| *claimed = version.to_owned());
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }

    /// Waits for so many requests whose line holds `text`, from the one numbered `from` on.
    pub fn wait_requests(&self, from: usize, text: &str, count: usize) {
        let found = self.shared.requests.wait(SOON, |requests| {
            let fitting = requests.iter().skip(from).filter(|request| request.contains(text));
            (fitting.count() >= count).then_some(())
        });
        assert!(found.is_some(), "no {count} requests {text:?} in {:?}", self.requests());
    }

    /// Ends every connection that stands, event streams too.
    pub fn cut(&self) {
        self.shared
            .open
            .update(|open| open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both))));
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.cut();
    }
}

fn pass(shared: &Shared, mut stream: &UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut headers, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" => continue,
            _ => {}
        }
        headers += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
    shared.requests.update(|requests| requests.push(request.clone()));
    let passage = (shared.guard)(&request);
    match &passage {
        Some(Passage::Answer(status, text)) => {
            let length = text.len();
            return write!(
                stream,
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{text}"
            );
        }
        Some(Passage::CutBefore) => return Ok(()),
        Some(Passage::CutAfter | Passage::Truncate(_)) | None => {}
    }

    let upstream = UnixStream::connect(&shared.upstream)?;
    // Ended with the Agent's connection.
    shared.open.update(|open| open.extend(upstream.try_clone()));
    let watched = (stream.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut &watched.0, &mut io::sink());
        let _ = watched.1.shutdown(Shutdown::Both);
    });
    write!(&upstream, "{} HTTP/1.0\r\n{headers}\r\n", spoken(&request))?;
    (&upstream).write_all(&body)?;
    let mut answer = BufReader::new(upstream);
    let mut line = String::new();
    let mut head = String::new();
    while answer.read_line(&mut line)? > 2 {
        let ping = line.to_ascii_lowercase().starts_with("api-version:");
        if ping && request.ends_with("/_ping") {
            line = format!("Api-Version: {}\r\n", shared.version.lock());
        }
        head += &std::mem::take(&mut line);
    }
    if matches!(passage, Some(Passage::CutAfter)) {
        return io::copy(&mut answer, &mut io::sink()).map(drop);
    }
    write!(stream, "{head}Connection: close\r\n\r\n")?;
    if let Some(Passage::Truncate(bytes)) = passage {
        return io::copy(&mut answer.take(bytes), &mut stream).map(drop);
    }
    if request.contains("/events?") && version(&request) >= Some(52) {
        return pass_events(&mut answer, stream);
    }
    io::copy(&mut answer, &mut stream).map(drop)
}

/// The minor API version of a request's path.
fn version(request: &str) -> Option<u32> {
    request.split_once(" /v1.")?.1.split('/').next()?.parse().ok()
}

/// The request in the newest version that the Engine behind understands.
fn spoken(request: &str) -> String {
    match (version(request), request.split_once(" /v1.")) {
        (Some(minor), Some((method, rest))) if minor > 40 => {
            let path = rest.split_once('/').map_or("", |(_, path)| path);
            format!("{method} /v1.41/{path}")
        }
        _ => request.to_owned(),
    }
}

/// Events lose `status`, `id` and `from` in 1.52.
fn pass_events(events: &mut impl BufRead, mut stream: &UnixStream) -> io::Result<()> {
    let mut line = String::new();
    while events.read_line(&mut line)? > 0 {
        let mut event: Value = serde_json::from_str(&line)?;
        for old in ["status", "id", "from"] {
            event.as_object_mut().map(|event| event.remove(old));
        }
        writeln!(stream, "{event}")?;
        line.clear();
    }
    Ok(())
}
