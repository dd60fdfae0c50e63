//! The claims of access tokens (RFC 9068) and of client assertions (RFC 7523).

use crate::{
    DeviceId, UnixTime,
    jwt::{InvalidJwt, PublicKey, UnverifiedJwt},
    limits::CLOCK_SKEW,
    scope::Scope,
};
use serde::{Deserialize, Serialize};

/// `typ` of an access token (RFC 9068 section 2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    /// The hub that issued it.
    pub iss: String,
    /// The client.
    pub sub: DeviceId,
    /// For whom: the hub itself, unless the client asked for another resource.
    pub aud: String,
    /// The client again.
    pub client_id: DeviceId,
    /// When it was issued.
    pub iat: UnixTime,
    /// When it ends.
    pub exp: UnixTime,
    /// Its own name, for revocation.
    pub jti: Box<str>,
    /// What it allows.
    pub scope: Scope,
    /// The epoch of the client's credentials; the hub refuses earlier ones.
    pub epoch: u64,
    /// The key that the client holds (RFC 7800), where it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// How the token is to be used, where it is good for nothing else (RFC 9200 section 5.8.4.3): to show it is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ace_profile: Option<AceProfile>,
}

/// The key that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Confirmation {
    /// A key of the client's, which signs.
    Registered {
        /// RFC 7638 thumbprint.
        jkt: Box<str>,
    },
    /// A key that client and hub share, for HS256; the hub makes it of this name ([`crate::secret::Pepper::possession_key`]).
    Shared {
        /// Its name (RFC 7800 section 3.4).
        kid: Box<str>,
    },
}

/// A profile of the ACE framework (RFC 9200).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AceProfile {
    /// RFC 9431.
    #[serde(rename = "mqtt_tls")]
    MqttTls,
}

/// What a client assertion says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionClaims {
    /// The client.
    pub iss: String,
    /// The client.
    pub sub: String,
    /// The authorization server.
    pub aud: Audience,
    /// One name for one use.
    pub jti: String,
    /// When it ends.
    pub exp: UnixTime,
    /// When it was made.
    #[serde(default)]
    pub iat: Option<UnixTime>,
    /// From when it is good.
    #[serde(default)]
    pub nbf: Option<UnixTime>,
}

/// `aud`: one or several (RFC 7519 section 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What verifies access tokens: the hub's public keys by `kid`, its name, its audience.
#[derive(Debug, Clone)]
pub struct AccessTokenVerifier {
    /// The keys whose tokens may still be good.
    pub keys: Vec<PublicKey>,
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must be this.
    pub audience: String,
}

/// Why an access token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccessToken {
    /// Not ours, not a token, or tampered with.
    #[error("access token refused: {0}")]
    Jwt(#[from] InvalidJwt),
    /// No key of that name.
    #[error("access token signed by an unknown key")]
    UnknownKey,
    /// Another hub's.
    #[error("access token of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("access token for another audience")]
    Audience,
    /// Too late.
    #[error("access token expired at {at}, {ago} s ago; ask for a new one", at = .at.0, ago = .ago)]
    Expired {
        /// Its `exp`.
        at: UnixTime,
        /// Seconds since then.
        ago: u64,
    },
    /// Too early.
    #[error("access token issued in the future; check the clocks")]
    NotYetValid,
    /// Shown without its key.
    #[error("this access token must be proven: connect by MQTT 5 with the authentication method `ace` and sign with its key")]
    NeedsPossession,
}

impl Audience {
    /// Whether one of `accepted` is meant and nobody else: what is for another server too, that server could present here.
    #[must_use]
    pub fn names_only(&self, accepted: &[String]) -> bool {
        match self {
            Self::One(one) => accepted.contains(one),
            Self::Several(several) => !several.is_empty() && several.iter().all(|one| accepted.contains(one)),
        }
    }
}

impl AccessTokenVerifier {
    /// The claims of an access token that somebody shows, verified: signature, type, issuer, audience, time. Whether the client
    /// may still use it is for [`crate::registry::Registry::judge`] to say.
    ///
    /// # Errors
    /// [`InvalidAccessToken`].
    pub fn verify(&self, token: &str, now: UnixTime) -> Result<AccessTokenClaims, InvalidAccessToken> {
        let claims = self.verify_for_holder(token, now)?;
        if claims.ace_profile.is_none() { Ok(claims) } else { Err(InvalidAccessToken::NeedsPossession) }
    }

    /// As [`AccessTokenVerifier::verify`], for who proves the key in its `cnf` as well.
    ///
    /// # Errors
    /// [`InvalidAccessToken`].
    pub fn verify_for_holder(&self, token: &str, now: UnixTime) -> Result<AccessTokenClaims, InvalidAccessToken> {
        let claims = self.verify_for_any(token, now)?;
        if claims.aud == self.audience { Ok(claims) } else { Err(InvalidAccessToken::Audience) }
    }

    /// As [`AccessTokenVerifier::verify`], whichever resource server the token is for: to end it, or to tell that server what it
    /// amounts to, and for nothing else.
    ///
    /// # Errors
    /// [`InvalidAccessToken`].
    pub fn verify_for_any(&self, token: &str, now: UnixTime) -> Result<AccessTokenClaims, InvalidAccessToken> {
        let jwt = UnverifiedJwt::parse(token)?;
        // RFC 9068 section 4: the type must be there; `application/at+jwt` means the same.
        let typ = jwt.header().typ.as_deref().map(str::to_ascii_lowercase);
        if !matches!(typ.as_deref(), Some("at+jwt" | "application/at+jwt")) {
            return Err(InvalidJwt::Type.into());
        }
        let kid = jwt.header().kid.as_deref().ok_or(InvalidAccessToken::UnknownKey)?;
        let key = self.keys.iter().find(|key| *key.thumbprint() == *kid).ok_or(InvalidAccessToken::UnknownKey)?;
        let claims: AccessTokenClaims = jwt.verify(key)?;
        if claims.iss != self.issuer {
            return Err(InvalidAccessToken::Issuer);
        }
        // The hub wrote both times by its own clock: no skew is forgiven at the end, some at the start for a clock set back.
        if claims.exp <= now {
            return Err(InvalidAccessToken::Expired { at: claims.exp, ago: now.since(claims.exp).0 });
        }
        if claims.iat > now.plus(CLOCK_SKEW) {
            return Err(InvalidAccessToken::NotYetValid);
        }
        Ok(claims)
    }
}
