//! A link with nothing to do costs nothing: neither thread wakes up.

use std::fs;
use std::time::Duration;

use longshore::link::{Entry, Limits, Threads};

use crate::rig::*;

/// A field of the status of the thread of this name.
fn status(thread: &str, field: &str) -> Option<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let of_thread = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        (name.trim() == thread).then(|| fs::read_to_string(task.join("status")).ok())?
    });
    let status = of_thread.last()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

#[test]
fn an_idle_link_never_wakes_up() {
    for wire in [Wire::Plain, Wire::Tls] {
        let names = match wire {
            Wire::Plain => [
                Threads { read: "idle-read-a", write: "idle-write-a", stack: None },
                Threads { read: "idle-read-b", write: "idle-write-b", stack: None },
            ],
            Wire::Tls => [
                Threads { read: "idle-read-c", write: "idle-write-c", stack: None },
                Threads { read: "idle-read-d", write: "idle-write-d", stack: None },
            ],
        };
        let (dialed, accepted) = connections(wire, Limits::default(), Limits::default());
        let sides = [(dialed, names[0]), (accepted, names[1])].map(|(connection, names)| {
            let outbox = outbox(longshore::link::outbox::NoSource);
            outbox.begin(1, vec![]);
            Side::named(connection, 1, &outbox, names)
        });
        for side in &sides {
            side.outbox.push(Entry::kept("hello")).unwrap();
        }
        for side in &sides {
            assert_eq!(side.text(), "hello");
            eventually("the delivery to be confirmed", || side.outbox.waiting() == (0, 0));
        }
        let threads: Vec<&str> = names.iter().flat_map(|names| [names.read, names.write]).collect();
        let asleep = |thread: &str| status(thread, "State").is_some_and(|state| state.starts_with('S'));
        eventually("all threads to sleep", || threads.iter().all(|thread| asleep(thread)));
        let switches = || threads.iter().map(|thread| status(thread, "voluntary_ctxt_switches").unwrap());
        let before: Vec<String> = switches().collect();
        assert!(sides[0].ended.recv_timeout(Duration::from_secs(1)).is_err());
        assert_eq!(before, switches().collect::<Vec<_>>(), "{wire:?}: {threads:?}");
    }
}
