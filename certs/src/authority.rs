//! What the certificates of a home contain, and the key that signs them.
//!
//! All are X.509 v3 on P-256 with ECDSA and SHA-256; `tests/contents.rs` states every extension. Refuses to sign
//! anything but hub and device certificates.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SigningKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::files::{self, CERTIFICATE_FILE, KEY_FILE};
use crate::validity::date;
use crate::{DevicePublicKey, Error, HUB_NAME, HubNames, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The root outlives the devices that pin it (a thermostat stays on the wall for 10 to 15 years): replacing it means
/// visiting each of them.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * DAY.as_secs());
/// Renewed by the hub itself after two thirds, so that a hub may be off for a month.
pub const HUB_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * DAY.as_secs());
/// A device that renews over its own connection; renewal from two thirds on leaves four months of absence.
pub const DEVICE_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// Hub certificate and CA certificate together, DER. A record carries at most 2048 bytes of plaintext and a device's
/// buffer holds one: the rest of the hub's flight (framing, CertificateVerify, Finished) takes under 200.
pub const MAX_CHAIN_BYTES: usize = 1400;

/// The root of a home: a self-signed certificate and its private key.
pub struct HomeCa {
    issuer: Issuer<'static, CaKey>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    validity: Validity,
}

impl HomeCa {
    /// Makes a CA in `dir`, which is made if missing, and finishes one whose creation was cut short.
    ///
    /// # Errors
    /// [`Error::Exists`] when `dir` holds a CA already; [`Error::Io`] when it cannot be written.
    pub fn create(dir: &Path, now: UnixTime) -> Result<Self, Error> {
        files::prepare_directory(dir)?;
        if files::read_certificate(dir)?.is_some() {
            return Err(Error::Exists(dir.join(CERTIFICATE_FILE)));
        }
        let key = match files::read_key(dir)? {
            Some(pem) => CaKey::from_pem(&pem, dir)?,
            None => {
                let key = CaKey(KeyPair::generate()?);
                files::write_key(dir, &Zeroizing::new(key.0.serialize_pem()))?;
                key
            }
        };
        let certificate = root_params(&key, now)?.self_signed(&key)?;
        files::write_certificate(dir, &certificate.pem())?;
        Self::load(dir)
    }

    /// Opens the CA in `dir`.
    ///
    /// # Errors
    /// [`Error::Missing`] without a certificate, [`Error::KeyMissing`] without its key, [`Error::KeyExposed`] when
    /// others may access the key, [`Error::Damaged`] when the files do not belong together.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let certificate_pem = files::read_certificate(dir)?.ok_or_else(|| Error::Missing(dir.to_owned()))?;
        let key_pem = files::read_key(dir)?.ok_or_else(|| Error::KeyMissing(dir.join(KEY_FILE)))?;
        let key = CaKey::from_pem(&key_pem, dir)?;
        Self::from_parts(&certificate_pem, key).map_err(|problem| Error::Damaged { path: dir.join(CERTIFICATE_FILE), problem })
    }

    /// Opens the CA in `dir`, or makes it at the first start.
    ///
    /// # Errors
    /// As [`HomeCa::load`] and [`HomeCa::create`].
    pub fn load_or_create(dir: &Path, now: UnixTime) -> Result<Self, Error> {
        match Self::load(dir) {
            Err(Error::Missing(_)) => Self::create(dir, now),
            loaded => loaded,
        }
    }

    fn from_parts(certificate_pem: &str, key: CaKey) -> Result<Self, &'static str> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| "not a certificate in PEM")?;
        let (rest, parsed) = X509Certificate::from_der(&certificate).map_err(|_| "not an X.509 certificate")?;
        if !rest.is_empty() {
            return Err("bytes after the certificate");
        }
        if !parsed.is_ca() {
            return Err("not the certificate of a CA");
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("not the certificate of the key beside it");
        }
        let seconds = |time: i64| u64::try_from(time).map_err(|_| "valid before 1970");
        let validity = Validity {
            not_before: seconds(parsed.validity().not_before.timestamp())?,
            not_after: seconds(parsed.validity().not_after.timestamp())?,
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| "not a certificate of this CA's form")?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned(), certificate: certificate.clone(), validity })
    }

    /// The CA certificate.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA certificate for clients that read PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of the CA certificate in DER: what an enrolment string pins.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// When the CA certificate holds.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Issues a server certificate with a fresh key for the hub of these names, [`HUB_CERTIFICATE_LIFETIME`] long.
    ///
    /// # Errors
    /// [`Error::ChainTooLong`] when the names need more than [`MAX_CHAIN_BYTES`]; [`Error::OutsideOfValidity`] when
    /// the CA does not hold at `now`.
    pub fn issue_hub_certificate(&self, names: &HubNames, serial: SerialNumber, now: UnixTime) -> Result<HubCertificate, Error> {
        let validity = self.validity_for(HUB_CERTIFICATE_LIFETIME, now)?;
        let mut params = leaf_params(HUB_NAME, serial, validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names.dns_names() {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let addresses = names.addresses().iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);

        let mut key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        key.zeroize();

        let chain = vec![certificate.into(), self.certificate.clone()];
        let bytes = chain.iter().map(|certificate| certificate.len()).sum();
        let issued = HubCertificate { chain, private_key, validity };
        if bytes > MAX_CHAIN_BYTES {
            return Err(Error::ChainTooLong { names: names.count(), bytes });
        }
        Ok(issued)
    }

    /// Issues a client certificate for a device that keeps its private key, [`DEVICE_CERTIFICATE_LIFETIME`] long.
    ///
    /// The subject's common name is the device id. The alternative name is `<id>.device.hearthkey.home.arpa`: a device
    /// called `localhost` must not hold that name, even towards a client that ignores key usage.
    ///
    /// # Errors
    /// [`Error::InvalidDeviceId`]; [`Error::OutsideOfValidity`] when the CA does not hold at `now`.
    pub fn issue_device_certificate(
        &self,
        device_id: &str,
        public_key: &DevicePublicKey,
        serial: SerialNumber,
        now: UnixTime,
    ) -> Result<DeviceCertificate, Error> {
        if !is_device_id(device_id) {
            return Err(Error::InvalidDeviceId(device_id.chars().take(64).collect()));
        }
        let validity = self.validity_for(DEVICE_CERTIFICATE_LIFETIME, now)?;
        let mut params = leaf_params(device_id, serial, validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let name = format!("{device_id}.device.hearthkey.home.arpa");
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        Ok(DeviceCertificate { certificate: params.signed_by(public_key, &self.issuer)?.into(), validity })
    }

    fn validity_for(&self, lifetime: Duration, now: UnixTime) -> Result<Validity, Error> {
        if !self.validity.holds(now) {
            return Err(Error::OutsideOfValidity { validity: self.validity, now: now.as_secs() });
        }
        Ok(Validity::starting(now, lifetime).within(self.validity))
    }
}

impl std::fmt::Debug for HomeCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HomeCa").field("validity", &self.validity).field("key", &"[secret]").finish_non_exhaustive()
    }
}

/// A hub's server certificate and its key, which is only ever held in memory: a restart issues another.
pub struct HubCertificate {
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
    validity: Validity,
}

impl HubCertificate {
    /// The hub's certificate, then the CA's, as they are sent in the handshake.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// A copy of the private key for a TLS server configuration.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.private_key.clone_key()
    }

    /// When the certificate holds, and when its renewal is due.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

impl Drop for HubCertificate {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

impl std::fmt::Debug for HubCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubCertificate")
            .field("validity", &self.validity)
            .field("private_key", &"[secret]")
            .finish_non_exhaustive()
    }
}

/// A device's client certificate.
#[derive(Clone, Debug)]
pub struct DeviceCertificate {
    certificate: CertificateDer<'static>,
    validity: Validity,
}

impl DeviceCertificate {
    /// The certificate.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// When the certificate holds, and when its renewal is due.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// A certificate's serial number: positive, 16 bytes, unpredictable (RFC 5280 section 4.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// Takes 126 of the given random bits; the other two keep the number positive and its length constant.
    pub fn from_random(mut random: [u8; 16]) -> Self {
        random[0] = random[0] & 0x7f | 0x40;
        Self(random)
    }
}

/// The CA's private key: not copied, not printed, overwritten when dropped.
struct CaKey(KeyPair);

impl CaKey {
    fn from_pem(pem: &str, dir: &Path) -> Result<Self, Error> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|_| Error::Damaged { path: dir.join(KEY_FILE), problem: "not a P-256 private key in PEM" })
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn root_params(key: &CaKey, now: UnixTime) -> Result<CertificateParams, Error> {
    // The name and the serial number follow from the key: two homes' roots never share a subject.
    let key_hash: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    let (name_part, serial_part) = key_hash.split_at(16);
    let short_id: String = name_part[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let serial = SerialNumber::from_random(serial_part.try_into().expect("32 bytes split at 16"));

    let mut params = common_params(&format!("Hearthkey home CA {short_id}"), serial, Validity::starting(now, ROOT_LIFETIME))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn leaf_params(common_name: &str, serial: SerialNumber, validity: Validity) -> Result<CertificateParams, Error> {
    let mut params = common_params(common_name, serial, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common_params(common_name: &str, serial: SerialNumber, validity: Validity) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial.0));
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    Ok(params)
}

fn is_device_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}
