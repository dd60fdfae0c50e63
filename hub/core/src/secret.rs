//! Secrets that the hub hands out and takes back: their format, their check sum, their keyed hash.
//!
//! `hk_pat_<id>_<random><crc>`: 12 base62 characters of public id, 32 of randomness (190 bits), 6 of CRC32 over all before.
//! A secret scanner finds them by [`SCANNER_EXPRESSION`]; a typing mistake is refused before any look-up.

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// What a secret scanner looks for.
pub const SCANNER_EXPRESSION: &str = "hk_(pat|key|sec)_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}";

const ID_CHARACTERS: usize = 12;
const RANDOM_CHARACTERS: usize = 32;
const CRC_CHARACTERS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a secret is for; its prefix says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// `hk_sec_`: the secret of a client that cannot sign.
    ClientSecret,
    /// `hk_pat_`: a user's script or command line.
    PersonalAccessToken,
    /// `hk_key_`: an integration or a legacy device.
    ApiKey,
}

/// A text that must not be seen: redacted in `Debug`, wiped on drop.
pub struct Secret(Zeroizing<String>);

/// A well-formed credential as somebody presented it: not yet known to be ours.
#[derive(Debug)]
pub struct PresentedCredential<'a> {
    /// What it claims to be.
    pub kind: CredentialKind,
    /// Its public id.
    pub id: &'a str,
    text: Redacted<'a>,
}

struct Redacted<'a>(&'a str);

/// The key of all hashes of secrets, kept outside the database, so that a stolen database verifies nothing.
pub struct Pepper([u8; 32]);

/// The symmetric key of one access token, for HS256 (RFC 9431). Redacted in `Debug`, wiped on drop.
pub struct PossessionKey(Zeroizing<[u8; 32]>);

/// HMAC-SHA-256 of a secret under the [`Pepper`]. Comparison is constant-time.
#[derive(Debug, Clone, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

/// Why a text is no credential of ours; says nothing about whether such a credential exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredential {
    /// Another shape.
    #[error("this is no Hearthkey credential (expected hk_pat_…, hk_key_… or hk_sec_…)")]
    Shape,
    /// The check sum is off: a typing or copying mistake.
    #[error("the credential is mistyped or cut short: its check sum does not fit")]
    CheckSum,
}

impl CredentialKind {
    /// What people call it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::ClientSecret => "client secret",
            Self::PersonalAccessToken => "personal access token",
            Self::ApiKey => "API key",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::ClientSecret => "hk_sec_",
            Self::PersonalAccessToken => "hk_pat_",
            Self::ApiKey => "hk_key_",
        }
    }
}

impl Secret {
    /// Takes a text into care.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; for the one place that shows or sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Makes a credential from randomness: 24 bytes become the id, 40 the secret part.
    #[must_use]
    pub fn generate(kind: CredentialKind, randomness: &[u8; 64]) -> (Box<str>, Self) {
        let id = base62::<ID_CHARACTERS>(&randomness[..24]);
        let random = Zeroizing::new(base62::<RANDOM_CHARACTERS>(&randomness[24..]));
        let mut text = format!("{}{id}_{}", kind.prefix(), *random);
        let crc = check_sum(&text);
        text.push_str(&crc);
        (id.into(), Self::new(text))
    }
}

/// The lowest base62 digits of a number in big-endian bytes; its size makes the bias negligible.
fn base62<const DIGITS: usize>(number: &[u8]) -> String {
    let mut number = Zeroizing::new(number.to_vec());
    let mut digits = [0_u8; DIGITS];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = ALPHABET[remainder as usize];
    }
    let text = digits.iter().map(|&digit| char::from(digit)).collect();
    digits.zeroize();
    text
}

fn check_sum(text: &str) -> String {
    base62::<CRC_CHARACTERS>(&crc32fast::hash(text.as_bytes()).to_be_bytes())
}

impl<'a> PresentedCredential<'a> {
    /// Reads a credential and checks its check sum.
    ///
    /// # Errors
    /// [`InvalidCredential`].
    pub fn parse(text: &'a str) -> Result<Self, InvalidCredential> {
        let kinds = [CredentialKind::ClientSecret, CredentialKind::PersonalAccessToken, CredentialKind::ApiKey];
        let (kind, rest) =
            kinds.iter().find_map(|kind| Some((*kind, text.strip_prefix(kind.prefix())?))).ok_or(InvalidCredential::Shape)?;
        let (id, secret) = rest.split_once('_').ok_or(InvalidCredential::Shape)?;
        let legal = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !legal(id, ID_CHARACTERS) || !legal(secret, RANDOM_CHARACTERS + CRC_CHARACTERS) {
            return Err(InvalidCredential::Shape);
        }
        let (body, crc) = text.split_at(text.len() - CRC_CHARACTERS);
        if check_sum(body) == crc { Ok(Self { kind, id, text: Redacted(text) }) } else { Err(InvalidCredential::CheckSum) }
    }

    /// The keyed hash of what was presented.
    #[must_use]
    pub fn hash(&self, pepper: &Pepper) -> SecretHash {
        pepper.hash(self.text.0.as_bytes())
    }
}

impl Pepper {
    /// Takes 32 random bytes into care.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The keyed hash of a secret.
    #[must_use]
    pub fn hash(&self, secret: &[u8]) -> SecretHash {
        SecretHash(self.authenticate(&[secret]))
    }

    /// The key that the holder of an access token shares with the hub, made of its name in `cnf`: it is stored nowhere and does
    /// not stand in the token.
    #[must_use]
    pub fn possession_key(&self, kid: &str) -> PossessionKey {
        // No credential and no enrolment code begins like this: none has this hash.
        PossessionKey(Zeroizing::new(self.authenticate(&[b"hearthkey ace HS256 key 1\0", kid.as_bytes()])))
    }

    fn authenticate(&self, message: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        message.iter().for_each(|part| context.update(part));
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

impl PossessionKey {
    /// Whether `mac` is the HMAC-SHA-256 of a message by this key; all 32 bytes, compared in constant time.
    #[must_use]
    pub fn verifies(&self, message: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &*self.0), message, mac).is_ok()
    }

    /// The key in base64url, as member `k` of a JWK (RFC 7518 section 6.4); for the one who is to hold it.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(&*self.0))
    }
}

impl SecretHash {
    /// A hash that no secret has: compared with when there is nothing to compare with, so that both take as long.
    pub const OF_NOTHING: Self = Self([0; 32]);

    /// The hash as lower-case hexadecimal, for keys of rows.
    #[must_use]
    pub fn to_hex(&self) -> String {
        crate::hex::encode(&self.0)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Drop for Pepper {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Debug for PossessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PossessionKey(…)")
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        crate::hex::decode(&text).map(Self).ok_or("a hash has 64 hexadecimal digits")
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hash.to_hex()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn randomness() -> impl Strategy<Value = [u8; 64]> {
        proptest::collection::vec(any::<u8>(), 64).prop_map(|bytes| bytes.try_into().expect("64 bytes"))
    }

    proptest! {
        #[test]
        fn a_credential_reads_back_and_any_changed_character_is_noticed(bytes in randomness(), place in 0_usize..58, with in "[0-9A-Za-z]") {
            let (id, secret) = Secret::generate(CredentialKind::PersonalAccessToken, &bytes);
            let presented = PresentedCredential::parse(secret.expose()).expect("just made");
            prop_assert_eq!((presented.kind, presented.id), (CredentialKind::PersonalAccessToken, &*id));
            let mut altered = secret.expose().to_owned();
            altered.replace_range(place..=place, &with);
            if altered != secret.expose() {
                prop_assert!(PresentedCredential::parse(&altered).is_err());
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,80}") {
            let _ = PresentedCredential::parse(&text);
            let _ = PresentedCredential::parse(&format!("hk_pat_{text}"));
        }
    }

    #[test]
    fn another_pepper_gives_another_hash() {
        let (_, secret) = Secret::generate(CredentialKind::ApiKey, &[7; 64]);
        let presented = PresentedCredential::parse(secret.expose()).expect("just made");
        assert_eq!(presented.hash(&Pepper::new([1; 32])), presented.hash(&Pepper::new([1; 32])));
        assert_ne!(presented.hash(&Pepper::new([1; 32])), presented.hash(&Pepper::new([2; 32])));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (_, secret) = Secret::generate(CredentialKind::ApiKey, &[7; 64]);
        let presented = PresentedCredential::parse(secret.expose()).expect("just made");
        let key = Pepper::new([1; 32]).possession_key("t-1");
        let shown = format!("{secret:?} {presented:?} {:?} {key:?}", Pepper::new([1; 32]));
        assert!(!shown.contains(&secret.expose()[20..]) && !shown.contains(&**key.expose()), "{shown}");
    }

    #[test]
    fn each_access_token_has_a_key_of_its_own_which_no_credential_hashes_to() {
        let pepper = Pepper::new([1; 32]);
        let key = pepper.possession_key("t-1");
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key.0), b"nonces");
        assert!(key.verifies(b"nonces", mac.as_ref()) && pepper.possession_key("t-1").verifies(b"nonces", mac.as_ref()));
        assert!(
            !key.verifies(b"nonces", &mac.as_ref()[..31])
                && !key.verifies(b"nonces", &[])
                && !key.verifies(b"other", mac.as_ref())
        );
        assert!(!pepper.possession_key("t-2").verifies(b"nonces", mac.as_ref()));
        assert!(!Pepper::new([2; 32]).possession_key("t-1").verifies(b"nonces", mac.as_ref()));
        assert_ne!(*key.0, pepper.hash(b"t-1").0);
    }
}
