//! Refused proofs on their way into the audit log: aggregated, bounded, and nobody waits for them.

use crate::hub::Hub;
use hearthkey_core::{
    UnixTime,
    audit::{AuditDraft, Outcome},
    audit_flood::AuditFlood,
    oauth::OAuthError,
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Most refusals that wait to be written. At the bound the newest are not audited: a flood must not cost more than it is worth.
const MAX_WAITING: usize = 1_024;
/// Most that one batch writes.
const MAX_AT_ONCE: usize = 256;
/// How often counted refusals are looked through.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// Takes refusals. The task that writes them ends when this is dropped.
#[derive(Debug)]
pub(super) struct Refusals(mpsc::Sender<(AuditDraft, String)>);

impl Refusals {
    /// A taker, and the task that writes down what it takes.
    pub(super) fn new(hub: Arc<Hub>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, inbox) = mpsc::channel(MAX_WAITING);
        (Self(sender), write_down(hub, inbox))
    }

    /// Notes that a proof from `source` was refused. The evidence stays in the log: it differs with each guess.
    pub(super) fn note(&self, action: &'static str, target: &str, error: &OAuthError, source: IpAddr) {
        let draft = AuditDraft {
            actor: "anonymous".to_owned(),
            action,
            target: target.to_owned(),
            outcome: Outcome::Denied,
            reason: error.to_string(),
            count: 1,
        };
        if self.0.try_send((draft, source.to_string())).is_err() {
            tracing::debug!("a refusal is not audited: {MAX_WAITING} wait already");
        }
    }
}

async fn write_down(hub: Arc<Hub>, mut inbox: mpsc::Receiver<(AuditDraft, String)>) {
    let mut flood = AuditFlood::default();
    let mut tick = tokio::time::interval(COUNTED_EVERY);
    let mut noted = Vec::with_capacity(MAX_AT_ONCE);
    loop {
        let entries = tokio::select! {
            received = inbox.recv_many(&mut noted, MAX_AT_ONCE) => {
                if received == 0 {
                    break;
                }
                let now = hub.now();
                noted.drain(..).filter_map(|(draft, source)| flood.note(draft, &source, now)).collect()
            }
            _ = tick.tick() => flood.ended(hub.now()),
        };
        hub.record(entries).await;
    }
    hub.record(flood.ended(UnixTime(u64::MAX))).await;
}
