//! The device's half of OAuth 2.0: the client assertion, the token request, the token response, and when to renew.
//! Builds and reads text; sends nothing.

use crate::buffer::{Buffer, BufferFull};
use crate::enrolment::cut;
use crate::identity::Identity;
use crate::json::{self, JsonError, Object};
use crate::keys::Drbg;
use crate::time::{Instant, UnixTime};
use core::time::Duration;
use heapless::String;
use rand_core::RngCore as _;
use serde::Serialize;

/// How long an assertion holds. It is used at once; the rest allows for a clock that is off by a minute.
const ASSERTION_LIFETIME_SECS: u64 = 120;

/// A token request's body at its longest: the assertion's claims hold a client_id twice and the issuer once.
pub const MAX_TOKEN_REQUEST: usize = 960;

/// The longest scope that is kept to be shown.
pub const MAX_SCOPE: usize = 96;

/// The token request could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionError {
    /// The request does not fit; an identity of legal size always does.
    BufferFull,
    /// The key refused to sign.
    SigningFailed,
}

impl From<BufferFull> for AssertionError {
    fn from(BufferFull: BufferFull) -> Self {
        Self::BufferFull
    }
}

/// RFC 7515 section 4.1.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// RFC 7523 section 3.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
}

/// Writes the form body of a token request with a fresh client assertion for `audience` (RFC 6749 4.4, RFC 7523 2.2).
///
/// # Errors
/// [`AssertionError`].
pub fn write_token_request(
    out: &mut Buffer<'_>,
    identity: &Identity,
    audience: &str,
    now: UnixTime,
    random: &mut Drbg,
) -> Result<(), AssertionError> {
    out.push(b"grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=")?;
    let start = out.len();

    let mut json = [0; 384];
    let mut header = Buffer::new(&mut json);
    let thumbprint = identity.key.public.thumbprint();
    json::write(&mut header, &Header { alg: "ES256", typ: "JWT", kid: text(&thumbprint)? })?;
    out.push_base64url(header.written())?;
    out.push(b".")?;

    let mut jti = [0; 16];
    random.fill_bytes(&mut jti);
    let mut jti_text = [0; 22];
    let mut encoded = Buffer::new(&mut jti_text);
    encoded.push_base64url(&jti)?;
    let client_id = identity.client_id.as_str();
    let (iat, exp) = (now.as_secs(), now.after_secs(ASSERTION_LIFETIME_SECS).as_secs());
    let mut claims = Buffer::new(&mut json);
    json::write(&mut claims, &Claims { iss: client_id, sub: client_id, aud: audience, iat, exp, jti: text(encoded.written())? })?;
    out.push_base64url(claims.written())?;

    let signature = out
        .written()
        .get(start..)
        .and_then(|signing_input| identity.key.secret.sign(signing_input).ok())
        .ok_or(AssertionError::SigningFailed)?;
    out.push(b".")?;
    out.push_base64url(&signature)?;
    Ok(())
}

/// Base64url is ASCII.
fn text(encoded: &[u8]) -> Result<&str, BufferFull> {
    core::str::from_utf8(encoded).map_err(|_| BufferFull)
}

/// What a device needs to know of a token response. The access token itself authorizes the session at the hub;
/// the device has no use for it and leaves it in the packet buffer, which is wiped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// From the answer until the token ends.
    pub lifetime: Duration,
    /// The permission names granted, space separated; cut off if longer than [`MAX_SCOPE`].
    pub scope: String<MAX_SCOPE>,
}

/// Not a token response (RFC 6749 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotATokenResponse;

impl Grant {
    /// Reads a token response (RFC 6749 5.1).
    ///
    /// # Errors
    /// [`NotATokenResponse`] without an `access_token` of type Bearer and a lifetime of 1 s to 31 days.
    pub fn from_token_response(json: &[u8]) -> Result<Self, NotATokenResponse> {
        let response = Object::parse(json).map_err(|JsonError| NotATokenResponse)?;
        let is_bearer = response.text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
        if !is_bearer || response.text("access_token").is_none_or(str::is_empty) {
            return Err(NotATokenResponse);
        }
        let seconds = response.number("expires_in").filter(|seconds| (1..=31 * 86_400).contains(seconds));
        let seconds = seconds.ok_or(NotATokenResponse)?;
        let scope = cut(response.text("scope").unwrap_or_default());
        Ok(Self { lifetime: Duration::from_secs(seconds), scope })
    }

    /// When to ask for the next token: at two thirds of the lifetime, less up to a tenth of it, so that a fleet that
    /// connected together does not renew together.
    #[must_use]
    pub fn renew_at(&self, received: Instant, random: &mut Drbg) -> Instant {
        let lifetime = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        let early = random.up_to(lifetime / 10);
        received.after(Duration::from_millis(lifetime / 3 * 2 - early))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::lamp;
    use base64ct::{Base64UrlUnpadded, Encoding as _};

    #[test]
    fn the_assertion_says_what_the_protocol_asks_for_and_is_signed_by_the_devices_key() {
        let identity = lamp();
        let mut bytes = [0; MAX_TOKEN_REQUEST];
        let mut out = Buffer::new(&mut bytes);
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let now = UnixTime::from_secs(1_780_000_000);
        write_token_request(&mut out, &identity, "https://hub:8443", now, &mut random).expect("fits");
        let text = core::str::from_utf8(out.written()).expect("ascii");
        let (form, jwt) = text.rsplit_once('=').expect("a form");
        assert_eq!(
            form,
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion"
        );
        let (signed, signature) = jwt.rsplit_once('.').expect("three parts");
        let (header, claims) = signed.split_once('.').expect("three parts");
        let decode = |part: &str| {
            let mut bytes = std::vec![0; 512];
            Base64UrlUnpadded::decode(part, &mut bytes).expect("base64url").to_vec()
        };
        let header: serde_json::Value = serde_json::from_slice(&decode(header)).expect("json");
        assert_eq!(header["alg"], "ES256");
        assert_eq!(header["kid"].as_str().map(str::as_bytes), Some(identity.key.public.thumbprint().as_slice()));
        let claims: serde_json::Value = serde_json::from_slice(&decode(claims)).expect("json");
        assert_eq!(
            (&claims["iss"], &claims["sub"], &claims["aud"]),
            (&"lamp".into(), &"lamp".into(), &"https://hub:8443".into())
        );
        assert_eq!((claims["iat"].as_u64(), claims["exp"].as_u64()), (Some(1_780_000_000), Some(1_780_000_120)));
        assert!((16..=64).contains(&claims["jti"].as_str().expect("a string").len()));
        let signature = p256::ecdsa::Signature::from_slice(&decode(signature)).expect("64 bytes").to_der();
        assert!(identity.key.public.verifies(signed.as_bytes(), signature.as_bytes()));
    }

    #[test]
    fn a_token_request_is_as_the_golden_vector_says() {
        let vector = |name: &str| {
            let vectors = include_str!("../../tests/vectors/token_request.txt");
            vectors.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name)
        };
        let identity = lamp();
        let [x, y] = identity.key.public.jwk_coordinates();
        assert_eq!((text(&x), text(&y)), (Ok(vector("x")), Ok(vector("y"))));
        assert_eq!(text(&identity.key.public.thumbprint()), Ok(vector("thumbprint")));
        let mut bytes = [0; MAX_TOKEN_REQUEST];
        let mut out = Buffer::new(&mut bytes);
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let now = UnixTime::from_secs(1_780_000_000);
        write_token_request(&mut out, &identity, "https://hub:8443", now, &mut random).expect("fits");
        assert_eq!(core::str::from_utf8(out.written()).expect("ascii"), vector("body"));
    }

    #[test]
    fn the_longest_identity_fits_a_token_request() {
        let mut identity = lamp();
        identity.client_id = String::try_from("x".repeat(crate::identity::MAX_CLIENT_ID).as_str()).expect("32");
        let issuer = "x".repeat(crate::identity::MAX_ISSUER);
        let mut bytes = [0; MAX_TOKEN_REQUEST];
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let late = UnixTime::from_secs(999_999_999_999);
        write_token_request(&mut Buffer::new(&mut bytes), &identity, &issuer, late, &mut random).expect("fits");
    }

    #[test]
    fn a_token_response_is_read_and_the_token_is_not_kept() {
        let json = br#"{"access_token":"eyJ.secret","token_type":"Bearer","expires_in":300,"scope":"commands telemetry"}"#;
        let grant = Grant::from_token_response(json).expect("valid");
        assert_eq!((grant.lifetime, grant.scope.as_str()), (Duration::from_secs(300), "commands telemetry"));
        assert!(!std::format!("{grant:?}").contains("secret"));
        for wrong in [
            br#"{"token_type":"Bearer","expires_in":300}"#.as_slice(),
            br#"{"access_token":"x","token_type":"DPoP","expires_in":300}"#,
            br#"{"access_token":"x","token_type":"Bearer"}"#,
            br#"{"access_token":"x","token_type":"Bearer","expires_in":0}"#,
            br#"{"access_token":"x","token_type":"Bearer","expires_in":-1}"#,
            br#"{"error":"invalid_client"}"#,
            b"",
        ] {
            assert_eq!(Grant::from_token_response(wrong), Err(NotATokenResponse));
        }
    }

    #[test]
    fn renewal_is_due_between_half_and_two_thirds_of_the_lifetime() {
        let grant = Grant { lifetime: Duration::from_secs(300), scope: String::new() };
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let at = grant.renew_at(Instant::from_millis(1_000), &mut random).as_millis();
            assert!((171_000..=201_000).contains(&at), "{at}");
            seen.insert(at);
        }
        assert!(seen.len() > 100, "jitter spreads");
    }
}
