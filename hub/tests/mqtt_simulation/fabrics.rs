//! The fabrics that the homes run on, and one that loses messages.

use hearthkey::mqtt::fabric::{Fabric, FabricGone, Forward, Link};
use hearthkey::mqtt::fabric_native::NativeFabric;
use hearthkey::mqtt::fabric_router::RouterFabric;
use hearthkey::mqtt::message::Message;
use hearthkey_core::rights::{PublishPermit, SubscribePermit};
use hearthkey_core::topic::TopicFilter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A fabric that a life can be lived on.
pub(crate) trait Ground: Fabric + Clone {
    /// How the seeds of a failure name it.
    const NAME: &'static str;
    /// Whether another thread carries the messages, so that waiting needs real time.
    const HAS_THREAD: bool;
    /// How long to wait, in real time, for what must come.
    const PATIENCE: Duration = crate::support::PATIENCE;

    fn new() -> Self;

    /// Dies, if it can; whether it did.
    fn die(&self) -> impl Future<Output = bool> + Send + 'static;
}

impl Ground for Arc<RouterFabric> {
    const NAME: &'static str = "router";
    const HAS_THREAD: bool = true;

    fn new() -> Self {
        Self::new(RouterFabric::new(64))
    }

    fn die(&self) -> impl Future<Output = bool> + Send + 'static {
        let router = self.clone();
        async move {
            router.kill().await;
            true
        }
    }
}

impl Ground for NativeFabric {
    const NAME: &'static str = "native";
    const HAS_THREAD: bool = false;

    fn new() -> Self {
        Self::default()
    }

    /// It has nothing that could die without the hub.
    fn die(&self) -> impl Future<Output = bool> + Send + 'static {
        std::future::ready(false)
    }
}

/// Loses every seventh message: what the checks must see.
#[derive(Clone)]
pub(crate) struct Lossy<F>(F, Arc<AtomicUsize>);

pub(crate) struct LossyLink<L>(L, Arc<AtomicUsize>);

impl<F: Ground> Ground for Lossy<F> {
    const NAME: &'static str = "lossy";
    const HAS_THREAD: bool = F::HAS_THREAD;
    const PATIENCE: Duration = Duration::from_secs(2);

    fn new() -> Self {
        Self(F::new(), Arc::default())
    }

    fn die(&self) -> impl Future<Output = bool> + Send + 'static {
        std::future::ready(false)
    }
}

impl<F: Fabric> Fabric for Lossy<F> {
    type Link = LossyLink<F::Link>;

    async fn link(&self) -> Result<Self::Link, FabricGone> {
        Ok(LossyLink(self.0.link().await?, self.1.clone()))
    }

    async fn replace(&self, dead: Self::Link) -> Result<Self::Link, FabricGone> {
        Ok(LossyLink(self.0.replace(dead.0).await?, self.1.clone()))
    }

    fn replacements(&self) -> u64 {
        self.0.replacements()
    }
}

impl<L: Link> Link for LossyLink<L> {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>) {
        if self.1.fetch_add(1, Ordering::Relaxed) % 7 != 6 {
            self.0.publish(permit, message, publisher, queued_for);
        }
    }

    async fn flush(&mut self) -> Result<(), FabricGone> {
        self.0.flush().await
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        self.0.subscribe(permit, number).await
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        self.0.unsubscribe(filter).await
    }

    async fn pull(&mut self) -> Result<Forward, FabricGone> {
        self.0.pull().await
    }

    fn try_pull(&mut self) -> Option<Forward> {
        self.0.try_pull()
    }
}
