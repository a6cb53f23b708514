//! Links and special files: what stays inside works, what leaves is refused, and what is neither file nor directory is
//! never opened.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::rig::Rig;

/// A directory outside of the server's with something to lose, and links to it inside.
fn outside(rig: &Rig) -> tempfile::TempDir {
    let outside = tempfile::tempdir_in(rig.agent.data_dir.parent().unwrap()).unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    fs::set_permissions(outside.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    fs::write(outside.path().join("dir/more"), "outside").unwrap();
    let dir = rig.dir();
    symlink(outside.path(), dir.join("absolute")).unwrap();
    symlink(outside.path().join("secret"), dir.join("absolute-file")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    symlink(format!("../../../{name}"), dir.join("relative")).unwrap();
    symlink(format!("../../../{name}/secret"), dir.join("relative-file")).unwrap();
    symlink("../../state", dir.join("state")).unwrap();
    symlink("/proc/self/root", dir.join("magic")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    outside
}

const LEAVING: [&str; 7] = ["absolute", "absolute-file", "relative", "relative-file", "state", "magic", "up"];

/// All that can be told of what is outside.
fn state(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, stat) = (entry.path(), entry.metadata().unwrap());
        match stat.is_dir() {
            true => found.extend(state(&path)),
            false => found.push((path.display().to_string(), stat.mode(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn links_inside_work_and_those_that_leave_are_refused() {
    let rig = Rig::start();
    let outside = outside(&rig);
    let before = state(outside.path());
    for link in LEAVING {
        for path in
            [link.to_owned(), format!("{link}/secret"), format!("{link}/dir/more"), format!("{link}/new")]
        {
            let path = path.as_str();
            for (action, payload) in [
                ("list_files", json!({"path": path})),
                ("read_file", json!({"path": path})),
                ("download_file", json!({"path": path})),
                ("write_file", json!({"path": path, "content": "x"})),
                ("upload_file", json!({"path": path, "content": "x", "append": true, "encoding": "utf8"})),
                ("search_files", json!({"path": path, "query": "e"})),
                ("get_file_permissions", json!({"path": path})),
                ("set_file_permissions", json!({"path": path, "mode": "777"})),
                ("copy_file", json!({"sourcePath": path, "destinationPath": "stolen"})),
            ] {
                let code = rig.refused(action, payload);
                assert!(
                    ["PATH_INVALID", "FILE_NOT_FOUND"].contains(&code.as_str()),
                    "{action} {path}: {code}"
                );
                if path == link {
                    assert_eq!(code, "PATH_INVALID", "{action} {path}");
                }
            }
            if path != link {
                for (action, payload) in [
                    ("create_directory", json!({"path": path})),
                    ("delete_file", json!({"path": path})),
                    ("rename_file", json!({"oldPath": path, "newPath": "stolen"})),
                    ("get_file_info", json!({"path": path})),
                ] {
                    assert_eq!(rig.refused(action, payload), "PATH_INVALID", "{action} {path}");
                }
            }
        }
        for path in ["relative/dir", "absolute"] {
            let payload = json!({"sourcePath": link, "destinationPath": format!("{path}/x")});
            assert_eq!(rig.refused("move_file", payload), "PATH_INVALID");
        }
    }
    assert_eq!(state(outside.path()), before);
    // They are told as what they are, and can be removed themselves.
    let listed = rig.must("list_files", json!({}));
    for file in listed["files"].as_array().unwrap() {
        assert_eq!((&file["type"], &file["link"]), (&json!("symlink"), &json!(true)), "{file}");
    }
    rig.must("delete_file", json!({"path": "absolute"}));
    rig.must("rename_file", json!({"oldPath": "relative", "newPath": "renamed"}));
    assert_eq!(state(outside.path()), before);

    rig.put("real/file.txt", "inside");
    symlink("file.txt", rig.dir().join("real/link.txt")).unwrap();
    symlink("../real", rig.dir().join("real/self")).unwrap();
    symlink("real", rig.dir().join("dir-link")).unwrap();
    symlink("nowhere", rig.dir().join("dangling")).unwrap();
    symlink("circle", rig.dir().join("circle")).unwrap();
    assert_eq!(rig.must("read_file", json!({"path": "dir-link/self/link.txt"}))["content"], "inside");
    rig.must("write_file", json!({"path": "dir-link/link.txt", "content": "through the link"}));
    assert_eq!(rig.read("real/file.txt"), b"through the link");
    assert!(rig.dir().join("real/link.txt").is_symlink());
    rig.must("set_file_permissions", json!({"path": "real/link.txt", "mode": "600"}));
    assert_eq!(rig.dir().join("real/file.txt").metadata().unwrap().mode() & 0o777, 0o600);
    let listed = rig.must("list_files", json!({"path": "dir-link"}));
    let kinds: Vec<_> =
        listed["files"].as_array().unwrap().iter().map(|f| (&f["name"], &f["type"])).collect();
    let (file, directory) = (json!("file"), json!("directory"));
    assert_eq!(
        kinds,
        [(&json!("self"), &directory), (&json!("file.txt"), &file), (&json!("link.txt"), &file)]
    );
    assert_eq!(rig.refused("read_file", json!({"path": "dangling"})), "FILE_NOT_FOUND");
    assert_eq!(rig.refused("read_file", json!({"path": "circle"})), "PATH_INVALID");
}

/// CVE-2023-25152: a link in place of a directory made the daemon create files elsewhere.
#[test]
fn cve_2023_25152_nothing_is_made_through_a_link() {
    let rig = Rig::start();
    let outside = outside(&rig);
    for path in ["relative/made", "absolute/made", "relative/deep/er/made", "relative-file"] {
        let (write, make) = (json!({"path": path, "content": "x"}), json!({"path": path}));
        assert_eq!(rig.refused("write_file", write), "PATH_INVALID");
        let made = rig.refused("create_directory", make);
        assert!(["PATH_INVALID", "FILE_EXISTS"].contains(&made.as_str()), "{made}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

/// CVE-2023-25168: a delete went through a link to the host's own files.
#[test]
fn cve_2023_25168_a_delete_takes_links_and_not_what_they_lead_to() {
    let rig = Rig::start();
    let outside = outside(&rig);
    let before = state(outside.path());
    rig.put("tree/file", "x");
    symlink(outside.path(), rig.dir().join("tree/absolute")).unwrap();
    symlink("../relative", rig.dir().join("tree/relative")).unwrap();
    rig.must("delete_file", json!({"path": "tree"}));
    assert!(!rig.dir().join("tree").exists());
    rig.must("delete_file", json!({"path": "relative-file"}));
    assert_eq!(state(outside.path()), before);
    rig.must("delete_server", json!({"removeData": true}));
    assert!(!rig.dir().exists());
    assert_eq!(state(outside.path()), before);
}

/// GHSA-rhq6-9rgh-v45c: permissions were set through a link.
#[test]
fn ghsa_rhq6_9rgh_v45c_permissions_are_not_set_through_a_link_that_leaves() {
    let rig = Rig::start();
    let outside = outside(&rig);
    let before = state(outside.path());
    for path in ["absolute-file", "relative-file", "relative/secret", "absolute", "magic/etc/passwd"] {
        assert_eq!(rig.refused("set_file_permissions", json!({"path": path, "mode": "666"})), "PATH_INVALID");
    }
    assert_eq!(state(outside.path()), before);
}

#[test]
fn special_files_are_listed_and_never_opened() {
    let rig = Rig::start();
    let dir = rig.dir();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), mode).unwrap();
    let _socket = UnixListener::bind(dir.join("socket")).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("null"), rustix::fs::FileType::CharacterDevice, mode, null)
        .unwrap();
    assert!(dir.join("null").metadata().unwrap().file_type().is_char_device());
    symlink("pipe", dir.join("link")).unwrap();
    let listed = rig.must("list_files", json!({}));
    let kinds: Vec<&Value> = listed["files"].as_array().unwrap().iter().map(|file| &file["type"]).collect();
    assert_eq!(kinds, [&json!("special"); 4]);
    for path in ["pipe", "socket", "null", "link"] {
        for (action, payload) in [
            ("read_file", json!({"path": path})),
            ("download_file", json!({"path": path, "length": 1})),
            ("write_file", json!({"path": path, "content": "x"})),
            ("upload_file", json!({"path": path, "content": "x", "append": true, "encoding": "utf8"})),
            ("copy_file", json!({"sourcePath": path, "destinationPath": "copy"})),
            ("set_file_permissions", json!({"path": path, "mode": "600"})),
        ] {
            assert_eq!(rig.refused(action, payload), "PATH_INVALID", "{action} {path}");
        }
        assert_eq!(rig.must("get_file_info", json!({"path": path}))["type"], "special");
    }
    // Nor are they copied with what is around them, which is told.
    fs::create_dir(dir.join("all")).unwrap();
    rig.put("all/file", "x");
    fs::rename(dir.join("pipe"), dir.join("all/pipe")).unwrap();
    let copied = rig.link.call("copy_file", "s", json!({"sourcePath": "all", "destinationPath": "copy"}));
    assert_eq!(copied["message"], "Copied without 1 devices, sockets or pipes");
    assert_eq!(fs::read_dir(dir.join("copy")).unwrap().count(), 1);
    for path in ["socket", "null", "all"] {
        rig.must("delete_file", json!({"path": path}));
    }
}
