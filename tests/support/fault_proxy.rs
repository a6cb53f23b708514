//! Stands between an Agent and its Panel and does to their TCP connections what networks do: cuts them, resets them in the
//! middle of a frame, swallows one direction or both, drips, delays, closes one half, or lets two stand side by side.
//!
//! One thread accepts; each connection has two, one a direction. A [`Fault`] holds from when it is set on until it has
//! struck once.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Watched;

/// What becomes of the connection in which `after` more bytes have gone through in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: everything passes.
    None,
    /// Both sides are closed.
    Cut { from_panel: bool, after: usize },
    /// Both sides are reset, so that what the kernels still hold is lost.
    Reset { from_panel: bool, after: usize },
    /// Nothing passes in this direction any more, and nobody is told.
    BlackHole { from_panel: bool, after: usize },
    /// One byte at a time.
    Drip { from_panel: bool, after: usize, every: Duration },
    /// Each piece comes so much later.
    Delay { by: Duration },
    /// This direction ends, the other goes on.
    HalfClose { from_panel: bool, after: usize },
}

/// A listening proxy. Dropping it ends its connections and its threads.
pub struct FaultProxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    panel: SocketAddr,
    /// With its number, by which a connection knows one that it has not seen.
    fault: Mutex<(u64, Fault)>,
    /// The Agent's and the Panel's side of each.
    open: Watched<Vec<(TcpStream, TcpStream)>>,
    /// How often a fault has struck.
    struck: Watched<u32>,
}

impl FaultProxy {
    /// In front of the Panel at this address.
    pub fn start(panel: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let address = listener.local_addr().expect("a bound socket has a name");
        let shared = Arc::new(Shared {
            panel,
            fault: Mutex::new((0, Fault::None)),
            open: Watched::new(Vec::new()),
            struck: Watched::new(0),
        });
        let (accepting, accepted) = (listener.try_clone().expect("a descriptor is free"), shared.clone());
        let thread = thread::spawn(move || {
            while let Ok((agent, _)) = accepting.accept() {
                let _ = connect(&accepted, agent);
            }
        });
        FaultProxy { address, listener, shared, thread: Some(thread) }
    }

    /// The value for `PANEL_URL`.
    pub fn url(&self) -> String {
        format!("ws://{}/agent", self.address)
    }

    /// What happens next.
    pub fn set(&self, fault: Fault) {
        let mut current = self.shared.fault();
        *current = (current.0 + 1, fault);
    }

    pub fn struck(&self) -> u32 {
        *self.shared.struck.lock()
    }

    /// Waits until a fault has struck more often than that.
    pub fn wait_struck(&self, before: u32, within: Duration) -> bool {
        self.shared.struck.wait(within, |struck| (*struck > before).then_some(())).is_some()
    }

    /// Ends every connection that stands.
    pub fn cut(&self) {
        self.shared.open.update(|open| {
            open.drain(..).for_each(|(agent, panel)| {
                let _ = (agent.shutdown(Shutdown::Both), panel.shutdown(Shutdown::Both));
            })
        });
    }

    /// Ends the Agents' sides alone: the Panel believes that they are there, and the next connection stands beside them.
    pub fn cut_agents(&self) {
        self.shared.open.lock().iter().for_each(|(agent, _)| drop(agent.shutdown(Shutdown::Both)));
    }
}

impl Shared {
    fn fault(&self) -> MutexGuard<'_, (u64, Fault)> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.cut();
    }
}

fn connect(shared: &Arc<Shared>, agent: TcpStream) -> io::Result<()> {
    let panel = TcpStream::connect(shared.panel)?;
    let _ = (agent.set_nodelay(true), panel.set_nodelay(true));
    let sides = (agent.try_clone()?, panel.try_clone()?);
    shared.open.update(|open| open.push(sides));
    for from_panel in [false, true] {
        let (from, to) = if from_panel { (&panel, &agent) } else { (&agent, &panel) };
        let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(shared));
        thread::spawn(move || {
            let _ = Pipe { from, to, from_panel, fault: (0, Fault::None), passed: 0, shared }.run();
        });
    }
    Ok(())
}

/// One direction of a connection.
struct Pipe {
    from: TcpStream,
    to: TcpStream,
    from_panel: bool,
    fault: (u64, Fault),
    passed: usize,
    shared: Arc<Shared>,
}

impl Pipe {
    fn run(mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = self.from.read(&mut buffer);
            let bytes = match read {
                Ok(length) if length > 0 => &buffer[..length],
                _ => {
                    // An end is passed on.
                    let _ = self.to.shutdown(Shutdown::Write);
                    return Ok(());
                }
            };
            let fault = *self.shared.fault();
            if fault.0 != self.fault.0 {
                (self.fault, self.passed) = (fault, 0);
            }
            let left = self.left().unwrap_or(usize::MAX);
            let (whole, rest) = bytes.split_at(bytes.len().min(left));
            if let Fault::Delay { by } = self.fault.1 {
                thread::sleep(by);
            }
            self.to.write_all(whole)?;
            self.passed += whole.len();
            if self.left() == Some(0) && self.strike(rest)? {
                return Ok(());
            }
        }
    }

    /// Bytes until the fault; `None` when there is none in this direction.
    fn left(&self) -> Option<usize> {
        let (from_panel, after) = match self.fault.1 {
            Fault::None | Fault::Delay { .. } => return None,
            Fault::Cut { from_panel, after }
            | Fault::Reset { from_panel, after }
            | Fault::BlackHole { from_panel, after }
            | Fault::Drip { from_panel, after, .. }
            | Fault::HalfClose { from_panel, after } => (from_panel, after),
        };
        (from_panel == self.from_panel).then(|| after.saturating_sub(self.passed))
    }

    /// The fault strikes; `rest` was read and did not pass. True when this direction has ended.
    fn strike(&mut self, rest: &[u8]) -> io::Result<bool> {
        {
            let mut current = self.shared.fault();
            if current.0 == self.fault.0 {
                current.1 = Fault::None;
            }
        }
        self.shared.struck.update(|struck| *struck += 1);
        match self.fault.1 {
            Fault::None | Fault::Delay { .. } => return Ok(false),
            Fault::Cut { .. } => self.end(),
            Fault::Reset { .. } => {
                let _ = rustix::net::connect_unspec(&self.to);
                let _ = rustix::net::connect_unspec(&self.from);
            }
            Fault::BlackHole { .. } => {
                io::copy(&mut self.from, &mut io::sink())?;
            }
            Fault::Drip { every, .. } => {
                let mut drip = |byte: u8| {
                    thread::sleep(every);
                    self.to.write_all(&[byte])
                };
                rest.iter().try_for_each(|byte| drip(*byte))?;
                for byte in BufReader::new(self.from.try_clone()?).bytes() {
                    drip(byte?)?;
                }
            }
            Fault::HalfClose { .. } => {
                let _ = self.to.shutdown(Shutdown::Write);
                io::copy(&mut self.from, &mut io::sink())?;
            }
        }
        Ok(true)
    }

    fn end(&self) {
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }
}
