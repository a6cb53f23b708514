//! Whom a client trusts: the rustls configuration for `wss://`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{error, fmt};

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use super::transport::Transport;

/// Why there is no TLS configuration.
#[derive(Debug)]
pub enum TlsError {
    /// The file with certificates cannot be read or holds none.
    CaFile { path: PathBuf, cause: String },
    /// rustls refuses the configuration.
    Config(rustls::Error),
}

/// A client configuration that trusts the certificates in `ca_file` and no others; without it the system's, or,
/// where the system has none, the ones that were built in (webpki-roots).
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => add_file(&mut roots, path)?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            for cause in &system.errors {
                log::debug!("system certificates: {cause}");
            }
            let (added, ignored) = roots.add_parsable_certificates(system.certs);
            log::debug!("system certificates: {added} taken, {ignored} unusable");
            if added == 0 {
                log::info!("no system certificates found, using the built-in ones");
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // One peer needs one session; the default reserves room for 256 servers.
    config.resumption = Resumption::in_memory_sessions(4);
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let fault = |cause: String| TlsError::CaFile { path: path.to_owned(), cause };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|cause| fault(cause.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|cause| fault(cause.to_string()))?;
        roots.add(certificate).map_err(|cause| fault(cause.to_string()))?;
    }
    if roots.is_empty() { Err(fault("holds no certificate".into())) } else { Ok(()) }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::CaFile { path, cause } => write!(f, "certificates in {}: {cause}", path.display()),
            TlsError::Config(cause) => write!(f, "tls configuration: {cause}"),
        }
    }
}

impl error::Error for TlsError {}
