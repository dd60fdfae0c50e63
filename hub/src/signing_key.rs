//! The hub's own P-256 keys: signs access tokens, publishes the public halves (RFC 7517).

use crate::data_dir::{DataDir, DataDirError, read_or_create_secret};
use hearthkey_core::jwt::{self, Jwk, PublicKey};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde::Serialize;
use std::fmt;
use zeroize::Zeroizing;

/// A key that signs access tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public_key: PublicKey,
    thumbprint: Box<str>,
    entropy: SystemRandom,
}

impl SigningKey {
    /// The signing key of a hub, made at the first start.
    ///
    /// # Errors
    /// [`DataDirError`].
    ///
    /// # Panics
    /// When the system has no entropy source.
    pub fn load_or_create(data: &DataDir) -> Result<Self, DataDirError> {
        let entropy = SystemRandom::new();
        let path = data.keys().join("signing.p8");
        let pkcs8 = read_or_create_secret(&path, || {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &entropy);
            Zeroizing::new(made.expect("the operating system has an entropy source").as_ref().to_vec())
        })?;
        let damaged = |why| DataDirError::Damaged { path: path.clone(), why };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &entropy)
            .map_err(|_| damaged("it is no P-256 key in PKCS#8"))?;
        let public_key = PublicKey::from_point(pair.public_key().as_ref()).ok_or_else(|| damaged("its point is compressed"))?;
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

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The public half as it stands in the JWKS.
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        Jwk {
            kid: Some(self.thumbprint.to_string()),
            alg: Some("ES256".to_owned()),
            use_: Some("sig".to_owned()),
            ..self.public_key.to_jwk()
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.thumbprint)
    }
}
