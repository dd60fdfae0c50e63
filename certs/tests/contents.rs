//! Exactly what each certificate of a home contains: every extension, its criticality and its value; nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use hearthkey_certs::{
    BACKDATED_BY, DEVICE_CERTIFICATE_LIFETIME, DevicePublicKey, Error, HUB_CERTIFICATE_LIFETIME, HomeCa, HubNames,
    MAX_CHAIN_BYTES, ROOT_LIFETIME, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::*;

const NOW: u64 = 1_780_000_000;

#[test]
fn the_root_may_sign_certificates_one_level_deep_and_nothing_else() {
    let home = Home::new();
    let root = Contents::of(home.ca.certificate_der());

    let subject = root.subject.clone();
    assert!(subject.starts_with("CN=Hearthkey home CA "), "{subject}");
    assert_eq!(subject.len(), "CN=Hearthkey home CA ".len() + 8);
    assert_eq!(root.issuer, subject);
    assert_eq!(root.not_before, NOW - BACKDATED_BY.as_secs());
    assert_eq!(root.not_after, NOW + ROOT_LIFETIME.as_secs());
    assert_eq!(
        root.extensions,
        extensions([
            ("keyUsage", true, "keyCertSign"),
            ("basicConstraints", true, "CA:true, pathLen:0"),
            ("subjectKeyIdentifier", false, &root.key_identifier),
        ])
    );
    assert_signed_by(home.ca.certificate_der(), home.ca.certificate_der());
}

#[test]
fn the_hub_certificate_serves_tls_under_the_hubs_names_and_nothing_else() {
    let home = Home::new();
    let mut names = HubNames::default();
    for name in ["hub.local", "192.168.1.7", "fd00::7"] {
        names.add(name).expect("valid name");
    }
    let issued = home.hub_certificate(&names).expect("short names");
    let [leaf, root] = issued.chain() else {
        panic!("a chain of two: hub, then CA");
    };
    assert_eq!(root, home.ca.certificate_der());
    let (leaf_contents, root_contents) = (Contents::of(leaf), Contents::of(root));

    assert_eq!(leaf_contents.subject, "CN=hub.hearthkey.home.arpa");
    assert_eq!(leaf_contents.issuer, root_contents.subject);
    assert_eq!(leaf_contents.not_before, NOW - BACKDATED_BY.as_secs());
    assert_eq!(leaf_contents.not_after, NOW + HUB_CERTIFICATE_LIFETIME.as_secs());
    assert_eq!(
        leaf_contents.extensions,
        extensions([
            ("authorityKeyIdentifier", false, &root_contents.key_identifier),
            (
                "subjectAltName",
                false,
                "DNS:hub.hearthkey.home.arpa, DNS:localhost, DNS:hub.local, \
                 IP:127.0.0.1, IP:::1, IP:192.168.1.7, IP:fd00::7"
            ),
            ("keyUsage", true, "digitalSignature"),
            ("extendedKeyUsage", false, "serverAuth"),
            ("subjectKeyIdentifier", false, &leaf_contents.key_identifier),
            ("basicConstraints", true, "CA:false"),
        ])
    );
    assert_signed_by(leaf, root);
}

#[test]
fn a_device_certificate_authenticates_one_client_and_nothing_else() {
    let home = Home::new();
    let issued = home.device_certificate("lamp").expect("a valid id");
    let leaf = Contents::of(issued.certificate_der());
    let root = Contents::of(home.ca.certificate_der());

    assert_eq!(leaf.subject, "CN=lamp");
    assert_eq!(leaf.issuer, root.subject);
    assert_eq!(leaf.not_after, NOW + DEVICE_CERTIFICATE_LIFETIME.as_secs());
    assert_eq!(
        leaf.extensions,
        extensions([
            ("authorityKeyIdentifier", false, &root.key_identifier),
            ("subjectAltName", false, "DNS:lamp.device.hearthkey.home.arpa"),
            ("keyUsage", true, "digitalSignature"),
            ("extendedKeyUsage", false, "clientAuth"),
            ("subjectKeyIdentifier", false, &leaf.key_identifier),
            ("basicConstraints", true, "CA:false"),
        ])
    );
    assert_signed_by(issued.certificate_der(), home.ca.certificate_der());
}

#[test]
fn a_device_certificate_holds_the_devices_own_key() {
    let home = Home::new();
    let key = rcgen::KeyPair::generate().expect("entropy");
    let public_key = DevicePublicKey::from_uncompressed_point(key.public_key_raw()).expect("on the curve");
    let issued = home.ca.issue_device_certificate("lamp", &public_key, serial(1), at(NOW)).expect("a valid id");
    let (_, parsed) = X509Certificate::from_der(issued.certificate_der()).expect("DER");
    assert_eq!(&*parsed.public_key().subject_public_key.data, key.public_key_raw());
}

#[test]
fn what_is_no_device_id_gets_no_certificate() {
    let home = Home::new();
    for id in ["", "Lamp", "a b", "lamp,CN=hub", "lamp.hub", "lamp\0", "+", &"a".repeat(33)] {
        let refused = home.device_certificate(id).expect_err(id);
        assert!(matches!(refused, Error::InvalidDeviceId(_)), "{refused}");
    }
    home.device_certificate(&"a".repeat(32)).expect("32 is the bound");
}

#[test]
fn serial_numbers_are_the_given_ones_and_positive() {
    let home = Home::new();
    for random in [[0x00; 16], [0xff; 16], [0x5a; 16]] {
        let issued =
            home.ca.issue_hub_certificate(&HubNames::default(), SerialNumber::from_random(random), at(NOW)).expect("short names");
        let (_, leaf) = X509Certificate::from_der(&issued.chain()[0]).expect("DER");
        let serial = leaf.raw_serial();
        assert_eq!(serial.len(), 16);
        assert_eq!(serial[0], random[0] & 0x3f | 0x40);
        assert_eq!(serial[1..], random[1..]);
    }
}

#[test]
fn each_hub_certificate_has_its_own_key_and_it_fits() {
    let home = Home::new();
    let first = home.hub_certificate(&HubNames::default()).expect("short names");
    let second = home.hub_certificate(&HubNames::default()).expect("short names");
    assert_ne!(first.private_key().secret_der(), second.private_key().secret_der());

    let signing_key = rustls::crypto::ring::sign::any_ecdsa_type(&first.private_key()).expect("a P-256 key");
    let (_, leaf) = X509Certificate::from_der(&first.chain()[0]).expect("DER");
    let public_key = signing_key.public_key().expect("known to ring");
    assert_eq!(public_key.as_ref(), leaf.public_key().raw);
}

#[test]
fn a_chain_fits_into_the_record_buffer_of_a_device() {
    let home = Home::new();
    let bytes = |names: &HubNames| -> usize {
        let issued = home.hub_certificate(names).expect("fits");
        issued.chain().iter().map(|certificate| certificate.len()).sum()
    };
    let mut names = HubNames::default();
    let usual = bytes(&names);
    assert!(usual <= 1000, "{usual} bytes leave little room for names");
    for name in ["hearthkey.local", "192.168.178.123", "fd12:3456:789a:1:dead:beef:cafe:1", "172.17.0.1"] {
        names.add(name).expect("valid name");
    }
    assert!(bytes(&names) <= MAX_CHAIN_BYTES);
}

#[test]
fn names_that_a_device_could_not_receive_are_refused() {
    let home = Home::new();
    let mut names = HubNames::default();
    for n in 0..4 {
        let label = n.to_string().repeat(60);
        names.add(&format!("{label}.{label}.local")).expect("valid name");
    }
    let refused = home.hub_certificate(&names).expect_err("too long");
    assert!(matches!(refused, Error::ChainTooLong { names: 8, bytes } if bytes > MAX_CHAIN_BYTES));
    assert!(refused.to_string().contains("fewer or shorter names"), "{refused}");
}

#[test]
fn nothing_outlives_the_root() {
    let home = Home::new();
    let end = NOW + ROOT_LIFETIME.as_secs();
    let issued = home.ca.issue_hub_certificate(&HubNames::default(), serial(1), at(end - 5)).expect("the root still holds");
    assert_eq!(Contents::of(&issued.chain()[0]).not_after, end);

    for now in [0, NOW - BACKDATED_BY.as_secs() - 1, end + 1, u64::MAX] {
        let refused =
            home.ca.issue_hub_certificate(&HubNames::default(), serial(1), at(now)).expect_err("outside of the root's validity");
        assert!(refused.to_string().contains("check the clock"), "{refused}");
    }
}

#[test]
fn a_tls_client_that_trusts_the_root_accepts_the_hub_under_its_names_only() {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;

    let home = Home::new();
    let issued = home.hub_certificate(&HubNames::default()).expect("short names");
    let device = home.device_certificate("localhost").expect("a valid id");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(home.ca.certificate_der().clone()).expect("a root");
    let provider = rustls::crypto::ring::default_provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.into()).build().expect("one root");
    let accepts = |leaf: &CertificateDer<'_>, name: &'static str, now: u64| {
        let name = name.try_into().expect("a name");
        verifier.verify_server_cert(leaf, &[], &name, &[], at(now)).is_ok()
    };

    let leaf = &issued.chain()[0];
    for name in ["hub.hearthkey.home.arpa", "localhost", "127.0.0.1", "::1"] {
        assert!(accepts(leaf, name, NOW), "{name}");
    }
    for name in ["hub.local", "192.168.1.7", "hearthkey.home.arpa", "lamp"] {
        assert!(!accepts(leaf, name, NOW), "{name}");
    }
    assert!(!accepts(leaf, "localhost", NOW + HUB_CERTIFICATE_LIFETIME.as_secs() + 1));
    assert!(!accepts(leaf, "localhost", NOW - BACKDATED_BY.as_secs() - 1));
    for name in ["localhost", "localhost.device.hearthkey.home.arpa"] {
        assert!(!accepts(device.certificate_der(), name, NOW), "a device is no server");
    }
    let stranger = Home::new();
    let foreign = stranger.hub_certificate(&HubNames::default()).expect("short names");
    assert!(!accepts(&foreign.chain()[0], "localhost", NOW), "another home's hub");
}

#[test]
fn no_debug_output_holds_a_key() {
    let home = Home::new();
    let issued = home.hub_certificate(&HubNames::default()).expect("short names");
    let shown = format!("{:?} {issued:?}", home.ca);
    assert_eq!(shown.matches("[secret]").count(), 2, "{shown}");
    assert!(shown.len() < 400, "{shown}");
}

// What a certificate says, in words.

#[derive(Debug)]
struct Contents {
    subject: String,
    issuer: String,
    not_before: u64,
    not_after: u64,
    key_identifier: String,
    extensions: BTreeMap<String, (bool, String)>,
}

impl Contents {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";
        const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
        const PRIME256V1: &str = "1.2.840.10045.3.1.7";

        let (rest, parsed) = X509Certificate::from_der(certificate).expect("DER");
        assert!(rest.is_empty());
        assert_eq!(parsed.version(), X509Version::V3);
        assert_eq!(parsed.signature_algorithm.algorithm.to_id_string(), ECDSA_WITH_SHA256);
        assert_eq!(parsed.signature_algorithm.parameters, None);
        assert_eq!(parsed.tbs_certificate.signature, parsed.signature_algorithm);
        let key = parsed.public_key();
        assert_eq!(key.algorithm.algorithm.to_id_string(), EC_PUBLIC_KEY);
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        assert_eq!(curve.map(|curve| curve.to_id_string()).as_deref(), Some(PRIME256V1));
        assert!(parsed.issuer_uid.is_none() && parsed.subject_uid.is_none());

        let mut key_identifier = String::new();
        let mut extensions = BTreeMap::new();
        for extension in parsed.extensions() {
            let (name, value) = describe(extension.parsed_extension());
            if name == "subjectKeyIdentifier" {
                key_identifier.clone_from(&value);
            }
            let twice = extensions.insert(name.to_owned(), (extension.critical, value));
            assert_eq!(twice, None, "{name} twice");
        }
        Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            not_before: u64::try_from(parsed.validity().not_before.timestamp()).expect("after 1970"),
            not_after: u64::try_from(parsed.validity().not_after.timestamp()).expect("after 1970"),
            key_identifier,
            extensions,
        }
    }
}

fn describe(extension: &ParsedExtension<'_>) -> (&'static str, String) {
    match extension {
        ParsedExtension::KeyUsage(usage) => ("keyUsage", {
            let names = [
                "digitalSignature",
                "nonRepudiation",
                "keyEncipherment",
                "dataEncipherment",
                "keyAgreement",
                "keyCertSign",
                "cRLSign",
                "encipherOnly",
                "decipherOnly",
            ];
            let set = names.iter().enumerate().filter(|(bit, _)| usage.flags & (1 << bit) != 0);
            set.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        }),
        ParsedExtension::ExtendedKeyUsage(usage) => ("extendedKeyUsage", {
            assert!(usage.other.is_empty());
            let known = [
                (usage.any, "any"),
                (usage.server_auth, "serverAuth"),
                (usage.client_auth, "clientAuth"),
                (usage.code_signing, "codeSigning"),
                (usage.email_protection, "emailProtection"),
                (usage.time_stamping, "timeStamping"),
                (usage.ocsp_signing, "OCSPSigning"),
            ];
            let set = known.iter().filter(|(set, _)| *set);
            set.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        }),
        ParsedExtension::BasicConstraints(constraints) => ("basicConstraints", {
            let path_len = constraints.path_len_constraint;
            let path_len = path_len.map(|length| format!(", pathLen:{length}")).unwrap_or_default();
            format!("CA:{}{path_len}", constraints.ca)
        }),
        ParsedExtension::SubjectAlternativeName(names) => ("subjectAltName", {
            let names = names.general_names.iter().map(|name| match name {
                GeneralName::DNSName(name) => format!("DNS:{name}"),
                GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
                    Ok(v4) => format!("IP:{}", std::net::Ipv4Addr::from(v4)),
                    Err(_) => {
                        let v6: [u8; 16] = (*octets).try_into().expect("4 or 16 octets");
                        format!("IP:{}", std::net::Ipv6Addr::from(v6))
                    }
                },
                other => format!("{other:?}"),
            });
            names.collect::<Vec<_>>().join(", ")
        }),
        ParsedExtension::SubjectKeyIdentifier(id) => ("subjectKeyIdentifier", format!("{id:x}")),
        ParsedExtension::AuthorityKeyIdentifier(id) => ("authorityKeyIdentifier", {
            assert!(id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none());
            id.key_identifier.as_ref().map(|id| format!("{id:x}")).unwrap_or_default()
        }),
        other => panic!("unexpected extension {other:?}"),
    }
}

fn extensions<const N: usize>(expected: [(&str, bool, &str); N]) -> BTreeMap<String, (bool, String)> {
    expected.map(|(name, critical, value)| (name.to_owned(), (critical, value.to_owned()))).into()
}

fn assert_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) {
    let (_, certificate) = X509Certificate::from_der(certificate).expect("DER");
    let (_, issuer) = X509Certificate::from_der(issuer).expect("DER");
    certificate.verify_signature(Some(issuer.public_key())).expect("signed by the issuer's key");
}

struct Home {
    ca: HomeCa,
    _dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = HomeCa::create(dir.path(), at(NOW)).expect("an empty directory");
        Self { ca, _dir: dir }
    }

    fn hub_certificate(&self, names: &HubNames) -> Result<hearthkey_certs::HubCertificate, Error> {
        self.ca.issue_hub_certificate(names, serial(7), at(NOW))
    }

    fn device_certificate(&self, id: &str) -> Result<hearthkey_certs::DeviceCertificate, Error> {
        let key = rcgen::KeyPair::generate().expect("entropy");
        let key = DevicePublicKey::from_uncompressed_point(key.public_key_raw()).expect("on the curve");
        self.ca.issue_device_certificate(id, &key, serial(7), at(NOW))
    }
}

fn serial(n: u8) -> SerialNumber {
    SerialNumber::from_random([n; 16])
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}
