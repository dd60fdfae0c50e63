//! What must be true of a virtual world, by its own books: they are kept from what owner and devices did, and know nothing of
//! how the hub decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use hearthkey_core::{DeviceId, UnixTime};

use super::device::VirtualDevice;
use super::hub::Hub;

/// Commands of one device whose end is remembered; the hub remembers fewer.
const REMEMBERED_COMMANDS: usize = 64;
/// Most rows that a hub needs for one device: itself, its commands, codes, and assertions that are still good.
const ROWS_PER_DEVICE: usize = 64;
/// And without any.
const ROWS: usize = 256;
/// Most events of one device that wait at a time.
const EVENTS_PER_DEVICE: usize = 64;
/// Most connections of one device, dead ones that the hub has not noticed included.
const CONNECTIONS_PER_DEVICE: usize = 8;

pub(super) struct Truth {
    devices: Vec<Account>,
    index_by_id: BTreeMap<DeviceId, usize>,
    requests: BTreeSet<u64>,
    /// How long a device may be without a session that it should have.
    patience_ms: u64,
    pub(super) longest_absence_ms: u64,
}

#[derive(Default)]
struct Account {
    status: Status,
    absent_since: Option<u64>,
    /// Commands that were sent.
    commands: VecDeque<CommandAccount>,
}

struct CommandAccount {
    id: String,
    is_executed: bool,
    /// The hub knows its end.
    is_ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Active,
    Disabled,
    Revoked,
}

impl Truth {
    pub(super) fn new(devices: usize, patience: Duration) -> Self {
        let id = |index| DeviceId::parse(&format!("virtual-{}", index + 1)).expect("legal");
        Self {
            devices: (0..devices).map(|_| Account::default()).collect(),
            index_by_id: (0..devices).map(|index| (id(index), index)).collect(),
            requests: BTreeSet::new(),
            patience_ms: patience.as_millis() as u64,
            longest_absence_ms: 0,
        }
    }

    pub(super) fn is_active(&self, index: usize) -> bool {
        self.devices[index].status == Status::Active
    }

    pub(super) fn is_revoked(&self, index: usize) -> bool {
        self.devices[index].status == Status::Revoked
    }

    /// A device that is disabled keeps its key until it is back.
    pub(super) fn may_rotate(&self, index: usize) -> bool {
        self.is_active(index)
    }

    pub(super) fn disabled(&mut self, index: usize) {
        self.devices[index].status = Status::Disabled;
        self.devices[index].absent_since = None;
    }

    pub(super) fn enabled(&mut self, index: usize, now_ms: u64) {
        self.devices[index].status = Status::Active;
        self.devices[index].absent_since = Some(now_ms);
    }

    pub(super) fn revoked(&mut self, index: usize) {
        self.devices[index].status = Status::Revoked;
        self.devices[index].absent_since = None;
    }

    pub(super) fn commanded(&mut self, index: usize, command: String) {
        let commands = &mut self.devices[index].commands;
        if commands.len() == REMEMBERED_COMMANDS {
            commands.pop_front();
        }
        commands.push_back(CommandAccount { id: command, is_executed: false, is_ended: false });
    }

    /// No command is carried out that nobody sent, or twice, or after its end was told.
    pub(super) fn executed(&mut self, index: usize, command: &str) -> Result<(), String> {
        match self.devices[index].commands.iter_mut().find(|account| account.id == command) {
            Some(CommandAccount { is_executed: is_executed @ false, is_ended: false, .. }) => *is_executed = true,
            Some(CommandAccount { is_ended: false, .. }) => {
                return Err(format!("device {} carried out {command} twice", index + 1));
            }
            Some(_) => return Err(format!("device {} carried out {command} after its end", index + 1)),
            None => return Err(format!("device {} carried out {command}, which nobody sent", index + 1)),
        }
        Ok(())
    }

    /// Each command ends once.
    pub(super) fn command_ended(&mut self, device: &DeviceId, command: &str) -> Result<(), String> {
        let Some(account) = self.index_by_id.get(device).and_then(|index| self.devices.get_mut(*index)) else {
            return Err(format!("{device}, which is no device, ended a command"));
        };
        match account.commands.iter_mut().find(|account| account.id == command) {
            Some(CommandAccount { is_ended: ended @ false, .. }) => *ended = true,
            Some(_) => return Err(format!("the command {command} of {device} ended twice")),
            None => return Err(format!("the command {command} of {device} ended, and nobody sent it")),
        }
        Ok(())
    }

    /// No publish without a right.
    pub(super) fn accepted(&self, by: &DeviceId, topic: &str) -> Result<(), String> {
        let status = self.index_by_id.get(by).map(|index| self.devices[*index].status);
        if status != Some(Status::Active) {
            return Err(format!("a publish of {by} to {topic} was accepted, which is {status:?}"));
        }
        let own = topic.strip_prefix("dev/").and_then(|rest| rest.strip_prefix(by.as_str())?.strip_prefix('/'));
        match own {
            Some(rest) if !rest.starts_with("cmd/") && rest != "twin/desired" => Ok(()),
            _ => Err(format!("a publish of {by} to {topic} was accepted, which is not its own")),
        }
    }

    /// Tokens go to who may have one, and no request is good twice.
    pub(super) fn issued(&mut self, to: &DeviceId, request: &[u8]) -> Result<(), String> {
        let status = self.index_by_id.get(to).map(|index| self.devices[*index].status);
        if status != Some(Status::Active) {
            return Err(format!("a token was issued to {to}, which is {status:?}"));
        }
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        if !self.requests.insert(hasher.finish()) {
            return Err(format!("a token request of {to} was good twice"));
        }
        Ok(())
    }

    /// Whoever has a session may have one now, and has one only; a revocation is felt at once.
    pub(super) fn sessions_are_right(&self, hub: &Hub, now: UnixTime) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (device, _, expires_at) in hub.sessions() {
            let status = self.index_by_id.get(device).map(|index| self.devices[*index].status);
            if status != Some(Status::Active) {
                return Err(format!("{device} has a session, and is {status:?}"));
            }
            if expires_at < now {
                return Err(format!("{device} has a session {} s after its token expired", now.since(expires_at).0));
            }
            if !seen.insert(device) {
                return Err(format!("{device} has two sessions"));
            }
        }
        Ok(())
    }

    /// While the hub is down nobody can be expected.
    pub(super) fn hub_is_down(&mut self) {
        for device in &mut self.devices {
            device.absent_since = None;
        }
    }

    /// No device is locked out: who is powered and may have a session gets one in time.
    pub(super) fn is_reachable(
        &mut self,
        index: usize,
        device: &VirtualDevice,
        has_session: bool,
        now_ms: u64,
    ) -> Result<(), String> {
        let account = &mut self.devices[index];
        if account.status != Status::Active || !device.powered || has_session {
            account.absent_since = None;
            return Ok(());
        }
        let absent_ms = now_ms - *account.absent_since.get_or_insert(now_ms);
        self.longest_absence_ms = self.longest_absence_ms.max(absent_ms);
        if absent_ms > self.patience_ms {
            return Err(format!("{} is locked out: no session for {} s", device.id, absent_ms / 1_000));
        }
        Ok(())
    }

    /// Memory is bounded, on the disk and off it.
    pub(super) fn nothing_grows(&self, rows: usize, connections: usize, events: usize, links: usize) -> Result<(), String> {
        let devices = self.devices.len();
        for (what, found, bound) in [
            ("rows", rows, ROWS + ROWS_PER_DEVICE * devices),
            ("connections at the hub", connections, CONNECTIONS_PER_DEVICE * devices),
            ("connections", links, CONNECTIONS_PER_DEVICE * devices),
            ("events that wait", events, ROWS + EVENTS_PER_DEVICE * devices),
        ] {
            if found > bound {
                return Err(format!("there are {found} {what}, more than {bound}"));
            }
        }
        Ok(())
    }
}
