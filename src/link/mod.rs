//! One full-duplex WebSocket link, used by the Agent (which dials) and the Panel (which accepts).
//!
//! Reading order: an address ([`url`]), how it is reached ([`proxy`], [`resolve`], [`tls`], [`dial`]) or served
//! ([`accept`]), the [`connection`] both give, the [`outbox`] of what shall be written, the [`duplex`] pair of
//! threads that moves it, and the [`backoff`] between two connections.
//!
//! Knows bytes, text messages and delivery; never what a message means.

pub mod secret;

pub mod url;

pub mod proxy;

pub mod resolve;

pub mod tls;

mod transport;

mod halves;

mod head;

pub mod connection;

pub mod dial;

pub mod accept;

pub mod outbox;

pub mod duplex;

pub mod backoff;

pub mod validity;

pub mod pulse;

pub use backoff::{Backoff, Setback};
pub use connection::{Connection, Limits};
pub use dial::{DialError, Dialer};
pub use duplex::{Cause, Duplex, Ended, Half, Inbound, Threads};
pub use outbox::{Drops, Entry, Outbox, Refused, Source, Stamp};
pub use pulse::Pulse;
pub use secret::Secret;
/// The text of one message: UTF-8 whose copies share their storage. Made from a `String` without copying.
pub use tungstenite::Utf8Bytes as Text;
pub use url::WsUrl;
