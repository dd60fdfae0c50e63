//! Clients at the token endpoint: proving who they are, getting an access token.

use super::{
    Change, ClientKey, Context, CredentialRecord, DeviceRecord, DeviceStatus, Draft, IntrospectTokens, Permission, Registry,
    UserPermit,
};
use crate::{
    DeviceId, Seconds, UnixTime,
    claims::{AccessTokenClaims, AceProfile, AssertionClaims, Confirmation},
    jwt::{Algorithm, InvalidJwt, PublicKey, UnverifiedJwt},
    limits::{
        CLOCK_SKEW, MAX_ASSERTION_LIFETIME, MAX_DENIED_TOKENS, MAX_JTI_BYTES, MAX_KEYS_PER_CLIENT, MAX_USED_ASSERTIONS,
        MAX_USED_ASSERTIONS_PER_CLIENT,
    },
    oauth::{ClientAuthentication, ErrorCode, OAuthError, TokenRequest},
    profile::Profile,
    scope::Scope,
    secret::{CredentialKind, Pepper, PresentedCredential, SecretHash},
    session::{Authority, CredentialId, Principal, Proof},
    write::Table,
};

use super::used_assertions::{self, JtiHash};

/// Most ended assertions that one request forgets: enough to make room, little enough to stay cheap.
const MAX_FORGOTTEN_AT_ONCE: usize = 4;

/// Proof that a client is who it says; made only by [`Registry::authenticate_client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticatedClient {
    id: DeviceId,
    method: Method,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Method {
    Assertion { thumbprint: Box<str>, jti: JtiHash, remembered_until: UnixTime },
    Secret { id: CredentialId },
    Joined { thumbprint: Box<str> },
}

/// An access token to sign and hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// What it says.
    pub claims: AccessTokenClaims,
    /// Its life.
    pub expires_in: Seconds,
}

impl IssuedToken {
    /// The authority that the token gives, for a session opened in the same breath.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.claims.authority()
    }
}

impl AccessTokenClaims {
    /// The authority that a verified token gives.
    #[must_use]
    pub fn authority(&self) -> Authority {
        Authority {
            principal: Principal::Device(self.sub.clone()),
            proof: Proof::AccessToken {
                jti: self.jti.clone(),
                issued_at: self.iat,
                expires_at: self.exp,
                scope: self.scope.clone(),
                epoch: self.epoch,
            },
        }
    }
}

impl AuthenticatedClient {
    /// The client.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }
}

impl Registry {
    /// Proves who a client is. Costs a signature verification or an HMAC whether or not the client exists.
    ///
    /// # Errors
    /// `invalid_client`: the same for an unknown client and a wrong proof. Only who proved a key or secret is told that it is
    /// revoked or disabled.
    pub fn authenticate_client(
        &self,
        authentication: &ClientAuthentication<'_>,
        audiences: &[String],
        pepper: &Pepper,
        now: UnixTime,
    ) -> Result<AuthenticatedClient, OAuthError> {
        let client = match authentication {
            ClientAuthentication::Secret { client_id, client_secret } => {
                self.authenticate_by_secret(client_id, client_secret, pepper, now)?
            }
            ClientAuthentication::Assertion { client_id, assertion } => {
                self.authenticate_by_assertion(*client_id, assertion, audiences, now)?
            }
        };
        self.client_in_good_standing(&client.id)?;
        Ok(client)
    }

    /// Issues an access token to a client that proved itself. The assertion is used up, and a key's first use begins the
    /// retirement of the keys before it, in the same batch.
    ///
    /// # Errors
    /// `invalid_client` for an assertion used before or a client revoked in the meantime; `invalid_scope`, `invalid_target`,
    /// `unsupported_grant_type`, `incompatible_ace_profiles`, `slow_down`.
    pub fn issue_token(
        &self,
        client: &AuthenticatedClient,
        request: &TokenRequest,
        issuer: &str,
        jti: Box<str>,
        context: &Context,
    ) -> Result<Change<IssuedToken>, OAuthError> {
        let now = context.now;
        match request.get("grant_type") {
            Some("client_credentials") => {}
            Some(_) => return Err(OAuthError::new(ErrorCode::UnsupportedGrantType, "only client_credentials is supported")),
            None => return Err(OAuthError::new(ErrorCode::InvalidRequest, "grant_type is missing")),
        }
        let mut device = self.client_in_good_standing(&client.id)?.clone();
        let profile = self.profiles.get(&device.profile).ok_or_else(|| {
            OAuthError::new(ErrorCode::UnauthorizedClient, format!("the profile {} of this client is gone", device.profile))
        })?;
        let audience = requested_resource(request, profile, issuer)?;
        let scope = requested_scope(request, &profile.scope())?;
        let ace_profile = requested_ace_profile(request)?;
        if ace_profile.is_some() && audience != issuer {
            let why = "a token of an ACE profile is good at this hub only; ask for one without ace_profile";
            return Err(OAuthError::new(ErrorCode::InvalidTarget, why));
        }
        if !profile.proof.is_optional() && audience != issuer {
            let why = format!("tokens of the profile {} must be proven, and only this hub asks for that", profile.name);
            return Err(OAuthError::new(ErrorCode::InvalidTarget, why));
        }
        let mut draft = self.draft(context);
        let registered = self.use_up(client, &mut device, &mut draft)?;
        // Who has no key could not prove any other.
        let needs_key = registered.is_none() && !profile.proof.is_optional();
        let ace_profile = ace_profile.or(needs_key.then_some(AceProfile::MqttTls));
        let cnf = match (registered, ace_profile) {
            (Some(jkt), _) => Some(Confirmation::Registered { jkt }),
            // RFC 9201 section 3.2: who has no key gets one.
            (None, Some(AceProfile::MqttTls)) => Some(Confirmation::Shared { kid: jti.clone() }),
            (None, None) => None,
        };
        self.put_if_changed(&device, &mut draft);
        let lifetime = profile.token_lifetime();
        let claims = AccessTokenClaims {
            iss: issuer.to_owned(),
            sub: client.id.clone(),
            aud: audience.to_owned(),
            client_id: client.id.clone(),
            iat: now,
            exp: now.plus(lifetime),
            jti,
            scope,
            epoch: device.epoch,
            cnf,
            ace_profile,
        };
        draft.audit(&Principal::Device(client.id.clone()), "token.issue", format!("access token {}", claims.jti));
        Ok(draft.finish(IssuedToken { claims, expires_in: lifetime }))
    }

    /// Ends an access token before its time, for the client that it was issued to (RFC 7009). Nothing is left to do for a token
    /// that has ended already. At the bound on denied tokens all tokens of this client end.
    ///
    /// # Errors
    /// `unauthorized_client` for a token of another client; otherwise as [`Registry::issue_token`].
    pub fn revoke_token(
        &self,
        client: &AuthenticatedClient,
        token: &AccessTokenClaims,
        context: &Context,
    ) -> Result<Change<()>, OAuthError> {
        let mut device = self.client_in_good_standing(&client.id)?.clone();
        if token.client_id != client.id {
            return Err(OAuthError::new(ErrorCode::UnauthorizedClient, "the token was issued to another client"));
        }
        let mut draft = self.draft(context);
        self.use_up(client, &mut device, &mut draft)?;
        if self.judge(&token.authority(), context.now).is_ok() {
            if self.denied_tokens.len() < MAX_DENIED_TOKENS {
                draft.put(Table::DeniedToken, token.jti.as_bytes(), &token.exp);
            } else {
                device.epoch += 1;
            }
            draft.audit(&Principal::Device(client.id.clone()), "token.revoke", format!("access token {}", token.jti));
        }
        self.put_if_changed(&device, &mut draft);
        Ok(draft.finish(()))
    }

    /// Lets a client's proof count for a request that leaves nothing else behind.
    ///
    /// # Errors
    /// As [`Registry::issue_token`].
    pub fn use_proof(&self, client: &AuthenticatedClient, context: &Context) -> Result<Change<()>, OAuthError> {
        let mut device = self.client_in_good_standing(&client.id)?.clone();
        let mut draft = self.draft(context);
        self.use_up(client, &mut device, &mut draft)?;
        self.put_if_changed(&device, &mut draft);
        Ok(draft.finish(()))
    }

    /// Proof that a client may ask what tokens amount to (RFC 7662): its profile grants it.
    ///
    /// # Errors
    /// `unauthorized_client` where the profile does not; `invalid_client` for one in no good standing.
    pub fn permit_introspection(&self, client: &AuthenticatedClient) -> Result<UserPermit<'_, IntrospectTokens>, OAuthError> {
        self.permit_device(self.client_in_good_standing(&client.id)?).ok_or_else(|| {
            let needed = format!("the profile of this client does not grant {}", IntrospectTokens::NAME);
            OAuthError::new(ErrorCode::UnauthorizedClient, needed)
        })
    }

    /// Lets a proof count once: remembers an assertion, notes a first use, and begins the grace period of what it replaces.
    /// Returns the thumbprint of the client's key, where it has proved one.
    fn use_up(
        &self,
        client: &AuthenticatedClient,
        device: &mut DeviceRecord,
        draft: &mut Draft<'_>,
    ) -> Result<Option<Box<str>>, OAuthError> {
        let now = draft.context.now;
        match &client.method {
            Method::Assertion { thumbprint, jti, remembered_until } => {
                if !device.usable_keys(now).any(|key| key.thumbprint == *thumbprint) {
                    return Err(OAuthError::client_authentication_failed("the key is gone"));
                }
                self.remember_assertion(&client.id, *jti, *remembered_until, draft)?;
                if let Some(added_at) = note_first_use(device, thumbprint, now) {
                    self.retire_secrets_before(added_at, device, draft);
                    // The answer to the registration has arrived, as the key is in use: the code is spent.
                    for (hash, record) in &self.enrolments_by_code_hash {
                        if record.device == client.id && record.used_by.as_ref() == Some(thumbprint) {
                            draft.delete(Table::EnrolmentCode, hash.as_bytes());
                        }
                    }
                }
                Ok(Some(thumbprint.clone()))
            }
            Method::Secret { id } => {
                let secret = self.credentials.get(id).filter(|secret| secret.is_usable(now));
                let secret = secret.ok_or_else(|| OAuthError::client_authentication_failed("the secret is gone"))?;
                if secret.last_used.is_none() {
                    self.retire_secrets_before(secret.created_at, device, draft);
                    let retires = now.plus(device.overlap);
                    let older = |key: &&mut ClientKey| key.added_at < secret.created_at && key.retires_at.is_none();
                    for key in device.keys.iter_mut().filter(older) {
                        key.retires_at = Some(retires);
                    }
                }
                if let Some(secret) = secret.after_use(draft.context) {
                    draft.put(Table::Credential, secret.id.as_bytes(), &secret);
                }
                Ok(None)
            }
            Method::Joined { thumbprint } => Ok(Some(thumbprint.clone())),
        }
    }

    fn remember_assertion(&self, id: &DeviceId, jti: JtiHash, until: UnixTime, draft: &mut Draft<'_>) -> Result<(), OAuthError> {
        let now = draft.context.now;
        if self.used_assertions.contains(id, jti) {
            return Err(OAuthError::client_authentication_failed("the assertion was used before (replay)"));
        }
        let (mut remembered, mut ended) = (0, 0);
        for (jti, until) in self.used_assertions.of_client(id) {
            if until > now {
                remembered += 1;
            } else if ended < MAX_FORGOTTEN_AT_ONCE {
                // Each request makes more room than it takes, however seldom the sweep comes by.
                draft.delete(Table::UsedAssertion, used_assertions::row_key(id, jti));
                ended += 1;
            }
        }
        if remembered >= MAX_USED_ASSERTIONS_PER_CLIENT || self.used_assertions.len() >= ended + MAX_USED_ASSERTIONS {
            return Err(OAuthError::new(ErrorCode::SlowDown, "too many token requests; use the token that you have"));
        }
        draft.put(Table::UsedAssertion, used_assertions::row_key(id, jti), &until);
        Ok(())
    }

    /// A newer key or secret was used: begins the grace period of the secrets before it, where it has not begun.
    fn retire_secrets_before(&self, newer: UnixTime, device: &DeviceRecord, draft: &mut Draft<'_>) {
        let older = |secret: &&CredentialRecord| secret.created_at < newer && secret.expires_at.is_none();
        for older in self.client_secrets(&device.id).filter(older) {
            let retiring = CredentialRecord { expires_at: Some(draft.context.now.plus(device.overlap)), ..older.clone() };
            draft.put(Table::Credential, retiring.id.as_bytes(), &retiring);
        }
    }

    fn put_if_changed(&self, device: &DeviceRecord, draft: &mut Draft<'_>) {
        if self.devices.get(&device.id) != Some(device) {
            draft.put(Table::Device, device.id.as_str(), device);
        }
    }

    /// A device that the owner has just let in with a key: the device code, which is the caller's to check, proves that it is the
    /// one, until the key proves it for the first time.
    #[must_use]
    pub fn joined_client(&self, id: &DeviceId, thumbprint: &str) -> Option<AuthenticatedClient> {
        let mut keys = self.devices.get(id)?.keys.iter();
        let key = keys.find(|key| *key.thumbprint == *thumbprint && key.first_used_at.is_none() && key.retires_at.is_none())?;
        Some(AuthenticatedClient { id: id.clone(), method: Method::Joined { thumbprint: key.thumbprint.clone() } })
    }

    fn client_in_good_standing(&self, id: &DeviceId) -> Result<&DeviceRecord, OAuthError> {
        let refused = |word: &str| OAuthError::new(ErrorCode::InvalidClient, format!("client {id} is {word}"));
        let device =
            self.devices.get(id).ok_or_else(|| OAuthError::client_authentication_failed(format!("client {id} is gone")))?;
        match device.status {
            DeviceStatus::Active => Ok(device),
            DeviceStatus::Disabled => Err(refused("disabled")),
            DeviceStatus::Revoked => Err(refused("revoked")),
            DeviceStatus::Pending => Err(OAuthError::client_authentication_failed(format!("client {id} has not enrolled"))),
        }
    }

    fn authenticate_by_secret(
        &self,
        client_id: &str,
        secret: &str,
        pepper: &Pepper,
        now: UnixTime,
    ) -> Result<AuthenticatedClient, OAuthError> {
        let failed = |evidence: &str| OAuthError::client_authentication_failed(evidence);
        let presented = PresentedCredential::parse(secret).map_err(|why| failed(&why.to_string()))?;
        let subject = DeviceId::parse(client_id).ok().map(Principal::Device);
        let record = self.credentials.get(presented.id).filter(|record| {
            record.kind == CredentialKind::ClientSecret
                && presented.kind == record.kind
                && Some(&record.subject) == subject.as_ref()
                && record.is_usable(now)
        });
        let fits = presented.hash(pepper) == *record.map_or(&SecretHash::OF_NOTHING, |record| &record.hash);
        match (record, subject) {
            (Some(record), Some(Principal::Device(id))) if fits => {
                Ok(AuthenticatedClient { id, method: Method::Secret { id: record.id.clone() } })
            }
            _ => Err(failed("unknown client or wrong secret")),
        }
    }

    fn authenticate_by_assertion(
        &self,
        client_id: Option<&str>,
        assertion: &str,
        audiences: &[String],
        now: UnixTime,
    ) -> Result<AuthenticatedClient, OAuthError> {
        let failed = |evidence: String| OAuthError::client_authentication_failed(evidence);
        let jwt = UnverifiedJwt::parse(assertion).map_err(|why| failed(why.to_string()))?;
        // RFC 7523bis will want `client-authentication+jwt`; a missing type is common. An access token is no assertion.
        let typ = jwt.header().typ.as_deref().map(str::to_ascii_lowercase);
        if !matches!(typ.as_deref(), None | Some("jwt" | "client-authentication+jwt")) {
            return Err(failed(InvalidJwt::Type.to_string()));
        }
        let claims: AssertionClaims = jwt.unverified_claims().map_err(|why| failed(why.to_string()))?;
        let id = DeviceId::parse(&claims.iss).ok();
        let device = id.as_ref().and_then(|id| self.devices.get(id));
        let kid = jwt.header().kid.as_deref();
        let verified = keys_to_try(device, kid, now).into_iter().find_map(|key| match key {
            Some((device, key)) if key.public_key.algorithm() == jwt.algorithm() => {
                jwt.verify(&key.public_key).ok().map(|claims| (device.id.clone(), key.thumbprint.clone(), claims))
            }
            Some(_) | None => {
                let _ = jwt.verify::<AssertionClaims>(&key_of_nobody(jwt.algorithm()));
                None
            }
        });
        let (id, thumbprint, claims): (_, _, AssertionClaims) =
            verified.ok_or_else(|| failed("unknown client or wrong key".to_owned()))?;
        // Some libraries write an `exp` of an hour. RFC 7523 section 3 lets a server go by `iat` as well: what is good for no
        // longer need not be remembered for longer.
        let ends_at = claims.iat.map_or(claims.exp, |iat| claims.exp.min(iat.plus(MAX_ASSERTION_LIFETIME)));
        let complaint = if claims.sub != claims.iss {
            "iss and sub of the assertion differ".to_owned()
        } else if client_id.is_some_and(|client_id| client_id != claims.sub) {
            "client_id is not the subject of the assertion".to_owned()
        } else if !claims.aud.names_only(audiences) {
            format!("the audience of the assertion is not {}", audiences.first().map_or("", String::as_str))
        } else if ends_at.plus(CLOCK_SKEW) <= now {
            format!("the assertion expired {} s ago by the hub's clock", now.since(ends_at).0)
        } else if claims.iat.into_iter().chain(claims.nbf).any(|from| from > now.plus(CLOCK_SKEW)) {
            "the assertion is from the future by the hub's clock".to_owned()
        } else if ends_at > now.plus(MAX_ASSERTION_LIFETIME).plus(CLOCK_SKEW) {
            format!("the assertion lives longer than {} s", MAX_ASSERTION_LIFETIME.0)
        } else if !(1..=MAX_JTI_BYTES).contains(&claims.jti.len()) || !claims.jti.bytes().all(|byte| byte.is_ascii_graphic()) {
            format!("jti must have 1 to {MAX_JTI_BYTES} visible ASCII characters")
        } else {
            let remembered_until = ends_at.plus(CLOCK_SKEW);
            return Ok(AuthenticatedClient {
                id,
                method: Method::Assertion { thumbprint, jti: JtiHash::of(&claims.jti), remembered_until },
            });
        };
        // The key was proved, so the client may be told what is wrong.
        Err(OAuthError::new(ErrorCode::InvalidClient, complaint))
    }
}

/// For whom the token is to be (RFC 8707): the hub, or another server that the profile names.
fn requested_resource<'a>(request: &'a TokenRequest, profile: &Profile, issuer: &'a str) -> Result<&'a str, OAuthError> {
    match request.get("resource") {
        None => Ok(issuer),
        Some(resource) if resource == issuer || profile.resources.iter().any(|named| named.as_str() == resource) => Ok(resource),
        Some(_) => {
            let others = profile.resources.iter().map(|named| format!(" {}", named.as_str())).collect::<String>();
            Err(OAuthError::new(ErrorCode::InvalidTarget, format!("this client may ask for tokens for {issuer}{others}")))
        }
    }
}

fn requested_scope(request: &TokenRequest, allowed: &Scope) -> Result<Scope, OAuthError> {
    let Some(text) = request.get("scope") else { return Ok(allowed.clone()) };
    let scope = Scope::parse(text).map_err(|why| OAuthError::new(ErrorCode::InvalidScope, why.to_string()))?;
    if scope.is_subset_of(allowed) {
        Ok(scope)
    } else {
        Err(OAuthError::new(ErrorCode::InvalidScope, format!("this client may ask for: {allowed}")))
    }
}

/// Whether the token is to be good only with its key, by MQTT (RFC 9431): then the client says `ace_profile=mqtt_tls`.
fn requested_ace_profile(request: &TokenRequest) -> Result<Option<AceProfile>, OAuthError> {
    match request.get("ace_profile") {
        None => Ok(None),
        Some("mqtt_tls") => Ok(Some(AceProfile::MqttTls)),
        Some(_) => Err(OAuthError::new(ErrorCode::IncompatibleAceProfiles, "the only ACE profile of this hub is mqtt_tls")),
    }
}

/// Notes a key's first use: the keys before it get their grace period. Returns when it was added; `None` if it was used before.
fn note_first_use(device: &mut DeviceRecord, thumbprint: &str, now: UnixTime) -> Option<UnixTime> {
    let used = device.keys.iter().position(|key| *key.thumbprint == *thumbprint && key.first_used_at.is_none())?;
    let retires = now.plus(device.overlap);
    let (before, key) = device.keys.split_at_mut(used);
    for older in before.iter_mut().filter(|older| older.retires_at.is_none()) {
        older.retires_at = Some(retires);
    }
    let key = key.first_mut()?;
    key.first_used_at = Some(now);
    Some(key.added_at)
}

/// The keys that an assertion is verified with. Where they end nobody's takes their place, so that an unknown client, an
/// unknown `kid`, a key of another kind and a client without keys cost as much time as a wrong signature.
fn keys_to_try<'a>(
    device: Option<&'a DeviceRecord>,
    kid: Option<&str>,
    now: UnixTime,
) -> Vec<Option<(&'a DeviceRecord, &'a ClientKey)>> {
    let tries = if kid.is_some() { 1 } else { MAX_KEYS_PER_CLIENT };
    let usable = device.into_iter().flat_map(|device| device.usable_keys(now).map(move |key| (device, key)));
    let named = usable.filter(|(_, key)| kid.is_none_or(|kid| *key.thumbprint == *kid));
    named.map(Some).chain(std::iter::repeat(None)).take(tries).collect()
}

/// The generator of a curve as a public key: its private key is 1, and no client has it.
fn key_of_nobody(algorithm: Algorithm) -> PublicKey {
    const P256: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    const ED25519: &str = "5866666666666666666666666666666666666666666666666666666666666666";
    let key = match algorithm {
        Algorithm::Es256 => crate::hex::decode::<65>(P256).and_then(|point| PublicKey::from_point(&point)),
        Algorithm::Ed25519 => crate::hex::decode::<32>(ED25519).and_then(|key| PublicKey::from_ed25519(&key)),
    };
    key.expect("generators are keys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::{World, key, name, public};

    #[test]
    fn each_assertion_costs_as_many_verifications_whatever_the_hub_knows() {
        let mut world = World::with_devices(&["lamp"]);
        let code = world.rotate_by_code("lamp").expect("known");
        world.register(&code, &key("lamp-2")).expect("the code is good");
        world.add("new", "thermostat").expect("a free name");
        let kid = public(&key("lamp-2")).thumbprint();
        for (device, kid, known) in [
            ("lamp", Some(&*kid), 1),
            ("lamp", Some("nonsense"), 0),
            ("lamp", None, 2),
            ("new", Some(&*kid), 0),
            ("new", None, 0),
            ("ghost", Some(&*kid), 0),
            ("ghost", None, 0),
        ] {
            let keys = keys_to_try(world.registry.device(&name(device)), kid, world.now);
            assert_eq!(keys.len(), if kid.is_some() { 1 } else { MAX_KEYS_PER_CLIENT }, "{device} {kid:?}");
            assert_eq!(keys.iter().flatten().count(), known, "{device} {kid:?}");
        }
    }
}
