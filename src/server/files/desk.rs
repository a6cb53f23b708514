//! [`Desk`]: what is asked of servers' files, done and told. Runs on the threads of whoever calls it. What the kernel denies
//! to an Agent without root is asked of a container, and only that.

use std::sync::Arc;

use rustix::fs::{AtFlags, unlinkat};

use super::helper::Work;
use super::{Files, Helper, Stop, Trouble, perform, tree};
use crate::protocol::{Fault, FileAction, Outcome, Reply, ServerId, Spec};

/// See the module's description.
#[derive(Debug)]
pub struct Desk {
    pub files: Arc<Files>,
    /// Where the Agent is not root.
    pub helper: Option<Helper>,
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
        let reply = match (done, &self.helper) {
            (Ok(reply), _) => reply,
            (Err(trouble), Some(helper)) if trouble.is_denied() => {
                let (owner, quota) = (self.files.owner(spec), self.files.quota(server, spec));
                helper.run(label, server, owner, &quota, &Work::Act(action, most))?
            }
            (Err(trouble), _) => {
                if let Trouble::Io(error) = &trouble {
                    log::info!("{label}: {server}: {}: {error}", action.name());
                }
                return Err(trouble.fault());
            }
        };
        Ok(Reply::File(Box::new(reply)))
    }

    /// Gives a server's directory, which the Agent has just made, to the server's user.
    ///
    /// # Errors
    /// When that takes root and cannot be had.
    pub fn give(&self, label: &str, server: &ServerId, spec: &Spec) -> Result<(), Fault> {
        let owner = self.files.directory_owner(spec);
        let given = self.files.root(server, spec).and_then(|root| Ok(owner.give(&root.dir)?));
        match (given, &self.helper) {
            (Err(trouble), Some(helper)) if trouble.is_denied() => {
                let quota = self.files.quota(server, spec);
                helper.run(label, server, Some(owner), &quota, &Work::Give).map(drop)
            }
            (given, _) => given.map_err(|trouble| trouble.fault()),
        }
    }

    /// Deletes a server's directory with all that is in it. One that is not there is no error.
    ///
    /// # Errors
    /// What could not be deleted.
    pub fn remove(&self, label: &str, server: &ServerId, spec: &Spec) -> Result<(), Trouble> {
        let quota = self.files.quota(server, spec);
        let removed = tree::delete_server(self.files.servers(), server.as_str(), &quota, &self.stop);
        match (removed, &self.helper) {
            (Err(trouble), Some(helper)) if trouble.is_denied() => {
                helper.run(label, server, None, &quota, &Work::Empty)?;
                Ok(unlinkat(self.files.servers(), server.as_str(), AtFlags::REMOVEDIR)?)
            }
            (removed, _) => removed,
        }
    }
}
