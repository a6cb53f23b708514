//! Section 4 of the contract: what the Agent answers over HTTP. Runs on the gate's threads, one for each request.
//!
//! A command is decoded here, handed to the agent loop as an [`Event`] like one from the link, and waited for. Who waited
//! for long is told where it stands; the command goes on, and its repeat joins it. `/health` and `/metrics` are answered
//! from snapshots, also while commands take all places there are for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender};

use super::access::{Access, Refusal};
use super::caller::{self, Answer};
use super::core::{busy, stopping};
use super::event::Event;
use super::health::Board;
use super::metrics::{Counters, Metrics};
use crate::gate::{self, Handler, Head, Request, Response};
use crate::protocol::outcome::ServerReply;
use crate::protocol::{
    self, Action, Code, Command, Decoder, Envelope, Fault, MAX_HTTP_IN, Outcome, Rejected, Reply,
    ServerAction, Skip, http,
};

/// Commands in work at one time over HTTP.
const PLACES: usize = 16;
/// Requests in work beside them, all of which are answered at once.
const ASIDE: usize = 8;
/// How long a command is waited for: the panels that call give up at 30 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long the loop, which never blocks, may take to take an event or to tell a status.
const PROMPT: Duration = Duration::from_secs(2);

const LOOK: &str = "GET, HEAD";

/// What the gate asks. Its fields are what answers come from.
pub struct Api {
    pub access: Access,
    pub board: Arc<Board>,
    pub metrics: Metrics,
    pub counters: Counters,
    pub decoder: Decoder,
    pub events_tx: Sender<Event>,
    /// Commands in work.
    pub in_work: AtomicUsize,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Route {
    Health,
    Metrics,
    Status,
    Command,
}

impl Route {
    /// # Errors
    /// 404 or 405.
    fn of(head: &Head) -> Result<Route, Response> {
        let (route, methods) = match head.path() {
            "/health" => (Route::Health, LOOK),
            "/metrics" => (Route::Metrics, LOOK),
            "/api/status" => (Route::Status, LOOK),
            "/api/command" => (Route::Command, "POST"),
            _ => return Err(Response::not_found()),
        };
        match methods.split(", ").any(|method| method == head.method()) {
            true => Ok(route),
            false => Err(Response::method_not_allowed(methods)),
        }
    }
}

impl Handler for Api {
    /// Only a command has a body, and nobody's is read who does not bear the secret.
    fn body_limit(&self, head: &Head, peer: SocketAddr) -> Result<usize, Response> {
        match Route::of(head)? {
            Route::Command => self.access.admit(head, peer).map(|()| MAX_HTTP_IN).map_err(Refusal::in_json),
            Route::Health | Route::Metrics | Route::Status => Ok(0),
        }
    }

    fn handle(&self, request: Request) -> Response {
        match Route::of(request.head()) {
            Ok(Route::Health) => self.board.health(self.access.may_know(&request).is_ok()),
            Ok(Route::Metrics) => match self.access.may_know(&request) {
                Ok(()) => self.metrics.page(),
                Err(refusal) => refusal.in_text(),
            },
            Ok(Route::Status) => match self.access.check(&request) {
                Ok(()) => self.board.status(),
                Err(refusal) => refusal.in_json(),
            },
            Ok(Route::Command) => match self.access.check(&request) {
                Ok(()) => self.command(request),
                Err(refusal) => refusal.in_json(),
            },
            Err(refusal) => refusal,
        }
    }
}

impl Api {
    /// The gate to serve it with.
    pub fn gate(directory: PathBuf) -> gate::Config {
        gate::Config { requests: PLACES + ASIDE, directory: Some(directory), ..gate::Config::default() }
    }

    fn command(&self, mut request: Request) -> Response {
        let Some(_place) = Place::take(&self.in_work) else {
            let text = http::encode_error(Code::Busy, "As many commands are in work as there may be.");
            return Response::json(503, text).with("Retry-After", "1");
        };
        // Its bytes are freed once they are read, but count against what all bodies may hold until this is answered,
        // since what was read of them is as large.
        let body = request.take_body();
        let decoded = self.decoder.http(&body);
        drop(body);
        let (outcome, at) = match decoded {
            Ok(Ok(command)) => self.ask(command),
            Ok(Err(Rejected { envelope, fault })) => {
                let id = envelope.id().filter(|id| !id.is_empty()).unwrap_or("no-id");
                log::info!("{id}: refused: {fault}");
                self.counters.command("none", Some(fault.code), Duration::ZERO);
                (Err(fault), SystemTime::now())
            }
            Err(skip) => {
                let status = if skip == Skip::TooLarge { 413 } else { 400 };
                return Response::json(
                    status,
                    http::encode_error(Code::InvalidMessage, &format!("body: {skip}")),
                );
            }
        };
        let text = protocol::encode_outcome(&Envelope::Http { id: None }, &outcome, at);
        Response::json(200, text.unwrap_or_default())
    }

    /// Has the loop carry a command out.
    fn ask(&self, command: Command) -> Answer {
        let (is_read, status) = (command.is_read(), status_of(&command.action));
        let (caller, answers) = caller::pair();
        let event = Event::Http { command: Box::new(command), caller };
        match self.events_tx.send_timeout(event, PROMPT) {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => return now(Err(busy())),
            Err(SendTimeoutError::Disconnected(_)) => return now(Err(stopping())),
        }
        match answers.wait(PATIENCE) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => return now(Err(stopping())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let standing = match status {
            Some(status) if !is_read => self.standing(status),
            _ => Err(Fault::new(Code::Timeout, "This took longer than a request may. Ask for less at once.")),
        };
        // It may have come while the status was asked for.
        answers.now().unwrap_or_else(|_| now(standing))
    }

    /// The status that a server is in while a command for it goes on.
    fn standing(&self, status: Action) -> Outcome {
        let (caller, answers) = caller::pair();
        let command = Command { envelope: Envelope::Http { id: None }, action: status, key: None };
        let event = Event::Http { command: Box::new(command), caller };
        let told = self.events_tx.send_timeout(event, PROMPT).ok().and_then(|()| answers.wait(PROMPT).ok());
        match told {
            Some((Ok(Reply::Status(report)), _)) => {
                let message = "This goes on. Ask for the status, or send it again with the same id.";
                let reply = ServerReply::new(report.server_id, report.status, message);
                Ok(Reply::Server(Box::new(ServerReply { pending: Some(true), ..reply })))
            }
            Some((Err(fault), _)) => Err(fault),
            _ => Err(stopping()),
        }
    }
}

/// What asks for the status of the server that a command is for.
fn status_of(action: &Action) -> Option<Action> {
    match action {
        Action::Server(server, _) => Some(Action::Server(server.clone(), ServerAction::Status)),
        Action::Container(name, _) => Some(Action::Container(name.clone(), ServerAction::Status)),
        Action::ListServers | Action::SystemMetrics | Action::SystemPing | Action::SystemInfo => None,
    }
}

fn now(outcome: Outcome) -> Answer {
    (outcome, SystemTime::now())
}

/// One of the places for commands, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Place<'_> {
    fn take(taken: &AtomicUsize) -> Option<Place<'_>> {
        let place = Place(taken);
        (taken.fetch_add(1, Ordering::AcqRel) < PLACES).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
