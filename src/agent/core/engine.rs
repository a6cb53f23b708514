//! The Engine, as the loop sees it: when it goes away and comes back, and what containers of ours there are.

use super::*;

impl Core {
    pub(super) fn engine_said(&mut self, event: EngineEvent) {
        self.link.release(Instant::now());
        match event {
            EngineEvent::Lost { cause } => {
                log::warn!("engine: lost: {cause}");
                self.counters.engine_error("lost");
                self.engine.lost();
                for id in self.servers.keys().cloned().collect::<Vec<_>>() {
                    self.step(&id, Input::EngineLost);
                }
            }
            EngineEvent::Missed { cause } => {
                log::info!("engine: following its events anew: {cause}");
                for id in self.servers.keys().cloned().collect::<Vec<_>>() {
                    self.step(&id, Input::EventsMissed);
                }
            }
            EngineEvent::Found { version, api_version, containers } => {
                log::info!(
                    "engine: version {version}, API {api_version}, {} containers of ours",
                    containers.len()
                );
                self.engine.found(version, api_version);
                self.reconcile(containers);
                self.settle_unknown();
            }
            EngineEvent::Container { server, input } => self.step(&server, input),
        }
        self.publish();
    }

    /// Makes every machine agree with what was found; a container of ours that nobody knows is taken up again.
    fn reconcile(&mut self, containers: Vec<Seen>) {
        let mut found: HashMap<ServerId, Seen> =
            containers.into_iter().map(|seen| (seen.server.clone(), seen)).collect();
        for id in self.servers.keys().cloned().collect::<Vec<_>>() {
            let facts: Option<Facts> = found.remove(&id).map(|seen| seen.facts);
            self.step(&id, Input::Inspected(facts));
        }
        for (id, seen) in found {
            let Some(spec) = seen.spec else {
                log::warn!("{id}: its container does not tell its spec; left alone");
                continue;
            };
            log::warn!("{id}: its record is lost; taken up again from its container");
            let desired = if seen.facts.running {
                crate::server::Desired::Running
            } else {
                crate::server::Desired::Stopped
            };
            self.servers
                .insert(id.clone(), Server::new(Machine::adopt(Arc::new(spec), desired), self.ready_timeout));
            self.step(&id, Input::Inspected(Some(seen.facts)));
        }
    }
}
