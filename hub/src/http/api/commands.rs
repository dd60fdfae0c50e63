//! Commands: send one, see what became of it, wait for its end.

use super::{
    conflict, not_decided, not_found,
    paging::{Items, PageQuery},
};
use crate::http::{
    Http,
    extract::{BodyOf, Caller, PathOf, QueryOf, json, out_of_reach},
    limits::MAX_WAIT,
    problem::Problem,
    request::{has_media_type, shown},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header::LOCATION},
};
use hearthkey_core::{
    DeviceId, Seconds,
    profile::CommandName,
    registry::{CommandRecord, CommandRefused, ReadDevices, SendCommands},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};

/// Time to live of a command whose sender does not say.
const DEFAULT_TTL: Seconds = Seconds(30);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order<'a> {
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(default)]
    ttl_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    #[serde(default)]
    wait_s: u64,
}

/// `POST /devices/{id}/commands/{name}`; no body is an empty one.
pub(super) async fn send(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf((device, name)): PathOf<(DeviceId, CommandName)>,
    body: BodyOf,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<CommandRecord>), Problem> {
    let permit = caller.permit::<SendCommands>(&http)?;
    if !body.bytes.is_empty() && !has_media_type(&body.headers, "application/json") {
        let detail = "the body must be JSON, with Content-Type: application/json, or empty";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let order: Order<'_> = match &*body.bytes {
        [] => Order::default(),
        bytes => json(bytes)?,
    };
    let ttl = order.ttl_s.map_or(DEFAULT_TTL, Seconds);
    let _turn = http.turn().await?;
    let context = caller.context(&http);
    let sent = http.hub.send_command(&permit, &device, name, order.args.map(RawValue::get), ttl, &context).await;
    let command = sent.map_err(|error| not_decided(error, refused))?;
    let location = format!("/api/v1/devices/{device}/commands/{}", command.id);
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(command)))
}

/// `GET /devices/{id}/commands`: oldest first.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(device): PathOf<DeviceId>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Items<CommandRecord>>, Problem> {
    caller.permit_for::<ReadDevices>(&http, &device)?;
    let page = query.page()?;
    let items = http.hub.view(|registry| {
        let commands = registry.device(&device).map(|_| registry.commands_of(&device).cloned());
        commands.map(|commands| page.of(commands, |command| format!("{:020}", command.seq)))
    });
    items.map(Json).ok_or_else(|| refused(CommandRefused::UnknownDevice(device)))
}

/// `GET /devices/{id}/commands/{command_id}`, at once or when it has ended.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf((device, id)): PathOf<(DeviceId, String)>,
    QueryOf(Patience { wait_s }): QueryOf<Patience>,
) -> Result<Json<CommandRecord>, Problem> {
    caller.permit_for::<ReadDevices>(&http, &device)?;
    let command = if wait_s == 0 {
        http.hub.view(|registry| registry.command(&device, &id).cloned())
    } else {
        let _lasting = http.streams.begin(&caller.authority.principal)?;
        let mut stop = http.stop.clone();
        let patience = Duration::from_secs(wait_s).min(MAX_WAIT);
        let command = tokio::select! {
            command = http.hub.command_after(&device, &id, patience) => command,
            _ = stop.wait_for(|stop| *stop) => return Err(Problem::unavailable("the hub stops; ask again shortly")),
        };
        caller.permit_still::<ReadDevices>(&http, &device)?;
        command
    };
    let unknown = || {
        let detail = format!("device {device} has no command {}; the last ones are listed", shown(&id));
        not_found(detail, "unknown_command")
    };
    command.map(Json).ok_or_else(unknown)
}

fn refused(refused: CommandRefused) -> Problem {
    match &refused {
        CommandRefused::UnknownDevice(_) => not_found(refused, "unknown_device"),
        CommandRefused::Unable { .. } => conflict(refused, "device_unable"),
        CommandRefused::NotTaken { .. } => Problem::unprocessable(refused.to_string()).coded("unknown_command"),
        CommandRefused::NotJson(_) => Problem::bad_request(refused.to_string()),
        CommandRefused::TooLarge(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, refused.to_string()),
        CommandRefused::TimeToLive => Problem::unprocessable(refused.to_string()).coded("ttl_s"),
        CommandRefused::OutOfReach(_) => out_of_reach(refused),
        CommandRefused::TooMany(_) => conflict(refused, "too_many_commands"),
    }
}
