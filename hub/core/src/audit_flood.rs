//! Makes one audit entry of many like events, so that a flood of connections or denials fills neither disk nor chain.
//!
//! The first event of a kind is written at once; those that follow within [`AUDIT_AGGREGATION`] are counted and become one
//! entry when the span ends. Knows no clock: time is an argument.

use crate::{
    UnixTime,
    audit::{AuditDraft, Outcome},
    limits::{AUDIT_AGGREGATION, MAX_AUDIT_KINDS},
};
use std::collections::BTreeMap;

/// Counts events by kind.
#[derive(Debug, Default)]
pub struct AuditFlood {
    spans: BTreeMap<Kind, Span>,
    /// Events of kinds that found no room, by action and outcome.
    others: BTreeMap<(&'static str, Outcome), u64>,
}

/// What makes two events alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    actor: String,
    action: &'static str,
    target: String,
    outcome: Outcome,
    reason: String,
    source: String,
}

#[derive(Debug)]
struct Span {
    ends_at: UnixTime,
    further: u64,
}

/// An entry to write, and the address that it is about.
pub type Entry = (AuditDraft, String);

impl AuditFlood {
    /// Takes an event: the entry to write now, if it is the first of its kind in a while.
    #[must_use]
    pub fn note(&mut self, draft: AuditDraft, source: &str, now: UnixTime) -> Option<Entry> {
        let AuditDraft { actor, action, target, outcome, reason, count } = draft;
        let kind = Kind { actor, action, target, outcome, reason, source: source.to_owned() };
        if let Some(span) = self.spans.get_mut(&kind) {
            span.further += count;
            return None;
        }
        if self.spans.len() >= MAX_AUDIT_KINDS {
            *self.others.entry((action, outcome)).or_default() += count;
            return None;
        }
        self.spans.insert(kind.clone(), Span { ends_at: now.plus(AUDIT_AGGREGATION), further: 0 });
        Some(kind.entry(count))
    }

    /// The entries of all spans that have ended; at the end of a hub's run pass a time far ahead.
    #[must_use]
    pub fn ended(&mut self, now: UnixTime) -> Vec<Entry> {
        let ended = self.spans.extract_if(.., |_, span| span.ends_at <= now);
        let mut entries: Vec<Entry> =
            ended.filter(|(_, span)| span.further > 0).map(|(kind, span)| kind.entry(span.further)).collect();
        if !entries.is_empty() || self.spans.len() < MAX_AUDIT_KINDS {
            entries.extend(std::mem::take(&mut self.others).into_iter().map(|((action, outcome), count)| {
                let (actor, target, reason) =
                    ("several".to_owned(), "several".to_owned(), "too many different ones to list".to_owned());
                (AuditDraft { actor, action, target, outcome, reason, count }, String::new())
            }));
        }
        entries
    }
}

impl Kind {
    fn entry(self, count: u64) -> Entry {
        let Self { actor, action, target, outcome, reason, source } = self;
        (AuditDraft { actor, action, target, outcome, reason, count }, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(target: &str) -> AuditDraft {
        AuditDraft {
            actor: "device lamp".to_owned(),
            action: "mqtt.authorize",
            target: target.to_owned(),
            outcome: Outcome::Denied,
            reason: "no permission".to_owned(),
            count: 1,
        }
    }

    #[test]
    fn a_flood_of_like_events_becomes_two_entries_and_no_event_is_forgotten() {
        let mut flood = AuditFlood::default();
        let now = UnixTime(1_000);
        let written = (0..1_000).filter_map(|_| flood.note(denial("a"), "::1", now)).count();
        assert_eq!(written, 1);
        assert_eq!(flood.ended(now), []);
        let ended = flood.ended(now.plus(AUDIT_AGGREGATION));
        assert_eq!(ended.iter().map(|(draft, _)| draft.count).collect::<Vec<_>>(), [999]);
        assert!(flood.note(denial("a"), "::1", now.plus(AUDIT_AGGREGATION)).is_some(), "a span later it is news again");
    }

    #[test]
    fn a_flood_of_different_events_is_bounded_and_counted() {
        let mut flood = AuditFlood::default();
        let now = UnixTime(1_000);
        let many = u64::try_from(MAX_AUDIT_KINDS).expect("small") * 3;
        let written: u64 =
            (0..many).filter_map(|place| flood.note(denial(&place.to_string()), "::1", now)).map(|(draft, _)| draft.count).sum();
        let later: u64 = flood.ended(now.plus(AUDIT_AGGREGATION)).iter().map(|(draft, _)| draft.count).sum();
        assert_eq!(written + later, many);
        assert_eq!(written, many / 3);
    }
}
