//! The stored form of the registry: which row is where, and how it is read back.

use super::{
    CommandRecord, CredentialRecord, DesiredTwin, DeviceRecord, EnrolmentRecord, Registry, ReportedTwin, UserRecord,
    used_assertions,
};
use crate::{
    DeviceId, UnixTime,
    limits::{COMMANDS_PER_SECOND, COMMANDS_SINCE_BACKUP},
    profile::Profile,
    write::{Table, Write},
};
use serde::de::DeserializeOwned;

pub(super) const AUDIT_HEAD: &[u8] = b"audit-head";
pub(super) const AUDIT_ANCHOR: &[u8] = b"audit-anchor";

/// A stored row that cannot be read: a damaged store, or one that a later version wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored row of table {table:?} cannot be read: {why}")]
pub struct CorruptRow {
    /// Where it stands.
    pub table: Table,
    /// What is wrong.
    pub why: String,
}

/// What to store of a row that a backup holds: devices remember the number of the last command that they obeyed, also of those that
/// were sent after the backup, and refuse lower ones. So a restored hub goes on [`COMMANDS_SINCE_BACKUP`] further, and not below
/// [`COMMANDS_PER_SECOND`] for each second since 1970: the same backup may be restored again.
#[must_use]
pub fn restored(table: Table, row: Vec<u8>, now: UnixTime) -> Vec<u8> {
    if table != Table::Device {
        return row;
    }
    match serde_json::from_slice::<DeviceRecord>(&row) {
        Ok(mut device) => {
            let by_time = now.0.saturating_mul(COMMANDS_PER_SECOND);
            device.command_seq = device.command_seq.saturating_add(COMMANDS_SINCE_BACKUP).max(by_time);
            serde_json::to_vec(&device).unwrap_or(row)
        }
        // Told when the registry reads it.
        Err(_) => row,
    }
}

/// The key of a command: device, then sequence in order.
pub(super) fn command_key(device: &DeviceId, seq: u64) -> Vec<u8> {
    format!("{device}/{seq:020}").into_bytes()
}

pub(super) fn apply(registry: &mut Registry, write: &Write) -> Result<(), CorruptRow> {
    let (table, key) = (write.table(), write.key());
    let corrupt = |why: String| CorruptRow { table, why };
    let text = || std::str::from_utf8(key).map_err(|error| corrupt(error.to_string()));
    let id = || DeviceId::parse(text()?).map_err(|error| corrupt(error.to_string()));
    let value = match write {
        Write::Put { value, .. } => Some(value.as_slice()),
        Write::Delete { .. } => None,
    };
    match table {
        Table::Audit | Table::Mqtt => {}
        Table::Meta => match (key, value) {
            (AUDIT_HEAD, Some(row)) => registry.audit_head = read(table, row)?,
            (AUDIT_ANCHOR, Some(row)) => registry.audit_anchor = read(table, row)?,
            _ => {}
        },
        Table::Device => set(&mut registry.devices, id()?, value.map(|row| read::<DeviceRecord>(table, row)).transpose()?),
        Table::DesiredTwin => {
            set(&mut registry.desired_twins, id()?, value.map(|row| read::<DesiredTwin>(table, row)).transpose()?);
        }
        Table::ReportedTwin => {
            set(&mut registry.reported_twins, id()?, value.map(|row| read::<ReportedTwin>(table, row)).transpose()?);
        }
        Table::User => set(&mut registry.users, id()?, value.map(|row| read::<UserRecord>(table, row)).transpose()?),
        Table::Profile => {
            // An owner's profile that is removed uncovers the shipped one of the same name.
            let name = id()?;
            let written = value.map(|row| read::<Profile>(table, row)).transpose()?;
            let profile = written.or_else(|| Profile::shipped().find(|shipped| shipped.name == name));
            set(&mut registry.profiles, name, profile);
        }
        Table::Credential => {
            set(&mut registry.credentials, text()?.into(), value.map(|row| read::<CredentialRecord>(table, row)).transpose()?);
        }
        Table::EnrolmentCode => {
            let record = value.map(|row| read::<EnrolmentRecord>(table, row)).transpose()?;
            set(&mut registry.enrolments_by_code_hash, text()?.to_owned(), record);
        }
        Table::UsedAssertion => {
            let (client, jti) = used_assertions::read_row_key(text()?)?;
            registry.used_assertions.set(client, jti, value.map(|row| read::<UnixTime>(table, row)).transpose()?);
        }
        Table::DeniedToken => {
            set(&mut registry.denied_tokens, text()?.into(), value.map(|row| read::<UnixTime>(table, row)).transpose()?);
        }
        Table::Command => {
            let (device, seq) = text()?.split_once('/').ok_or_else(|| corrupt("no device in the key".to_owned()))?;
            let device = DeviceId::parse(device).map_err(|error| corrupt(error.to_string()))?;
            let seq = seq.parse().map_err(|_| corrupt("no sequence in the key".to_owned()))?;
            set(&mut registry.commands, (device, seq), value.map(|row| read::<CommandRecord>(table, row)).transpose()?);
        }
    }
    Ok(())
}

fn read<T: DeserializeOwned>(table: Table, row: &[u8]) -> Result<T, CorruptRow> {
    serde_json::from_slice(row).map_err(|error| CorruptRow { table, why: error.to_string() })
}

fn set<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
