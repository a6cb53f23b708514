//! TLS towards an Engine behind `tcp://`: Docker's three files made into a rustls configuration, once, when the
//! client is made. Holds no connection.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::endpoint::{EndpointError, TlsFiles};

/// Trusts `ca.pem` alone, never the system's roots: whoever holds a public certificate must not pass for the
/// Engine. `cert.pem` and `key.pem` are the client's own; both may be missing when the Engine asks for none.
pub(super) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, EndpointError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.0, "ca.pem")? {
        roots.add(certificate).map_err(|e| fault("ca.pem", e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault("ca.pem", e))?
        .with_root_certificates(roots);
    let has_own = files.0.join("cert.pem").exists() || files.0.join("key.pem").exists();
    let config = if has_own {
        let key = PrivateKeyDer::from_pem_file(files.0.join("key.pem")).map_err(|e| fault("key.pem", e))?;
        builder
            .with_client_auth_cert(certificates(&files.0, "cert.pem")?, key)
            .map_err(|e| fault("cert.pem and key.pem", e))?
    } else {
        builder.with_no_client_auth()
    };
    Ok(Arc::new(config))
}

fn certificates(dir: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    let found = CertificateDer::pem_file_iter(dir.join(name))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| fault(name, e))?;
    if found.is_empty() {
        return Err(fault(name, "no certificate in it"));
    }
    Ok(found)
}

fn fault(name: &str, cause: impl std::fmt::Display) -> EndpointError {
    EndpointError { key: "DOCKER_CERT_PATH", reason: format!("{name}: {cause}") }
}
