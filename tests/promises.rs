//! What is promised, and which test holds it: the README's table of security, and here what users of systems like this one
//! suffer from most. Each test that is named is there; a promise whose test was renamed away would be an empty one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A complaint that is common elsewhere, and what holds that it has no ground here.
const COMPLAINTS: &[(&str, &[&str])] = &[
    // Servers.
    (
        "memory grows with output, messages and dead connections",
        &[
            "a_flood_holds_up_nobody_and_what_it_costs_is_told_to_the_line",
            "memory_stays_bounded_in_a_storm",
            "memory_stays_bounded_whatever_comes",
            "is_bounded_in_number_and_bytes",
        ],
    ),
    (
        "another power action is under way, for ever; stop and kill are not heard",
        &[
            "a_kill_does_not_wait_behind_a_stop",
            "pulls_that_hang_delay_nobody",
            "a_hundred_servers_start_and_stop_at_once",
        ],
    ),
    (
        "a stream of Docker's that ends is taken for a crash, and everything starts again",
        &["broken_connections_bring_no_false_word", "no_failure_of_the_engine_makes_a_false_word"],
    ),
    (
        "a restart or a hang of Docker breaks the node",
        &[
            "what_ran_runs_again_whatever_went_down",
            "an_engine_that_hangs_holds_nobody_up",
            "an_engine_that_was_restarted_between_two_calls_is_used_as_if_nothing_was",
            "an_engine_that_goes_down_in_a_loop_brings_no_false_word",
        ],
    ),
    (
        "servers are not stopped in their own way",
        &["a_server_is_stopped_by_its_own_command", "both_ways_to_stop"],
    ),
    (
        "the disk limit can be got around",
        &[
            "cve_2026_61617_every_way_of_growing_heeds_the_disk_limit",
            "the_disk_limit_holds_for_many_at_once",
        ],
    ),
    (
        "measuring the disk holds up the console",
        &["the_thread_walks_what_it_is_told_and_then_sleeps", "says_when_it_stopped_at_a_depth"],
    ),
    (
        "while the Panel is away a node does not come up",
        &[
            "ready_needs_neither_panel_nor_engine_and_the_stop_is_told",
            "what_ran_runs_again_whatever_went_down",
        ],
    ),
    (
        "the console stops, drops or stays empty",
        &[
            "restarts_of_the_server_lose_and_repeat_nothing",
            "a_crash_of_the_agent_leaves_no_hole",
            "a_gap_is_told_before_what_follows_it",
        ],
    ),
    (
        "a crash goes on for ever, or is given up too early",
        &["backs_off_then_gives_up_and_forgets_old_crashes"],
    ),
    (
        "want of memory is told as a crash",
        &["a_server_that_took_too_much_memory_is_told_from_one_that_crashed"],
    ),
    // The link.
    (
        "a dead link is never noticed",
        &[
            "a_peer_that_vanishes_is_noticed",
            "silence_ends_a_connection_and_any_byte_keeps_it",
            "a_silent_panel_is_left_and_found_again",
        ],
    ),
    (
        "it hangs after a late error, logs once and is silent",
        &[
            "each_phase_ends_in_time_and_is_named",
            "the_whole_has_a_bound_too",
            "the_watchdog_is_fed_without_a_panel_and_not_by_a_loop_that_hangs",
        ],
    ),
    ("long work kills the link", &["pulls_that_hang_delay_nobody", "a_slow_command_is_answered_later"]),
    ("an old session keeps the new one out", &["the_newest_connection_of_a_node_wins"]),
    ("everybody dials again at once", &["a_refusal_decides_when_the_next_dial_comes_and_shows_in_health"]),
    (
        "proxies",
        &[
            "a_tunnel_is_asked_for_and_used",
            "a_proxy_that_hangs_or_floods_is_left_in_time",
            "refusals_are_told_with_what_the_server_said",
        ],
    ),
    (
        "a wrong clock",
        &["a_wrong_clock_still_gives_a_timestamp", "a_clock_that_was_set_back_does_not_silence_a_stream"],
    ),
    ("IPv6 without a route", &["the_other_family_is_tried_when_one_does_not_answer"]),
    (
        "what was asked is done twice or lost on the way",
        &[
            "each_receipt_is_answered_once_and_the_command_is_run_once",
            "a_link_that_is_cut_again_and_again_loses_nothing_and_repeats_nothing",
            "done_and_not_on_disk_its_true_outcome_is_found",
            "on_disk_and_not_done_nothing_is_done_for_it_any_more",
        ],
    ),
    // The Engine.
    (
        "the Engine's least or newest API version",
        &[
            "each_version_from_1_40_up_is_spoken_to_in_its_own_and_no_newer_than_is_known",
            "a_version_that_is_refused_is_agreed_on_anew",
        ],
    ),
    (
        "figures are late, wrong or cost too much",
        &[
            "figures_under_a_steady_load_are_those_of_docker_stats",
            "four_at_most_are_asked_at_once",
            "a_hundred_servers_cost_the_agent_next_to_nothing_and_the_engine_nothing",
        ],
    ),
    (
        "zeros of other engines make nonsense of the CPU",
        &["zeros_without_a_time_are_no_sample", "percent_by_the_machines_time_or_by_the_clock"],
    ),
    ("an attach that nobody reads stops the container", &["input_that_nobody_reads_is_bounded_in_time"]),
    (
        "rootless and other engines are not found",
        &["probe_prefers_a_listener_over_a_dead_socket_over_nothing"],
    ),
    ("somebody stops a server by hand and it comes back", &["an_operator_is_understood_and_obeyed"]),
    // Running it.
    (
        "nobody can tell what is wrong",
        &[
            "everything_is_told_in_order_when_all_is_well",
            "faults_of_the_engine",
            "faults_on_the_way_to_the_panel",
        ],
    ),
    (
        "only one init system",
        &[
            "under_sysv_with_start_stop_daemon",
            "install_sh_runs_in_the_smallest_shells_and_does_nothing_when_dry",
        ],
    ),
    ("a second signal is not heard", &["a_second_signal_ends_it_at_once"]),
];

#[test]
fn every_promise_has_its_tests() {
    let tests = tests();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("\n## Security\n").nth(1).expect("the README has the section");
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 15, "the table is read wrongly");
    for row in rows {
        // Paths and values have another look: a test's name is one word of small letters.
        let names = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        let names: Vec<&str> = names.collect();
        assert!(!names.is_empty(), "a promise without a test: {row}");
        for name in names {
            assert!(tests.contains(name), "there is no test {name}, in {row}");
        }
    }
    for (complaint, names) in COMPLAINTS {
        for name in *names {
            assert!(tests.contains(*name), "there is no test {name}, for: {complaint}");
        }
    }
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                for part in source.split("#[test]\n").skip(1) {
                    let name = part.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
                    found.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    ["src", "tests"].iter().for_each(|dir| walk(&root.join(dir), &mut found));
    assert!(found.len() > 300, "the tests are read wrongly");
    found
}
