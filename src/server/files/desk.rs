//! [`Desk`]: what is asked of servers' files, done and told. Runs on the threads of whoever calls it.

use super::{Files, Stop, Trouble, perform};
use crate::protocol::{FileAction, Outcome, Reply, ServerId, Spec};

/// See the module's description.
#[derive(Debug)]
pub struct Desk {
    pub files: Files,
    /// Ends what is long.
    pub stop: Stop,
}

impl Desk {
    /// Does what is asked of one server's files; `most` is how many bytes of a file one answer carries. The cause of a
    /// failure goes to the log, named by `label`.
    pub fn perform(
        &self,
        label: &str,
        server: &ServerId,
        spec: &Spec,
        action: &FileAction,
        most: u64,
    ) -> Outcome {
        let done = self.files.root(server, spec).and_then(|root| perform(&root, action, most, &self.stop));
        match done {
            Ok(reply) => Ok(Reply::File(Box::new(reply))),
            Err(trouble) => {
                if let Trouble::Io(error) = &trouble {
                    log::info!("{label}: {server}: {}: {error}", action.name());
                }
                Err(trouble.fault())
            }
        }
    }
}
