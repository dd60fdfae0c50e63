//! By what a hub is known before anything is said to it: the home CA's certificate, or the hash of it.
//!
//! Judges certificates; knows nothing of contexts, and sends nothing.

pub(super) use super::args::CaPin;

use hearthkey_core::hex;
use ring::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring as ring_provider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{fmt, sync::Arc};

/// By what a hub is known.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Certificates, the CA's first.
    Certificates(Vec<CertificateDer<'static>>),
    /// The hash of the CA's certificate, which the hub must then show.
    Pin(CaPin),
}

impl Trust {
    /// Reads certificates in PEM.
    pub(super) fn in_pem(pem: &str) -> Result<Self, String> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        if certificates.is_empty() {
            return Err("it holds no PEM certificate".to_owned());
        }
        roots(&certificates).map_err(|error| error.to_string())?;
        Ok(Self::Certificates(certificates))
    }

    /// The SHA-256 of the CA's certificate.
    pub(super) fn sha256(&self) -> CaPin {
        match self {
            Self::Certificates(certificates) => certificates.first().map_or(CaPin([0; 32]), |ca| sha256(ca)),
            Self::Pin(pin) => *pin,
        }
    }

    /// TLS 1.3 that accepts what this CA issued, and nothing else.
    pub(super) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring_provider::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = match self {
            Self::Certificates(certificates) => builder.with_root_certificates(roots(certificates)?),
            Self::Pin(pin) => builder.dangerous().with_custom_certificate_verifier(Arc::new(PinnedCa { pin: *pin, provider })),
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(roots)
}

fn sha256(certificate: &CertificateDer<'_>) -> CaPin {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    CaPin(hash)
}

/// Finds the CA among the certificates that the hub shows, by its hash, and from there on trusts it like any other.
#[derive(Debug)]
struct PinnedCa {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates.iter().find(|certificate| sha256(certificate) == self.pin);
        let ca = ca.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned();
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&[ca])?), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearthkey_certs::{HomeCa, HubNames, SerialNumber};
    use std::time::Duration;

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));

    fn home() -> (HomeCa, Vec<CertificateDer<'static>>) {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = HomeCa::create(dir.path(), NOW).expect("a CA");
        let hub = ca.issue_hub_certificate(&HubNames::default(), SerialNumber::from_random([7; 16]), NOW).expect("issued");
        let chain = hub.chain().to_vec();
        (ca, chain)
    }

    fn verdict(pin: [u8; 32], chain: &[CertificateDer<'static>], name: &str, now: UnixTime) -> Result<(), rustls::Error> {
        let verifier = PinnedCa { pin: CaPin(pin), provider: Arc::new(ring_provider::default_provider()) };
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).map(drop)
    }

    #[test]
    fn a_hub_is_known_by_the_hash_of_its_ca_and_by_no_other() {
        let (ca, chain) = home();
        assert_eq!(verdict(ca.sha256(), &chain, "localhost", NOW), Ok(()));
        let (stranger, _) = home();
        assert!(verdict(stranger.sha256(), &chain, "localhost", NOW).is_err());
        let mut altered = ca.sha256();
        altered[31] ^= 1;
        assert!(verdict(altered, &chain, "localhost", NOW).is_err());
    }

    #[test]
    fn whoever_only_shows_the_right_ca_is_not_believed() {
        let (ca, chain) = home();
        let (_, strangers) = home();
        let borrowed = [strangers[0].clone(), chain[1].clone()];
        assert!(verdict(ca.sha256(), &borrowed, "localhost", NOW).is_err(), "a leaf of another CA");
        assert!(verdict(ca.sha256(), &chain[1..], "localhost", NOW).is_err(), "the CA itself as a hub");
        assert!(verdict(ca.sha256(), &chain[..1], "localhost", NOW).is_err(), "the hub without its CA");
    }

    #[test]
    fn a_pin_does_not_replace_name_and_date() {
        let (ca, chain) = home();
        assert!(verdict(ca.sha256(), &chain, "bank.example", NOW).is_err());
        let much_later = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
        assert!(verdict(ca.sha256(), &chain, "localhost", much_later).is_err());
    }

    #[test]
    fn the_hash_of_a_certificate_is_the_cas_own() {
        let (ca, _) = home();
        let trust = Trust::in_pem(ca.certificate_pem()).expect("PEM");
        assert_eq!(trust.sha256(), CaPin(ca.sha256()));
        assert_eq!(CaPin::parse(&trust.sha256().to_string()), Ok(CaPin(ca.sha256())));
        assert!(Trust::in_pem("no certificate").is_err());
    }
}
