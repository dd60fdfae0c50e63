//! What carries messages from publishers to the connections that subscribe. Disposable: everything that must be kept is kept
//! elsewhere, so a fabric may die and be replaced. Knows nothing of QoS, sessions and rights beyond the permits it takes.

use super::message::{Message, Routed};
use hearthkey_core::{
    rights::{PublishPermit, SubscribePermit},
    topic::TopicFilter,
};
use std::{future::Future, sync::Arc};

/// A way from publishers to subscribers.
pub trait Fabric: Send + Sync + 'static {
    /// One subscriber's and publisher's end.
    type Link: Link;

    /// Opens a link; replaces a fabric that died.
    ///
    /// # Errors
    /// [`FabricGone`] if no fabric can be had.
    fn link(&self) -> impl Future<Output = Result<Self::Link, FabricGone>> + Send;

    /// Opens a link in place of one that died, and takes over what was published on it and not yet carried. Its
    /// subscriptions must be made anew.
    ///
    /// # Errors
    /// [`FabricGone`] if no fabric can be had.
    fn replace(&self, dead: Self::Link) -> impl Future<Output = Result<Self::Link, FabricGone>> + Send;

    /// How often a dead fabric was replaced.
    fn replacements(&self) -> u64;
}

/// A fabric that somebody else holds too.
impl<F: Fabric> Fabric for Arc<F> {
    type Link = F::Link;

    async fn link(&self) -> Result<F::Link, FabricGone> {
        F::link(self).await
    }

    async fn replace(&self, dead: F::Link) -> Result<F::Link, FabricGone> {
        F::replace(self, dead).await
    }

    fn replacements(&self) -> u64 {
        F::replacements(self)
    }
}

/// One end in a fabric. Dropping it ends its subscriptions.
pub trait Link: Send {
    /// Hands a message over, with who published it and the sessions that have it already ([`Routed`]); it travels with the
    /// next [`Link::flush`].
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>);

    /// Sends off what was published. Waits while the fabric is busy.
    ///
    /// # Errors
    /// [`FabricGone`]: what was published is carried by the link that replaces this one.
    fn flush(&mut self) -> impl Future<Output = Result<(), FabricGone>> + Send;

    /// Subscribes; returns when no later publish can be missed. Forwards will carry `number`.
    ///
    /// # Errors
    /// [`FabricGone`].
    fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> impl Future<Output = Result<(), FabricGone>> + Send;

    /// Ends a subscription; forwards that are under way may still come.
    ///
    /// # Errors
    /// [`FabricGone`].
    fn unsubscribe(&mut self, filter: &TopicFilter) -> impl Future<Output = Result<(), FabricGone>> + Send;

    /// The next forward. May be dropped while it waits without losing one.
    ///
    /// # Errors
    /// [`FabricGone`].
    fn pull(&mut self) -> impl Future<Output = Result<Forward, FabricGone>> + Send;

    /// The next forward if one is at hand.
    fn try_pull(&mut self) -> Option<Forward>;
}

/// A message for one subscription of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The number given when subscribing.
    pub subscription: u32,
    /// The message; its content is shared with other subscribers.
    pub routed: Arc<Routed>,
    /// Messages of this subscription that the fabric dropped before this one, since they were not pulled in time.
    pub lost: u64,
}

/// The fabric has died; a new link leads to its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message fabric died")]
pub struct FabricGone;
