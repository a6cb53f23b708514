//! A search has its time, and then tells what it has found. The disk that is too slow for it is made by stopping the Agent in
//! the midst of it, as one does that hangs on a read.

use std::fs;
use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::Signal;
use serde_json::json;

use crate::rig::Rig;
use crate::rootless_jobs::LATER;
use crate::support::*;

const DIRECTORIES: usize = 50;

#[test]
fn a_search_ends_after_5_s_with_what_it_has() {
    let rig = Rig::start();
    // Names of which each takes long to look at, and one in each directory that is found.
    let found = format!("{}b", "a".repeat(124));
    let query = format!("*{found}");
    for dir in 0..DIRECTORIES {
        fs::create_dir_all(rig.dir().join(format!("tree/{dir}"))).unwrap();
        for n in 0..200 {
            rig.put(&format!("tree/{dir}/{}{n:03}", "a".repeat(240)), "");
        }
        rig.put(&format!("tree/{dir}/{found}"), "");
    }
    let search = |query: &str| rig.link.command("search_files", "s", json!({"path": "tree", "query": query}));
    let answer = |id: &str| {
        rig.link.wait_from(0, LATER, "the result of a search", |seen| match seen {
            Seen::Json(message) if message["type"] == "response" && message["id"] == id => {
                Some(message["data"].clone())
            }
            _ => None,
        })
    };
    // The same files by a query that is quick: all are found, so nothing but time can cut the other one short.
    let whole = answer(&search("*b"));
    let files = whole["files"].as_array().map(Vec::len);
    assert_eq!((files, &whole["truncated"]), (Some(DIRECTORIES), &json!(false)));

    let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
    for dir in 0..DIRECTORIES {
        inotify::add_watch(&watch, rig.dir().join(format!("tree/{dir}")), WatchFlags::OPEN).unwrap();
    }
    let cut = search(&query);
    let mut ready = [PollFd::new(&watch, PollFlags::IN)];
    let within = Timespec { tv_sec: LATER.as_secs().cast_signed(), tv_nsec: 0 };
    assert_eq!(poll(&mut ready, Some(&within)).unwrap(), 1, "the search has begun");
    rig.agent.signal(Signal::STOP);
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let event = inotify::Reader::new(&watch, &mut buffer).next().unwrap().events();
    assert!(event.contains(ReadFlags::OPEN));
    // No synchronisation: this is the time that passes.
    std::thread::sleep(Duration::from_secs(6));
    rig.agent.signal(Signal::CONT);
    let cut = answer(&cut);
    assert_eq!(cut["truncated"], true, "{cut}");
    assert!(cut["files"].as_array().unwrap().len() < DIRECTORIES, "{cut}");
}
