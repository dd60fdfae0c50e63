//! Where a session lives while connections come and go: its state, the connection that holds it, and the way to reach that
//! connection.

use super::{
    limits::MAX_OFFERED_COMMANDS,
    rows::{self, SessionRow},
    session::{Pending, QueueBounds, Session},
    wills::Armed,
};
use hearthkey_core::{
    Seconds,
    rights::Rights,
    session::{Authority, EndReason, Principal, Standing},
    write::Write,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{sync::Notify, time::Instant};

/// Whose session it is. The principal is part of the name: nobody takes over another's session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) principal: Principal,
    pub(super) client_identifier: Box<str>,
}

/// A session and who holds it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: SessionKey,
    pub(super) number: u64,
    /// Whether it outlives its connections, and therefore has rows.
    pub(super) is_durable: bool,
    pub(super) state: Mutex<SlotState>,
    /// How often it was asked what the session's authority amounts to.
    pub(super) questions: AtomicU64,
    /// A message was queued for the connection that holds the session.
    pub(super) wake: Notify,
}

#[derive(Debug)]
pub(super) struct SlotState {
    pub(super) session: Session,
    pub(super) attached: Option<Attached>,
    /// Boxed: few have a will.
    pub(super) armed: Option<Box<Armed>>,
    pub(super) expiry: Seconds,
    pub(super) detached_at: Option<Instant>,
    pub(super) next_position: u64,
    pub(super) is_discarded: bool,
    /// Whether a loss was recorded since the client was last here.
    pub(super) overflowed: bool,
    /// Messages that the queue of a session that outlives its connections lost since its client was last told.
    pub(super) dropped: u64,
    /// Messages that the client was promised and will not get unless it subscribes again: the connection is to end.
    pub(super) lost: u64,
    pub(super) offered: OfferedCommands,
}

/// The ids of the newest commands that a session got because they waited for it. One that is kept and not yet published when it
/// begins to listen comes by its publish too, and must not come to it twice.
#[derive(Debug, Default)]
pub(super) struct OfferedCommands(VecDeque<Box<str>>);

impl OfferedCommands {
    pub(super) fn remember(&mut self, id: &str) {
        if self.has(id) {
            return;
        }
        if self.0.len() >= MAX_OFFERED_COMMANDS {
            self.0.pop_front();
        }
        self.0.push_back(id.into());
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|offered| **offered == *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The connection that holds a session.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) connection: u64,
    pub(super) authority: Authority,
    pub(super) rights: Arc<Rights>,
    /// The last question whose answer was obeyed.
    pub(super) judged: u64,
    pub(super) control: Arc<Control>,
}

/// What others tell a connection. Only the last word counts, so nothing piles up.
#[derive(Debug, Default)]
pub(super) struct Control {
    has_word: AtomicBool,
    word: Mutex<Word>,
    notify: Notify,
}

/// What a connection is told.
#[derive(Debug, Default)]
pub(super) struct Word {
    pub(super) end: Option<EndReason>,
    pub(super) standing: Option<Standing>,
}

impl Control {
    /// The connection is to end; the first reason stands.
    pub(super) fn end(&self, reason: EndReason) {
        lock(&self.word).end.get_or_insert(reason);
        self.announce();
    }

    /// The rights of the connection have changed.
    pub(super) fn replace_standing(&self, standing: Standing) {
        lock(&self.word).standing = Some(standing);
        self.announce();
    }

    /// What there is to obey, if anything. Costs next to nothing when there is not.
    pub(super) fn take(&self) -> Option<Word> {
        if !self.has_word.load(Ordering::Acquire) {
            return None;
        }
        let mut word = lock(&self.word);
        self.has_word.store(false, Ordering::Release);
        // An end stays an end.
        Some(Word { end: word.end.clone(), standing: word.standing.take() })
    }

    /// Waits for a word.
    pub(super) async fn announced(&self) {
        self.notify.notified().await;
    }

    fn announce(&self) {
        self.has_word.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

impl Slot {
    pub(super) fn new(key: SessionKey, number: u64, expiry: Seconds, bounds: QueueBounds) -> Self {
        Self {
            key,
            number,
            is_durable: expiry.0 > 0,
            state: Mutex::new(SlotState {
                session: Session::new(bounds),
                attached: None,
                armed: None,
                expiry,
                detached_at: None,
                next_position: 1,
                is_discarded: false,
                overflowed: false,
                dropped: 0,
                lost: 0,
                offered: OfferedCommands::default(),
            }),
            questions: AtomicU64::new(0),
            wake: Notify::new(),
        }
    }

    /// What is stored of it while it has a connection.
    pub(super) fn row(&self, expiry: Seconds) -> SessionRow {
        SessionRow {
            principal: self.key.principal.clone(),
            client_identifier: self.key.client_identifier.clone(),
            expiry: expiry.0,
            left_at: None,
        }
    }

    /// The rows to delete when a message has left the session.
    pub(super) fn forget_row(&self, pending: &Pending) -> Vec<Write> {
        pending.row.map_or_else(Vec::new, |position| rows::delete_queued(self.number, position, pending).collect())
    }

    /// The rows to write when only the packet identifier of a QoS 2 message is to be kept.
    pub(super) fn release_row(&self, pending: &Pending, packet_identifier: Option<u16>) -> Vec<Write> {
        let identifier = packet_identifier.or(pending.reserved.map(|reserved| reserved.packet_identifier));
        let mut writes = self.forget_row(pending);
        if let (Some(position), Some(identifier)) = (pending.row, identifier) {
            writes.push(rows::put_released(self.number, position, identifier));
        }
        writes
    }
}

/// Locks; a panic elsewhere while it was held leaves the value as it was, which each holder here keeps consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_remembers_the_newest_commands_that_it_was_offered() {
        let mut offered = OfferedCommands::default();
        assert!(offered.is_empty());
        for number in 0..=MAX_OFFERED_COMMANDS {
            for _ in 0..2 {
                offered.remember(&format!("c-{number}"));
            }
        }
        assert!(!offered.has("c-0") && offered.has("c-1") && offered.has(&format!("c-{MAX_OFFERED_COMMANDS}")));
        assert_eq!(offered.0.len(), MAX_OFFERED_COMMANDS);
    }
}
