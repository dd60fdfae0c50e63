//! Who the device is: its key, its name at the hub, where the hub is and which CA vouches for it.
//! Turns that into one record for storage and back. Stores nothing itself.

use crate::buffer::{Buffer, BufferFull};
use crate::flash::crc32;
use crate::keys::{PublicKey, SecretKey};
use crate::platform::{Platform, Record, StorageFailed};
use crate::time::UnixTime;
use crate::tls::{HomeCa, MAX_CA_SUBJECT};
use heapless::{String, Vec};
use zeroize::Zeroizing;

/// The longest `client_id` (DeviceId: `[a-z0-9-]{1,32}`).
pub const MAX_CLIENT_ID: usize = 32;
/// The longest host, as the enrolment string allows.
pub const MAX_HOST: usize = 64;
/// The longest issuer URL: scheme, host, port.
pub const MAX_ISSUER: usize = 96;

/// [`Record::CommandSequence`]: the sequence, and a checksum of whose it is.
pub(crate) const SEQUENCE_BYTES: usize = 12;

/// A key pair of the device.
#[derive(Debug)]
pub struct DeviceKey {
    pub(crate) secret: SecretKey,
    pub(crate) public: PublicKey,
}

impl DeviceKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// Where the hub listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// DNS name or IP literal, ASCII.
    pub host: String<MAX_HOST>,
    /// Port of HTTPS.
    pub https_port: u16,
    /// Port of MQTT over TLS.
    pub mqtt_port: u16,
}

/// An enrolled device: all it needs to prove itself, for ever.
#[derive(Debug)]
pub struct Identity {
    pub(crate) key: DeviceKey,
    pub(crate) client_id: String<MAX_CLIENT_ID>,
    pub(crate) issuer: String<MAX_ISSUER>,
    pub(crate) hub: HubAddress,
    pub(crate) home_ca: HomeCa,
}

/// What the identity record holds at a stage of the device's life.
#[derive(Debug)]
pub(crate) enum Stored {
    /// A key made for an enrolment that has not been answered yet.
    Pending(DeviceKey),
    /// An enrolled device.
    Enrolled(Identity),
}

/// Why the identity could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityError {
    /// The storage medium failed.
    Storage(StorageFailed),
    /// The record is not one that this agent wrote.
    Corrupt,
}

impl From<StorageFailed> for IdentityError {
    fn from(error: StorageFailed) -> Self {
        Self::Storage(error)
    }
}

/// First byte of the record: its layout, and what it holds.
const PENDING: u8 = 0x10;
const ENROLLED: u8 = 0x11;

impl Identity {
    /// The identity record at its longest.
    pub const MAX_BYTES: usize =
        1 + 32 + 64 + (1 + MAX_CLIENT_ID) + (1 + MAX_ISSUER) + (1 + MAX_HOST) + 4 + 64 + (1 + MAX_CA_SUBJECT) + 16;

    /// The enrolled identity in storage; `None` if the device is not enrolled (yet).
    ///
    /// # Errors
    /// [`IdentityError`] if the record cannot be read, or was not written by this agent.
    pub fn load<P: Platform>(platform: &mut P) -> Result<Option<Self>, IdentityError> {
        match Stored::load(platform)? {
            Some(Stored::Enrolled(identity)) => Ok(Some(identity)),
            Some(Stored::Pending(_)) | None => Ok(None),
        }
    }

    /// Erases key and enrolment, so that the device can be enrolled anew: at another hub, or after a revocation.
    ///
    /// # Errors
    /// [`StorageFailed`] if the medium failed.
    pub fn erase<P: Platform>(platform: &mut P) -> Result<(), StorageFailed> {
        platform.store(Record::Identity, &[])
    }

    /// The OAuth `client_id`, which is the device's name at the hub.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Where the hub listens.
    #[must_use]
    pub fn hub(&self) -> &HubAddress {
        &self.hub
    }

    /// The hub as the audience of assertions: its issuer URL.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The record of the command sequence, with the name and hub whose it is: both go on counting when this device is enrolled anew
    /// there, and mean nothing elsewhere.
    pub(crate) fn sequence_record(&self, sequence: u64) -> [u8; SEQUENCE_BYTES] {
        let whose = crc32(&[self.home_ca.public_key.coordinates(), self.client_id.as_bytes()]);
        let mut record = [0; SEQUENCE_BYTES];
        record[..8].copy_from_slice(&sequence.to_be_bytes());
        record[8..].copy_from_slice(&whose.to_be_bytes());
        record
    }

    /// The public half of the device's key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.key.public
    }
}

/// The sequence in a [record](Identity::sequence_record).
pub(crate) fn sequence_in(record: &[u8; SEQUENCE_BYTES]) -> u64 {
    record.first_chunk().map_or(0, |sequence| u64::from_be_bytes(*sequence))
}

impl Stored {
    pub(crate) fn into_key(self) -> DeviceKey {
        match self {
            Self::Pending(key) => key,
            Self::Enrolled(identity) => identity.key,
        }
    }

    pub(crate) fn load<P: Platform>(platform: &mut P) -> Result<Option<Self>, IdentityError> {
        let mut bytes = Zeroizing::new([0; Identity::MAX_BYTES]);
        match platform.load(Record::Identity, &mut *bytes)? {
            Some(0) | None => Ok(None), // never written, or erased
            Some(length) => Self::from_bytes(bytes.get(..length).unwrap_or_default()).map(Some),
        }
    }

    pub(crate) fn store<P: Platform>(&self, platform: &mut P) -> Result<(), IdentityError> {
        let mut bytes = Zeroizing::new([0; Identity::MAX_BYTES]);
        let mut out = Buffer::new(&mut *bytes);
        // Every field is bounded by its type, and MAX_BYTES is their sum.
        self.write(&mut out).map_err(|BufferFull| IdentityError::Corrupt)?;
        Ok(platform.store(Record::Identity, out.written())?)
    }

    pub(crate) fn write(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let (kind, key) = match self {
            Self::Pending(key) => (PENDING, key),
            Self::Enrolled(identity) => (ENROLLED, &identity.key),
        };
        out.push(&[kind])?;
        out.push(key.secret.as_bytes())?;
        out.push(key.public.coordinates())?;
        let Self::Enrolled(identity) = self else {
            return Ok(());
        };
        push_short(out, identity.client_id.as_bytes())?;
        push_short(out, identity.issuer.as_bytes())?;
        push_short(out, identity.hub.host.as_bytes())?;
        out.push(&identity.hub.https_port.to_be_bytes())?;
        out.push(&identity.hub.mqtt_port.to_be_bytes())?;
        out.push(identity.home_ca.public_key.coordinates())?;
        push_short(out, &identity.home_ca.subject)?;
        out.push(&identity.home_ca.not_before.as_secs().to_be_bytes())?;
        out.push(&identity.home_ca.not_after.as_secs().to_be_bytes())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        Self::read(&mut Fields(bytes)).ok_or(IdentityError::Corrupt)
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [kind] = fields.array()?;
        let secret = SecretKey::from_bytes(&Zeroizing::new(fields.array()?))?;
        let key = DeviceKey { secret, public: PublicKey::from_coordinates(fields.array()?) };
        let stored = match kind {
            PENDING => Self::Pending(key),
            ENROLLED => Self::Enrolled(Identity {
                key,
                client_id: fields.text()?,
                issuer: fields.text()?,
                hub: HubAddress {
                    host: fields.text()?,
                    https_port: u16::from_be_bytes(fields.array()?),
                    mqtt_port: u16::from_be_bytes(fields.array()?),
                },
                home_ca: HomeCa {
                    public_key: PublicKey::from_coordinates(fields.array()?),
                    subject: Vec::from_slice(fields.short()?).ok()?,
                    not_before: UnixTime::from_secs(u64::from_be_bytes(fields.array()?)),
                    not_after: UnixTime::from_secs(u64::from_be_bytes(fields.array()?)),
                },
            }),
            _ => return None,
        };
        fields.0.is_empty().then_some(stored)
    }
}

fn push_short(out: &mut Buffer<'_>, bytes: &[u8]) -> Result<(), BufferFull> {
    out.push(&[u8::try_from(bytes.len()).map_err(|_| BufferFull)?])?;
    out.push(bytes)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.array()?;
        self.take(usize::from(length))
    }

    fn text<const N: usize>(&mut self) -> Option<String<N>> {
        String::try_from(core::str::from_utf8(self.short()?).ok()?).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keys::Drbg;

    pub(crate) fn lamp() -> Identity {
        let mut random = Drbg::from_seed(&[3; 32], "test");
        let (secret, public) = SecretKey::generate(&mut random);
        let (_, ca) = SecretKey::generate(&mut random);
        Identity {
            key: DeviceKey { secret, public },
            client_id: String::try_from("lamp").expect("short"),
            issuer: String::try_from("https://hub:8443").expect("short"),
            hub: HubAddress { host: String::try_from("10.0.0.2").expect("short"), https_port: 8443, mqtt_port: 8883 },
            home_ca: HomeCa {
                public_key: ca,
                subject: Vec::from_slice(b"0\0").expect("short"),
                not_before: UnixTime::from_secs(1),
                not_after: UnixTime::from_secs(2),
            },
        }
    }

    #[test]
    fn an_identity_survives_storage_and_every_truncation_is_noticed() {
        let mut bytes = [0; Identity::MAX_BYTES];
        let mut out = Buffer::new(&mut bytes);
        Stored::Enrolled(lamp()).write(&mut out).expect("fits");
        let written = out.written();
        let Ok(Stored::Enrolled(again)) = Stored::from_bytes(written) else { panic!("does not read back") };
        let expected = lamp();
        assert_eq!(again.client_id, expected.client_id);
        assert_eq!(again.hub, expected.hub);
        assert_eq!(again.home_ca, expected.home_ca);
        assert_eq!(again.key.public, expected.key.public);
        assert_eq!(again.key.secret.as_bytes(), expected.key.secret.as_bytes());
        for end in 0..written.len() {
            assert!(Stored::from_bytes(&written[..end]).is_err(), "cut after {end} bytes");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let printed = std::format!("{:?}", lamp());
        assert!(printed.contains("SecretKey(redacted)"), "{printed}");
    }
}
