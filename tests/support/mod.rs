//! What the behaviour tests stand on: a real Engine, a fake Panel that misbehaves on request, and the built Agent.
//!
//! Everything waits on a condition with a deadline and says what it waited for; nothing sleeps. Names are unique to the
//! test process, so tests run at once, and what they made in the Engine is removed on drop, after a panic too.
// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_imports)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod agent_process;
mod browser;
pub mod cost;
mod download_server;
mod engine;
mod engine_proxy;
mod fake_panel;
mod fault_proxy;
mod http;
mod network;
pub mod output;
mod registry;
mod shape;
pub mod storm;
pub mod totp;
mod witness;

pub use agent_process::{AgentProcess, static_agent};
pub use browser::{Browser, Theme, alone, pictures};
pub use download_server::{DownloadServer, Served};
pub use engine::{Engine, NO_ENGINE, PrivateEngine, engine, need, script};
pub use engine_proxy::{EngineProxy, Passage};
pub use fake_panel::{Behaviour, Connection, FakePanel, Seen};
pub use fault_proxy::{Fault, FaultProxy};
pub use http::{Answer, exchange, get, request};
pub use network::Network;
pub use registry::{Image, Registry};
pub use shape::assert_shape;
pub use witness::Witness;

/// How long a test waits for what should happen at once: generous, since two cores may run several tests.
pub const SOON: Duration = Duration::from_secs(15);

/// The image that the demo server's tests run.
pub const DEMO_IMAGE: &str = "longshore/demo:latest";

/// A name like `test-4711-3` that no other test uses at this time; it is valid as a node id and a container's name.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The spec of a quiet demo server, with `extra` over it; an environment is merged.
pub fn demo(extra: Value) -> Value {
    let mut spec = json!({"image": DEMO_IMAGE, "environment": {"QUIET": "1"}, "limits": {"memory": "64m"}});
    for (name, value) in extra.as_object().into_iter().flatten() {
        match (spec[name].as_object_mut(), value.as_object()) {
            (Some(have), Some(more)) => have.extend(more.clone()),
            _ => spec[name] = value.clone(),
        }
    }
    spec
}

/// The code of a response that tells of a failure, else `none`.
pub fn code(response: &Value) -> &str {
    response["error"]["code"].as_str().unwrap_or("none")
}

/// A value that threads change and tests wait on.
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Watched { value: Mutex::new(value), changed: Condvar::new() }
    }

    /// A failed assertion elsewhere must not hide behind a poisoned lock, so poisoning is ignored.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `find` finds something, at most `within`.
    pub fn wait<R>(&self, within: Duration, mut find: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + within;
        let mut value = self.lock();
        loop {
            if let Some(found) = find(&mut value) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
