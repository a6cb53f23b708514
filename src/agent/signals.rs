//! The `signals` thread: SIGTERM and SIGINT ask the agent loop to end, a second one ends the process at once.
//! SIGHUP has the owner's policy read again; here, since the loop waits for no disk.

use std::time::Duration;

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::crew::Crew;
use super::event::Event;
use super::policy::PolicyFile;

/// Exit status after a second signal: 128 + SIGINT, as a shell would tell it.
const EXIT_AT_ONCE: i32 = 130;

/// How long a policy waits for the loop; a second SIGTERM waits as long behind it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the thread; `Handle::close` ends it.
///
/// # Errors
/// When the handlers cannot be installed or the system gives no thread.
pub fn start(
    urgent_tx: Sender<Event>,
    events_tx: Sender<Event>,
    policy: PolicyFile,
    crew: &mut Crew,
) -> std::io::Result<Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    crew.spawn("signals", 128 << 10, move || {
        let mut asked = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    let read = policy.read().map(Option::unwrap_or_default);
                    // A loop that takes nothing for so long is stuck, which the watchdog tells.
                    if events_tx.send_timeout(Event::Policy(Box::new(read)), PATIENCE).is_err() {
                        log::error!("SIGHUP: the policy that was read could not be handed over");
                    }
                }
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
