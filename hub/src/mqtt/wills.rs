//! Wills: stored as long as they are set, published when their connection is lost, and after a restart of the hub those of the
//! connections that ended with it, unless the client is back in time. Knows nothing of packets.

use super::{
    fabric::Fabric,
    front::{Inner, PublishError},
    gate::{Gate, Happening, SessionEvent},
    message::Routed,
    packet::Will,
    rows::{self, StoredWill, WillRow},
    slot::{SessionKey, lock},
};
use futures_util::future::join_all;
use hearthkey_core::{Seconds, rights::Rights, session::Authority, write::Write};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// A will that is to be published if the connection is lost.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) will: Will,
    /// On what the session stands: a will that fires later is judged anew.
    authority: Authority,
    /// When a will that outlived its connection is due.
    pub(super) due: Option<Instant>,
    number: u64,
    /// How many rows it has.
    parts: u16,
}

/// A will whose time has come.
#[derive(Debug)]
pub(super) struct Firing {
    key: SessionKey,
    armed: Armed,
    /// Those that the session had, for a will that fires with its connection; a later one has those of the moment.
    rights: Option<Arc<Rights>>,
}

/// The wills of connections that ended with the hub.
#[derive(Debug, Default)]
pub(super) struct LeftBehind(HashMap<SessionKey, Armed>);

impl Armed {
    /// A will of a connection, and the rows to write.
    pub(super) fn new(number: u64, will: Will, key: &SessionKey, authority: &Authority) -> (Self, Vec<Write>) {
        let mut armed = Self { will, authority: authority.clone(), due: None, number, parts: 0 };
        let writes = armed.put(key);
        (armed, writes)
    }

    /// The session stands on something else from now on. Returns the rows to write.
    pub(super) fn stand_on(&mut self, key: &SessionKey, authority: &Authority) -> Vec<Write> {
        self.authority = authority.clone();
        self.put(key)
    }

    /// It fires now.
    pub(super) fn fires(self, key: &SessionKey, rights: Option<Arc<Rights>>) -> Firing {
        Firing { key: key.clone(), armed: self, rights }
    }

    /// Whether its time has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// The rows to delete when it is no more.
    pub(super) fn forget(&self) -> impl Iterator<Item = Write> + use<> {
        rows::delete_will(self.number, self.parts)
    }

    fn put(&mut self, key: &SessionKey) -> Vec<Write> {
        let row = WillRow {
            principal: key.principal.clone(),
            client_identifier: key.client_identifier.clone(),
            proof: self.authority.proof.clone(),
            delay: self.will.delay,
            expiry: self.will.expiry,
        };
        let Will { topic, message, .. } = self.will.clone();
        let routed = Routed { topic, message, publisher: None, queued_for: Box::default() };
        let (writes, parts) = rows::put_will(self.number, &row, &routed, self.parts);
        self.parts = parts;
        writes
    }
}

impl LeftBehind {
    /// Takes over what was stored, as of connections that end now. One of a session that is kept waits for its delay or the
    /// session's end, as ever; all wait for `grace`, since it was the hub that went and not the client. Of two wills of a client the
    /// later one stands. Returns the rows to write, too.
    pub(super) fn new(stored: Vec<StoredWill>, grace: Duration, kept_for: impl Fn(&SessionKey) -> Seconds) -> (Self, Vec<Write>) {
        let now = Instant::now();
        let (mut left, mut writes) = (HashMap::new(), Vec::new());
        for StoredWill { number, parts, row, routed } in stored {
            let WillRow { principal, client_identifier, proof, delay, expiry } = row;
            let key = SessionKey { principal: principal.clone(), client_identifier };
            let delayed = Duration::from_secs(u64::from(delay).min(kept_for(&key).0));
            let will = Will { topic: routed.topic, message: routed.message, expiry, delay };
            let due = Some(now + delayed.max(grace));
            let armed = Armed { will, authority: Authority { principal, proof }, due, number, parts };
            writes.extend(left.insert(key, armed).iter().flat_map(Armed::forget));
        }
        (Self(left), writes)
    }

    /// The client is back.
    pub(super) fn take(&mut self, key: &SessionKey) -> Option<Armed> {
        self.0.remove(key)
    }

    /// Whose clients did not come back in time.
    fn due(&self, now: Instant) -> Vec<SessionKey> {
        self.0.iter().filter(|(_, armed)| armed.is_due(now)).map(|(key, _)| key.clone()).collect()
    }
}

impl<G: Gate, F: Fabric> Inner<G, F> {
    /// Publishes wills, each as far as the rights of its session allow at this moment.
    pub(super) async fn publish_wills(&self, firing: Vec<Firing>) {
        // Together, as one write of the disk serves them all.
        join_all(firing.into_iter().map(|firing| self.publish_will(firing))).await;
    }

    async fn publish_will(&self, Firing { key, armed, rights }: Firing) {
        // That the token has run out meanwhile is what a delayed will is for.
        let rights = match rights.map_or_else(|| self.gate.judge_will(&armed.authority), Ok) {
            Ok(rights) => rights,
            Err(reason) => {
                tracing::info!(client_identifier = %key.client_identifier, reason = reason.word(), "a will is not published");
                return self.persister.store_some_time(armed.forget().collect());
            }
        };
        let Will { topic, mut message, expiry, .. } = armed.will.clone();
        message.expires_at = expiry.map(|seconds| self.gate.now().plus(Seconds(u64::from(seconds))));
        let refused = match rights.authorize_publish(topic) {
            Ok(permit) => match self.publish(&permit, &message, Some(&key), armed.forget().collect()).await {
                Ok(()) => return,
                Err(PublishError::RetainedFull(words)) => Happening::Limited { limit: format!("will: {words}") },
                Err(error @ (PublishError::NotStored | PublishError::Fabric(_))) => {
                    return tracing::warn!(client_identifier = %key.client_identifier, %error, "a will was not published");
                }
            },
            Err(denied) => Happening::Denied(denied),
        };
        self.persister.store_some_time(armed.forget().collect());
        self.counters.denied.fetch_add(1, Ordering::Relaxed);
        let SessionKey { principal, client_identifier } = key;
        // Where its client was, nobody knows any more.
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        self.gate.record(SessionEvent { client_identifier, principal: Some(principal), peer, what: refused });
    }

    /// Publishes the wills of those who were connected when the hub ended and did not come back in time.
    pub(super) async fn publish_wills_left_behind(&self, now: Instant) {
        let due = lock(&self.left_behind).due(now);
        join_all(due.iter().map(async |key| {
            // In its turn: who is back by then is not announced dead behind its own back.
            let left = lock(&self.left_behind).take(key);
            if let Some(armed) = left {
                self.publish_will(armed.fires(key, None)).await;
            }
        }))
        .await;
    }
}
