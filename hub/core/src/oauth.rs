//! The shapes of OAuth 2.0: requests read strictly (RFC 6749), errors as section 5.2 wants them.

use crate::limits::{MAX_FORM_BYTES, MAX_FORM_PARAMETERS};
use serde::Serialize;
use std::collections::BTreeMap;

/// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer` (RFC 7523 section 2.2).
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An error code of the registries of RFC 6749, 6750, 7591, 8628, 8707 and 9200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The request is malformed.
    InvalidRequest,
    /// The client did not prove itself.
    InvalidClient,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// Another grant than `client_credentials`.
    UnsupportedGrantType,
    /// A scope that is unknown, malformed or exceeds the client's.
    InvalidScope,
    /// A `resource` that is not ours (RFC 8707).
    InvalidTarget,
    /// An `ace_profile` that we do not speak (RFC 9200).
    IncompatibleAceProfiles,
    /// An access token, or an enrolment code, that is not good.
    InvalidToken,
    /// A token without the permission.
    InsufficientScope,
    /// A registration without a usable key (RFC 7591).
    InvalidClientMetadata,
    /// Nobody has approved yet (RFC 8628).
    AuthorizationPending,
    /// The owner said no (RFC 8628).
    AccessDenied,
    /// The device code has expired (RFC 8628).
    ExpiredToken,
    /// Too many requests.
    SlowDown,
    /// The hub cannot decide now: full disk, stopping.
    TemporarilyUnavailable,
}

/// A refusal: a code for the peer, a sentence that helps without telling secrets, evidence for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {description}", code.as_str())]
pub struct OAuthError {
    /// The code.
    pub code: ErrorCode,
    /// For the developer of the client.
    pub description: String,
    /// For the operator's log: what really was wrong. Never sent.
    pub evidence: String,
}

/// A token request (RFC 6749 section 4.4), its parameters at most once, empty ones left out.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    parameters: BTreeMap<String, String>,
}

/// `Authorization: Basic`, decoded (RFC 6749 section 2.3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct BasicCredentials {
    /// The client's id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

/// How a client says who it is: exactly one way a request.
#[derive(Clone, Copy)]
pub enum ClientAuthentication<'a> {
    /// `client_secret_basic`, `client_secret_post`.
    Secret {
        /// The client's id.
        client_id: &'a str,
        /// Its secret.
        client_secret: &'a str,
    },
    /// `private_key_jwt`.
    Assertion {
        /// `client_id`, where it was sent beside the assertion.
        client_id: Option<&'a str>,
        /// The JWT.
        assertion: &'a str,
    },
}

impl ErrorCode {
    /// The registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::IncompatibleAceProfiles => "incompatible_ace_profiles",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::AuthorizationPending => "authorization_pending",
            Self::AccessDenied => "access_denied",
            Self::ExpiredToken => "expired_token",
            Self::SlowDown => "slow_down",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl OAuthError {
    /// A refusal whose description tells all there is to tell.
    #[must_use]
    pub fn new(code: ErrorCode, description: impl Into<String>) -> Self {
        Self { code, description: description.into(), evidence: String::new() }
    }

    /// RFC 6749 5.2: unknown client and wrong secret look alike.
    #[must_use]
    pub fn client_authentication_failed(evidence: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidClient, description: "client authentication failed".to_owned(), evidence: evidence.into() }
    }
}

impl TokenRequest {
    /// Reads an `application/x-www-form-urlencoded` body.
    ///
    /// # Errors
    /// `invalid_request` for a body over [`MAX_FORM_BYTES`], more than [`MAX_FORM_PARAMETERS`], or one given twice (RFC 6749 section 3.2).
    pub fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let invalid = |why: &str| OAuthError::new(ErrorCode::InvalidRequest, why);
        if body.len() > MAX_FORM_BYTES {
            return Err(invalid("the body is larger than 4096 bytes"));
        }
        let mut parameters = BTreeMap::new();
        for (index, (name, value)) in form_urlencoded::parse(body).enumerate() {
            if index >= MAX_FORM_PARAMETERS {
                return Err(invalid("the request has more than 32 parameters"));
            }
            if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(invalid("a parameter is given more than once"));
            }
        }
        parameters.retain(|_, value: &mut String| !value.is_empty());
        Ok(Self { parameters })
    }

    /// A parameter, if it was sent and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// How the client says who it is.
    ///
    /// # Errors
    /// `invalid_request` for none, or more than one way (RFC 6749 section 2.3).
    pub fn client_authentication<'a>(
        &'a self,
        basic: Option<&'a BasicCredentials>,
    ) -> Result<ClientAuthentication<'a>, OAuthError> {
        let invalid = |why: &str| OAuthError::new(ErrorCode::InvalidRequest, why);
        let ways = (basic, self.get("client_secret"), self.get("client_assertion"));
        match ways {
            (Some(basic), None, None) => match self.get("client_id") {
                Some(other) if other != basic.client_id => {
                    Err(invalid("client_id differs from that of the Authorization header"))
                }
                _ => Ok(ClientAuthentication::Secret { client_id: &basic.client_id, client_secret: &basic.client_secret }),
            },
            (None, Some(client_secret), None) => {
                let client_id = self.get("client_id").ok_or_else(|| invalid("client_id is missing"))?;
                Ok(ClientAuthentication::Secret { client_id, client_secret })
            }
            (None, None, Some(assertion)) => match self.get("client_assertion_type") {
                Some(JWT_BEARER) => Ok(ClientAuthentication::Assertion { client_id: self.get("client_id"), assertion }),
                _ => Err(invalid("client_assertion_type must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer")),
            },
            (None, None, None) => Err(OAuthError::new(
                ErrorCode::InvalidClient,
                "the client did not authenticate; use private_key_jwt, client_secret_basic or client_secret_post",
            )),
            _ => Err(invalid("the client authenticates in more than one way")),
        }
    }
}

impl BasicCredentials {
    /// Reads the value of an `Authorization` header; `None` if it is of another scheme.
    ///
    /// # Errors
    /// `invalid_client` if it is Basic and malformed.
    pub fn from_header(value: &str) -> Option<Result<Self, OAuthError>> {
        let (scheme, encoded) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| {
            let malformed = || OAuthError::client_authentication_failed("malformed Basic credentials");
            let bytes = <base64ct::Base64 as base64ct::Encoding>::decode_vec(encoded.trim()).map_err(|_| malformed())?;
            let text = String::from_utf8(bytes).map_err(|_| malformed())?;
            let (id, secret) = text.split_once(':').ok_or_else(malformed)?;
            Ok(Self { client_id: form_decoded(id), client_secret: form_decoded(secret) })
        })
    }
}

/// RFC 6749 2.3.1: id and secret are form-urlencoded before they are joined.
fn form_decoded(text: &str) -> String {
    form_urlencoded::parse(format!("v={}", text.replace('&', "%26").replace('=', "%3D")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.parameters.keys()).finish()
    }
}

impl std::fmt::Debug for BasicCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicCredentials").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_parameter_given_twice_is_refused_and_an_empty_one_is_left_out() {
        assert!(TokenRequest::parse(b"grant_type=a&grant_type=a").is_err());
        let request = TokenRequest::parse(b"grant_type=client_credentials&scope=&x=y").expect("legal");
        assert_eq!((request.get("scope"), request.get("x")), (None, Some("y")));
    }

    #[test]
    fn a_client_authenticates_in_exactly_one_way() {
        let basic = BasicCredentials { client_id: "a".to_owned(), client_secret: "b".to_owned() };
        let parse = |body: &str| TokenRequest::parse(body.as_bytes()).expect("legal");
        assert!(parse("client_secret=x&client_id=a").client_authentication(Some(&basic)).is_err());
        assert!(parse("").client_authentication(Some(&basic)).is_ok());
        assert!(parse("client_id=other").client_authentication(Some(&basic)).is_err());
        assert!(parse("").client_authentication(None).is_err());
        assert!(parse("client_secret=x").client_authentication(None).is_err());
        assert!(parse("client_assertion=x&client_assertion_type=other").client_authentication(None).is_err());
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        let encoded = <base64ct::Base64 as base64ct::Encoding>::encode_string(b"my%3Aid:p%26ss+word");
        let basic = BasicCredentials::from_header(&format!("Basic {encoded}")).expect("Basic").expect("legal");
        assert_eq!((basic.client_id.as_str(), basic.client_secret.as_str()), ("my:id", "p&ss word"));
        assert!(BasicCredentials::from_header("Bearer x").is_none());
        assert!(BasicCredentials::from_header("Basic !").expect("Basic").is_err());
    }

    proptest! {
        #[test]
        fn no_body_makes_parsing_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = TokenRequest::parse(&body) {
                let _ = request.client_authentication(None).map(drop);
            }
        }
    }
}
