//! What is answered at once from the loop's own state and the newest figures, without asking the Engine.

use super::*;

impl Core {
    pub(super) fn find_container(&self, name: &str) -> Option<ServerId> {
        let by_name = |id: &ServerId| crate::server::blueprint::container_name(&self.node, id) == name;
        if let Some((id, _)) = self.servers.iter().find(|(id, _)| by_name(id)) {
            return Some(id.clone());
        }
        if name.len() < 12 {
            return None;
        }
        let mut found = self.servers.iter().filter(|(_, server)| {
            server.machine.container().is_some_and(|container| container.id.as_str().starts_with(name))
        });
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Some(id.clone()),
            _ => None,
        }
    }

    pub(super) fn read(&self, action: &Action) -> Outcome {
        match action {
            Action::Server(id, action) => {
                let server = self.servers.get(id).ok_or_else(server_not_found)?;
                Ok(self.tell_about(id, server, action))
            }
            Action::Container(name, action) => {
                let id = self.find_container(name).ok_or_else(container_not_found)?;
                let server = self.servers.get(&id).ok_or_else(container_not_found)?;
                Ok(self.tell_about(&id, server, action))
            }
            Action::ListServers => {
                let created = self.servers.iter().filter(|(_, server)| server.machine.is_created());
                Ok(Reply::Servers(created.map(|(id, server)| self.report(id, server)).collect()))
            }
            Action::SystemMetrics => Ok(Reply::SystemMetrics(Box::new(self.sample.metrics(self.count())))),
            Action::SystemPing => Ok(Reply::Pong),
            Action::SystemInfo => Ok(Reply::SystemInfo(Box::new(self.host.info(
                self.node.as_str(),
                &self.sample,
                self.engine.version(),
                protocol::capabilities(),
            )))),
        }
    }

    fn tell_about(&self, id: &ServerId, server: &Server, action: &ServerAction) -> Reply {
        let report = self.report(id, server);
        if *action != ServerAction::Metrics {
            return Reply::Status(Box::new(report));
        }
        let ServerReport { uptime, resources: Resources { cpu, memory, network, disk, pids }, .. } = report;
        Reply::Metrics(Box::new(ServerMetrics {
            cpu,
            memory: memory.used,
            disk: disk.used,
            network: InOut { r#in: network.rx, out: network.tx },
            pids,
            uptime,
        }))
    }

    /// A server as it is told, from the loop's own state and the newest figures.
    fn report(&self, id: &ServerId, server: &Server) -> ServerReport {
        let machine = &server.machine;
        let container = machine.container();
        let running = container.filter(|c| c.running);
        let spec = machine.spec();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = running.map(|c| Duration::from_nanos(c.started_ns));
        ServerReport {
            server_id: id.clone(),
            status: machine.status(),
            container_id: container.map(|c| c.id.to_string()),
            uptime: since.map_or(0, |since| now.saturating_sub(since).as_secs()),
            exit_code: machine.exit_code(),
            resources: figures::resources_of(&self.stats, &self.disks, id, spec.limits.memory),
            name: spec.name.clone(),
            image: spec.image.clone(),
            ports: spec.ports.clone(),
        }
    }
}
