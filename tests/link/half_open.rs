//! A peer that vanishes without a word, as behind a cable that is pulled or a NAT that forgets: noticed within the
//! bounds. It needs a network that can be switched off, so the test runs itself again in a network namespace of its
//! own; where the system allows none it fails and says what is missing.

use std::process::Command;
use std::time::{Duration, Instant};

use longshore::link::{Cause, Entry, Limits};

use crate::rig::*;

const INSIDE: &str = "LONGSHORE_TEST_INSIDE_NETNS";

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

/// Runs `inside` in a namespace in which nothing but the test uses the loopback device.
fn in_namespace(test: &str, inside: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        ip(&["link", "set", "lo", "up"]);
        return inside();
    }
    // A user namespace lets anybody have one; where those are switched off, root needs none.
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--net", "--"], &["--net", "--"]];
    let unshare = |way: &[&str], arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(way).args(arguments);
        command
    };
    let works =
        |way: &&[&str]| unshare(way, &["ip", "link"]).output().is_ok_and(|output| output.status.success());
    let way = ways
        .into_iter()
        .find(works)
        .expect("a network namespace: needs util-linux, iproute2, and user namespaces or root");
    let binary = std::env::current_exe().unwrap();
    let mut again = unshare(way, &[binary.to_str().unwrap(), "--exact", test, "--nocapture"]);
    let output = again.env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    in_namespace("half_open::a_peer_that_vanishes_is_noticed", || {
        let quiet = Limits { silence: Duration::from_secs(2), ..Limits::default() };
        let (dialed, accepted) = connections(Wire::Plain, quiet, quiet);
        let (mut agent, mut panel) = (Side::alone(dialed), Side::alone(accepted));
        agent.outbox.push(Entry::now("hello")).unwrap();
        assert_eq!(panel.text(), "hello");
        ip(&["link", "set", "lo", "down"]);
        let begun = Instant::now();
        // Something is under way on one side, nothing on the other.
        agent.outbox.push(Entry::kept("into the void")).unwrap();
        assert_eq!((agent.cause(), panel.cause()), (Cause::Silent, Cause::Silent));
        let took = begun.elapsed();
        println!("noticed after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn data_that_nobody_acknowledges_ends_the_link_before_silence_does() {
    in_namespace("half_open::data_that_nobody_acknowledges_ends_the_link_before_silence_does", || {
        let limits = Limits { stall: Duration::from_secs(1), ..Limits::default() };
        let (dialed, accepted) = connections(Wire::Plain, limits, limits);
        let (mut agent, panel) = (Side::alone(dialed), Side::alone(accepted));
        agent.outbox.push(Entry::now("hello")).unwrap();
        assert_eq!(panel.text(), "hello");
        ip(&["link", "set", "lo", "down"]);
        let begun = Instant::now();
        agent.outbox.push(Entry::kept("into the void")).unwrap();
        let cause = agent.cause();
        let took = begun.elapsed();
        println!("noticed after {took:?}: {cause}");
        assert_eq!(cause, Cause::WriteStalled);
        // The kernel looks when it retransmits, in ever longer steps.
        assert!(took < Duration::from_secs(8), "{took:?}");
    });
}
