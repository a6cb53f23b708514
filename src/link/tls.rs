//! Whom a client trusts: the rustls configuration for `wss://`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{error, fmt};

use ring::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

pub use super::transport::Transport;

/// Why there is no TLS configuration.
#[derive(Debug)]
pub enum TlsError {
    /// The file with certificates cannot be read or holds none.
    CaFile { path: PathBuf, cause: String },
    /// Not the hash of a certificate.
    Pin,
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

/// A client configuration that trusts one certificate alone, by its SHA-256 in 64 hexadecimal digits, whoever has signed
/// it and whatever name it bears: the hash was handed over by who set the Panel up. That the server has its key is
/// checked as ever.
pub fn pinned_config(pin: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let hash = parse_pin(pin).ok_or(TlsError::Pin)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Pinned { hash, algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(4);
    Ok(Arc::new(config))
}

/// 64 hexadecimal digits.
pub fn parse_pin(pin: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if pin.len() != 64 || !pin.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&pin[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// Takes the one certificate with this hash.
#[derive(Debug)]
struct Pinned {
    hash: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = digest::digest(&digest::SHA256, end_entity);
        match found.as_ref() == self.hash {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("the certificate is not the pinned one".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
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
            TlsError::Pin => f.write_str("expected the certificate's SHA-256 in 64 hexadecimal digits"),
            TlsError::Config(cause) => write!(f, "tls configuration: {cause}"),
        }
    }
}

impl error::Error for TlsError {}
