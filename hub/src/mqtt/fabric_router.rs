//! rumqttd's router as a [`Fabric`]: a fan-out log of QoS 0. The one file that names rumqttd.
//!
//! Ways round what the router does wrong. It never forgets a topic or filter: it sees channels instead ([`super::channels`]),
//! which also keeps from it the topics that make it panic. It forwards properties wrongly: everything but the channel rides
//! in the payload. It keeps metrics per name of a link for ever: names are used again, and only subscribers have links. It
//! dies when a link is woken at the wrong moment: a link is woken only when it was told to pause and never after its end.
//! It loses the oldest silently: positions tell.
//!
//! It may die at any time, and nothing of what was published is lost or comes twice. All publishes go over one link of the
//! fabric's own, in the order of their positions; each is kept for a while. A subscriber that finds its router dead takes its
//! positions along, and gets from what is kept all that it has not seen.

use super::{
    channels::{Channel, Channels, Sent},
    fabric::{Fabric, FabricGone, Forward, Link},
    limits::{
        ROUTER_ANSWER_TIMEOUT, ROUTER_EVENTS_HIGH_WATER, ROUTER_LIFE_CHECK, ROUTER_SEGMENT_BYTES, ROUTER_SEGMENTS,
        ROUTER_UNHANDLED_BYTES, ROUTER_WATCH_EVERY,
    },
    message::{ForwardedProperties, Message, QoS, Routed},
    slot::lock,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
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
    mem,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The router, replaced when it dies.
pub struct RouterFabric(Arc<Shared>);

struct Shared {
    max_links: usize,
    names: Names,
    replacements: AtomicU64,
    opening: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    router: Running,
    /// The link of the running router on which everything is published, once there is one.
    publisher: Option<Ends>,
    /// Bytes on that link that the router has not begun to handle.
    unhandled_bytes: usize,
    channels: Channels,
    /// The topic of each channel in the router.
    topics: Vec<Bytes>,
}

/// A router's thread, as far as its types can be named.
#[derive(Clone)]
struct Running {
    generation: u64,
    open: Opener,
    waiting_events: Arc<dyn Fn() -> usize + Send + Sync>,
    is_dead: Arc<dyn Fn() -> bool + Send + Sync>,
    condemned: Arc<Condemned>,
}

/// Whether a router is to be treated as dead although its thread lives.
#[derive(Default)]
struct Condemned {
    is: AtomicBool,
    notify: Notify,
}

/// Makes a link of a name; nothing if the router is dead.
type Opener = Arc<dyn Fn(&str) -> Option<Ends> + Send + Sync>;

type Ends = (LinkTx, LinkRx);

/// Names of links that are free to be used again.
#[derive(Debug, Default)]
struct Names(Mutex<(Vec<u64>, u64)>);

impl Names {
    fn take(&self) -> u64 {
        let mut names = lock(&self.0);
        names.0.pop().unwrap_or_else(|| {
            names.1 += 1;
            names.1
        })
    }

    fn give_back(&self, name: u64) {
        lock(&self.0).0.push(name);
    }
}

/// Routers that are tried one after another before a connection is told that there is none.
const READY_ATTEMPTS: usize = 4;

/// The channel on which the watchdog hears itself.
const CANARY: Channel = Channel::MAX;

impl RouterFabric {
    /// Starts a router for at most so many links, and its watchdog if this is called within a tokio runtime.
    #[must_use]
    pub fn new(max_links: usize) -> Self {
        let state = State {
            router: spawn_router(max_links, 0),
            publisher: None,
            unhandled_bytes: 0,
            channels: Channels::default(),
            topics: Vec::new(),
        };
        let shared = Arc::new(Shared {
            max_links,
            names: Names::default(),
            replacements: AtomicU64::new(0),
            opening: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(watch(Arc::downgrade(&shared)));
        }
        Self(shared)
    }

    /// Kills the router's thread by a fault that it has, to prove what survives. Returns when it is dead.
    pub async fn kill(&self) {
        let running = lock(&self.0.state).router.clone();
        let Some((mut tx, mut rx)) = running.open_link(self.0.names.take()).await else { return };
        // A topic that begins with a character of two bytes, once there is a filter to compare it with.
        tx.buffer().push_back(Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter_of("x".to_owned())] }, None));
        let _ = tx.send(Packet::Publish(Publish::new("ö", "", false), None)).await;
        while rx.next().await.is_ok() {}
        while !(running.is_dead)() {
            tokio::time::sleep(ROUTER_LIFE_CHECK).await;
        }
    }

    /// Treats the router as dead, as the watchdog does when it gives no answer.
    pub fn condemn(&self) {
        let generation = lock(&self.0.state).router.generation;
        self.0.respawn(generation);
    }
}

impl Shared {
    /// A router that lives and has the link for publishing.
    async fn ready(&self) -> Result<Running, FabricGone> {
        let is_ready = |state: &State| state.publisher.is_some() && !(state.router.is_dead)();
        if let Some(running) = Some(lock(&self.state)).filter(|state| is_ready(state)).map(|state| state.router.clone()) {
            return Ok(running);
        }
        // One at a time: the router gets one such link.
        let _opening = self.opening.lock().await;
        // A router may be found dead only by asking it, and die again meanwhile.
        for _ in 0..READY_ATTEMPTS {
            let running = {
                let state = lock(&self.state);
                if is_ready(&state) {
                    return Ok(state.router.clone());
                }
                state.router.clone()
            };
            if let Some(ends) = running.open_link(self.names.take()).await {
                let mut state = lock(&self.state);
                if state.router.generation == running.generation {
                    state.publisher = Some(ends);
                    return Ok(running);
                }
            }
            self.respawn(running.generation);
        }
        Err(FabricGone)
    }

    /// Replaces a dead router unless somebody else already has.
    fn respawn(&self, dead_generation: u64) {
        let mut state = lock(&self.state);
        if state.router.generation == dead_generation {
            tracing::error!(generation = dead_generation, "the MQTT router died; starting another");
            let dead = mem::replace(&mut state.router, spawn_router(self.max_links, dead_generation + 1));
            dead.condemned.is.store(true, Ordering::Release);
            dead.condemned.notify.notify_waiters();
            state.publisher = None;
            state.unhandled_bytes = 0;
            self.replacements.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Looks at intervals whether the router still carries: it may be dead where nobody listens, or turn in circles.
async fn watch(shared: Weak<Shared>) {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + ROUTER_WATCH_EVERY, ROUTER_WATCH_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(running) = shared.ready().await else { continue };
        if !carries(&shared).await {
            shared.respawn(running.generation);
        }
    }
}

/// Whether a message comes round in time.
async fn carries(shared: &Arc<Shared>) -> bool {
    // A link of each round's own: one that is kept would keep the fabric.
    let mut canary = RouterLink::new(shared.clone());
    let round_trip = async {
        canary.listen(CANARY).await?;
        canary.sing().await
    };
    matches!(tokio::time::timeout(ROUTER_ANSWER_TIMEOUT, round_trip).await, Ok(Ok(())))
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
        condemned: Arc::default(),
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
        let deadline = tokio::time::Instant::now() + ROUTER_ANSWER_TIMEOUT;
        loop {
            tokio::select! {
                ends = &mut waiting => return ends.ok()?,
                () = tokio::time::sleep(ROUTER_LIFE_CHECK) => {
                    if (self.is_dead)() || self.condemned.is.load(Ordering::Acquire) || deadline <= tokio::time::Instant::now() {
                        return None;
                    }
                }
            }
        }
    }
}

impl Condemned {
    /// Waits until it is.
    async fn sentence(&self) {
        let notified = self.notify.notified();
        if !self.is.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

impl Fabric for RouterFabric {
    type Link = RouterLink;

    async fn link(&self) -> Result<RouterLink, FabricGone> {
        self.0.ready().await?;
        Ok(RouterLink::new(self.0.clone()))
    }

    async fn replace(&self, mut dead: RouterLink) -> Result<RouterLink, FabricGone> {
        self.0.ready().await?;
        let mut link = RouterLink::new(self.0.clone());
        link.unsent = mem::take(&mut dead.unsent);
        link.arrived = mem::take(&mut dead.arrived);
        link.resumes = mem::take(&mut dead.resumes);
        link.resumes.extend(dead.held.drain().map(|(_, held)| (held.filter, held.next)));
        Ok(link)
    }

    fn replacements(&self) -> u64 {
        self.0.replacements.load(Ordering::Relaxed)
    }
}

/// A link of a connection: a link to the router once it subscribes.
pub struct RouterLink {
    shared: Arc<Shared>,
    open: Option<Open>,
    unsent: Vec<Arc<Routed>>,
    arrived: VecDeque<Forward>,
    held: HashMap<Channel, Held>,
    /// Filters that were subscribed to on the link before, whose channels this one has taken over, with the next positions.
    resumes: HashMap<TopicFilter, u64>,
}

/// A link to a router.
struct Open {
    ends: Ends,
    name: u64,
    router: Running,
    must_wake: bool,
    /// Packet identifier of the last SUBACK, and of the last SUBSCRIBE.
    acknowledged: u16,
    asked: u16,
    /// The watchdog's own message came back.
    heard_canary: bool,
}

/// A subscription of a link.
struct Held {
    number: u32,
    filter: TopicFilter,
    /// The position that comes next.
    next: u64,
    /// What comes is taken from what is kept, where it is too.
    catches_up: bool,
}

impl Link for RouterLink {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>) {
        // A copy: what came from a socket is a slice of a larger buffer, and is kept for a while.
        let payload = Bytes::copy_from_slice(&message.payload);
        let message = Message { payload, ..message.clone() };
        self.unsent.push(Arc::new(Routed { topic: permit.topic().clone(), message, publisher, queued_for }));
    }

    /// What this returns for is kept for whoever subscribes to it, whether the router lives or dies.
    async fn flush(&mut self) -> Result<(), FabricGone> {
        while !self.unsent.is_empty() && !self.carry(Patience::WhileBusy) {
            Box::pin(tokio::time::sleep(Duration::from_micros(200))).await;
        }
        Ok(())
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        let filter = permit.subscription().filter.clone();
        let (channel, next) = {
            let channels = &mut lock(&self.shared.state).channels;
            let (channel, now) = channels.enter(&filter);
            let resumed = self.resumes.remove(&filter);
            if resumed.is_some() {
                // It has been counted as a reader since the link before.
                channels.leave(&filter);
            }
            (channel, resumed.unwrap_or(now))
        };
        if let Some(twice) = self.held.insert(channel, Held { number, filter, next, catches_up: true }) {
            lock(&self.shared.state).channels.leave(&twice.filter);
        }
        let listening = tokio::time::timeout(ROUTER_ANSWER_TIMEOUT, self.listen(channel)).await;
        listening.unwrap_or(Err(FabricGone))?;
        // Between the router's answer and this, nothing is missed: what is sent is kept before it goes to the router.
        let kept: Vec<Sent> = lock(&self.shared.state).channels.since(channel, next).cloned().collect();
        if let Some(held) = self.held.get_mut(&channel) {
            held.catches_up = false;
        }
        kept.into_iter().for_each(|sent| self.arrive(sent.channel, sent.position, || Some(sent.routed)));
        Ok(())
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        if self.resumes.remove(filter).is_some() {
            lock(&self.shared.state).channels.leave(filter);
        }
        let Some((&channel, _)) = self.held.iter().find(|(_, held)| held.filter == *filter) else { return Ok(()) };
        self.held.remove(&channel);
        lock(&self.shared.state).channels.leave(filter);
        let packet = Packet::Unsubscribe(Unsubscribe { pkid: 1, filters: vec![name_of(channel)] }, None);
        match &mut self.open {
            Some(open) => open.ends.0.send(packet).await.map(drop).map_err(|_| FabricGone),
            None => Ok(()),
        }
    }

    async fn pull(&mut self) -> Result<Forward, FabricGone> {
        loop {
            if let Some(forward) = self.arrived.pop_front() {
                return Ok(forward);
            }
            // Boxed: whoever pulls waits here most of the time, and has this size meanwhile.
            Box::pin(self.fetch()).await?;
        }
    }

    fn try_pull(&mut self) -> Option<Forward> {
        while self.arrived.is_empty() {
            let open = self.open.as_mut().filter(|open| !open.must_wake)?;
            let notification = open.ends.1.recv_deadline(Instant::now()).ok()??;
            self.note(notification);
        }
        self.arrived.pop_front()
    }
}

/// Whether a busy router is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    WhileBusy,
    None,
}

impl RouterLink {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: None, unsent: Vec::new(), arrived: VecDeque::new(), held: HashMap::new(), resumes: HashMap::new() }
    }

    /// Numbers and keeps what was published, and hands it to the router if that lives. False if it is to be done later.
    fn carry(&mut self, patience: Patience) -> bool {
        let mut state = lock(&self.shared.state);
        let State { router, publisher, unhandled_bytes, channels, topics } = &mut *state;
        let mut packets = Vec::new();
        let mut bytes = 0;
        if let Some((tx, _)) = publisher {
            if tx.buffer().is_empty() {
                *unhandled_bytes = 0;
            }
            let is_busy = *unhandled_bytes > ROUTER_UNHANDLED_BYTES || (router.waiting_events)() > ROUTER_EVENTS_HIGH_WATER;
            if is_busy && patience == Patience::WhileBusy && !(router.is_dead)() {
                return false;
            }
        }
        for routed in self.unsent.drain(..) {
            channels.send(&routed, |sent| {
                let payload = wrap(sent);
                bytes += payload.len();
                while topics.len() <= sent.channel as usize {
                    topics.push(name_of(topics.len() as Channel).into());
                }
                let topic = topics[sent.channel as usize].clone();
                packets.push(Packet::Publish(Publish::new(topic, payload, false), None));
            });
        }
        self.unsent.shrink_to(16);
        if let (Some((tx, _)), Some(last)) = (publisher, packets.pop()) {
            *unhandled_bytes += bytes;
            let mut buffer = tx.buffer();
            let router_knows = !buffer.is_empty();
            buffer.extend(packets);
            if router_knows {
                // It has been told of the buffer, and takes all of it when it comes to it.
                buffer.push_back(last);
            } else {
                drop(buffer);
                // Ready at once, since the channel has room. If the router is dead, its readers find out and catch up.
                let _ = tx.send(last).now_or_never();
            }
        }
        true
    }

    /// Subscribes to a channel; returns when no later message of it can be missed.
    async fn listen(&mut self, channel: Channel) -> Result<(), FabricGone> {
        if self.open.is_none() {
            let router = self.shared.ready().await?;
            let name = self.shared.names.take();
            let ends = router.open_link(name).await.ok_or(FabricGone)?;
            self.open = Some(Open { ends, name, router, must_wake: false, acknowledged: 0, asked: 0, heard_canary: false });
        }
        let open = self.open.as_mut().ok_or(FabricGone)?;
        open.asked = open.asked.checked_add(1).unwrap_or(1);
        let asked = open.asked;
        let properties = SubscribeProperties { id: Some(channel as usize + 1), user_properties: Vec::new() };
        let packet = Packet::Subscribe(Subscribe { pkid: asked, filters: vec![filter_of(name_of(channel))] }, Some(properties));
        open.ends.0.send(packet).await.map_err(|_| FabricGone)?;
        // Answering before the router has the subscription loses messages.
        while self.open.as_ref().is_some_and(|open| open.acknowledged != asked) {
            self.fetch().await?;
        }
        Ok(())
    }

    /// Sends a message of the watchdog's own and waits for it.
    async fn sing(&mut self) -> Result<(), FabricGone> {
        let open = self.open.as_mut().ok_or(FabricGone)?;
        open.heard_canary = false;
        let packet = Packet::Publish(Publish::new(name_of(CANARY), String::new(), false), None);
        open.ends.0.send(packet).await.map_err(|_| FabricGone)?;
        while self.open.as_ref().is_some_and(|open| !open.heard_canary) {
            self.fetch().await?;
        }
        Ok(())
    }

    /// Waits for one notification. Dropping the future loses none.
    async fn fetch(&mut self) -> Result<(), FabricGone> {
        let Some(Open { ends: (_, rx), router, must_wake, .. }) = &mut self.open else { return std::future::pending().await };
        let waiting = async {
            if *must_wake {
                rx.wake().await.map_err(|_| FabricGone)?;
                *must_wake = false;
            }
            rx.next().await.map_err(|_| FabricGone)
        };
        let notification = tokio::select! {
            biased;
            notification = waiting => notification?,
            () = router.condemned.sentence() => return Err(FabricGone),
        };
        if let Some(notification) = notification {
            self.note(notification);
        }
        Ok(())
    }

    fn note(&mut self, notification: Notification) {
        let Some(open) = &mut self.open else { return };
        if let Notification::Forward(forward) = notification {
            let identifier = forward.properties.as_ref().and_then(|properties| properties.subscription_identifiers.first());
            let channel = identifier.and_then(|&identifier| Channel::try_from(identifier.checked_sub(1)?).ok());
            match channel {
                Some(CANARY) => open.heard_canary = true,
                Some(channel) => {
                    let mut payload = forward.publish.payload;
                    if let Ok(position) = payload.try_get_u64() {
                        self.arrive(channel, position, || unwrap(payload).map(Arc::new));
                    }
                }
                None => {}
            }
            return;
        }
        match Option::<Packet>::from(notification) {
            Some(Packet::SubAck(acknowledgement, _)) => open.acknowledged = acknowledgement.pkid,
            Some(_) => {}
            // The router paused this link, since 200 forwards waited for it.
            None => open.must_wake = true,
        }
    }

    /// Takes a message unless it was seen; a gap is what fell out of the log before it was read.
    fn arrive(&mut self, channel: Channel, position: u64, routed: impl FnOnce() -> Option<Arc<Routed>>) {
        let Some(held) = self.held.get_mut(&channel).filter(|held| !held.catches_up && position >= held.next) else { return };
        let lost = position - held.next;
        held.next = position + 1;
        if let Some(routed) = routed() {
            self.arrived.push_back(Forward { subscription: held.number, routed, lost });
        }
    }
}

impl Drop for RouterLink {
    fn drop(&mut self) {
        self.carry(Patience::None);
        {
            let channels = &mut lock(&self.shared.state).channels;
            self.held.values().for_each(|held| channels.leave(&held.filter));
            self.resumes.keys().for_each(|filter| channels.leave(filter));
        }
        let Some(Open { ends: (mut tx, mut rx), name, .. }) = self.open.take() else { return };
        // Without a runtime the process is about to end, and the router with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let bye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
            if tx.send(Packet::Disconnect(bye, None)).await.is_ok() {
                // The router drops its end when it has forgotten the link; only then is the name free.
                while rx.next().await.is_ok() {}
            }
            shared.names.give_back(name);
        });
    }
}

/// The topic, and filter, of a channel in the router.
fn name_of(channel: Channel) -> String {
    format!("c/{channel}")
}

fn filter_of(path: String) -> Filter {
    Filter {
        path,
        qos: rumqttd::protocol::QoS::AtMostOnce,
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: RetainForwardRule::Never,
    }
}

/// Bytes in front of the payload: position, publisher, expiry, flags, lengths of topic and properties, number of sessions that
/// have it.
const HEADER_BYTES: usize = 8 + 8 + 8 + 1 + 4 + 4 + 4;

fn wrap(sent: &Sent) -> Bytes {
    let Routed { topic, message, publisher, queued_for } = &*sent.routed;
    let (topic, properties) = (topic.as_str().as_bytes(), message.properties.as_bytes());
    let content = topic.len() + properties.len() + 8 * queued_for.len() + message.payload.len();
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + content);
    bytes.put_u64(sent.position);
    bytes.put_u64(publisher.unwrap_or(0));
    bytes.put_u64(message.expires_at.map_or(0, |expires_at| expires_at.0));
    bytes.put_u8(message.qos as u8 | u8::from(message.retain) << 2);
    for part in [topic, properties] {
        // A packet is bounded far below four gigabytes.
        bytes.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        bytes.put_slice(part);
    }
    // As many sessions as are kept.
    bytes.put_u32(u32::try_from(queued_for.len()).unwrap_or(u32::MAX));
    queued_for.iter().for_each(|&session| bytes.put_u64(session));
    bytes.put_slice(&message.payload);
    bytes.freeze()
}

/// What [`wrap`] made, behind the position.
fn unwrap(mut bytes: Bytes) -> Option<Routed> {
    let publisher = Some(bytes.try_get_u64().ok()?).filter(|&publisher| publisher != 0);
    let expires_at = Some(bytes.try_get_u64().ok()?).filter(|&seconds| seconds != 0).map(UnixTime);
    let flags = bytes.try_get_u8().ok()?;
    let mut part = || {
        let length = bytes.try_get_u32().ok()? as usize;
        (bytes.len() >= length).then(|| bytes.split_to(length))
    };
    let topic = TopicName::from_bytes(&part()?).ok()?;
    let properties = ForwardedProperties::from_checked(part()?);
    let sessions = bytes.try_get_u32().ok()?;
    let queued_for = (0..sessions).map(|_| bytes.try_get_u64().ok()).collect::<Option<_>>()?;
    let qos = QoS::from_bits(flags & 0x03)?;
    let message = Message { payload: bytes, qos, retain: flags & 1 << 2 != 0, expires_at, properties };
    Some(Routed { topic, message, publisher, queued_for })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the timers' own.
    const MOMENT: Duration = Duration::from_millis(20);

    /// A router that was there and gives no answer any more: its thread lives, and nothing comes of what it is asked.
    async fn fall_silent(fabric: &RouterFabric) {
        fabric.0.ready().await.expect("a router");
        let router = &mut lock(&fabric.0.state).router;
        router.open = Arc::new(|_| {
            loop {
                std::thread::park();
            }
        });
    }

    /// Lets so much virtual time pass, and everybody have turns.
    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_watchdog_hears_itself_through_a_router_that_carries() {
        let fabric = RouterFabric::new(10);
        fabric.0.ready().await.expect("a router");
        for _ in 0..3 {
            assert!(carries(&fabric.0).await);
        }
    }

    #[test]
    fn a_router_that_gives_no_answer_is_replaced_by_the_next_round_of_the_watchdog_and_no_sooner() {
        let live = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        // Made outside of virtual time, in which the router's thread would be late at once; hence without a watchdog.
        let fabric = RouterFabric::new(10);
        live.block_on(fall_silent(&fabric));
        let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        paused.block_on(async {
            tokio::spawn(watch(Arc::downgrade(&fabric.0)));
            pass(Duration::ZERO).await;
            pass(ROUTER_WATCH_EVERY + MOMENT).await;
            assert_eq!(fabric.replacements(), 0, "it is asked");
            pass(ROUTER_ANSWER_TIMEOUT - 2 * MOMENT).await;
            assert_eq!(fabric.replacements(), 0, "and has time to answer");
            pass(4 * MOMENT).await;
            assert_eq!(fabric.replacements(), 1);
        });
        assert!(live.block_on(async { fabric.0.ready().await.is_ok() && carries(&fabric.0).await }), "by one that carries");
    }

    #[test]
    fn the_watchdog_ends_with_its_fabric() {
        let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        paused.block_on(async {
            let fabric = RouterFabric::new(10);
            let watching = tokio::spawn(watch(Arc::downgrade(&fabric.0)));
            drop(fabric);
            tokio::time::advance(ROUTER_WATCH_EVERY).await;
            watching.await.expect("ended");
        });
    }
}
