//! Compares a ServerHello with what was offered: TLS 1.3, TLS_AES_128_GCM_SHA256, P-256, no session, no pre-shared key.
//! The engine reads these fields without comparing them.

/// The offered suite, TLS_AES_128_GCM_SHA256.
const CIPHER_SUITE: [u8; 2] = [0x13, 0x01];
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const TLS_1_3: [u8; 2] = [3, 4];
/// Group secp256r1, then the length of an uncompressed point.
const P256_SHARE: [u8; 4] = [0, 0x17, 0, 65];

/// `random` of a HelloRetryRequest (RFC 8446 4.1.3), which we never give reason for: we offer one group and send its share.
const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a,
    0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// How a ServerHello differs from an answer to our offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloError {
    /// Not exactly one well-formed ServerHello.
    Malformed,
    /// Another version than TLS 1.3.
    Version,
    /// A HelloRetryRequest.
    RetryRequest,
    /// A session id that we did not send.
    SessionId,
    /// Another cipher suite than the one offered.
    CipherSuite,
    /// Compression, which TLS 1.3 does not have.
    Compression,
    /// An extension that answers nothing we sent, or one twice.
    Extension,
    /// No P-256 key share.
    KeyShare,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, HelloError> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// Accepts the content of a plaintext handshake record only if it is one ServerHello that answers our ClientHello.
pub(super) fn check_server_hello(content: &[u8]) -> Result<(), HelloError> {
    let mut message = Fields(content);
    let kind = message.u8()?;
    let length = message.take(3)?;
    let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if kind != 2 || length != message.0.len() {
        return Err(HelloError::Malformed);
    }
    if message.take(2)? != [3, 3] {
        return Err(HelloError::Version);
    }
    if message.take(32)? == HELLO_RETRY_REQUEST {
        return Err(HelloError::RetryRequest);
    }
    if message.u8()? != 0 {
        return Err(HelloError::SessionId);
    }
    if message.take(2)? != CIPHER_SUITE {
        return Err(HelloError::CipherSuite);
    }
    if message.u8()? != 0 {
        return Err(HelloError::Compression);
    }
    if usize::from(message.u16()?) != message.0.len() {
        return Err(HelloError::Malformed);
    }
    check_extensions(message)
}

fn check_extensions(mut list: Fields<'_>) -> Result<(), HelloError> {
    let (mut version, mut key_share) = (None, None);
    while !list.0.is_empty() {
        let kind = list.u16()?;
        let length = list.u16()?;
        let value = list.take(usize::from(length))?;
        let place = match kind {
            SUPPORTED_VERSIONS => &mut version,
            KEY_SHARE => &mut key_share,
            _ => return Err(HelloError::Extension),
        };
        if place.replace(value).is_some() {
            return Err(HelloError::Extension);
        }
    }
    if version != Some(TLS_1_3.as_slice()) {
        return Err(HelloError::Version);
    }
    match key_share {
        Some(share) if share.len() == 69 && share.starts_with(&P256_SHARE) => Ok(()),
        _ => Err(HelloError::KeyShare),
    }
}
