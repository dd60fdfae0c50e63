//! TLS as the hub offers it, for HTTPS and MQTT alike: version 1.3, the certificate of the day, small records.
//! Knows nothing of what is said inside.

use arc_swap::ArcSwap;
use hearthkey_certs::HubCertificate;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// Largest plaintext of a record that the hub sends (docs/protocol.md): a device's receive buffer holds one record.
pub const MAX_FRAGMENT_BYTES: usize = 2_048;

/// The protocols that HTTPS offers (RFC 7301), best first.
pub const HTTPS_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate that new connections are shown. It can be replaced while the hub runs; open connections go on.
#[derive(Debug)]
pub struct CertificateInUse(ArcSwap<CertifiedKey>);

impl CertificateInUse {
    /// Begins with a certificate.
    ///
    /// # Errors
    /// When rustls does not take the key, or it is not that of the certificate.
    pub fn new(certificate: &HubCertificate) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(certificate)?))))
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// As [`CertificateInUse::new`]; the certificate before stays in use.
    pub fn replace(&self, certificate: &HubCertificate) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(certified(certificate)?));
        Ok(())
    }
}

impl CertificateInUse {
    /// The certificates that a new connection is shown: the hub's, then the CA's.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.load().cert.clone()
    }
}

impl ResolvesServerCert for CertificateInUse {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(certificate: &HubCertificate) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(certificate.chain().to_vec(), certificate.private_key(), &ring::default_provider())
}

/// What a listener speaks: TLS 1.3 only, with the protocols of `alpn` (RFC 7301), none for MQTT.
///
/// A client that offers no protocol is served all the same; one that offers only others is refused.
///
/// # Errors
/// When rustls was built without what this needs.
pub fn server_config(certificate: Arc<CertificateInUse>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = CryptoProvider {
        // P-256 is what every device has; X25519 spares browsers a second round trip.
        kx_groups: vec![ring::kx_group::SECP256R1, ring::kx_group::X25519],
        ..ring::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_fragment_size = Some(MAX_FRAGMENT_BYTES);
    // A resumed session would outlive the certificate's renewal, and a device would have to keep the ticket.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
