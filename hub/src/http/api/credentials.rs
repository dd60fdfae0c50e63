//! Personal access tokens, API keys and client secrets: made and shown once, listed without their secret, replaced, ended.

use super::{
    conflict, forbidden, not_found,
    paging::{Items, Page},
};
use crate::http::{
    Http,
    extract::{Caller, JsonOf, PathOf, QueryOf, out_of_reach},
    problem::Problem,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    limits::PERSONAL_ACCESS_TOKEN_LIFETIME,
    network::Network,
    profile::ProfileName,
    registry::{
        Change, Context, CredentialRecord, CredentialRefused, CredentialWarning, KeyHolder, LastUsed, ManageCredentials,
        ManageOwnCredentials, NewApiKey, NewPersonalAccessToken, Permission, Registry, UserPermit,
    },
    scope::Scope,
    secret::{CredentialKind, Secret, SecretHash},
    session::{CredentialId, IntegrationName, Principal},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A credential as people see it: all but the secret.
#[derive(Serialize)]
pub(super) struct Credential {
    id: CredentialId,
    kind: CredentialKind,
    name: String,
    subject: Principal,
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<ProfileName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<DeviceId>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<Network>,
    created_at: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<CredentialId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_at: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<LastUsed>,
    warnings: Vec<CredentialWarning>,
}

/// A fresh credential with its secret: shown once.
#[derive(Serialize)]
pub(super) struct Created {
    credential: Credential,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    kind: Option<CredentialKind>,
    subject: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenWish {
    name: String,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(default)]
    devices: Option<Vec<DeviceId>>,
    #[serde(default)]
    expires_in_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyWish {
    name: String,
    #[serde(default)]
    integration: Option<IntegrationName>,
    #[serde(default)]
    profile: Option<ProfileName>,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(default)]
    device: Option<DeviceId>,
    #[serde(default)]
    expires_in_s: Option<u64>,
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Roll {
    overlap_s: u64,
}

type CreatedAnswer = Result<(StatusCode, [(HeaderName, String); 1], Json<Created>), Problem>;

/// `GET /credentials`: one's own; everyone's for who may manage them.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Wanted { kind, subject, limit, cursor }): QueryOf<Wanted>,
) -> Result<Json<Items<Credential>>, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let page = Page::new(limit, cursor.as_deref())?;
    let now = http.hub.now();
    let wanted = |record: &&CredentialRecord| {
        kind.is_none_or(|kind| record.kind == kind) && subject.as_ref().is_none_or(|subject| is_called(&record.subject, subject))
    };
    let items = http.hub.view(|registry| {
        let permit = caller.permit(registry)?;
        let seen = registry.credentials_seen_by(&permit).filter(wanted).cloned();
        Ok::<_, Problem>(page.of(seen, |record| record.id.to_string()))
    })?;
    Ok(Json(items.map(|record| Credential::of(record, now))))
}

/// `GET /credentials/{id}`.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(id): PathOf<CredentialId>,
) -> Result<Json<Credential>, Problem> {
    let record = http.hub.view(|registry| {
        let permit = caller.permit(registry)?;
        Ok::<_, Problem>(registry.credentials_seen_by(&permit).find(|record| record.id == id).cloned())
    })?;
    record.map(|record| Json(Credential::of(record, http.hub.now()))).ok_or_else(|| unknown(&id))
}

/// `DELETE /credentials/{id}`: it ends at once, and so do its sessions.
pub(super) async fn revoke(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(id): PathOf<CredentialId>,
) -> Result<StatusCode, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let decision = |registry: &Registry| registry.revoke_credential(&caller.permit(registry)?, &id, &context).map_err(refused);
    http.hub.decide_to_end(decision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /credentials/personal-access-tokens`.
pub(super) async fn create_token(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(TokenWish { name, scope, devices, expires_in_s }): JsonOf<TokenWish>,
) -> CreatedAnswer {
    caller.may::<ManageOwnCredentials>(&http)?;
    let lifetime = expires_in_s.map_or(PERSONAL_ACCESS_TOKEN_LIFETIME, Seconds);
    let new = NewPersonalAccessToken { name, scope, devices, lifetime };
    make(&http, &caller, CredentialKind::PersonalAccessToken, |registry, permit, fresh, context| {
        registry.create_personal_access_token(permit, new, fresh, context)
    })
    .await
}

/// `POST /credentials/{id}/rotate`.
pub(super) async fn rotate(State(http): State<Arc<Http>>, caller: Caller, PathOf(id): PathOf<CredentialId>) -> CreatedAnswer {
    caller.may::<ManageOwnCredentials>(&http)?;
    make(&http, &caller, CredentialKind::PersonalAccessToken, |registry, permit, fresh, context| {
        registry.rotate_personal_access_token(permit, &id, fresh, context)
    })
    .await
}

/// `POST /credentials/api-keys`.
pub(super) async fn create_key(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(KeyWish { name, integration, profile, scope, device, expires_in_s, networks }): JsonOf<KeyWish>,
) -> CreatedAnswer {
    caller.may::<ManageCredentials>(&http)?;
    let holder = match (integration, profile, scope, device) {
        (Some(name), Some(profile), scope, None) => KeyHolder::Integration { name, profile, scope },
        (None, None, None, Some(device)) => KeyHolder::Device(device),
        _ => {
            let detail = "a key is for an `integration` with a `profile` (and a `scope` of it), or for a `device`";
            return Err(Problem::unprocessable(detail).coded("holder"));
        }
    };
    if expires_in_s == Some(0) {
        return Err(Problem::unprocessable("a key lives for 1 s at least; leave expires_in_s out for a key without end")
            .coded("expires_in_s"));
    }
    let new = NewApiKey { name, holder, lifetime: expires_in_s.map(Seconds), networks };
    make(&http, &caller, CredentialKind::ApiKey, |registry, permit, fresh, context| {
        registry.create_api_key(permit, new, fresh, context)
    })
    .await
}

/// `POST /credentials/{id}/roll`.
pub(super) async fn roll(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(id): PathOf<CredentialId>,
    JsonOf(Roll { overlap_s }): JsonOf<Roll>,
) -> CreatedAnswer {
    caller.may::<ManageCredentials>(&http)?;
    make(&http, &caller, CredentialKind::ApiKey, |registry, permit, fresh, context| {
        registry.roll_api_key(permit, &id, Seconds(overlap_s), fresh, context)
    })
    .await
}

async fn make<P: Permission>(
    http: &Http,
    caller: &Caller,
    kind: CredentialKind,
    decide: impl FnOnce(
        &Registry,
        &UserPermit<'_, P>,
        (CredentialId, SecretHash),
        &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused>,
) -> CreatedAnswer {
    let _turn = http.turn().await?;
    let context = caller.context(http);
    let (fresh, secret) = http.hub.new_credential(kind);
    let decision = |registry: &Registry| decide(registry, &caller.permit(registry)?, fresh, &context).map_err(refused);
    let record = http.hub.decide(decision).await?;
    Ok(Created::answer(record, &secret, context.now))
}

impl Created {
    /// 201, with where it is and the secret.
    pub(super) fn answer(
        record: CredentialRecord,
        secret: &Secret,
        now: UnixTime,
    ) -> (StatusCode, [(HeaderName, String); 1], Json<Self>) {
        let location = format!("/api/v1/credentials/{}", record.id);
        let created = Self { credential: Credential::of(record, now), secret: secret.expose().to_owned() };
        (StatusCode::CREATED, [(LOCATION, location)], Json(created))
    }
}

impl Credential {
    pub(super) fn of(record: CredentialRecord, now: UnixTime) -> Self {
        Self {
            warnings: record.warnings(now),
            id: record.id,
            kind: record.kind,
            name: record.name,
            subject: record.subject,
            scope: record.scope,
            profile: record.profile,
            devices: record.devices,
            networks: record.networks,
            created_at: record.created_at,
            expires_at: record.expires_at,
            replaces: record.replaces,
            replaced_at: record.replaced_at,
            last_used: record.last_used,
        }
    }
}

/// `ann`, or `user:ann` where a device is called so too.
fn is_called(subject: &Principal, wanted: &str) -> bool {
    let (kind, name) = match subject {
        Principal::Device(name) => ("device", name),
        Principal::User(name) => ("user", name),
        Principal::Integration(name) => ("integration", name),
    };
    match wanted.split_once(':') {
        Some((wanted_kind, wanted_name)) => wanted_kind == kind && wanted_name == name.as_str(),
        None => wanted == name.as_str(),
    }
}

fn unknown(id: &CredentialId) -> Problem {
    refused(CredentialRefused::Unknown(crate::http::request::shown(id).into()))
}

/// What a refusal about credentials is to the caller.
pub(super) fn refused(refused: CredentialRefused) -> Problem {
    let unprocessable = |code| Problem::unprocessable(refused.to_string()).coded(code);
    match &refused {
        CredentialRefused::Unknown(_) => not_found(refused, "unknown_credential"),
        CredentialRefused::Name => unprocessable("name"),
        CredentialRefused::BeyondOwnRights { .. } | CredentialRefused::KeyBeyondOwnRights { .. } => {
            forbidden(refused, "insufficient_scope")
        }
        CredentialRefused::OutOfReach(_) => out_of_reach(refused),
        CredentialRefused::Lifetime => unprocessable("expires_in_s"),
        CredentialRefused::Overlap => unprocessable("overlap_s"),
        CredentialRefused::NotAPerson => forbidden(refused, "not_a_person"),
        CredentialRefused::UnknownDevice(_) => unprocessable("unknown_device"),
        CredentialRefused::DisabledDevice(_) => conflict(refused, "device_disabled"),
        CredentialRefused::RevokedDevice(_) => conflict(refused, "device_revoked"),
        CredentialRefused::UnknownProfile(_) => unprocessable("unknown_profile"),
        CredentialRefused::UnknownPermission(_) => unprocessable("unknown_permission"),
        CredentialRefused::Replaced(_) => conflict(refused, "replaced"),
        CredentialRefused::Kind(_) => conflict(refused, "other_kind"),
        CredentialRefused::TooMany(_) => conflict(refused, "too_many"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearthkey_core::limits::{EXPIRES_SOON, UNUSED_AFTER};

    #[test]
    fn what_ends_soon_or_is_not_used_is_said_in_the_answer() {
        let record: CredentialRecord = serde_json::from_value(serde_json::json!({
            "id": "0aB3dE6gH9jK", "kind": "personal_access_token", "subject": {"user": "ann"}, "name": "backup",
            "hash": "00".repeat(32), "scope": "devices:read", "created_at": 1_780_000_000,
            "expires_at": 1_780_000_000 + 366 * 86_400,
        }))
        .expect("a stored credential");
        let warnings =
            |now: UnixTime| serde_json::to_value(Credential::of(record.clone(), now)).expect("JSON")["warnings"].take();
        assert_eq!(warnings(record.created_at), serde_json::json!([]));
        assert_eq!(warnings(record.created_at.plus(UNUSED_AFTER)), serde_json::json!(["unused"]));
        let soon = record.expires_at.expect("set").minus(EXPIRES_SOON);
        assert_eq!(warnings(soon), serde_json::json!(["expires_soon", "unused"]));
    }
}
