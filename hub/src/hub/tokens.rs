//! Tokens and credentials at the door: issued, looked at, introspected, ended; and the keys that sign them.

use super::{Hub, NotDecided, Signing, unavailable};
use crate::{clock, entropy, passwords::PasswordError};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    claims::{ACCESS_TOKEN_TYPE, AccessTokenClaims, AceProfile, Confirmation, InvalidAccessToken},
    network::Network,
    oauth::{BasicCredentials, ErrorCode, OAuthError, TokenRequest},
    registry::{
        AuthenticatedClient, Change, Context, CredentialRecord, Holding, IntrospectTokens, IssuedToken, LoginRefused, Registry,
        UserPermit,
    },
    scope::Scope,
    secret::{CredentialKind, PresentedCredential, Secret},
    session::{Authority, CredentialId, Principal, Proof, Standing},
};
use serde::Serialize;
use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// What the token endpoint answers.
#[derive(Debug, Clone)]
pub struct TokenResponse {
    /// The JSON of RFC 6749 section 5.1. Holds the token: never logged.
    pub json: Vec<u8>,
    /// The authority that the token gives.
    pub authority: Authority,
}

/// What an active token amounts to (RFC 7662 section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Introspection {
    /// Always true: of a token that is not, nothing is told.
    pub active: bool,
    /// What it allows now.
    pub scope: Scope,
    /// The client that it was issued to; none for a person's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<DeviceId>,
    /// The person, for people to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<DeviceId>,
    /// `Bearer`, or `PoP` where it is good only with its key.
    pub token_type: &'static str,
    /// When it ends, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<UnixTime>,
    /// When it was made.
    pub iat: UnixTime,
    /// Whom it speaks for.
    pub sub: DeviceId,
    /// For whom it is.
    pub aud: String,
    /// Who made it.
    pub iss: String,
    /// Its own name.
    pub jti: Box<str>,
    /// The networks from which it is good, where it is bound to some: who asks knows where it came from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// The key that its holder has, where it is bound to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// An answer, and the note of a use that it has to wait for.
type Noting<T> = (T, Option<JoinHandle<()>>);

/// Why a login gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailed {
    /// No such user, no password, or another one: told apart in the operator's log only.
    #[error("{0}")]
    Proof(&'static str),
    /// The password was not looked at.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// The password was right, and no token is given all the same.
    #[error("{0}")]
    Refused(LoginRefused),
    /// The store cannot keep it now.
    #[error("{0}")]
    Unavailable(String),
}

impl Hub {
    /// The token endpoint, for HTTP and MQTT alike.
    ///
    /// # Errors
    /// RFC 6749 section 5.2.
    pub async fn token(
        &self,
        request: &TokenRequest,
        basic: Option<&BasicCredentials>,
        context: &Context,
    ) -> Result<TokenResponse, OAuthError> {
        let response = match self.authenticate_client(request, basic, context) {
            Ok(client) => match self.token_pace.take(client.id(), Instant::now()) {
                Ok(()) => self.issue(&client, request, context).await,
                Err(wait) => Err(asks_too_often(wait)),
            },
            Err(error) => Err(error),
        };
        self.tallies.count_token(response.as_ref().err());
        response
    }

    fn authenticate_client(
        &self,
        request: &TokenRequest,
        basic: Option<&BasicCredentials>,
        context: &Context,
    ) -> Result<AuthenticatedClient, OAuthError> {
        let authentication = request.client_authentication(basic)?;
        self.view(|registry| registry.authenticate_client(&authentication, &self.audiences, &self.pepper, context.now))
    }

    async fn issue(
        &self,
        client: &AuthenticatedClient,
        request: &TokenRequest,
        context: &Context,
    ) -> Result<TokenResponse, OAuthError> {
        let jti = entropy::unique_name();
        let issued = self.decide(|registry| registry.issue_token(client, request, self.issuer(), jti, context)).await;
        let issued: IssuedToken = issued.map_err(unavailable)?;
        let authority = issued.authority();
        let mut json = serde_json::json!({
            "access_token": self.signing.load().keys.current().sign(ACCESS_TOKEN_TYPE, &issued.claims),
            "token_type": token_type(&issued.claims),
            "expires_in": issued.expires_in,
            "scope": issued.claims.scope,
        });
        if let Some(profile) = issued.claims.ace_profile {
            json["ace_profile"] = serde_json::json!(profile);
        }
        if let Some(Confirmation::Shared { kid }) = &issued.claims.cnf {
            // RFC 9201 section 3.2: the key travels beside the token, and only to the client.
            let key = self.pepper.possession_key(kid).expose();
            json["cnf"] = serde_json::json!({ "jwk": { "kty": "oct", "alg": "HS256", "kid": kid, "k": *key } });
        }
        Ok(TokenResponse { json: json.to_string().into_bytes(), authority })
    }

    /// The answer to a login that was approved: a personal access token in the form of RFC 6749 section 5.1.
    pub(crate) fn login_response(
        self: &Arc<Self>,
        secret: &Secret,
        scope: &Scope,
        expires_in: Seconds,
    ) -> Result<TokenResponse, OAuthError> {
        let gone = || OAuthError::new(ErrorCode::ExpiredToken, "the token was used since, or was revoked again; log in anew");
        let id = PresentedCredential::parse(secret.expose()).map(|presented| presented.id).map_err(|_| gone())?;
        let unused = self.view(|registry| registry.credential(id).is_some_and(|record| record.last_used.is_none()));
        let (authority, _) = if unused { self.admit(secret.expose())? } else { return Err(gone()) };
        let json = serde_json::json!({
            "access_token": secret.expose(),
            "token_type": "Bearer",
            "expires_in": expires_in,
            "scope": scope,
        });
        Ok(TokenResponse { json: json.to_string().into_bytes(), authority })
    }

    /// The answer to a device that joined: an access token, and who it is now.
    pub(crate) async fn token_for_joined(
        &self,
        id: &DeviceId,
        thumbprint: &str,
        context: &Context,
    ) -> Result<TokenResponse, OAuthError> {
        let gone = || OAuthError::new(ErrorCode::ExpiredToken, "the device has used its key since, or was removed again");
        let client = self.view(|registry| registry.joined_client(id, thumbprint)).ok_or_else(gone)?;
        let request = TokenRequest::parse(b"grant_type=client_credentials")?;
        let mut response = self.issue(&client, &request, context).await?;
        let mut json: serde_json::Value = serde_json::from_slice(&response.json).unwrap_or_default();
        json["client_id"] = serde_json::json!(id);
        json["issuer"] = serde_json::json!(self.issuer());
        json["mqtts_port"] = serde_json::json!(self.address().mqtts_port);
        response.json = json.to_string().into_bytes();
        Ok(response)
    }

    /// Who holds a bearer credential that came from an address: an access token, a personal access token or an API key, good
    /// at this moment.
    ///
    /// # Errors
    /// `invalid_token`; the evidence says why.
    pub async fn authenticate_bearer(self: &Arc<Self>, bearer: &str, source: IpAddr) -> Result<Authority, OAuthError> {
        self.admit_from(bearer, source).await.map(|(authority, _)| authority)
    }

    /// As [`Hub::authenticate_bearer`], with what the authority amounts to. The token that this one replaces, if it is used for the
    /// first time, has ended when this returns.
    ///
    /// # Errors
    /// `invalid_token`; the evidence says why.
    pub async fn admit_from(self: &Arc<Self>, bearer: &str, source: IpAddr) -> Result<(Authority, Standing), OAuthError> {
        let (admitted, replacing) = self.admit_noting(bearer, Some(source))?;
        if let Some(replacing) = replacing {
            // It goes on if whoever asked does not wait for it; a failure is logged there.
            let _ = replacing.await;
        }
        Ok(admitted)
    }

    /// Who holds a bearer credential, for the hub itself: networks are not looked at, and the use is not noted.
    ///
    /// # Errors
    /// `invalid_token`; the evidence says why.
    pub fn admit(self: &Arc<Self>, bearer: &str) -> Result<(Authority, Standing), OAuthError> {
        self.admit_noting(bearer, None).map(|(admitted, _)| admitted)
    }

    fn admit_noting(self: &Arc<Self>, bearer: &str, source: Option<IpAddr>) -> Result<Noting<(Authority, Standing)>, OAuthError> {
        let now = clock::now();
        let refused = |evidence: String| OAuthError {
            code: ErrorCode::InvalidToken,
            description: "the credential is unknown, expired or revoked".to_owned(),
            evidence,
        };
        let (authority, replacing) = if bearer.starts_with("hk_") {
            let presented = PresentedCredential::parse(bearer).map_err(|why| refused(why.to_string()))?;
            self.admit_credential(&presented, source).map_err(refused)?
        } else {
            let refused = |why: InvalidAccessToken| match why {
                InvalidAccessToken::NeedsPossession => must_be_proven(),
                why => refused(why.to_string()),
            };
            (self.signing.load().verifier.verify(bearer, now).map_err(refused)?.authority(), None)
        };
        let standing = self.judge_at(&authority, now).map_err(|end| refused(end.reason_string()))?;
        let is_access_token = matches!(authority.proof, Proof::AccessToken { .. });
        if is_access_token && self.view(|registry| registry.needs_proof(&authority.principal)) {
            return Err(must_be_proven());
        }
        Ok(((authority, standing), replacing))
    }

    /// Who holds an access token and the key that it is bound to, as a signature or MAC over `challenge` shows (RFC 9431). The
    /// token alone is good for nothing here, and how it is proved its `cnf` decides.
    ///
    /// # Errors
    /// `invalid_token`; the evidence says why.
    pub fn admit_possession(&self, token: &str, challenge: &[u8], proof: &[u8]) -> Result<(Authority, Standing), OAuthError> {
        let now = clock::now();
        let refused = |evidence: String| OAuthError {
            code: ErrorCode::InvalidToken,
            description: "the token is not good, or its key did not sign the challenge".to_owned(),
            evidence,
        };
        let claims = self.signing.load().verifier.verify_for_holder(token, now).map_err(|why| refused(why.to_string()))?;
        match &claims.cnf {
            None => return Err(refused("the token is bound to no key".to_owned())),
            Some(Confirmation::Registered { jkt }) => {
                let key = self.view(|registry| {
                    let mut keys = registry.device(&claims.sub)?.usable_keys(now);
                    keys.find(|key| key.thumbprint == *jkt).map(|key| key.public_key.clone())
                });
                let key = key.ok_or_else(|| refused(format!("client {} has no key {jkt} any more", claims.sub)))?;
                key.verify(challenge, proof).map_err(|why| refused(why.to_string()))?;
            }
            Some(Confirmation::Shared { kid }) if self.pepper.possession_key(kid).verifies(challenge, proof) => {}
            Some(Confirmation::Shared { kid }) => return Err(refused(format!("the MAC is not by the key {kid}"))),
        }
        let authority = claims.authority();
        let standing = self.judge_at(&authority, now).map_err(|end| refused(end.reason_string()))?;
        Ok((authority, standing))
    }

    fn admit_credential(
        self: &Arc<Self>,
        presented: &PresentedCredential<'_>,
        source: Option<IpAddr>,
    ) -> Result<Noting<Authority>, String> {
        enum Noted {
            Known,
            Used { replaces: bool },
            Stolen,
        }
        let context = self.context(source, "");
        let id: CredentialId = presented.id.into();
        let (authority, noted) = self.view(|registry| {
            let authority = registry.authenticate_credential(presented, &self.pepper);
            let authority = authority.ok_or_else(|| format!("credential {id} is unknown or its secret is wrong"))?;
            let record = registry.credential(&id).ok_or_else(|| format!("credential {id} is gone"))?;
            if !source.is_none_or(|source| record.may_come_from(source)) {
                return Err(format!("credential {id} may not be used from {}", context.source));
            }
            let noted = if record.replaced_at.is_some() {
                Noted::Stolen
            } else if source.is_some() && registry.note_use(&id, &context).is_some() {
                Noted::Used { replaces: record.replaces.is_some() }
            } else {
                Noted::Known
            };
            Ok((authority, noted))
        })?;
        let hub = Arc::clone(self);
        match noted {
            Noted::Known => {}
            Noted::Used { replaces } => {
                let noting = tokio::spawn(async move {
                    let kept = hub.decide(|registry| registry.note_use(&id, &context).ok_or(())).await;
                    if let Err(NotDecided::Unavailable(why)) = kept {
                        tracing::warn!(why, "the use of a credential could not be noted");
                    }
                });
                // The answer rests on it only if it ends another credential.
                return Ok((authority, replaces.then_some(noting)));
            }
            // The answer does not rest on it.
            Noted::Stolen => {
                tracing::warn!(credential = %id, source = context.source, "a replaced token was used: its family ends");
                drop(tokio::spawn(async move {
                    let ended = hub.decide_to_end(|registry| Ok::<_, Infallible>(registry.revoke_family(&id, &context))).await;
                    if let Err(NotDecided::Unavailable(why)) = ended {
                        tracing::error!(why, "a family of tokens could not be revoked");
                    }
                }));
            }
        }
        Ok((authority, None))
    }

    /// Ends an access token before its time, for the client that it was issued to (RFC 7009); sessions that rest on it end before
    /// this returns. For what is no token of ours nothing is left to do.
    ///
    /// # Errors
    /// RFC 6749 section 5.2.
    pub async fn revoke_token(
        &self,
        request: &TokenRequest,
        basic: Option<&BasicCredentials>,
        context: &Context,
    ) -> Result<(), OAuthError> {
        let client = self.authenticate_client(request, basic, context)?;
        let token = required(request, "token")?;
        let verified = self.signing.load().verifier.verify_for_any(token, context.now);
        let revoked = match verified {
            Ok(claims) => self.decide_to_end(|registry| registry.revoke_token(&client, &claims, context)).await,
            Err(_) => self.decide(|registry| registry.use_proof(&client, context)).await,
        };
        revoked.map_err(unavailable)
    }

    /// Ends the credential that an authority rests on, by its holder.
    ///
    /// # Errors
    /// Why the store cannot keep it.
    pub async fn revoke_itself(&self, authority: &Authority, context: &Context) -> Result<(), String> {
        let ended = self.decide_to_end(|registry| Ok::<_, Infallible>(registry.revoke_itself(authority, context))).await;
        ended.map_err(|error| match error {
            NotDecided::Unavailable(why) => why,
            NotDecided::Refused(never) => match never {},
        })
    }

    /// What a token or credential amounts to, for a client whose profile lets it ask.
    ///
    /// # Errors
    /// RFC 6749 section 5.2.
    pub async fn introspect_for_client(
        self: &Arc<Self>,
        request: &TokenRequest,
        basic: Option<&BasicCredentials>,
        context: &Context,
    ) -> Result<Option<Introspection>, OAuthError> {
        let client = self.authenticate_client(request, basic, context)?;
        let token = required(request, "token")?;
        let use_proof = |registry: &Registry| {
            registry.permit_introspection(&client)?;
            registry.use_proof(&client, context)
        };
        self.decide(use_proof).await.map_err(unavailable)?;
        self.introspect(token, |registry| registry.permit_introspection(&client))
    }

    /// What a token or credential amounts to now (RFC 7662), for who is permitted to ask that; `None` for one that amounts to
    /// nothing. From where it came only the one who asks knows, so the networks of a key are told and not judged.
    ///
    /// # Errors
    /// Why there is no permit.
    pub fn introspect<E>(
        self: &Arc<Self>,
        token: &str,
        permit: impl Fn(&Registry) -> Result<UserPermit<'_, IntrospectTokens>, E>,
    ) -> Result<Option<Introspection>, E> {
        self.view(|registry| permit(registry).map(drop))?;
        let now = clock::now();
        let verified = self.signing.load().verifier.verify_for_any(token, now);
        let (authority, claims) = match verified {
            Ok(claims) => (claims.authority(), Some(claims)),
            Err(_) => match self.admit(token) {
                Ok((authority, _)) => (authority, None),
                Err(_) => return Ok(None),
            },
        };
        let holding = self.view(|registry| permit(registry).map(|_permitted| registry.holding(&authority, now)))?;
        Ok(holding.ok().and_then(|holding| self.introspection_of(holding, claims)))
    }

    fn introspection_of(&self, holding: Holding, claims: Option<AccessTokenClaims>) -> Option<Introspection> {
        let (sub, client_id, username) = match holding.principal {
            Principal::Device(id) | Principal::Integration(id) => (id.clone(), Some(id), None),
            Principal::User(name) => (name.clone(), None, Some(name)),
        };
        let token_type = claims.as_ref().map_or("Bearer", token_type);
        let (aud, iat, jti, networks, cnf) = match (claims, holding.credential) {
            (Some(claims), _) => (claims.aud, claims.iat, claims.jti, Vec::new(), claims.cnf),
            (None, Some(record)) => (self.issuer.clone(), record.created_at, record.id, record.networks, None),
            (None, None) => return None,
        };
        Some(Introspection {
            active: true,
            scope: holding.scope,
            client_id,
            username,
            token_type,
            exp: holding.expires_at,
            iat,
            sub,
            aud,
            iss: self.issuer.clone(),
            jti,
            networks,
            cnf,
        })
    }

    /// A token for who knows the password of a person. Takes as long for an unknown name as for a wrong password.
    ///
    /// # Errors
    /// [`LoginFailed`].
    pub async fn log_in(
        &self,
        user: &str,
        password: Zeroizing<String>,
        lifetime: Seconds,
        context: &Context,
    ) -> Result<(CredentialRecord, Secret), LoginFailed> {
        let name = DeviceId::parse(user).ok();
        let record = name.as_ref().and_then(|name| self.view(|registry| registry.user(name).cloned()));
        let evidence = match &record {
            None => "there is no such user",
            Some(user) if user.password.is_none() => "the user has no password",
            Some(_) => "the password is wrong",
        };
        let hash = record.and_then(|user| user.password);
        let fits = self.passwords.verify(password, hash.clone()).await?;
        let (Some(name), Some(hash), true) = (name, hash, fits) else { return Err(LoginFailed::Proof(evidence)) };
        let (fresh, secret) = self.new_credential(CredentialKind::PersonalAccessToken);
        let decided = self.decide(|registry| registry.log_in(&name, &hash, fresh, lifetime, context)).await;
        let record = decided.map_err(|error| match error {
            NotDecided::Refused(LoginRefused::PasswordChanged) => LoginFailed::Proof("the password was changed meanwhile"),
            NotDecided::Refused(refused @ (LoginRefused::Lifetime | LoginRefused::Credential(_))) => {
                LoginFailed::Refused(refused)
            }
            NotDecided::Unavailable(why) => LoginFailed::Unavailable(why),
        })?;
        Ok((record, secret))
    }

    /// The public keys that verify access tokens (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        self.signing.load().keys.jwks(clock::now())
    }

    /// Makes another signing key and goes on with it; the one before it verifies until its last token has ended. `actor` says who
    /// does it, and whether they may, when their turn has come.
    ///
    /// # Errors
    /// What `actor` says, or why there is no other key; then the key before stays in use.
    pub async fn rotate_signing_key<E>(
        self: &Arc<Self>,
        actor: impl FnOnce(&Registry) -> Result<String, E>,
        context: &Context,
    ) -> Result<(), NotDecided<E>> {
        let turn = Arc::clone(&self.rotating).lock_owned().await;
        let actor = self.decide(|registry| Ok(Change { writes: Vec::new(), answer: actor(registry)? })).await?;
        let (hub, context) = (Arc::clone(self), context.clone());
        let rotating = tokio::spawn(async move {
            let _turn = turn;
            let signing = hub.signing.load_full();
            let (data, issuer, now) = (hub.data.clone(), hub.issuer.clone(), context.now);
            let rotated = tokio::task::spawn_blocking(move || {
                signing.keys.rotated(&data, now).map(|keys| Signing::new(keys, &issuer, now)).map_err(|error| error.to_string())
            });
            let rotated = rotated.await.map_err(|error| error.to_string()).and_then(|rotated| rotated)?;
            hub.signing.store(Arc::new(rotated));
            hub.record_own(actor, "signing_key.rotate", &context).await;
            Ok(())
        });
        rotating.await.unwrap_or_else(|error| Err(error.to_string())).map_err(NotDecided::Unavailable)
    }
}

/// For who holds a token that the hub has signed: anybody could make up one that is not good.
fn must_be_proven() -> OAuthError {
    OAuthError::new(ErrorCode::InvalidToken, InvalidAccessToken::NeedsPossession.to_string())
}

/// RFC 6749 section 7.1, RFC 9200 section 5.8.4.2.
fn token_type(claims: &AccessTokenClaims) -> &'static str {
    match claims.ace_profile {
        None => "Bearer",
        Some(AceProfile::MqttTls) => "PoP",
    }
}

fn asks_too_often(wait: Duration) -> OAuthError {
    let wait = wait.as_secs() + 1;
    let description = format!("too many token requests; use the token that you have, or try again in {wait} s");
    OAuthError::new(ErrorCode::SlowDown, description)
}

fn required<'a>(request: &'a TokenRequest, name: &str) -> Result<&'a str, OAuthError> {
    request.get(name).ok_or_else(|| OAuthError::new(ErrorCode::InvalidRequest, format!("{name} is missing")))
}
