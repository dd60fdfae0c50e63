//! People, and oneself.

use super::{
    Empty, conflict,
    credentials::Credential,
    forbidden, not_found,
    paging::{Items, PageQuery},
};
use crate::{
    http::{
        Http,
        etag::{EntityTag, IfMatch},
        extract::{Caller, JsonOf, PathOf, QueryOf, ended},
        problem::Problem,
    },
    hub::Hub,
    passwords::PasswordError,
};
use axum::{
    Json,
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{ETAG, LOCATION},
    },
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    DeviceId, UnixTime,
    registry::{ManageOwnCredentials, ManageUsers, PasswordHash, Registry, Role, UserChange, UserRecord, UserRefused},
    scope::Scope,
    session::{Principal, UserName},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A person as people see them.
#[derive(Serialize)]
pub(super) struct User {
    name: UserName,
    role: Role,
    created_at: UnixTime,
    has_password: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    name: UserName,
    role: Role,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    password: String,
}

/// Who asks, and what the credential amounts to.
#[derive(Serialize)]
pub(super) struct Me {
    principal: Principal,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<DeviceId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<Credential>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<UnixTime>,
}

/// `GET /users`.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Items<User>>, Problem> {
    caller.may::<ManageUsers>(&http)?;
    let page = query.page()?;
    let items = http.hub.view(|registry| page.of(registry.users().cloned(), |user| user.name.to_string()));
    Ok(Json(items.map(|user| User::from(&user))))
}

/// `POST /users`.
pub(super) async fn add(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(Addition { name, role, password }): JsonOf<Addition>,
) -> Result<Response, Problem> {
    caller.may::<ManageUsers>(&http)?;
    let password = hashed(&http, password).await?;
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let location = format!("/api/v1/users/{name}");
    let decision =
        |registry: &Registry| registry.add_user(&caller.permit(registry)?, name, role, password, &context).map_err(refused);
    let user = http.hub.decide(decision).await?;
    Ok((StatusCode::CREATED, [(LOCATION, location)], tagged(&http.hub, &user)).into_response())
}

/// `GET /users/{name}`.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(name): PathOf<UserName>,
) -> Result<Response, Problem> {
    caller.may::<ManageUsers>(&http)?;
    let user = http.hub.view(|registry| registry.user(&name).cloned()).ok_or_else(|| refused(UserRefused::Unknown(name)))?;
    Ok(tagged(&http.hub, &user).into_response())
}

/// `PATCH /users/{name}`.
pub(super) async fn edit(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(name): PathOf<UserName>,
    if_match: IfMatch,
    JsonOf(Edit { role, password }): JsonOf<Edit>,
) -> Result<Response, Problem> {
    caller.may::<ManageUsers>(&http)?;
    let change = UserChange { role, password: hashed(&http, password).await? };
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let decision = |registry: &Registry| {
        let permit = caller.permit(registry)?;
        if_match.holds(registry.user(&name).map(|user| EntityTag::of(&http.hub, user)).as_ref())?;
        registry.change_user(&permit, &name, change, &context).map_err(refused)
    };
    let user = http.hub.decide_to_end(decision).await?;
    Ok(tagged(&http.hub, &user).into_response())
}

/// `DELETE /users/{name}`: their tokens and sessions end.
pub(super) async fn remove(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(name): PathOf<UserName>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    caller.may::<ManageUsers>(&http)?;
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let decision = |registry: &Registry| {
        let permit = caller.permit(registry)?;
        if_match.holds(registry.user(&name).map(|user| EntityTag::of(&http.hub, user)).as_ref())?;
        registry.remove_user(&permit, &name, &context).map_err(refused)
    };
    http.hub.decide_to_end(decision).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /me`: any credential may ask what it is.
pub(super) async fn me(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Empty {}): QueryOf<Empty>,
) -> Result<Json<Me>, Problem> {
    let now = http.hub.now();
    let holding = http.hub.view(|registry| registry.holding(&caller.authority, now)).map_err(ended)?;
    Ok(Json(Me {
        principal: holding.principal,
        role: holding.role,
        scope: holding.scope,
        devices: holding.devices,
        credential: holding.credential.map(|record| Credential::of(record, now)),
        expires_at: holding.expires_at,
    }))
}

/// `PUT /me/password`.
pub(super) async fn set_own_password(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(NewPassword { password }): JsonOf<NewPassword>,
) -> Result<StatusCode, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let password = http.hub.passwords().hash(Zeroizing::new(password)).await.map_err(bad_password)?;
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let decision =
        |registry: &Registry| registry.set_own_password(&caller.permit(registry)?, password, &context).map_err(refused);
    http.hub.decide(decision).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn hashed(http: &Http, password: Option<String>) -> Result<Option<PasswordHash>, Problem> {
    match password {
        Some(password) => {
            let hash = http.hub.passwords().hash(Zeroizing::new(password)).await;
            hash.map(Some).map_err(bad_password)
        }
        None => Ok(None),
    }
}

/// A password that was not taken.
pub(super) fn bad_password(error: PasswordError) -> Problem {
    match error {
        PasswordError::Length => Problem::unprocessable(error.to_string()).coded("password"),
        PasswordError::Busy => Problem::unavailable(error.to_string()),
    }
}

fn tagged(hub: &Hub, user: &UserRecord) -> impl IntoResponse {
    let tag: HeaderValue = EntityTag::of(hub, user).header();
    ([(ETAG, tag)], Json(User::from(user)))
}

impl From<&UserRecord> for User {
    fn from(user: &UserRecord) -> Self {
        Self { name: user.name.clone(), role: user.role, created_at: user.created_at, has_password: user.password.is_some() }
    }
}

fn refused(refused: UserRefused) -> Problem {
    match &refused {
        UserRefused::Unknown(_) => not_found(refused, "unknown_user"),
        UserRefused::Exists(_) => conflict(refused, "user_exists"),
        UserRefused::LastOwner(_) => conflict(refused, "last_owner"),
        UserRefused::TooMany => conflict(refused, "too_many"),
        UserRefused::NarrowToken(_) | UserRefused::BeyondOwnRights(_) => forbidden(refused, "insufficient_scope"),
        UserRefused::NotAPerson => forbidden(refused, "not_a_person"),
    }
}
