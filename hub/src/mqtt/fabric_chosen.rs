//! The fabric that the configuration names.

use super::{
    fabric::{Fabric, FabricGone, Forward, Link},
    fabric_native::{NativeFabric, NativeLink},
    fabric_router::{RouterFabric, RouterLink},
    message::Message,
};
use hearthkey_core::{
    rights::{PublishPermit, SubscribePermit},
    topic::TopicFilter,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which fabric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FabricKind {
    /// rumqttd's router.
    Router,
    /// Our own trie and queues.
    #[default]
    Native,
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Router => "router",
            Self::Native => "native",
        })
    }
}

/// One of the fabrics.
pub enum ChosenFabric {
    /// rumqttd's router.
    Router(RouterFabric),
    /// Our own.
    Native(NativeFabric),
}

/// A link in one of the fabrics.
pub enum ChosenLink {
    /// To rumqttd's router.
    Router(Box<RouterLink>),
    /// To our own.
    Native(NativeLink),
}

impl ChosenFabric {
    /// Starts a fabric for at most so many links.
    #[must_use]
    pub fn new(kind: FabricKind, max_links: usize) -> Self {
        match kind {
            FabricKind::Router => Self::Router(RouterFabric::new(max_links)),
            FabricKind::Native => Self::Native(NativeFabric::default()),
        }
    }
}

impl Fabric for ChosenFabric {
    type Link = ChosenLink;

    async fn link(&self) -> Result<ChosenLink, FabricGone> {
        Ok(match self {
            Self::Router(fabric) => ChosenLink::Router(Box::new(fabric.link().await?)),
            Self::Native(fabric) => ChosenLink::Native(fabric.link().await?),
        })
    }

    async fn replace(&self, dead: ChosenLink) -> Result<ChosenLink, FabricGone> {
        Ok(match (self, dead) {
            (Self::Router(fabric), ChosenLink::Router(dead)) => ChosenLink::Router(Box::new(fabric.replace(*dead).await?)),
            (Self::Native(fabric), ChosenLink::Native(dead)) => ChosenLink::Native(fabric.replace(dead).await?),
            // A link of another fabric than this one.
            (Self::Router(_), ChosenLink::Native(_)) | (Self::Native(_), ChosenLink::Router(_)) => return Err(FabricGone),
        })
    }

    fn replacements(&self) -> u64 {
        match self {
            Self::Router(fabric) => fabric.replacements(),
            Self::Native(fabric) => fabric.replacements(),
        }
    }
}

impl Link for ChosenLink {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>) {
        match self {
            Self::Router(link) => link.publish(permit, message, publisher, queued_for),
            Self::Native(link) => link.publish(permit, message, publisher, queued_for),
        }
    }

    async fn flush(&mut self) -> Result<(), FabricGone> {
        match self {
            Self::Router(link) => link.flush().await,
            Self::Native(link) => link.flush().await,
        }
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        match self {
            Self::Router(link) => link.subscribe(permit, number).await,
            Self::Native(link) => link.subscribe(permit, number).await,
        }
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        match self {
            Self::Router(link) => link.unsubscribe(filter).await,
            Self::Native(link) => link.unsubscribe(filter).await,
        }
    }

    async fn pull(&mut self) -> Result<Forward, FabricGone> {
        match self {
            Self::Router(link) => link.pull().await,
            Self::Native(link) => link.pull().await,
        }
    }

    fn try_pull(&mut self) -> Option<Forward> {
        match self {
            Self::Router(link) => link.try_pull(),
            Self::Native(link) => link.try_pull(),
        }
    }
}
