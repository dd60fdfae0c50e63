//! Signed JWTs (RFC 7515, RFC 7519) with one algorithm: ES256. Reads strictly, verifies before it shows a claim as true.
//!
//! RFC 8725: the algorithm is fixed by the key, `jku`, `x5u` and `jwk` in a header are never followed, `crit` is refused.

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::{digest, signature};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::fmt;

/// Largest JWT that is looked at, in bytes; ours have under 700.
pub const MAX_JWT_BYTES: usize = 3_072;

/// A P-256 public key: an uncompressed point, 65 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 65]);

/// A P-256 public key as JSON Web Key (RFC 7517, RFC 7518 section 6.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC`.
    pub kty: String,
    /// `P-256`.
    pub crv: String,
    /// 32 bytes, base64url.
    pub x: String,
    /// 32 bytes, base64url.
    pub y: String,
    /// Key id; we give the RFC 7638 thumbprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// `ES256` where present.
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
    /// Another algorithm than ES256.
    #[error("the algorithm is not ES256")]
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
        if header.alg != "ES256" {
            return Err(InvalidJwt::Algorithm);
        }
        if header.crit || header.b64 {
            return Err(InvalidJwt::Critical);
        }
        // RFC 7518 section 3.4: R then S, 64 bytes; DER has another length or starts with 0x30 and does not verify.
        let signature = decode(signature)?.try_into().map_err(|_| InvalidJwt::Signature)?;
        Ok(Self { header, signing_input, payload: decode(payload)?, signature })
    }

    /// The header; nobody vouches for it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
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
    /// [`InvalidJwt::Signature`], [`InvalidJwt::Malformed`].
    pub fn verify<C: DeserializeOwned>(&self, key: &PublicKey) -> Result<C, InvalidJwt> {
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

impl PublicKey {
    /// A key from its uncompressed point.
    #[must_use]
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; 65] = point.try_into().ok()?;
        (point[0] == 4).then_some(Self(point))
    }

    /// The uncompressed point.
    #[must_use]
    pub fn point(&self) -> &[u8; 65] {
        &self.0
    }

    /// Checks an ES256 signature: R then S, 64 bytes (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// [`InvalidJwt::Signature`], also where the key is no point of the curve.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), InvalidJwt> {
        let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.0);
        key.verify(message, signature).map_err(|_| InvalidJwt::Signature)
    }

    /// RFC 7638 thumbprint, base64url: our `kid` and `jkt`.
    #[must_use]
    pub fn thumbprint(&self) -> Box<str> {
        let Jwk { x, y, .. } = self.to_jwk();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Base64UrlUnpadded::encode_string(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()).into()
    }

    /// The key as JWK without optional members.
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        Jwk {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: Base64UrlUnpadded::encode_string(&self.0[1..33]),
            y: Base64UrlUnpadded::encode_string(&self.0[33..]),
            kid: None,
            alg: None,
            use_: None,
        }
    }
}

impl Jwk {
    /// The key, if this is a P-256 key for ES256 signatures.
    #[must_use]
    pub fn to_public_key(&self) -> Option<PublicKey> {
        let fits = self.kty == "EC" && self.crv == "P-256" && self.alg.as_deref().is_none_or(|alg| alg == "ES256");
        let usable = self.use_.as_deref().is_none_or(|purpose| purpose == "sig");
        if !fits || !usable {
            return None;
        }
        let mut point = [4_u8; 65];
        for (coordinate, target) in [(&self.x, 1..33), (&self.y, 33..65)] {
            let bytes = Base64UrlUnpadded::decode_vec(coordinate).ok()?;
            if bytes.len() != 32 {
                return None;
            }
            point[target].copy_from_slice(&bytes);
        }
        Some(PublicKey(point))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let point = Base64UrlUnpadded::decode_vec(&text).map_err(|_| "a key is base64url")?;
        Self::from_point(&point).ok_or("a key is an uncompressed P-256 point of 65 bytes")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        Base64UrlUnpadded::encode_string(&key.0)
    }
}
