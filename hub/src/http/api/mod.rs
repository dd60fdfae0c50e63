//! `/api/v1`: what owners and their programs ask of the hub. Each answer is a view of the registry, each change a decision of it.

mod approvals;
mod audit;
mod can;
mod commands;
mod credentials;
mod devices;
mod login;
mod paging;
mod profiles;
mod twin;
mod users;
mod watch;

pub(super) use login::LoginsUnderWay;

use super::{
    Http,
    extract::{Caller, QueryOf},
    idempotency, openapi,
    problem::Problem,
};
use crate::{
    hub::{NotDecided, Refusal},
    store::StoreError,
};
use axum::{Json, Router, extract::State, http::StatusCode, middleware, routing};
use hearthkey_core::{
    registry::{ManageCredentials, ReadDevices, Registry},
    session::Principal,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// No parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

pub(super) fn router(http: Arc<Http>) -> Router<Arc<Http>> {
    use routing::{get, post, put};
    Router::new()
        .route("/status", get(status))
        .route("/devices", get(devices::list).post(devices::add))
        .route("/devices/{id}", get(devices::show))
        .route("/devices/{id}/disable", post(devices::disable))
        .route("/devices/{id}/enable", post(devices::enable))
        .route("/devices/{id}/revoke", post(devices::revoke))
        .route("/devices/{id}/rotate", post(devices::rotate))
        .route("/devices/{id}/can", get(can::device))
        .route("/devices/{id}/commands", get(commands::list))
        .route("/devices/{id}/twin", get(twin::show).put(twin::replace).patch(twin::merge))
        // One path: the name of a command to send it, the id of one to see it.
        .route("/devices/{id}/commands/{command}", get(commands::show).post(commands::send))
        .route("/can", get(can::subject))
        .route("/profiles", get(profiles::list))
        .route("/profiles/{name}", get(profiles::show).put(profiles::apply))
        .route("/watch", get(watch::watch))
        .route("/audit", get(audit::list))
        .route("/audit/tail", get(audit::tail))
        .route("/audit/verify", get(audit::verify))
        .route("/audit/export", get(audit::export))
        .route("/me", get(users::me))
        .route("/me/password", put(users::set_own_password))
        .route("/users", get(users::list).post(users::add))
        .route("/users/{name}", get(users::show).patch(users::edit).delete(users::remove))
        .route("/credentials", get(credentials::list))
        .route("/credentials/personal-access-tokens", post(credentials::create_token))
        .route("/credentials/api-keys", post(credentials::create_key))
        .route("/credentials/{id}", get(credentials::show).delete(credentials::revoke))
        .route("/credentials/{id}/rotate", post(credentials::rotate))
        .route("/credentials/{id}/roll", post(credentials::roll))
        .route("/signing-keys/rotate", post(rotate_signing_key))
        .route("/backups", post(back_up))
        .route("/join", post(approvals::open))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{user_code}", post(approvals::approve).delete(approvals::deny))
        // What needs no credential stays behind this line.
        .layer(middleware::from_fn_with_state(http, idempotency::once))
        .route("/login", post(login::log_in))
        .route("/openapi.json", get(openapi::serve))
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    issuer: String,
    uptime_s: u64,
    devices: usize,
    connections: usize,
    listeners: super::Listeners,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<String>,
}

async fn status(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Empty {}): QueryOf<Empty>,
) -> Result<Json<Status>, Problem> {
    let hub = &http.hub;
    let ids: Vec<_> = hub.view(|registry| {
        let permit = caller.permit::<ReadDevices>(registry)?;
        let seen = registry.devices().map(|device| &device.id).filter(|device| permit.covers(device));
        Ok::<_, Problem>(seen.cloned().collect())
    })?;
    let devices = ids.len();
    let connections = ids.into_iter().filter(|id| hub.is_connected(&Principal::Device(id.clone()))).count();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        issuer: hub.issuer().to_owned(),
        uptime_s: http.started.elapsed().as_secs(),
        devices,
        connections,
        listeners: http.surroundings.listeners.clone(),
        data_dir: http.surroundings.data_dir.as_ref().map(|dir| dir.display().to_string()),
    }))
}

/// `POST /signing-keys/rotate`.
async fn rotate_signing_key(State(http): State<Arc<Http>>, caller: Caller) -> Result<StatusCode, Problem> {
    caller.may_for_all::<ManageCredentials>(&http)?;
    let _turn = http.turn().await?;
    let actor = |registry: &Registry| {
        let permit = caller.permit_for_all::<ManageCredentials>(registry)?;
        Ok(permit.actor().to_string())
    };
    http.hub.rotate_signing_key(actor, &caller.context(&http)).await.map_err(|error| match error {
        NotDecided::Refused(problem) => problem,
        NotDecided::Unavailable(why) => {
            tracing::error!(why, "the signing key could not be rotated");
            Problem::unavailable("the signing key could not be written; the one before stays in use; look at the hub's log")
        }
    })?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct BackupWritten {
    file: String,
}

/// `POST /backups`: where the backup lies on the hub's machine. What is in it leaves that machine by nobody's request.
async fn back_up(State(http): State<Arc<Http>>, caller: Caller) -> Result<(StatusCode, Json<BackupWritten>), Problem> {
    caller.may_for_all::<ManageCredentials>(&http)?;
    let _turn = http.turn().await?;
    let actor = |registry: &Registry| {
        let permit = caller.permit_for_all::<ManageCredentials>(registry)?;
        Ok(permit.actor().to_string())
    };
    let written = http.hub.back_up(actor, &caller.context(&http)).await?;
    let file = written.map_err(|error| match error {
        StoreError::BackupUnderWay => Problem::unavailable(error.to_string()),
        StoreError::NoRoomForBackup { .. } => Problem::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string()).coded("no_room"),
        error => {
            tracing::error!(%error, "the backup that was asked for could not be written");
            Problem::unavailable("the hub could not write a backup; look at the hub's log")
        }
    })?;
    Ok((StatusCode::CREATED, Json(BackupWritten { file: file.display().to_string() })))
}

/// What a refused or postponed decision is to the caller.
fn not_decided<E>(error: NotDecided<E>, refused: impl FnOnce(E) -> Problem) -> Problem {
    match error {
        NotDecided::Refused(error) => refused(error),
        NotDecided::Unavailable(why) => {
            tracing::error!(why, "the store does not take changes");
            Problem::unavailable("the hub cannot write to its store now; try again shortly, or look at the hub's log")
        }
    }
}

impl From<NotDecided<Self>> for Problem {
    fn from(error: NotDecided<Self>) -> Self {
        not_decided(error, |problem| problem)
    }
}

impl<E> Refusal<E> {
    /// What it is to the caller.
    fn into_problem(self, policy: impl FnOnce(E) -> Problem) -> Problem {
        match self {
            Self::NotPermitted(why) => why.into(),
            Self::Policy(why) => policy(why),
        }
    }
}

fn conflict(detail: impl ToString, code: &'static str) -> Problem {
    Problem::new(StatusCode::CONFLICT, detail.to_string()).coded(code)
}

fn forbidden(detail: impl ToString, code: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail.to_string()).coded(code)
}

fn unprocessable(error: impl ToString) -> Problem {
    Problem::unprocessable(error.to_string())
}

fn not_found(detail: impl ToString, code: &'static str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail.to_string()).coded(code)
}
