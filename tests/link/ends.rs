//! However a connection ends, both threads end soon, each says so once, and the cause is the first one.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore::link::{Cause, Duplex, Entry, Half, Limits, Threads};
use tungstenite::Bytes;

use crate::rig::*;

fn closed(code: u16, reason: &str) -> Cause {
    Cause::Closed { code, reason: reason.into() }
}

/// A side whose write thread is blocked, because its peer reads nothing and there is always more to write.
fn blocked(limits: Limits) -> (RawPeer, Side) {
    let next = Arc::new(Mutex::new(0));
    let outbox = outbox(Endless { next: next.clone(), size: 60_000 });
    outbox.begin(1, vec![]);
    let (peer, connection) = raw_connection(limits);
    let side = Side::start(connection, 1, &outbox);
    let mut seen = (0, Instant::now());
    eventually("the write thread to block", || {
        let now = *next.lock().unwrap();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        seen.0 > 0 && seen.1.elapsed() > Duration::from_millis(100)
    });
    (peer, side)
}

#[test]
fn a_close_of_the_peer_is_echoed_and_told() {
    for (payload, cause, echo) in [
        (&b"\x0f\xa1replaced"[..], closed(4001, "replaced"), 4001),
        (b"\x03\xe8", closed(1000, ""), 1000),
        // A code that must not be sent (RFC 6455 section 7.4.1) is a fault of the peer's.
        (b"\x03\xed", closed(1002, "Protocol violation"), 1002),
    ] {
        let (mut peer, mut side) = raw(Limits::default());
        peer.frame(0x88, payload);
        assert_eq!(peer.close_code(), echo);
        peer.shut();
        assert_eq!(side.cause(), cause);
    }
    let (mut peer, mut side) = raw(Limits::default());
    peer.frame(0x88, b"");
    assert_eq!(peer.read(), Some((8, vec![])));
    peer.shut();
    assert_eq!(side.cause(), closed(1005, ""));
}

#[test]
fn a_close_of_ours_comes_after_what_was_said_and_ends_both_sides_at_once() {
    for wire in [Wire::Plain, Wire::Tls] {
        for agent_closes in [true, false] {
            let (agent, panel) = pair(wire);
            let (mut closing, mut other) = if agent_closes { (agent, panel) } else { (panel, agent) };
            let begun = Instant::now();
            closing.outbox.push(Entry::kept("agent_stopping")).unwrap();
            closing.outbox.close(1001, "going away", Duration::from_secs(5));
            assert_eq!(other.text(), "agent_stopping");
            assert_eq!(other.cause(), closed(1001, "going away"));
            assert_eq!(closing.cause(), Cause::ClosedByUs);
            assert_eq!(closing.outbox.waiting(), (0, 0), "the last words were confirmed before the Close");
            assert!(begun.elapsed() < Duration::from_secs(1), "{wire:?}: {:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_peer_that_answers_no_close_is_left_in_time() {
    let (mut peer, mut side) = raw(Limits::default());
    side.outbox.close(1001, "", Duration::from_secs(5));
    assert_eq!(peer.read(), Some((8, b"\x03\xe9".to_vec())));
    assert_eq!(side.cause(), Cause::ClosedByUs);
    // And one that sends a Close and stays.
    let (mut peer, mut side) = raw(Limits::default());
    let begun = Instant::now();
    peer.frame(0x88, b"\x03\xe8");
    assert_eq!(side.cause(), closed(1000, ""));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_message_over_the_limit_is_answered_with_1009() {
    const LIMIT: u64 = 16 << 20;
    // One frame a byte too long, sent whole; a frame that says it is huge; fragments that add up.
    let whole = |peer: &mut RawPeer| peer.frame(0x81, &vec![b'x'; LIMIT as usize + 1]);
    let said = |peer: &mut RawPeer| peer.frame_header(0x81, 1 << 30);
    let absurd = |peer: &mut RawPeer| peer.frame_header(0x81, u64::MAX >> 1);
    let pieces = |peer: &mut RawPeer| {
        peer.frame(0x01, &vec![b'x'; LIMIT as usize]);
        peer.frame(0x80, b"x");
    };
    for (name, send) in [
        ("whole", &whole as &dyn Fn(&mut RawPeer)),
        ("said", &said),
        ("absurd", &absurd),
        ("pieces", &pieces),
    ] {
        let (mut peer, mut side) = raw(Limits::default());
        send(&mut peer);
        assert_eq!(peer.close_code(), 1009, "{name}");
        peer.shut();
        assert_eq!(side.cause(), Cause::TooBig, "{name}");
        assert!(side.inbound.is_empty(), "{name}");
    }
    let (mut peer, side) = raw(Limits::default());
    peer.frame(0x81, &vec![b'x'; LIMIT as usize]);
    assert_eq!(side.text().len() as u64, LIMIT);
}

#[test]
fn what_is_no_websocket_is_answered_with_its_code() {
    for (bytes, code) in [
        (&b"\x81\x02\xc3\x28"[..], 1007),
        (b"\xf1\x00", 1002),
        (b"\x83\x00", 1002),
        (b"\x80\x00", 1002),
        (b"\x09\x00", 1002),
        (b"\x89\x7e\x00\x7e", 1002),
        (b"\x81\x81\0\0\0\0x", 1002),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1002),
    ] {
        let (mut peer, mut side) = raw(Limits::default());
        let mut bytes = bytes.to_vec();
        // Some of these are headers of frames whose payload has to be there to be looked at.
        bytes.resize(300, b'x');
        peer.socket.write_all(&bytes).unwrap();
        assert_eq!(peer.close_code(), code, "{bytes:?}");
        peer.shut();
        assert!(matches!(side.cause(), Cause::Protocol(_)), "{bytes:?}");
    }
}

#[test]
fn a_cut_connection_is_told_as_such() {
    let (peer, mut side) = raw(Limits::default());
    drop(peer);
    assert_eq!(side.cause(), Cause::Reset(std::io::ErrorKind::UnexpectedEof));

    let (peer, mut side) = raw(Limits::default());
    rustix::net::sockopt::set_socket_linger(&peer.socket, Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(side.cause(), Cause::Reset(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn silence_ends_a_connection_and_any_byte_keeps_it() {
    let limits = Limits { silence: Duration::from_millis(600), ..Limits::default() };
    let (mut peer, mut side) = raw(limits);
    let begun = Instant::now();
    // A frame that comes in pieces: no message is complete, and the peer is alive all the same.
    peer.frame_header(0x81, 10);
    for _ in 0..10 {
        assert!(side.ended.recv_timeout(Duration::from_millis(100)).is_err());
        peer.socket.write_all(b"x").unwrap();
    }
    assert_eq!(side.text(), "xxxxxxxxxx");
    let last = Instant::now();
    assert!(begun.elapsed() > limits.silence);
    assert_eq!(side.cause(), Cause::Silent);
    let took = last.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[test]
fn a_peer_that_takes_nothing_is_left_in_time() {
    let (_peer, mut side) = blocked(Limits { stall: Duration::from_millis(500), ..Limits::default() });
    let begun = Instant::now();
    assert_eq!(side.cause(), Cause::WriteStalled);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn kill_wakes_a_blocked_read_and_a_blocked_write() {
    let idle = raw(Limits::default());
    for (name, (_peer, mut side)) in [("read", idle), ("write", blocked(Limits::default()))] {
        assert_eq!(side.duplex.cause(), None);
        let begun = Instant::now();
        side.duplex.kill();
        assert_eq!(side.cause(), Cause::Killed);
        let took = begun.elapsed();
        println!("kill of a blocked {name}: {took:?}");
        assert!(took < Duration::from_millis(500), "{name}: {took:?}");
    }
}

#[test]
fn dropping_the_handle_ends_both_threads() {
    let (_peer, side) = raw(Limits::default());
    let Side { duplex, ended, .. } = side;
    drop(duplex);
    assert_eq!(ended.try_iter().map(|end| end.cause).collect::<Vec<_>>(), [Cause::Killed, Cause::Killed]);
}

#[test]
fn an_outbox_that_moves_on_ends_the_connection_before() {
    let (_peer, mut side) = raw(Limits::default());
    side.outbox.begin(2, vec![]);
    assert_eq!(side.first_end(), Half::Write);
    assert_eq!(side.duplex.join(Instant::now() + SOON), Ok(Cause::Killed));
}

#[test]
fn a_close_is_not_held_up_by_a_blocked_write() {
    // The write thread is stuck in a message, so the echo cannot go out: the reader ends it after its time.
    let (mut peer, mut side) = blocked(Limits::default());
    let begun = Instant::now();
    peer.frame(0x88, b"\x0f\xa3revoked");
    assert_eq!(side.cause(), closed(4003, "revoked"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn the_reason_of_a_close_survives_the_reset_that_follows_it() {
    for _ in 0..20 {
        let (mut peer, mut side) = blocked(Limits::default());
        rustix::net::sockopt::set_socket_linger(&peer.socket, Some(Duration::ZERO)).unwrap();
        peer.frame(0x88, b"\x0f\xa3revoked");
        drop(peer);
        assert_eq!(side.cause(), closed(4003, "revoked"));
    }
}

#[test]
fn a_panic_of_the_handler_ends_the_connection_and_is_told() {
    let (mut peer, connection) = raw_connection(Limits::default());
    let outbox = outbox(longshore::link::outbox::NoSource);
    outbox.begin(1, vec![]);
    let (ended_tx, ended) = crossbeam_channel::unbounded();
    let handler = |_| panic!("on purpose");
    let names = Threads::default();
    let on_end = move |end| drop(ended_tx.send(end));
    let mut duplex = Duplex::start(connection, 1, outbox, names, handler, on_end).unwrap();
    peer.frame(0x81, b"{}");
    for _ in 0..2 {
        assert_eq!(ended.recv_timeout(SOON).unwrap().cause, Cause::Panicked);
    }
    assert_eq!(duplex.join(Instant::now() + SOON), Ok(Cause::Panicked));
}

#[test]
fn join_names_the_thread_that_does_not_come() {
    let (mut peer, connection) = raw_connection(Limits::default());
    let outbox = outbox(longshore::link::outbox::NoSource);
    outbox.begin(1, vec![]);
    let (entered_tx, entered) = crossbeam_channel::bounded::<()>(0);
    let (release_tx, release) = crossbeam_channel::bounded::<()>(0);
    let handler = move |_| {
        let _ = entered_tx.send(());
        let _ = release.recv();
    };
    let mut duplex = Duplex::start(connection, 1, outbox, Threads::default(), handler, |_| {}).unwrap();
    peer.frame(0x81, b"{}");
    entered.recv_timeout(SOON).unwrap();
    duplex.kill();
    let stuck = duplex.join(Instant::now() + Duration::from_millis(300)).unwrap_err();
    assert_eq!(stuck.to_string(), "did not end in time: panel-read");
    drop(release_tx);
    assert_eq!(duplex.join(Instant::now() + SOON), Ok(Cause::Killed));
}

#[test]
fn a_flood_of_pings_is_answered_by_the_newest_only() {
    let (mut peer, mut side) = blocked(Limits::default());
    // The write thread is blocked: no pong goes out, and the reader must neither wait nor hoard.
    for n in 0..100_000u32 {
        peer.frame(0x89, &n.to_be_bytes());
    }
    peer.frame(0x81, b"after the flood");
    assert_eq!(side.text(), "after the flood");
    let newest = Bytes::copy_from_slice(&99_999u32.to_be_bytes());
    let mut pongs = 0;
    loop {
        match peer.read().expect("a pong was expected") {
            (10, payload) => {
                pongs += 1;
                if payload == newest {
                    break;
                }
            }
            // What was written before, and the ping that asks whether it arrived.
            (1 | 9, _) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(pongs < 10, "{pongs} pongs for pings of which all but the newest were stale");
    side.duplex.kill();
    assert_eq!(side.cause(), Cause::Killed);
}
