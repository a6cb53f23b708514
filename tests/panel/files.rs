//! Files through the API: bytes go up and down in pieces, whole or not at all, and the log says by whom.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::fake_agent::FakeAgent;
use super::process::{Panel, SOON};

const PIECE: usize = 1 << 20;

/// What a node has under one path, and answers with.
fn serve(agent: &mut FakeAgent, file: &mut Vec<u8>, turns: usize) {
    for _ in 0..turns {
        let command = agent.next();
        let payload = &command["payload"];
        assert_eq!(payload["path"], json!("maps/a b.bin"), "{command}");
        let number = |name: &str| payload[name].as_u64().unwrap_or(0) as usize;
        let answer = match command["action"].as_str().unwrap() {
            "upload_file" => {
                assert_eq!(payload["append"], json!(!file.is_empty()));
                file.extend(BASE64.decode(payload["content"].as_str().unwrap()).unwrap());
                json!({"path": payload["path"], "size": file.len()})
            }
            "get_file_info" => json!({"path": payload["path"], "size": file.len()}),
            "download_file" => {
                let (at, length) = (number("offset"), number("length"));
                let content = BASE64.encode(&file[at..file.len().min(at + length)]);
                json!({"content": content, "encoding": "base64", "offset": at, "size": file.len()})
            }
            other => panic!("{other}"),
        };
        agent.succeed(&command, answer);
    }
}

/// A request with these bytes as its body; status and body of the answer.
fn put(panel: &Panel, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(&panel.http).unwrap();
    stream.set_read_timeout(Some(2 * SOON)).unwrap();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\r\n",
        panel.http,
        panel.token,
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_file_goes_up_and_comes_down_the_same() {
    const FILES: &str = "/api/v1/servers/n1/s1/files";
    let panel = Panel::start(&["n1"]);
    let mut agent = FakeAgent::connect_with(&panel, "n1", &[("s1", "running")]);
    let bytes: Vec<u8> = (0..2 * PIECE + 12_345).map(|index| (index * 31 % 251) as u8).collect();
    let mut file = Vec::new();
    let upload = |at: usize| format!("{FILES}/upload?path=maps%2Fa+b.bin&offset={at}");
    std::thread::scope(|scope| {
        let node = scope.spawn(|| {
            // The first piece has no size to be asked for.
            serve(&mut agent, &mut file, 1 + 2 + 1 + 2);
            (&mut agent, &mut file)
        });
        let (pieces, last) = bytes.split_at(2 * PIECE);
        assert_eq!(put(&panel, &upload(0), &pieces[..PIECE]).0, 200);
        let (status, answer) = put(&panel, &upload(PIECE), &pieces[PIECE..]);
        assert_eq!((status, &answer["size"]), (200, &json!(2 * PIECE)));
        // Sent twice, or after a hole: the Panel says from where to go on.
        let (status, answer) = put(&panel, &upload(PIECE), last);
        assert_eq!((status, &answer["error"]["code"]), (409, &json!("OFFSET_MISMATCH")));
        assert_eq!(put(&panel, &upload(2 * PIECE), last).0, 200);
        let (agent, file) = node.join().unwrap();
        assert!(*file == bytes, "it arrived otherwise");
        let node = scope.spawn(|| serve(agent, file, 3));
        let answer = download(&panel);
        assert!(answer.1 == bytes, "it came back otherwise");
        for header in [
            "content-disposition: attachment; filename*=utf-8''a%20b.bin",
            "content-security-policy: sandbox; default-src 'none'",
            "x-content-type-options: nosniff",
        ] {
            assert!(answer.0.contains(header), "{header}: {}", answer.0);
        }
        node.join().unwrap();
    });
    let too_much = vec![0; PIECE + 1];
    assert_eq!(put(&panel, &upload(0), &too_much).0, 413);

    // Once a file, and by which token.
    let log = panel.get("/api/v1/activity?action=file.upload").json();
    let entries = log["items"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{log}");
    let told = ["user", "via", "token", "detail"].map(|name| entries[0][name].clone());
    assert_eq!(told, [json!("admin"), json!("token"), json!("test"), json!("maps/a b.bin")]);
    let found = panel.get("/api/v1/activity?q=TEST&action=file.download").json();
    assert_eq!(found["items"][0]["token"], json!("test"), "{found}");
}

fn download(panel: &Panel) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(&panel.http).unwrap();
    stream.set_read_timeout(Some(2 * SOON)).unwrap();
    write!(
        stream,
        "GET /api/v1/servers/n1/s1/files/download?path=maps%2Fa%20b.bin HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        panel.http, panel.token
    )
    .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), bytes[end + 4..].to_vec())
}
