//! One life of a home: random steps, and the checks of what comes of them.

use crate::client::{Connection, Memory, number_of, number_property};
use crate::fabrics::Ground;
use crate::model::{CLIENTS, Copy, Message, Promises, Retained, Session, TOPICS};
use crate::support::{self, packet as encode, *};
use hearthkey::mqtt::{Front, Limits};
use hearthkey_core::{UnixTime, session::EndReason};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod arrivals;
mod groups;
mod wills;
use wills::Will;

/// Seconds for which a session is kept.
const KEPT_S: u64 = 600;
/// Seconds for which the hub, when it starts again, waits for those whose wills it has.
const GRACE_S: u64 = 75;
/// Seconds for which a credential is good.
const GOOD_S: u64 = 1_000;

/// What a life breaks on purpose, to show that the checks would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Rights change and sessions do not hear of it.
    DeafToRights,
    /// A restart forgets a queued message.
    ForgetfulRestart,
    /// A restart forgets the wills.
    WilllessRestart,
    /// Who takes leave does not say so to the hub.
    WordlessLeave,
    /// Who comes back while its connection is open comes as somebody else.
    StrangersTakeover,
    /// Each member of a group gets what is for one of them.
    EverybodysShare,
    /// Somebody whom nobody knows is in each group, and takes its share.
    SecretMember,
}

pub(crate) struct World<F: Ground> {
    random: fastrand::Rng,
    seed: u64,
    sabotage: Sabotage,
    gate: Arc<FakeGate>,
    fabric: F,
    front: Front<FakeGate, F>,
    clients: Vec<Client>,
    messages: Vec<Message>,
    retained: Retained,
    /// By topic, what the group that shares it was promised.
    groups: [Promises; TOPICS],
    step: usize,
    highest_qos: u8,
    restarted_at: usize,
    connections: usize,
    /// Seconds since the beginning.
    now_s: u64,
    pub(crate) log: Vec<String>,
    pub(crate) received: usize,
    /// Wills that fired, and retained messages that came.
    pub(crate) fired: usize,
    pub(crate) retained_came: usize,
    /// Connections that were taken over, and messages that groups got.
    pub(crate) taken_over: usize,
    pub(crate) shared: usize,
    secret: Option<Connection>,
}

#[derive(Default)]
struct Client {
    connection: Option<Connection>,
    /// A connection that is not accepted yet, or whose predecessor has not ended.
    successor: Option<Connection>,
    memory: Memory,
    session: Option<Session>,
    /// Of the connection; of an absent client, a delayed one.
    will: Option<Will>,
    may_publish: [bool; TOPICS],
    may_read: [bool; TOPICS],
    is_revoked: bool,
    good_until: u64,
    left_at: u64,
    left_at_step: usize,
    answer: Option<Packet>,
    pings: usize,
}

type Checked<T = ()> = Result<T, String>;

fn name(client: usize) -> String {
    format!("client-{client}")
}

fn topic(topic: usize) -> String {
    format!("t/{topic}")
}

/// Of a topic, or of the group that shares it.
fn filter(key: usize) -> String {
    key.checked_sub(TOPICS).map_or_else(|| topic(key), |shared| format!("$share/g/{}", topic(shared)))
}

/// What comes by a group is known by a Subscription Identifier.
fn subscribe_packet(key: usize, options: u8) -> Vec<u8> {
    let identifier: &[u8] = if key < TOPICS { &[0] } else { &[2, 0x0B, 1] };
    packet(0x82, &[&[0xFF, 0xFF], identifier, &string(&filter(key)), &[options]].concat())
}

impl<F: Ground> World<F> {
    pub(crate) fn new(seed: u64, sabotage: Sabotage) -> Self {
        let gate = Arc::new(FakeGate::default());
        let fabric = F::new();
        let front = Front::with_fabric(gate.clone(), Limits::default(), [], fabric.clone());
        let clients =
            (0..CLIENTS).map(|_| Client { may_publish: [true; TOPICS], may_read: [true; TOPICS], ..Client::default() }).collect();
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            seed,
            sabotage,
            gate,
            fabric,
            front,
            clients,
            messages: Vec::new(),
            retained: Retained::default(),
            groups: Default::default(),
            step: 0,
            highest_qos: 1,
            restarted_at: 0,
            connections: 0,
            now_s: 0,
            log: Vec::new(),
            received: 0,
            fired: 0,
            retained_came: 0,
            taken_over: 0,
            shared: 0,
            secret: None,
        };
        (0..CLIENTS).for_each(|client| world.grant(client));
        world
    }

    /// Lives so many steps, lets everybody come back, and waits for what is owed.
    pub(crate) async fn live(&mut self, steps: usize) -> Checked {
        if self.sabotage == Sabotage::SecretMember {
            self.join_in_secret().await;
        }
        for _ in 0..steps {
            self.step += 1;
            let client = self.random.usize(..CLIENTS);
            self.act(client).await.map_err(|why| format!("step {}: {why}", self.step))?;
            self.forgive_groups();
        }
        for client in 0..CLIENTS {
            self.clients[client].is_revoked = false;
            self.gate.state.lock().unwrap().ends.remove(&user(&name(client)));
            let is_kept = self.clients[client].session.as_ref().is_some_and(|session| session.is_kept);
            // A will may be refused.
            while is_kept && self.clients[client].connection.is_none() {
                self.connect(client, true).await?;
            }
        }
        self.wait("what is owed", |world| {
            let sessions = world.clients.iter().filter_map(|client| client.session.as_ref());
            sessions.map(|session| &session.promises).chain(&world.groups).all(|promises| promises.owed.is_empty())
        })
        .await
    }

    async fn act(&mut self, client: usize) -> Checked {
        let choice = self.random.u32(..100);
        let is_connected = self.clients[client].connection.is_some();
        match choice {
            0..65 if !is_connected => self.connect(client, choice < 50).await,
            0..35 => self.publish(client, choice < 5).await,
            35..53 if is_connected => self.subscribe(client).await,
            53..56 if is_connected => self.unsubscribe(client).await,
            56..66 if is_connected => self.leave(client, choice < 60).await,
            66..74 => self.change_rights(client).await,
            74..77 => self.revoke(client).await,
            77..81 if is_connected => self.renew(client).await,
            81..88 => self.pass_time().await,
            88..91 => self.restart().await,
            91..93 => self.kill_fabric().await,
            93..96 if is_connected => self.connect(client, choice < 95).await,
            _ => self.acknowledge(client).await,
        }
    }

    fn note(&mut self, what: String) {
        self.log.push(format!("{:>4} {:>6} s  {what}", self.step, self.now_s));
    }

    fn grant(&mut self, client: usize) {
        let of = &mut self.clients[client];
        of.good_until = self.now_s + GOOD_S;
        let topics = |may: &[bool; TOPICS]| (0..TOPICS).filter(|&index| may[index]).map(topic).collect::<Vec<_>>();
        let (publish, read) = (topics(&of.may_publish), topics(&of.may_read));
        let words =
            |topics: &[String]| topics.iter().map(|topic| Box::leak(topic.clone().into_boxed_str()) as &str).collect::<Vec<_>>();
        let rights = rights(&words(&publish), &words(&read));
        self.gate.grant(&name(client), user(&name(client)), rights, Some(UnixTime(NOW.0 + of.good_until)));
    }

    fn publish_packet(&self, number: usize, identifier: u16, dup: bool) -> Vec<u8> {
        let message = self.messages[number];
        let mut body = string(&topic(message.topic));
        if message.qos > 0 {
            body.extend(identifier.to_be_bytes());
        }
        let expiry = message.expires_at.map(|expires_at| u32::try_from(expires_at.saturating_sub(self.now_s)).unwrap());
        let expiry = expiry.map_or_else(Vec::new, |expiry| [&[0x02][..], &expiry.to_be_bytes()].concat());
        body.extend(properties(&[expiry, number_property(number)].concat()));
        if !message.is_empty {
            body.extend(number.to_string().bytes());
        }
        packet(0x30 | message.qos << 1 | u8::from(dup) << 3 | u8::from(message.retain), &body)
    }

    async fn publish(&mut self, client: usize, and_vanish: bool) -> Checked {
        if self.clients[client].connection.is_none() {
            return Ok(());
        }
        let sent = self.send_publishes(client, 0).await;
        if and_vanish {
            for _ in 0..self.random.usize(..20) {
                tokio::task::yield_now().await;
            }
            return self.leave(client, false).await;
        }
        self.acknowledgements(client, sent).await
    }

    /// Some messages, without waiting for their acknowledgements.
    async fn send_publishes(&mut self, client: usize, lowest_qos: u8) -> Range<usize> {
        let first = self.messages.len();
        let count = if self.clients[client].connection.is_some() { self.random.usize(1..6) } else { 0 };
        for _ in 0..count {
            let (topic, qos) = (self.random.usize(..TOPICS), self.random.u8(lowest_qos..=self.highest_qos));
            let number = self.messages.len();
            let is_denied = !self.clients[client].may_publish[topic];
            let retain = self.random.u8(..3) == 0;
            let is_empty = retain && self.random.u8(..4) == 0;
            let expires_at = (self.random.u8(..6) == 0).then(|| self.now_s + self.random.u64(50..2_500));
            let message = Message {
                publisher: client,
                topic,
                qos,
                step: self.step,
                is_denied,
                retain,
                is_empty,
                expires_at,
                ..Message::default()
            };
            self.messages.push(message);
            if retain && !is_denied {
                self.retained.may_become(number, message);
            }
            let identifier = if qos > 0 { self.clients[client].memory.remember(number) } else { 0 };
            let bytes = self.publish_packet(number, identifier, false);
            self.send(client, &bytes).await;
            self.note(format!("client {client} publishes message {number}: {message:?}"));
        }
        first..self.messages.len()
    }

    async fn acknowledgements(&mut self, client: usize, sent: Range<usize>) -> Checked {
        self.wait("acknowledgements", |world| {
            let of = &world.clients[client];
            of.connection.is_none() || of.memory.unacknowledged.is_empty()
        })
        .await?;
        self.wait("what is owed to the connected", |world| {
            let sessions = world.clients.iter().filter_map(|of| of.session.as_ref());
            sessions.filter(|session| !session.is_kept).all(|session| session.promises.owed.is_empty())
        })
        .await?;
        self.settle().await?;
        if self.clients[client].connection.is_some() {
            self.is_retained_in_order(sent);
        }
        Ok(())
    }

    async fn subscribe(&mut self, client: usize) -> Checked {
        let (index, is_shared) = (self.random.usize(..TOPICS), self.random.u8(..3) == 0);
        let key = if is_shared { TOPICS + index } else { index };
        let qos = self.random.u8(u8::from(is_shared)..=self.highest_qos);
        let may = self.clients[client].may_read[index];
        // Retain handling: always, for a subscription that is new, never.
        let handling = self.random.u8(..3);
        let (step, mut wants_retained) = (self.step, false);
        if let Some(session) = self.clients[client].session.as_mut().filter(|_| may) {
            wants_retained = !is_shared && (handling == 0 || handling == 1 && !session.subscribes(key));
            session.awaits_retained = wants_retained.then_some(index);
            session.subscribe(key, Some(qos), step);
        }
        let is_everybodys = is_shared && self.sabotage == Sabotage::EverybodysShare;
        let packet = match is_everybodys {
            true => packet(0x82, &[&[0xFF, 0xFF, 2, 0x0B, 1][..], &string(&topic(index)), &[qos | 2 << 4]].concat()),
            false => subscribe_packet(key, qos | handling << 4),
        };
        // Sometimes messages are on their way meanwhile.
        let publisher = self.random.usize(..CLIENTS);
        let is_busy = publisher != client && self.clients[publisher].connection.is_some() && self.random.u8(..4) > 0;
        let mut sent = 0..0;
        if is_busy {
            sent = self.send_publishes(publisher, 0).await;
            for _ in 0..self.random.usize(..2) {
                tokio::task::yield_now().await;
            }
        }
        self.send(client, &packet).await;
        let suback = self.answer(client, 0x90).await?;
        let code = *suback.body.last().unwrap();
        self.note(format!("client {client} subscribes to {index} at QoS {qos}, shared {is_shared}: {code:#04x}"));
        match (code, may) {
            (0x87, false) => {}
            (granted, true) if granted == qos => {}
            _ => return Err(format!("client {client} subscribes to {index} at {qos}, may {may}: {code:#04x}")),
        }
        self.settle().await?;
        self.check_retained(client, index, wants_retained, is_busy).map_err(|why| format!("client {client}: {why}"))?;
        if is_busy { self.acknowledgements(publisher, sent).await } else { Ok(()) }
    }

    async fn unsubscribe(&mut self, client: usize) -> Checked {
        let key = self.random.usize(..2 * TOPICS);
        self.send(client, &packet(0xA2, &[&[0xFF, 0xFF, 0][..], &string(&filter(key))].concat())).await;
        self.answer(client, 0xB0).await?;
        self.note(format!("client {client} unsubscribes from {}", filter(key)));
        let step = self.step;
        if let Some(session) = self.clients[client].session.as_mut().filter(|session| session.subscribes(key)) {
            session.subscribe(key, None, step);
        }
        Ok(())
    }

    async fn change_rights(&mut self, client: usize) -> Checked {
        self.settle().await?;
        let index = self.random.usize(..TOPICS);
        let of = &mut self.clients[client];
        // Rights come back more easily than they go.
        let (is_of_publish, is_granted) = (self.random.bool(), self.random.u8(..3) > 0);
        if is_of_publish {
            of.may_publish[index] = is_granted;
        } else {
            of.may_read[index] = is_granted;
            if let Some(session) = of.session.as_mut().filter(|_| !is_granted) {
                session.forgive(index);
                if !session.is_kept && session.subscribes(index) {
                    // Until it subscribes anew.
                    session.subscribe(index, Some(0), self.step);
                }
            }
        }
        let (may_publish, may_read) = (of.may_publish, of.may_read);
        if !may_read[index] {
            self.let_go(client, index);
        }
        self.note(format!("client {client} may now publish {may_publish:?} and read {may_read:?}"));
        if self.sabotage != Sabotage::DeafToRights {
            let good_until = self.clients[client].good_until;
            self.grant(client);
            // The deadline of the session is that of its credential, which has not changed.
            self.clients[client].good_until = good_until.max(self.clients[client].good_until);
            self.front.reconsider(&hearthkey::mqtt::gate::Affected::Principal(user(&name(client))));
        }
        self.settle().await
    }

    async fn revoke(&mut self, client: usize) -> Checked {
        self.settle().await?;
        let of = &mut self.clients[client];
        of.is_revoked = !of.is_revoked && self.random.bool();
        let is_revoked = of.is_revoked;
        self.note(format!("client {client} is revoked: {is_revoked}"));
        if !is_revoked {
            self.gate.state.lock().unwrap().ends.remove(&user(&name(client)));
            return Ok(());
        }
        if self.clients[client].connection.is_some() {
            let firing = self.connection_ends(client);
            self.fire(firing);
        }
        self.gate.end(user(&name(client)), EndReason::Revoked);
        self.front.reconsider(&hearthkey::mqtt::gate::Affected::Principal(user(&name(client))));
        // Until the end of its connection, `arrived` takes every message for a violation.
        self.wait("the end of a revoked connection", |world| world.clients[client].connection.is_none()).await?;
        self.settle().await
    }

    async fn renew(&mut self, client: usize) -> Checked {
        self.grant(client);
        let data = [&[0x15][..], &string("client_credentials"), &[0x16], &string(&name(client))].concat();
        self.send(client, &packet(0xF0, &[&[0x19][..], &properties(&data)].concat())).await;
        self.answer(client, 0xF0).await?;
        self.note(format!("client {client} renews"));
        Ok(())
    }

    async fn pass_time(&mut self) -> Checked {
        let mut seconds = if self.random.u8(..4) == 0 { 2_000 } else { self.random.u64(1..100) };
        // Not close to the end of anybody's session, credential, delay or message.
        let is_close = |world: &Self, seconds: u64| {
            let ends = world.clients.iter().map(|of| if of.connection.is_some() { of.good_until } else { of.left_at + KEPT_S });
            let expiries = world.messages.iter().filter_map(|message| message.expires_at);
            ends.chain(world.dues()).chain(expiries).any(|end| (world.now_s + seconds).abs_diff(end) < 5)
        };
        while is_close(self, seconds) {
            seconds += 7;
        }
        self.settle().await?;
        self.now_s += seconds;
        let now_s = self.now_s;
        let expire = |of: &Client| of.connection.is_some() && of.good_until <= now_s;
        let expiring: Vec<_> = (0..CLIENTS).filter(|client| expire(&self.clients[*client])).collect();
        let mut firing: Vec<_> = expiring.into_iter().filter_map(|client| self.connection_ends(client)).collect();
        let is_over = |of: &Client| of.connection.is_none() && of.left_at + KEPT_S < now_s;
        for client in (0..CLIENTS).filter(|client| is_over(&self.clients[*client])).collect::<Vec<_>>() {
            self.end_session(client);
        }
        firing.extend(self.due(is_over));
        self.fire(firing);
        let sessions = self.clients.iter_mut().filter_map(|of| of.session.as_mut()).map(|session| &mut session.promises);
        let promises = sessions.chain(&mut self.groups);
        promises.for_each(|promises| promises.owed.retain(|_, message| !message.is_expired(now_s)));
        self.gate.state.lock().unwrap().later = now_s;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.note(format!("{seconds} s pass"));
        self.wait("the end of those whose credential is over", |world| {
            world.clients.iter().all(|client| client.connection.is_none() || client.good_until > world.now_s)
        })
        .await?;
        self.settle().await
    }

    /// Without a goodbye: what is not durable is lost. Sometimes the disk was too slow for a while before.
    async fn restart(&mut self) -> Checked {
        if self.random.bool() {
            self.gate.disk.set(DiskMode::Hangs);
            let client = self.random.usize(..CLIENTS);
            self.publish_unanswered(client).await?;
        }
        let mut rows = self.gate.state.lock().unwrap().rows.clone();
        if self.sabotage == Sabotage::ForgetfulRestart {
            let longest = rows.iter().max_by_key(|(key, _)| key.len()).map(|(key, _)| key.clone());
            longest.and_then(|key| rows.remove(&key));
        }
        rows.retain(|key, _| self.sabotage != Sabotage::WilllessRestart || key.first() != Some(&b'w'));
        self.forgive_what_may_die();
        for client in 0..CLIENTS {
            // What reached the client before is its own.
            self.drain().await?;
            self.is_left_behind(client);
            if let Some(connection) = self.clients[client].connection.take() {
                connection.abort();
                self.lost(client);
            }
        }
        let before = std::mem::take(&mut *self.gate.state.lock().unwrap());
        let gate = FakeGate::default();
        *gate.state.lock().unwrap() = State { rows: rows.clone(), events: Vec::new(), ..before };
        self.gate = Arc::new(gate);
        self.fabric = F::new();
        self.front = Front::with_fabric(self.gate.clone(), Limits::default(), rows, self.fabric.clone());
        self.restarted_at = self.step;
        self.note("the hub restarts".to_owned());
        self.settle().await
    }

    async fn publish_unanswered(&mut self, client: usize) -> Checked {
        if self.clients[client].connection.is_none() {
            return Ok(());
        }
        self.note("the disk hangs".to_owned());
        self.send_publishes(client, 1).await;
        self.settle().await
    }

    async fn kill_fabric(&mut self) -> Checked {
        let mut dying = Some(tokio::spawn(self.fabric.die()));
        self.wait("the death of the fabric", |_| dying.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)).await?;
        if dying.take().unwrap().await.unwrap() {
            self.note("the fabric dies".to_owned());
        }
        Ok(())
    }

    /// Sends the acknowledgements that were held back.
    async fn acknowledge(&mut self, client: usize) -> Checked {
        let withheld = self.clients[client].connection.as_mut().map(|connection| std::mem::take(&mut connection.withheld));
        for bytes in withheld.into_iter().flatten() {
            self.send(client, &bytes).await;
        }
        self.settle().await
    }

    async fn send(&mut self, client: usize, bytes: &[u8]) {
        if let Some(connection) = &mut self.clients[client].connection {
            connection.send(bytes).await;
        }
    }

    /// The answer of this packet type to what was just sent.
    async fn answer(&mut self, client: usize, first: u8) -> Checked<Packet> {
        self.clients[client].answer = None;
        self.wait("an answer", |world| {
            let of = &world.clients[client];
            of.connection.is_none() || of.answer.as_ref().is_some_and(|packet| packet.first == first)
        })
        .await?;
        self.clients[client].answer.take().ok_or_else(|| format!("client {client} was cut instead of answered ({first:#04x})"))
    }

    /// Lets all that can happen now happen.
    async fn settle(&mut self) -> Checked {
        // Whoever has something to notice notices it.
        self.quiet().await?;
        for client in 0..CLIENTS {
            let is_connected = self.clients[client].connection.is_some();
            self.clients[client].pings += usize::from(is_connected);
            self.send(client, &[0xC0, 0]).await;
        }
        // Who answers a ping waits for nothing else.
        self.wait("answers to pings", |world| world.clients.iter().all(|client| client.pings == 0)).await?;
        self.quiet().await
    }

    /// Turns until nothing has come for a while.
    async fn quiet(&mut self) -> Checked {
        let mut quiet = 0;
        while quiet < 25 {
            quiet = if self.turn().await? { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    async fn wait(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Checked {
        let begun = Instant::now();
        let mut turns = 0_u32;
        while !done(self) {
            self.turn().await?;
            turns += 1;
            if turns.is_multiple_of(50) {
                // Somebody may wait for a timer: a tenth of a second of virtual time, which no deadline of this life is close to.
                tokio::time::advance(Duration::from_millis(if F::HAS_THREAD { 1 } else { 10 })).await;
            }
            let is_over = if F::HAS_THREAD { begun.elapsed() > F::PATIENCE } else { turns > 20_000 };
            if is_over {
                return Err(format!("waited in vain for {what}: {}", self.outstanding()));
            }
        }
        Ok(())
    }

    fn outstanding(&self) -> String {
        let of = |(index, client): (usize, &Client)| {
            let owed = client.session.as_ref().map(|session| session.promises.owed.keys().copied().collect::<Vec<_>>());
            format!("client {index}: owed {owed:?}, unacknowledged {:?}", client.memory.unacknowledged)
        };
        self.clients.iter().enumerate().map(of).collect::<Vec<_>>().join("; ")
    }

    /// Gives everybody a turn; whether something came.
    async fn turn(&mut self) -> Checked<bool> {
        tokio::task::yield_now().await;
        if F::HAS_THREAD {
            // Virtual time stands still for that thread; what comes is waited for by looking again.
            std::thread::sleep(Duration::from_micros(20));
        }
        self.drain().await
    }

    async fn drain(&mut self) -> Checked<bool> {
        let mut came = false;
        for client in 0..CLIENTS {
            // What follows an answer waits until the answer is understood.
            while let of = &mut self.clients[client]
                && (of.answer.is_none() || of.successor.is_some())
                && let Some(connection) = &mut of.connection
            {
                match connection.packet() {
                    Ok(Some(packet)) => self.arrived(client, packet).await?,
                    Ok(None) => break,
                    Err(()) => self.lost(client),
                }
                came = true;
            }
            let of = &mut self.clients[client];
            if let Some(successor) = of.successor.as_mut().filter(|_| of.answer.is_none())
                && let Ok(Some(connack)) = successor.packet()
            {
                of.answer = Some(connack);
                came = true;
            }
        }
        Ok(came)
    }

    async fn arrived(&mut self, client: usize, packet: Packet) -> Checked {
        match packet.first >> 4 {
            3 => self.delivered(client, &packet.published(5)).await,
            4..=7 => self.acknowledged(client, &packet).await,
            13 => {
                self.clients[client].pings -= 1;
                Ok(())
            }
            14 => {
                let of = &self.clients[client];
                let expected = match packet.body[0] {
                    0x8E => of.successor.is_some(),
                    0x98 => of.is_revoked,
                    0xA0 => of.good_until <= self.now_s,
                    _ => false,
                };
                self.note(format!("client {client} is cut with {:#04x}", packet.body[0]));
                if expected { Ok(()) } else { Err(format!("client {client} was cut: {packet:?}")) }
            }
            _ => {
                self.clients[client].answer = Some(packet);
                Ok(())
            }
        }
    }

    async fn delivered(&mut self, client: usize, published: &Published) -> Checked {
        let (number, is_shared) = number_of(published).ok_or_else(|| format!("a message of nobody: {published:?}"))?;
        let message = self.messages[number];
        let payload = if message.is_empty { String::new() } else { number.to_string() };
        let says = format!("client {client} gets message {number} ({message:?}) as {published:?}");
        self.note(format!(
            "client {client} gets message {number} at QoS {}, DUP {}, retained {}, shared {is_shared}",
            published.qos, published.dup, published.retain
        ));
        self.received += 1;
        let of = &mut self.clients[client];
        let identifier = published.packet_identifier;
        let is_repetition = published.qos == 2 && !of.memory.taken.insert(identifier);
        let connection = of.connection.as_mut().unwrap();
        if published.qos > 0 {
            let kind = if published.qos == 1 { 0x40 } else { 0x50 };
            connection.withheld.push(encode(kind, &identifier.to_be_bytes()));
        }
        if topic(message.topic) != published.topic || payload != published.payload {
            return Err(format!("altered: {says}"));
        }
        if message.is_denied || of.is_revoked || !of.may_read[message.topic] {
            return Err(format!("without a right: {says}"));
        }
        if !is_repetition {
            let copy = Copy { client, connection: connection.number, qos: published.qos, dup: published.dup };
            let session = of.session.as_mut().ok_or_else(|| format!("without a session: {says}"))?;
            session.check_qos(message.topic + if is_shared { TOPICS } else { 0 }, message, copy.qos)?;
            let since = (message.is_expired(self.now_s), self.restarted_at >= message.step);
            let received = match (published.retain, is_shared) {
                (true, _) => session.receive_retained(number, message, copy),
                (false, false) => session.promises.receive(number, message, copy, since, false),
                (false, true) => self.groups[message.topic].receive(number, message, copy, since, true),
            };
            self.shared += usize::from(is_shared);
            received.map_err(|why| format!("{why}: {says}"))?;
        }
        self.maybe_acknowledge(client).await
    }

    async fn acknowledged(&mut self, client: usize, packet: &Packet) -> Checked {
        let identifier = u16::from_be_bytes([packet.body[0], packet.body[1]]);
        let is_refused = packet.body.get(2).is_some_and(|code| *code >= 0x80);
        let kind = packet.first >> 4;
        if kind == 6 {
            let of = &mut self.clients[client];
            of.memory.taken.remove(&identifier);
            let connection = of.connection.as_mut().unwrap();
            connection.withheld.push(encode(0x70, &identifier.to_be_bytes()));
            return self.maybe_acknowledge(client).await;
        }
        let memory = &mut self.clients[client].memory;
        let Some(key) = memory.find(identifier) else { return Ok(()) };
        let number = memory.unacknowledged[&key].message;
        let was_released = memory.unacknowledged[&key].is_released;
        if kind == 5 && !is_refused {
            memory.unacknowledged.get_mut(&key).unwrap().is_released = true;
            self.send(client, &encode(0x62, &identifier.to_be_bytes())).await;
        } else {
            self.clients[client].memory.unacknowledged.remove(&key);
        }
        let message = self.messages[number];
        let should_be_refused = message.is_denied && !message.was_resent;
        if kind != 7 && !message.was_resent && is_refused != should_be_refused {
            return Err(format!("message {number} {message:?} was answered by {packet:?}"));
        }
        if is_refused || was_released || message.is_denied {
            return Ok(());
        }
        self.promise(number);
        Ok(())
    }

    /// A message was acknowledged, or its will has fired.
    fn promise(&mut self, number: usize) {
        let message = self.messages[number];
        if message.is_expired(self.now_s) {
            return;
        }
        for of in self.clients.iter_mut().filter(|of| of.may_read[message.topic]) {
            // Of a publish that was sent twice, only kept sessions can be sure.
            let is_sure = |session: &&mut Session| session.is_kept || !message.was_resent;
            if let Some(session) = of.session.as_mut().filter(is_sure)
                && session.is_promised(message.topic, message)
            {
                session.promises.owe(number, message);
            }
        }
        let is_sure = !message.was_resent || self.members(message.topic).all(|session| session.is_kept);
        if is_sure && self.members(message.topic).any(|session| session.is_promised(TOPICS + message.topic, message)) {
            self.groups[message.topic].owe(number, message);
        }
    }

    async fn maybe_acknowledge(&mut self, client: usize) -> Checked {
        if self.random.u8(..5) > 0 {
            let withheld = std::mem::take(&mut self.clients[client].connection.as_mut().unwrap().withheld);
            for bytes in withheld {
                self.send(client, &bytes).await;
            }
        }
        Ok(())
    }
}

impl<F: Ground> Drop for World<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {} on the fabric `{}`", self.seed, F::NAME);
        }
    }
}
