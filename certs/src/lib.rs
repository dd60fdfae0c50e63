//! The home CA: the one root that every device of a home trusts, the hub's server certificate under it,
//! and device certificates for peers that speak only mutual TLS.
//!
//! Owns what each certificate contains ([`HomeCa`]), the names of a hub ([`HubNames`]), public keys of devices
//! ([`DevicePublicKey`]) and the CA's two files. Refuses to know TLS, HTTP, the registry and the clock: time and
//! serial numbers are arguments; only key generation draws its own randomness, inside rcgen.

mod authority;
mod device;
mod files;
mod names;
mod validity;

pub use authority::{
    DEVICE_CERTIFICATE_LIFETIME, DeviceCertificate, HUB_CERTIFICATE_LIFETIME, HomeCa, HubCertificate, MAX_CHAIN_BYTES,
    ROOT_LIFETIME, SerialNumber,
};
pub use device::{DevicePublicKey, InvalidPublicKey};
pub use files::{CERTIFICATE_FILE, KEY_FILE};
pub use names::{HUB_NAME, HubNames, InvalidHubName, MAX_HUB_NAMES};
pub use validity::{BACKDATED_BY, Validity};

use std::io;
use std::path::PathBuf;

/// Why the home CA could not be made, opened or asked for a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory holds no CA certificate.
    #[error("no home CA in {}: `hearthkey up` makes one", .0.display())]
    Missing(PathBuf),
    /// `create` never replaces a CA: devices trust the existing one.
    #[error("{} exists: a second home CA would lock out every device of the first", .0.display())]
    Exists(PathBuf),
    /// The certificate is there and its key is not; a new key would be a new CA.
    #[error(
        "{} is missing beside its certificate: restore it from a backup; without it every device must enrol again",
        .0.display()
    )]
    KeyMissing(PathBuf),
    /// Others may read or replace the private key.
    #[error("{} is accessible to others (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    KeyExposed {
        /// The private key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of the CA does not hold what it should.
    #[error("{}: {problem}; restore {KEY_FILE} and {CERTIFICATE_FILE} from the same backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; holds nothing of the key.
        problem: &'static str,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The hub's names do not fit into what the smallest device can receive.
    #[error(
        "{names} hub names make certificates of {bytes} bytes, a device receives at most {MAX_CHAIN_BYTES}: \
         give the hub fewer or shorter names"
    )]
    ChainTooLong {
        /// How many names, the fixed ones included.
        names: usize,
        /// Hub certificate and CA certificate together, DER.
        bytes: usize,
    },
    /// Not `[a-z0-9-]{1,32}`.
    #[error("`{0}` is not a device id: use 1 to 32 of a-z, 0-9 and -")]
    InvalidDeviceId(String),
    /// The CA ends before the certificate would begin, or the clock is beyond what a certificate can say.
    #[error("the home CA is valid from {} to {} (Unix time), it is {now} now: check the clock", validity.not_before, validity.not_after)]
    OutsideOfValidity {
        /// The CA's validity.
        validity: Validity,
        /// Unix time, seconds.
        now: u64,
    },
    /// The time cannot be written into a certificate.
    #[error("Unix time {0} is beyond what a certificate can say: check the clock")]
    TimeOutOfRange(u64),
    /// rcgen or ring refused; a bug or a machine without entropy.
    #[error("cannot make a certificate: {0}")]
    Engine(#[from] rcgen::Error),
}
