//! A link whose packets are lost without a word, as behind a pulled cable: noticed in time, made again, and what could
//! not be said meanwhile is said then.

use std::time::{Duration, Instant};

use crate::support::*;
use serde_json::json;

#[test]
fn a_silent_panel_is_left_and_found_again() {
    let network = Network::new();
    let panel = FakePanel::start_at(network.here());
    // The Panel is not on loopback, and there is no TLS here.
    let insecure = [("ALLOW_INSECURE", "1")];
    let mut agent = AgentProcess::prepare_in(&network, &panel.url(), engine(), &insecure);
    agent.start_again();
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    let seen = link.messages().iter().filter_map(|message| message["seq"].as_u64()).max();

    network.lose_everything();
    let begun = Instant::now();
    // Something happens that the Panel has to hear of.
    engine().must("POST", &format!("/containers/{}/kill", agent.container("s")), None);
    agent.wait_log("s: Running -> Stopped");
    agent.wait_log_within("WARN  link: ", Duration::from_secs(50));
    let took = begun.elapsed();
    println!("noticed after {took:.1?}");
    assert!(took <= Duration::from_secs(45), "{took:?}");

    network.lose_nothing();
    let again = panel.accept_within(Duration::from_secs(40)).expect("the link is made again");
    let told = again.wait_event("server_status_changed", |data| data["currentStatus"] == "stopped");
    assert_eq!(told["seq"].as_u64(), seen.map(|seq| seq + 1), "{told}");
    assert_eq!(again.must("get_status", "s", json!({}))["status"], "stopped");
    assert_eq!(agent.terminate().code(), Some(0));
}
