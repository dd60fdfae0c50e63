//! Twins: what a device is to be, and what it says it is. The `ETag` is the desired version.

use super::{conflict, not_found};
use crate::http::{
    Http,
    etag::{EntityTag, IfMatch},
    extract::{BodyOf, Caller, PathOf, json, out_of_reach},
    problem::Problem,
    request::has_media_type,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::ETAG},
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    DeviceId,
    registry::{
        DesiredTwin, DeviceRefused, ReadDevices, Registry, ReportedTwin, SendCommands, Twin, TwinBody, TwinChange, TwinRefused,
    },
};
use serde::Serialize;
use std::sync::Arc;

/// Both sides as people see them.
#[derive(Serialize)]
struct Shown {
    device: DeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    desired: Option<DesiredTwin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<ReportedTwin>,
    settled: bool,
}

const JSON: &str = "application/json";
/// RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// `GET /devices/{id}/twin`.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(device): PathOf<DeviceId>,
) -> Result<Response, Problem> {
    caller.may_for::<ReadDevices>(&http, &device)?;
    let twin = http.hub.view(|registry| registry.device(&device).map(|_| registry.twin(&device)));
    let twin = twin.ok_or_else(|| super::devices::refused(DeviceRefused::Unknown(device.clone())))?;
    Ok(shown(device, twin))
}

/// `PUT /devices/{id}/twin`: all that is desired.
pub(super) async fn replace(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(device): PathOf<DeviceId>,
    if_match: IfMatch,
    body: BodyOf,
) -> Result<Response, Problem> {
    let body = object(&body, &[JSON])?;
    change(&http, &caller, device, &if_match, TwinChange::Replace(body)).await
}

/// `PATCH /devices/{id}/twin`: a merge patch (RFC 7396).
pub(super) async fn merge(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(device): PathOf<DeviceId>,
    if_match: IfMatch,
    body: BodyOf,
) -> Result<Response, Problem> {
    let body = object(&body, &[MERGE_PATCH, JSON])?;
    change(&http, &caller, device, &if_match, TwinChange::Merge(body)).await
}

async fn change(
    http: &Http,
    caller: &Caller,
    device: DeviceId,
    if_match: &IfMatch,
    change: TwinChange,
) -> Result<Response, Problem> {
    // What the twin is like now is told only to who reaches it.
    caller.may_for::<SendCommands>(http, &device)?;
    let _turn = http.turn().await?;
    let context = caller.context(http);
    let decision = |registry: &Registry| {
        let permit = caller.permit(registry)?;
        if_match.holds(Some(&tag(&registry.twin(&device))))?;
        registry.change_twin(&permit, &device, change, &context).map_err(refused)
    };
    http.hub.decide(decision).await?;
    let twin = http.hub.view(|registry| registry.twin(&device));
    Ok(shown(device, twin))
}

fn object(body: &BodyOf, media_types: &[&str]) -> Result<TwinBody, Problem> {
    if !media_types.iter().any(|media_type| has_media_type(&body.headers, media_type)) {
        let detail = format!("the body must be a JSON object, with Content-Type: {}", media_types.join(" or "));
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    json(&body.bytes)
}

fn tag(twin: &Twin) -> EntityTag {
    EntityTag::of_version(twin.desired.as_ref().map_or(0, |desired| desired.v))
}

fn shown(device: DeviceId, twin: Twin) -> Response {
    let etag = [(ETAG, tag(&twin).header())];
    let settled = twin.is_settled();
    (etag, Json(Shown { device, desired: twin.desired, reported: twin.reported, settled })).into_response()
}

fn refused(refused: TwinRefused) -> Problem {
    match &refused {
        TwinRefused::UnknownDevice(_) => not_found(refused, "unknown_device"),
        TwinRefused::OutOfReach(_) => out_of_reach(refused),
        TwinRefused::Revoked(_) | TwinRefused::None { .. } => conflict(refused, "device_unable"),
        TwinRefused::Version => Problem::unprocessable(refused.to_string()).coded("v"),
        TwinRefused::TooLarge(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, refused.to_string()),
    }
}
