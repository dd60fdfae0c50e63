//! What happened, in order, hash-chained: an entry that was changed or removed shows.

use crate::{UnixTime, hex};
use ring::digest;
use serde::{Deserialize, Serialize};

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Success,
    /// Policy refused it.
    Denied,
    /// It was tried and failed.
    Failure,
}

/// One entry. No secret ever stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Numbered from 1 without a gap.
    pub seq: u64,
    /// When.
    pub time: UnixTime,
    /// Who: `user owner`, `device lamp`, `hub`, `anonymous`.
    pub actor: String,
    /// What: `device.revoke`, `token.issue`, `mqtt.connect`.
    pub action: String,
    /// Upon what: `device lamp`, `topic dev/oven/tele/x`.
    pub target: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where it was refused or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The peer's address, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The request that it belongs to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// How many like events this stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// SHA-256 of the stored bytes of the entry before, hexadecimal; zeros before the first.
    pub previous: String,
}

/// An entry before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditDraft {
    /// See [`AuditRecord::actor`].
    pub actor: String,
    /// See [`AuditRecord::action`].
    pub action: &'static str,
    /// See [`AuditRecord::target`].
    pub target: String,
    /// See [`AuditRecord::outcome`].
    pub outcome: Outcome,
    /// See [`AuditRecord::reason`].
    pub reason: String,
    /// See [`AuditRecord::count`].
    pub count: u64,
}

/// Which entries somebody wants to see; what is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// How the actor begins.
    pub actor: Option<String>,
    /// How the action begins.
    pub action: Option<String>,
    /// How the target begins.
    pub target: Option<String>,
    /// The outcome.
    pub outcome: Option<Outcome>,
    /// Not before this.
    pub since: Option<UnixTime>,
    /// Before this.
    pub until: Option<UnixTime>,
}

/// The end of the chain: what the next entry continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// The number of the last entry; 0 if there is none.
    pub seq: u64,
    /// SHA-256 of its stored bytes, hexadecimal.
    pub hash: String,
}

/// Where a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    /// An entry is no entry.
    #[error("audit entry {0} cannot be read")]
    Unreadable(u64),
    /// A number is missing.
    #[error("audit entry {0} is missing")]
    Missing(u64),
    /// An entry was changed, or the one before it.
    #[error("audit entry {0} was changed, or the one that follows it")]
    Altered(u64),
    /// The last entry is not the one that the head names.
    #[error("the chain ends at {found}, it should end at {expected}")]
    End {
        /// The last entry found.
        found: u64,
        /// The last entry written.
        expected: u64,
    },
}

const fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

impl Filter {
    /// Whether any entry is wanted.
    #[must_use]
    pub fn wants_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an entry is wanted.
    #[must_use]
    pub fn wants(&self, record: &AuditRecord) -> bool {
        let begins = |text: &str, wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| text.starts_with(&**wanted));
        begins(&record.actor, &self.actor)
            && begins(&record.action, &self.action)
            && begins(&record.target, &self.target)
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
    }
}

impl Default for ChainHead {
    fn default() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

impl ChainHead {
    /// Appends an entry: the row's key and value, and the new head.
    ///
    /// # Panics
    /// Never: an entry is plain JSON.
    #[must_use]
    pub fn append(&self, draft: AuditDraft, time: UnixTime, source: &str, request_id: &str) -> (Self, Vec<u8>) {
        let AuditDraft { actor, action, target, outcome, reason, count } = draft;
        let record = AuditRecord {
            seq: self.seq + 1,
            time,
            actor: shortened(actor, 128),
            action: action.to_owned(),
            target: shortened(target, 1_200),
            outcome,
            reason: shortened(reason, 1_200),
            source: shortened(source.to_owned(), 64),
            request_id: shortened(request_id.to_owned(), 64),
            count,
            previous: self.hash.clone(),
        };
        let row = serde_json::to_vec(&record).expect("an entry is plain JSON");
        (Self::of_row(record.seq, &row), row)
    }

    /// The head of a chain that ends with a stored row.
    #[must_use]
    pub fn of_row(seq: u64, row: &[u8]) -> Self {
        Self { seq, hash: hash_of(row) }
    }
}

/// Bounds what a peer can write into one entry, in bytes of JSON: together the fields of an entry always fit into a row.
fn shortened(mut text: String, limit: usize) -> String {
    let mut written = 0;
    let end = text.char_indices().find_map(|(place, character)| {
        written += match character {
            '"' | '\\' => 2,
            control if control.is_ascii_control() => 6,
            other => other.len_utf8(),
        };
        (written > limit).then_some(place)
    });
    if let Some(end) = end {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn hash_of(row: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, row).as_ref())
}

/// Proves a chain: rows in order of their numbers, the first continuing `anchor`, the last being `head`.
///
/// # Errors
/// [`BrokenChain`] names the first entry at fault.
pub fn verify(anchor: &ChainHead, rows: impl Iterator<Item = impl AsRef<[u8]>>, head: &ChainHead) -> Result<u64, BrokenChain> {
    let mut at = anchor.clone();
    for row in rows {
        let row = row.as_ref();
        let expected = at.seq + 1;
        let record: AuditRecord = serde_json::from_slice(row).map_err(|_| BrokenChain::Unreadable(expected))?;
        if record.seq != expected {
            return Err(BrokenChain::Missing(expected));
        }
        if record.previous != at.hash {
            return Err(BrokenChain::Altered(at.seq));
        }
        at = ChainHead::of_row(record.seq, row);
    }
    match at.seq == head.seq {
        true if at.hash == head.hash => Ok(at.seq - anchor.seq),
        true => Err(BrokenChain::Altered(at.seq)),
        false => Err(BrokenChain::End { found: at.seq, expected: head.seq }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> (Vec<Vec<u8>>, ChainHead) {
        let mut head = ChainHead::default();
        let rows = (0..length)
            .map(|number| {
                let draft = AuditDraft {
                    actor: "hub".to_owned(),
                    action: "test",
                    target: format!("entry {number}"),
                    outcome: Outcome::Success,
                    reason: String::new(),
                    count: 1,
                };
                let (next, row) = head.append(draft, UnixTime(number), "", "");
                head = next;
                row
            })
            .collect();
        (rows, head)
    }

    fn check(rows: &[Vec<u8>], head: &ChainHead) -> Result<u64, BrokenChain> {
        verify(&ChainHead::default(), rows.iter().map(Vec::as_slice), head)
    }

    #[test]
    fn an_untouched_chain_holds() {
        let (rows, head) = chain(5);
        assert_eq!(check(&rows, &head), Ok(5));
    }

    #[test]
    fn an_entry_fits_into_a_row_whatever_a_peer_put_into_it() {
        for hostile in ["x", "\"", "\\", "\u{0}", "\u{7f}", "\n", "ä", "€", "😀"] {
            let text = hostile.repeat(5_000);
            let draft = AuditDraft {
                actor: text.clone(),
                action: "mqtt.authorize",
                target: text.clone(),
                outcome: Outcome::Success,
                reason: text.clone(),
                count: u64::MAX,
            };
            let head = ChainHead { seq: u64::MAX - 1, ..ChainHead::default() };
            let (_, row) = head.append(draft, UnixTime(u64::MAX), &text, &text);
            assert!(row.len() <= crate::write::MAX_VALUE_BYTES, "{} bytes of {hostile:?}", row.len());
            let record: AuditRecord = serde_json::from_slice(&row).expect("an entry");
            assert!(record.target.starts_with(hostile) && record.target.ends_with('…'));
        }
    }

    #[test]
    fn a_filter_wants_what_fits_in_every_respect() {
        let (rows, _) = chain(5);
        let records: Vec<AuditRecord> = rows.iter().map(|row| serde_json::from_slice(row).expect("an entry")).collect();
        let wanted = |filter: Filter| -> Vec<u64> {
            records.iter().filter(|record| filter.wants(record)).map(|record| record.seq).collect()
        };
        let text = |text: &str| Some(text.to_owned());
        assert!(Filter::default().wants_all());
        assert_eq!(wanted(Filter::default()), [1, 2, 3, 4, 5]);
        assert_eq!(wanted(Filter { target: text("entry 3"), ..Filter::default() }), [4]);
        assert_eq!(wanted(Filter { action: text("te"), actor: text("hub"), ..Filter::default() }), [1, 2, 3, 4, 5]);
        assert_eq!(wanted(Filter { action: text("est"), ..Filter::default() }), [0_u64; 0], "a prefix, not any part");
        assert_eq!(wanted(Filter { since: Some(UnixTime(1)), until: Some(UnixTime(3)), ..Filter::default() }), [2, 3]);
        assert_eq!(wanted(Filter { outcome: Some(Outcome::Denied), ..Filter::default() }), [0_u64; 0]);
        assert_eq!(wanted(Filter { actor: text("hub"), target: text("entry 9"), ..Filter::default() }), [0_u64; 0]);
    }

    #[test]
    fn an_entry_of_ordinary_length_is_kept_whole() {
        let topic = format!("topic {}", "\"".repeat(crate::limits::MAX_TOPIC_BYTES));
        assert_eq!(shortened(topic.clone(), 1_200), topic);
    }

    #[test]
    fn a_changed_removed_or_cut_off_entry_shows() {
        let (rows, head) = chain(5);
        for place in 0..5 {
            let mut changed = rows.clone();
            changed[place] = String::from_utf8(changed[place].clone()).expect("JSON").replace("entry", "Entry").into_bytes();
            assert!(check(&changed, &head).is_err(), "changed {place}");
            let mut removed = rows.clone();
            removed.remove(place);
            assert!(check(&removed, &head).is_err(), "removed {place}");
        }
    }
}
