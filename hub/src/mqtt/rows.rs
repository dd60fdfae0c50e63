//! The stored form of sessions, subscriptions, queued and kept messages: rows of `Table::Mqtt`. Pure.
//!
//! | key | value |
//! |---|---|
//! | `s` session | JSON: principal, client identifier, expiry, since when its client is away |
//! | `u` session, subscription number | JSON: filter, options |
//! | `q` session, position, part | a queued message, cut into parts |
//! | `o` session, position | the packet identifier of a QoS 2 message that the client has, until PUBCOMP |
//! | `i` session, packet identifier | nothing: a QoS 2 publish of the client that was taken, until PUBREL |
//! | `p` session, packet identifier, part | session and position of each copy of a QoS 2 publish that is being stored in several batches |
//! | `r` number, part | a kept message, cut into parts |
//! | `w` number, part | a will, cut into parts |
//!
//! Numbers are big endian, so rows come back in order. Part 0 begins with the number of parts. A message may have a label: a
//! kept one says who published it, a queued one whose it is if a group shares it. Those of before say nothing: they are on
//! nobody's account, and stay with their session. The label of a will is a [`WillRow`].

use super::{
    limits::ROW_CHUNK_BYTES,
    message::{ForwardedProperties, Message, QoS, Routed},
    packet::{RetainHandling, SubscriptionOptions},
    retained::Author,
    session::{Pending, Reserved, Subscription},
};
use bytes::{Buf, BufMut, Bytes};
use hearthkey_core::{
    UnixTime,
    session::{Principal, Proof},
    topic::{SubscriptionFilter, TopicFilter, TopicName},
    write::{Table, Write},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What is stored of a session besides its subscriptions and messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionRow {
    /// Whose session it is.
    pub(super) principal: Principal,
    /// The client identifier.
    pub(super) client_identifier: Box<str>,
    /// How long it is kept after its connection, in seconds.
    pub(super) expiry: u64,
    /// When its connection ended; nothing while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_at: Option<UnixTime>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SubscriptionRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share_name: Option<Box<str>>,
    filter: Box<str>,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    identifier: Option<u32>,
}

/// What is stored of a will besides its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WillRow {
    /// Whose it is.
    pub(super) principal: Principal,
    /// The client identifier.
    pub(super) client_identifier: Box<str>,
    /// By what its connection stood: it is judged anew when it fires.
    pub(super) proof: Proof,
    /// Will Delay Interval in seconds.
    pub(super) delay: u32,
    /// Its Message Expiry Interval in seconds, which counts from publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expiry: Option<u32>,
}

/// A will as it was stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredWill {
    /// Its number.
    pub(super) number: u64,
    /// How many rows it has.
    pub(super) parts: u16,
    /// Whose, and when.
    pub(super) row: WillRow,
    /// Topic and message.
    pub(super) routed: Routed,
}

/// A session as it was stored.
#[derive(Debug)]
pub(super) struct StoredSession {
    /// Its number.
    pub(super) number: u64,
    /// Who and how long.
    pub(super) row: SessionRow,
    /// Its subscriptions.
    pub(super) subscriptions: Vec<Subscription>,
    /// Its messages in order.
    pub(super) queue: Vec<Pending>,
    /// QoS 2 messages that the client has: positions and packet identifiers.
    pub(super) released: Vec<(u64, u16)>,
    /// QoS 2 publishes of the client that it has not released.
    pub(super) unreleased: Vec<u16>,
}

/// All that was stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Sessions.
    pub(super) sessions: Vec<StoredSession>,
    /// Kept messages with their numbers and authors.
    pub(super) retained: Vec<(u64, Routed, Option<Author>)>,
    /// Wills in the order of their numbers.
    pub(super) wills: Vec<StoredWill>,
    /// Rows that mean nothing any more: to be deleted.
    pub(super) orphans: Vec<Write>,
}

/// Stores a session.
#[must_use]
pub(super) fn put_session(number: u64, row: &SessionRow) -> Write {
    put(key(b's', &[&number.to_be_bytes()]), to_json(row))
}

/// Forgets a session; its subscriptions and messages have rows of their own.
#[must_use]
pub(super) fn delete_session(number: u64) -> Write {
    delete(key(b's', &[&number.to_be_bytes()]))
}

/// Stores a subscription.
#[must_use]
pub(super) fn put_subscription(session: u64, subscription: &Subscription) -> Write {
    let row = SubscriptionRow {
        share_name: subscription.share_name.clone(),
        filter: subscription.filter.as_str().into(),
        qos: subscription.options.qos as u8,
        no_local: subscription.options.no_local,
        retain_as_published: subscription.options.retain_as_published,
        identifier: subscription.identifier,
    };
    put(subscription_key(session, subscription.number), to_json(&row))
}

/// Forgets a subscription.
#[must_use]
pub(super) fn delete_subscription(session: u64, number: u32) -> Write {
    delete(subscription_key(session, number))
}

/// Stores a queued message.
#[must_use]
pub(super) fn put_queued(session: u64, position: u64, pending: &Pending) -> Vec<Write> {
    let reserved = pending.reserved.map(|reserved| reserved.packet_identifier);
    let (retain, has_identifier) = (u8::from(pending.retain) << 2, u8::from(reserved.is_some()) << 3);
    let flags = pending.qos as u8 | retain | has_identifier | u8::from(pending.is_extra) << 5;
    let bytes = encode(&pending.routed, flags, reserved, &group_to_text(pending), &pending.subscription_identifiers);
    in_parts(&bytes, |part| queued_key(session, position, part))
}

/// Forgets a queued message.
pub(super) fn delete_queued(session: u64, position: u64, pending: &Pending) -> impl Iterator<Item = Write> + use<> {
    let (has_identifier, group) = (pending.reserved.is_some(), group_to_text(pending));
    let parts = parts(encoded_length(&pending.routed, has_identifier, &group, &pending.subscription_identifiers));
    (0..parts).map(move |part| delete(queued_key(session, position, part)))
}

/// Stores that the client has the QoS 2 message of a position.
#[must_use]
pub(super) fn put_released(session: u64, position: u64, packet_identifier: u16) -> Write {
    put(released_key(session, position), packet_identifier.to_be_bytes().to_vec())
}

/// Forgets it.
#[must_use]
pub(super) fn delete_released(session: u64, position: u64) -> Write {
    delete(released_key(session, position))
}

/// Stores that a QoS 2 publish of the client was taken.
#[must_use]
pub(super) fn put_unreleased(session: u64, packet_identifier: u16) -> Write {
    put(unreleased_key(session, packet_identifier), Vec::new())
}

/// Forgets it.
#[must_use]
pub(super) fn delete_unreleased(session: u64, packet_identifier: u16) -> Write {
    delete(unreleased_key(session, packet_identifier))
}

/// The rows of a QoS 2 publish that the store takes in several batches, one after the other, as one change: the copies count
/// for nothing until the last batch is stored, so that the publisher's repetition is not a second message.
#[must_use]
pub(super) fn all_or_none(publisher: u64, packet_identifier: u16, writes: Vec<Write>) -> Vec<Write> {
    let copies = writes.iter().filter_map(|write| match write {
        Write::Put { key, .. } if key.first() == Some(&b'q') && key.ends_with(&[0, 0]) => key.get(1..17),
        Write::Put { .. } | Write::Delete { .. } => None,
    });
    let copies = copies.flatten().copied();
    let mut bytes = vec![0; 2];
    bytes.extend(copies);
    let parts = parts(bytes.len());
    bytes[..2].copy_from_slice(&parts.to_be_bytes());
    let mut all = in_parts(&bytes, |part| unfinished_key(publisher, packet_identifier, part));
    all.extend(writes);
    all.extend((0..parts).map(|part| delete(unfinished_key(publisher, packet_identifier, part))));
    all
}

/// Stores a kept message in place of the one that had `earlier_parts`.
#[must_use]
pub(super) fn put_retained(number: u64, routed: &Routed, author: Option<&Author>, earlier_parts: u16) -> Vec<Write> {
    let bytes = encode(routed, routed.message.qos as u8 | 1 << 2, None, &author_to_text(author), &[]);
    let mut writes = in_parts(&bytes, |part| retained_key(number, part));
    writes.extend((parts(bytes.len())..earlier_parts).map(|part| delete(retained_key(number, part))));
    writes
}

/// Forgets a kept message.
#[must_use]
pub(super) fn delete_retained(number: u64, parts: u16) -> Vec<Write> {
    (0..parts).map(|part| delete(retained_key(number, part))).collect()
}

/// How many rows a kept message has.
#[must_use]
pub(super) fn retained_parts(routed: &Routed, author: Option<&Author>) -> u16 {
    parts(encoded_length(routed, false, &author_to_text(author), &[]))
}

/// Stores a will in place of its rows of before, of which there were `earlier_parts`; tells how many there are.
#[must_use]
pub(super) fn put_will(number: u64, row: &WillRow, routed: &Routed, earlier_parts: u16) -> (Vec<Write>, u16) {
    let flags = routed.message.qos as u8 | u8::from(routed.message.retain) << 2;
    let bytes = encode(routed, flags, None, &String::from_utf8_lossy(&to_json(row)), &[]);
    let parts = parts(bytes.len());
    let mut writes = in_parts(&bytes, |part| will_key(number, part));
    writes.extend((parts..earlier_parts).map(|part| delete(will_key(number, part))));
    (writes, parts)
}

/// Forgets a will.
pub(super) fn delete_will(number: u64, parts: u16) -> impl Iterator<Item = Write> {
    (0..parts).map(move |part| delete(will_key(number, part)))
}

/// Nothing if no group shares it.
fn group_to_text(pending: &Pending) -> String {
    pending.share.as_ref().map_or_else(String::new, ToString::to_string)
}

/// Nothing for the hub.
fn author_to_text(author: Option<&Author>) -> String {
    author.map_or_else(String::new, |author| String::from_utf8_lossy(&to_json(author)).into_owned())
}

/// Earlier hubs wrote only the principal.
fn author_in(label: &str) -> Option<Author> {
    let principal = || serde_json::from_str(label).ok().map(|principal| Author { principal, client_identifier: None });
    serde_json::from_str(label).ok().or_else(principal)
}

/// Reads back what was stored. Rows that cannot be read, and those that belong to nothing, become orphans.
#[must_use]
pub(super) fn restore(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Stored {
    let rows: BTreeMap<Vec<u8>, Vec<u8>> = rows.into_iter().collect();
    let mut stored = Stored::default();
    let mut sessions: BTreeMap<u64, StoredSession> = BTreeMap::new();
    let mut numbers_by_name = HashMap::new();
    for (key, value) in under(&rows, b's') {
        match (number_in(key, 1), serde_json::from_slice::<SessionRow>(value)) {
            (Some(number), Ok(row)) if key.len() == 9 => {
                // An earlier one of the same name was to be forgotten, and that could not be stored.
                let name = (row.principal.clone(), row.client_identifier.clone());
                if let Some(earlier) = numbers_by_name.insert(name, number) {
                    sessions.remove(&earlier);
                    stored.orphans.push(delete_session(earlier));
                }
                sessions.insert(number, StoredSession::new(number, row));
            }
            _ => stored.orphans.push(delete(key.clone())),
        }
    }
    for (key, value) in under(&rows, b'u') {
        let session = number_in(key, 1).and_then(|number| sessions.get_mut(&number));
        match (session, subscription_in(key, value)) {
            (Some(session), Some(subscription)) => session.subscriptions.push(subscription),
            _ => stored.orphans.push(delete(key.clone())),
        }
    }
    let mut unfinished: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut markers = Vec::new();
    for (_, parts) in messages(&rows, b'p', 11) {
        let copies = whole(&parts).unwrap_or_default();
        unfinished.extend(copies.chunks(16).map(|copy| [b"q", copy].concat()));
        markers.extend(parts.iter().map(|(key, _)| delete((*key).clone())));
    }
    for (prefix, parts) in messages(&rows, b'q', 17) {
        let session = number_in(prefix, 1).and_then(|number| sessions.get_mut(&number));
        let session = session.filter(|_| !unfinished.contains(prefix));
        match (session, number_in(prefix, 9), joined(&parts)) {
            (Some(session), Some(position), Some(message)) => session.queue.push(message.queued_at(position)),
            _ => stored.orphans.extend(parts.iter().map(|(key, _)| delete((*key).clone()))),
        }
    }
    for (key, value) in under(&rows, b'o') {
        let session = number_in(key, 1).and_then(|number| sessions.get_mut(&number));
        match (session, number_in(key, 9), <[u8; 2]>::try_from(value.as_slice())) {
            (Some(session), Some(position), Ok(identifier)) if key.len() == 17 => {
                session.released.push((position, u16::from_be_bytes(identifier)));
            }
            _ => stored.orphans.push(delete(key.clone())),
        }
    }
    for (key, _) in under(&rows, b'i') {
        let session = number_in(key, 1).and_then(|number| sessions.get_mut(&number));
        match (session, key.get(9..).map(<[u8; 2]>::try_from)) {
            (Some(session), Some(Ok(identifier))) => session.unreleased.push(u16::from_be_bytes(identifier)),
            _ => stored.orphans.push(delete(key.clone())),
        }
    }
    for (prefix, parts) in messages(&rows, b'r', 9) {
        match (number_in(prefix, 1), joined(&parts)) {
            (Some(number), Some(message)) => {
                stored.retained.push((number, message.routed, author_in(&message.label)));
            }
            _ => stored.orphans.extend(parts.iter().map(|(key, _)| delete((*key).clone()))),
        }
    }
    for (prefix, parts) in messages(&rows, b'w', 9) {
        let message = joined(&parts);
        let row = message.as_ref().and_then(|message| serde_json::from_str(&message.label).ok());
        match (number_in(prefix, 1), message, row, u16::try_from(parts.len())) {
            (Some(number), Some(StoredMessage { routed, .. }), Some(row), Ok(parts)) => {
                stored.wills.push(StoredWill { number, parts, row, routed });
            }
            _ => stored.orphans.extend(parts.iter().map(|(key, _)| delete((*key).clone()))),
        }
    }
    // Behind the copies, which without them would count.
    stored.orphans.extend(markers);
    stored.sessions = sessions.into_values().collect();
    stored
}

/// A message as it was stored.
struct StoredMessage {
    routed: Routed,
    flags: u8,
    packet_identifier: Option<u16>,
    /// Whose it is; may be nothing.
    label: String,
    subscription_identifiers: Box<[u32]>,
}

impl StoredMessage {
    fn queued_at(self, position: u64) -> Pending {
        let qos = self.routed.message.qos;
        Pending {
            retain: self.flags & 1 << 2 != 0,
            subscription_identifiers: self.subscription_identifiers,
            row: Some(position),
            reserved: self.packet_identifier.map(|packet_identifier| Reserved { packet_identifier, may_be_known: true }),
            share: SubscriptionFilter::parse(&self.label).ok().map(Arc::new),
            is_extra: self.flags & 1 << 5 != 0,
            ..Pending::of(Arc::new(self.routed), qos)
        }
    }
}

impl StoredSession {
    const fn new(number: u64, row: SessionRow) -> Self {
        Self { number, row, subscriptions: Vec::new(), queue: Vec::new(), released: Vec::new(), unreleased: Vec::new() }
    }
}

type Row<'a> = (&'a Vec<u8>, &'a Vec<u8>);

fn under(rows: &BTreeMap<Vec<u8>, Vec<u8>>, kind: u8) -> impl Iterator<Item = Row<'_>> {
    rows.range(vec![kind]..vec![kind + 1])
}

/// The rows of one kind, grouped by the first `prefix` bytes of their keys.
fn messages(rows: &BTreeMap<Vec<u8>, Vec<u8>>, kind: u8, prefix: usize) -> Vec<(&[u8], Vec<Row<'_>>)> {
    let mut groups: Vec<(&[u8], Vec<Row<'_>>)> = Vec::new();
    for (key, value) in under(rows, kind) {
        let group = key.get(..prefix).unwrap_or(key);
        match groups.last_mut().filter(|(last, _)| *last == group) {
            Some((_, parts)) => parts.push((key, value)),
            None => groups.push((group, vec![(key, value)])),
        }
    }
    groups
}

/// A whole message, or nothing if a part is missing or illegible.
fn joined(parts: &[Row<'_>]) -> Option<StoredMessage> {
    decode(Bytes::from(whole(parts)?))
}

/// What was cut into parts, without the number of parts; nothing if one is missing.
fn whole(parts: &[Row<'_>]) -> Option<Vec<u8>> {
    let expected = u16::from_be_bytes(*parts.first()?.1.first_chunk()?);
    let complete = parts.len() == usize::from(expected)
        && parts.iter().zip(0_u16..).all(|((key, _), part)| key.last_chunk() == Some(&part.to_be_bytes()));
    if !complete {
        return None;
    }
    Some(parts.iter().flat_map(|(_, value)| value.iter().copied()).skip(2).collect())
}

fn encoded_length(routed: &Routed, has_packet_identifier: bool, label: &str, identifiers: &[u32]) -> usize {
    let message = &routed.message;
    2 + 1
        + 2 * usize::from(has_packet_identifier)
        + if label.is_empty() { 0 } else { 2 + label.len() }
        + 8
        + 2
        + routed.topic.as_str().len()
        + 1
        + 4 * identifiers.len()
        + 4
        + message.properties.as_bytes().len()
        + message.payload.len()
}

fn encode(routed: &Routed, flags: u8, packet_identifier: Option<u16>, label: &str, identifiers: &[u32]) -> Vec<u8> {
    let length = encoded_length(routed, packet_identifier.is_some(), label, identifiers);
    let mut bytes = Vec::with_capacity(length);
    let message = &routed.message;
    bytes.put_u16(parts(length));
    bytes.put_u8(flags | u8::from(!label.is_empty()) << 4);
    packet_identifier.into_iter().for_each(|identifier| bytes.put_u16(identifier));
    if !label.is_empty() {
        // A name, a filter of at most 512 bytes, or what is stored of a will: a few hundred.
        bytes.put_u16(u16::try_from(label.len()).unwrap_or(u16::MAX));
        bytes.put_slice(label.as_bytes());
    }
    bytes.put_u64(message.expires_at.map_or(0, |expires_at| expires_at.0));
    let topic = routed.topic.as_str().as_bytes();
    // A topic has at most 512 bytes, a session at most a few hundred subscriptions of which 255 are told.
    bytes.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
    bytes.put_slice(topic);
    bytes.put_u8(u8::try_from(identifiers.len()).unwrap_or(u8::MAX));
    identifiers.iter().for_each(|&identifier| bytes.put_u32(identifier));
    let properties = message.properties.as_bytes();
    bytes.put_u32(u32::try_from(properties.len()).unwrap_or(u32::MAX));
    bytes.put_slice(properties);
    bytes.put_slice(&message.payload);
    bytes
}

fn decode(mut bytes: Bytes) -> Option<StoredMessage> {
    let flags = bytes.try_get_u8().ok()?;
    let packet_identifier = if flags & 1 << 3 == 0 { None } else { Some(bytes.try_get_u16().ok()?) };
    let label_length = if flags & 1 << 4 == 0 { 0 } else { bytes.try_get_u16().ok()? };
    let label = String::from_utf8(split(&mut bytes, usize::from(label_length))?.to_vec()).ok()?;
    let expires_at = Some(bytes.try_get_u64().ok()?).filter(|&seconds| seconds != 0).map(UnixTime);
    let topic_length = usize::from(bytes.try_get_u16().ok()?);
    let topic = TopicName::from_bytes(&split(&mut bytes, topic_length)?).ok()?;
    let count = bytes.try_get_u8().ok()?;
    let identifiers = (0..count).map(|_| bytes.try_get_u32().ok()).collect::<Option<_>>()?;
    let properties_length = bytes.try_get_u32().ok()? as usize;
    let properties = ForwardedProperties::from_checked(split(&mut bytes, properties_length)?);
    let qos = QoS::from_bits(flags & 0x03)?;
    let message = Message { payload: bytes, qos, retain: flags & 1 << 2 != 0, expires_at, properties };
    let routed = Routed { topic, message, publisher: None, queued_for: Box::default() };
    Some(StoredMessage { routed, flags, packet_identifier, label, subscription_identifiers: identifiers })
}

fn split(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn parts(length: usize) -> u16 {
    // A packet has at most some hundred kilobytes.
    u16::try_from(length.div_ceil(ROW_CHUNK_BYTES)).unwrap_or(u16::MAX)
}

fn in_parts(bytes: &[u8], key: impl Fn(u16) -> Vec<u8>) -> Vec<Write> {
    bytes.chunks(ROW_CHUNK_BYTES).zip(0_u16..).map(|(part, number)| put(key(number), part.to_vec())).collect()
}

fn subscription_in(key: &[u8], value: &[u8]) -> Option<Subscription> {
    let number = u32::from_be_bytes(*key.get(9..)?.first_chunk()?);
    let row: SubscriptionRow = serde_json::from_slice(value).ok()?;
    let options = SubscriptionOptions {
        qos: QoS::from_bits(row.qos)?,
        no_local: row.no_local,
        retain_as_published: row.retain_as_published,
        retain_handling: RetainHandling::Send,
    };
    let filter = TopicFilter::parse(&row.filter).ok()?;
    Some(Subscription { share_name: row.share_name, filter, options, identifier: row.identifier, number })
}

fn subscription_key(session: u64, number: u32) -> Vec<u8> {
    key(b'u', &[&session.to_be_bytes(), &number.to_be_bytes()])
}

fn queued_key(session: u64, position: u64, part: u16) -> Vec<u8> {
    key(b'q', &[&session.to_be_bytes(), &position.to_be_bytes(), &part.to_be_bytes()])
}

fn released_key(session: u64, position: u64) -> Vec<u8> {
    key(b'o', &[&session.to_be_bytes(), &position.to_be_bytes()])
}

fn unreleased_key(session: u64, packet_identifier: u16) -> Vec<u8> {
    key(b'i', &[&session.to_be_bytes(), &packet_identifier.to_be_bytes()])
}

fn unfinished_key(session: u64, packet_identifier: u16, part: u16) -> Vec<u8> {
    key(b'p', &[&session.to_be_bytes(), &packet_identifier.to_be_bytes(), &part.to_be_bytes()])
}

fn retained_key(number: u64, part: u16) -> Vec<u8> {
    key(b'r', &[&number.to_be_bytes(), &part.to_be_bytes()])
}

fn will_key(number: u64, part: u16) -> Vec<u8> {
    key(b'w', &[&number.to_be_bytes(), &part.to_be_bytes()])
}

fn key(kind: u8, numbers: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    numbers.iter().for_each(|number| key.extend_from_slice(number));
    key
}

fn number_in(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(at..)?.first_chunk()?))
}

fn put(key: Vec<u8>, value: Vec<u8>) -> Write {
    Write::Put { table: Table::Mqtt, key, value }
}

fn delete(key: Vec<u8>) -> Write {
    Write::Delete { table: Table::Mqtt, key }
}

fn to_json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("a row of strings and numbers always has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearthkey_core::{DeviceId, scope::Scope};

    fn apply(rows: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            match write {
                Write::Put { key, value, .. } => {
                    assert!(key.len() <= 255 && value.len() <= 4_096, "a row that the store refuses");
                    rows.insert(key, value);
                }
                Write::Delete { key, .. } => {
                    rows.remove(&key);
                }
            }
        }
    }

    fn routed(bytes: usize) -> Routed {
        let payload = Bytes::from((0..bytes).map(|index| (index % 251) as u8).collect::<Vec<_>>());
        let properties = ForwardedProperties::default().with_user_property("a", "b");
        let message = Message { payload, qos: QoS::AtLeastOnce, retain: true, expires_at: Some(UnixTime(77)), properties };
        Routed { topic: TopicName::parse("dev/lamp/state").expect("legal"), message, publisher: None, queued_for: Box::default() }
    }

    fn session() -> SessionRow {
        SessionRow {
            principal: Principal::Device(DeviceId::parse("lamp").expect("legal")),
            client_identifier: "lamp/2".into(),
            expiry: 60,
            left_at: Some(UnixTime(1_780_000_000)),
        }
    }

    fn pending(bytes: usize, position: u64) -> Pending {
        Pending {
            retain: true,
            subscription_identifiers: Box::new([4, 500]),
            row: Some(position),
            is_extra: position.is_multiple_of(2),
            ..Pending::of(Arc::new(routed(bytes)), QoS::AtLeastOnce)
        }
    }

    fn exactly_once(position: u64) -> Pending {
        let mut routed = routed(3_920);
        routed.message.qos = QoS::ExactlyOnce;
        let reserved = Some(Reserved { packet_identifier: 41, may_be_known: true });
        Pending { routed: Arc::new(routed), qos: QoS::ExactlyOnce, reserved, ..pending(0, position) }
    }

    #[test]
    fn what_was_stored_comes_back() {
        let mut rows = BTreeMap::new();
        apply(&mut rows, [put_session(3, &session())]);
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let filter = TopicFilter::parse("dev/lamp/cmd/+").expect("legal");
        let subscription = Subscription { share_name: Some("g".into()), filter, options, identifier: Some(9), number: 2 };
        apply(&mut rows, [put_subscription(3, &subscription)]);
        for (position, bytes) in [(1, 0), (2, 3_900), (3, 200_000)] {
            apply(&mut rows, put_queued(3, position, &pending(bytes, position)));
        }
        apply(&mut rows, put_queued(3, 4, &exactly_once(4)));
        let group = SubscriptionFilter::parse("$share/g/dev/+/state").expect("legal");
        let shared = Pending { share: Some(Arc::new(group)), ..pending(3_900, 6) };
        apply(&mut rows, put_queued(3, 6, &shared));
        apply(&mut rows, [put_released(3, 5, 42), put_unreleased(3, 7), put_unreleased(3, 65_535)]);
        let lamp = Author { principal: session().principal, client_identifier: Some("lamp/2".into()) };
        apply(&mut rows, put_retained(8, &routed(10_000), Some(&lamp), 0));
        apply(&mut rows, put_retained(9, &routed(10), None, 0));
        let stored = restore(rows.clone());
        assert!(stored.orphans.is_empty());
        assert_eq!(stored.retained, [(8, routed(10_000), Some(lamp.clone())), (9, routed(10), None)]);
        let restored = stored.sessions.first().expect("a session");
        assert_eq!((restored.number, &restored.row), (3, &session()));
        assert_eq!(restored.subscriptions, [subscription]);
        assert_eq!(restored.queue, [pending(0, 1), pending(3_900, 2), pending(200_000, 3), exactly_once(4), shared.clone()]);
        assert_eq!((&restored.released[..], &restored.unreleased[..]), (&[(5, 42)][..], &[7, 65_535][..]));

        // And all of it can be deleted again.
        for (position, bytes) in [(1, 0), (2, 3_900), (3, 200_000)] {
            apply(&mut rows, delete_queued(3, position, &pending(bytes, position)));
        }
        apply(&mut rows, delete_queued(3, 4, &exactly_once(4)));
        apply(&mut rows, delete_queued(3, 6, &shared));
        apply(&mut rows, [delete_released(3, 5), delete_unreleased(3, 7), delete_unreleased(3, 65_535)]);
        apply(&mut rows, [delete_subscription(3, 2), delete_session(3)]);
        apply(&mut rows, delete_retained(9, retained_parts(&routed(10), None)));
        apply(&mut rows, put_retained(8, &routed(1), Some(&lamp), retained_parts(&routed(10_000), Some(&lamp))));
        assert_eq!(rows.len(), 1, "a shorter kept message leaves no parts of the longer one behind");
        apply(&mut rows, delete_retained(8, retained_parts(&routed(1), Some(&lamp))));
        assert!(rows.is_empty());
    }

    /// As the hub wrote it before a kept message said who published it.
    #[test]
    fn a_kept_message_of_an_earlier_hub_is_read_whether_or_not_it_says_on_whose_account_it_is() {
        let mut value = vec![0, 1, 0b101];
        value.extend([0; 8]);
        value.extend([0, 1, b'a', 0, 0, 0, 0, 0]);
        value.extend(b"21");
        let stored = restore([(retained_key(8, 0), value)]);
        let [(8, routed, None)] = &stored.retained[..] else { panic!("{stored:?}") };
        assert_eq!((routed.topic.as_str(), &routed.message.payload[..]), ("a", &b"21"[..]));
        let SessionRow { principal, .. } = session();
        let label = String::from_utf8(to_json(&principal)).expect("text");
        assert_eq!(author_in(&label), Some(Author { principal, client_identifier: None }), "or by which client");
    }

    fn will(jti: &str) -> WillRow {
        let proof = Proof::AccessToken {
            jti: jti.into(),
            issued_at: UnixTime(5),
            expires_at: UnixTime(305),
            scope: Scope::parse("telemetry").expect("legal"),
            epoch: 3,
        };
        let SessionRow { principal, client_identifier, .. } = session();
        WillRow { principal, client_identifier, proof, delay: 7, expiry: Some(9) }
    }

    #[test]
    fn a_will_comes_back_as_it_was_set_last_and_can_be_forgotten() {
        let mut rows = BTreeMap::new();
        let mut message = routed(9_000);
        message.message.expires_at = None;
        let (writes, parts) = put_will(4, &will("x"), &message, 0);
        apply(&mut rows, writes);
        assert_eq!(restore(rows.clone()).wills, [StoredWill { number: 4, parts, row: will("x"), routed: message.clone() }]);
        // A renewal changes what it stands on, and with that perhaps how many rows it has.
        message.message.payload.truncate(7_700);
        let (writes, parts) = put_will(4, &will(&"y".repeat(60)), &message, parts);
        apply(&mut rows, writes);
        let stored = restore(rows.clone());
        assert_eq!(stored.wills, [StoredWill { number: 4, parts, row: will(&"y".repeat(60)), routed: message }]);
        assert!(stored.orphans.is_empty());
        apply(&mut rows, delete_will(4, parts));
        assert!(rows.is_empty());
    }

    #[test]
    fn of_a_session_that_was_replaced_and_could_not_be_forgotten_nothing_is_left() {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let filter = TopicFilter::parse("#").expect("legal");
        let subscription = Subscription { share_name: None, filter, options, identifier: None, number: 1 };
        let mut rows = BTreeMap::new();
        for number in [3, 300] {
            apply(&mut rows, [put_session(number, &session()), put_subscription(number, &subscription)]);
            apply(&mut rows, put_queued(number, 1, &pending(10, 1)));
            apply(&mut rows, [put_released(number, 2, 42), put_unreleased(number, 7)]);
        }
        let another = SessionRow { client_identifier: "lamp/3".into(), left_at: None, ..session() };
        apply(&mut rows, [put_session(4, &another)]);
        let stored = restore(rows.clone());
        assert_eq!(stored.sessions.iter().map(|session| session.number).collect::<Vec<_>>(), [4, 300]);
        apply(&mut rows, stored.orphans);
        assert!(rows.keys().all(|key| number_in(key, 1) != Some(3)), "{rows:?}");
        assert_eq!(rows.len(), 6);
    }

    #[test]
    fn rows_that_belong_to_nothing_are_deleted_and_nothing_else() {
        let mut rows = BTreeMap::new();
        apply(&mut rows, [put_session(3, &session())]);
        apply(&mut rows, put_queued(4, 1, &pending(10, 1)));
        apply(&mut rows, put_queued(3, 1, &pending(10_000, 1)));
        apply(&mut rows, put_retained(8, &routed(10_000), None, 0));
        rows.remove(&queued_key(3, 1, 1)).expect("a part in the middle");
        rows.remove(&retained_key(8, 0)).expect("the first part");
        rows.insert(vec![b's', 1], b"{}".to_vec());
        rows.insert(vec![b'u'], Vec::new());
        rows.insert(vec![b'i', 3], Vec::new());
        rows.insert(vec![b'w', 3], Vec::new());
        apply(&mut rows, put_will(5, &will("x"), &routed(9_000), 0).0);
        rows.remove(&will_key(5, 2)).expect("the last part");
        apply(&mut rows, put_retained(6, &routed(1), None, 0));
        let illegible = rows.remove(&retained_key(6, 0)).expect("a kept message");
        rows.insert(will_key(6, 0), illegible);
        apply(&mut rows, [put_unreleased(4, 1), put_released(4, 1, 1)]);
        let stored = restore(rows.clone());
        assert_eq!((stored.sessions.len(), stored.retained.len(), stored.wills.len()), (1, 0, 0));
        apply(&mut rows, stored.orphans);
        assert_eq!(rows.into_keys().collect::<Vec<_>>(), [key(b's', &[&3_u64.to_be_bytes()])]);
    }
}
