//! A network between a Panel and an Agent that can lose every packet: the Agent runs in a network namespace of its own.
//!
//! Needs root, `ip` and `iptables`; what is missing is installed like the Engine, or the test fails naming it.

use std::net::Ipv4Addr;
use std::process::Command;

use super::engine::script;

/// One veth pair, one end here and one in the namespace. Dropping it removes both.
pub struct Network {
    name: String,
    number: u8,
}

impl Network {
    pub fn new() -> Self {
        script("engine.sh", &["need", "ip:iproute2", "iptables:iptables"], None);
        // Making the namespace is what claims the number, so two tests at once cannot take the same.
        let claimed = (0..=255).find(|number| ip(&["netns", "add", &format!("longshore-test{number}")]));
        let number: u8 = claimed.expect("a network namespace can be made, which takes root");
        let network = Network { name: format!("longshore-test{number}"), number };
        let (here, there) = (format!("lstest{number}"), format!("lstest{number}n"));
        let must = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            assert!(ip(&arguments), "ip {} failed", arguments.join(" "));
        };
        must(&format!("link add {here} type veth peer name {there} netns {}", network.name));
        must(&format!("address add {}/30 dev {here}", network.here()));
        must(&format!("link set {here} up"));
        must(&format!("-n {} address add {}/30 dev {there}", network.name, network.there()));
        must(&format!("-n {} link set {there} up", network.name));
        must(&format!("-n {} link set lo up", network.name));
        network
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of this side, where the Panel listens.
    pub fn here(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.number, 1)
    }

    /// The address of the Agent's side.
    pub fn there(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.number, 2)
    }

    /// Runs a program inside, where the same Unix sockets and files are seen. The child has the program's own pid.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// From now on nothing that is sent arrives on the Agent's side, and nobody is told.
    pub fn lose_everything(&self) {
        assert!(self.firewall("-A"), "a firewall rule can be made");
    }

    /// Ends that.
    pub fn lose_nothing(&self) {
        assert!(self.firewall("-D"), "the rule is there");
    }

    /// Dropped before the Agent's socket sees it: its kernel gets no data, no acknowledgement and no reset.
    fn firewall(&self, change: &str) -> bool {
        let rule = ["-w", "-t", "raw", change, "PREROUTING", "-j", "DROP"];
        self.command("iptables").args(rule).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The pair goes with the end that is in the namespace, and sockets inside must not hold it back.
        ip(&["link", "delete", &format!("lstest{}", self.number)]);
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
