//! Decisions explained, with the rule that made them: `hearthkey can`. Asks what [`super::judge`] decides, and decides nothing.

use super::judge::rights_of_user;
use super::{DeviceStatus, Permission, Registry, Role, SendCommands};
use crate::{
    DeviceId, UnixTime,
    profile::CommandName,
    rights::{Rights, Rule, is_reserved_for_hub},
    scope::PermissionName,
    session::{Authority, CredentialId, Proof, UserName},
    topic::{TopicFilter, TopicName},
};
use serde::Serialize;

/// A decision explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

/// Of whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A device, with all that its profile grants.
    Device(DeviceId),
    /// A person, with all that the role grants.
    User(UserName),
    /// A personal access token or an API key, by its public id.
    Credential(CredentialId),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Publish to a topic?
    Publish(TopicName),
    /// Subscribe to a filter?
    Subscribe(TopicFilter),
    /// For a device: take the command?
    Command(CommandName),
    /// For others: send it to a device?
    Send(DeviceId, CommandName),
    /// For others: use what a permission of the API names?
    Api(PermissionName),
}

/// What is allowed, and by which rule.
type Ruled = Result<Rule, String>;

impl Decision {
    fn of(who: &str, what: &str, ruled: Ruled) -> Self {
        match ruled {
            Ok(rule) => Self {
                allowed: true,
                reason: format!("{who} may {what}: {}, permission {}, rule {}", rule.source, rule.permission, rule.template),
                rule: Some(rule),
            },
            Err(reason) => Self { allowed: false, reason, rule: None },
        }
    }
}

impl Registry {
    /// Explains whether a device may publish to a topic or subscribe to a filter, or takes a command.
    #[must_use]
    pub fn explain(&self, id: &DeviceId, question: &Question) -> Decision {
        let who = format!("device {id}");
        Decision::of(&who, &what(question), self.ruled_for_device(id, question))
    }

    /// Explains what anybody may do at `now`.
    #[must_use]
    pub fn explain_for(&self, subject: &Subject, question: &Question, now: UnixTime) -> Decision {
        match subject {
            Subject::Device(id) => self.explain(id, question),
            Subject::User(name) => {
                let ruled = self.ruled_for_user(name, question);
                Decision::of(&format!("user {name}"), &what(question), ruled)
            }
            Subject::Credential(id) => {
                let who = match self.credentials.get(id) {
                    Some(record) => format!("credential {id} of {}", record.subject),
                    None => format!("credential {id}"),
                };
                Decision::of(&who, &what(question), self.ruled_for_credential(&who, id, question, now))
            }
        }
    }

    fn ruled_for_device(&self, id: &DeviceId, question: &Question) -> Ruled {
        let device = self.devices.get(id).ok_or_else(|| format!("there is no device {id}"))?;
        match device.status {
            DeviceStatus::Active => {}
            DeviceStatus::Pending => return Err(format!("device {id} has not enrolled yet")),
            DeviceStatus::Disabled => return Err(format!("device {id} is disabled: it can do nothing")),
            DeviceStatus::Revoked => return Err(format!("device {id} is revoked: it can do nothing")),
        }
        let profile =
            self.profiles.get(&device.profile).ok_or_else(|| format!("the profile {} of device {id} is gone", device.profile))?;
        let source = || format!("profile {}", profile.name);
        let none = || format!("no permission of profile {} lets device {id} {}", profile.name, what(question));
        let rights = self.rights_of_device(device, &profile.scope()).map_err(|_| none())?;
        match question {
            Question::Publish(topic) => published(&rights, topic, none),
            Question::Subscribe(filter) => rights.subscribe_rule(filter).ok_or_else(none),
            Question::Command(command) => {
                let permission = profile.permission_for_command(command).ok_or_else(none)?;
                Ok(Rule { source: source(), permission: permission.clone(), template: command.to_string() })
            }
            Question::Send(..) => Err(none()),
            Question::Api(permission) => {
                let granting = profile.permissions.iter().find(|(_, grant)| grant.api.contains(permission));
                let (name, _) = granting.ok_or_else(none)?;
                Ok(Rule { source: source(), permission: name.clone(), template: permission.to_string() })
            }
        }
    }

    fn ruled_for_user(&self, name: &UserName, question: &Question) -> Ruled {
        let user = self.users.get(name).ok_or_else(|| format!("there is no user {name}"))?;
        let scope = user.role.scope();
        let source = format!("role {}", word(user.role));
        let who = format!("user {name}, {}", word(user.role));
        let rights = rights_of_user(&source, user.role, &scope, None);
        self.ruled_by(&who, &source, &rights, &|permission| scope.contains(permission), &|_| true, question)
    }

    fn ruled_for_credential(&self, who: &str, id: &CredentialId, question: &Question, now: UnixTime) -> Ruled {
        let record =
            self.credentials.get(id).ok_or_else(|| format!("there is no {who}; `hearthkey pat list` and `key list` show all"))?;
        let authority = Authority { principal: record.subject.clone(), proof: Proof::Credential(id.clone()) };
        let standing = self.judge(&authority, now).map_err(|end| format!("{who} is {}: it can do nothing", end.word()))?;
        let (allowed, limited_to) = self.api_rights(&authority).unwrap_or_default();
        let covers = |device: &DeviceId| limited_to.as_ref().is_none_or(|devices| devices.contains(device));
        let source = match &record.profile {
            Some(profile) => format!("profile {profile}"),
            None => format!("scope of {}", record.name),
        };
        self.ruled_by(who, &source, &standing.rights, &|permission| allowed.contains(permission), &covers, question)
    }

    /// By rights over topics, and permissions of the API.
    fn ruled_by(
        &self,
        who: &str,
        source: &str,
        rights: &Rights,
        holds: &dyn Fn(&str) -> bool,
        covers: &dyn Fn(&DeviceId) -> bool,
        question: &Question,
    ) -> Ruled {
        let none = || format!("no permission lets {who} {}", what(question));
        let by = |permission: &str| {
            let permission = PermissionName::parse(permission).map_err(|_| none())?;
            Ok(Rule { source: source.to_owned(), template: permission.to_string(), permission })
        };
        match question {
            Question::Publish(topic) => published(rights, topic, none),
            Question::Subscribe(filter) => rights.subscribe_rule(filter).ok_or_else(none),
            Question::Api(permission) if holds(permission.as_str()) => by(permission.as_str()),
            Question::Api(_) => Err(none()),
            Question::Send(device, _) if !covers(device) => Err(format!("{who} is limited to other devices than {device}")),
            Question::Send(device, command) if holds(SendCommands::NAME) => {
                // The device must take it as well.
                self.ruled_for_device(device, &Question::Command(command.clone()))?;
                by(SendCommands::NAME)
            }
            Question::Send(..) => Err(format!("{}: {} is missing", none(), SendCommands::NAME)),
            Question::Command(command) => Err(format!("{who} takes no commands; ask for `DEVICE/{command}` to send one")),
        }
    }
}

fn published(rights: &Rights, topic: &TopicName, none: impl FnOnce() -> String) -> Ruled {
    if is_reserved_for_hub(topic) {
        return Err(format!("only the hub publishes to {topic}"));
    }
    rights.publish_rule(topic).ok_or_else(none)
}

fn what(question: &Question) -> String {
    match question {
        Question::Publish(topic) => format!("publish to {topic}"),
        Question::Subscribe(filter) => format!("subscribe to {filter}"),
        Question::Command(command) => format!("take the command {command}"),
        Question::Send(device, command) => format!("send the command {command} to device {device}"),
        Question::Api(permission) => format!("use the API with {permission}"),
    }
}

const fn word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Member => "member",
        Role::Owner => "owner",
    }
}
