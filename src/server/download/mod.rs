//! Downloads from the Internet, for mods: what a Panel's user names is fetched by a machine that may stand in a private
//! network, so where it leads is checked at every hop.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | which addresses are public; pure |
//! | [`filename`] | what a download is called; pure |
//! | [`connect`] | resolves, checks and dials for ureq |
//!
//! A name is resolved once for each connection, every address is checked, and no other than a checked one is dialled: a
//! name that answers differently a moment later changes nothing. Proxies are not used, since a proxy would resolve the
//! name itself. Runs on the caller's thread; whatever blocks has a bound and ends when the job's end is asked for.

pub mod address;
pub mod connect;
pub mod filename;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use ureq::ResponseExt;
use ureq::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH};

use super::abort::Abort;
use super::progress::{Meter, Stage};
use crate::protocol::{Code, Fault};

/// Largest download, in bytes.
pub const MAX_SIZE: u64 = 1 << 30;
const MAX_REDIRECTS: u32 = 5;
/// The longest that a download may take, and that an answer's head may.
const WHOLE: Duration = Duration::from_secs(30 * 60);
const HEAD: Duration = Duration::from_secs(30);
/// Bytes of a head. Links to object stores have long signatures.
const MAX_HEAD: usize = 32 << 10;

/// Looks up a host's addresses within a bound.
pub type Lookup = dyn Fn(&str, u16, Duration) -> io::Result<Vec<SocketAddr>> + Send + Sync;
/// Makes the TLS configuration, for each job anew: the roots of a whole system take a megabyte.
pub type MakeTls = dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync;

/// The way to the Internet, as the node's owner allows it.
#[derive(Clone)]
pub struct Internet {
    pub lookup: Arc<Lookup>,
    pub tls: Arc<MakeTls>,
    /// Addresses that are not public too: mirrors of one's own.
    pub allow_private: bool,
    /// `http://` too.
    pub allow_insecure: bool,
}

/// Brings what an address names.
pub trait Fetch {
    /// Writes it into `to`. `room` is asked before each piece is written.
    ///
    /// # Errors
    /// Why nothing came, or not all.
    fn fetch(
        &self,
        url: &str,
        to: &mut dyn Write,
        room: &mut dyn FnMut(u64) -> Result<(), super::archive::Error>,
        abort: &Abort,
        meter: &Meter,
    ) -> Result<Downloaded, Error>;
}

/// What came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downloaded {
    pub size: u64,
    pub sha256: [u8; 32],
    /// A single plain part of a path; `None` when neither the answer nor the address has one.
    pub name: Option<String>,
}

/// Why nothing came. No variant holds an address that the Panel's user did not name.
#[derive(Debug)]
pub enum Error {
    Aborted,
    /// The address is not one to download from.
    BadUrl(&'static str),
    /// It leads to an address that is not public.
    Private,
    /// `http://` on the way.
    Insecure,
    Status(u16),
    Redirects,
    TooLarge,
    TimedOut,
    /// The server promised more than it sent.
    CutOff,
    /// Names, connections, TLS, HTTP; the cause is for the log.
    Failed(String),
    /// What came could not be written.
    Write(super::archive::Error),
}

impl Fetch for Internet {
    fn fetch(
        &self,
        url: &str,
        to: &mut dyn Write,
        room: &mut dyn FnMut(u64) -> Result<(), super::archive::Error>,
        abort: &Abort,
        meter: &Meter,
    ) -> Result<Downloaded, Error> {
        check(url)?;
        let agent = connect::agent(self, abort, config(self))?;
        let explain = |error: ureq::Error| if abort.is_asked() { Error::Aborted } else { of_ureq(error) };
        let mut response = agent.get(url).call().map_err(explain)?;
        if response.status() != 200 {
            return Err(Error::Status(response.status().as_u16()));
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let promised = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if promised.is_some_and(|size| size > MAX_SIZE) {
            return Err(Error::TooLarge);
        }
        let name = header(CONTENT_DISPOSITION)
            .and_then(filename::from_disposition)
            .or_else(|| filename::from_url(url))
            .or_else(|| filename::from_url(&response.get_uri().to_string()));
        meter.begin(Stage::Downloading, promised);
        let mut body = meter.reader(response.body_mut().with_config().limit(MAX_SIZE + 1).reader());
        let mut sum = ring::digest::Context::new(&ring::digest::SHA256);
        let (mut size, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            let count = body.read(&mut buffer).map_err(|e| explain(e.into()))?;
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > MAX_SIZE {
                return Err(Error::TooLarge);
            }
            room(count as u64).map_err(Error::Write)?;
            sum.update(&buffer[..count]);
            to.write_all(&buffer[..count]).map_err(|e| Error::Write(e.into()))?;
        }
        if promised.is_some_and(|promised| promised != size) {
            return Err(Error::CutOff);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(sum.finish().as_ref());
        Ok(Downloaded { size, sha256, name })
    }
}

/// What can be said of an address before anybody is asked.
fn check(url: &str) -> Result<(), Error> {
    let uri: ureq::http::Uri =
        url.parse().map_err(|_| Error::BadUrl("expected an address such as https://host/file"))?;
    match uri.authority() {
        None => Err(Error::BadUrl("expected an address such as https://host/file")),
        Some(authority) if authority.as_str().contains('@') => {
            Err(Error::BadUrl("expected an address without a user name or password"))
        }
        Some(_) => Ok(()),
    }
}

fn config(internet: &Internet) -> ureq::config::Config {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .https_only(!internet.allow_insecure)
        .proxy(None)
        .max_redirects(MAX_REDIRECTS)
        .user_agent(concat!("longshore-agent/", env!("CARGO_PKG_VERSION")))
        .accept("*/*")
        // What is summed is what the server has, so nothing is to be compressed on the way.
        .accept_encoding("identity")
        .input_buffer_size(64 << 10)
        .output_buffer_size(MAX_HEAD)
        .max_response_header_size(MAX_HEAD)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .timeout_global(Some(WHOLE))
        .timeout_recv_response(Some(HEAD))
        .build()
}

fn of_ureq(error: ureq::Error) -> Error {
    let own = |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<connect::Denied>().is_some();
    match error {
        ureq::Error::Other(cause) if own(&*cause) => Error::Private,
        ureq::Error::Io(cause) if cause.get_ref().is_some_and(|cause| own(cause)) => Error::Private,
        ureq::Error::Timeout(_) => Error::TimedOut,
        ureq::Error::Io(cause) if cause.kind() == io::ErrorKind::TimedOut => Error::TimedOut,
        ureq::Error::Io(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Error::CutOff,
        ureq::Error::TooManyRedirects => Error::Redirects,
        ureq::Error::RequireHttpsOnly(_) => Error::Insecure,
        ureq::Error::BodyExceedsLimit(_) => Error::TooLarge,
        error => Error::Failed(error.to_string()),
    }
}

impl Error {
    /// As the Panel is told. `field` names where the address came from.
    pub fn fault(&self, field: &str) -> Fault {
        let failed = |text: String| Fault::new(Code::DownloadFailed, text);
        match self {
            Error::Aborted => super::archive::Error::Aborted.fault(field),
            Error::BadUrl(expected) => Fault::field(field, expected),
            Error::Write(error) => error.fault(field),
            Error::TooLarge => Fault::new(Code::TooLarge, "The download is larger than 1 GiB."),
            _ => failed(format!("The download failed: {self}.")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Aborted => f.write_str("ended before it was done"),
            Error::BadUrl(expected) => f.write_str(expected),
            Error::Private => f.write_str(
                "the address leads to a network that is not public, which takes ALLOW_PRIVATE_DOWNLOADS=1 on the node",
            ),
            Error::Insecure => {
                f.write_str("the address leads to http://, which takes ALLOW_INSECURE_DOWNLOADS=1 on the node")
            }
            Error::Status(status) => write!(f, "the server answered with status {status}"),
            Error::Redirects => write!(f, "the server redirects more than {MAX_REDIRECTS} times"),
            Error::TooLarge => f.write_str("larger than 1 GiB"),
            Error::TimedOut => f.write_str("the server did not answer or send in time"),
            Error::CutOff => f.write_str("the server ended it before it was complete"),
            Error::Failed(_) => f.write_str("the server cannot be found, reached or trusted"),
            Error::Write(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// For the log: what [`fmt::Display`] keeps from the Panel too.
    pub fn cause(&self) -> String {
        match self {
            Error::Failed(cause) => format!("{self}: {cause}"),
            Error::Write(error) => error.cause(),
            _ => self.to_string(),
        }
    }
}
