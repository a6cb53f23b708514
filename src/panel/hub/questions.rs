//! Questions to nodes whose answer is for one asker and changes nothing here, such as a directory's list: sent at once,
//! not stored, and given up with the link.
//!
//! Part of [`Fleet`], on the hub's thread.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;

use super::fleet::Fleet;
use crate::panel::problem::Problem;
use crate::panel::wire::{Failure, Success};
use crate::protocol::{NodeId, ServerId, panel_side};

/// Questions without an answer that one node may have.
const MAX_OUT: usize = 128;
/// Whoever asks has left long before.
const GIVEN_UP: Duration = Duration::from_secs(120);

pub type Answer = Result<Success, Failure>;

#[derive(Default)]
pub(super) struct Questions(HashMap<String, Out>);

struct Out {
    node: NodeId,
    link: u64,
    since: Instant,
    asker: Option<Sender<Answer>>,
}

impl Questions {
    /// Those who wait are told by the end of their channel.
    pub fn link_ended(&mut self, link: u64) {
        self.0.retain(|_, out| out.link != link);
    }
}

impl Fleet {
    /// Asks a node; the answer comes through the channel, which is disconnected when the link ends before.
    pub fn ask(
        &mut self,
        node: NodeId,
        server: Option<ServerId>,
        action: &str,
        payload: Value,
    ) -> Result<Receiver<Answer>, Problem> {
        self.known_and_online(&node, server.as_ref())?;
        let (asker, answer) = bounded(1);
        self.question(node, server, action, payload, Some(asker))?;
        Ok(answer)
    }

    pub(super) fn question(
        &mut self,
        node: NodeId,
        server: Option<ServerId>,
        action: &str,
        payload: Value,
        asker: Option<Sender<Answer>>,
    ) -> Result<(), Problem> {
        let now = Instant::now();
        self.questions.0.retain(|_, out| now.duration_since(out.since) < GIVEN_UP);
        if self.questions.0.values().filter(|out| out.node == node).count() >= MAX_OUT {
            let what = format!("Node {node} has too many questions to answer. Try again soon.");
            return Err(Problem { retry_after: Some(2), ..Problem::new(503, "BUSY", what) });
        }
        let id = self.new_command_id();
        let link = self.nodes.get(&node).and_then(|live| live.link.as_ref());
        let text =
            panel_side::command(&id, Some(&node), action, server.as_ref(), &payload, SystemTime::now());
        match link.filter(|link| link.line.send(text)).map(|link| link.number) {
            Some(link) => {
                self.questions.0.insert(id, Out { node, link, since: now, asker });
                Ok(())
            }
            None => Err(offline(&node)),
        }
    }

    /// Whether `id` was such a question of this node; hands its answer on.
    pub(super) fn answers_question(&mut self, node: &NodeId, id: &str, answer: &mut Option<Answer>) -> bool {
        // INVARIANT: a node's answer reaches that node's questions only.
        if self.questions.0.get(id).is_none_or(|out| out.node != *node) {
            return false;
        }
        if let (Some(out), Some(answer)) = (self.questions.0.remove(id), answer.take())
            && let Some(asker) = out.asker
        {
            let _ = asker.try_send(answer); // the one place is free; nobody may wait any more
        }
        true
    }

    pub(super) fn known_and_online(&self, node: &NodeId, server: Option<&ServerId>) -> Result<(), Problem> {
        if self.store.node(node).is_none() {
            return Err(Problem::new(404, "NODE_NOT_FOUND", format!("There is no node {node}.")));
        }
        if let Some(id) = server.filter(|id| self.store.server(&(node.clone(), (*id).clone())).is_none()) {
            return Err(Problem::new(404, "SERVER_NOT_FOUND", format!("Node {node} has no server {id}.")));
        }
        if self.is_online(node) { Ok(()) } else { Err(offline(node)) }
    }
}

pub(super) fn offline(node: &NodeId) -> Problem {
    let what = format!("Node {node} is offline. Start its Agent or check its connection, then try again.");
    Problem::new(409, "NODE_OFFLINE", what)
}
