//! Follows messages inside the hub, for the owner's `hearthkey watch`: as a subscriber without a connection.

use super::{
    fabric::{FabricGone, Link},
    message::Routed,
};
use hearthkey_core::rights::{Denied, Rights};
use std::{collections::VecDeque, sync::Arc};

/// A stream of messages, each authorized when it is handed out. What is not fetched in time is dropped, oldest first, and
/// counted. Ends the subscription when dropped.
pub struct Watch<L: Link> {
    link: L,
    rights: Arc<Rights>,
    waiting: VecDeque<Watched>,
}

/// What a watcher sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// A message that was kept before the watch began.
    Retained(Routed),
    /// A message as it is published.
    Message(Routed),
    /// So many messages were dropped here, since the watcher was too slow.
    Lost(u64),
}

/// Why a watch did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The rights do not cover the filter.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The router is gone.
    #[error(transparent)]
    Fabric(#[from] FabricGone),
}

impl<L: Link> Watch<L> {
    pub(super) fn new(link: L, rights: Arc<Rights>, retained: Vec<Arc<Routed>>) -> Self {
        let waiting = retained.into_iter().map(|routed| Watched::Retained((*routed).clone())).collect();
        Self { link, rights, waiting }
    }

    /// The next message; nothing when the watch ended because the router died, and a new one is to be begun. May be dropped
    /// while it waits without losing a message.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            match self.waiting.pop_front() {
                Some(Watched::Retained(routed)) if self.rights.authorize_delivery(&routed.topic).is_err() => {}
                Some(watched) => return Some(watched),
                None => {
                    let forward = self.link.pull().await.ok()?;
                    if forward.lost > 0 {
                        self.waiting.push_back(Watched::Lost(forward.lost));
                    }
                    if self.rights.authorize_delivery(&forward.routed.topic).is_ok() {
                        self.waiting.push_back(Watched::Message(Arc::unwrap_or_clone(forward.routed)));
                    }
                }
            }
        }
    }

    /// Replaces the rights, after a change of policy.
    pub fn replace_rights(&mut self, rights: Arc<Rights>) {
        self.rights = rights;
    }
}
