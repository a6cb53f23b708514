//! A Panel that is hostile in every message, with the node's secret in its hand: one table of what it may try, in every
//! dialect, against a real Engine. Whatever it asks for, no foreign container, no path of the host, no namespace of the host
//! and no address but the Panel's own is touched.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::*;
use tempfile::TempDir;

/// What must stay as it is, and how it was before.
struct Bystanders {
    foreign: String,
    container: Value,
    dir: TempDir,
    files: BTreeMap<PathBuf, (u64, i64, u32, Vec<u8>)>,
}

impl Bystanders {
    fn new() -> Bystanders {
        let foreign = unique_name();
        engine().run_foreign(&foreign, json!({}));
        engine().wait_output(&foreign, "Demo server ready");
        let container = engine().inspect(&foreign).unwrap();
        // Beside the Agent's own directory, where a climb out of it leads.
        let dir = tempfile::Builder::new().prefix("host-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(dir.path().join("passwd"), "root:x:0:0").unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/shadow"), "root:*").unwrap();
        let files = tree(dir.path());
        Bystanders { foreign, container, dir, files }
    }

    #[track_caller]
    fn are_untouched(&self, after: &str) {
        assert_eq!(engine().inspect(&self.foreign).as_ref(), Some(&self.container), "{after}");
        assert_eq!(tree(self.dir.path()), self.files, "{after}");
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        engine().remove(&self.foreign);
    }
}

/// Every file with its inode, time of change, mode and content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        found.insert(
            path.clone(),
            (meta.ino(), meta.ctime_nsec(), meta.mode(), fs::read(&path).unwrap_or_default()),
        );
        if meta.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

/// Whether a container has nothing of the host but its own directory.
#[track_caller]
fn is_shut_in(agent: &AgentProcess, server: &str, asked: &Value) {
    let container = engine().inspect(&agent.container(server)).expect("it was made");
    let host = &container["HostConfig"];
    assert_eq!(host["Privileged"], false, "{asked}");
    for space in ["NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode"] {
        let mode = host[space].as_str().unwrap_or_default();
        assert!(!mode.contains("host") && !mode.contains("container:"), "{space} of {asked}");
    }
    for list in [
        "Binds",
        "Devices",
        "DeviceRequests",
        "DeviceCgroupRules",
        "VolumesFrom",
        "Links",
        "ExtraHosts",
        "Dns",
        "GroupAdd",
    ] {
        assert!(host[list].as_array().is_none_or(Vec::is_empty), "{list} of {asked}: {}", host[list]);
    }
    assert!(host["Sysctls"].as_object().is_none_or(|map| map.is_empty()), "{asked}");
    assert_eq!(
        (&host["CapDrop"], &host["SecurityOpt"]),
        (&json!(["ALL"]), &json!(["no-new-privileges"])),
        "{asked}"
    );
    let added = host["CapAdd"].as_array().unwrap();
    let known = ["CHOWN", "SETUID", "SETGID", "KILL", "NET_BIND_SERVICE", "DAC_OVERRIDE", "FOWNER"];
    assert!(added.iter().all(|name| known.contains(&name.as_str().unwrap())), "{asked}: {added:?}");
    assert_eq!(
        (&host["CgroupParent"], &host["RestartPolicy"]["Name"]),
        (&json!(""), &json!("no")),
        "{asked}"
    );
    assert!(host["PidsLimit"].as_u64().is_some_and(|pids| pids > 0), "{asked}");
    let mounts = container["Mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 1, "{asked}: {mounts:?}");
    assert_eq!(mounts[0]["Source"], json!(agent.data_dir.join("servers").join(server)), "{asked}");
    let labels = &container["Config"]["Labels"];
    assert_eq!(
        (&labels["longshore.node"], &labels["longshore.server"]),
        (&json!(agent.node_id), &json!(server))
    );
    assert_eq!(container["Name"], format!("/{}", agent.container(server)));
}

/// Specs that ask for too much in fields that there are: the field is named and nothing is made.
fn refused_specs(bystanders: &Bystanders) -> Vec<(&'static str, Value)> {
    let climb = format!("/data/../../..{}", bystanders.dir.path().display());
    let mut specs = Vec::new();
    let mut more = |field: &'static str, values: Vec<Value>| {
        specs.extend(values.into_iter().map(|value| (field, value)));
    };
    more(
        "image",
        [
            "../../etc",
            "-v/:/x",
            "a b",
            "a\nb",
            "http://x/y",
            "a#b",
            "a%2f..",
            "a?fromSrc=http://x",
            "/etc",
            "a/../b",
        ]
        .map(Value::from)
        .into(),
    );
    more("image", vec![json!(["a"]), json!({"a": 1}), json!(1)]);
    more(
        "mountPath",
        [
            "/",
            "//",
            "/etc",
            "/etc/cron.d",
            "/proc/1/root",
            "/sys/fs/cgroup",
            "/dev",
            "/run/docker.sock",
            "/data/../etc",
            "/data:/host",
            "data",
            "/a/./b",
            "/usr/bin",
            "/lib64",
            &climb,
        ]
        .map(Value::from)
        .into(),
    );
    more(
        "user",
        ["root", "0:0:0", "$(id)", "-1:0", "4294967295:0", "0", "docker:docker", "+0:0"]
            .map(Value::from)
            .into(),
    );
    more(
        "capabilities",
        [
            "SYS_ADMIN",
            "ALL",
            "cap_sys_admin",
            "CAP_NET_ADMIN",
            "SYS_PTRACE",
            "DAC_OVERRIDE,SYS_ADMIN",
            "SYS_MODULE",
            "NET_RAW",
            "MKNOD",
            "DAC_READ_SEARCH",
        ]
        .map(|name| json!([name]))
        .into(),
    );
    more("capabilities", vec![json!("ALL"), json!([["ALL"]])]);
    more("modDir", ["../../etc", "/etc", ".", "a/../../b", ""].map(Value::from).into());
    more(
        "environment",
        vec![
            json!({"A=B": "x"}),
            json!({"": "x"}),
            json!({"A\nB": "x"}),
            json!({"A": "x\u{0}y"}),
            json!({"A": ["x"]}),
            json!("A=1"),
        ],
    );
    more(
        "ports",
        vec![
            json!({"80": 0}),
            json!({"80": 65536}),
            json!({"80/sctp": 80}),
            json!({"-1": 80}),
            json!({"80": "22; reboot"}),
        ],
    );
    for ip in ["host", "127.0.0.1:22", "10.0.0.256", "/run/x.sock", "eth0"] {
        more("ports", vec![json!([{"internal": 1, "external": 1, "ip": ip}])]);
    }
    more(
        "limits",
        vec![
            json!({"pids": 0}),
            json!({"pids": -1}),
            json!({"memory": -1}),
            json!({"cpu": "9e99"}),
            json!({"disk": "-1g"}),
            json!({"io": 1_000_000}),
        ],
    );
    more(
        "startup",
        vec![
            json!("{{HOME}}"),
            json!("{{config.token}}"),
            json!("{{AGENT_SECRET}}"),
            json!("{{environment.PATH}}"),
            json!({"a": 1}),
            json!("a\u{0}b"),
        ],
    );
    more(
        "stop",
        vec![
            json!({"type": "signal", "value": "SIGSTOP"}),
            json!({"type": "signal", "value": "9; reboot"}),
            json!({"type": "exec", "value": "sh"}),
        ],
    );
    more("install", vec![json!({"image": "x", "script": "cat /host/etc/shadow"})]);
    more("configFiles", vec![json!({"../../etc/passwd": {"parser": "file", "find": {"root": "x"}}})]);
    specs
}

/// What a spec has no field for: it is not heard.
fn ignored_fields() -> Value {
    json!({
        "privileged": true, "Privileged": true, "networkMode": "host", "network": "host", "network_mode": "host",
        "pidMode": "host", "pid": "host", "ipcMode": "host", "ipc": "host", "utsMode": "host", "userns": "host",
        "volumes": ["/:/host"], "Volumes": {"/host": {}}, "binds": ["/etc:/x"], "Binds": ["/etc:/x"],
        "mounts": [{"type": "bind", "source": "/", "target": "/host"}], "volumesFrom": ["x"],
        "devices": ["/dev/kmsg"], "capAdd": ["ALL"], "CapAdd": ["ALL"], "capDrop": [], "securityOpt": ["seccomp=unconfined"],
        "cgroupParent": "/", "sysctls": {"kernel.core_pattern": "|/x"}, "runtime": "x", "hostname": "x", "dns": ["127.0.0.1"],
        "labels": {"longshore.node": "other", "longshore.server": "other"}, "containerName": "x", "extraHosts": ["a:127.0.0.1"],
        "logConfig": {"Type": "syslog", "Config": {"syslog-address": "tcp://127.0.0.1:1"}}, "oomScoreAdj": -1000,
        "HostConfig": {"Privileged": true, "Binds": ["/:/host"]}, "hostConfig": {"Privileged": true}, "restart_policy": "always",
        "policy": {"images": ["**"]}, "rules": {"capabilities": ["ALL"]}, "allowPrivate": true, "dataDir": "/", "serverUser": "0:0",
    })
}

#[test]
fn no_spec_gets_out_of_its_container() {
    let bystanders = Bystanders::new();
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "own", demo(json!({})));
    let own = engine().inspect(&agent.container("own"));
    for (field, value) in refused_specs(&bystanders) {
        let spec = demo(json!({field: value}));
        for payload in [spec.clone(), json!({"eggConfig": spec})] {
            let response = link.call("create_server", "bad", payload.clone());
            assert_eq!(code(&response), "INVALID_PAYLOAD", "{payload}: {response}");
            let message = response["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(field), "{field} is to be named: {message}");
        }
        let response = link.call("update_server", "own", json!({field: value}));
        assert_eq!(code(&response), "INVALID_PAYLOAD", "{field} {value}: {response}");
        let answer = agent.http(&json!({"action": "create_server", "data": {"serverId": "bad", field: value, "image": DEMO_IMAGE}}));
        if field != "image" {
            assert_eq!(answer["code"], "INVALID_PAYLOAD", "{field} {value}: {answer}");
        }
        if matches!(field, "image" | "startup" | "environment" | "limits" | "ports") {
            let id = unique_name();
            let mut data = demo(json!({field: value}));
            data["serverId"] = "bad".into();
            link.send(&json!({"type": "server_create", "data": data, "messageId": id}));
            let error = link.wait_json("error", |message| message["messageId"] == *id);
            assert_eq!(error["data"]["code"], "INVALID_PAYLOAD", "{field} {value}: {error}");
        }
    }
    // The last HTTP table row with an image of its own may have made one.
    let _ = link.call("delete_server", "bad", json!({"removeData": true}));
    assert_eq!(engine().state(&agent.container("bad")), "gone");
    assert!(!agent.data_dir.join("servers/bad").exists());
    assert_eq!(engine().inspect(&agent.container("own")), own);
    bystanders.are_untouched("specs that are refused");

    let mut spec = demo(json!({}));
    spec.as_object_mut().unwrap().extend(ignored_fields().as_object().unwrap().clone());
    link.must("create_server", "more", spec.clone());
    is_shut_in(&agent, "more", &spec);
    link.must("create_server", "egg", json!({"eggConfig": spec, "hostConfig": {"Privileged": true}}));
    is_shut_in(&agent, "egg", &spec);
    let update = link.call("update_server", "own", ignored_fields());
    assert_eq!(code(&update), "INVALID_PAYLOAD", "it names no field of the spec: {update}");
    let answer = agent.http(&json!({"action": "create_server", "data": {"serverId": "http", "image": DEMO_IMAGE, "HostConfig": {"Privileged": true}, "binds": ["/:/x"]}}));
    assert_eq!(answer["success"], true, "{answer}");
    is_shut_in(&agent, "http", &answer);
    let mut data = spec.clone();
    data["serverId"] = "legacy".into();
    link.legacy("server_create", data);
    link.wait_json("status", |m| m["type"] == "server_status" && m["data"]["serverId"] == "legacy");
    is_shut_in(&agent, "legacy", &spec);
    // All that may be asked for at once, as root in the container.
    let most = json!({"user": "0:0", "capabilities": ["DAC_OVERRIDE", "FOWNER"], "mountPath": "/data", "tty": true,
                      "limits": {"memory": 0, "swap": -1, "cpu": 0, "disk": 0, "pids": 1_000_000}});
    link.must("create_server", "most", demo(most.clone()));
    is_shut_in(&agent, "most", &most);
    link.must("start_server", "most", json!({}));
    is_shut_in(&agent, "most", &most);
    bystanders.are_untouched("specs that are taken");
}

#[test]
fn no_id_and_no_name_leads_to_what_is_not_its_own() {
    let bystanders = Bystanders::new();
    let (panel, other_panel) = (FakePanel::start(), FakePanel::start());
    let (agent, other) = (AgentProcess::start(&panel), AgentProcess::start(&other_panel));
    let (link, other_link) = (panel.accept(), other_panel.accept());
    link.must("create_server", "own", demo(json!({})));
    other_link.must("create_server", "theirs", demo(json!({})));
    let theirs = engine().inspect(&other.container("theirs"));
    let foreign = bystanders.foreign.as_str();
    let id = bystanders.container["Id"].as_str().unwrap();

    let climbs = [
        "../own",
        "own/../x",
        ".",
        "..",
        "-v",
        "a/b",
        "a\u{0}b",
        "a b",
        "%2e%2e",
        "own?force=1",
        "own#",
        "/etc",
        "ä",
    ];
    let actions = [
        "start_server",
        "stop_server",
        "kill_server",
        "delete_server",
        "update_server",
        "get_status",
        "create_server",
        "list_files",
        "list_mods",
        "console:history",
    ];
    for server in climbs.into_iter().chain([&*"x".repeat(65)]) {
        for action in actions {
            let response = link.call(action, server, demo(json!({"removeData": true})));
            assert_eq!(code(&response), "INVALID_PAYLOAD", "{action} of {server:?}: {response}");
        }
    }
    for server in [foreign, id, &id[..12], &other.container("theirs"), "theirs"] {
        for action in actions.into_iter().filter(|action| *action != "create_server") {
            // A full id is longer than a server's may be.
            let response =
                link.call(action, server, json!({"removeData": true, "timeout": 0, "limits": {"pids": 9}}));
            assert!(
                matches!(code(&response), "SERVER_NOT_FOUND" | "INVALID_PAYLOAD"),
                "{action} of {server}: {response}"
            );
        }
    }
    let own = agent.container("own");
    let names = [
        foreign.to_owned(),
        id.to_owned(),
        id[..12].to_owned(),
        id[..1].to_owned(),
        format!("/{foreign}"),
        format!("../containers/{foreign}"),
        format!("{own}/../{foreign}"),
        format!("{foreign}?force=1"),
        format!("{foreign}/kill?signal=KILL&"),
        format!("{own}\u{0}{foreign}"),
        other.container("theirs"),
        "*".to_owned(),
        String::new(),
    ];
    for container in &names {
        for action in ["docker.start", "docker.stop", "docker.remove", "docker.inspect"] {
            let response =
                link.call(action, "", json!({"containerId": container, "timeout": 0, "removeData": true}));
            assert!(
                matches!(code(&response), "CONTAINER_NOT_FOUND" | "INVALID_PAYLOAD"),
                "{action} of {container:?}: {response}"
            );
            let answer = agent.http(&json!({"action": action, "data": {"containerId": container}}));
            assert_eq!(answer["success"], false, "{action} of {container:?}: {answer}");
        }
    }
    for action in [
        "exec",
        "docker.exec",
        "docker.run",
        "docker.create",
        "docker.kill",
        "docker.pull",
        "docker.build",
        "system.exec",
        "shell",
        "policy",
        "reload",
        "reset_epoch",
        "update_agent",
        "config",
        "set_config",
        "join",
    ] {
        let response = link.call(action, "own", json!({"command": "id", "image": "x", "epoch": 0}));
        assert_eq!(code(&response), "UNKNOWN_ACTION", "{action}: {response}");
    }
    assert_eq!(engine().inspect(&other.container("theirs")), theirs);
    assert_eq!(link.must("list_servers", "", json!({}))["count"], 1);
    bystanders.are_untouched("ids and names");
}

#[test]
fn no_path_leads_out_of_the_servers_directory() {
    let bystanders = Bystanders::new();
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "own", demo(json!({})));
    link.must("create_server", "other", demo(json!({})));
    link.must("write_file", "own", json!({"path": "file", "content": "x"}));
    link.must("write_file", "other", json!({"path": "theirs", "content": "theirs"}));
    let host = bystanders.dir.path();
    let dir = agent.data_dir.join("servers/own");
    // As the server itself could make them.
    std::os::unix::fs::symlink(host, dir.join("out")).unwrap();
    std::os::unix::fs::symlink("/", dir.join("root")).unwrap();
    std::os::unix::fs::symlink("../other", dir.join("beside")).unwrap();
    std::os::unix::fs::symlink("/proc/self/cwd", dir.join("proc")).unwrap();
    let state = || (tree(&agent.data_dir.join("servers/other")), tree(&agent.data_dir.join("state")));
    let before = state();
    let climb = format!("{}{}", "../".repeat(20), host.display());
    let paths = [
        "..",
        "../other/theirs",
        "../../state",
        "a/../../other",
        "out/passwd",
        "out/etc",
        "out",
        "root/etc/passwd",
        "beside/theirs",
        "proc/environ",
        "./../other",
        "file/..",
        "file\u{0}",
        &climb,
    ];
    for path in paths {
        let archive = format!("{path}.zip");
        for (action, payload) in [
            ("read_file", json!({"path": path})),
            ("list_files", json!({"path": path})),
            ("write_file", json!({"path": format!("{path}/new"), "content": "x"})),
            ("upload_file", json!({"path": format!("{path}/new"), "content": "x", "encoding": "utf8"})),
            ("download_file", json!({"path": path})),
            ("create_directory", json!({"path": format!("{path}/made")})),
            ("delete_file", json!({"path": format!("{path}/passwd")})),
            ("rename_file", json!({"oldPath": "file", "newPath": format!("{path}/new")})),
            ("move_file", json!({"sourcePath": path, "destinationPath": "moved-in/x"})),
            ("copy_file", json!({"sourcePath": path, "destinationPath": "copied-in/x"})),
            ("copy_file", json!({"sourcePath": "file", "destinationPath": format!("{path}/new")})),
            ("search_files", json!({"path": path, "query": "a"})),
            ("set_file_permissions", json!({"path": format!("{path}/passwd"), "mode": "777"})),
            ("create_archive", json!({"files": [path], "archivePath": "a.zip", "format": "zip"})),
            (
                "create_archive",
                json!({"files": ["file"], "archivePath": format!("{path}/a.zip"), "format": "zip"}),
            ),
            ("extract_archive", json!({"archivePath": archive, "extractPath": path})),
        ] {
            let response = link.call(action, "own", payload.clone());
            // A link as such may be moved and packed, which leads nowhere, and a search just does not follow it.
            let harmless = match action {
                "move_file" | "copy_file" | "create_archive" => true,
                "search_files" => response["data"]["files"] == json!([]),
                _ => false,
            };
            assert!(response["success"] == false || harmless, "{action} {payload}: {response}");
            assert!(!response.to_string().contains("root:x:0:0"), "{action} {payload}: {response}");
        }
        bystanders.are_untouched(path);
        assert_eq!(state(), before, "{path}");
    }
    // An absolute path is one below the server's directory.
    link.must("write_file", "own", json!({"path": "/etc/longshore/policy.toml", "content": "x"}));
    assert!(
        dir.join("etc/longshore/policy.toml").exists() && !Path::new("/etc/longshore/policy.toml").exists()
    );
    link.must("delete_server", "own", json!({"removeData": true}));
    bystanders.are_untouched("a delete with the links in it");
    assert_eq!(state().0, before.0);
}

#[test]
fn no_address_of_this_machine_or_its_network_is_dialled() {
    let panel = FakePanel::start();
    let agent = AgentProcess::start(&panel);
    let link = panel.accept();
    link.must("create_server", "own", demo(json!({})));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let hosts = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "224.0.0.1",
        "255.255.255.255",
        "user@127.0.0.1",
        "127.0.0.1%00.example.com",
    ];
    let urls = hosts
        .iter()
        .flat_map(|host| [format!("https://{host}:{port}/m.jar"), format!("http://{host}:{port}/m.jar")]);
    let others = [
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "gopher://127.0.0.1/",
        "ftp://127.0.0.1/x",
        "data:text/plain,x",
        "//127.0.0.1/x",
        "https:///etc/passwd",
        "https://",
        "javascript:1",
        "http+unix://%2frun%2fdocker.sock/containers/json",
        "/etc/passwd",
    ];
    for url in urls.chain(others.map(str::to_owned)) {
        let response = link.call("install_mod", "own", json!({"modId": "m", "modUrl": url}));
        assert!(
            matches!(code(&response), "INVALID_PAYLOAD" | "DOWNLOAD_FAILED" | "PERMISSION_DENIED"),
            "{url}: {response}"
        );
        assert!(!response.to_string().contains("127.0.0.1:"), "no address is told: {response}");
    }
    let dialled = listener.accept().map(|(_, from)| from).map_err(|error| error.kind());
    assert_eq!(dialled, Err(ErrorKind::WouldBlock), "somebody has come");
    assert_eq!(link.must("list_mods", "own", json!({}))["count"], 0);
    drop(agent);
}
