//! The system's entropy: the one file that draws on it.

use base64ct::{Base64UrlUnpadded, Encoding};

/// Random bytes from the operating system.
///
/// # Panics
/// When the system has no entropy source: a hub without one must not hand out secrets.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has an entropy source");
    bytes
}

/// A fresh name of 128 bits, base64url: `jti`, request ids.
#[must_use]
pub fn unique_name() -> Box<str> {
    Base64UrlUnpadded::encode_string(&random::<16>()).into()
}
