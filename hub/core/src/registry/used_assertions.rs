//! Which client assertions were used, and until when that matters: by client, and by a hash of `jti`, as a million tokens must
//! not take the memory of a million texts. Knows no bound: who remembers decides how much.

use super::rows::CorruptRow;
use crate::{DeviceId, UnixTime, hex, write::Table};
use ring::digest;
use std::collections::BTreeMap;

/// The first half of the SHA-256 of a `jti`. Who can make two that collide (2^64 attempts) has an assertion of its own refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JtiHash([u8; 16]);

/// Used assertions: some 40 bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UsedAssertions {
    until_by_client: BTreeMap<DeviceId, BTreeMap<JtiHash, UnixTime>>,
    len: usize,
}

impl JtiHash {
    pub(super) fn of(jti: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, jti.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        Self(half)
    }
}

impl UsedAssertions {
    /// How many there are, of all clients.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, client: &DeviceId, jti: JtiHash) -> bool {
        self.until_by_client.get(client).is_some_and(|used| used.contains_key(&jti))
    }

    /// Those of one client.
    pub(super) fn of_client(&self, client: &DeviceId) -> impl Iterator<Item = (JtiHash, UnixTime)> {
        self.until_by_client.get(client).into_iter().flatten().map(|(jti, until)| (*jti, *until))
    }

    /// Those that matter no longer.
    pub(super) fn ended(&self, now: UnixTime) -> impl Iterator<Item = (&DeviceId, JtiHash)> {
        let all = self.until_by_client.iter().flat_map(|(client, used)| used.iter().map(move |used| (client, used)));
        all.filter(move |(_, (_, until))| **until <= now).map(|(client, (jti, _))| (client, *jti))
    }

    /// As a row says: until when, or forgotten.
    pub(super) fn set(&mut self, client: DeviceId, jti: JtiHash, until: Option<UnixTime>) {
        match until {
            Some(until) => {
                let before = self.until_by_client.entry(client).or_default().insert(jti, until);
                self.len += usize::from(before.is_none());
            }
            None => {
                let Some(used) = self.until_by_client.get_mut(&client) else { return };
                self.len -= usize::from(used.remove(&jti).is_some());
                if used.is_empty() {
                    self.until_by_client.remove(&client);
                }
            }
        }
    }
}

/// The key of a row about one client's assertion.
pub(super) fn row_key(client: &DeviceId, jti: JtiHash) -> Vec<u8> {
    format!("{client}/{}", hex::encode(&jti.0)).into_bytes()
}

/// Reads [`row_key`] back.
pub(super) fn read_row_key(key: &str) -> Result<(DeviceId, JtiHash), CorruptRow> {
    let corrupt = |why: &str| CorruptRow { table: Table::UsedAssertion, why: why.to_owned() };
    let (client, jti) = key.split_once('/').ok_or_else(|| corrupt("no client in the key"))?;
    let client = DeviceId::parse(client).map_err(|error| corrupt(&error.to_string()))?;
    Ok((client, JtiHash(hex::decode(jti).ok_or_else(|| corrupt("no hash in the key"))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        DeviceId::parse(text).expect("legal")
    }

    #[test]
    fn what_is_remembered_is_forgotten_again_and_counted_meanwhile() {
        let mut used = UsedAssertions::default();
        let (one, other) = (JtiHash::of("1"), JtiHash::of("2"));
        for until in [7, 8] {
            used.set(id("lamp"), one, Some(UnixTime(until)));
        }
        used.set(id("oven"), one, Some(UnixTime(9)));
        used.set(id("oven"), other, Some(UnixTime(10)));
        assert_eq!(used.len(), 3);
        assert!(used.contains(&id("lamp"), one) && !used.contains(&id("lamp"), other) && !used.contains(&id("fan"), one));
        assert_eq!(used.of_client(&id("lamp")).collect::<Vec<_>>(), [(one, UnixTime(8))]);
        assert_eq!(used.ended(UnixTime(9)).collect::<Vec<_>>(), [(&id("lamp"), one), (&id("oven"), one)]);
        for client in ["lamp", "oven", "fan"] {
            used.set(id(client), one, None);
            used.set(id(client), one, None);
        }
        assert_eq!((used.len(), used.of_client(&id("oven")).count()), (1, 1));
        used.set(id("oven"), other, None);
        assert_eq!(used, UsedAssertions::default());
    }

    #[test]
    fn a_key_reads_back_and_nothing_else_is_one() {
        let (client, jti) = (id("lamp"), JtiHash::of("j"));
        let key = String::from_utf8(row_key(&client, jti)).expect("text");
        assert_eq!(read_row_key(&key), Ok((client, jti)));
        for bad in ["", "lamp", "lamp/", "lamp/00", "-/00112233445566778899aabbccddeeff", "lamp/00112233445566778899AABBCCDDEEFF"]
        {
            assert!(read_row_key(bad).is_err(), "{bad}");
        }
    }
}
