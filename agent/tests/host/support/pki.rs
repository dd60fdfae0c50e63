//! A home CA and hub certificates, right ones and each kind of wrong one.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use time::OffsetDateTime;

/// 2026-06-01, within the validity of everything here.
pub const TODAY: u64 = 1_780_272_000;

pub struct HomeCa {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
}

/// A certificate with its key.
pub struct Leaf {
    pub key: KeyPair,
    pub der: CertificateDer<'static>,
}

impl HomeCa {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub fn with(name: &str, adjust: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        adjust(&mut params);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), der }
    }

    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// A hub certificate as `hearthkey up` makes it.
    pub fn hub(&self) -> Leaf {
        self.leaf(|_| {})
    }

    /// A hub certificate with something else about it.
    pub fn leaf(&self, adjust: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = hub_params();
        adjust(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { key, der }
    }
}

pub fn hub_params() -> CertificateParams {
    let mut params = named("hearthkey hub");
    params.subject_alt_names = CertificateParams::new(vec!["hub.hearthkey.home.arpa".to_owned()]).unwrap().subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
    params
}

/// A critical extension that nobody knows.
pub fn unknown_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

impl Leaf {
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The key in the form that signs a hand-made CertificateVerify.
    pub fn signing_key(&self) -> p256::ecdsa::SigningKey {
        // PKCS #8 of a P-256 key as rcgen writes it: the scalar follows the SEC 1 header 04 20.
        let der = self.key.serialize_der();
        let at = der.windows(5).position(|window| window == [2, 1, 1, 4, 0x20]).unwrap() + 5;
        p256::ecdsa::SigningKey::from_slice(&der[at..at + 32]).unwrap()
    }
}

/// The TLS of a well-behaved hub (docs/protocol.md).
pub fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> rustls::ServerConfig {
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key).unwrap();
    // Not `with_single_cert`: it would look at the certificate, and the wrong ones must get out.
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    let mut config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.max_fragment_size = Some(2048);
    config.send_tls13_tickets = 0;
    config
}
