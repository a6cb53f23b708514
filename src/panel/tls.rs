//! The Panel's own certificate: read at start, and again when its files have changed, without a restart.
//!
//! Asked by the gates' threads for each new connection; the files are looked at once a second at most. A new pair that
//! cannot be used is told in the log, and the one before is served on.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ring::digest;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::Config;
use super::secret::to_hex;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file of TLS_CERT or TLS_KEY that cannot be used.
#[derive(Debug)]
pub struct TlsError {
    pub path: PathBuf,
    pub cause: String,
}

pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    /// A lock, because two gates ask; it covers two `stat` calls at most.
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    fingerprint: String,
    /// Of the files when they were read.
    stamp: Stamp,
    looked: Instant,
}

/// By which a changed file is known.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// `None` without TLS.
    pub fn open(config: &Config) -> Result<Option<Certificate>, TlsError> {
        let Some((chain, key)) = config.tls.clone() else { return Ok(None) };
        let loaded = load(&chain, &key)?;
        Ok(Some(Certificate { chain, key, loaded: Mutex::new(loaded) }))
    }

    /// What a connection that begins now is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.looked.elapsed() >= LOOK_EVERY {
            loaded.looked = Instant::now();
            let stamp = stamp(&self.chain, &self.key);
            if stamp != loaded.stamp {
                match load(&self.chain, &self.key) {
                    Ok(fresh) => {
                        log::info!(
                            "the certificate has changed: {} is served from now on",
                            fresh.fingerprint
                        );
                        *loaded = fresh;
                    }
                    Err(cause) => {
                        log::error!("the changed certificate cannot be used, the one before is: {cause}");
                        loaded.stamp = stamp; // told once a change
                    }
                }
            }
        }
        Arc::clone(&loaded.config)
    }

    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.current();
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).fingerprint.clone()
    }
}

/// SHA-256 of the certificate that would be served; `None` without TLS.
pub fn fingerprint(config: &Config) -> Result<Option<String>, TlsError> {
    Certificate::open(config).map(|certificate| certificate.map(|certificate| certificate.fingerprint()))
}

fn load(chain: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let fault = |path: &Path, cause: String| TlsError { path: path.to_owned(), cause };
    let stamp = stamp(chain, key);
    let certificates =
        CertificateDer::pem_file_iter(chain).map_err(|cause| fault(chain, cause.to_string()))?;
    let certificates: Vec<_> =
        certificates.collect::<Result<_, _>>().map_err(|cause| fault(chain, cause.to_string()))?;
    let leaf = certificates.first().ok_or_else(|| fault(chain, "holds no certificate".into()))?;
    let fingerprint = to_hex(digest::digest(&digest::SHA256, leaf).as_ref());
    let private = PrivateKeyDer::from_pem_file(key).map_err(|cause| fault(key, cause.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private))
        .map_err(|cause| fault(chain, cause.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), fingerprint, stamp, looked: Instant::now() })
}

fn stamp(chain: &Path, key: &Path) -> Stamp {
    [chain, key].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for TlsError {}
