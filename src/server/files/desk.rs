//! [`Desk`]: what is asked of servers' files, done and told. Runs on the threads of whoever calls it. What the kernel denies
//! to an Agent without root is asked of a container, and only that.

use std::ffi::CString;
use std::sync::Arc;

use rustix::fs::{AtFlags, unlinkat};

use super::{Files, Trouble, perform, tree};
use crate::protocol::{Fault, FileAction, FileReply, Outcome, Reply, ServerId, Spec};
use crate::server::abort::Abort;
use crate::server::helper::talk::Work;
use crate::server::helper::{Errand, Helper};

/// See the module's description.
#[derive(Debug)]
pub struct Desk {
    pub files: Arc<Files>,
    /// Where the Agent is not root.
    pub helper: Option<Arc<Helper>>,
    /// Ends what is long.
    pub abort: Abort,
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
        let done = self.files.root(server, spec).and_then(|root| perform(&root, action, most, &self.abort));
        let reply = match (done, &self.helper) {
            (Ok(reply), _) => reply,
            (Err(trouble), Some(helper)) if trouble.is_denied() => {
                let quota = self.files.quota(server, spec);
                let errand = Errand::new(server, self.files.owner(spec), &quota, &self.abort);
                let reply = helper.run(&errand, Work::act(server, action, most));
                let reply = reply.map_err(|refused| refused.fault(label, server))?.reply();
                return Ok(reply.unwrap_or_else(|| Reply::File(Box::<FileReply>::default())));
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
                let errand = Errand::new(server, Some(owner), &quota, &self.abort);
                helper.run(&errand, Work::Give).map(drop).map_err(|refused| refused.fault(label, server))
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
        let name = CString::new(server.as_str()).map_err(std::io::Error::from)?;
        let removed = tree::remove_entry(self.files.servers(), &name, Some(&quota), &self.abort);
        match (removed, &self.helper) {
            (Err(trouble), Some(helper)) if trouble.is_denied() => {
                let errand = Errand::new(server, None, &quota, &self.abort);
                helper.run(&errand, Work::Empty).map_err(|refused| refused.fault(label, server))?;
                Ok(unlinkat(self.files.servers(), &name, AtFlags::REMOVEDIR)?)
            }
            (removed, _) => removed,
        }
    }
}
