//! The bounds: of text, of one message, of listings, of the disk.

use std::fs;

use serde_json::json;

use crate::rig::Rig;

const MIB: usize = 1 << 20;

#[test]
fn what_is_too_large_is_refused_and_never_cut() {
    let rig = Rig::start();
    rig.put("fits", vec![b'x'; MIB]);
    rig.put("large", vec![b'x'; MIB + 1]);
    assert_eq!(rig.must("read_file", json!({"path": "fits"}))["size"], MIB);
    assert_eq!(rig.refused("read_file", json!({"path": "large"})), "TOO_LARGE");
    assert_eq!(rig.refused("download_file", json!({"path": "large"})), "TOO_LARGE");
    assert_eq!(rig.refused("download_file", json!({"path": "large", "length": MIB + 1})), "TOO_LARGE");
    let piece = rig.must("download_file", json!({"path": "large", "length": MIB}));
    assert_eq!((piece["length"].as_u64(), piece["size"].as_u64()), (Some(MIB as u64), Some(MIB as u64 + 1)));
    let rest = rig.must("download_file", json!({"path": "large", "offset": MIB}));
    assert_eq!(rest["content"], "eA==");
    // Over the link; escapes make a text larger than a message may be.
    rig.put("escapes", vec![1; MIB]);
    assert_eq!(rig.refused("read_file", json!({"path": "escapes"})), "TOO_LARGE");
    for content in [vec![b'x'; MIB + 1], vec![b'x'; 2 * MIB]] {
        let content = String::from_utf8(content).unwrap();
        assert_eq!(rig.refused("write_file", json!({"path": "new", "content": content})), "TOO_LARGE");
        let payload = json!({"path": "fits", "content": content, "encoding": "utf8", "append": true});
        assert_eq!(rig.refused("upload_file", payload), "TOO_LARGE");
    }
    assert!(!rig.dir().join("new").exists());
    assert_eq!(rig.read("fits").len(), MIB);
    let payload = json!({"path": "new", "content": "x".repeat(MIB)});
    assert_eq!(rig.must("write_file", payload)["size"], MIB);
    let long = "d/".repeat(2049);
    assert_eq!(rig.refused("list_files", json!({"path": long})), "PATH_INVALID");
    assert_eq!(rig.refused("read_file", json!({"path": "n".repeat(300)})), "PATH_INVALID");
}

#[test]
fn listings_and_searches_end() {
    let rig = Rig::start();
    fs::create_dir(rig.dir().join("many")).unwrap();
    for n in 0..10_050 {
        fs::write(rig.dir().join(format!("many/{n:05}")), "").unwrap();
    }
    let listed = rig.must("list_files", json!({"path": "many"}));
    assert_eq!((listed["files"].as_array().unwrap().len(), &listed["truncated"]), (10_000, &json!(true)));
    let found = rig.must("search_files", json!({"path": "/", "query": "0"}));
    assert_eq!((found["files"].as_array().unwrap().len(), &found["truncated"]), (1000, &json!(true)));
    let deep = (0..40).fold(rig.dir(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("needle"), "").unwrap();
    let found = rig.must("search_files", json!({"query": "needle"}));
    assert_eq!((&found["files"], &found["truncated"]), (&json!([]), &json!(true)), "deeper than is looked");
    // A tree of any depth is deleted.
    let deeper = (0..1000).fold(rig.dir().join("deep"), |path, _| path.join("d"));
    let made = (0..20).fold(rig.dir().join("deep"), |path, _| path.join("d".repeat(200)));
    fs::create_dir_all(made).unwrap();
    fs::create_dir_all(deeper).unwrap();
    rig.must("delete_file", json!({"path": "deep"}));
    assert!(!rig.dir().join("deep").exists());
}

/// CVE-2026-61617 (uploads that no quota sees), and quotas that overflow (GHSA-5mgr-9frx-2rh7, GHSA-hfvm-879c-xgmm).
#[test]
fn cve_2026_61617_every_way_of_growing_heeds_the_disk_limit() {
    let rig = Rig::with(json!({"limits": {"disk": "7680k"}}));
    let mib = "x".repeat(MIB);
    let upload = |path: &str, append: bool| json!({"path": path, "content": mib, "encoding": "utf8", "append": append});
    for n in 0..3 {
        rig.must("upload_file", upload(&format!("f{n}"), false));
    }
    for _ in 0..3 {
        rig.must("upload_file", upload("long", true));
    }
    // Half a MiB is left after this.
    rig.must("write_file", json!({"path": "small", "content": mib}));
    for (action, payload) in [
        ("upload_file", upload("one-more", false)),
        ("upload_file", upload("long", true)),
        ("write_file", json!({"path": "one-more", "content": mib})),
        ("copy_file", json!({"sourcePath": "f0", "destinationPath": "one-more"})),
    ] {
        assert_eq!(rig.refused(action, payload), "QUOTA_EXCEEDED", "{action}");
    }
    assert_eq!(rig.read("long").len(), 3 * MIB, "nothing of it was written");
    assert!(!rig.dir().join("one-more").exists());
    // What is replaced does not count twice, and what is deleted counts no more.
    rig.must("write_file", json!({"path": "small", "content": mib}));
    rig.must("delete_file", json!({"path": "f0"}));
    rig.must("upload_file", upload("one-more", false));
    // Not even a file that claims to be as large as a number can be.
    let sparse = fs::File::create(rig.dir().join("sparse")).unwrap();
    // The largest that file systems here have, which is far more than all disks.
    sparse.set_len((16 << 40) - 8192).unwrap();
    assert_eq!(
        rig.refused("copy_file", json!({"sourcePath": "sparse", "destinationPath": "x"})),
        "QUOTA_EXCEEDED"
    );
    let payload = json!({"path": "sparse", "content": "x".repeat(8192), "encoding": "utf8", "append": true});
    let refused = rig.refused("upload_file", payload);
    assert!(["TOO_LARGE", "QUOTA_EXCEEDED"].contains(&refused.as_str()), "{refused}");
    // Directories take space too.
    let mut made = 0;
    while rig.link.call("create_directory", "s", json!({"path": format!("d{made}")}))["success"] == true {
        made += 1;
        assert!(made < 2048, "half a MiB of directories");
    }
    rig.must("update_server", json!({"limits": {"disk": "64m"}}));
    rig.must("upload_file", upload("long", true));
}

/// What several tasks write at once adds up.
#[test]
fn the_disk_limit_holds_for_many_at_once() {
    let rig = Rig::with(json!({"limits": {"disk": "7680k"}}));
    let content = "x".repeat(MIB);
    let ids: Vec<String> = (0..16)
        .map(|n| {
            let payload = json!({"path": format!("f{n}"), "content": content, "encoding": "utf8"});
            rig.link.command("upload_file", "s", payload)
        })
        .collect();
    let taken = ids.iter().filter(|id| rig.link.response(id)["success"] == true).count();
    assert_eq!(taken, 7, "of 1 MiB in 7.5 MiB");
    let files = fs::read_dir(rig.dir()).unwrap().flatten();
    assert_eq!(files.count(), taken);
}
