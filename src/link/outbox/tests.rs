//! What the lanes promise: order, delivery exactly once on each connection, bounds. Case by case, then as a property.

use proptest::prelude::*;

use super::*;

fn outbox() -> Outbox<u32> {
    Outbox::new(NoSource, Bounds::default())
}

/// Writes everything that is there, as the write thread would.
fn written(outbox: &Outbox<u32>, generation: u64) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        match outbox.next(generation) {
            Next::Text(text) => out.push(text.to_string()),
            Next::Ping(number) => out.push(format!("ping {}", u64::from_be_bytes(number))),
            Next::Pong(payload) => out.push(format!("pong {payload:?}")),
            Next::Close { frame, ours } => {
                out.push(format!("close {:?} {ours}", frame.map(|frame| u16::from(frame.code))))
            }
            Next::Idle { .. } => return out,
            Next::Ended => {
                out.push("ended".into());
                return out;
            }
        }
    }
}

fn pong(outbox: &Outbox<u32>, generation: u64, number: u64) {
    outbox.ponged(generation, &number.to_be_bytes());
}

#[test]
fn undelivered_entries_are_written_again_in_order_and_once() {
    let outbox = outbox();
    outbox.begin(1, vec!["info".into()]);
    outbox
        .push(Entry {
            now: vec!["a1".into(), "a2".into()],
            kept: Some("a".into()),
            tag: Some(1),
            ..Entry::default()
        })
        .unwrap();
    outbox.push(Entry::kept("b").tagged(2)).unwrap();
    outbox.push(Entry::now("beat")).unwrap();
    assert_eq!(written(&outbox, 1), ["info", "a1", "a2", "b", "beat", "ping 3"]);
    // The first ping is answered: only what comes after it is undelivered.
    pong(&outbox, 1, 3);
    outbox.push(Entry::kept("c").tagged(3)).unwrap();
    outbox.push(Entry::kept("d").tagged(4)).unwrap();
    assert_eq!(written(&outbox, 1), ["c", "d", "ping 6"]);
    outbox.push(Entry::kept("e")).unwrap();
    outbox.push(Entry::now("gone")).unwrap();
    outbox.end(1);
    outbox
        .push(Entry { now: vec!["f now".into()], kept: Some("f".into()), tag: Some(6), ..Entry::default() })
        .unwrap();
    outbox.push(Entry::now("gone too")).unwrap();
    assert_eq!(written(&outbox, 1), ["ended"]);

    let begin = outbox.begin(2, vec!["info".into()]);
    assert_eq!(begin, Begin { resent: vec![3, 4, 6], dropped: Drops { messages: 2, bytes: 12 } });
    outbox.push(Entry::kept("g")).unwrap();
    // A pong of the connection before means nothing here.
    pong(&outbox, 2, 6);
    pong(&outbox, 1, 6);
    assert_eq!(written(&outbox, 2), ["info", "c", "d", "e", "f", "g", "ping 12"]);
    pong(&outbox, 2, 12);
    assert_eq!(outbox.waiting(), (0, 0));
    assert_eq!(outbox.begin(3, vec![]), Begin { resent: vec![], dropped: Drops::default() });
    assert_eq!(written(&outbox, 3), Vec::<String>::new());
}

#[test]
fn a_message_that_was_written_twice_is_written_again_once() {
    let outbox = outbox();
    outbox.begin(1, vec![]);
    for (text, tag) in [("a", 1), ("b", 2), ("a", 1)] {
        outbox.push(Entry::kept(text).tagged(tag)).unwrap();
    }
    assert_eq!(written(&outbox, 1), ["a", "b", "a", "ping 4"]);
    outbox.push(Entry::kept("a").tagged(1)).unwrap();
    assert_eq!(outbox.begin(2, vec![]), Begin { resent: vec![1, 2], dropped: Drops::default() });
    assert_eq!(outbox.waiting(), (2, 2 + 2 * ENTRY_COST));
    assert_eq!(written(&outbox, 2), ["a", "b", "ping 7"]);
}

#[test]
fn an_entry_that_was_written_in_part_is_written_whole_on_the_next_connection() {
    let outbox = outbox();
    outbox.begin(1, vec![]);
    outbox
        .push(Entry { now: vec!["a1".into(), "a2".into()], kept: Some("a".into()), ..Entry::default() })
        .unwrap();
    assert_eq!(outbox.next(1), Next::Text("a1".into()));
    outbox.begin(2, vec![]);
    assert_eq!(written(&outbox, 2), ["a", "ping 2"]);
}

#[test]
fn one_delivery_ping_is_in_flight_and_a_pong_makes_room_for_the_next() {
    let outbox = outbox();
    outbox.begin(1, vec![]);
    let wakes = outbox.wakes(1).unwrap();
    outbox.push(Entry::kept("a")).unwrap();
    assert_eq!(written(&outbox, 1), ["a", "ping 2"]);
    outbox.push(Entry::kept("b")).unwrap();
    assert_eq!(written(&outbox, 1), ["b"]);
    // A heartbeat's ping is not held back.
    outbox.ping();
    assert_eq!(written(&outbox, 1), ["ping 4"]);
    outbox.push(Entry::kept("c")).unwrap();
    assert_eq!(written(&outbox, 1), ["c"]);
    while wakes.try_recv().is_ok() {}
    // Unknown, not eight bytes, never sent, of an entry: ignored.
    for payload in [&b"hello"[..], b"", &9u64.to_be_bytes(), &1u64.to_be_bytes()] {
        outbox.ponged(1, payload);
    }
    assert_eq!(outbox.waiting().0, 3);
    assert_eq!(outbox.rtt(), None);
    pong(&outbox, 1, 4);
    assert!(outbox.rtt().is_some());
    assert_eq!(outbox.waiting().0, 1);
    wakes.try_recv().expect("what is not delivered wants a ping, so the write thread is woken");
    assert_eq!(written(&outbox, 1), ["ping 6"]);
    pong(&outbox, 1, 6);
    assert_eq!(wakes.try_recv().ok(), None, "nothing is left to do");
}

struct Lines(Vec<String>);

impl Source for Lines {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        self.0.pop()
    }
}

#[test]
fn control_overtakes_data_and_data_overtakes_bulk() {
    let lines = vec!["d2".into(), "x".repeat(MAX_MESSAGE + 1), "d1".into(), "d0".into()];
    let bulk = 2 * (2 + ENTRY_COST);
    let outbox: Outbox<u32> = Outbox::new(Lines(lines), Bounds { bulk, ..Default::default() });
    outbox.push_bulk("b1", None).unwrap();
    outbox.begin(1, vec![]);
    outbox.push_bulk("b2", None).unwrap();
    assert_eq!(outbox.push_bulk("b3", None), Err(Refused::Full));
    outbox.push(Entry::now("c1")).unwrap();
    assert_eq!(outbox.next(1), Next::Text("c1".into()));
    assert_eq!(outbox.next(1), Next::Text("d0".into()));
    outbox.push(Entry::now("c2")).unwrap();
    outbox.answer_ping(1, Bytes::from_static(b"old"));
    outbox.answer_ping(1, Bytes::from_static(b"new"));
    assert_eq!(written(&outbox, 1), ["pong b\"new\"", "c2", "d1", "d2", "b1", "ping 2", "b2"]);
    assert_eq!(outbox.take_dropped(), Drops { messages: 1, bytes: MAX_MESSAGE as u64 + 1 });
    assert_eq!(outbox.push_bulk("b4", None), Err(Refused::Full), "written is not delivered");
    pong(&outbox, 1, 2);
    outbox.push_bulk("b4", Some(4)).unwrap();
    outbox.end(1);
    assert_eq!(outbox.begin(2, vec![]), Begin { resent: vec![4], dropped: Drops::default() });
    outbox.push(Entry::now("c3")).unwrap();
    assert_eq!(written(&outbox, 2), ["c3", "b2", "ping 5", "b4"], "what was not delivered, once");
    pong(&outbox, 2, 5);
    assert_eq!(written(&outbox, 2), ["ping 7"]);
    pong(&outbox, 2, 7);
    outbox.end(2);
    outbox.begin(3, vec![]);
    assert_eq!(written(&outbox, 3), Vec::<String>::new());
}

#[test]
fn a_full_control_lane_drops_the_oldest_that_may_go_and_counts_them() {
    let cost = |texts: usize| texts + ENTRY_COST;
    let bounds = Bounds { control: 3 * cost(10), control_hard: 5 * cost(10), bulk: 0 };
    let outbox: Outbox<u32> = Outbox::new(NoSource, bounds);
    let text = |n: usize| format!("{n:010}");
    let push = |n: usize, droppable: bool| outbox.push(Entry { droppable, ..Entry::kept(text(n)) });
    push(0, false).unwrap();
    push(1, true).unwrap();
    push(2, true).unwrap();
    // Over the bound: 1 goes, then 2, then nothing droppable is left but the newest.
    push(3, false).unwrap();
    assert_eq!(outbox.take_dropped(), Drops { messages: 1, bytes: 10 });
    push(4, false).unwrap();
    assert_eq!(push(5, true), Err(Refused::Full));
    assert_eq!(outbox.take_dropped(), Drops { messages: 2, bytes: 20 });
    push(6, false).unwrap();
    push(7, false).unwrap();
    assert_eq!(push(8, false), Err(Refused::Full), "over the hard bound");
    assert_eq!(outbox.take_dropped(), Drops { messages: 1, bytes: 10 });
    outbox.begin(1, vec![]);
    assert_eq!(outbox.next(1), Next::Text(text(0).into()));
    // What was written most probably arrived, so it makes room.
    push(9, false).unwrap();
    assert_eq!(outbox.take_dropped(), Drops { messages: 1, bytes: 10 });
    let rest: Vec<String> =
        written(&outbox, 1).into_iter().filter(|line| !line.starts_with("ping")).collect();
    assert_eq!(rest, [3, 4, 6, 7, 9].map(text));
    assert_eq!(outbox.waiting().0, 5);
}

#[test]
fn too_long_messages_are_refused_and_change_nothing() {
    let outbox = outbox();
    outbox.begin(1, vec![]);
    let long = "x".repeat(MAX_MESSAGE + 1);
    let refused = Refused::TooLong { bytes: MAX_MESSAGE + 1 };
    assert_eq!(outbox.push(Entry::now(long.clone())), Err(refused.clone()));
    let later = Entry { kept: Some(long.clone().into()), ..Entry::now("short") };
    assert_eq!(outbox.push(later), Err(refused.clone()));
    assert_eq!(outbox.push_bulk(long, None), Err(refused));
    assert_eq!(written(&outbox, 1), Vec::<String>::new());
    outbox.push(Entry::now("x".repeat(MAX_MESSAGE))).unwrap();
}

#[test]
fn close_comes_after_control_and_answers_come_before() {
    let outbox = outbox();
    outbox.begin(1, vec![]);
    outbox.push(Entry::kept("last")).unwrap();
    outbox.push_bulk("bulk", None).unwrap();
    outbox.close(1001, "going away", Duration::from_secs(60));
    assert_eq!(written(&outbox, 1), ["last", "bulk", "ping 3", "close Some(1001) true", "ended"]);

    outbox.begin(2, vec![]);
    outbox.close(1001, "no time", Duration::ZERO);
    assert_eq!(written(&outbox, 2), ["close Some(1001) true", "ended"]);

    outbox.begin(3, vec![]);
    outbox.answer_close(3, Some(close_frame(4001, "replaced")));
    assert_eq!(written(&outbox, 3), ["close Some(4001) false", "ended"]);
    outbox.answer_close(3, None);
    assert_eq!(written(&outbox, 3), ["ended"], "one Close is enough");
    outbox.begin(4, vec![]);
    assert_eq!(written(&outbox, 4), ["last", "ping 5", "bulk"]);
}

#[test]
fn reasons_are_cut_to_fit_a_control_frame() {
    let frame = close_frame(1000, &"ü".repeat(100));
    assert_eq!(frame.reason.as_str(), "ü".repeat(61));
}

#[test]
fn a_wake_up_is_never_lost_and_never_piles_up() {
    let outbox = outbox();
    outbox.wake();
    outbox.begin(1, vec![]);
    let wakes = outbox.wakes(1).unwrap();
    wakes.try_recv().expect("the preamble and what was kept have to be written");
    for _ in 0..3 {
        outbox.wake();
    }
    wakes.try_recv().unwrap();
    assert!(wakes.try_recv().is_err_and(|empty| empty.is_empty()));
    outbox.begin(2, vec![]);
    assert!(
        wakes.try_recv().is_err_and(|closed| closed.is_disconnected()),
        "the old write thread has to end"
    );
    assert!(outbox.wakes(1).is_none());
}

/// What can happen to an outbox.
#[derive(Debug, Clone)]
enum Step {
    Push { droppable: bool },
    Write { steps: usize },
    Answer,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|droppable| Step::Push { droppable }),
        4 => (1..6usize).prop_map(|steps| Step::Write { steps }),
        2 => Just(Step::Answer),
        1 => Just(Step::Cut),
    ]
}

proptest! {
    /// Whatever happens in whatever order: on each connection the messages come in order and at most once, each that
    /// did not come before an answered ping comes on a later connection, and the bytes add up.
    #[test]
    fn delivery_holds(steps in prop::collection::vec(step(), 1..80)) {
        let outbox = outbox();
        let mut generation = 1;
        let (mut pushed, mut confirmed) = (0u32, 0u32);
        let mut on_this: Vec<u32> = Vec::new();
        let mut pings: Vec<(u64, u32)> = Vec::new();
        outbox.begin(generation, vec![]);
        for step in steps.into_iter().chain([Step::Cut, Step::Write { steps: 1000 }]) {
            match step {
                Step::Push { droppable } => {
                    pushed += 1;
                    let entry = Entry { droppable, ..Entry::kept(pushed.to_string()) };
                    outbox.push(entry.tagged(pushed)).unwrap();
                }
                Step::Write { steps } => for _ in 0..steps {
                    match outbox.next(generation) {
                        Next::Text(text) => on_this.push(text.parse().unwrap()),
                        Next::Ping(number) => {
                            let number = u64::from_be_bytes(number);
                            pings.push((number, on_this.last().copied().unwrap_or(confirmed)));
                        }
                        Next::Idle { .. } => break,
                        other => panic!("{other:?}"),
                    }
                },
                Step::Answer => if let Some((number, upto)) = pings.pop() {
                    pings.clear();
                    pong(&outbox, generation, number);
                    confirmed = confirmed.max(upto);
                },
                Step::Cut => {
                    generation += 1;
                    let expected: Vec<u32> = (confirmed + 1..=pushed).collect();
                    prop_assert_eq!(outbox.begin(generation, vec![]).resent, expected);
                    on_this.clear();
                    pings.clear();
                }
            }
            prop_assert!(on_this.is_sorted_by(|a, b| a + 1 == *b), "{on_this:?}");
            prop_assert_eq!(outbox.waiting().0 as u32, pushed - confirmed);
        }
        prop_assert_eq!(on_this, (confirmed + 1..=pushed).collect::<Vec<_>>());
        let left: usize = (confirmed + 1..=pushed).map(|n| n.to_string().len() + ENTRY_COST).sum();
        prop_assert_eq!(outbox.waiting().1, left);
    }
}

/// Counts what the outbox tells a source.
#[derive(Clone, Default)]
struct Stream(std::sync::Arc<std::sync::Mutex<StreamState>>);

#[derive(Default)]
struct StreamState {
    waiting: usize,
    told: Vec<(&'static str, u64)>,
}

impl Source for Stream {
    fn next(&mut self, _max_bytes: usize) -> Option<String> {
        let mut state = self.0.lock().unwrap();
        state.waiting = state.waiting.checked_sub(1)?;
        Some("x".repeat(DELIVERY_STEP / 2))
    }

    fn pinged(&mut self, number: u64) {
        self.0.lock().unwrap().told.push(("pinged", number));
    }

    fn ponged(&mut self, number: u64) {
        self.0.lock().unwrap().told.push(("ponged", number));
    }
}

#[test]
fn a_source_learns_what_has_arrived() {
    let stream = Stream::default();
    let outbox: Outbox<u32> = Outbox::new(stream.clone(), Bounds::default());
    outbox.begin(1, vec![]);
    let write = |count: usize| {
        stream.0.lock().unwrap().waiting = count;
        let all = written(&outbox, 1);
        all.into_iter()
            .map(|text| if text.starts_with('x') { "data".into() } else { text })
            .collect::<Vec<_>>()
    };
    assert_eq!(write(1), ["data"], "a little is not worth a ping");
    assert_eq!(write(4), ["data", "ping 1", "data", "data", "data"], "one ping at a time");
    pong(&outbox, 1, 1);
    assert_eq!(write(0), ["ping 2"], "what was written meanwhile gets its own");
    pong(&outbox, 1, 2);
    pong(&outbox, 1, 1);
    assert_eq!(stream.0.lock().unwrap().told, [("pinged", 1), ("ponged", 1), ("pinged", 2), ("ponged", 2)]);
}

/// Entries with numbers, and what was told to be gone.
fn numbered() -> (Outbox<u32>, std::sync::Arc<Mutex<Vec<u64>>>) {
    let (outbox, gone) = (outbox(), std::sync::Arc::new(Mutex::new(Vec::new())));
    outbox.on_gone({
        let gone = gone.clone();
        move |numbers| gone.lock().unwrap().extend(numbers)
    });
    (outbox, gone)
}

fn event(boot: &str, seq: u64) -> Entry<u32> {
    let stamp = Some(Stamp { boot: boot.into(), seq });
    Entry { stamp, number: Some(seq), ..Entry::kept(format!("{boot} {seq}")).droppable() }
}

#[test]
fn a_peer_that_acknowledges_keeps_events_until_it_does_and_one_that_does_not_is_believed_its_pong() {
    let (outbox, gone) = numbered();
    outbox.begin(1, vec![]);
    outbox.push(event("a", 1)).unwrap();
    assert_eq!(written(&outbox, 1), ["a 1", "ping 2"]);
    pong(&outbox, 1, 2);
    assert_eq!(*gone.lock().unwrap(), [1]);

    for entry in
        [event("a", 2), Entry { number: Some(3), ..Entry::kept("answer") }, event("b", 4), event("b", 5)]
    {
        outbox.push(entry).unwrap();
    }
    // Nothing that was not written can have been taken in.
    outbox.acknowledged(1, "b", 5);
    assert_eq!(written(&outbox, 1), ["a 2", "answer", "b 4", "b 5", "ping 7"]);
    pong(&outbox, 1, 7);
    assert_eq!(*gone.lock().unwrap(), [1, 3], "an answer has no name that could be acknowledged");
    outbox.acknowledged(1, "c", 9);
    outbox.acknowledged(2, "b", 9);
    assert_eq!(gone.lock().unwrap().len(), 2);
    outbox.acknowledged(1, "b", 4);
    assert_eq!(*gone.lock().unwrap(), [1, 3, 2, 4]);
    outbox.begin(2, vec![]);
    assert_eq!(written(&outbox, 2), ["b 5", "ping 9"]);
}

#[test]
fn old_news_goes_before_anything_else() {
    let (small, gone) = numbered();
    let outbox = Outbox { bounds: Bounds { control: 8 * (ENTRY_COST + 3), ..Bounds::default() }, ..small };
    let about = |topic: &str, seq| Entry { topic: Some(topic.into()), ..event("a", seq) };
    outbox.push(Entry { number: Some(1), ..Entry::kept("old").droppable() }).unwrap();
    for seq in 2..=9 {
        outbox.push(about(if seq % 2 == 0 { "s" } else { "t" }, seq)).unwrap();
    }
    assert_eq!(*gone.lock().unwrap(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(outbox.take_dropped(), Drops { messages: 6, bytes: 18 });
    outbox.begin(1, vec![]);
    assert_eq!(written(&outbox, 1), ["old", "a 8", "a 9", "ping 4"]);
}
