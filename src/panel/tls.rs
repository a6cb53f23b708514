//! The Panel's own certificate. Read when a gate opens; its hash is what a joining Agent is told to expect.

use std::fmt;
use std::path::{Path, PathBuf};

use ring::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::config::Config;
use super::secret::to_hex;

/// A file of TLS_CERT or TLS_KEY that cannot be used.
#[derive(Debug)]
pub struct TlsError {
    pub path: PathBuf,
    pub cause: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for TlsError {}

/// SHA-256 of the certificate that is served, in hexadecimal digits; `None` without TLS.
pub fn fingerprint(config: &Config) -> Result<Option<String>, TlsError> {
    let Some((certificate, _)) = &config.tls else { return Ok(None) };
    let chain = chain(certificate)?;
    Ok(chain.first().map(|leaf| to_hex(digest::digest(&digest::SHA256, leaf).as_ref())))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |cause: String| TlsError { path: path.to_owned(), cause };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|cause| fault(cause.to_string()))?;
    let chain: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|cause| fault(cause.to_string()))?;
    if chain.is_empty() { Err(fault("holds no certificate".into())) } else { Ok(chain) }
}
