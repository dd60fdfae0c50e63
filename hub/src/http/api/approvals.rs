//! Those who wait for a person's word: devices that join, people who log in from another machine.

use super::{
    conflict, credentials, devices, not_decided, not_found,
    paging::{Items, PageQuery},
};
use crate::{
    approvals::{ApprovalRefused, LOGIN_CLIENT, MAX_JOIN_WINDOW, Wanted},
    http::{
        Http,
        extract::{Caller, JsonOf, PathOf, QueryOf},
        problem::Problem,
    },
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    audit::{AuditDraft, Outcome},
    device_authorization::UserCode,
    profile::ProfileName,
    registry::{ManageDevices, ManageOwnCredentials, Registry},
    scope::Scope,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Instant};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    for_s: u64,
}

#[derive(Serialize)]
pub(super) struct Opened {
    open_until: UnixTime,
}

#[derive(Serialize)]
pub(super) struct Approval {
    user_code: String,
    wanted: Shown,
    expires_at: UnixTime,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    Join { software: String, thumbprint: Box<str>, source: String },
    Login { client: &'static str, source: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    #[serde(default)]
    name: Option<DeviceId>,
    #[serde(default)]
    profile: Option<ProfileName>,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(default)]
    expires_in_s: Option<u64>,
}

#[derive(Serialize)]
struct LetIn {
    user_code: String,
    approved: bool,
}

/// `POST /join`.
pub(super) async fn open(
    State(http): State<Arc<Http>>,
    caller: Caller,
    JsonOf(Window { for_s }): JsonOf<Window>,
) -> Result<Json<Opened>, Problem> {
    caller.may_for_all::<ManageDevices>(&http)?;
    if for_s > MAX_JOIN_WINDOW.0 {
        let detail = format!("devices may join for at most {} s at a time; 0 closes the window", MAX_JOIN_WINDOW.0);
        return Err(Problem::unprocessable(detail).coded("for_s"));
    }
    let context = caller.context(&http);
    let open_until = context.now.plus(Seconds(for_s));
    let entry = entry(&caller, "join.open", format!("join window until {}", open_until.0));
    let open = |registry: &Registry| {
        caller.permit_for_all::<ManageDevices>(registry)?;
        Ok::<_, Problem>(registry.record(vec![(entry, context.source)], context.now))
    };
    http.hub.decide(open).await?;
    // Only now that the log has it; and whoever lost the right while the disk took its time opens nothing.
    http.hub.view(|registry| {
        let permit = caller.permit_for_all(registry)?;
        http.hub.approvals().open_join_window(&permit, open_until);
        Ok::<_, Problem>(())
    })?;
    Ok(Json(Opened { open_until }))
}

/// `GET /approvals`: devices for who manages them, logins for everyone.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Items<Approval>>, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let page = query.page()?;
    let sees_devices = caller.may_for_all::<ManageDevices>(&http).is_ok();
    let mut waiting = http.hub.approvals().waiting();
    waiting.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let seen = waiting.into_iter().filter(|(_, wanted, _)| sees_devices || matches!(wanted, Wanted::Login { .. }));
    let shown = seen.map(|(code, wanted, expires_at)| {
        let wanted = match wanted {
            Wanted::Join { public_key, software, source, .. } => {
                Shown::Join { software, thumbprint: public_key.thumbprint(), source }
            }
            Wanted::Login { source } => Shown::Login { client: LOGIN_CLIENT, source },
        };
        Approval { user_code: code.to_string(), wanted, expires_at }
    });
    Ok(Json(page.of(shown, |approval| approval.user_code.clone())))
}

/// `POST /approvals/{user_code}`: with a name and a profile for a device, without for a login.
pub(super) async fn approve(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(code): PathOf<String>,
    JsonOf(Word { name, profile, scope, expires_in_s }): JsonOf<Word>,
) -> Result<Response, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let code = guarded(&http, &caller, &code)?;
    let context = caller.context(&http);
    let refused = |error| not_decided(error, |why| refused(&http, &caller, why));
    match (name, profile) {
        (Some(name), Some(profile)) => {
            caller.may_for_all::<ManageDevices>(&http)?;
            if scope.is_some() || expires_in_s.is_some() {
                let detail = "a device gets a name and a profile; scope and expires_in_s are for logins";
                return Err(Problem::unprocessable(detail).coded("other_kind"));
            }
            let _turn = http.turn().await?;
            let device = http.hub.approve_join(&caller.authority, &code, name, profile, &context).await.map_err(refused)?;
            Ok(Json(devices::Device::now(&http.hub, device)).into_response())
        }
        (None, None) => {
            let _turn = http.turn().await?;
            let approved = http.hub.approve_login(&caller.authority, &code, scope, expires_in_s.map(Seconds), &context);
            approved.await.map_err(refused)?;
            Ok(Json(LetIn { user_code: code.to_string(), approved: true }).into_response())
        }
        _ => Err(Problem::unprocessable("a device gets both a name and a profile, a login neither").coded("other_kind")),
    }
}

/// `DELETE /approvals/{user_code}`.
pub(super) async fn deny(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(code): PathOf<String>,
) -> Result<StatusCode, Problem> {
    caller.may::<ManageOwnCredentials>(&http)?;
    let code = guarded(&http, &caller, &code)?;
    if matches!(http.hub.approvals().wanted(&code), Some(Wanted::Join { .. })) {
        caller.may_for_all::<ManageDevices>(&http)?;
    }
    if !http.hub.approvals().deny(&code) {
        return Err(refused(&http, &caller, ApprovalRefused::Unknown));
    }
    let entry = entry(&caller, "approval.deny", format!("code {code}"));
    http.hub.record(vec![(entry, caller.context(&http).source)]).await;
    Ok(StatusCode::NO_CONTENT)
}

/// RFC 8628 section 5.1: guesses at codes are counted.
fn guarded(http: &Http, caller: &Caller, code: &str) -> Result<UserCode, Problem> {
    let who = || Some(caller.authority.principal.to_string());
    http.approval_failures.admit(caller.peer.source, who, Instant::now()).map_err(Problem::from)?;
    UserCode::parse(code).ok_or_else(|| refused(http, caller, ApprovalRefused::Unknown))
}

fn refused(http: &Http, caller: &Caller, refused: ApprovalRefused) -> Problem {
    match refused {
        ApprovalRefused::Unknown => {
            let who = caller.authority.principal.to_string();
            http.approval_failures.failed(caller.peer.source, Some(&who), Instant::now());
            not_found(ApprovalRefused::Unknown, "unknown_code")
        }
        ApprovalRefused::OtherKind(why) => conflict(why, "other_kind"),
        ApprovalRefused::NotPermitted(why) => why.into(),
        ApprovalRefused::Device(why) => devices::refused(why),
        ApprovalRefused::Credential(why) => credentials::refused(why),
    }
}

fn entry(caller: &Caller, action: &'static str, target: String) -> AuditDraft {
    let actor = caller.authority.principal.to_string();
    AuditDraft { actor, action, target, outcome: Outcome::Success, reason: String::new(), count: 1 }
}
