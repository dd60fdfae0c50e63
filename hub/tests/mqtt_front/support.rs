//! A gate made by hand, and a client that sends and shows raw packets.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use hearthkey::mqtt::{
    FabricKind, Front, Gate, Limits,
    gate::{Admission, Affected, Noting, PersistError, Possession, Refusal, RefusalKind, SessionEvent},
    message::Message,
};
use hearthkey_core::{
    DeviceId, UnixTime,
    jwt::PublicKey,
    profile::Profile,
    rights::Rights,
    scope::PermissionName,
    session::{Authority, EndReason, Principal, Proof, Standing},
    topic::TopicName,
    write::Write,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// How long a test waits for what must happen before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What carries the messages: the programs `mqtt_front_router` and `mqtt_conformance_router` tell the stories of `mqtt_front`
/// and `mqtt_conformance` once more.
pub const FABRIC: FabricKind = match env!("CARGO_CRATE_NAME").as_bytes() {
    b"mqtt_front_router" | b"mqtt_conformance_router" => FabricKind::Router,
    _ => FabricKind::Native,
};

pub const NOW: UnixTime = UnixTime(1_780_000_000);

#[derive(Default)]
pub struct FakeGate {
    pub state: Mutex<State>,
    pub changed: tokio::sync::Notify,
    pub disk: Disk,
    /// While it is true no token request is decided.
    pub undecided: watch::Sender<bool>,
    /// What happens between the next judgement and its return.
    pub meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Default)]
pub struct State {
    pub later: u64,
    /// By credential: the password, or the form body.
    pub grants: HashMap<String, Grant>,
    pub ends: HashMap<Principal, EndReason>,
    /// Who is there no more.
    pub gone: HashSet<Principal>,
    pub events: Vec<SessionEvent>,
    pub acknowledged: Vec<(String, String, Vec<u8>)>,
    /// The keys that tokens are bound to.
    pub keys: HashMap<String, PublicKey>,
    /// Commands that devices have got.
    pub delivered: Vec<(String, Vec<u8>)>,
    /// Names of commands by device.
    pub commands_waiting: HashMap<String, Vec<String>>,
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub batches: usize,
    /// The fewest rows of queued messages after any batch.
    pub fewest_queued: usize,
}

#[derive(Clone)]
pub struct Grant {
    pub principal: Principal,
    pub rights: Arc<Rights>,
    pub expires_at: Option<UnixTime>,
}

/// Whether rows are written at once, held back, or refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskMode {
    #[default]
    Works,
    Hangs,
    /// After so many batches.
    HangsAfter(usize),
    Fails,
}

pub struct Disk(watch::Sender<DiskMode>);

impl Default for Disk {
    fn default() -> Self {
        Self(watch::Sender::new(DiskMode::Works))
    }
}

impl Disk {
    pub fn set(&self, mode: DiskMode) {
        self.0.send_replace(mode);
    }
}

pub fn device(id: &str) -> Principal {
    Principal::Device(DeviceId::parse(id).unwrap())
}

pub fn user(name: &str) -> Principal {
    Principal::User(DeviceId::parse(name).unwrap())
}

/// What a thermostat may do.
pub fn thermostat(id: &str) -> Arc<Rights> {
    let profile = Profile::shipped().find(|profile| profile.name.as_str() == "thermostat").unwrap();
    Arc::new(Rights::of_device(&profile, &profile.scope(), &DeviceId::parse(id).unwrap(), &[]))
}

pub fn rights(publish: &[&str], subscribe: &[&str]) -> Arc<Rights> {
    Arc::new(Rights::granting("test", &PermissionName::parse("all").unwrap(), publish, subscribe))
}

impl FakeGate {
    /// Devices `lamp` and `oven`, each with its name as password; the user `owner`, who may do all.
    pub fn of_a_home() -> Arc<Self> {
        let gate = Self::default();
        for id in ["lamp", "oven"] {
            gate.grant(id, device(id), thermostat(id), None);
        }
        gate.grant("owner", user("owner"), rights(&["#"], &["#"]), None);
        Arc::new(gate)
    }

    pub fn grant(&self, credential: &str, principal: Principal, rights: Arc<Rights>, expires_at: Option<UnixTime>) {
        self.state.lock().unwrap().grants.insert(credential.to_owned(), Grant { principal, rights, expires_at });
    }

    pub fn end(&self, principal: Principal, reason: EndReason) {
        self.state.lock().unwrap().ends.insert(principal, reason);
    }

    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.state.lock().unwrap().rows.clone().into_iter().collect()
    }

    /// Waits for an event that a test expects.
    pub async fn event(&self, wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
        within(async {
            loop {
                let changed = self.changed.notified();
                if let Some(event) = self.state.lock().unwrap().events.iter().find(|event| wanted(event)) {
                    return event.clone();
                }
                changed.await;
            }
        })
        .await
    }

    fn judged(&self, authority: &Authority) -> Result<Standing, EndReason> {
        if let Some(reason) = self.state.lock().unwrap().ends.get(&authority.principal) {
            return Err(reason.clone());
        }
        let grant = self.granted(authority)?;
        Ok(Standing { rights: grant.rights, expires_at: grant.expires_at })
    }

    fn granted(&self, authority: &Authority) -> Result<Grant, EndReason> {
        let Proof::Credential(credential) = &authority.proof else { return Err(EndReason::Revoked) };
        self.state.lock().unwrap().grants.get(&**credential).cloned().ok_or(EndReason::Revoked)
    }

    fn decide(&self, credential: &str) -> Result<Admission, Refusal> {
        let refusal =
            |kind, error: &str| Refusal { error: error.to_owned(), description: "client authentication failed".to_owned(), kind };
        match credential {
            "too fast" => return Err(refusal(RefusalKind::RateLimited, "slow_down")),
            "no store" => return Err(refusal(RefusalKind::Unavailable, "temporarily_unavailable")),
            _ => {}
        }
        let state = self.state.lock().unwrap();
        let grant = state.grants.get(credential).ok_or_else(|| refusal(RefusalKind::BadCredentials, "invalid_client"))?;
        Ok(Admission {
            authority: Authority { principal: grant.principal.clone(), proof: Proof::Credential(credential.into()) },
            standing: Standing { rights: grant.rights.clone(), expires_at: grant.expires_at },
            token_response: None,
        })
    }
}

impl Gate for FakeGate {
    fn now(&self) -> UnixTime {
        UnixTime(NOW.0 + self.state.lock().unwrap().later)
    }

    fn issuer(&self) -> &str {
        "https://hub:8443"
    }

    async fn admit_by_password(&self, _: &str, _: Option<&str>, password: &[u8], _: SocketAddr) -> Result<Admission, Refusal> {
        self.decide(&String::from_utf8_lossy(password))
    }

    async fn admit_by_token_request(&self, _: &str, form: &[u8], _: SocketAddr) -> Result<Admission, Refusal> {
        self.undecided.subscribe().wait_for(|undecided| !undecided).await.expect("the gate is there");
        let mut admission = self.decide(&String::from_utf8_lossy(form))?;
        admission.token_response = Some(format!(r#"{{"access_token":"{}"}}"#, String::from_utf8_lossy(form)).into_bytes());
        Ok(admission)
    }

    fn judge(&self, authority: &Authority) -> Result<Standing, EndReason> {
        let judgement = self.judged(authority);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(happen) = meanwhile {
            happen();
        }
        judgement
    }

    fn judge_will(&self, authority: &Authority) -> Result<Arc<Rights>, EndReason> {
        match self.judged(authority) {
            Ok(standing) => Ok(standing.rights),
            Err(EndReason::Expired { .. }) => Ok(self.granted(authority)?.rights),
            Err(reason) => Err(reason),
        }
    }

    fn is_gone(&self, principal: &Principal) -> bool {
        self.state.lock().unwrap().gone.contains(principal)
    }

    fn commands_waiting(&self, _: &DeviceId, device: &DeviceId) -> Vec<(TopicName, Message)> {
        let state = self.state.lock().unwrap();
        let mut waiting = state.commands_waiting.get(device.as_str()).cloned().unwrap_or_default();
        let is_delivered = |name: &String| state.delivered.iter().any(|(_, payload)| payload == name.as_bytes());
        waiting.retain(|name| !is_delivered(name));
        let ready = |name: &String| {
            (TopicName::parse(&format!("dev/{device}/cmd/{name}")).unwrap(), Message::at_least_once(name.clone().into_bytes()))
        };
        waiting.iter().map(ready).collect()
    }

    fn command_id(&self, payload: &[u8]) -> Option<String> {
        String::from_utf8(payload.to_vec()).ok()
    }

    async fn admit_by_possession(&self, _: &str, possession: Possession<'_>, _: SocketAddr) -> Result<Admission, Refusal> {
        let token = String::from_utf8_lossy(possession.token).into_owned();
        let key = self.state.lock().unwrap().keys.get(&token).cloned();
        match key.map(|key| key.verify(possession.challenge, possession.proof)) {
            Some(Ok(())) => self.decide(&token),
            Some(Err(_)) | None => self.decide("nobody's"),
        }
    }

    fn delivered(&self, _: &DeviceId, device: &DeviceId, payload: &[u8]) {
        self.state.lock().unwrap().delivered.push((device.to_string(), payload.to_vec()));
        self.changed.notify_waiters();
    }

    fn acknowledged(&self, _: &Principal, device: &DeviceId, command_id: &str, payload: &[u8]) -> Option<Noting> {
        self.state.lock().unwrap().acknowledged.push((device.to_string(), command_id.to_owned(), payload.to_vec()));
        self.changed.notify_waiters();
        let mut mode = self.disk.0.subscribe();
        Some(Box::pin(
            async move { mode.wait_for(|mode| *mode != DiskMode::Hangs).await.is_ok_and(|mode| *mode == DiskMode::Works) },
        ))
    }

    fn record(&self, event: SessionEvent) {
        self.state.lock().unwrap().events.push(event);
        self.changed.notify_waiters();
    }

    async fn persist(&self, writes: Vec<Write>) -> Result<(), PersistError> {
        let mut mode = self.disk.0.subscribe();
        let batches = self.state.lock().unwrap().batches;
        let hangs = |mode: DiskMode| mode == DiskMode::Hangs || matches!(mode, DiskMode::HangsAfter(after) if after <= batches);
        let mode = *mode.wait_for(|mode| !hangs(*mode)).await.map_err(|_| PersistError("gone".to_owned()))?;
        if mode == DiskMode::Fails {
            return Err(PersistError("the disk is full".to_owned()));
        }
        let bytes: usize = writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value, .. } => key.len() + value.len(),
                Write::Delete { key, .. } => key.len(),
            })
            .sum();
        assert!(writes.len() <= 512 && bytes <= 1 << 20, "a batch that the store refuses: {} rows, {bytes} bytes", writes.len());
        let mut state = self.state.lock().unwrap();
        state.batches += 1;
        for write in writes {
            match write {
                Write::Put { key, value, .. } => {
                    assert!(key.len() <= 255 && value.len() <= 4_096);
                    state.rows.insert(key, value);
                }
                Write::Delete { key, .. } => {
                    state.rows.remove(&key);
                }
            }
        }
        state.fewest_queued = state.fewest_queued.min(state.rows.keys().filter(|key| key.first() == Some(&b'q')).count());
        Ok(())
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("what must happen did not happen")
}

/// A front on a loopback port.
pub struct Home {
    pub gate: Arc<FakeGate>,
    pub front: Front<FakeGate>,
    pub address: SocketAddr,
}

impl Home {
    pub async fn new() -> Self {
        Self::with(FakeGate::of_a_home(), Limits::default()).await
    }

    pub async fn with(gate: Arc<FakeGate>, limits: Limits) -> Self {
        Self::on(FABRIC, gate, limits).await
    }

    pub async fn on(fabric: FabricKind, gate: Arc<FakeGate>, limits: Limits) -> Self {
        open_many_files();
        let front = Front::on(fabric, gate.clone(), limits, gate.rows());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = front.clone();
        tokio::spawn(async move { serving.serve_tcp(listener, std::future::pending()).await });
        Self { gate, front, address }
    }

    /// The hub stops and starts again on what is durable.
    pub async fn restarted(self) -> Self {
        self.front.stop().await;
        let gate = FakeGate::of_a_home();
        gate.state.lock().unwrap().rows = self.gate.state.lock().unwrap().rows.clone();
        Self::with(gate, Limits::default()).await
    }

    /// The power fails: what is not durable at this moment is gone.
    pub async fn after_a_power_cut(&self) -> Self {
        let gate = FakeGate::of_a_home();
        gate.state.lock().unwrap().rows = self.gate.state.lock().unwrap().rows.clone();
        Self::with(gate, Limits::default()).await
    }

    pub fn reconsider(&self, principal: Principal) {
        self.front.reconsider(&Affected::Principal(principal));
    }

    pub async fn stranger(&self) -> Client {
        Client::connect(self.address).await
    }

    /// MQTT 5, clean start, the name is also the password.
    pub async fn v5(&self, name: &str) -> Client {
        self.connected(Connect::v5(name)).await
    }

    /// MQTT 3.1.1, clean session.
    pub async fn v311(&self, name: &str) -> Client {
        self.connected(Connect::v311(name)).await
    }

    pub async fn connected(&self, connect: Connect) -> Client {
        self.stranger().await.admitted(connect).await
    }

    /// The reason code of a CONNECT that is refused, and all the words with it.
    pub async fn refusal(&self, connect: Connect) -> (u8, String) {
        let mut client = self.stranger().await;
        client.send(&connect.packet()).await;
        let connack = client.receive().await;
        assert_eq!(connack.first, 0x20);
        client.closed().await;
        (connack.body[1], String::from_utf8_lossy(&connack.body).into_owned())
    }
}

/// topic, payload, QoS, retain, properties
pub type Will = (String, Vec<u8>, u8, bool, Vec<u8>);

#[derive(Clone, Debug)]
pub struct Connect {
    pub version: u8,
    pub client_identifier: String,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub user_name: Option<String>,
    pub password: Option<String>,
}

impl Connect {
    pub fn v5(name: &str) -> Self {
        Self {
            version: 5,
            client_identifier: name.to_owned(),
            clean_start: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            user_name: None,
            password: Some(name.split('/').next().unwrap().to_owned()),
        }
    }

    pub fn v311(name: &str) -> Self {
        Self { version: 4, user_name: Some(name.to_owned()), ..Self::v5(name) }
    }

    /// A session that is kept for an hour.
    pub fn kept(name: &str) -> Self {
        Self { clean_start: false, properties: vec![0x11, 0, 0, 0x0E, 0x10], ..Self::v5(name) }
    }

    pub fn by_method(name: &str, method: &str, data: &[u8]) -> Self {
        let mut properties = vec![0x15];
        properties.extend(string(method));
        properties.push(0x16);
        properties.extend(binary(data));
        Self { properties, password: None, ..Self::v5(name) }
    }

    pub fn will(mut self, topic: &str, payload: &str, retain: bool) -> Self {
        self.will = Some((topic.to_owned(), payload.as_bytes().to_vec(), 1, retain, Vec::new()));
        self
    }

    pub fn packet(&self) -> Vec<u8> {
        let mut body = string("MQTT");
        body.push(self.version);
        let mut flags = u8::from(self.clean_start) << 1;
        if let Some((_, _, qos, retain, _)) = &self.will {
            flags |= 0x04 | qos << 3 | u8::from(*retain) << 5;
        }
        flags |= u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == 5 {
            body.extend(properties(&self.properties));
        }
        body.extend(string(&self.client_identifier));
        if let Some((topic, payload, _, _, will_properties)) = &self.will {
            if self.version == 5 {
                body.extend(properties(will_properties));
            }
            body.extend(string(topic));
            body.extend(binary(payload));
        }
        self.user_name.iter().for_each(|name| body.extend(string(name)));
        self.password.iter().for_each(|password| body.extend(string(password)));
        packet(0x10, &body)
    }
}

pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

pub fn properties(properties: &[u8]) -> Vec<u8> {
    let mut out = integer(properties.len());
    out.extend(properties);
    out
}

pub fn integer(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(integer(body.len()));
    out.extend(body);
    out
}

/// What a PUBLISH says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub topic: String,
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub packet_identifier: u16,
    pub properties: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn published(&self, version: u8) -> Published {
        assert_eq!(self.first >> 4, 3, "not a PUBLISH: {self:?}");
        let length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + length].to_vec()).unwrap();
        let mut rest = &self.body[2 + length..];
        let qos = (self.first >> 1) & 3;
        let mut packet_identifier = 0;
        if qos > 0 {
            packet_identifier = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if version == 5 {
            let (mut length, mut shift) = (0_usize, 0);
            loop {
                let byte = rest[0];
                rest = &rest[1..];
                length |= usize::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            properties = rest[..length].to_vec();
            rest = &rest[length..];
        }
        let payload = String::from_utf8_lossy(rest).into_owned();
        Published { topic, payload, qos, retain: self.first & 1 != 0, dup: self.first & 8 != 0, packet_identifier, properties }
    }
}

pub struct Client {
    pub stream: Box<dyn Stream>,
    pub version: u8,
    pub connack: Packet,
    next: u16,
}

/// TCP, or the inside of this process.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), version: 5, connack: Packet { first: 0, body: Vec::new() }, next: 0 }
    }

    /// CONNECT and CONNACK 0x00.
    pub async fn admitted(mut self, connect: Connect) -> Self {
        self.version = connect.version;
        self.send(&connect.packet()).await;
        let connack = self.receive().await;
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
        self.connack = connack;
        self
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    async fn try_receive(&mut self) -> std::io::Result<Packet> {
        let first = self.stream.read_u8().await?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.stream.read_u8().await?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(Packet { first, body })
    }

    pub async fn receive(&mut self) -> Packet {
        within(self.try_receive()).await.expect("a packet")
    }

    /// The next PUBLISH, acknowledged.
    pub async fn message(&mut self) -> Published {
        let published = self.message_unacknowledged().await;
        match published.qos {
            1 => self.puback(published.packet_identifier).await,
            2 => {
                self.ack(0x50, published.packet_identifier).await;
                self.expect_ack(0x62, published.packet_identifier).await;
                self.ack(0x70, published.packet_identifier).await;
            }
            _ => {}
        }
        published
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte.
    pub async fn ack(&mut self, first: u8, packet_identifier: u16) {
        self.send(&packet(first, &packet_identifier.to_be_bytes())).await;
    }

    /// The next packet, which must be this answer; returns its reason code.
    pub async fn expect_ack(&mut self, first: u8, packet_identifier: u16) -> u8 {
        let ack = self.receive().await;
        assert_eq!((ack.first, &ack.body[..2]), (first, &packet_identifier.to_be_bytes()[..]), "{ack:?}");
        ack.body.get(2).copied().unwrap_or(0)
    }

    /// The whole exchange of a QoS 2 publish; returns the reason code of PUBREC.
    pub async fn publish2(&mut self, topic: &str, payload: &str) -> u8 {
        let publish = self.publish_packet(topic, payload, 2, false, &[]);
        self.send(&publish).await;
        let packet_identifier = self.next;
        let code = self.expect_ack(0x50, packet_identifier).await;
        if code == 0 {
            self.ack(0x62, packet_identifier).await;
            assert_eq!(self.expect_ack(0x70, packet_identifier).await, 0);
        }
        code
    }

    pub async fn message_unacknowledged(&mut self) -> Published {
        self.receive().await.published(self.version)
    }

    pub async fn puback(&mut self, packet_identifier: u16) {
        self.send(&packet(0x40, &packet_identifier.to_be_bytes())).await;
    }

    /// DISCONNECT with reason code and reason string, and then the close.
    pub async fn disconnected(&mut self) -> (u8, String) {
        loop {
            let packet = self.receive().await;
            if packet.first == 0xE0 {
                self.closed().await;
                return (packet.body[0], String::from_utf8_lossy(&packet.body).into_owned());
            }
        }
    }

    /// The connection is closed; nothing more came.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is a close too.
        let _ = within(self.stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }

    pub fn publish_packet(&mut self, topic: &str, payload: &str, qos: u8, retain: bool, property_bytes: &[u8]) -> Vec<u8> {
        let mut body = string(topic);
        if qos > 0 {
            self.next += 1;
            body.extend(self.next.to_be_bytes());
        }
        if self.version == 5 {
            body.extend(properties(property_bytes));
        }
        body.extend(payload.as_bytes());
        packet(0x30 | qos << 1 | u8::from(retain), &body)
    }

    pub async fn publish0(&mut self, topic: &str, payload: &str) {
        let packet = self.publish_packet(topic, payload, 0, false, &[]);
        self.send(&packet).await;
    }

    /// QoS 1; returns the reason code.
    pub async fn publish1(&mut self, topic: &str, payload: &str) -> u8 {
        self.publish(topic, payload, false, &[]).await
    }

    pub async fn publish(&mut self, topic: &str, payload: &str, retain: bool, properties: &[u8]) -> u8 {
        let packet = self.publish_packet(topic, payload, 1, retain, properties);
        self.send(&packet).await;
        self.puback_of(self.next).await
    }

    pub async fn puback_of(&mut self, packet_identifier: u16) -> u8 {
        let puback = self.receive().await;
        assert_eq!((puback.first, &puback.body[..2]), (0x40, &packet_identifier.to_be_bytes()[..]), "{puback:?}");
        puback.body.get(2).copied().unwrap_or(0)
    }

    /// Returns the reason code.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, &[]).await
    }

    pub async fn subscribe_with(&mut self, filter: &str, options: u8, property_bytes: &[u8]) -> u8 {
        self.next += 1;
        let mut body = self.next.to_be_bytes().to_vec();
        if self.version == 5 {
            body.extend(properties(property_bytes));
        }
        body.extend(string(filter));
        body.push(options);
        self.send(&packet(0x82, &body)).await;
        let suback = self.receive().await;
        assert_eq!(suback.first, 0x90, "{suback:?}");
        *suback.body.last().unwrap()
    }

    pub async fn unsubscribe(&mut self, filter: &str) -> Packet {
        self.next += 1;
        let mut body = self.next.to_be_bytes().to_vec();
        if self.version == 5 {
            body.push(0);
        }
        body.extend(string(filter));
        self.send(&packet(0xA2, &body)).await;
        let unsuback = self.receive().await;
        assert_eq!(unsuback.first, 0xB0, "{unsuback:?}");
        unsuback
    }

    /// All that came until now has been seen: the next packet is the answer to a ping.
    pub async fn nothing_came(&mut self) {
        self.send(&[0xC0, 0]).await;
        assert_eq!(self.receive().await, Packet { first: 0xD0, body: Vec::new() });
    }

    pub async fn goodbye(mut self) {
        self.send(&[0xE0, 0]).await;
        self.closed().await;
    }
}

/// Lets this process open as many files as the system allows: most give a program 1,024 to begin with, and both ends of a
/// thousand connections are here.
fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
}
