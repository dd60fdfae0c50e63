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
pub struct CertificateInUse(ArcSwap<Shown>);

#[derive(Debug)]
struct Shown {
    with_ca: Arc<CertifiedKey>,
    alone: Arc<CertifiedKey>,
}

/// The same certificate without the CA's: for those who have that already, which a device has from its enrolment over HTTPS on.
/// It spares each of their connections a seventh of all bytes up to the first publish.
#[derive(Debug)]
pub struct WithoutCa(pub Arc<CertificateInUse>);

impl CertificateInUse {
    /// Begins with a certificate.
    ///
    /// # Errors
    /// When rustls does not take the key, or it is not that of the certificate.
    pub fn new(certificate: &HubCertificate) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(shown(certificate)?))))
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// As [`CertificateInUse::new`]; the certificate before stays in use.
    pub fn replace(&self, certificate: &HubCertificate) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(shown(certificate)?));
        Ok(())
    }
}

impl CertificateInUse {
    /// The certificates that a new connection is shown: the hub's, then the CA's.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.load().with_ca.cert.clone()
    }
}

impl ResolvesServerCert for CertificateInUse {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().with_ca))
    }
}

impl ResolvesServerCert for WithoutCa {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.0.load().alone))
    }
}

fn shown(certificate: &HubCertificate) -> Result<Shown, rustls::Error> {
    let chain = certificate.chain();
    let with_ca = CertifiedKey::from_der(chain.to_vec(), certificate.private_key(), &ring::default_provider())?;
    let alone = CertifiedKey::new(chain.iter().take(1).cloned().collect(), Arc::clone(&with_ca.key));
    Ok(Shown { with_ca: Arc::new(with_ca), alone: Arc::new(alone) })
}

/// What a listener speaks: TLS 1.3 only, with the protocols of `alpn` (RFC 7301), none for MQTT.
///
/// A client that offers no protocol is served all the same; one that offers only others is refused.
///
/// # Errors
/// When rustls was built without what this needs.
pub fn server_config(
    certificate: Arc<impl ResolvesServerCert + 'static>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use hearthkey_certs::{HUB_NAME, HomeCa, HubNames, SerialNumber};
    use rustls::{ClientConfig, RootCertStore, pki_types::UnixTime};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    async fn certificates_shown(server: Arc<ServerConfig>, ca: &HomeCa) -> usize {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate_der().clone()).expect("a CA");
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(16_384);
        let name = HUB_NAME.try_into().expect("a name");
        let (connected, accepted) =
            tokio::join!(TlsConnector::from(Arc::new(client)).connect(name, ours), TlsAcceptor::from(server).accept(theirs));
        accepted.expect("a client");
        connected.expect("whoever has the CA believes the hub").get_ref().1.peer_certificates().map_or(0, <[_]>::len)
    }

    #[tokio::test]
    async fn the_ca_is_shown_where_a_device_may_not_have_it_yet_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = HomeCa::create(dir.path(), UnixTime::now()).expect("a CA");
        let issue =
            |serial| ca.issue_hub_certificate(&HubNames::default(), SerialNumber::from_random([serial; 16]), UnixTime::now());
        let in_use = CertificateInUse::new(&issue(7).expect("issued")).expect("taken");
        let https = server_config(Arc::clone(&in_use), &HTTPS_PROTOCOLS).expect("TLS");
        let mqtt = server_config(Arc::new(WithoutCa(Arc::clone(&in_use))), &[]).expect("TLS");
        for _ in 0..2 {
            assert_eq!(certificates_shown(Arc::clone(&https), &ca).await, 2);
            assert_eq!(certificates_shown(Arc::clone(&mqtt), &ca).await, 1);
            in_use.replace(&issue(8).expect("issued")).expect("taken");
        }
    }
}
