//! Commands: asked for by people, numbered, sent once, ended in exactly one way.

use super::{Change, Context, Draft, Registry, SendCommands, UserPermit};
use crate::{
    DeviceId, Seconds, UnixTime,
    audit::{AuditDraft, Outcome},
    limits::{
        COMMAND_EXECUTION_TIME, MAX_COMMAND_BYTES, MAX_COMMAND_TTL, MAX_ENDED_COMMANDS_PER_DEVICE,
        MAX_PENDING_COMMANDS_PER_DEVICE,
    },
    profile::CommandName,
    session::Principal,
    write::Table,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DeviceStatus, rows::command_key};

/// A command as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// `c-` and 16 hexadecimal digits.
    pub id: Box<str>,
    /// To whom.
    pub device: DeviceId,
    /// What.
    pub name: CommandName,
    /// Its arguments, if it has any: they are sent again to a device that was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<CommandArgs>,
    /// Its place in the order of the device's commands.
    pub seq: u64,
    /// Who asked.
    pub by: String,
    /// When.
    pub created_at: UnixTime,
    /// After this a device does not take it.
    pub expires_at: UnixTime,
    /// What became of it.
    pub state: CommandState,
    /// Why, where it failed or was rejected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How it came to that: each state with its time, at most one of each.
    #[serde(default)]
    pub history: Vec<CommandStep>,
    /// When the device got it, as far as its acknowledgement of the message tells: it is not sent again after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<UnixTime>,
}

/// One step of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandStep {
    /// What it became.
    pub state: CommandState,
    /// When.
    pub at: UnixTime,
}

/// The arguments of a command: JSON, to the byte as it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandArgs(Box<RawValue>);

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    /// On its way, or waiting for the device.
    Sent,
    /// The device has it.
    Accepted,
    /// The device is at it.
    Executing,
    /// Done.
    Succeeded,
    /// Tried, not done.
    Failed,
    /// Refused by the device.
    Rejected,
    /// Nobody took it in time.
    Expired,
}

/// A command that was accepted for sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    /// The record.
    pub record: CommandRecord,
    /// The body to publish (docs/protocol.md).
    pub payload: Vec<u8>,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefused {
    /// No such device.
    #[error("there is no device {0}; `hearthkey device list` shows all")]
    UnknownDevice(DeviceId),
    /// The asker's token is about other devices.
    #[error("your token is limited to other devices than {0}")]
    OutOfReach(DeviceId),
    /// The device cannot act.
    #[error("device {device} is {status}")]
    Unable {
        /// Which.
        device: DeviceId,
        /// pending, disabled, revoked.
        status: &'static str,
    },
    /// The device's profile has no such command.
    #[error("device {device} takes no command {name}; its profile {profile} has: {known}")]
    NotTaken {
        /// Which device.
        device: DeviceId,
        /// What was asked.
        name: CommandName,
        /// The profile.
        profile: String,
        /// The commands that it has.
        known: String,
    },
    /// The arguments are no JSON.
    #[error("the arguments are not JSON: {0}")]
    NotJson(String),
    /// The body would be too large.
    #[error("the command has {0} bytes; {MAX_COMMAND_BYTES} are allowed")]
    TooLarge(usize),
    /// The time to live is out of range.
    #[error("the time to live must be from 1 s to {max} s", max = MAX_COMMAND_TTL.0)]
    TimeToLive,
    /// Too many commands wait for the device.
    #[error("{MAX_PENDING_COMMANDS_PER_DEVICE} commands wait for device {0} already")]
    TooMany(DeviceId),
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    seq: u64,
    ttl_s: u64,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a CommandArgs>,
}

/// What a device answers on `dev/<id>/ack/<command_id>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Acknowledgement {
    /// accepted, executing, succeeded, failed, rejected.
    pub state: CommandState,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl PartialEq for CommandArgs {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for CommandArgs {}

impl CommandRecord {
    /// The body to publish at `now` (docs/protocol.md): what is left of its time to live is all that the device has.
    ///
    /// # Panics
    /// Never: a body is plain JSON.
    #[must_use]
    pub fn payload(&self, now: UnixTime) -> Vec<u8> {
        let ttl_s = self.expires_at.0.saturating_sub(now.0);
        let body = Body { id: &self.id, seq: self.seq, ttl_s, by: &self.by, args: self.args.as_ref() };
        serde_json::to_vec(&body).expect("a body is plain JSON")
    }
}

impl CommandState {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Sent | Self::Accepted | Self::Executing => false,
            Self::Succeeded | Self::Failed | Self::Rejected | Self::Expired => true,
        }
    }

    /// Whether a device may say this after `earlier`: forward only, one end.
    const fn may_follow(self, earlier: Self) -> bool {
        match (earlier, self) {
            (Self::Succeeded | Self::Failed | Self::Rejected | Self::Expired, _) | (_, Self::Sent | Self::Expired) => false,
            (Self::Sent, _) => true,
            (Self::Accepted, next) => !matches!(next, Self::Accepted),
            (Self::Executing, next) => next.is_final(),
        }
    }

    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Executing => "executing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

impl CommandRecord {
    fn step(&mut self, state: CommandState, reason: String, at: UnixTime) {
        self.state = state;
        self.reason = reason;
        self.history.push(CommandStep { state, at });
    }

    /// The command as it was at each step from the `told`th on: what a follower has not seen.
    pub fn steps_from(&self, told: usize) -> impl Iterator<Item = Self> + '_ {
        (told..self.history.len()).filter_map(|index| {
            let history = self.history.get(..=index)?.to_vec();
            let state = history.last()?.state;
            let reason = if state == self.state { self.reason.clone() } else { String::new() };
            Some(Self { state, reason, history, ..self.clone() })
        })
    }

    /// Whether no end is to be expected any more: it was not taken in its time to live, or taken and not ended long after.
    pub(super) fn is_overdue(&self, now: UnixTime) -> bool {
        match self.state {
            CommandState::Sent => self.expires_at <= now,
            CommandState::Accepted | CommandState::Executing => self.expires_at.plus(COMMAND_EXECUTION_TIME) <= now,
            CommandState::Succeeded | CommandState::Failed | CommandState::Rejected | CommandState::Expired => false,
        }
    }
}

impl Registry {
    /// A command by device and id.
    #[must_use]
    pub fn command(&self, device: &DeviceId, id: &str) -> Option<&CommandRecord> {
        self.commands_of(device).find(|command| *command.id == *id)
    }

    /// The commands of a device, oldest first.
    pub fn commands_of(&self, device: &DeviceId) -> impl Iterator<Item = &CommandRecord> {
        self.commands.range((device.clone(), 0)..=(device.clone(), u64::MAX)).map(|(_, command)| command)
    }

    /// The commands that a device has neither got nor answered and may still begin, in their order.
    pub fn commands_waiting(&self, device: &DeviceId, now: UnixTime) -> impl Iterator<Item = &CommandRecord> {
        self.commands_of(device).filter(move |command| {
            command.state == CommandState::Sent && command.delivered_at.is_none() && now < command.expires_at
        })
    }

    /// Notes that a device has a command. `None` if it waits for nothing of the kind.
    #[must_use]
    pub fn note_delivered_command(&self, device: &DeviceId, id: &str, context: &Context) -> Option<Change<()>> {
        let command = self.command(device, id).filter(|command| !command.state.is_final() && command.delivered_at.is_none())?;
        let record = CommandRecord { delivered_at: Some(context.now), ..command.clone() };
        let mut draft = self.draft(context);
        draft.put(Table::Command, command_key(device, record.seq), &record);
        Some(draft.finish(()))
    }

    /// Takes a command for sending: the record must be durable before the message leaves.
    ///
    /// # Errors
    /// [`CommandRefused`].
    #[expect(clippy::too_many_arguments, reason = "each is a different thing that the request says")]
    pub fn send_command(
        &self,
        permit: &UserPermit<'_, SendCommands>,
        id: &DeviceId,
        name: CommandName,
        args: Option<&str>,
        ttl: Seconds,
        randomness: [u8; 8],
        context: &Context,
    ) -> Result<Change<NewCommand>, CommandRefused> {
        if !permit.covers(id) {
            return Err(CommandRefused::OutOfReach(id.clone()));
        }
        let device = self.devices.get(id).ok_or_else(|| CommandRefused::UnknownDevice(id.clone()))?;
        let unable = |status| CommandRefused::Unable { device: id.clone(), status };
        match device.status {
            DeviceStatus::Active => {}
            DeviceStatus::Pending => return Err(unable("waiting for its enrolment")),
            DeviceStatus::Disabled => return Err(unable("disabled; `hearthkey device enable` ends that")),
            DeviceStatus::Revoked => return Err(unable("revoked")),
        }
        let profile = self.profiles.get(&device.profile).ok_or_else(|| unable("without a profile"))?;
        if profile.permission_for_command(&name).is_none() {
            let known: Vec<String> = profile.commands().cloned().map(String::from).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(CommandRefused::NotTaken { device: id.clone(), name, profile: profile.name.to_string(), known });
        }
        if !(1..=MAX_COMMAND_TTL.0).contains(&ttl.0) {
            return Err(CommandRefused::TimeToLive);
        }
        let args = args.map(|text| serde_json::from_str::<CommandArgs>(text.trim())).transpose();
        let args = args.map_err(|error| CommandRefused::NotJson(error.to_string()))?;
        if self.commands_of(id).filter(|command| !command.state.is_final()).count() >= MAX_PENDING_COMMANDS_PER_DEVICE {
            return Err(CommandRefused::TooMany(id.clone()));
        }
        let by = match permit.actor() {
            Principal::User(name) => name.to_string(),
            other => other.to_string(),
        };
        let record = CommandRecord {
            id: format!("c-{}", crate::hex::encode(&randomness)).into(),
            device: id.clone(),
            name,
            args,
            seq: device.command_seq + 1,
            by,
            created_at: context.now,
            expires_at: context.now.plus(ttl),
            state: CommandState::Sent,
            reason: String::new(),
            history: vec![CommandStep { state: CommandState::Sent, at: context.now }],
            delivered_at: None,
        };
        let payload = record.payload(context.now);
        if payload.len() > MAX_COMMAND_BYTES {
            return Err(CommandRefused::TooLarge(payload.len()));
        }
        let mut draft = self.draft(context);
        let mut device = device.clone();
        device.command_seq = record.seq;
        draft.put(Table::Device, id.as_str(), &device);
        draft.put(Table::Command, command_key(id, record.seq), &record);
        let ended: Vec<u64> =
            self.commands_of(id).filter(|command| command.state.is_final()).map(|command| command.seq).collect();
        for seq in ended.iter().take((ended.len() + 1).saturating_sub(MAX_ENDED_COMMANDS_PER_DEVICE)) {
            draft.delete(Table::Command, command_key(id, *seq));
        }
        draft.audit(permit.actor(), "command.send", format!("device {id} command {} {}", record.name, record.id));
        Ok(draft.finish(NewCommand { record, payload }))
    }

    /// Takes an answer to a command from `speaker`, the device or who acts for it. `None` from others, and if it says nothing that may
    /// follow: an unknown id, a second end.
    #[must_use]
    pub fn acknowledge_command(
        &self,
        speaker: &DeviceId,
        device: &DeviceId,
        id: &str,
        answer: Acknowledgement,
        context: &Context,
    ) -> Option<Change<CommandRecord>> {
        let known = self.command(device, id).filter(|_| self.acts_for(speaker, device));
        let mut record = known.filter(|command| answer.state.may_follow(command.state))?.clone();
        record.step(answer.state, answer.reason.chars().take(256).collect(), context.now);
        let mut draft = self.draft(context);
        draft.put(Table::Command, command_key(device, record.seq), &record);
        if record.state.is_final() {
            draft.audit_entry(AuditDraft {
                actor: Principal::Device(speaker.clone()).to_string(),
                action: "command.end",
                target: format!("device {device} command {} {}", record.name, record.id),
                outcome: if record.state == CommandState::Succeeded { Outcome::Success } else { Outcome::Failure },
                reason: if record.reason.is_empty() {
                    record.state.as_str().to_owned()
                } else {
                    format!("{}: {}", record.state.as_str(), record.reason)
                },
                count: 1,
            });
        }
        Some(draft.finish(record))
    }
}

impl Draft<'_> {
    /// The hub ends a command that the device will not end.
    pub(super) fn end_command(&mut self, command: &CommandRecord, state: CommandState, reason: &str) {
        let mut command = command.clone();
        command.step(state, reason.to_owned(), self.context.now);
        self.put(Table::Command, command_key(&command.device, command.seq), &command);
        self.audit_entry(AuditDraft {
            actor: "hub".to_owned(),
            action: "command.end",
            target: format!("device {} command {} {}", command.device, command.name, command.id),
            outcome: Outcome::Failure,
            reason: format!("{}: {reason}", state.as_str()),
            count: 1,
        });
    }
}
