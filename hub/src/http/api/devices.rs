//! Devices: see, add, pause, revoke, rotate, and why one may or may not do something.

use super::{
    conflict, forbidden, not_decided, not_found,
    paging::{Items, PageQuery},
    unprocessable,
};
use crate::http::{
    Http,
    extract::{Caller, JsonOf, PathOf, QueryOf, out_of_reach},
    problem::Problem,
};
use crate::hub::{Hub, ShownOnce};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    limits::ENROLMENT_CODE_LIFETIME,
    profile::ProfileName,
    registry::{
        Change, Context, DeviceRecord, DeviceRefused, DeviceStatus, ManageDevices, NewDevice, NewEnrolment, ReadDevices,
        Registry, UserPermit,
    },
    session::Principal,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A device as people see it.
#[derive(Serialize)]
pub(super) struct Device {
    id: DeviceId,
    profile: ProfileName,
    status: DeviceStatus,
    connected: bool,
    keys: Vec<Key>,
    secrets: usize,
    children: Vec<DeviceId>,
    created_at: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolled_at: Option<UnixTime>,
    #[serde(skip_serializing_if = "String::is_empty")]
    software: String,
    command_seq: u64,
}

#[derive(Serialize)]
struct Key {
    thumbprint: Box<str>,
    added_at: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_used_at: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retires_at: Option<UnixTime>,
}

/// A device and how it proves itself from now on: shown once.
#[derive(Serialize)]
pub(super) struct Enrolment {
    device: Device,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment: Option<EnrolmentString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
}

#[derive(Serialize)]
struct EnrolmentString {
    string: String,
    expires_at: UnixTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    id: DeviceId,
    profile: ProfileName,
    #[serde(default)]
    children: Vec<DeviceId>,
    #[serde(default)]
    authentication: Authentication,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    #[serde(default)]
    authentication: Authentication,
    #[serde(default)]
    overlap_s: Option<u64>,
}

/// How a device will prove itself.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Authentication {
    #[default]
    Key,
    Secret,
}

type Answer<T> = Result<Json<T>, Problem>;

/// `GET /devices`.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(query): QueryOf<PageQuery>,
) -> Answer<Items<Device>> {
    caller.may::<ReadDevices>(&http)?;
    let page = query.page()?;
    let records = http.hub.view(|registry| {
        let permit = caller.permit::<ReadDevices>(registry)?;
        let seen = registry.devices().filter(|device| permit.covers(&device.id));
        let page = page.of(seen, |device| device.id.to_string());
        Ok::<_, Problem>(page.map(|device| (device.clone(), secrets_of(registry, device))))
    })?;
    Ok(Json(records.map(|(device, secrets)| Device::of(&http.hub, device, secrets))))
}

/// `GET /devices/{id}`.
pub(super) async fn show(State(http): State<Arc<Http>>, caller: Caller, PathOf(id): PathOf<DeviceId>) -> Answer<Device> {
    caller.may_for::<ReadDevices>(&http, &id)?;
    let record = http.hub.view(|registry| registry.device(&id).cloned());
    let record = record.ok_or_else(|| refused(DeviceRefused::Unknown(id)))?;
    Ok(Json(Device::now(&http.hub, record)))
}

/// `POST /devices`.
pub(super) async fn add(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(addition): JsonOf<Addition>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Enrolment>), Problem> {
    caller.may::<ManageDevices>(&http)?;
    let Addition { id, profile, children, authentication } = addition;
    let location = format!("/api/v1/devices/{id}");
    let new = NewDevice { id, profile, children };
    let hub = &http.hub;
    let answer = enrol(&http, &caller, authentication, async |enrolment, context: &Context| {
        let added = hub.add_device(&caller.authority, new, enrolment, context).await;
        added.map_err(|error| not_decided(error, |refusal| refusal.into_problem(refused)))
    });
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(answer.await?)))
}

/// `POST /devices/{id}/rotate`.
pub(super) async fn rotate(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(id): PathOf<DeviceId>,
    JsonOf(Rotation { authentication, overlap_s }): JsonOf<Rotation>,
) -> Answer<Enrolment> {
    caller.may::<ManageDevices>(&http)?;
    let hub = &http.hub;
    let answer = enrol(&http, &caller, authentication, async |enrolment, context: &Context| {
        let decision = |registry: &Registry| {
            let permit = caller.permit(registry)?;
            registry.rotate_device(&permit, &id, enrolment, overlap_s.map(Seconds), context).map_err(refused)
        };
        hub.decide(decision).await.map_err(Problem::from)
    });
    answer.await.map(Json)
}

/// `POST /devices/{id}/disable`.
pub(super) async fn disable(State(http): State<Arc<Http>>, caller: Caller, PathOf(id): PathOf<DeviceId>) -> Answer<Device> {
    change(&http, &caller, |registry, permit, context| registry.disable_device(permit, &id, context)).await
}

/// `POST /devices/{id}/enable`.
pub(super) async fn enable(State(http): State<Arc<Http>>, caller: Caller, PathOf(id): PathOf<DeviceId>) -> Answer<Device> {
    change(&http, &caller, |registry, permit, context| registry.enable_device(permit, &id, context)).await
}

/// `POST /devices/{id}/revoke`.
pub(super) async fn revoke(State(http): State<Arc<Http>>, caller: Caller, PathOf(id): PathOf<DeviceId>) -> Answer<Device> {
    change(&http, &caller, |registry, permit, context| registry.revoke_device(permit, &id, context)).await
}

async fn enrol(
    http: &Http,
    caller: &Caller,
    authentication: Authentication,
    let_in: impl AsyncFnOnce(NewEnrolment, &Context) -> Result<DeviceRecord, Problem>,
) -> Result<Enrolment, Problem> {
    let _turn = http.turn().await?;
    let context = caller.context(http);
    let (enrolment, shown) = match authentication {
        Authentication::Key => http.hub.new_enrolment(),
        Authentication::Secret => http.hub.new_client_secret(),
    };
    let device = Device::now(&http.hub, let_in(enrolment, &context).await?);
    Ok(match shown {
        ShownOnce::EnrolmentString(string) => {
            let expires_at = context.now.plus(ENROLMENT_CODE_LIFETIME);
            let enrolment = Some(EnrolmentString { string: string.expose().to_owned(), expires_at });
            Enrolment { device, enrolment, client_secret: None }
        }
        ShownOnce::ClientSecret(secret) => Enrolment { device, enrolment: None, client_secret: Some(secret.expose().to_owned()) },
    })
}

async fn change(
    http: &Http,
    caller: &Caller,
    decide: impl FnOnce(&Registry, &UserPermit<'_, ManageDevices>, &Context) -> Result<Change<DeviceRecord>, DeviceRefused>,
) -> Answer<Device> {
    caller.may::<ManageDevices>(http)?;
    let _turn = http.turn().await?;
    let context = caller.context(http);
    let decision = |registry: &Registry| decide(registry, &caller.permit(registry)?, &context).map_err(refused);
    // To let a paused device on again is as small and as rare as to cut one off.
    let record = http.hub.decide_to_end(decision).await?;
    Ok(Json(Device::now(&http.hub, record)))
}

impl Device {
    pub(super) fn now(hub: &Hub, record: DeviceRecord) -> Self {
        let secrets = hub.view(|registry| secrets_of(registry, &record));
        Self::of(hub, record, secrets)
    }

    fn of(hub: &Hub, record: DeviceRecord, secrets: usize) -> Self {
        let key = |key: hearthkey_core::registry::ClientKey| Key {
            thumbprint: key.thumbprint,
            added_at: key.added_at,
            first_used_at: key.first_used_at,
            retires_at: key.retires_at,
        };
        Self {
            connected: hub.is_connected(&Principal::Device(record.id.clone())),
            id: record.id,
            profile: record.profile,
            status: record.status,
            keys: record.keys.into_iter().map(key).collect(),
            secrets,
            children: record.children,
            created_at: record.created_at,
            enrolled_at: record.enrolled_at,
            software: record.software,
            command_seq: record.command_seq,
        }
    }
}

fn secrets_of(registry: &Registry, device: &DeviceRecord) -> usize {
    registry.client_secrets(&device.id).count()
}

/// What a refusal about devices is to the caller.
pub(super) fn refused(refused: DeviceRefused) -> Problem {
    match &refused {
        DeviceRefused::Unknown(_) => not_found(refused, "unknown_device"),
        DeviceRefused::Exists(_) => conflict(refused, "device_exists"),
        DeviceRefused::Leaving(_) => conflict(refused, "device_leaving"),
        DeviceRefused::UnknownProfile(_) => unprocessable(refused).coded("unknown_profile"),
        DeviceRefused::Revoked(_) => conflict(refused, "device_revoked"),
        DeviceRefused::OutOfReach(_) | DeviceRefused::ReachesOthers(_) => out_of_reach(refused),
        DeviceRefused::BeyondOwnRights { .. } => forbidden(refused, "insufficient_scope"),
        DeviceRefused::KeyInUse => conflict(refused, "key_in_use"),
        DeviceRefused::Overlap => unprocessable(refused).coded("overlap_s"),
        DeviceRefused::TooMany(_) => conflict(refused, "too_many"),
    }
}
