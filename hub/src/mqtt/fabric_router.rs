//! rumqttd's router as a [`Fabric`]: a fan-out log of QoS 0, one link per connection. The one file that names rumqttd.
//!
//! Ways round what the router does wrong: each topic and filter gets a prefix (`t/`, `s/` for `$…`), since it panics on a
//! topic that begins with a non-ASCII character and refuses filters that begin with `$`; each filter gets an internal
//! subscription identifier, so that a forward says which filter matched; properties, expiry, QoS and publisher ride in front
//! of the payload, since it forwards properties wrongly; a link is woken only when it was told to pause and never after its
//! end, since that kills the router; names of links are used again, since it keeps metrics per name for ever.

use super::{
    fabric::{Fabric, FabricGone, Forward, Link},
    limits::{ROUTER_ANSWER_TIMEOUT, ROUTER_EVENTS_HIGH_WATER, ROUTER_LIFE_CHECK, ROUTER_SEGMENT_BYTES, ROUTER_SEGMENTS},
    message::{ForwardedProperties, Message, QoS, Routed},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hearthkey_core::{
    UnixTime,
    rights::{PublishPermit, SubscribePermit},
    topic::{TopicFilter, TopicName},
};
use rumqttd::{
    Notification, Router, RouterConfig,
    local::{LinkBuilder, LinkRx, LinkTx},
    protocol::{
        Disconnect, DisconnectReasonCode, Filter, Packet, Publish, RetainForwardRule, Subscribe, SubscribeProperties, Unsubscribe,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The router, replaced when it dies.
pub struct RouterFabric {
    max_links: usize,
    router: Mutex<Running>,
    names: Arc<Names>,
    replacements: AtomicU64,
}

/// A router's thread, as far as its types can be named.
#[derive(Clone)]
struct Running {
    generation: u64,
    open: Opener,
    waiting_events: Arc<dyn Fn() -> usize + Send + Sync>,
    is_dead: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Makes a link of a name; nothing if the router is dead.
type Opener = Arc<dyn Fn(&str) -> Option<Ends> + Send + Sync>;

type Ends = (LinkTx, LinkRx);

/// Names of links that are free to be used again.
#[derive(Debug, Default)]
struct Names(Mutex<(Vec<u64>, u64)>);

impl Names {
    fn take(&self) -> u64 {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.0.pop().unwrap_or_else(|| {
            names.1 += 1;
            names.1
        })
    }

    fn give_back(&self, name: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(name);
    }
}

impl RouterFabric {
    /// Starts a router for at most so many links.
    #[must_use]
    pub fn new(max_links: usize) -> Self {
        Self { max_links, router: Mutex::new(spawn_router(max_links, 0)), names: Arc::default(), replacements: AtomicU64::new(0) }
    }

    /// Kills the router's thread by a fault that it has, to prove what survives. Returns when it is dead.
    pub async fn kill(&self) {
        let running = self.running();
        let Some((mut tx, mut rx)) = running.open_link(self.names.take()).await else { return };
        // A topic that begins with a character of two bytes, once there is a filter to compare it with.
        let filter = Filter {
            path: "x".to_owned(),
            qos: rumqttd::protocol::QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        tx.buffer().push_back(Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter] }, None));
        let _ = tx.send(Packet::Publish(Publish::new("ö", "", false), None)).await;
        while rx.next().await.is_ok() {}
        while !(running.is_dead)() {
            tokio::time::sleep(ROUTER_LIFE_CHECK).await;
        }
    }

    fn running(&self) -> Running {
        self.router.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces a dead router unless somebody else already has.
    fn respawn(&self, dead_generation: u64) {
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        if router.generation == dead_generation {
            tracing::error!(generation = dead_generation, "the MQTT router died; starting another");
            *router = spawn_router(self.max_links, dead_generation + 1);
            self.replacements.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn spawn_router(max_links: usize, generation: u64) -> Running {
    let config = RouterConfig {
        max_connections: max_links,
        // Forwards per filter and turn; the link's own buffer pauses at 200.
        max_outgoing_packet_count: 100,
        max_segment_size: ROUTER_SEGMENT_BYTES,
        max_segment_count: ROUTER_SEGMENTS,
        ..RouterConfig::default()
    };
    let sender = Router::new(0, config).spawn();
    let (events, life) = (sender.clone(), sender.clone());
    Running {
        generation,
        open: opener(sender, |name, sender| LinkBuilder::new(name, sender).build().ok().map(|(tx, rx, _)| (tx, rx))),
        waiting_events: Arc::new(move || events.len()),
        is_dead: Arc::new(move || life.is_disconnected()),
    }
}

/// The sender's event type is private to rumqttd: only inference can name it.
fn opener<E: Send + 'static>(sender: flume::Sender<E>, build: fn(&str, flume::Sender<E>) -> Option<Ends>) -> Opener {
    Arc::new(move |name| build(name, sender.clone()))
}

impl Running {
    /// Opens a link; nothing if the router is dead.
    async fn open_link(&self, name: u64) -> Option<Ends> {
        let (opened, waiting) = tokio::sync::oneshot::channel();
        let open = self.open.clone();
        // Building a link waits for the router's thread, and for ever if that dies at the wrong moment: hence a thread of
        // its own, on whose end nothing waits.
        std::thread::Builder::new().name("router-link".to_owned()).spawn(move || opened.send(open(&name.to_string()))).ok()?;
        let mut waiting = std::pin::pin!(waiting);
        loop {
            tokio::select! {
                ends = &mut waiting => return ends.ok()?,
                () = tokio::time::sleep(ROUTER_LIFE_CHECK) => {
                    if (self.is_dead)() {
                        return None;
                    }
                }
            }
        }
    }
}

impl Fabric for RouterFabric {
    type Link = RouterLink;

    async fn link(&self) -> Result<RouterLink, FabricGone> {
        // Twice: a router may be found dead only by asking it.
        for _ in 0..2 {
            let running = self.running();
            let name = self.names.take();
            if let Some((tx, rx)) = running.open_link(name).await {
                return Ok(RouterLink {
                    ends: Some((tx, rx)),
                    name,
                    names: self.names.clone(),
                    router: running,
                    unsent: VecDeque::new(),
                    arrived: VecDeque::new(),
                    must_wake: false,
                    acknowledged: 0,
                    asked: 0,
                    next_offsets: HashMap::new(),
                });
            }
            self.respawn(running.generation);
        }
        Err(FabricGone)
    }

    async fn replace(&self, mut dead: RouterLink) -> Result<RouterLink, FabricGone> {
        let mut link = self.link().await?;
        // The router takes a link's packets off its buffer when it handles them.
        let handed_over = dead.ends.as_mut().map(|(tx, _)| tx.buffer().drain(..).collect::<Vec<_>>()).unwrap_or_default();
        let publishes =
            handed_over.into_iter().chain(dead.unsent.drain(..)).filter(|packet| matches!(packet, Packet::Publish(..)));
        link.unsent.extend(publishes);
        Ok(link)
    }

    fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::Relaxed)
    }
}

/// A link to the router.
pub struct RouterLink {
    /// None only while dropping.
    ends: Option<Ends>,
    name: u64,
    names: Arc<Names>,
    router: Running,
    unsent: VecDeque<Packet>,
    arrived: VecDeque<Forward>,
    must_wake: bool,
    /// Packet identifier of the last SUBACK, and of the last SUBSCRIBE.
    acknowledged: u16,
    asked: u16,
    /// By subscription: where in the filter's log the next forward should come from.
    next_offsets: HashMap<u32, u64>,
}

impl Link for RouterLink {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>) {
        let topic = prefixed(permit.topic().as_str());
        self.unsent.push_back(Packet::Publish(Publish::new(Bytes::from(topic), wrap(message, publisher), false), None));
    }

    async fn flush(&mut self) -> Result<(), FabricGone> {
        let Some(last) = self.unsent.pop_back() else { return Ok(()) };
        // The router's channel blocks a thread when it is full: wait before it is.
        while (self.router.waiting_events)() > ROUTER_EVENTS_HIGH_WATER {
            // What waits for a dead router waits for ever.
            if (self.router.is_dead)() {
                self.unsent.push_back(last);
                return Err(FabricGone);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let (tx, _) = self.ends.as_mut().ok_or(FabricGone)?;
        tx.buffer().extend(self.unsent.drain(..));
        // If the router is gone, the packets stay in the buffer for the link that replaces this one.
        tx.send(last).await.map(drop).map_err(|_| FabricGone)
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        self.asked = self.asked.checked_add(1).unwrap_or(1);
        let asked = self.asked;
        let filter = Filter {
            path: prefixed(permit.subscription().filter.as_str()),
            qos: rumqttd::protocol::QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        let properties = SubscribeProperties { id: Some(number as usize), user_properties: Vec::new() };
        self.unsent.push_back(Packet::Subscribe(Subscribe { pkid: asked, filters: vec![filter] }, Some(properties)));
        self.flush().await?;
        self.next_offsets.remove(&number);
        // Answering before the router has the subscription loses messages.
        let answered = async {
            while self.acknowledged != asked {
                self.fetch().await?;
            }
            Ok(())
        };
        tokio::time::timeout(ROUTER_ANSWER_TIMEOUT, answered).await.unwrap_or(Err(FabricGone))
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        let filters = vec![prefixed(filter.as_str())];
        self.unsent.push_back(Packet::Unsubscribe(Unsubscribe { pkid: 1, filters }, None));
        self.flush().await
    }

    async fn pull(&mut self) -> Result<Forward, FabricGone> {
        loop {
            if let Some(forward) = self.arrived.pop_front() {
                return Ok(forward);
            }
            self.fetch().await?;
        }
    }

    fn try_pull(&mut self) -> Option<Forward> {
        while self.arrived.is_empty() && !self.must_wake {
            let (_, rx) = self.ends.as_mut()?;
            let notification = rx.recv_deadline(Instant::now()).ok()??;
            self.note(notification);
        }
        self.arrived.pop_front()
    }
}

impl RouterLink {
    /// Waits for one notification. Dropping the future loses none.
    async fn fetch(&mut self) -> Result<(), FabricGone> {
        let (_, rx) = self.ends.as_mut().ok_or(FabricGone)?;
        if self.must_wake {
            rx.wake().await.map_err(|_| FabricGone)?;
            self.must_wake = false;
        }
        if let Some(notification) = rx.next().await.map_err(|_| FabricGone)? {
            self.note(notification);
        }
        Ok(())
    }

    fn note(&mut self, notification: Notification) {
        if let Notification::Forward(forward) = notification {
            let subscription = forward.properties.as_ref().and_then(|properties| properties.subscription_identifiers.first());
            let Some(subscription) = subscription.and_then(|&number| u32::try_from(number).ok()) else { return };
            let Some(routed) = unwrap(&forward.publish.topic, forward.publish.payload) else { return };
            let lost = forward.cursor.map_or(0, |(_, offset)| self.lost_before(subscription, offset));
            self.arrived.push_back(Forward { subscription, routed: Arc::new(routed), lost });
            return;
        }
        match Option::<Packet>::from(notification) {
            Some(Packet::SubAck(acknowledgement, _)) => self.acknowledged = acknowledgement.pkid,
            Some(_) => {}
            // The router paused this link, since 200 forwards waited for it.
            None => self.must_wake = true,
        }
    }

    /// The offsets of one filter's log are consecutive; a gap is what fell out of the log before it was read.
    fn lost_before(&mut self, subscription: u32, offset: u64) -> u64 {
        let expected = self.next_offsets.insert(subscription, offset + 1).unwrap_or(offset);
        offset.saturating_sub(expected)
    }
}

impl Drop for RouterLink {
    fn drop(&mut self) {
        let Some((mut tx, mut rx)) = self.ends.take() else { return };
        let (name, names) = (self.name, self.names.clone());
        // Without a runtime the process is about to end, and the router with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let unsent: Vec<_> = self.unsent.drain(..).collect();
        runtime.spawn(async move {
            tx.buffer().extend(unsent);
            let bye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
            if tx.send(Packet::Disconnect(bye, None)).await.is_ok() {
                // The router drops its end when it has forgotten the link; only then is the name free.
                while rx.next().await.is_ok() {}
            }
            names.give_back(name);
        });
    }
}

fn prefixed(topic: &str) -> String {
    if topic.starts_with('$') { format!("s/{topic}") } else { format!("t/{topic}") }
}

/// Bytes in front of the payload: publisher, expiry, flags, length of the properties.
const HEADER_BYTES: usize = 8 + 8 + 1 + 4;

fn wrap(message: &Message, publisher: Option<u64>) -> Bytes {
    let properties = message.properties.as_bytes();
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + properties.len() + message.payload.len());
    bytes.put_u64(publisher.unwrap_or(0));
    bytes.put_u64(message.expires_at.map_or(0, |expires_at| expires_at.0));
    bytes.put_u8(message.qos as u8 | u8::from(message.retain) << 2);
    // A packet is bounded far below four gigabytes.
    bytes.put_u32(u32::try_from(properties.len()).unwrap_or(u32::MAX));
    bytes.put_slice(properties);
    bytes.put_slice(&message.payload);
    bytes.freeze()
}

fn unwrap(topic: &[u8], mut bytes: Bytes) -> Option<Routed> {
    let topic = TopicName::from_bytes(topic.get(2..)?).ok()?;
    let publisher = Some(bytes.try_get_u64().ok()?).filter(|&publisher| publisher != 0);
    let expires_at = Some(bytes.try_get_u64().ok()?).filter(|&seconds| seconds != 0).map(UnixTime);
    let flags = bytes.try_get_u8().ok()?;
    let properties_length = bytes.try_get_u32().ok()? as usize;
    if bytes.len() < properties_length {
        return None;
    }
    let properties = ForwardedProperties::from_checked(bytes.split_to(properties_length));
    let qos = QoS::from_bits(flags & 0x03)?;
    let message = Message { payload: bytes, qos, retain: flags & 1 << 2 != 0, expires_at, properties };
    Some(Routed { topic, message, publisher })
}
