//! Publishers put messages straight into the queues of subscribers: a [`Fabric`] without a thread of its own and without a
//! log, so it never dies and keeps nothing of a topic that is no longer used.
//!
//! Subscriptions live in one trie. A publish is matched under its read lock and pushed to the queue of each link that
//! matches; a run of messages on one topic is matched once, and a sleeping subscriber is woken once for all that a flush
//! brings. The content is shared by all queues that hold it.
//!
//! A queue is bounded in messages and bytes. Whoever does not read loses the oldest of its own messages and is told how many;
//! nobody waits for it, except that a publisher lets others run once when a queue is filling up.

use super::{
    fabric::{Fabric, FabricGone, Forward, Link},
    limits::{NATIVE_QUEUE_BYTES, NATIVE_QUEUE_MESSAGES},
    message::{Message, Routed},
    slot::lock,
    trie::Trie,
};
use bytes::Bytes;
use hearthkey_core::{
    rights::{PublishPermit, SubscribePermit},
    topic::TopicFilter,
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll, Waker},
};

/// Room that an idle link keeps for what comes next, in messages.
const IDLE_QUEUE_CAPACITY: usize = 16;

/// The native fabric.
#[derive(Debug, Clone, Default)]
pub struct NativeFabric(Arc<RwLock<Trie<Target>>>);

/// A subscription as publishers see it.
#[derive(Debug)]
struct Target {
    queue: Arc<Queue>,
    number: u32,
}

/// What waits for one link.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    forwards: VecDeque<Forward>,
    bytes: usize,
    /// By subscription: what was dropped and not yet told. At most one entry for each subscription.
    lost: Vec<(u32, u64)>,
    /// Of the link's task, while it waits.
    sleeper: Option<Waker>,
}

/// A link's end in the native fabric.
#[derive(Debug)]
pub struct NativeLink {
    fabric: NativeFabric,
    queue: Arc<Queue>,
    filters: Vec<TopicFilter>,
    unsent: Vec<Arc<Routed>>,
    /// Taken off the queue, all at once.
    arrived: VecDeque<Forward>,
}

impl Fabric for NativeFabric {
    type Link = NativeLink;

    async fn link(&self) -> Result<NativeLink, FabricGone> {
        Ok(NativeLink {
            fabric: self.clone(),
            queue: Arc::default(),
            filters: Vec::new(),
            unsent: Vec::new(),
            arrived: VecDeque::new(),
        })
    }

    /// No link of this fabric dies; whoever wants another all the same loses nothing that it published.
    async fn replace(&self, mut dead: NativeLink) -> Result<NativeLink, FabricGone> {
        let mut link = self.link().await?;
        link.unsent = mem::take(&mut dead.unsent);
        Ok(link)
    }

    fn replacements(&self) -> u64 {
        0
    }
}

impl Link for NativeLink {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>) {
        // A copy: what came from a socket is a slice of a larger buffer, and may wait here.
        let payload = Bytes::copy_from_slice(&message.payload);
        let message = Message { payload, ..message.clone() };
        self.unsent.push(Arc::new(Routed { topic: permit.topic().clone(), message, publisher, queued_for }));
    }

    async fn flush(&mut self) -> Result<(), FabricGone> {
        if !self.unsent.is_empty() && self.carry() == Pressure::High {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        let filter = &permit.subscription().filter;
        let target = Target { queue: self.queue.clone(), number };
        self.fabric.0.write().unwrap_or_else(PoisonError::into_inner).insert(filter, target);
        self.filters.reserve_exact(1);
        self.filters.push(filter.clone());
        Ok(())
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        self.filters.retain(|held| held != filter);
        self.forget(filter);
        Ok(())
    }

    fn pull(&mut self) -> impl Future<Output = Result<Forward, FabricGone>> + Send {
        poll_fn(|context| self.poll_pull(context).map(Ok))
    }

    fn try_pull(&mut self) -> Option<Forward> {
        if self.arrived.is_empty() {
            lock(&self.queue.0).take_all(&mut self.arrived);
        }
        self.arrived.pop_front()
    }
}

/// How full the fullest queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pressure {
    Low,
    /// Half full: its reader should get a turn before more comes.
    High,
}

impl NativeLink {
    /// Puts what was published into the queues, and then wakes who waits for it.
    fn carry(&mut self) -> Pressure {
        let mut pressure = Pressure::Low;
        let mut sleepers = Vec::new();
        {
            let subscriptions = self.fabric.0.read().unwrap_or_else(PoisonError::into_inner);
            for same_topic in self.unsent.chunk_by(|one, next| one.topic == next.topic) {
                let Some(first) = same_topic.first() else { continue };
                subscriptions.each_match(&first.topic, |target| {
                    let mut waiting = lock(&target.queue.0);
                    pressure = pressure.max(waiting.offer(target.number, same_topic));
                    sleepers.extend(waiting.sleeper.take());
                });
            }
        }
        self.unsent.clear();
        self.unsent.shrink_to(IDLE_QUEUE_CAPACITY);
        sleepers.into_iter().for_each(Waker::wake);
        pressure
    }

    fn poll_pull(&mut self, context: &Context<'_>) -> Poll<Forward> {
        if let Some(forward) = self.arrived.pop_front() {
            return Poll::Ready(forward);
        }
        let mut waiting = lock(&self.queue.0);
        waiting.take_all(&mut self.arrived);
        if let Some(forward) = self.arrived.pop_front() {
            return Poll::Ready(forward);
        }
        waiting.forwards.shrink_to(IDLE_QUEUE_CAPACITY);
        match &mut waiting.sleeper {
            Some(sleeper) => sleeper.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        drop(waiting);
        self.arrived.shrink_to(IDLE_QUEUE_CAPACITY);
        Poll::Pending
    }

    fn forget(&self, filter: &TopicFilter) {
        let mut subscriptions = self.fabric.0.write().unwrap_or_else(PoisonError::into_inner);
        subscriptions.remove(filter, |target| Arc::ptr_eq(&target.queue, &self.queue));
    }
}

impl Drop for NativeLink {
    fn drop(&mut self) {
        self.carry();
        for filter in mem::take(&mut self.filters) {
            self.forget(&filter);
        }
    }
}

impl Waiting {
    fn offer(&mut self, subscription: u32, messages: &[Arc<Routed>]) -> Pressure {
        for routed in messages {
            self.bytes += routed.weight();
            self.forwards.push_back(Forward { subscription, routed: routed.clone(), lost: 0 });
            // One message always fits.
            while self.forwards.len() > NATIVE_QUEUE_MESSAGES || self.bytes > NATIVE_QUEUE_BYTES && self.forwards.len() > 1 {
                let Some(oldest) = self.forwards.pop_front() else { break };
                self.bytes = self.bytes.saturating_sub(oldest.routed.weight());
                self.note_loss(oldest.subscription);
            }
        }
        let is_filling = self.forwards.len() > NATIVE_QUEUE_MESSAGES / 2 || self.bytes > NATIVE_QUEUE_BYTES / 2;
        if is_filling { Pressure::High } else { Pressure::Low }
    }

    fn note_loss(&mut self, subscription: u32) {
        match self.lost.iter_mut().find(|(known, _)| *known == subscription) {
            Some((_, count)) => *count += 1,
            None => self.lost.push((subscription, 1)),
        }
    }

    /// Moves everything to an empty queue; the first forward of a subscription after a loss tells of it.
    fn take_all(&mut self, empty: &mut VecDeque<Forward>) {
        mem::swap(&mut self.forwards, empty);
        self.bytes = 0;
        if self.lost.is_empty() {
            return;
        }
        for forward in empty {
            if let Some(index) = self.lost.iter().position(|(subscription, _)| *subscription == forward.subscription) {
                forward.lost = self.lost.swap_remove(index).1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::message::QoS;
    use futures_util::FutureExt;
    use hearthkey_core::{
        rights::Rights,
        scope::PermissionName,
        topic::{SubscriptionFilter, TopicName},
    };
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    fn rights() -> Rights {
        Rights::granting("test", &PermissionName::parse("all").expect("legal"), &["#"], &["#"])
    }

    fn publish(link: &mut NativeLink, topic: &str, payload: &[u8]) {
        let permit = rights().authorize_publish(TopicName::parse(topic).expect("legal")).expect("granted");
        let message = Message { payload: Bytes::copy_from_slice(payload), qos: QoS::AtMostOnce, ..Message::default() };
        link.publish(&permit, &message, Some(7), Box::default());
    }

    async fn subscribe(link: &mut NativeLink, filter: &str, number: u32) {
        let permit = rights().authorize_subscribe(SubscriptionFilter::parse(filter).expect("legal")).expect("granted");
        link.subscribe(&permit, number).await.expect("alive");
    }

    /// (subscription, payload, lost)
    fn pulled(link: &mut NativeLink) -> Vec<(u32, String, u64)> {
        let text = |forward: &Forward| String::from_utf8_lossy(&forward.routed.message.payload).into_owned();
        std::iter::from_fn(|| link.try_pull()).map(|forward| (forward.subscription, text(&forward), forward.lost)).collect()
    }

    #[tokio::test]
    async fn each_matching_subscription_gets_each_message_in_order() {
        let fabric = NativeFabric::default();
        let (mut one, mut other) = (fabric.link().await.expect("alive"), fabric.link().await.expect("alive"));
        subscribe(&mut one, "a/+", 1).await;
        subscribe(&mut one, "a/b", 2).await;
        subscribe(&mut other, "a/c", 1).await;
        for (topic, payload) in [("a/b", "x"), ("a/b", "y"), ("a/c", "z"), ("d", "nobody's")] {
            publish(&mut other, topic, payload.as_bytes());
        }
        assert_eq!(pulled(&mut one), [], "nothing travels before the flush");
        other.flush().await.expect("alive");
        let mut seen = pulled(&mut one);
        seen.sort_by_key(|(subscription, ..)| *subscription);
        let forward = |subscription, text: &str| (subscription, text.to_owned(), 0);
        assert_eq!(seen, [forward(1, "x"), forward(1, "y"), forward(1, "z"), forward(2, "x"), forward(2, "y")]);
        assert_eq!(pulled(&mut other), [forward(1, "z")]);
    }

    #[tokio::test]
    async fn a_link_that_ends_carries_what_was_published_and_leaves_nothing_behind() {
        let fabric = NativeFabric::default();
        let (mut reader, mut writer) = (fabric.link().await.expect("alive"), fabric.link().await.expect("alive"));
        subscribe(&mut reader, "a/#", 1).await;
        subscribe(&mut writer, "b/#", 1).await;
        publish(&mut writer, "a/b", b"last");
        drop(writer);
        assert_eq!(pulled(&mut reader), [(1, "last".to_owned(), 0)]);
        reader.unsubscribe(&TopicFilter::parse("a/#").expect("legal")).await.expect("alive");
        assert!(fabric.0.read().expect("whole").is_empty());
    }

    #[tokio::test]
    async fn a_slow_reader_loses_its_oldest_messages_and_is_told_how_many_of_which_subscription() {
        let fabric = NativeFabric::default();
        let (mut slow, mut quick) = (fabric.link().await.expect("alive"), fabric.link().await.expect("alive"));
        let mut writer = fabric.link().await.expect("alive");
        subscribe(&mut slow, "a", 1).await;
        subscribe(&mut slow, "b", 2).await;
        subscribe(&mut quick, "a", 1).await;
        let mut seen_by_quick = 0;
        publish(&mut writer, "b", b"b");
        for number in 0..NATIVE_QUEUE_MESSAGES + 4 {
            publish(&mut writer, "a", number.to_string().as_bytes());
            writer.flush().await.expect("alive");
            seen_by_quick += pulled(&mut quick).iter().map(|(_, _, lost)| 1 + lost).sum::<u64>();
        }
        assert_eq!(seen_by_quick, NATIVE_QUEUE_MESSAGES as u64 + 4, "it costs nobody else");
        let seen = pulled(&mut slow);
        assert_eq!(seen.len(), NATIVE_QUEUE_MESSAGES);
        assert_eq!(seen[0], (1, "4".to_owned(), 4));
        assert!(seen[1..].iter().all(|(_, _, lost)| *lost == 0), "it is told once");
        publish(&mut writer, "b", b"c");
        writer.flush().await.expect("alive");
        assert_eq!(pulled(&mut slow), [(2, "c".to_owned(), 1)], "of the other subscription with its next message");
    }

    #[tokio::test]
    async fn a_queue_is_bounded_in_bytes_too() {
        let fabric = NativeFabric::default();
        let (mut slow, mut writer) = (fabric.link().await.expect("alive"), fabric.link().await.expect("alive"));
        subscribe(&mut slow, "a", 1).await;
        let large = vec![b'x'; NATIVE_QUEUE_BYTES / 4];
        for _ in 0..10 {
            publish(&mut writer, "a", &large);
        }
        writer.flush().await.expect("alive");
        let lost: Vec<_> = pulled(&mut slow).iter().map(|(_, _, lost)| *lost).collect();
        assert_eq!(lost, [7, 0, 0]);
        let larger_than_all = vec![b'x'; NATIVE_QUEUE_BYTES];
        publish(&mut writer, "a", &larger_than_all);
        publish(&mut writer, "a", b"small");
        writer.flush().await.expect("alive");
        assert_eq!(pulled(&mut slow), [(1, "small".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn a_sleeping_reader_is_woken_once_for_all_that_a_flush_brings() {
        #[derive(Default)]
        struct Wakes(AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let fabric = NativeFabric::default();
        let (mut reader, mut writer) = (fabric.link().await.expect("alive"), fabric.link().await.expect("alive"));
        subscribe(&mut reader, "a/#", 1).await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        assert!(reader.pull().boxed().poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        for number in 0..100 {
            publish(&mut writer, &format!("a/{}", number % 3), b"x");
        }
        writer.flush().await.expect("alive");
        publish(&mut writer, "a/0", b"x");
        writer.flush().await.expect("alive");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "it is awake already");
        assert_eq!(pulled(&mut reader).len(), 101);
    }

    #[tokio::test]
    async fn a_million_topics_come_and_go_and_leave_nothing() {
        let fabric = NativeFabric::default();
        let mut writer = fabric.link().await.expect("alive");
        for number in 0..10_000 {
            let mut reader = fabric.link().await.expect("alive");
            subscribe(&mut reader, &format!("a/{number}/+"), 1).await;
            for leaf in 0..100 {
                publish(&mut writer, &format!("a/{number}/{leaf}"), b"x");
            }
            writer.flush().await.expect("alive");
            assert_eq!(pulled(&mut reader).len(), 100);
        }
        assert!(fabric.0.read().expect("whole").is_bare());
        assert!(writer.unsent.capacity() <= 128);
    }
}
