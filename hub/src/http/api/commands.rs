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
    streams::{Events, StreamEnd},
};
use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT, LOCATION},
    },
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    DeviceId, Seconds,
    profile::CommandName,
    registry::{CommandRecord, CommandRefused, ReadDevices, SendCommands},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

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

/// `POST /devices/{id}/commands/{name}`; no body is an empty one. With `Prefer: wait=N` (RFC 7240) the answer is 200 if the
/// command ends within N seconds.
pub(super) async fn send(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf((device, name)): PathOf<(DeviceId, CommandName)>,
    body: BodyOf,
) -> Result<Response, Problem> {
    caller.may::<SendCommands>(&http)?;
    if !body.bytes.is_empty() && !has_media_type(&body.headers, "application/json") {
        let detail = "the body must be JSON, with Content-Type: application/json, or empty";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let order: Order<'_> = match &*body.bytes {
        [] => Order::default(),
        bytes => json(bytes)?,
    };
    let ttl = order.ttl_s.map_or(DEFAULT_TTL, Seconds);
    let patience = preferred_wait(&body.headers);
    let lasting = patience.map(|_| http.streams.begin(&caller.authority.principal)).transpose()?;
    let turn = http.turn().await?;
    let context = caller.context(&http);
    let sent = http.hub.send_command(&caller.authority, &device, name, order.args.map(RawValue::get), ttl, &context).await;
    let mut command = sent.map_err(|error| not_decided(error, |refusal| refusal.into_problem(refused)))?;
    drop(turn);
    let location = [(LOCATION, format!("/api/v1/devices/{device}/commands/{}", command.id))];
    let Some(patience) = patience else { return Ok((StatusCode::ACCEPTED, location, Json(command)).into_response()) };
    let mut stop = http.stop.clone();
    tokio::select! {
        after = http.hub.command_after(&device, &command.id, patience) => {
            // What became of it is told to who may still know; it may have gone with its device.
            let may_know = caller.may_for::<SendCommands>(&http, &device).is_ok();
            command = after.filter(|_| may_know).unwrap_or(command);
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(lasting);
    let status = if command.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let applied = [(PREFERENCE_APPLIED, format!("wait={}", patience.as_secs()))];
    Ok((status, location, applied, Json(command)).into_response())
}

/// How long the caller would wait, if it would at all.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let wait = preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")?.parse().ok()).next();
    wait.map(|wait| Duration::from_secs(wait).min(MAX_WAIT))
}

/// `GET /devices/{id}/commands`: oldest first.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(device): PathOf<DeviceId>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Items<CommandRecord>>, Problem> {
    caller.may_for::<ReadDevices>(&http, &device)?;
    let page = query.page()?;
    let items = http.hub.view(|registry| {
        let commands = registry.device(&device).map(|_| registry.commands_of(&device).cloned());
        commands.map(|commands| page.of(commands, |command| format!("{:020}", command.seq)))
    });
    items.map(Json).ok_or_else(|| refused(CommandRefused::UnknownDevice(device)))
}

/// `GET /devices/{id}/commands/{command_id}`, at once or when it has ended, or as events, step by step, until it has.
pub(super) async fn show(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf((device, id)): PathOf<(DeviceId, String)>,
    QueryOf(Patience { wait_s }): QueryOf<Patience>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_for::<ReadDevices>(&http, &device)?;
    let unknown = || {
        let detail = format!("device {device} has no command {}; the last ones are listed", shown(&id));
        not_found(detail, "unknown_command")
    };
    if wants_events(&headers) {
        http.hub.view(|registry| registry.command(&device, &id).map(drop)).ok_or_else(unknown)?;
        return Events::<ReadDevices>::stream(&http, caller, |events| follow(events, device, id));
    }
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
        caller.may_for::<ReadDevices>(&http, &device)?;
        command
    };
    command.map(|command| Json(command).into_response()).ok_or_else(unknown)
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| HeaderValue::to_str(value).ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream"))
}

/// Tells each step of a command once, those before the question first.
async fn follow(mut events: Events<ReadDevices>, device: DeviceId, id: String) {
    let mut changes = events.http().hub.command_changes();
    let mut told = 0;
    let end = loop {
        changes.borrow_and_update();
        let Some(command) = events.http().hub.view(|registry| registry.command(&device, &id).cloned()) else {
            break StreamEnd::Broken("the command is not kept any more");
        };
        match tell(&mut events, &command, &mut told).await {
            Err(end) => break end,
            Ok(()) if command.state.is_final() => break StreamEnd::Complete,
            Ok(()) => {}
        }
        if let Err(end) = events.wait(changes.changed()).await {
            break end;
        }
    };
    events.end(&end);
}

async fn tell(events: &mut Events<ReadDevices>, command: &CommandRecord, told: &mut usize) -> Result<(), StreamEnd> {
    for step in command.steps_from(*told) {
        events.send("state", &step).await?;
        *told += 1;
    }
    Ok(())
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
