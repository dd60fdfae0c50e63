//! Profiles: see them as JSON or as the TOML that owners write, and apply one.

use super::{
    conflict, forbidden, not_found,
    paging::{Items, PageQuery},
};
use crate::http::{
    Http,
    etag::{EntityTag, IfMatch},
    extract::{BodyOf, Caller, PathOf, QueryOf},
    problem::Problem,
    request::has_media_type,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    profile::{InvalidProfile, Profile, ProfileName},
    registry::{ManageProfiles, ProfileRefused, ReadDevices, Registry},
    scope::PermissionName,
};
use serde::Serialize;
use std::sync::Arc;

const TOML: &str = "application/toml";

#[derive(Serialize)]
pub(super) struct Summary {
    name: ProfileName,
    description: String,
    token_lifetime_s: u64,
    permissions: Vec<PermissionName>,
}

/// `GET /profiles`.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Items<Summary>>, Problem> {
    caller.may::<ReadDevices>(&http)?;
    let summary = |profile: &Profile| Summary {
        name: profile.name.clone(),
        description: profile.description.clone(),
        token_lifetime_s: profile.token_lifetime_s,
        permissions: profile.permissions.keys().cloned().collect(),
    };
    let page = query.page()?;
    Ok(Json(http.hub.view(|registry| page.of(registry.profiles(), |profile| profile.name.to_string()).map(summary))))
}

/// `GET /profiles/{name}`.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(name): PathOf<ProfileName>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may::<ReadDevices>(&http)?;
    let profile = http.hub.view(|registry| registry.profile(&name).cloned());
    let unknown = || not_found(format!("there is no profile {name}; `hearthkey profile list` shows all"), "unknown_profile");
    let profile = profile.ok_or_else(unknown)?;
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response = if accepts.split(',').any(|range| range.split(';').next().is_some_and(|range| range.trim() == TOML)) {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(TOML))], profile.to_toml()).into_response()
    } else {
        Json(&profile).into_response()
    };
    response.headers_mut().insert(header::ETAG, EntityTag::of(&http.hub, &profile).header());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// `PUT /profiles/{name}`.
pub(super) async fn apply(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(name): PathOf<ProfileName>,
    if_match: IfMatch,
    body: BodyOf,
) -> Result<(StatusCode, [(HeaderName, HeaderValue); 1], Json<Profile>), Problem> {
    caller.may::<ManageProfiles>(&http)?;
    if !has_media_type(&body.headers, TOML) {
        let detail = "a profile is TOML, with Content-Type: application/toml";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let text = std::str::from_utf8(&body.bytes).map_err(|_| Problem::bad_request("the profile is not UTF-8"))?;
    let profile = Profile::from_toml(text).map_err(|invalid| match &invalid {
        InvalidProfile::Syntax(_) | InvalidProfile::TooMany | InvalidProfile::ScopeTooLong | InvalidProfile::Lifetime(_) => {
            Problem::unprocessable(invalid.to_string()).coded("invalid_profile")
        }
        InvalidProfile::TooLarge => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, invalid.to_string()),
    })?;
    if profile.name != name {
        let detail = format!("the file says name = \"{}\", the address says {name}; make them agree", profile.name);
        return Err(Problem::unprocessable(detail).coded("invalid_profile"));
    }
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let status = http.hub.view(|registry| match registry.profile(&name) {
        Some(_) => StatusCode::OK,
        None => StatusCode::CREATED,
    });
    let decision = |registry: &Registry| {
        let permit = caller.permit(registry)?;
        if_match.holds(registry.profile(&name).map(|profile| EntityTag::of(&http.hub, profile)).as_ref())?;
        registry.apply_profile(&permit, profile.clone(), &context).map_err(refused)
    };
    http.hub.decide(decision).await?;
    let tag = EntityTag::of(&http.hub, &profile).header();
    Ok((status, [(header::ETAG, tag)], Json(profile)))
}

fn refused(refused: ProfileRefused) -> Problem {
    match &refused {
        ProfileRefused::TooMany => conflict(refused, "too_many"),
        ProfileRefused::BeyondOwnRights { .. } => forbidden(refused, "insufficient_scope"),
    }
}
