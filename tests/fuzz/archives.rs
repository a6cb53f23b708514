//! Unpacks an input as an archive of a server's, and looks for anything that it should not have made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore::protocol::Spec;
use longshore::server::Files;
use longshore::server::abort::Abort;
use longshore::server::archive::{self, Job, staging::Run};
use longshore::server::progress::Meter;
use longshore::server::stats::Disks;

/// Bytes that the server's disk may hold: what grows past it has to be refused.
const LIMIT: u64 = 4 << 20;

/// A directory with `servers/s` in it and a file beside each, removed in the end.
struct House(PathBuf);

impl House {
    fn new() -> House {
        // In memory where there is such a place: thousands are made in a second.
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let house = House(base.join(format!("longshore-fuzz-{}", std::process::id())));
        // Left by a process of this number that was killed.
        let _ = fs::remove_dir_all(&house.0);
        fs::create_dir_all(house.0.join("servers/s")).expect("a directory can be made");
        for beside in ["beside", "servers/beside"] {
            fs::write(house.0.join(beside), "untouched").expect("a file can be written");
        }
        house
    }

    /// Everything in it, sorted.
    fn all(&self) -> Vec<PathBuf> {
        let (mut found, mut waiting) = (Vec::new(), vec![self.0.clone()]);
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).expect("a directory can be read").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn extract(input: &[u8]) {
    let house = House::new();
    let (servers, own) = (house.0.join("servers"), house.0.join("servers/s"));
    fs::write(own.join("archive"), input).expect("a file can be written");
    let before = house.all();

    let mut spec = Spec::default();
    spec.limits.disk = Some(LIMIT);
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let files = Files::open(&servers, user, Disks::new(servers.clone()).0).expect("it is there");
    let root = files.root(&"s".parse().expect("an id"), &spec).expect("it is there");
    let (abort, tell) = (Abort::default(), |_| {});
    let job = Job { root: &root, abort: &abort, meter: &Meter::new(&abort, &tell) };
    let staging = Run::new("fuzz").staging(&root.dir, 1).expect("a directory can be made");
    let result = archive::extract(&staging, Path::new("archive"), Path::new("out"), &job);
    drop(staging);

    let mut after = house.all();
    let made: Vec<PathBuf> = after.iter().filter(|path| path.starts_with(own.join("out"))).cloned().collect();
    after.retain(|path| !path.starts_with(own.join("out")));
    assert_eq!(after, before, "something was made elsewhere");
    for beside in ["beside", "servers/beside", "servers/s/archive"] {
        let content = fs::read(house.0.join(beside)).expect("it is there");
        assert!(content == b"untouched" || content == input, "{beside} was written to");
    }
    let (mut count, mut bytes) = (0, 0);
    for path in &made {
        let meta = fs::symlink_metadata(path).expect("it is there");
        assert!(meta.is_file() || meta.is_dir(), "{} is special", path.display());
        assert_eq!(meta.permissions().mode() & 0o7000, 0, "{}", path.display());
        count += u64::from(meta.is_file());
        bytes += if meta.is_file() { meta.len() } else { 0 };
    }
    assert!(bytes <= LIMIT, "{bytes} bytes were unpacked");
    match result {
        Ok(unpacked) => assert!(count <= unpacked.files && bytes <= unpacked.bytes, "{unpacked:?}"),
        Err(error) => {
            assert!(made.is_empty(), "refused, and {made:?} stay");
            let fault = error.fault("archivePath");
            assert!(!fault.message.contains(&*house.0.to_string_lossy()), "{fault}");
        }
    }
}
