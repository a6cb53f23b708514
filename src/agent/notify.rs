//! What a service manager is told: systemd's notify socket (`sd_notify(3)`) with readiness, status, the watchdog and
//! the stop, and the readiness descriptor of s6. Owned by the agent loop; nothing here ever waits for the manager, and
//! without one nothing is sent.
//!
//! Readiness means that the Agent itself works. It waits neither for the Panel nor for the Engine: both may be away
//! for days, and an init system that restarted the Agent for it would bring neither back.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The one message that must arrive may wait this long for a place in the manager's queue.
const READY_LIMIT: Duration = Duration::from_secs(5);

/// See the module's description.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
    status: String,
}

/// The manager ends the process when it hears nothing for a time; it is fed at half of it, as systemd advises.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Instant,
    /// A thread was found stuck: told once.
    complained: bool,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. A socket that cannot be used is told in the log: the
    /// manager may end the Agent for its silence, and the log is where that is looked for.
    pub fn from_environment(get: impl Fn(&str) -> Option<OsString>) -> Notify {
        let Some(address) = get("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else {
            return Notify::default();
        };
        let socket = match connect(&address) {
            Ok(socket) => socket,
            Err(e) => {
                log::warn!("NOTIFY_SOCKET {}: {e}", address.display());
                return Notify::default();
            }
        };
        let number = |name| get(name)?.to_str()?.parse::<u64>().ok();
        // Set for another process, it is not ours: a shell that started us may have inherited it.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let every = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        let watchdog = every.map(|usec| Watchdog {
            every: Duration::from_micros(usec) / 2,
            next: Instant::now(),
            complained: false,
        });
        Notify { socket: Some(socket), watchdog, status: String::new() }
    }

    /// The Agent works.
    pub fn ready(&mut self) {
        let Some(socket) = &self.socket else { return };
        let sent = socket
            .set_nonblocking(false)
            .and_then(|()| socket.set_write_timeout(Some(READY_LIMIT)))
            .and_then(|()| socket.send(b"READY=1\n"));
        if let Err(e) = sent {
            log::warn!("NOTIFY_SOCKET: the readiness could not be told: {e}");
        }
        // What follows is sent again in time, and the loop waits for nobody.
        let _ = socket.set_nonblocking(true);
    }

    /// One line for a person, sent when it changes; not even written where nobody listens.
    pub fn status(&mut self, status: impl FnOnce() -> String) {
        if self.socket.is_none() {
            return;
        }
        let status = status();
        if self.status != status && self.send(&format!("STATUS={status}\n")) {
            self.status = status;
        }
    }

    /// The Agent stops and asks for this much time to do so.
    pub fn stopping(&mut self, within: Duration) {
        let micros = within.as_micros();
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=stopping\n"));
    }

    /// When [`Notify::feed`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Feeds the watchdog when that is due, unless `stuck` names a thread that makes no progress. That the loop calls
    /// this is the proof that it does itself.
    pub fn feed(&mut self, now: Instant, stuck: impl FnOnce() -> Option<String>) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) else { return };
        watchdog.next = now + watchdog.every;
        match stuck() {
            None => {
                watchdog.complained = false;
                self.send("WATCHDOG=1\n");
            }
            Some(name) => {
                if !std::mem::replace(&mut watchdog.complained, true) {
                    log::error!("{name} makes no progress: the watchdog is not fed any more; this is a bug");
                }
            }
        }
    }

    fn send(&self, text: &str) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.send(text.as_bytes()).is_ok())
    }
}

/// A path, or a name in the abstract namespace after an `@`.
fn connect(address: &OsString) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::other("expected an absolute path or @name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Writes the newline that s6 and dinit take for readiness to a descriptor that was handed down. The number is turned
/// into a descriptor by asking the kernel for a copy of our own; before Linux 5.6, by opening it in `/proc`, which a
/// pipe of another user refuses.
///
/// # Errors
/// When there is no such descriptor, or it cannot be written to.
pub fn tell_ready(descriptor: i32) -> io::Result<()> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let copy = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|own| pidfd_getfd(own, descriptor, PidfdGetfdFlags::empty()));
    let mut file = match copy {
        Ok(copy) => std::fs::File::from(copy),
        Err(_) => std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{descriptor}"))?,
    };
    file.write_all(b"\n")
}
