//! Every action on files in every dialect: one table, one `check()`.

use serde_json::{Value, json};

use crate::rig::{DIALECTS, Dialect, Rig};
use crate::support::*;

/// What is asked, and what comes of it: the whole of `data` as a shape, or the error's code.
type Case = (&'static str, Value, Result<Value, &'static str>);

/// In this order on one server, whose directory is empty at first.
fn cases() -> Vec<Case> {
    let entry = |name: &str, kind: &str, size: u64, mode: &str| {
        let mut entry = json!({"name": name, "type": kind, "size": size, "modified": "<time>", "mode": mode});
        if let Some((_, extension)) = name.split_once('.') {
            entry["extension"] = extension.into();
        }
        entry
    };
    let found = |path: &str, size: u64| {
        let mut entry = entry(path.rsplit('/').next().unwrap(), "file", size, "644");
        entry["path"] = path.into();
        entry
    };
    let (uid, gid) = ("<whole>", "<whole>");
    vec![
        ("list_files", json!({}), Ok(json!({"path": "/", "files": []}))),
        ("create_directory", json!({"path": "/config"}), Ok(json!({"path": "/config"}))),
        ("create_directory", json!({"path": "config/"}), Err("FILE_EXISTS")),
        ("create_directory", json!({"path": "a/b/c"}), Ok(json!({"path": "a/b/c"}))),
        (
            "write_file",
            json!({"path": "/config/server.yml", "content": "motd: grüße\n"}),
            Ok(json!({"path": "/config/server.yml", "size": 14})),
        ),
        (
            "read_file",
            json!({"path": "config/server.yml"}),
            Ok(
                json!({"path": "config/server.yml", "content": "motd: grüße\n", "size": 14, "modified": "<time>"}),
            ),
        ),
        (
            "get_file",
            json!({"path": "//config/./server.yml"}),
            Ok(json!({
                "path": "//config/./server.yml", "content": "motd: grüße\n", "size": 14, "modified": "<time>",
            })),
        ),
        (
            "write_file",
            json!({"path": "new/dirs/empty", "content": ""}),
            Ok(json!({"path": "new/dirs/empty", "size": 0})),
        ),
        (
            "read_file",
            json!({"path": "new/dirs/empty"}),
            Ok(json!({
                "path": "new/dirs/empty", "content": "", "size": 0, "modified": "<time>",
            })),
        ),
        (
            "upload_file",
            json!({"path": "world.bin", "content": "AP8AAQ==", "encoding": "base64"}),
            Ok(json!({"path": "world.bin", "size": 4})),
        ),
        (
            "upload_file",
            json!({"path": "world.bin", "content": "/w", "append": true}),
            Ok(json!({"path": "world.bin", "size": 5})),
        ),
        (
            "upload_file",
            json!({"path": "notes.txt", "content": "ü", "encoding": "utf8", "append": true}),
            Ok(json!({"path": "notes.txt", "size": 2})),
        ),
        ("read_file", json!({"path": "world.bin"}), Err("NOT_TEXT")),
        (
            "download_file",
            json!({"path": "world.bin"}),
            Ok(json!({
                "path": "world.bin", "content": "AP8AAf8=", "encoding": "base64", "offset": 0, "length": 5, "size": 5,
                "modified": "<time>",
            })),
        ),
        (
            "download_file",
            json!({"path": "world.bin", "offset": 1, "length": 2}),
            Ok(json!({
                "path": "world.bin", "content": "/wA=", "encoding": "base64", "offset": 1, "length": 2, "size": 5,
                "modified": "<time>",
            })),
        ),
        (
            "download_file",
            json!({"path": "world.bin", "offset": 9}),
            Ok(json!({
                "path": "world.bin", "content": "", "encoding": "base64", "offset": 9, "length": 0, "size": 5,
                "modified": "<time>",
            })),
        ),
        (
            "list_files",
            json!({"path": "/"}),
            Ok(json!({"path": "/", "files": [
                {"name": "a", "type": "directory", "size": 0, "modified": "<time>", "mode": "755"},
                {"name": "config", "type": "directory", "size": 0, "modified": "<time>", "mode": "755"},
                {"name": "new", "type": "directory", "size": 0, "modified": "<time>", "mode": "755"},
                entry("notes.txt", "file", 2, "644"),
                entry("world.bin", "file", 5, "644"),
            ]})),
        ),
        (
            "get_file_info",
            json!({"path": "config/server.yml"}),
            Ok(json!({
                "path": "config/server.yml", "name": "server.yml", "type": "file", "size": 14, "modified": "<time>",
                "mode": "644", "permissions": "644", "owner": uid, "group": gid, "extension": "yml",
            })),
        ),
        (
            "get_file_info",
            json!({"path": "/"}),
            Ok(json!({
                "path": "/", "name": "/", "type": "directory", "size": 0, "modified": "<time>", "mode": "750",
                "permissions": "750", "owner": uid, "group": gid,
            })),
        ),
        (
            "set_file_permissions",
            json!({"path": "notes.txt", "mode": "0600"}),
            Ok(json!({"path": "notes.txt", "permissions": "600", "owner": uid, "group": gid})),
        ),
        (
            "get_file_permissions",
            json!({"path": "notes.txt"}),
            Ok(json!({"path": "notes.txt", "permissions": "600", "owner": uid, "group": gid})),
        ),
        ("set_file_permissions", json!({"path": "notes.txt", "mode": "4755"}), Err("INVALID_PAYLOAD")),
        ("set_file_permissions", json!({"path": "notes.txt", "mode": "rw"}), Err("INVALID_PAYLOAD")),
        (
            "write_file",
            json!({"path": "notes.txt", "content": "kept"}),
            Ok(json!({"path": "notes.txt", "size": 4})),
        ),
        (
            "get_file_permissions",
            json!({"path": "notes.txt"}),
            Ok(json!({"path": "notes.txt", "permissions": "600", "owner": uid, "group": gid})),
        ),
        (
            "rename_file",
            json!({"oldPath": "notes.txt", "newPath": "texts/notes.md"}),
            Ok(json!({"oldPath": "notes.txt", "newPath": "texts/notes.md"})),
        ),
        ("rename_file", json!({"oldPath": "notes.txt", "newPath": "x"}), Err("FILE_NOT_FOUND")),
        ("rename_file", json!({"oldPath": "world.bin", "newPath": "config/server.yml"}), Err("FILE_EXISTS")),
        (
            "copy_file",
            json!({"sourcePath": "config", "destinationPath": "/backup/config"}),
            Ok(json!({"sourcePath": "config", "destinationPath": "/backup/config"})),
        ),
        (
            "copy_file",
            json!({"sourcePath": "world.bin", "destinationPath": "world2.bin"}),
            Ok(json!({"sourcePath": "world.bin", "destinationPath": "world2.bin"})),
        ),
        (
            "copy_file",
            json!({"sourcePath": "world.bin", "destinationPath": "world2.bin"}),
            Err("FILE_EXISTS"),
        ),
        (
            "copy_file",
            json!({"sourcePath": "config", "destinationPath": "config/in/it"}),
            Err("PATH_INVALID"),
        ),
        (
            "move_file",
            json!({"sourcePath": "world2.bin", "destinationPath": "config/world.bin"}),
            Ok(json!({"sourcePath": "world2.bin", "destinationPath": "config/world.bin"})),
        ),
        ("move_file", json!({"sourcePath": "config", "destinationPath": "/config/x"}), Err("PATH_INVALID")),
        (
            "search_files",
            json!({"path": "/", "query": "SERVER", "fileType": "yml"}),
            Ok(
                json!({"path": "/", "files": [found("backup/config/server.yml", 14), found("config/server.yml", 14)], "truncated": false}),
            ),
        ),
        (
            "search_files",
            json!({"path": "config", "query": "w*d.b?n"}),
            Ok(json!({
                "path": "config", "files": [found("config/world.bin", 5)], "truncated": false,
            })),
        ),
        ("search_files", json!({"path": "config", "query": ""}), Err("INVALID_PAYLOAD")),
        ("delete_file", json!({"path": "backup"}), Ok(json!({"path": "backup"}))),
        ("delete_file", json!({"path": "backup"}), Err("FILE_NOT_FOUND")),
        ("delete_file", json!({"path": "world.bin"}), Ok(json!({"path": "world.bin"}))),
        ("read_file", json!({"path": "backup/config/server.yml"}), Err("FILE_NOT_FOUND")),
        ("read_file", json!({"path": "config"}), Err("PATH_INVALID")),
        ("read_file", json!({"path": "config/server.yml/x"}), Err("PATH_INVALID")),
        ("read_file", json!({"path": "../s/config/server.yml"}), Err("PATH_INVALID")),
        ("read_file", json!({}), Err("INVALID_PAYLOAD")),
        ("read_file", json!({"path": 7}), Err("INVALID_PAYLOAD")),
        ("write_file", json!({"path": "config", "content": "x"}), Err("PATH_INVALID")),
        ("write_file", json!({"path": "/", "content": "x"}), Err("PATH_INVALID")),
        ("write_file", json!({"path": "a\nb", "content": "x"}), Err("PATH_INVALID")),
        ("write_file", json!({"path": "x"}), Err("INVALID_PAYLOAD")),
        ("upload_file", json!({"path": "x", "content": "not base64!"}), Err("INVALID_PAYLOAD")),
        ("upload_file", json!({"path": "x", "content": "x", "encoding": "rot13"}), Err("INVALID_PAYLOAD")),
        ("delete_file", json!({"path": "/"}), Err("PATH_INVALID")),
        ("delete_file", json!({"path": "."}), Err("PATH_INVALID")),
        (
            "create_archive",
            json!({"files": ["/config"], "archivePath": "/all.zip", "format": "zip"}),
            Ok(json!({"path": "/all.zip", "size": "<positive>", "files": 2, "skipped": 0})),
        ),
        (
            "create_archive",
            json!({"files": ["none"], "archivePath": "b.tar", "format": "tar"}),
            Err("FILE_NOT_FOUND"),
        ),
        (
            "create_archive",
            json!({"files": ["config"], "archivePath": "b.rar", "format": "rar"}),
            Err("INVALID_PAYLOAD"),
        ),
        (
            "extract_archive",
            json!({"archivePath": "all.zip", "extractPath": "again"}),
            Ok(json!({"files": 2, "bytes": 19})),
        ),
        ("extract_archive", json!({"archivePath": "config/server.yml"}), Err("INVALID_PAYLOAD")),
        ("extract_archive", json!({"archivePath": "../all.zip"}), Err("PATH_INVALID")),
        ("delete_file", json!({"path": "again"}), Ok(json!({"path": "again"}))),
        ("delete_file", json!({"path": "all.zip"}), Ok(json!({"path": "all.zip"}))),
        ("list_mods", json!({}), Ok(json!({"mods": [], "count": 0}))),
        ("uninstall_mod", json!({"modId": "none"}), Err("FILE_NOT_FOUND")),
        ("install_mod", json!({"modId": "m"}), Err("INVALID_PAYLOAD")),
        ("install_mod", json!({"modId": "m", "modUrl": "https://127.0.0.1/m.jar"}), Err("DOWNLOAD_FAILED")),
    ]
}

/// Asks in a dialect, or in the unified one where it has no message for the action, and compares what comes.
fn check(rig: &Rig, dialect: Dialect, (action, payload, want): &Case) {
    let (spoken, got) = match rig.ask(dialect, action, payload) {
        Some(got) => (dialect, got),
        None => (Dialect::Unified, rig.ask(Dialect::Unified, action, payload).expect("it has all")),
    };
    let what = format!("{spoken:?}: {action} {payload}");
    match (got, want) {
        (Ok(data), Ok(want)) if spoken == Dialect::Legacy => {
            // A content or a size, never both; and the server that it belongs to.
            let mut shape = json!({"serverId": "s", "path": want["path"]});
            let tells = if want.get("content").is_some() { "content" } else { "size" };
            shape[tells] = want[tells].clone();
            assert_shape(&what, &data, &shape);
        }
        (Ok(mut data), Ok(want)) => {
            if *action == "search_files" {
                // In the order of the directory, which is nobody's.
                let files = data["files"].as_array_mut().unwrap();
                files.sort_by_key(|file| file["path"].to_string());
            }
            assert_shape(&what, &data, want);
        }
        (Err(code), Err(want)) => assert_eq!(code, *want, "{what}"),
        (got, want) => panic!("{what}: {got:?} instead of {want:?}"),
    }
}

#[test]
fn every_action_in_every_dialect() {
    for dialect in DIALECTS {
        let rig = Rig::start();
        for case in cases() {
            check(&rig, dialect, &case);
        }
        // Nothing of what was refused or only on its way is left.
        let files = rig.must("search_files", json!({"path": "/", "query": "*", "fileType": "file"}));
        let mut names: Vec<_> =
            files["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["config/server.yml", "config/world.bin", "new/dirs/empty", "texts/notes.md"]);
    }
}

#[test]
fn files_are_there_while_the_server_runs_and_belong_to_its_user() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::with(json!({"user": "4711:4712"}));
    rig.must("start_server", json!({}));
    rig.must("write_file", json!({"path": "plugins/new/config.yml", "content": "a: 1"}));
    for path in ["plugins", "plugins/new", "plugins/new/config.yml"] {
        let found = rig.dir().join(path).metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (4711, 4712), "{path}");
    }
    // What is replaced keeps its owner and its permissions.
    std::os::unix::fs::chown(rig.dir().join("plugins/new/config.yml"), Some(4000), Some(4001)).unwrap();
    rig.must("set_file_permissions", json!({"path": "plugins/new/config.yml", "mode": "640"}));
    rig.must("write_file", json!({"path": "plugins/new/config.yml", "content": "a: 2"}));
    let kept = rig.must("get_file_permissions", json!({"path": "plugins/new/config.yml"}));
    assert_shape(
        "permissions",
        &kept,
        &json!({"path": "plugins/new/config.yml", "permissions": "640", "owner": 4000, "group": 4001}),
    );
    rig.must("stop_server", json!({"timeout": 5}));
    assert_eq!(rig.read("plugins/new/config.yml"), b"a: 2");
    assert_eq!(rig.link.call("list_files", "unknown", json!({}))["error"]["code"], "SERVER_NOT_FOUND");
}

#[test]
fn a_repeated_change_is_made_once() {
    let rig = Rig::start();
    let message = json!({
        "id": "again", "type": "command", "action": "upload_file", "serverId": "s",
        "payload": {"path": "log", "content": "x", "encoding": "utf8", "append": true},
    });
    for _ in 0..3 {
        rig.link.send(&message);
    }
    let reply = rig.link.response("again");
    assert_eq!(reply["data"], json!({"path": "log", "size": 1}));
    // A command behind them has its answer, so they have theirs.
    rig.must("get_file_info", json!({"path": "log"}));
    let replies = rig.link.responses("again");
    assert!(replies.len() == 3 && replies.iter().all(|other| *other == reply), "{replies:?}");
    assert_eq!(rig.read("log"), b"x");
}
