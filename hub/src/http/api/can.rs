//! Why somebody may or may not do something.

use super::{devices, not_found, unprocessable};
use crate::http::{
    Http,
    extract::{Caller, PathOf, QueryOf},
    problem::Problem,
};
use axum::{Json, extract::State};
use hearthkey_core::{
    DeviceId,
    profile::CommandName,
    registry::{Decision, DeviceRefused, ManageCredentials, Question, ReadDevices, Subject},
    scope::PermissionName,
    session::Principal,
    topic::{TopicFilter, TopicName},
};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceQuery {
    action: Action,
    topic: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectQuery {
    subject: String,
    action: Action,
    topic: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Publish,
    Subscribe,
    Command,
    Api,
}

/// `GET /devices/{id}/can`.
pub(super) async fn device(
    State(http): State<Arc<Http>>,
    caller: Caller,
    PathOf(id): PathOf<DeviceId>,
    QueryOf(DeviceQuery { action, topic }): QueryOf<DeviceQuery>,
) -> Result<Json<Decision>, Problem> {
    let subject = Subject::Device(id);
    let question = question(&subject, action, &topic)?;
    explained(&http, &caller, &subject, &question)
}

/// `GET /can`: `subject` is `device:lamp`, `user:ann`, or `credential:` and the public id of one.
pub(super) async fn subject(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(SubjectQuery { subject, action, topic }): QueryOf<SubjectQuery>,
) -> Result<Json<Decision>, Problem> {
    let subject = parsed(&subject)?;
    let question = question(&subject, action, &topic)?;
    explained(&http, &caller, &subject, &question)
}

/// One's own, a device that one sees, or anybody's for who manages credentials. A command for a device is told of to who sees it.
fn explained(http: &Http, caller: &Caller, subject: &Subject, question: &Question) -> Result<Json<Decision>, Problem> {
    if let Question::Send(device, _) = question {
        // The answer tells of the device too.
        caller.may_for::<ReadDevices>(http, device)?;
    }
    let whose = match subject {
        Subject::Device(id) => {
            caller.may_for::<ReadDevices>(http, id)?;
            let known = http.hub.view(|registry| registry.device(id).is_some());
            known.then_some(None).ok_or_else(|| devices::refused(DeviceRefused::Unknown(id.clone())))?
        }
        Subject::User(name) => Some(Principal::User(name.clone())),
        Subject::Credential(id) => http.hub.view(|registry| registry.credential(id).map(|record| record.subject.clone())),
    };
    if !matches!(subject, Subject::Device(_)) && whose.as_ref() != Some(&caller.authority.principal) {
        caller.may_for_all::<ManageCredentials>(http)?;
    }
    match subject {
        Subject::User(name) if http.hub.view(|registry| registry.user(name).is_none()) => {
            Err(not_found(format!("there is no user {name}; `hearthkey user list` shows all"), "unknown_user"))
        }
        Subject::Credential(id) if whose.is_none() => Err(not_found(
            format!("there is no credential {id}; `hearthkey pat list` and `key list` show all"),
            "unknown_credential",
        )),
        _ => Ok(Json(http.hub.view(|registry| registry.explain_for(subject, question, http.hub.now())))),
    }
}

fn parsed(text: &str) -> Result<Subject, Problem> {
    let name = |name: &str| DeviceId::parse(name).map_err(unprocessable);
    match text.split_once(':') {
        Some(("device", id)) => name(id).map(Subject::Device),
        Some(("user", id)) => name(id).map(Subject::User),
        // The public part of a credential; a whole one has no business in a URL.
        Some(("credential", id)) if id.len() <= 16 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            Ok(Subject::Credential(id.into()))
        }
        _ => {
            Err(Problem::unprocessable("the subject is device:NAME, user:NAME, or credential:ID with its public id")
                .coded("subject"))
        }
    }
}

fn question(subject: &Subject, action: Action, topic: &str) -> Result<Question, Problem> {
    Ok(match (action, subject) {
        (Action::Publish, _) => Question::Publish(TopicName::parse(topic).map_err(unprocessable)?),
        (Action::Subscribe, _) => Question::Subscribe(TopicFilter::parse(topic).map_err(unprocessable)?),
        (Action::Command, Subject::Device(_)) => Question::Command(CommandName::parse(topic).map_err(unprocessable)?),
        (Action::Command, Subject::User(_) | Subject::Credential(_)) => {
            let (device, command) =
                topic.split_once('/').ok_or_else(|| unprocessable("to whom, and which: DEVICE/COMMAND, such as lamp/on"))?;
            let device = DeviceId::parse(device).map_err(unprocessable)?;
            Question::Send(device, CommandName::parse(command).map_err(unprocessable)?)
        }
        (Action::Api, _) => Question::Api(PermissionName::parse(topic).map_err(unprocessable)?),
    })
}
