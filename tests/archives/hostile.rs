//! Each archive here is refused with its code, and the server's directory is as it was before.

use super::make::*;
use super::*;

const LIMIT: u64 = 64 << 20;

#[test]
fn what_is_hostile_leaves_nothing() {
    let node = Node::new(json!({"limits": {"memory": "64m", "disk": LIMIT}}));
    fs::write(node.dir().join("kept"), "as it was").unwrap();
    let check = |what: &str, archive: &[u8], code: &str, says: &str| {
        let path = node.dir().join("x");
        fs::write(&path, archive).unwrap();
        for target in ["out", "."] {
            let before = tree(&node.dir());
            let response = node.call("extract_archive", json!({"archivePath": "x", "extractPath": target}));
            assert_eq!(support::code(&response), code, "{what}: {response}");
            let message = response["error"]["message"].as_str().unwrap();
            assert!(message.contains(says), "{what}: {message}");
            assert!(!message.contains(node.agent.data_dir.to_str().unwrap()), "{what}: {message}");
            assert_eq!(tree(&node.dir()), before, "{what}");
        }
        fs::remove_file(path).unwrap();
    };
    let good = || file("good", b"first");
    // The same entries as each kind of archive, after a good one that must not stay either.
    let each = |what: &str, entry: &dyn Fn() -> Entry<'static>, code: &str, says: &str| {
        check(&format!("{what} in a tar"), &tar(&[good(), entry()]), code, says);
        check(&format!("{what} in a tar.gz"), &gzip(&tar(&[good(), entry()])), code, says);
        check(&format!("{what} in a zip"), &zip(&[good(), entry()]), code, says);
    };
    for (name, says) in [
        ("../climbs", "leads out"),
        ("a/../../climbs", "leads out"),
        ("a/..", "leads out"),
        ("/etc/cron.d/x", "absolute"),
        ("//x", "absolute"),
        ("line\nbreak", "control"),
        ("escape\u{1b}[2J", "control"),
        (".longshore-job-x/y", "reserved"),
    ] {
        each(name, &|| file(name, b"x"), "PATH_INVALID", says);
    }
    check("a NUL", &zip(&[good(), file("a\0b", b"x")]), "PATH_INVALID", "control");
    check("not UTF-8", &tar(&[Entry { name: b"\xff\xfe", ..good() }]), "PATH_INVALID", "UTF-8");
    let deep = "d/".repeat(65);
    check("too deep", &zip(&[file(&deep, b"")]), "PATH_INVALID", "deeper");
    each("a name twice", &good, "PATH_INVALID", "twice");
    each("a file and a directory", &|| file("good/below", b"x"), "PATH_INVALID", "twice");
    // DOS writers separate by backslashes; such a name must not get by as a plain one. Byte 5 is the writer's system.
    let dos = |name: &str| patched(zip(&[file(name, b"x")]), 5, &[0]);
    check("a DOS climb", &dos("..\\climbs"), "PATH_INVALID", "leads out");
    check("a drive", &dos("C:\\x"), "PATH_INVALID", "absolute");

    for (what, kind) in [("a symbolic link", b'2'), ("a hard link", b'1')] {
        check(what, &tar(&[good(), special("l", kind, 0o777)]), "PATH_INVALID", "link");
    }
    check("a symbolic link", &zip(&[special("l", 0, 0o120_777)]), "PATH_INVALID", "link");
    let through = [special("l", b'2', 0o777), file("l/passwd", b"x")];
    check("through a link", &tar(&through), "PATH_INVALID", "link");
    for (what, kind) in [("a character device", b'3'), ("a block device", b'4'), ("a pipe", b'6')] {
        check(what, &tar(&[special("d", kind, 0o666)]), "PATH_INVALID", "device");
    }
    for mode in [0o020_666, 0o060_666, 0o010_666, 0o140_666] {
        check("a special file", &zip(&[special("d", 0, mode)]), "PATH_INVALID", "device");
    }
    for (what, bits) in [("setuid", 0o4755), ("setgid", 0o2755)] {
        let entry = |mode| Entry { mode, ..file("program", b"x") };
        check(what, &tar(&[entry(bits)]), "PATH_INVALID", "setuid");
        check(what, &zip(&[entry(0o100_000 | bits)]), "PATH_INVALID", "setuid");
    }

    let unknown = "INVALID_PAYLOAD";
    check("nothing", b"", unknown, "archivePath: expected a zip");
    check("a text", b"PK is how they begin", unknown, "archivePath: expected a zip");
    let whole = zip(&[good()]);
    check("a zip cut off", &whole[..whole.len() - 5], unknown, "damaged");
    check("a zip without its data", &[b"PK\x03\x04", &whole[60..]].concat(), unknown, "damaged");
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let whole = gzip(&tar(&[file("noise", &noise)]));
    check("a tar.gz cut off", &whole[..whole.len() / 2], unknown, "damaged");
    check("a tar.gz without its sum", &whole[..whole.len() - 4], unknown, "damaged");
    let whole = tar(&[file("noise", &noise)]);
    check("a tar cut off", &whole[..2048], unknown, "damaged");

    check("lies downwards", &zip_of_zeros(4 << 20, 10), unknown, "damaged");
    check("lies upwards", &zip_of_zeros(1 << 20, 2 << 20), unknown, "damaged");
    check("another sum", &patched(zip(&[good()]), 16, &[1, 2, 3, 4]), unknown, "damaged");
    check("encrypted", &patched(zip(&[good()]), 8, &[9, 0]), unknown, "encrypted");
    check("another method", &patched(zip(&[good()]), 10, &[12, 0]), unknown, "compression");
    let shared = zip(&[file("one", b"x"), file("two", b"x")]);
    check("shared data", &patched(shared, 42, &[0, 0, 0, 0]), unknown, "damaged");
    for size in [u64::MAX, 1 << 62, 1 << 40] {
        let mut bytes = Vec::new();
        tar_entry(&mut bytes, &file("huge", b"x"), size);
        let code = if size == u64::MAX { unknown } else { "QUOTA_EXCEEDED" };
        let response = |bytes: &[u8]| {
            fs::write(node.dir().join("x"), bytes).unwrap();
            node.call("extract_archive", extract("x"))
        };
        let found = response(&bytes);
        assert!(
            [code, "QUOTA_EXCEEDED", unknown, "INSUFFICIENT_RESOURCES"].contains(&support::code(&found)),
            "{found}"
        );
        fs::remove_file(node.dir().join("x")).unwrap();
    }
    for (kind, what) in [(b'L', "a long name"), (b'x', "a pax header"), (b'g', "a global header")] {
        let mut bomb = Vec::new();
        tar_entry(&mut bomb, &special("n", kind, 0o644), 1 << 30);
        bomb.resize(8 << 20, b'n');
        check(what, &gzip(&bomb), unknown, "damaged");
    }
    let two_sizes = [Entry { kind: b'x', ..file("p", b"11 size=9\n\n") }, file("f", b"five!")];
    check("two sizes", &tar(&two_sizes), unknown, "");
    let two_names = [
        Entry { kind: b'L', ..file("p", b"one\0") },
        Entry { kind: b'x', ..file("p", b"12 path=two\n") },
        good(),
    ];
    check("two names", &tar(&two_names), unknown, "damaged");
    check(
        "named from afar",
        &tar(&[Entry { kind: b'g', ..file("p", b"12 path=two\n") }, good()]),
        unknown,
        "all entries",
    );

    let over = "QUOTA_EXCEEDED";
    check("a zip bomb", &zip_of_zeros(256 << 20, 256 << 20), over, "limit");
    let zeros = vec![0; 128 << 20];
    check("a tar bomb", &gzip(&tar(&[file("zeros", &zeros)])), over, "limit");
    let nested = gzip(&gzip(&tar(&[good()])));
    check("an archive in an archive", &nested, unknown, "damaged");
}

#[test]
fn more_than_a_hundred_thousand_entries_are_refused() {
    let node = Node::new(json!({}));
    let names: Vec<String> = (0..100_001).map(|n| format!("d{}/{n}", n / 1000)).collect();
    let entries: Vec<Entry> = names.iter().map(|name| file(name, b"")).collect();
    for archive in [zip(&entries), gzip(&tar(&entries))] {
        fs::write(node.dir().join("x"), archive).unwrap();
        let response = node.call("extract_archive", extract("x"));
        assert_eq!(support::code(&response), "TOO_LARGE", "{response}");
        assert_eq!(names_of(&node), ["x"]);
    }
}

fn names_of(node: &Node) -> Vec<String> {
    super::names(&node.dir())
}

#[test]
fn cve_2023_25152_and_cve_2024_27102_no_link_in_the_directory_leads_out() {
    let node = Node::new(json!({}));
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    fs::write(outside.path().join("a.tar"), tar(&[file("f", b"x")])).unwrap();
    std::os::unix::fs::symlink(outside.path(), node.dir().join("out")).unwrap();
    std::os::unix::fs::symlink("/etc", node.dir().join("etc")).unwrap();
    fs::write(node.dir().join("a.tar"), tar(&[file("f", b"x")])).unwrap();
    fs::write(node.dir().join("b.tar"), tar(&[file("out/f", b"x")])).unwrap();
    let pack = |files: Value, to: &str| json!({"files": files, "archivePath": to, "format": "tar"});
    for (action, payload) in [
        ("extract_archive", json!({"archivePath": "out/a.tar"})),
        ("extract_archive", json!({"archivePath": "a.tar", "extractPath": "out"})),
        ("extract_archive", json!({"archivePath": "a.tar", "extractPath": "out/deeper"})),
        ("extract_archive", json!({"archivePath": "a.tar", "extractPath": "etc"})),
        ("create_archive", pack(json!(["out/secret"]), "b.tar")),
        ("create_archive", pack(json!(["a.tar"]), "out/b.tar")),
    ] {
        let response = node.call(action, payload.clone());
        assert_eq!(support::code(&response), "PATH_INVALID", "{action} {payload}: {response}");
    }
    // An entry that would go through such a link finds that no directory stands there.
    let response = node.call("extract_archive", json!({"archivePath": "b.tar", "extractPath": "."}));
    assert_eq!(support::code(&response), "FILE_EXISTS", "{response}");
    assert_eq!(super::names(outside.path()), ["a.tar", "secret"]);
    // What a link leads to is not packed.
    let packed = node.must("create_archive", pack(json!(["out", "a.tar"]), "c.tar"));
    assert_eq!((&packed["files"], &packed["skipped"]), (&json!(1), &json!(1)));
}
