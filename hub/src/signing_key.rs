//! The hub's own P-256 keys: signs access tokens, publishes the public halves (RFC 7517).

use crate::data_dir::{DataDir, DataDirError, read_or_create_secret, replace_file};
use hearthkey_core::{
    Seconds, UnixTime,
    jwt::{self, Jwk, PublicKey},
    limits::{ACCESS_TOKEN_LIFETIME_RANGE, CLOCK_SKEW},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};
use zeroize::Zeroizing;

/// How long a signing key is used before the hub makes another by itself.
pub const SIGNING_KEY_LIFETIME: Seconds = Seconds::days(90);
/// How long a retired key still verifies: the longest life that a profile may give a token, and the skew.
pub const VERIFIES_FOR: Seconds = Seconds(*ACCESS_TOKEN_LIFETIME_RANGE.end() + CLOCK_SKEW.0);
/// Most retired keys: rotating by command each minute for an hour is a mistake; the oldest goes first.
pub const MAX_RETIRED_KEYS: usize = 16;

/// A key that signs access tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public_key: PublicKey,
    thumbprint: Box<str>,
    entropy: SystemRandom,
}

/// The key that signs, and those that signed before and whose tokens may still be good.
#[derive(Debug)]
pub struct SigningKeys {
    current: SigningKey,
    made_at: UnixTime,
    retired: Vec<RetiredKey>,
}

/// A key that signed before: only its public half is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RetiredKey {
    public_key: PublicKey,
    verifies_until: UnixTime,
}

/// What lies beside the private key: when it was made, and the retired ones.
#[derive(Debug, Default, Serialize, Deserialize)]
struct History {
    #[serde(default)]
    made_at: Option<UnixTime>,
    #[serde(default)]
    retired: Vec<RetiredKey>,
}

impl SigningKeys {
    /// The signing keys of a hub; the first is made at the first start.
    ///
    /// # Errors
    /// [`DataDirError`].
    ///
    /// # Panics
    /// When the system has no entropy source.
    pub fn load_or_create(data: &DataDir, now: UnixTime) -> Result<Self, DataDirError> {
        let pkcs8 = read_or_create_secret(&key_file(data), generate)?;
        let current = SigningKey::from_pkcs8(&pkcs8).map_err(|why| DataDirError::Damaged { path: key_file(data), why })?;
        let history: History = match std::fs::read(history_file(data)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| DataDirError::Damaged { path: history_file(data), why: "it is no list of keys" })?,
            Err(_) => History::default(),
        };
        let mut keys = Self { made_at: history.made_at.unwrap_or(now), retired: history.retired, current };
        // A rotation that was cut short has retired the key that is still current.
        keys.retired.retain(|retired| retired.public_key != keys.current.public_key);
        if history.made_at.is_none() {
            keys.write_history(data)?;
        }
        Ok(keys)
    }

    /// Makes another key; the one before it verifies until its last token has ended.
    ///
    /// # Errors
    /// [`DataDirError`]: the key before stays in use.
    pub fn rotated(&self, data: &DataDir, now: UnixTime) -> Result<Self, DataDirError> {
        let pkcs8 = generate();
        let damaged = |why| DataDirError::Damaged { path: key_file(data), why };
        let current = SigningKey::from_pkcs8(&pkcs8).map_err(damaged)?;
        let retired = RetiredKey { public_key: self.current.public_key.clone(), verifies_until: now.plus(VERIFIES_FOR) };
        let mut retired: Vec<RetiredKey> = std::iter::once(retired).chain(self.retired.iter().cloned()).collect();
        retired.retain(|key| now < key.verifies_until);
        retired.truncate(MAX_RETIRED_KEYS);
        let keys = Self { current, made_at: now, retired };
        // First the public half is kept, then the private half replaced: a cut in between loses nothing.
        keys.write_history(data)?;
        replace_file(&key_file(data), &pkcs8)?;
        Ok(keys)
    }

    /// Whether the key has been used long enough.
    #[must_use]
    pub fn rotation_due(&self, now: UnixTime) -> bool {
        now.since(self.made_at) >= SIGNING_KEY_LIFETIME
    }

    /// The key that signs.
    #[must_use]
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    /// All public keys that verify at `now`, the current one first.
    pub fn public_keys(&self, now: UnixTime) -> impl Iterator<Item = &PublicKey> {
        let retired = self.retired.iter().filter(move |key| now < key.verifies_until).map(|key| &key.public_key);
        std::iter::once(&self.current.public_key).chain(retired)
    }

    /// The JWK Set (RFC 7517 section 5).
    #[must_use]
    pub fn jwks(&self, now: UnixTime) -> serde_json::Value {
        let keys: Vec<Jwk> = self.public_keys(now).map(published).collect();
        serde_json::json!({ "keys": keys })
    }

    fn write_history(&self, data: &DataDir) -> Result<(), DataDirError> {
        let history = History { made_at: Some(self.made_at), retired: self.retired.clone() };
        let bytes = serde_json::to_vec(&history)
            .map_err(|_| DataDirError::Damaged { path: history_file(data), why: "it cannot be written as JSON" })?;
        replace_file(&history_file(data), &bytes)
    }
}

fn key_file(data: &DataDir) -> PathBuf {
    data.keys().join("signing.p8")
}

fn history_file(data: &DataDir) -> PathBuf {
    data.keys().join("signing.json")
}

fn generate() -> Zeroizing<Vec<u8>> {
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    Zeroizing::new(made.expect("the operating system has an entropy source").as_ref().to_vec())
}

/// A public key as it stands in the JWKS.
fn published(key: &PublicKey) -> Jwk {
    Jwk { kid: Some(key.thumbprint().to_string()), alg: Some("ES256".to_owned()), use_: Some("sig".to_owned()), ..key.to_jwk() }
}

impl SigningKey {
    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, &'static str> {
        let entropy = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &entropy)
            .map_err(|_| "it is no P-256 key in PKCS#8")?;
        let public_key = PublicKey::from_point(pair.public_key().as_ref()).ok_or("its point is compressed")?;
        Ok(Self { thumbprint: public_key.thumbprint(), public_key, pair, entropy })
    }

    /// Signs claims as a JWT of a type.
    ///
    /// # Panics
    /// When the system has no entropy source.
    #[must_use]
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> String {
        let input = jwt::signing_input(typ, &self.thumbprint, claims);
        let signature = self.pair.sign(&self.entropy, input.as_bytes()).expect("the operating system has an entropy source");
        jwt::join(&input, signature.as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.thumbprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_780_000_000);

    fn data() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(&temp.path().join("data")).expect("new");
        (temp, data)
    }

    fn kids(keys: &SigningKeys, now: UnixTime) -> Vec<Box<str>> {
        keys.public_keys(now).map(PublicKey::thumbprint).collect()
    }

    #[test]
    fn a_rotated_key_verifies_until_its_last_token_has_ended() {
        let (_temp, data) = data();
        let first = SigningKeys::load_or_create(&data, NOW).expect("made");
        let second = first.rotated(&data, NOW).expect("rotated");
        assert_ne!(kids(&first, NOW)[0], kids(&second, NOW)[0]);
        assert_eq!(kids(&second, NOW)[1..], kids(&first, NOW)[..]);
        assert_eq!(kids(&second, NOW.plus(VERIFIES_FOR)).len(), 1);
        let read = SigningKeys::load_or_create(&data, NOW).expect("read");
        assert_eq!(kids(&read, NOW), kids(&second, NOW));
        assert!(!read.rotation_due(NOW) && read.rotation_due(NOW.plus(SIGNING_KEY_LIFETIME)));
    }

    #[test]
    fn a_rotation_that_was_cut_short_leaves_the_key_before_in_use() {
        let (_temp, data) = data();
        let first = SigningKeys::load_or_create(&data, NOW).expect("made");
        let private = std::fs::read(key_file(&data)).expect("there");
        first.rotated(&data, NOW).expect("rotated");
        std::fs::write(key_file(&data), private).expect("ours");
        let read = SigningKeys::load_or_create(&data, NOW).expect("read");
        assert_eq!(kids(&read, NOW), kids(&first, NOW));
    }

    #[test]
    fn retired_keys_are_bounded() {
        let (_temp, data) = data();
        let mut keys = SigningKeys::load_or_create(&data, NOW).expect("made");
        for _ in 0..MAX_RETIRED_KEYS + 3 {
            keys = keys.rotated(&data, NOW).expect("rotated");
        }
        assert_eq!(kids(&keys, NOW).len(), MAX_RETIRED_KEYS + 1);
    }
}
