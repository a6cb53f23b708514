//! Where a download may lead: the Agent runs in a network of its own with a public address, a private one, and a name
//! server that lies.
//!
//! GHSA-6rg3-8h8x-5xfv, CVE-2024-34068: a Panel's user had the node fetch from networks that only the node reaches,
//! directly, by redirect, and by a name that answers differently the second time.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

/// Anybody's, as far as a registry knows; no packet leaves the test's own network.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Runs inside the network: sockets that are made there stay there.
fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = fs::File::open(format!("/run/netns/{name}")).unwrap();
    let enter = move || {
        use std::os::fd::AsFd;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::spawn(enter).join().unwrap()
}

/// A name server that answers each question for an IPv4 address with what `answer` says.
fn name_server(socket: UdpSocket, answer: impl Fn(&str) -> Vec<Ipv4Addr> + Send + 'static) {
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let (mut at, mut name) = (12, String::new());
            while packet[at] != 0 {
                let part = &packet[at + 1..at + 1 + usize::from(packet[at])];
                name += &format!("{}.", String::from_utf8_lossy(part));
                at += 1 + part.len();
            }
            let is_v4 = packet[at + 2] == 1;
            let question = &packet[12..at + 5];
            let found = if is_v4 { answer(name.trim_end_matches('.')) } else { Vec::new() };
            // Header: the same id; an authoritative answer; one question.
            let mut reply = vec![packet[0], packet[1], 0x85, 0x80, 0, 1, 0, found.len() as u8, 0, 0, 0, 0];
            reply.extend(question);
            for address in found {
                // A pointer to the name, type A, class IN, no time to live, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(address.octets());
            }
            assert!(length > 12 && socket.send_to(&reply, from).is_ok());
        }
    });
}

#[test]
fn ghsa_6rg3_8h8x_5xfv_and_cve_2024_34068_nothing_leads_to_a_network_that_is_not_public() {
    let network = Network::new();
    let name = network.name().to_owned();
    for address in [PUBLIC, PRIVATE] {
        let added = std::process::Command::new("ip")
            .args(["-n", &name, "address", "add", &format!("{address}/32"), "dev", "lo"])
            .status();
        assert!(added.unwrap().success());
    }
    let etc = Path::new("/etc/netns").join(&name);
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n").unwrap();
    let remove = RemoveOnDrop(etc);

    // What nobody may reach: a listener on every address of the node, on the port that the lies lead to.
    let secret = inside(&name, || TcpListener::bind("0.0.0.0:0").unwrap());
    let port = secret.local_addr().unwrap().port();
    let secret = DownloadServer::start(secret, false, |_| Served::ok("metadata with secrets"));
    let public = inside(&name, || TcpListener::bind((PUBLIC, 0)).unwrap());
    let public_port = public.local_addr().unwrap().port();
    let targets = [
        format!("http://127.0.0.1:{port}/loopback"),
        format!("http://{PRIVATE}:{port}/private"),
        format!("http://localhost:{port}/name"),
        format!("http://private.test:{port}/private-name"),
        format!("http://mixed.test:{port}/mixed"),
        format!("http://169.254.169.254:{port}/metadata"),
        format!("http://0.0.0.0:{port}/unspecified"),
        format!("http://[::1]:{port}/v6"),
        format!("http://[::ffff:127.0.0.1]:{port}/mapped"),
        format!("http://[64:ff9b::7f00:1]:{port}/nat64"),
        format!("http://2130706433:{port}/decimal"),
        format!("http://0x7f.1:{port}/hexadecimal"),
        format!("http://127.1:{port}/short"),
    ];
    let locations = targets.clone();
    let open = DownloadServer::start(public, false, move |path| match path.strip_prefix("/to/") {
        Some(number) => Served::redirect(&locations[number.parse::<usize>().unwrap()]),
        None => Served::ok("public"),
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let socket = inside(&name, || UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 53))).unwrap());
    let count = asked.clone();
    name_server(socket, move |name| match name {
        "public.test" => vec![PUBLIC],
        "private.test" => vec![PRIVATE],
        "mixed.test" => vec![PUBLIC, PRIVATE],
        // Public the first time, and from then on not.
        "rebind.test" if count.fetch_add(1, Ordering::SeqCst) == 0 => vec![PUBLIC],
        "rebind.test" => vec![Ipv4Addr::LOCALHOST],
        _ => Vec::new(),
    });

    let panel = FakePanel::start_at(network.here());
    let environment = [("ALLOW_INSECURE", "1"), ("ALLOW_INSECURE_DOWNLOADS", "1")];
    let mut agent = AgentProcess::prepare_in(&network, &panel.url(), engine(), &environment);
    agent.start_again();
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    let install = |url: &str| link.call("install_mod", "s", json!({"modId": url, "modUrl": url}));

    let found = install(&format!("http://public.test:{public_port}/good.jar"));
    assert_eq!(found["data"]["mod"]["files"], json!(["mods/good.jar"]), "{found}");
    let by_redirect = (0..targets.len()).map(|n| format!("http://public.test:{public_port}/to/{n}"));
    for url in targets.iter().cloned().chain(by_redirect) {
        let response = install(&url);
        assert_eq!(code(&response), "DOWNLOAD_FAILED", "{url}: {response}");
        let message = response["error"]["message"].as_str().unwrap();
        assert!(!message.contains("10.99.0.1") && !message.contains("127.0.0.1"), "{message}");
    }
    assert_eq!(secret.requests(), Vec::<String>::new());

    // The address that was checked is the one that was dialled, whatever the name says by then.
    let found = install(&format!("http://rebind.test:{public_port}/rebound.jar"));
    assert_eq!(found["success"], true, "{found}");
    assert!(asked.load(Ordering::SeqCst) >= 1);
    let response = install(&format!("http://rebind.test:{port}/again.jar"));
    assert_eq!(code(&response), "DOWNLOAD_FAILED", "{response}");
    assert_eq!(secret.requests(), Vec::<String>::new());
    assert!(open.requests().contains(&"/rebound.jar".to_owned()));
    drop(remove);
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
