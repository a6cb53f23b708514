//! A file of 1 GiB to a server and back, over the link in pieces of 1 MiB: the same bytes, little memory, and how fast that
//! is beside `cp` and beside a bare WebSocket with messages of the same size.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use crate::support::*;

const PIECE: usize = 1 << 20;
const PIECES: usize = 1024;
/// Pieces on their way at once.
const WINDOW: usize = 4;
/// Kibibytes.
const MEMORY: u64 = 24 << 10;

/// Pieces that differ from each other, as text. A file is these over and over.
fn blocks() -> Vec<(Vec<u8>, String)> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = || {
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let bytes: Vec<u8> = words.take(PIECE / 8).flatten().collect();
        let text = STANDARD.encode(&bytes);
        (bytes, text)
    };
    (0..7).map(|_| block()).collect()
}

/// The Panel's side of a link, with nothing around it that would cost time: no message is kept.
struct Link(WebSocket<TcpStream>);

impl Link {
    fn send(&mut self, text: String) {
        self.0.send(Message::text(text)).expect("the Agent reads");
    }

    /// The next response; pings are answered on the way.
    fn response(&mut self) -> String {
        loop {
            match self.0.read().expect("the Agent writes") {
                Message::Text(text) if text.contains("\"type\":\"response\"") => return text.to_string(),
                // Answered with the next write, and there may be none.
                Message::Ping(_) => self.0.flush().expect("the Agent reads"),
                _ => {}
            }
        }
    }

    fn call(&mut self, action: &str, payload: &str) -> String {
        self.send(command("call", action, payload));
        let response = self.response();
        assert!(response.contains("\"success\":true"), "{response:.300}");
        response
    }
}

fn command(id: &str, action: &str, payload: &str) -> String {
    format!(r#"{{"id":"{id}","type":"command","action":"{action}","serverId":"s","payload":{payload}}}"#)
}

/// Sends requests made by `ask`, so many at once, and shows each response to `take`.
fn pipeline(link: &mut Link, ask: impl Fn(usize) -> String, mut take: impl FnMut(&str)) -> Duration {
    let begun = Instant::now();
    let mut sent = 0;
    for done in 0..PIECES {
        while sent < PIECES && sent < done + WINDOW {
            link.send(ask(sent));
            sent += 1;
        }
        let response = link.response();
        assert!(response.contains("\"success\":true"), "{response:.300}");
        take(&response);
    }
    begun.elapsed()
}

fn sha256_of(path: &std::path::Path) -> Vec<u8> {
    let (mut file, mut sum, mut buffer) = (File::open(path).unwrap(), Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return sum.finish().as_ref().to_vec(),
            count => sum.update(&buffer[..count]),
        }
    }
}

/// So many messages of a piece's size from one end of a loopback connection to the other.
fn bare_websocket(text: &str) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        let mut bytes = 0;
        for _ in 0..PIECES {
            bytes += socket.read().unwrap().len();
        }
        bytes
    });
    let stream = TcpStream::connect(address).unwrap();
    let mut socket = tungstenite::client(format!("ws://{address}/"), stream).unwrap().0;
    let begun = Instant::now();
    for _ in 0..PIECES {
        socket.send(Message::text(text)).unwrap();
    }
    assert_eq!(reader.join().unwrap(), PIECES * text.len());
    begun.elapsed()
}

#[test]
fn a_gibibyte_goes_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/agent", listener.local_addr().unwrap());
    let mut agent = AgentProcess::prepare(&url, engine(), &[("LOG_LEVEL", "warn")]);
    agent.start_again();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let config = WebSocketConfig::default().write_buffer_size(0);
    let mut link = Link(tungstenite::accept_with_config(stream, Some(config)).unwrap());
    link.call("create_server", &demo(serde_json::json!({})).to_string());

    let blocks = blocks();
    let mut sum = Context::new(&SHA256);
    (0..PIECES).for_each(|n| sum.update(&blocks[n % blocks.len()].0));
    let sum = sum.finish().as_ref().to_vec();
    let upload = |n: usize| {
        let content = &blocks[n % blocks.len()].1;
        let payload =
            format!(r#"{{"path":"world","content":"{content}","encoding":"base64","append":{}}}"#, n > 0);
        command(&format!("up-{n}"), "upload_file", &payload)
    };
    let mut memory = 0;
    let up = pipeline(&mut link, upload, |_| memory = memory.max(agent.resident_kib()));
    let file = agent.data_dir.join("servers/s/world");
    assert_eq!(fs::metadata(&file).unwrap().len(), (PIECE * PIECES) as u64);
    assert!(sha256_of(&file) == sum, "other bytes have arrived");

    let back = agent.data_dir.join("back");
    let taken = File::create(&back).unwrap();
    let download = |n: usize| {
        let payload = format!(r#"{{"path":"world","offset":{},"length":{PIECE}}}"#, n * PIECE);
        command(&format!("down-{n}"), "download_file", &payload)
    };
    let down = pipeline(&mut link, download, |response| {
        let between =
            |from: &str| response.split_once(from).expect(from).1.split_once('"').expect("its end").0;
        // What only looks is answered as it is read, not in the order in which it was asked.
        let at: usize = between("\"id\":\"down-").parse().unwrap();
        taken
            .write_all_at(&STANDARD.decode(between("\"content\":\"")).unwrap(), (at * PIECE) as u64)
            .unwrap();
        memory = memory.max(agent.resident_kib());
    });
    assert!(sha256_of(&back) == sum, "other bytes came back");

    let copy = agent.data_dir.join("copy");
    let begun = Instant::now();
    // As durable as what the Agent writes.
    assert!(Command::new("cp").args([&file, &copy]).status().unwrap().success());
    File::open(&copy).unwrap().sync_all().unwrap();
    let cp = begun.elapsed();
    let bare = bare_websocket(&upload(1));
    let rate = |took: Duration| (PIECE * PIECES) as f64 / 1e6 / took.as_secs_f64();
    println!(
        "1 GiB in pieces of 1 MiB: up {:.0} MB/s, down {:.0} MB/s; cp and sync {:.0} MB/s; bare WebSocket {:.0} MB/s; \
         the Agent at most {:.1} MiB resident",
        rate(up),
        rate(down),
        rate(cp),
        rate(bare),
        memory as f64 / 1024.0
    );
    std::io::stdout().flush().unwrap();
    assert!(memory < MEMORY, "{memory} KiB resident");
}
