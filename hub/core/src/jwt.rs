//! Signed JWTs (RFC 7515, RFC 7519) and the two kinds of key that sign here: P-256 (ES256) and Ed25519 (EdDSA, RFC 8037). Reads
//! strictly, verifies before it shows a claim as true.
//!
//! RFC 8725: the algorithm is fixed by the key, `jku`, `x5u` and `jwk` in a header are never followed, `crit` is refused.

use base64ct::{Base64UrlUnpadded, Encoding};
use curve25519_dalek::edwards::CompressedEdwardsY;
use ring::{digest, signature};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::fmt;

/// Largest JWT that is looked at, in bytes; ours have under 700.
pub const MAX_JWT_BYTES: usize = 3_072;

/// How a key signs; each key has exactly one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256: R then S, 64 bytes (RFC 7518 section 3.4).
    Es256,
    /// Ed25519: 64 bytes (RFC 8032). JOSE says `EdDSA` (RFC 8037), and `Ed25519` since RFC 9864.
    Ed25519,
}

/// A public key. As text, the base64url of its bytes: the uncompressed point of P-256 has 65, an Ed25519 key 32.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(Key);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

/// A public key as JSON Web Key (RFC 7517; RFC 7518 section 6.2, RFC 8037 section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC` or `OKP`.
    pub kty: String,
    /// `P-256` or `Ed25519`.
    pub crv: String,
    /// 32 bytes, base64url.
    pub x: String,
    /// 32 bytes, base64url; of `EC` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// Key id; we give the RFC 7638 thumbprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The algorithm of this kind of key, where present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// `sig` where present.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub use_: Option<String>,
}

/// The header of a JWT; members that we do not know are ignored, as RFC 7515 section 4 wants.
#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    /// The algorithm.
    pub alg: String,
    /// The kind of token.
    #[serde(default)]
    pub typ: Option<String>,
    /// Which key signed it.
    #[serde(default)]
    pub kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
}

/// Whether a member is there, `null` or not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A JWT that was read and not yet verified.
pub struct UnverifiedJwt<'a> {
    header: Header,
    algorithm: Algorithm,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: [u8; 64],
}

/// Why a text is no JWT that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwt {
    /// Not three base64url parts, or too long, or a header or claims that are no JSON of the expected shape.
    #[error("not a JWT of the expected shape")]
    Malformed,
    /// Another algorithm than ES256 and EdDSA, or than that of the key.
    #[error("the algorithm is neither ES256 nor EdDSA, or not that of the key")]
    Algorithm,
    /// `crit` or `b64`: extensions that we do not understand.
    #[error("the header names a critical extension")]
    Critical,
    /// Another kind of token than was asked for.
    #[error("the type of the token is another")]
    Type,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    Signature,
}

impl<'a> UnverifiedJwt<'a> {
    /// Reads a compact JWT (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// [`InvalidJwt`].
    pub fn parse(text: &'a str) -> Result<Self, InvalidJwt> {
        if text.len() > MAX_JWT_BYTES {
            return Err(InvalidJwt::Malformed);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(InvalidJwt::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(InvalidJwt::Malformed)?;
        let decode = |part: &str| Base64UrlUnpadded::decode_vec(part).map_err(|_| InvalidJwt::Malformed);
        let header: Header = object(&decode(header)?)?;
        let algorithm = Algorithm::named(&header.alg).ok_or(InvalidJwt::Algorithm)?;
        if header.crit || header.b64 {
            return Err(InvalidJwt::Critical);
        }
        // RFC 7518 section 3.4: R then S, 64 bytes; DER has another length or starts with 0x30 and does not verify.
        let signature = decode(signature)?.try_into().map_err(|_| InvalidJwt::Signature)?;
        Ok(Self { header, algorithm, signing_input, payload: decode(payload)?, signature })
    }

    /// The header; nobody vouches for it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How it claims to be signed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The claims, before verification: only to find the key to verify with.
    ///
    /// # Errors
    /// [`InvalidJwt::Malformed`] if a claim is missing, twice there or of another type.
    pub fn unverified_claims<C: DeserializeOwned>(&self) -> Result<C, InvalidJwt> {
        object(&self.payload)
    }

    /// The claims, after the signature was found good under `key`.
    ///
    /// # Errors
    /// [`InvalidJwt::Algorithm`] for a key of another kind, [`InvalidJwt::Signature`], [`InvalidJwt::Malformed`].
    pub fn verify<C: DeserializeOwned>(&self, key: &PublicKey) -> Result<C, InvalidJwt> {
        if key.algorithm() != self.algorithm {
            return Err(InvalidJwt::Algorithm);
        }
        key.verify(self.signing_input.as_bytes(), &self.signature)?;
        self.unverified_claims()
    }
}

/// Reads a JSON object; serde would take an array of a struct's fields for it too.
fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, InvalidJwt> {
    if json.first() != Some(&b'{') {
        return Err(InvalidJwt::Malformed);
    }
    serde_json::from_slice(json).map_err(|_| InvalidJwt::Malformed)
}

/// What the signer signs: header and claims, encoded.
///
/// # Panics
/// Never: headers and claims of ours have string keys and finite numbers.
#[must_use]
pub fn signing_input(typ: &str, kid: &str, claims: &impl Serialize) -> String {
    let header = serde_json::json!({"alg": "ES256", "typ": typ, "kid": kid});
    let claims = serde_json::to_vec(claims).expect("claims are plain JSON");
    format!("{}.{}", Base64UrlUnpadded::encode_string(header.to_string().as_bytes()), Base64UrlUnpadded::encode_string(&claims))
}

/// Joins a signing input and its 64-byte signature.
#[must_use]
pub fn join(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", Base64UrlUnpadded::encode_string(signature))
}

impl Algorithm {
    /// The names that clients may use, as in the metadata of RFC 8414.
    pub const NAMES: [&'static str; 3] = ["ES256", "EdDSA", "Ed25519"];

    fn named(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

impl PublicKey {
    /// A P-256 key from its uncompressed point; whether that is on the curve is not looked at.
    #[must_use]
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; 65] = point.try_into().ok()?;
        (point[0] == 4).then_some(Self(Key::P256(point)))
    }

    /// An Ed25519 key from its 32 bytes. None for what is no point of the curve, and for the few points under which everybody
    /// can sign (those of small order).
    #[must_use]
    pub fn from_ed25519(bytes: &[u8]) -> Option<Self> {
        let point = CompressedEdwardsY::from_slice(bytes).ok()?;
        let is_sound = point.decompress().is_some_and(|point| !point.is_small_order());
        is_sound.then_some(Self(Key::Ed25519(point.0)))
    }

    /// The uncompressed point of a P-256 key.
    #[must_use]
    pub fn point(&self) -> Option<&[u8; 65]> {
        match &self.0 {
            Key::P256(point) => Some(point),
            Key::Ed25519(_) => None,
        }
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Key::P256(_) => Algorithm::Es256,
            Key::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// Checks a signature by this key's [`Algorithm`].
    ///
    /// # Errors
    /// [`InvalidJwt::Signature`], also where the key is no point of the curve.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), InvalidJwt> {
        let verified = match &self.0 {
            Key::P256(point) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Key::Ed25519(key) => signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
        };
        verified.map_err(|_| InvalidJwt::Signature)
    }

    /// RFC 7638 thumbprint (RFC 8037 section 2 for Ed25519), base64url: our `kid` and `jkt`.
    #[must_use]
    pub fn thumbprint(&self) -> Box<str> {
        let Jwk { kty, crv, x, y, .. } = self.to_jwk();
        let y = y.map(|y| format!(r#","y":"{y}""#)).unwrap_or_default();
        let canonical = format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"{y}}}"#);
        Base64UrlUnpadded::encode_string(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()).into()
    }

    /// The key as JWK without optional members.
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        let (kty, crv, x, y) = match &self.0 {
            Key::P256(point) => ("EC", "P-256", &point[1..33], Some(&point[33..])),
            Key::Ed25519(key) => ("OKP", "Ed25519", &key[..], None),
        };
        Jwk {
            kty: kty.to_owned(),
            crv: crv.to_owned(),
            x: Base64UrlUnpadded::encode_string(x),
            y: y.map(Base64UrlUnpadded::encode_string),
            kid: None,
            alg: None,
            use_: None,
        }
    }
}

impl Jwk {
    /// The key, if this is a key for ES256 or Ed25519 signatures.
    #[must_use]
    pub fn to_public_key(&self) -> Option<PublicKey> {
        if self.use_.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let x = coordinate(&self.x)?;
        let key = match (self.kty.as_str(), self.crv.as_str(), &self.y) {
            ("EC", "P-256", Some(y)) => PublicKey::from_point(&[&[4][..], &x, &coordinate(y)?].concat())?,
            ("OKP", "Ed25519", None) => PublicKey::from_ed25519(&x)?,
            _ => return None,
        };
        self.alg.as_deref().is_none_or(|alg| Algorithm::named(alg) == Some(key.algorithm())).then_some(key)
    }
}

/// 32 bytes in base64url.
fn coordinate(text: &str) -> Option<[u8; 32]> {
    Base64UrlUnpadded::decode_vec(text).ok()?.try_into().ok()
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = Base64UrlUnpadded::decode_vec(&text).map_err(|_| "a key is base64url")?;
        let key = Self::from_point(&bytes).or_else(|| Self::from_ed25519(&bytes));
        key.ok_or("a key is an uncompressed P-256 point of 65 bytes, or an Ed25519 key of 32")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        match key.0 {
            Key::P256(point) => Base64UrlUnpadded::encode_string(&point),
            Key::Ed25519(key) => Base64UrlUnpadded::encode_string(&key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    fn jwk(members: serde_json::Value) -> Option<PublicKey> {
        serde_json::from_value::<Jwk>(members).ok()?.to_public_key()
    }

    #[test]
    fn the_key_of_rfc_8037_has_its_thumbprint_verifies_its_signature_and_is_stored_as_its_bytes() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let key = jwk(serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x})).expect("appendix A.2");
        assert_eq!(&*key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "appendix A.3");
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = Base64UrlUnpadded::decode_vec(signature).expect("base64url");
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        assert_eq!(key.verify(message, &signature), Ok(()), "appendix A.4");
        assert_eq!(key.verify(b"another message", &signature), Err(InvalidJwt::Signature));
        assert_eq!(key.to_jwk().y, None);
        let stored = String::from(key.clone());
        assert_eq!((stored.as_str(), PublicKey::try_from(stored.clone())), (x, Ok(key)));
    }

    #[test]
    fn a_jwk_of_another_shape_or_for_another_purpose_is_no_key() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let x = Base64UrlUnpadded::encode_string(pair.public_key().as_ref());
        let genuine = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA", "use": "sig"});
        assert!(jwk(genuine.clone()).is_some());
        for (member, value) in [
            ("kty", "EC"),
            ("kty", "oct"),
            ("crv", "P-256"),
            ("crv", "X25519"),
            ("crv", "Ed448"),
            ("alg", "ES256"),
            ("alg", "HS256"),
            ("use", "enc"),
            ("y", x.as_str()),
            ("x", ""),
            ("x", "AAAA"),
            // A byte string that is no point, and the neutral element, under which everybody can sign.
            ("x", "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            ("x", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ] {
            let mut altered = genuine.clone();
            altered[member] = value.into();
            assert!(jwk(altered).is_none(), "{member} {value}");
        }
    }

    #[test]
    fn a_jwt_is_verified_by_the_algorithm_of_the_key_and_by_no_other() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let key = PublicKey::from_ed25519(pair.public_key().as_ref()).expect("a key");
        let sign = |alg: &str| {
            let input = [serde_json::json!({"alg": alg}), serde_json::json!({"sub": "lamp"})];
            let input = input.map(|part| Base64UrlUnpadded::encode_string(part.to_string().as_bytes())).join(".");
            join(&input, pair.sign(input.as_bytes()).as_ref())
        };
        let verified = |alg: &str| UnverifiedJwt::parse(&sign(alg)).and_then(|jwt| jwt.verify::<serde_json::Value>(&key));
        for alg in ["EdDSA", "Ed25519"] {
            assert_eq!(verified(alg).expect("its own")["sub"], "lamp", "{alg}");
        }
        for alg in ["ES256", "HS256", "none", "eddsa", "Ed448", "EdDSA "] {
            assert_eq!(verified(alg), Err(InvalidJwt::Algorithm), "{alg}");
        }
        let mut forged = sign("EdDSA");
        forged.replace_range(forged.len() - 4.., "AAAA");
        let forged = UnverifiedJwt::parse(&forged).and_then(|jwt| jwt.verify::<serde_json::Value>(&key));
        assert_eq!(forged, Err(InvalidJwt::Signature));
    }
}
