//! The typed calls: what the Agent asks of the Engine, one method each.
//!
//! Every method blocks its caller for at most its bound: 30 s for what only reads, 2 min for what changes something
//! (plus a second's fraction), 10 s for a ping. Beside the statuses a method names, each may fail with any [`Error`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::call::Call;
use super::container::{ContainerConfig, Created, Resources};
use super::endpoint::{ApiVersion, Endpoint, EndpointError};
use super::error::Error;
use super::http::{Http, Ping};
use super::inspect::{Container, Info, Summary, Version};

/// A client of one Engine. A clone is the same client: they share the pool of connections and the API version.
///
/// The version is agreed on by a ping before the first call, and again after a connection has failed, since another
/// Engine may answer then. A call that the Engine may have received is sent a second time only if twice is the same
/// as once: reads, updates and removals are, create, start and kill are not.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: Http,
    endpoint: Endpoint,
}

impl Client {
    /// Reads the TLS files if there are any, and connects to nothing yet. `version` is `DOCKER_API_VERSION`: it is
    /// used as it is and never negotiated.
    pub fn new(endpoint: Endpoint, version: Option<ApiVersion>) -> Result<Client, EndpointError> {
        let http = Http::new(&endpoint, version)?;
        Ok(Client(Arc::new(Inner { http, endpoint })))
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// The API version in use; asks the Engine if none is agreed on yet.
    pub fn api_version(&self) -> Result<ApiVersion, Error> {
        self.http().api_version()
    }

    pub fn ping(&self) -> Result<Ping, Error> {
        self.http().ping()
    }

    /// A ping on a connection made for it, within `limit` in all. An Engine that is shutting down still serves the
    /// connections it has for some 10 s, but takes no new one.
    pub fn ping_fresh(&self, limit: Duration) -> Result<Ping, Error> {
        self.http().ping_fresh(limit)
    }

    pub fn version(&self) -> Result<Version, Error> {
        self.http().json(Call::get("/version"))
    }

    pub fn info(&self) -> Result<Info, Error> {
        self.http().json(Call::get("/info"))
    }

    /// Creates a container under `name`.
    ///
    /// 409: the name is in use (inspect it by name: it may be ours). 404: no such image. 400: a field is wrong, also
    /// for a name of one character. Never repeated: after [`Error::is_unknown_outcome`] look for the name.
    pub fn create(&self, name: &str, config: &ContainerConfig) -> Result<Created, Error> {
        self.http().json(Call::post("/containers/create").query("name", name).json(config)?)
    }

    /// 304: it runs already. 404: gone. 409: it is paused or being removed. 500: it could not be started, and the
    /// text says why (port in use, bad mount, no such program). Never repeated.
    pub fn start(&self, container: &str) -> Result<(), Error> {
        self.http().run(Call::post(container_path(container, "/start")?)).map(drop)
    }

    /// Sends a signal, such as `SIGTERM`, to the container's first process and returns once it is sent.
    ///
    /// 409: it does not run. 404: gone. Docker takes any kill, even SIGHUP, as a manual stop and no longer restarts
    /// the container by its own policy. Never repeated.
    pub fn kill(&self, container: &str, signal: &str) -> Result<(), Error> {
        self.http().run(Call::post(container_path(container, "/kill")?).query("signal", signal)).map(drop)
    }

    /// Removes the container, with its anonymous volumes left alone. With `force` it is killed first.
    ///
    /// 404: gone already, also when this call removed it but had to be sent again. 409: it runs and `force` is not
    /// set, or a removal is under way ([`Error::is_removal_in_progress`]).
    pub fn remove(&self, container: &str, force: bool) -> Result<(), Error> {
        self.http().run(Call::delete(container_path(container, "")?).query("force", force)).map(drop)
    }

    /// By id or name. 404: no such container.
    pub fn inspect(&self, container: &str) -> Result<Container, Error> {
        self.http().json(Call::get(container_path(container, "/json")?))
    }

    /// All containers, running or not, that have every one of these labels, each `name` or `name=value`.
    pub fn list(&self, labels: &[&str]) -> Result<Vec<Summary>, Error> {
        let filters = BTreeMap::from([("label", labels)]);
        let filters = serde_json::to_string(&filters).expect("a map of texts always serialises");
        self.http().json(Call::get("/containers/json").query("all", 1).query("filters", filters))
    }

    /// Changes limits, of a running container at once. Returns the Engine's warnings. What is `None` or 0 stays as
    /// it is. 404: gone. 500: a value the kernel or the other limits do not allow.
    pub fn update(&self, container: &str, resources: &Resources) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default, deserialize_with = "super::inspect::null_as_default")]
            warnings: Vec<String>,
        }
        let call = Call::post(container_path(container, "/update")?).idempotent().json(resources)?;
        self.http().json(call).map(|answer: Answer| answer.warnings)
    }

    pub(super) fn http(&self) -> &Http {
        &self.0.http
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.endpoint)
    }
}

/// A text that no container can be named by is not sent: in a path it could mean something else.
pub(super) fn container_path(container: &str, tail: &str) -> Result<String, Error> {
    let word = |b: u8| b.is_ascii_alphanumeric();
    let holds = container.bytes().next().is_some_and(word)
        && container.bytes().all(|b| word(b) || matches!(b, b'_' | b'.' | b'-'))
        && container.len() <= 255;
    match holds {
        true => Ok(format!("/containers/{container}{tail}")),
        false => Err(Error::status_of(404, "no container can have this name")),
    }
}
