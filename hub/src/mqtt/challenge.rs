//! The two authentication methods of MQTT 5 that the hub knows (docs/protocol.md), and the method `ace`: an access token is
//! good only together with a signature or MAC over the hub's nonce by the key in its `cnf` (RFC 9431 section 2.2.4.2).

use super::packet::{Fault, Secret, reason};

/// An authentication method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Authentication data is a token request.
    ClientCredentials,
    /// RFC 9431, proof of possession by the broker's challenge.
    Ace,
}

impl Method {
    pub(super) const ALL: [Self; 2] = [Self::ClientCredentials, Self::Ace];

    /// Its name in packets.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Ace => "ace",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }
}

/// Bytes of a nonce of either side.
pub(super) const NONCE_BYTES: usize = 8;
/// Bytes of a signature, ES256 or Ed25519.
const SIGNATURE_BYTES: usize = 64;
/// Bytes of a MAC, HS256.
const MAC_BYTES: usize = 32;

/// What the hub asked in answer to AUTH 0x19: AUTH 0x18 of the client is to follow.
pub(super) enum Challenge {
    /// Method `client_credentials`: a token request by the audience and the time that were told.
    TokenRequest,
    /// Method `ace`: the proof for this token, over this nonce.
    Possession(Secret, Nonce),
}

/// A nonce that was sent and not yet signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce([u8; NONCE_BYTES]);

/// What the client has sent in answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed<'a> {
    /// The hub's nonce and the client's.
    pub(super) challenge: [u8; 2 * NONCE_BYTES],
    pub(super) proof: &'a [u8],
}

impl Nonce {
    /// Nothing if the system has no entropy.
    pub(super) fn fresh() -> Option<Self> {
        getrandom::u64().ok().map(|random| Self(random.to_be_bytes()))
    }

    /// The bytes to send.
    pub(super) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The client's answer: its nonce, alone or after its length in two bytes, and a signature or MAC over both nonces.
    pub(super) fn answered(self, data: &[u8]) -> Result<Signed<'_>, Fault> {
        let is_answer = |data: &&[u8]| [SIGNATURE_BYTES, MAC_BYTES].contains(&data.len().saturating_sub(NONCE_BYTES));
        let after_length = || data.strip_prefix(&(NONCE_BYTES as u16).to_be_bytes());
        let answer = Some(data).filter(is_answer).or_else(|| after_length().filter(is_answer));
        let Some((nonce, proof)) = answer.and_then(<[u8]>::split_first_chunk::<NONCE_BYTES>) else {
            // RFC 9431 section 2.2.6.1: malformed authentication data are no authorization.
            let reason = "invalid_request: the answer is a nonce of 8 bytes and a signature of 64 or a MAC of 32";
            return Err(Fault { code: reason::NOT_AUTHORIZED, reason });
        };
        let mut challenge = [0; 2 * NONCE_BYTES];
        let (ours, theirs) = challenge.split_at_mut(NONCE_BYTES);
        ours.copy_from_slice(&self.0);
        theirs.copy_from_slice(nonce);
        Ok(Signed { challenge, proof })
    }
}

/// The token in authentication data: alone, or after its length in two bytes as where a proof follows it.
pub(super) fn token_in(data: &[u8]) -> &[u8] {
    match data.split_first_chunk::<2>() {
        Some((length, token)) if usize::from(u16::from_be_bytes(*length)) == token.len() => token,
        Some(_) | None => data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_with_and_without_its_length() {
        assert_eq!(token_in(b"eyJ.x.y"), b"eyJ.x.y");
        assert_eq!(token_in(b"\x00\x07eyJ.x.y"), b"eyJ.x.y");
        assert_eq!((token_in(b""), token_in(b"e"), token_in(b"\x00\x00")), (&b""[..], &b"e"[..], &b""[..]));
    }

    #[test]
    fn only_a_nonce_and_a_signature_or_mac_are_an_answer() {
        let nonce = Nonce(*b"hubs-one");
        for length in (0..100).filter(|length| ![72, 40].contains(length)) {
            assert!(nonce.answered(&vec![7; length]).is_err(), "{length}");
        }
        for proof in [&[9; 64][..], &[9; 32]] {
            let answer = [&b"theirs-1"[..], proof].concat();
            let signed = Ok(Signed { challenge: *b"hubs-onetheirs-1", proof });
            assert_eq!(nonce.answered(&answer), signed);
            assert_eq!(nonce.answered(&[&[0, 8], &answer[..]].concat()), signed);
            assert!(nonce.answered(&[&[0, 9], &answer[..]].concat()).is_err());
        }
    }
}
