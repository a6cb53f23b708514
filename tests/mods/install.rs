//! Installing, replacing, listing and uninstalling.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A zip with files, as a mod comes.
fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for (name, content) in files {
        let (mut file, config) = archive.new_file(*name).start().unwrap();
        let mut writer = config.wrap(&mut file);
        writer.write_all(content.as_bytes()).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        file.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

fn server() -> DownloadServer {
    DownloadServer::start(local(), true, |path| match path {
        "/one-1.0.jar" => Served::ok("first"),
        "/one-2.0.jar" => Served::ok("second, longer"),
        "/named" => Served::ok("named").with("Content-Disposition", "attachment; filename=\"real name.jar\""),
        "/evil" => Served::ok("x").with("Content-Disposition", "attachment; filename=\"../../../evil.jar\""),
        "/pack.zip" => {
            Served::ok(zip(&[("core.jar", "core"), ("conf/a.yml", "a"), ("conf/deep/b.yml", "b")]))
        }
        "/pack-2.zip" => Served::ok(zip(&[("core.jar", "core 2"), ("conf/c.yml", "c")])),
        "/hostile.zip" => Served::ok(
            zip(&[("good.jar", "x"), ("d/e", "y")])
                .iter()
                .map(|&b| if b == b'd' { b'/' } else { b })
                .collect::<Vec<_>>(),
        ),
        "/moved.jar" => Served::redirect("/hop/2"),
        "/hop/2" => Served::redirect("../hop/3"),
        "/hop/3" => Served::redirect("/hop/4"),
        "/hop/4" => Served::redirect("/hop/5"),
        "/hop/5" => Served::redirect("/one-1.0.jar"),
        "/far.jar" => Served::redirect("/moved.jar"),
        "/gone.jar" => Served { status: 404, ..Served::default() },
        "/cut.jar" => Served { missing: 10, ..Served::ok("half") },
        "/hangs.jar" => Served { missing: 10, hangs: true, ..Served::ok("half") },
        "/large.jar" => Served { missing: (1 << 30) + 1, ..Served::ok("") },
        _ => Served { status: 404, ..Served::default() },
    })
}

#[test]
fn a_mod_comes_is_replaced_and_goes() {
    let (server, node) = (server(), Node::new(json!({}), &[]));
    let install = |id: &str, path: &str, more: Value| {
        let mut payload = json!({"modId": id, "modUrl": server.url(path)});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node.link.must("install_mod", "s", payload)
    };
    let first =
        install("one", "/one-1.0.jar", json!({"name": "One", "version": "1.0", "sha256": sha256(b"first")}));
    let view = json!({"id": "one", "name": "One", "version": "1.0", "files": ["mods/one-1.0.jar"], "changed": [], "missing": []});
    assert_eq!(first, json!({"mod": view}));
    let path = node.dir().join("mods/one-1.0.jar");
    assert_eq!(fs::read(&path).unwrap(), b"first");
    let about = fs::metadata(&path).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o7777), (1000, 0o644));
    assert_eq!(fs::metadata(node.dir().join("mods")).unwrap().uid(), 1000);

    let second = install("one", "/one-2.0.jar", json!({"version": "2.0"}));
    assert_eq!(second["mod"]["files"], json!(["mods/one-2.0.jar"]));
    assert_eq!(files(&node.dir()), ["mods/one-2.0.jar"], "the older version is gone");

    install("named", "/named", json!({}));
    install("moved", "/moved.jar", json!({}));
    let pack = install("pack", "/pack.zip", json!({"unpack": true}));
    assert_eq!(pack["mod"]["files"], json!(["mods/conf/a.yml", "mods/conf/deep/b.yml", "mods/core.jar"]));
    assert_eq!(
        files(&node.dir()),
        [
            "mods/conf/a.yml",
            "mods/conf/deep/b.yml",
            "mods/core.jar",
            "mods/moved.jar",
            "mods/one-2.0.jar",
            "mods/real name.jar"
        ]
    );
    // The server's own process changes some, and puts its own file between them.
    fs::write(node.dir().join("mods/conf/a.yml"), "b").unwrap();
    fs::remove_file(node.dir().join("mods/core.jar")).unwrap();
    fs::write(node.dir().join("mods/conf/own.yml"), "own").unwrap();
    // Touched, but the same.
    fs::write(node.dir().join("mods/one-2.0.jar"), "second, longer").unwrap();
    let list = node.link.must("list_mods", "s", json!({}));
    assert_eq!(list["count"], 4);
    let found = |id: &str| list["mods"].as_array().unwrap().iter().find(|m| m["id"] == id).unwrap().clone();
    assert_eq!(
        (&found("pack")["changed"], &found("pack")["missing"]),
        (&json!(["mods/conf/a.yml"]), &json!(["mods/core.jar"]))
    );
    assert_eq!((&found("one")["changed"], &found("one")["missing"]), (&json!([]), &json!([])));

    let pack = install("pack", "/pack-2.zip", json!({"unpack": true}));
    assert_eq!(pack["mod"]["files"], json!(["mods/conf/c.yml", "mods/core.jar"]));
    assert!(!node.dir().join("mods/conf/deep").exists() && node.dir().join("mods/conf/own.yml").exists());
    let left = node.link.must("uninstall_mod", "s", json!({"modId": "pack"}));
    assert_eq!((&left["count"], &left["removed"]), (&json!(3), &json!(2)));
    assert_eq!(
        files(&node.dir()),
        ["mods/conf/own.yml", "mods/moved.jar", "mods/one-2.0.jar", "mods/real name.jar"]
    );
    let again = node.link.call("uninstall_mod", "s", json!({"modId": "pack"}));
    assert_eq!(code(&again), "FILE_NOT_FOUND", "{again}");
}

#[test]
fn what_is_known_survives_a_crash_and_goes_with_the_data_alone() {
    let (server, mut node) = (server(), Node::new(json!({"modDir": "server/plugins"}), &[]));
    node.link.must("install_mod", "s", json!({"name": "one", "downloadUrl": server.url("/one-1.0.jar")}));
    node.agent.kill();
    node.agent.start_again();
    node.link = node.panel.accept();
    let list = node.link.must("list_mods", "s", json!({}));
    assert_eq!(list["mods"][0]["files"], json!(["server/plugins/one-1.0.jar"]), "{list}");
    node.link.must("delete_server", "s", json!({}));
    node.link.must("create_server", "s", demo(json!({"keepData": true, "modDir": "server/plugins"})));
    assert_eq!(node.link.must("list_mods", "s", json!({}))["count"], 1);
    node.link.must("delete_server", "s", json!({"removeData": true}));
    assert!(!node.record().exists() && !node.dir().exists());
}

#[test]
fn what_fails_installs_nothing_and_says_why() {
    let (server, node) = (server(), Node::new(json!({}), &[]));
    let plain = DownloadServer::start(local(), false, |_| Served::ok("plain"));
    let stranger = DownloadServer::start(local(), false, |_| Served::redirect("ftp://localhost/x"));
    fs::create_dir(node.dir().join("mods")).unwrap();
    fs::write(node.dir().join("mods/one-2.0.jar"), "by hand").unwrap();
    node.link.must("install_mod", "s", json!({"modId": "one", "modUrl": server.url("/one-1.0.jar")}));
    let before = (files(&node.dir()), fs::read(node.record()).unwrap());
    let wrong = json!({"modId": "x", "modUrl": server.url("/one-1.0.jar"), "sha256": sha256(b"second")});
    let of = |path: &str| json!({"modId": "x", "modUrl": server.url(path)});
    let unpacked = |path: &str| json!({"modId": "x", "modUrl": server.url(path), "unpack": true});
    for (payload, expected, says) in [
        (wrong, "CHECKSUM_MISMATCH", "SHA-256"),
        (of("/gone.jar"), "DOWNLOAD_FAILED", "404"),
        (of("/cut.jar"), "DOWNLOAD_FAILED", "complete"),
        (of("/far.jar"), "DOWNLOAD_FAILED", "redirects"),
        (of("/large.jar"), "TOO_LARGE", "1 GiB"),
        (of("/"), "DOWNLOAD_FAILED", "404"),
        (of("/one-1.0.jar"), "CONFLICT", "the mod one has this file"),
        (of("/one-2.0.jar"), "FILE_EXISTS", "mods/one-2.0.jar"),
        (unpacked("/one-1.0.jar"), "INVALID_PAYLOAD", "modUrl: expected a zip"),
        (unpacked("/hostile.zip"), "PATH_INVALID", "refused"),
        (json!({"modId": "x", "modUrl": plain.url("/x.jar")}), "DOWNLOAD_FAILED", "ALLOW_INSECURE_DOWNLOADS"),
        (json!({"modId": "x", "modUrl": "https://u:p@localhost/x.jar"}), "INVALID_PAYLOAD", "modUrl"),
        (json!({"modId": "x", "modUrl": "no address"}), "INVALID_PAYLOAD", "modUrl"),
        (json!({"modId": "x", "modUrl": "/x.jar"}), "INVALID_PAYLOAD", "modUrl"),
        (
            json!({"modId": "x", "modUrl": "https://no-such-name.invalid/x.jar"}),
            "DOWNLOAD_FAILED",
            "cannot be found",
        ),
        (json!({"modId": "x", "modUrl": "https://localhost:1/x.jar"}), "DOWNLOAD_FAILED", "cannot be found"),
    ] {
        let response = node.link.call("install_mod", "s", payload.clone());
        assert_eq!(code(&response), expected, "{payload}: {response}");
        let message = response["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{payload}: {message}");
        assert_eq!((files(&node.dir()), fs::read(node.record()).unwrap()), before, "{payload}");
    }
    // A name that leads elsewhere is not used; the address has a harmless one.
    let evil = node.link.must("install_mod", "s", json!({"modId": "evil", "modUrl": server.url("/evil")}));
    assert_eq!(evil["mod"]["files"], json!(["mods/evil"]));
    let node =
        Node::new(json!({"limits": {"memory": "64m", "disk": "1m"}}), &[("ALLOW_INSECURE_DOWNLOADS", "1")]);
    node.link.must("install_mod", "s", json!({"modId": "p", "modUrl": plain.url("/p.jar")}));
    let response =
        node.link.call("install_mod", "s", json!({"modId": "q", "modUrl": stranger.url("/q.jar")}));
    assert_eq!(code(&response), "DOWNLOAD_FAILED", "{response}");
    let large = DownloadServer::start(local(), true, |_| Served::ok(vec![1; 2 << 20]));
    let response = node.link.call("install_mod", "s", json!({"modId": "q", "modUrl": large.url("/q.jar")}));
    assert_eq!(code(&response), "QUOTA_EXCEEDED", "{response}");
    assert_eq!(files(&node.dir()), ["mods/p.jar"]);
}

#[test]
fn a_certificate_of_a_stranger_is_refused() {
    let server = server();
    let ca = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/engine-certs/ca.pem");
    let node = Node::new(json!({}), &[("SSL_CERT_FILE", ca.to_str().unwrap())]);
    let response =
        node.link.call("install_mod", "s", json!({"modId": "x", "modUrl": server.url("/one-1.0.jar")}));
    assert_eq!(code(&response), "DOWNLOAD_FAILED", "{response}");
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[test]
fn a_server_that_falls_silent_is_given_up_after_30_s() {
    let node = Node::new(json!({}), &[("ALLOW_INSECURE_DOWNLOADS", "1")]);
    let rest = DownloadServer::start(local(), false, |_| Served {
        missing: 1 << 20,
        hangs: true,
        ..Served::ok("the beginning")
    });
    // It takes connections, and never says a word: no answer, no handshake.
    let silent = local();
    let port = silent.local_addr().unwrap().port();
    let urls = [
        rest.url("/rest.jar"),
        format!("http://localhost:{port}/head.jar"),
        format!("https://localhost:{port}/handshake.jar"),
    ];
    let servers = ["s", "s2", "s3"];
    for server in &servers[1..] {
        node.link.must("create_server", server, demo(json!({})));
    }
    let asked: Vec<_> = urls
        .iter()
        .zip(servers)
        .map(|(url, server)| {
            let payload = json!({"modId": "x", "modUrl": url});
            node.link.command("install_mod", server, payload)
        })
        .collect();
    node.link.must("list_mods", "s", json!({}));
    for (url, id) in urls.iter().zip(asked) {
        // Against the half hour that a whole download may take.
        let within = std::time::Duration::from_secs(300);
        let response = node.link.wait_from(0, within, "an end of the silence", |seen| match seen {
            Seen::Json(message) if message["type"] == "response" && message["id"] == id => {
                Some(message.clone())
            }
            _ => None,
        });
        assert_eq!(code(&response), "DOWNLOAD_FAILED", "{url}: {response}");
        let message = response["error"]["message"].as_str().unwrap();
        assert!(message.contains("did not answer or send in time"), "{url}: {message}");
    }
    assert_eq!(files(&node.dir()), Vec::<String>::new());
    drop(silent);
}

#[test]
fn a_server_that_hangs_holds_up_neither_a_delete_nor_the_end() {
    let (server, mut node) = (server(), Node::new(json!({}), &[]));
    let hang = |node: &Node| {
        let id =
            node.link.command("install_mod", "s", json!({"modId": "x", "modUrl": server.url("/hangs.jar")}));
        node.link.wait_event("command_progress", |event| {
            event["commandId"] == id && event["stage"] == "downloading"
        });
        id
    };
    let id = hang(&node);
    node.link.must("delete_server", "s", json!({"removeData": true}));
    assert_eq!(code(&node.link.response(&id)), "SUPERSEDED");
    assert!(!node.dir().exists());
    node.link.must("create_server", "s", demo(json!({})));
    let id = hang(&node);
    assert!(node.agent.terminate().success());
    assert_eq!(code(&node.link.response(&id)), "INTERRUPTED");
    assert_eq!(fs::read_dir(node.dir()).unwrap().count(), 0);
}
