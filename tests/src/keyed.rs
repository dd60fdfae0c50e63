//! A device of our own making: key, registration and assertions written from docs/protocol.md alone, so that each part can
//! be wrong on purpose.

use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use reqwest::Response;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::hub::{Hub, code_of};

/// `client_assertion_type` of RFC 7523.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A device and its P-256 key.
#[derive(Debug)]
pub struct Keyed {
    /// Its id.
    pub id: String,
    key: EcdsaKeyPair,
}

impl Keyed {
    /// A device with a fresh key, which the hub does not know yet.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
        Self { id: id.to_owned(), key }
    }

    /// Adds a device at the hub and registers its key.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn enrolled(hub: &Hub, id: &str, profile: &str) -> Self {
        let device = Self::new(id);
        let enrolment_string = hub.add(id, profile).await;
        let answer = device.register(hub, &enrolment_string).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
        device
    }

    /// Its public key (RFC 7517).
    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let encode = Base64UrlUnpadded::encode_string;
        json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
    }

    /// The key's thumbprint (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
        Base64UrlUnpadded::encode_string(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    }

    /// Registers its key with the code of an enrolment string (RFC 7591).
    ///
    /// # Panics
    /// When the hub does not answer.
    pub async fn register(&self, hub: &Hub, enrolment_string: &str) -> Response {
        let metadata = json!({
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": { "keys": [self.jwk()] },
            "software_id": "handmade",
            "software_version": "0.1",
        });
        let request = hub.http().post(hub.url("/oauth2/register")).bearer_auth(code_of(enrolment_string)).json(&metadata);
        request.send().await.expect("an answer")
    }

    /// The claims of a good assertion, to be signed or to be spoilt first.
    pub fn claims(&self, hub: &Hub) -> Value {
        let now = unix_now();
        json!({
            "iss": self.id, "sub": self.id, "aud": hub.url(""), "iat": now, "exp": now + 120,
            "jti": format!("{:032x}", fastrand::u128(..)),
        })
    }

    /// Signs claims as ES256, with this key's thumbprint as `kid`.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with_header(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.thumbprint() }), claims)
    }

    /// Signs claims under any header.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn sign_with_header(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("signed");
        format!("{input}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()))
    }

    /// A good assertion.
    pub fn assertion(&self, hub: &Hub) -> String {
        self.sign(&self.claims(hub))
    }

    /// The hub's answer to a token request with this assertion.
    ///
    /// # Panics
    /// When the hub does not answer.
    pub async fn request_token(hub: &Hub, assertion: &str) -> Response {
        let request = hub.http().post(hub.url("/oauth2/token")).header("content-type", "application/x-www-form-urlencoded");
        request.body(token_form(assertion)).send().await.expect("an answer")
    }

    /// An access token; a secret from now on.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn token(&self, hub: &Hub) -> String {
        let answer = Self::request_token(hub, &self.assertion(hub)).await;
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status, 200, "{text}");
        let token = serde_json::from_str::<Value>(&text).expect("JSON")["access_token"].as_str().expect("a token").to_owned();
        hub.remember_secret(&token);
        token
    }
}

/// The form body of a token request by assertion (docs/protocol.md).
pub fn token_form(assertion: &str) -> String {
    let assertion_type = JWT_BEARER.replace(':', "%3A");
    format!("grant_type=client_credentials&client_assertion_type={assertion_type}&client_assertion={assertion}")
}

/// Status and error code of a refusal at an OAuth endpoint.
///
/// # Panics
/// When it is no refusal of RFC 6749 section 5.2.
pub async fn oauth_error(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status}, {error}: {text}"));
    assert!(document["error_description"].as_str().is_some_and(|description| !description.is_empty()), "{document}");
    (status, document["error"].as_str().expect("an error code").to_owned())
}

/// Seconds since 1970.
///
/// # Panics
/// When this machine's clock is before that.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs()
}
