//! What has to arrive arrives, however often the link is cut: in order, and once on each connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use longshore::link::outbox::{Begin, NoSource};
use longshore::link::{Cause, Drops, Entry, Limits};

use crate::rig::*;

/// The next text that has to be written for number `n`.
fn numbered(n: u32) -> String {
    format!("message {n:05}")
}

#[test]
fn what_the_kernel_swallowed_is_sent_again() {
    let outbox = outbox(NoSource);
    outbox.begin(1, vec!["info".into()]);
    let (peer, connection) = raw_connection(Limits::default());
    let mut side = Side::start(connection, 1, &outbox);
    for n in 0..50 {
        outbox.push(Entry::kept(numbered(n)).tagged(n)).unwrap();
    }
    outbox.push(Entry::now("heartbeat")).unwrap();
    // All of it is in the buffers of the two sockets when the peer dies; as far as our kernel knows it was sent.
    eventually("everything to be written", || peer.socket.peek(&mut [0; 8192]).unwrap() > 50 * 13);
    drop(peer);
    side.ended.recv_timeout(SOON).unwrap();
    side.ended.recv_timeout(SOON).unwrap();
    assert!(matches!(side.duplex.join(std::time::Instant::now() + SOON), Ok(Cause::Reset(_))));

    outbox.push(Entry::kept(numbered(50)).tagged(50)).unwrap();
    outbox.push(Entry::now("for nobody")).unwrap();
    let begin = outbox.begin(2, vec!["info".into()]);
    assert_eq!(begin, Begin { resent: (0..=50).collect(), dropped: Drops { messages: 1, bytes: 10 } });
    let (mut peer, connection) = raw_connection(Limits::default());
    let side = Side::start(connection, 2, &outbox);
    outbox.push(Entry::kept(numbered(51)).tagged(51)).unwrap();
    assert_eq!(peer.text(|_, _| {}), "info");
    for n in 0..=51 {
        assert_eq!(peer.text(|peer, ping| peer.pong(&ping)), numbered(n));
    }
    // The last ping may still be on its way.
    while outbox.waiting().0 > 0 {
        match peer.read().unwrap() {
            (9, ping) => peer.pong(&ping),
            other => panic!("nothing but a ping was expected: {other:?}"),
        }
        eventually("the pong to count", || outbox.waiting().0 == 0);
    }
    assert!(outbox.rtt().is_some_and(|rtt| rtt < SOON));
    drop(side);
    assert_eq!(outbox.begin(3, vec![]), Begin { resent: vec![], dropped: Drops::default() });
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_nothing_and_repeats_nothing() {
    const MESSAGES: u32 = 600;
    // Long enough that delivery is asked for every few messages.
    let long = |n: u32| format!("{}{:4000}", numbered(n), "");
    let outbox = outbox(NoSource);
    let producer = {
        let outbox = outbox.clone();
        thread::spawn(move || {
            for n in 0..MESSAGES {
                let entry = Entry { number: Some(n.into()), ..Entry::kept(long(n)).tagged(n) };
                outbox.push(entry).unwrap();
            }
        })
    };
    // How many have left, in their order.
    let gone = Arc::new(AtomicU64::new(0));
    outbox.on_gone({
        let gone = gone.clone();
        move |numbers| {
            gone.fetch_add(numbers.len() as u64, Ordering::SeqCst);
        }
    });
    let mut confirmed = 0;
    let mut connections = 0u32;
    while confirmed < MESSAGES {
        connections += 1;
        let generation = connections.into();
        outbox.begin(generation, vec!["info".into()]);
        let (mut peer, connection) = raw_connection(Limits::default());
        let side = Side::start(connection, generation, &outbox);
        assert_eq!(peer.text(|_, _| {}), "info");
        // Reads some, confirms some of what it read, and dies. Which is which differs from one to the next.
        let (reads, confirms) = (10 + 37 * connections % 90, !connections.is_multiple_of(3));
        let mut next = confirmed;
        for _ in 0..reads {
            match peer.read().unwrap() {
                (1, text) => {
                    assert!(text == long(next).as_bytes(), "{}", String::from_utf8_lossy(&text[..20]));
                    next += 1;
                    if next == MESSAGES && !confirms {
                        break;
                    }
                }
                (9, ping) if confirms => {
                    peer.pong(&ping);
                    confirmed = next;
                    eventually("the pong to count", || gone.load(Ordering::SeqCst) >= next.into());
                    if confirmed == MESSAGES {
                        break;
                    }
                }
                (9, _) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        drop(peer);
        drop(side);
    }
    producer.join().unwrap();
    assert_eq!(outbox.waiting(), (0, 0));
    assert!(connections > 5, "the link should have been cut more often than {connections} times");
}

#[test]
fn control_overtakes_data_after_the_message_that_is_being_written() {
    let next = Arc::new(Mutex::new(0));
    let outbox = outbox(Endless { next: next.clone(), size: 1000 });
    outbox.begin(1, vec![]);
    let (mut peer, connection) = raw_connection(Limits::default());
    let _side = Side::start(connection, 1, &outbox);
    for round in 0..5 {
        // With the lock the source cannot give another message, so what is pulled is known.
        let pulled = {
            let next = next.lock().unwrap();
            outbox.push(Entry::now(format!("control {round}"))).unwrap();
            *next
        };
        let mut last = None;
        loop {
            let text = peer.text(|_, _| {});
            match text.trim_end().strip_prefix("line-") {
                Some(number) => last = Some(number.parse::<usize>().unwrap()),
                None => break assert_eq!(text, format!("control {round}")),
            }
        }
        // The write thread may have been on its way to the source with the lock as the only thing in between.
        assert!(
            last.is_none_or(|last| last <= pulled),
            "{last:?} came before control, {pulled} were pulled before it"
        );
    }
}

#[test]
fn every_library_that_pongs_confirms() {
    let (listener, port) = listener();
    let peer = thread::spawn(move || {
        let mut peer = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        while peer.read().is_ok() {}
    });
    let side = Side::alone(dialer(Wire::Plain, port).dial(&secret()).unwrap());
    for n in 0..100 {
        side.outbox.push(Entry::kept(numbered(n))).unwrap();
    }
    eventually("everything to be delivered", || side.outbox.waiting() == (0, 0));
    side.outbox.close(1000, "", Duration::from_secs(1));
    peer.join().unwrap();
}
