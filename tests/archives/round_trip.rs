//! What is packed comes back as it was.

use std::os::unix::fs::{chown, symlink};
use std::process::Command;

use super::*;

/// Everything that a server may have.
fn fill(dir: &Path) {
    let world = dir.join("world");
    fs::create_dir_all(world.join("region/deep")).unwrap();
    fs::create_dir(world.join("empty")).unwrap();
    fs::write(world.join("level.dat"), (0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())
        .unwrap();
    fs::write(world.join("region/r.0.0"), vec![7; 1 << 20]).unwrap();
    fs::write(world.join("region/deep/nothing"), "").unwrap();
    fs::write(world.join("grüße 日本.txt"), "hello").unwrap();
    // Longer than the names that the first tar had.
    fs::write(world.join(format!("region/{}", "long".repeat(50))), "x").unwrap();
    fs::write(world.join("start.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(world.join("start.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(world.join("region"), fs::Permissions::from_mode(0o750)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    fs::File::open(world.join("level.dat")).unwrap().set_modified(old).unwrap();
    symlink("level.dat", world.join("link")).unwrap();
    assert!(Command::new("mkfifo").arg(world.join("pipe")).status().unwrap().success());
    assert!(Command::new("chown").args(["-R", "-h", "1000:1000"]).arg(&world).status().unwrap().success());
    chown(world.join("start.sh"), Some(0), Some(0)).unwrap();
}

#[test]
fn each_format_brings_back_what_it_took() {
    let node = Node::new(json!({}));
    fill(&node.dir());
    let mut expected = tree(&node.dir().join("world"));
    assert!(expected.remove("link").is_some() && expected.remove("pipe").is_some());
    // New files are the server's user's.
    expected.get_mut("start.sh").unwrap().owner = (1000, 1000);
    for format in ["zip", "tar", "tar.gz"] {
        let archive = format!("backups/world.{format}");
        let made = json!({"files": ["/world", "world/region"], "archivePath": archive, "format": format});
        let mark = node.link.mark();
        let id = node.link.command("create_archive", "s", made);
        let made = node.response_from(mark, &id);
        let on_disk = fs::metadata(node.dir().join(&archive)).unwrap();
        let data = json!({"path": archive, "size": on_disk.len(), "files": 6, "skipped": 2});
        assert_eq!(made["data"], data, "{format}: {made}");
        assert_eq!((on_disk.uid(), on_disk.mode() & 0o7777), (1000, 0o644));
        let stages: Vec<Value> =
            node.link.messages().into_iter().filter(|m| m["data"]["commandId"] == id).collect();
        assert!(
            stages.iter().any(|event| event["event"] == "command_progress"
                && event["data"]["stage"] == "packing"
                && event["data"]["total"].as_u64() > Some(2 << 20)),
            "{stages:?}"
        );

        let bytes: u64 =
            expected.values().filter_map(|thing| thing.content.as_ref()).map(|c| c.len() as u64).sum();
        let target = format!("restored/{format}");
        let done = node.must("extract_archive", json!({"archivePath": archive, "extractPath": target}));
        assert_eq!(done, json!({"files": 6, "bytes": bytes}), "{format}");
        let found = tree(&node.dir().join(&target).join("world"));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{format}");
        for (name, thing) in &expected {
            assert!(
                found[name] == *thing,
                "{format}: {name}: {:o} {:?}",
                found[name].mode,
                found[name].owner
            );
        }
        assert_eq!(fs::metadata(node.dir().join("restored")).unwrap().uid(), 1000);
    }
    assert_eq!(names(&node.dir()), ["backups", "restored", "world"], "nothing else is left");
}

#[test]
fn other_programs_read_them_and_theirs_are_read() {
    let node = Node::new(json!({}));
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(node.dir()).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    };
    fs::create_dir_all(node.dir().join("d/e")).unwrap();
    fs::write(node.dir().join("d/e/f"), "content").unwrap();
    fs::write(node.dir().join("d").join("n".repeat(180)), "long").unwrap();
    let expected = |top: &str| {
        let found = tree(&node.dir().join(top));
        let found = found.into_iter().map(|(name, thing)| (name, thing.content)).collect::<Vec<_>>();
        found.into_iter().filter(|(_, content)| content.is_some()).collect::<Vec<_>>()
    };
    for format in ["gnu", "pax", "ustar", "v7"] {
        let short = if matches!(format, "v7" | "ustar") { "d/e" } else { "d" };
        run("tar", &[&format!("--format={format}"), "-cf", "theirs.tar", short]);
        node.must("extract_archive", json!({"archivePath": "theirs.tar", "extractPath": format}));
        assert_eq!(expected(&format!("{format}/{short}")), expected(short), "{format}");
    }
    run("tar", &["-czf", "theirs.tar.gz", "./d"]);
    node.must("extract_archive", json!({"archivePath": "theirs.tar.gz", "extractPath": "gz"}));
    assert_eq!(expected("gz/d"), expected("d"));
    for (format, archive) in [("tar", "ours.tar"), ("tar.gz", "ours.tar.gz"), ("zip", "ours.zip")] {
        node.must("create_archive", json!({"files": ["d"], "archivePath": archive, "format": format}));
        fs::create_dir(node.dir().join(format!("by-{format}"))).unwrap();
        let target = format!("by-{format}");
        match format {
            "zip" => run("python3", &["-m", "zipfile", "-e", archive, &target]),
            _ => run("tar", &["-xf", archive, "-C", &target]),
        }
        assert_eq!(expected(&format!("{target}/d")), expected("d"), "{format}");
    }
}

#[test]
fn an_archive_never_holds_itself_and_replaces_what_was() {
    let node = Node::new(json!({"limits": {"memory": "64m", "disk": "128m"}}));
    fs::write(node.dir().join("one"), vec![1; 100_000]).unwrap();
    let all = json!({"files": ["."], "archivePath": "all.tar", "format": "tar"});
    let one = json!({"files": ["one"], "archivePath": "all.tar", "format": "tar"});
    let first = node.must("create_archive", all.clone());
    assert_eq!((&first["files"], &first["skipped"]), (&json!(1), &json!(0)));
    assert_eq!(node.must("create_archive", all.clone()), first);

    // What is replaced is replaced whole: who has the old file open keeps it.
    let old = fs::File::open(node.dir().join("one")).unwrap();
    fs::write(node.dir().join("two"), "kept").unwrap();
    node.must("extract_archive", json!({"archivePath": "all.tar"}));
    assert_ne!(old.metadata().unwrap().ino(), fs::metadata(node.dir().join("one")).unwrap().ino());
    assert_eq!(fs::read(node.dir().join("two")).unwrap(), b"kept");

    // Taken and given back: many times what the limit would take at once.
    for _ in 0..4 {
        fs::write(node.dir().join("one"), vec![1; 20 << 20]).unwrap();
        node.must("create_archive", one.clone());
        node.must("extract_archive", json!({"archivePath": "all.tar", "extractPath": "copy"}));
    }
    fs::write(node.dir().join("more"), vec![2; 100 << 20]).unwrap();
    let over = node
        .call("create_archive", json!({"files": ["more", "one"], "archivePath": "b.tar", "format": "tar"}));
    assert_eq!(code(&over), "QUOTA_EXCEEDED", "{over}");
    assert!(!node.dir().join("b.tar").exists());
}

#[test]
fn what_is_in_the_way_or_missing_is_told_and_changes_nothing() {
    let node = Node::new(json!({}));
    fs::create_dir_all(node.dir().join("out/a")).unwrap();
    fs::write(node.dir().join("out/b"), "kept").unwrap();
    fs::write(
        node.dir().join("x"),
        super::make::tar(&[
            super::make::file("a", b"1"),
            super::make::file("b/c", b"2"),
            super::make::file("d", b"3"),
        ]),
    )
    .unwrap();
    let before = tree(&node.dir());
    let pack = |files: Value, to: &str| json!({"files": files, "archivePath": to, "format": "zip"});
    for (action, payload, expected, says) in [
        ("extract_archive", extract("x"), "FILE_EXISTS", ": there is a file where"),
        ("extract_archive", json!({"archivePath": "x", "extractPath": "out/b"}), "FILE_EXISTS", "out/b"),
        ("extract_archive", json!({"archivePath": "x", "extractPath": "out/b/c"}), "FILE_EXISTS", "out/b"),
        ("extract_archive", extract("none"), "FILE_NOT_FOUND", "none"),
        ("extract_archive", extract("out"), "FILE_EXISTS", "out"),
        ("extract_archive", json!({"archivePath": "../x"}), "PATH_INVALID", "archivePath"),
        ("create_archive", pack(json!(["none"]), "y"), "FILE_NOT_FOUND", "none"),
        ("create_archive", pack(json!(["x"]), "out"), "FILE_EXISTS", "out"),
        ("create_archive", pack(json!(["x"]), "out/b/y"), "FILE_EXISTS", "out/b"),
        ("create_archive", pack(json!([]), "y"), "INVALID_PAYLOAD", "files"),
        (
            "create_archive",
            json!({"files": ["x"], "archivePath": "y", "format": "rar"}),
            "INVALID_PAYLOAD",
            "format",
        ),
    ] {
        let response = node.call(action, payload.clone());
        assert_eq!(code(&response), expected, "{action} {payload}: {response}");
        assert!(response["error"]["message"].as_str().unwrap().contains(says), "{response}");
        assert_eq!(tree(&node.dir()), before, "{action} {payload}");
    }
}
