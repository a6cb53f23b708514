//! Commands on their way: accepted, made durable, sent, answered, or overdue.
//!
//! Part of [`Fleet`], on the hub's thread. A command is stored before it is sent and until it is answered. What has
//! no answer when a link begins is sent again under the same id, which Agents do not run twice: so an answer that
//! was lost with a link or with the Panel itself is asked for again, and each command is resolved once.

use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{debug, error, info};
use serde_json::{Map, Value};

use super::fleet::{Fleet, new_server};
use super::questions::offline;
use super::views::{CommandView, Progressing};
use crate::panel::events::Subject;
use crate::panel::problem::Problem;
use crate::panel::store::{CommandRecord, ServerKey, ServerRecord};
use crate::panel::time::Time;
use crate::panel::wire::{self, Failure, Progress, Response, Success};
use crate::protocol::{NodeId, ServerId, Status, panel_side};

/// Commands without an answer that one node may have.
const MAX_PENDING: usize = 1_000;
/// Outcomes that can be asked for afterwards.
const MAX_FINISHED: usize = 1_000;
const MAX_FINISHED_BYTES: usize = 8 << 20;
/// How long a command whose deadline has passed is still matched with an answer: Agents remember as long.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What is asked of a node.
#[derive(Clone, Debug)]
pub struct Order {
    pub node: NodeId,
    pub server: Option<ServerId>,
    pub action: String,
    pub payload: Value,
    /// Start the server once it is created.
    pub then_start: bool,
    /// A raw command goes to the node as it is, whatever the Panel knows of its servers.
    pub raw: bool,
    /// Name of the user who asks.
    pub by: Option<String>,
    /// Template and values of its variables, for a server that is created or changed.
    pub template: Option<String>,
    pub variables: Option<Map<String, Value>>,
}

impl Order {
    pub fn new(node: NodeId, server: Option<ServerId>, action: &str, payload: Value) -> Order {
        Order {
            node,
            server,
            action: action.to_owned(),
            payload,
            then_start: false,
            raw: false,
            by: None,
            template: None,
            variables: None,
        }
    }
}

/// An order that was accepted and is durable.
pub struct Accepted {
    pub pending: CommandView,
    /// The outcome, once. Disconnected when the Panel ends before.
    pub outcome: Receiver<Finished>,
}

pub type Finished = CommandView;

/// An accepted order that waits for the commit.
pub struct Staged {
    id: String,
    reply: Option<Sender<Result<Accepted, Problem>>>,
}

impl Fleet {
    /// Takes an order on; the reply comes when it is durable.
    pub fn order(&mut self, mut order: Order, reply: Sender<Result<Accepted, Problem>>) {
        match self.check(&order).and_then(|()| self.give_ports(&mut order)) {
            Ok(()) => self.stage(order, Some(reply)),
            Err(problem) => {
                let _ = reply.send(Err(problem)); // nobody waits any more
            }
        }
    }

    fn check(&self, order: &Order) -> Result<(), Problem> {
        let node = &order.node;
        if self.store.node(node).is_none() {
            return Err(Problem::new(404, "NODE_NOT_FOUND", format!("There is no node {node}.")));
        }
        let is_create = order.action == "create_server";
        let known =
            order.server.as_ref().is_some_and(|id| self.store.server(&(node.clone(), id.clone())).is_some());
        if let Some(id) = order.server.as_ref().filter(|_| !order.raw && known == is_create) {
            return Err(match is_create {
                true => Problem {
                    field: Some("id".into()),
                    ..Problem::new(409, "SERVER_EXISTS", format!("Node {node} already has a server {id}."))
                },
                false => Problem::new(404, "SERVER_NOT_FOUND", format!("Node {node} has no server {id}.")),
            });
        }
        let begins = matches!(order.action.as_str(), "create_server" | "start_server" | "restart_server");
        if begins && self.store.node(node).is_some_and(|record| record.maintenance) {
            let what = format!("Node {node} is in maintenance. End that on its page first.");
            return Err(Problem::new(409, "NODE_MAINTENANCE", what));
        }
        if !self.is_online(node) {
            return Err(offline(node));
        }
        if self.store.commands().filter(|(_, command)| command.node == *node).count() >= MAX_PENDING {
            let what = format!("Node {node} has {MAX_PENDING} commands without an answer. Try again later.");
            return Err(Problem::new(503, "BUSY", what));
        }
        Ok(())
    }

    /// Forgets commands that nobody will answer any more.
    fn forget_old(&mut self, now: Time) {
        let is_old = |command: &CommandRecord| now.since(command.deadline) > REMEMBERED;
        let old: Vec<String> =
            self.store.commands().filter(|(_, command)| is_old(command)).map(|(id, _)| id.clone()).collect();
        for id in &old {
            self.store.remove_command(id);
        }
        if !old.is_empty() {
            self.forget_commands();
        }
    }

    /// Lets go of what is known beside the store of commands that are not in it any more, as after a node's removal.
    /// Those that wait for one of them are told by the end of their channel.
    pub(super) fn forget_commands(&mut self) {
        let Fleet { store, deadlines, sent_on, progress, waiters, .. } = self;
        deadlines.retain(|(_, id)| store.command(id).is_some());
        sent_on.retain(|id, _| store.command(id).is_some());
        progress.retain(|id, _| store.command(id).is_some());
        waiters.retain(|id, _| store.command(id).is_some());
    }

    fn stage(&mut self, order: Order, reply: Option<Sender<Result<Accepted, Problem>>>) {
        let key = order.server.clone().map(|server| (order.node.clone(), server));
        if let (Some(key), "create_server") = (&key, order.action.as_str()) {
            let spec = order.payload.as_object().cloned().unwrap_or_default();
            if self.store.server(key).is_none() {
                let record = ServerRecord {
                    template: order.template.clone(),
                    variables: order.variables.clone().unwrap_or_default(),
                    ..new_server(Some(without_options(spec)))
                };
                self.store.put_server(key, record);
            }
        }
        let created = Time::now();
        self.forget_old(created);
        let deadline = created.after(self.patience(&order, key.as_ref()));
        let id = self.new_command_id();
        info!(
            "node {}: command {id}: {} {}",
            order.node,
            order.action,
            server_or_node(order.server.as_ref())
        );
        let record = CommandRecord {
            node: order.node,
            server: order.server,
            action: order.action,
            payload: order.payload,
            created,
            deadline,
            then_start: order.then_start,
            by: order.by,
            variables: order.variables,
        };
        self.store.put_command(id.clone(), record);
        self.deadlines.insert((deadline, id.clone()));
        self.staged.push(Staged { id, reply });
    }

    /// Ends a batch of work: makes what was accepted durable with one commit, then sends it. Without anything
    /// accepted it does nothing, since all else may wait.
    pub fn settle(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let committed = self.store.commit();
        for Staged { id, reply } in std::mem::take(&mut self.staged) {
            let Some(command) = self.store.command(&id).cloned() else { continue };
            if let Err(cause) = &committed {
                error!("command {id}: it could not be stored: {cause}");
                self.unstage(&id, &command);
                if let Some(reply) = reply {
                    let what = match cause.is_full() {
                        true => "The Panel's disk is full, so the command was not sent. Make room on it.",
                        false => {
                            "The Panel could not store the command, so it was not sent. Check its disk and log."
                        }
                    };
                    let _ = reply.send(Err(Problem::new(507, "STORE_FAILED", what)));
                }
                continue;
            }
            self.send(&id, &command);
            if let Some(reply) = reply {
                let (waiter, outcome) = bounded(1);
                self.waiters.entry(id.clone()).or_default().push(waiter);
                let _ =
                    reply.send(Ok(Accepted { pending: view(&id, &command, Progressing::Pending), outcome }));
            }
            self.tell_command(&id, &command);
        }
    }

    /// Takes a command back that could not be stored: it never was.
    fn unstage(&mut self, id: &str, command: &CommandRecord) {
        self.store.remove_command(id);
        self.deadlines.remove(&(command.deadline, id.to_owned()));
        if let Some(key) = command.server_key().filter(|_| command.action == "create_server") {
            self.forget_server(&key);
        }
    }

    fn send(&mut self, id: &str, command: &CommandRecord) {
        // Should the link have gone meanwhile, the next one gets it.
        if let Some(link) = self.nodes.get(&command.node).and_then(|live| live.link.as_ref()) {
            let server = command.server.as_ref();
            let payload = &command.payload;
            let (node, now) = (Some(&command.node), SystemTime::now());
            let text = panel_side::command(id, node, &command.action, server, payload, now);
            if link.line.send(text) {
                self.sent_on.insert(id.to_owned(), link.number);
            }
        }
    }

    /// Sends what has no answer, on a link that is new to it.
    pub(super) fn send_again(&mut self, node: &NodeId) {
        let Some(link) = self.nodes.get(node).and_then(|live| live.link.as_ref()).map(|link| link.number)
        else {
            return;
        };
        let staged = |id: &String| self.staged.iter().any(|staged| staged.id == *id);
        let missing: Vec<(String, CommandRecord)> = self
            .store
            .commands()
            .filter(|(id, command)| command.node == *node && self.is_due(id, command) && !staged(id))
            .filter(|(id, _)| self.sent_on.get(*id) != Some(&link))
            .map(|(id, command)| (id.clone(), command.clone()))
            .collect();
        for (id, command) in missing {
            info!("node {node}: command {id}: sent again, it has no answer yet");
            self.send(&id, &command);
        }
    }

    /// Whether a command's deadline is still to come.
    pub(super) fn is_due(&self, id: &str, command: &CommandRecord) -> bool {
        self.deadlines.contains(&(command.deadline, id.to_owned()))
    }

    pub(super) fn answered(&mut self, node: &NodeId, response: Response) {
        let Response { id, outcome } = response;
        if self.listed(node, &id, outcome.as_ref().ok()) {
            return;
        }
        let mut outcome = Some(outcome);
        if self.answers_question(node, &id, &mut outcome) {
            return;
        }
        let Some(outcome) = outcome else { return };
        // INVARIANT: a node's answer reaches that node's commands only.
        if self.store.command(&id).is_none_or(|command| command.node != *node) {
            debug!("node {node}: an answer to {id}, which is answered or was never asked");
            return;
        }
        let Some(command) = self.store.remove_command(&id) else { return };
        self.deadlines.remove(&(command.deadline, id.clone()));
        self.sent_on.remove(&id);
        self.progress.remove(&id);
        let outcome = self.apply(&command, outcome);
        let state = if outcome.is_ok() { Progressing::Succeeded } else { Progressing::Failed };
        let mut finished = view(&id, &command, state);
        match outcome {
            Ok(success) => (finished.message, finished.data) = (success.message, success.data),
            Err(failure) => {
                info!("node {node}: command {id}: {} failed: {}", command.action, failure.code);
                finished.error = Some(Problem::from(&failure));
            }
        }
        let start = command.server.clone().filter(|_| command.then_start && state == Progressing::Succeeded);
        self.finish(finished);
        if let Some(server) = start {
            let order = Order::new(command.node, Some(server), "start_server", Value::Object(Map::new()));
            self.stage(Order { by: command.by, ..order }, None);
        } else if let Some(key) = command.server_key() {
            self.tell_server(&key);
        }
    }

    /// What an outcome says about the server, before anyone is told of it.
    fn apply(
        &mut self,
        command: &CommandRecord,
        outcome: Result<Success, Failure>,
    ) -> Result<Success, Failure> {
        let Some(key) = command.server_key() else { return outcome };
        match &outcome {
            Ok(success) => {
                let facts = success.facts();
                if command.action == "update_server"
                    && let Some(record) = self.store.server_mut(&key)
                {
                    if let (Some(spec), Some(patch)) = (&mut record.spec, command.payload.as_object()) {
                        wire::merge(spec, patch);
                    }
                    record.needs_restart |= facts.needs_restart == Some(true);
                    if let Some(variables) = &command.variables {
                        record.variables.extend(variables.clone());
                    }
                }
                if command.action == "send_server_command"
                    && let Some(line) = command.payload.get("command").and_then(Value::as_str)
                {
                    let told = self.consoles.say(&key, "input", line);
                    self.tell_output(&key, &told);
                }
                if let Some(status) = facts.status {
                    self.learn(&key, status, None, facts.exit_code);
                }
            }
            // Gone is what was asked for, and the Panel must be able to let go of a server that its node has lost.
            Err(failure) if command.action == "delete_server" && failure.code == "SERVER_NOT_FOUND" => {
                self.forget_server(&key);
                let message = Some("The node did not have this server any more. It is removed.".into());
                return Ok(Success { message, data: None });
            }
            // A server that its node has told of exists, even if setting it up has failed (`INSTALL_FAILED`).
            Err(_) if command.action == "create_server" => {
                if self.store.server(&key).is_some_and(|record| record.status == Status::Unknown) {
                    self.forget_server(&key);
                    self.list_servers(&command.node);
                }
            }
            Err(_) => {}
        }
        outcome
    }

    fn finish(&mut self, finished: Finished) {
        let told = CommandView { data: None, ..finished.clone() };
        self.broadcast.publish(subject(&finished), "command", &told);
        for waiter in self.waiters.remove(&finished.id).unwrap_or_default() {
            let _ = waiter.try_send(finished.clone()); // its one place is free; the other end may have left
        }
        let told_as_unknown = self.finished.iter().position(|earlier| earlier.id == finished.id);
        if let Some(earlier) = told_as_unknown.and_then(|index| self.finished.remove(index)) {
            self.finished_bytes -= size(&earlier);
        }
        self.finished_bytes += size(&finished);
        self.finished.push_back(finished);
        while (self.finished.len() > MAX_FINISHED || self.finished_bytes > MAX_FINISHED_BYTES)
            && let Some(oldest) = self.finished.pop_front()
        {
            self.finished_bytes -= size(&oldest);
        }
    }

    pub(super) fn progressed(&mut self, node: &NodeId, progress: Progress) {
        let Some(id) = progress.command_id.clone() else { return };
        if let Some(command) = self.store.command(&id).filter(|command| command.node == *node) {
            let key = command.server_key();
            let view =
                CommandView { progress: Some(progress.clone()), ..view(&id, command, Progressing::Pending) };
            self.broadcast.publish(subject(&view), "command", &view);
            self.progress.insert(id, progress);
            if let Some(key) = key {
                self.tell_server(&key);
            }
        }
    }

    // ---- time

    /// When [`Fleet::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Tells commands whose deadline has passed as unknown.
    pub fn expire(&mut self, now: Time) {
        while let Some((deadline, id)) = self.deadlines.pop_first() {
            if deadline > now {
                self.deadlines.insert((deadline, id));
                break;
            }
            let Some(command) = self.store.command(&id).cloned() else { continue };
            info!("node {}: command {id}: {} has no answer by its deadline", command.node, command.action);
            let what = format!(
                "Node {} has not answered in time, so the outcome is not known. An answer that still comes is shown.",
                command.node
            );
            let error = Some(Problem::new(504, "NO_ANSWER", what));
            self.finish(CommandView { error, ..view(&id, &command, Progressing::Unknown) });
            if let Some(key) = command.server_key() {
                self.tell_server(&key);
            }
        }
    }

    /// How long an answer may take. An Agent answers every command; this is for the one that does not.
    fn patience(&self, order: &Order, key: Option<&ServerKey>) -> Duration {
        const SLACK: u64 = 60;
        const PULL: u64 = 30 * 60;
        let spec = key.and_then(|key| self.store.server(key)).and_then(|record| record.spec.as_ref());
        let own = spec.and_then(|spec| spec.get("stop")?.get("timeout")?.as_u64());
        let stop = order.payload.get("timeout").and_then(Value::as_u64).or(own).unwrap_or(30).min(3600);
        Duration::from_secs(match order.action.as_str() {
            "create_server" | "start_server" | "update_server" => PULL,
            "stop_server" | "suspend_server" => stop + SLACK,
            "restart_server" | "delete_server" => stop + PULL,
            "install_server" | "reinstall_server" => stop + 2 * PULL,
            "kill_server" | "unsuspend_server" => SLACK,
            _ => 5 * 60,
        })
    }

    // ---- how it looks

    pub fn command_view(&self, id: &str) -> Option<CommandView> {
        let finished = self.finished.iter().find(|finished| finished.id == id).cloned();
        finished.or_else(|| {
            let command = self.store.command(id)?;
            let state = if self.is_due(id, command) { Progressing::Pending } else { Progressing::Unknown };
            Some(CommandView { progress: self.progress.get(id).cloned(), ..view(id, command, state) })
        })
    }

    /// The latest commands to a server that are remembered, newest first.
    pub fn commands_of(&self, key: &ServerKey) -> Vec<CommandView> {
        let of_server = |view: &CommandView| view.node == key.0 && view.server_id.as_ref() == Some(&key.1);
        let mut views: Vec<CommandView> =
            self.finished.iter().filter(|finished| of_server(finished)).cloned().collect();
        let open = self.store.commands().filter(|(_, command)| command.server_key().as_ref() == Some(key));
        let known: std::collections::HashSet<String> = views.iter().map(|view| view.id.clone()).collect();
        views.extend(open.filter(|(id, _)| !known.contains(*id)).filter_map(|(id, _)| self.command_view(id)));
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
        views
    }

    fn tell_command(&mut self, id: &str, command: &CommandRecord) {
        let view = view(id, command, Progressing::Pending);
        self.broadcast.publish(subject(&view), "command", &view);
        if let Some(key) = command.server_key() {
            self.tell_server(&key);
        }
    }

    /// Unique over all runs of the Panel: an Agent would take a second command of the same id and content for the
    /// first and not run it.
    pub(super) fn new_command_id(&mut self) -> String {
        self.next_command += 1;
        format!("cmd_{}_{}", self.store.epoch(), self.next_command)
    }
}

impl CommandRecord {
    fn server_key(&self) -> Option<ServerKey> {
        Some((self.node.clone(), self.server.clone()?))
    }
}

fn view(id: &str, command: &CommandRecord, state: Progressing) -> CommandView {
    CommandView {
        id: id.to_owned(),
        node: command.node.clone(),
        server_id: command.server.clone(),
        action: command.action.clone(),
        state,
        created: command.created,
        deadline: command.deadline,
        by: command.by.clone(),
        progress: None,
        message: None,
        error: None,
        data: None,
    }
}

/// Who is told of a command: those who see its server, or all of its node.
fn subject(command: &CommandView) -> Subject {
    match &command.server_id {
        Some(server) => Subject::Server((command.node.clone(), server.clone())),
        None => Subject::Admins,
    }
}

/// The spec alone: what else a create payload may hold says how to create, not what.
fn without_options(mut payload: Map<String, Value>) -> Map<String, Value> {
    for option in ["keepData", "skipScripts"] {
        payload.remove(option);
    }
    payload
}

fn size(finished: &Finished) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    256 + text(&finished.message) + finished.data.as_ref().map_or(0, |data| data.get().len())
}

fn server_or_node(server: Option<&ServerId>) -> &str {
    server.map_or("the node", ServerId::as_str)
}
