//! A disk that takes nothing: what must not be run twice is refused, everything else goes on, and it ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::*;

/// A small file system of its own, unmounted on drop.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Tmpfs {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(at));
        Tmpfs(at.to_owned())
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let full = fs::write(self.0.join("filler"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn remount(&self, how: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().expect("mount is there").success(), "{command:?}");
}

/// Has the Agent work while its journal cannot be written, for the cause that /health has to tell.
fn without_a_disk(cause: &str, break_it: impl Fn(&mut AgentProcess, &Tmpfs), mend: impl Fn(&Tmpfs)) {
    let panel = FakePanel::start();
    let mut agent = AgentProcess::prepare(&panel.url(), engine(), &[]);
    let disk = Tmpfs::mount(&agent.data_dir.join("journal"));
    agent.start_again();
    let link = panel.accept();
    link.must("create_server", "s", demo(json!({})));
    link.must("start_server", "s", json!({}));
    engine().wait_output(&agent.container("s"), "Demo server ready");
    break_it(&mut agent, &disk);
    let link = if link.has_ended() { panel.accept() } else { link };

    // What was allotted already may have room for some more; the first that has none finds out.
    let refused = (0..100).map(|_| link.call("unsuspend_server", "s", json!({})));
    let refused = refused.map(|answer| code(&answer).to_owned()).find(|code| code != "none");
    assert_eq!(refused.as_deref(), Some("INSUFFICIENT_RESOURCES"));
    let refused = link.call("create_server", "t", demo(json!({})));
    assert_eq!(code(&refused), "INSUFFICIENT_RESOURCES", "{refused}");
    assert_eq!(engine().state(&agent.container("t")), "gone");
    let (status, health) = agent.wait_health("the disk", |health| health["journal"] == cause);
    assert_eq!((status, &health["status"]), (503, &json!("degraded")), "{health}");
    link.must("get_status", "s", json!({}));
    link.must("list_servers", "", json!({}));
    link.must("list_files", "s", json!({}));
    link.must("stop_server", "s", json!({}));
    assert_eq!(engine().state(&agent.container("s")), "exited");

    mend(&disk);
    agent.wait_health("the disk", |health| health["journal"].is_null());
    let id = link.command("create_server", "v", demo(json!({})));
    let made = link.response(&id);
    assert_eq!(made["success"], true, "{made}");
    agent.kill();
    agent.start_again();
    let link = panel.accept();
    link.wait_event("agent_connected", |_| true);
    let repeat = json!({"id": id, "type": "command", "action": "create_server", "serverId": "v", "payload": demo(json!({}))});
    link.send(&repeat);
    assert_eq!(link.response(&id), made, "what came after it is remembered");
    drop(agent);
}

#[test]
fn a_full_disk_holds_up_what_must_not_be_run_twice_and_nothing_else() {
    without_a_disk("disk full", |_, disk| disk.fill(), Tmpfs::make_room);
}

#[test]
fn so_does_one_that_can_only_be_read() {
    let only_read = |agent: &mut AgentProcess, disk: &Tmpfs| {
        // The kernel refuses it while a file is open for writing.
        assert_eq!(agent.terminate().code(), Some(0));
        disk.remount("ro");
        agent.start_again();
    };
    without_a_disk("disk read-only", only_read, |disk| disk.remount("rw"));
}
