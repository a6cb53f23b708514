//! The `signals` thread: SIGTERM and SIGINT ask the agent loop to end, a second one ends the process at once.
//! SIGHUP is taken and ignored, so that a closing terminal does no harm.

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::crew::Crew;
use super::event::Event;

/// Exit status after a second signal: 128 + SIGINT, as a shell would tell it.
const EXIT_AT_ONCE: i32 = 130;

/// Starts the thread; `Handle::close` ends it.
///
/// # Errors
/// When the handlers cannot be installed or the system gives no thread.
pub fn start(urgent_tx: Sender<Event>, crew: &mut Crew) -> std::io::Result<Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    crew.spawn("signals", 128 << 10, move || {
        let mut asked = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => log::info!("SIGHUP: nothing to read again; the secret's file is read at each dial"),
                _ if asked => std::process::exit(EXIT_AT_ONCE),
                _ => {
                    asked = true;
                    // Waiting here would make the second signal deaf, and nothing but a few such words goes this way.
                    let _ = urgent_tx.try_send(Event::Shutdown { signal });
                }
            }
        }
    })?;
    Ok(handle)
}
