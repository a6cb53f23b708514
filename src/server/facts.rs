//! What a look at Docker tells of a server's container.

use crate::docker::{Container, ContainerId};

/// Label with the id of the node that owns the container.
pub const LABEL_NODE: &str = "longshore.node";
/// Label with the server's id.
pub const LABEL_SERVER: &str = "longshore.server";
/// Label with the hash of the spec that the container was made from.
pub const LABEL_SPEC: &str = "longshore.spec";
/// Label with the spec itself, so that a lost data directory does not orphan a server.
pub const LABEL_DEFINITION: &str = "longshore.definition";

/// The container as it was found. Times are nanoseconds since the Unix epoch by the Engine's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub id: ContainerId,
    pub spec_hash: String,
    pub running: bool,
    pub pid: u32,
    pub exit_code: i64,
    pub oom_killed: bool,
    /// 0 when it never started.
    pub started_ns: u64,
    pub finished_ns: u64,
}

/// An end that Docker reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Died {
    pub exit_code: i64,
    pub at_ns: u64,
}

impl Facts {
    pub fn ever_started(&self) -> bool {
        self.started_ns > 0
    }

    /// How it ended, for a container that does not run.
    pub fn exit(&self) -> Died {
        Died { exit_code: self.exit_code, at_ns: self.finished_ns }
    }

    /// [`Facts::exit`], but only when it ran and ended.
    pub fn died(&self) -> Option<Died> {
        (!self.running && self.ever_started()).then(|| self.exit())
    }
}

impl From<&Container> for Facts {
    fn from(container: &Container) -> Facts {
        let (config, state) = (&container.config, &container.state);
        Facts {
            id: container.id.clone(),
            spec_hash: config.labels.get(LABEL_SPEC).cloned().unwrap_or_default(),
            running: state.running,
            pid: state.pid,
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
            started_ns: state.started_ns.unwrap_or(0),
            finished_ns: state.finished_ns.unwrap_or(0),
        }
    }
}
