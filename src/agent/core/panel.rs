//! The Panel, as the loop sees it: a connection that begins, what is said on it, and the dialects it is said in.

use super::*;

impl Core {
    pub(super) fn dialed(&mut self, result: Result<crate::link::Connection, crate::link::DialError>) {
        let now = Instant::now();
        if let Some((generation, connection)) = self.link.dialed(result, now) {
            self.epoch.connected();
            let info = self.host.info(
                self.node.as_str(),
                &self.sample,
                self.engine.version(),
                protocol::capabilities(),
            );
            self.consoles.link_begins();
            let resent = self.voice.begin(generation, &info, known(&self.servers));
            self.ledger.connected(resent);
            self.link.start(connection, now);
            self.counters.lock().connections += 1;
            self.heartbeat.now();
        }
        self.counters.lock().setbacks.clone_from(self.link.setbacks());
        self.publish();
    }

    pub(super) fn panel_said(&mut self, generation: u64, message: Result<Incoming, Rejected>) {
        if generation == self.link.generation()
            && let Some(dialect) = spoken(&message)
        {
            let servers = &self.servers;
            self.voice.heard(dialect, || known(servers));
        }
        match message {
            Ok(Incoming::Command(command)) => self.command(command, Asker::Link { generation }),
            Ok(Incoming::Hello { epoch }) => self.epoch.hello(epoch),
            Ok(Incoming::Ack { boot_id, seq }) => self.voice.acknowledged(generation, &boot_id, seq),
            Ok(Incoming::Pong) => {}
            Ok(Incoming::Ping { id }) => {
                let metrics = self.sample.metrics(self.count());
                self.voice.pong(id.as_deref(), self.engine.is_known(), &metrics);
            }
            Err(Rejected { envelope, fault }) => {
                log::info!("{}: refused: {fault}", label(&envelope));
                self.counters.command("none", Some(fault.code), Duration::ZERO);
                self.voice.answer(&envelope, None, &Err(fault), SystemTime::now(), None);
            }
        }
    }
}

fn known(servers: &BTreeMap<ServerId, Server>) -> Vec<KnownServer> {
    let created = servers.iter().filter(|(_, server)| server.machine.is_created());
    created
        .map(|(id, server)| KnownServer {
            server_id: id.clone(),
            status: server.machine.status(),
            exit_code: server.machine.exit_code(),
        })
        .collect()
}

/// The dialect a message shows, a refused one too.
fn spoken(message: &Result<Incoming, Rejected>) -> Option<Dialect> {
    let envelope = match message {
        Ok(Incoming::Command(command)) => &command.envelope,
        Ok(Incoming::Ping { .. }) => return Some(Dialect::Unified),
        Ok(Incoming::Hello { .. } | Incoming::Ack { .. } | Incoming::Pong) => return None,
        Err(Rejected { envelope, .. }) => envelope,
    };
    envelope.shows_dialect().then(|| envelope.dialect())
}
