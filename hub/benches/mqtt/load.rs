//! The load generator: clients that send and read raw packets of MQTT 5, the same for each broker.

use crate::{brokers::Broker, hub::now};
use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsConnector;

pub(crate) const PAYLOAD_BYTES: usize = 100;
pub(crate) const TOPIC: &str = "dev/lamp/tele/temperature";
/// How far publishers together may be ahead of the slowest subscriber: no broker has to drop.
const WINDOW: u64 = 1_000;
/// Below the Receive Maximum of each broker.
const IN_FLIGHT: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) publishers: u64,
    pub(crate) subscribers: usize,
    pub(crate) qos: u8,
    /// Of all publishers together.
    pub(crate) messages: u64,
    pub(crate) transport: Transport,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = if self.transport == Transport::Tls { ", TLS" } else { "" };
        write!(f, "{} to {}, QoS {}{transport}", self.publishers, self.subscribers, self.qos)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Wire {
    stream: Box<dyn Stream>,
    bytes: BytesMut,
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length > 0x7F {
        bytes.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    bytes
}

impl Wire {
    async fn connect(broker: &Broker, transport: Transport, client_identifier: &str, name: &str, password: &str) -> Self {
        let address = if transport == Transport::Tls { broker.serving.tls.unwrap() } else { broker.serving.tcp };
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let stream: Box<dyn Stream> = match transport {
            Transport::Tcp => Box::new(tcp),
            Transport::Tls => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(broker.serving.ca_pem.as_bytes()).unwrap()).unwrap();
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
                let config = config.with_root_certificates(roots).with_no_client_auth();
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
            }
        };
        let mut wire = Self { stream, bytes: BytesMut::with_capacity(256 * 1024) };
        let mut body = string("MQTT");
        // Clean start, user name, password; keep alive of ten minutes, since stock rumqttd takes none; Receive Maximum 256.
        body.extend([5, 0xC2, 0x02, 0x58, 3, 0x21, 1, 0]);
        [client_identifier, name, password].iter().for_each(|text| body.extend(string(text)));
        wire.send(&packet(0x10, &body)).await;
        let connack = wire.packet().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{}: {connack:?}", broker.name);
        wire
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&subscribe(filter, qos)).await;
        let suback = self.packet().await;
        assert_eq!((suback[0], *suback.last().unwrap()), (0x90, qos), "{suback:?}");
    }

    fn next(&mut self) -> Option<BytesMut> {
        let mut length = 0;
        for index in 0..3 {
            let byte = *self.bytes.get(1 + index)?;
            length |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                let total = 2 + index + length;
                return (self.bytes.len() >= total).then(|| self.bytes.split_to(total));
            }
        }
        None
    }

    async fn packet(&mut self) -> BytesMut {
        loop {
            if let Some(packet) = self.next() {
                return packet;
            }
            assert!(self.stream.read_buf(&mut self.bytes).await.unwrap() > 0, "closed");
        }
    }
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    body.extend(string(filter));
    body.push(qos);
    packet(0x82, &body)
}

fn unsubscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    body.extend(string(filter));
    packet(0xA2, &body)
}

fn publish(topic: &str, qos: u8, packet_identifier: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(packet_identifier.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(0x30 | qos << 1, &body)
}

/// The payload of a PUBLISH with a body of less than 16,384 bytes, and its acknowledgement if it wants one.
fn payload_and_ack(mut publish: BytesMut) -> (BytesMut, Option<[u8; 4]>) {
    let qos = (publish[0] >> 1) & 3;
    publish.advance(if publish[1] & 0x80 == 0 { 2 } else { 3 });
    let topic = usize::from(publish.get_u16());
    publish.advance(topic);
    let ack = (qos > 0).then(|| publish.get_u16().to_be_bytes()).map(|[high, low]| [0x40, 2, high, low]);
    let properties = usize::from(publish.get_u8());
    publish.advance(properties);
    (publish, ack)
}

/// How far each subscriber is, and a bell that rings when one of them or an acknowledgement moves.
struct Progress {
    received: Vec<AtomicU64>,
    bells: Vec<Notify>,
}

impl Progress {
    fn slowest(&self) -> u64 {
        self.received.iter().map(|received| received.load(Ordering::Acquire)).min().unwrap()
    }
}

/// Deliveries per second and CPU microseconds per delivery.
pub(crate) async fn throughput(broker: &Broker, row: Row) -> (f64, f64) {
    let Row { publishers, subscribers, qos, messages, transport } = row;
    let progress = Arc::new(Progress {
        received: (0..subscribers).map(|_| AtomicU64::new(0)).collect(),
        bells: (0..publishers).map(|_| Notify::new()).collect(),
    });
    let mut receiving = tokio::task::JoinSet::new();
    let owner = broker.password("owner");
    for index in 0..subscribers {
        let mut wire = Wire::connect(broker, transport, &format!("owner-{index}"), "owner", &owner).await;
        wire.subscribe(TOPIC, qos).await;
        receiving.spawn(receive(wire, progress.clone(), index, messages));
    }
    let mut sending = tokio::task::JoinSet::new();
    let lamp = broker.password("lamp");
    let mut wires = Vec::new();
    for number in 0..publishers {
        wires.push(Wire::connect(broker, transport, &broker.client_identifier(number), "lamp", &lamp).await);
    }
    let (started, cpu) = (Instant::now(), broker.cpu());
    for (number, wire) in (0..).zip(wires) {
        sending.spawn(send(wire, progress.clone(), number, Row { messages: messages / publishers, ..row }));
    }
    while let Some(ended) = receiving.join_next().await {
        ended.unwrap();
    }
    let (elapsed, cpu) = (started.elapsed(), broker.cpu() - cpu);
    let deliveries = messages as f64 * subscribers as f64;
    (deliveries / elapsed.as_secs_f64(), cpu.as_secs_f64() * 1e6 / deliveries)
}

async fn receive(mut wire: Wire, progress: Arc<Progress>, index: usize, messages: u64) {
    let (mut received, mut acks) = (0, Vec::new());
    while received < messages {
        while let Some(packet) = wire.next() {
            received += 1;
            acks.extend(payload_and_ack(packet).1.into_iter().flatten());
        }
        if !acks.is_empty() {
            wire.send(&acks).await;
            acks.clear();
        }
        progress.received[index].store(received, Ordering::Release);
        progress.bells.iter().for_each(Notify::notify_one);
        if received < messages {
            assert!(wire.stream.read_buf(&mut wire.bytes).await.unwrap() > 0, "closed");
        }
    }
}

/// One of `publishers`, which sends `messages`.
async fn send(wire: Wire, progress: Arc<Progress>, number: usize, row: Row) {
    let Row { publishers, qos, messages, .. } = row;
    let (mut reader, mut writer) = tokio::io::split(wire.stream);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (counting, ringing) = (acknowledged.clone(), progress.clone());
    let acknowledging = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut bytes).await {
            // A PUBACK of success has four bytes; the remainder of one that is cut comes with the next read.
            counting.fetch_add(read as u64, Ordering::AcqRel);
            ringing.bells[number].notify_one();
        }
    });
    let payload = [b'x'; PAYLOAD_BYTES];
    let mut sent = 0;
    while sent < messages {
        let mut room = ((progress.slowest() + WINDOW) / publishers).saturating_sub(sent);
        if qos > 0 {
            room = room.min((acknowledged.load(Ordering::Acquire) / 4 + IN_FLIGHT).saturating_sub(sent));
        }
        let batch = room.min(messages - sent).min(100);
        if batch == 0 {
            progress.bells[number].notified().await;
            continue;
        }
        let mut bytes = Vec::new();
        for number in sent..sent + batch {
            bytes.extend(publish(TOPIC, qos, (number % 60_000) as u16 + 1, &payload));
        }
        writer.write_all(&bytes).await.unwrap();
        writer.flush().await.unwrap();
        sent += batch;
    }
    // The connection stays until the messages have arrived.
    while progress.slowest() < messages * publishers {
        progress.bells[number].notified().await;
    }
    acknowledging.abort();
}

/// p50 and p99 from just before the write of a publish to just after the read of its delivery, in microseconds.
pub(crate) async fn latency(broker: &Broker, qos: u8) -> (u64, u64) {
    // Five seconds: one stall of the machine is then not yet the worst hundredth.
    const MESSAGES: usize = 10_000;
    let mut subscriber = Wire::connect(broker, Transport::Tcp, "owner-0", "owner", &broker.password("owner")).await;
    subscriber.subscribe(TOPIC, qos).await;
    let epoch = Instant::now();
    let receiving = tokio::spawn(async move {
        let mut latencies = Vec::with_capacity(MESSAGES);
        while latencies.len() < MESSAGES {
            let (mut payload, ack) = payload_and_ack(subscriber.packet().await);
            latencies.push(epoch.elapsed().as_nanos() as u64 - payload.get_u64());
            if let Some(ack) = ack {
                subscriber.send(&ack).await;
            }
        }
        latencies
    });
    let publisher = Wire::connect(broker, Transport::Tcp, "lamp", "lamp", &broker.password("lamp")).await;
    let (mut reader, mut writer) = tokio::io::split(publisher.stream);
    let acknowledging = tokio::spawn(async move {
        let mut bytes = [0; 4_096];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    // The timer ticks in milliseconds: two messages each.
    let mut interval = tokio::time::interval(Duration::from_millis(1));
    for number in 0..MESSAGES {
        if number % 2 == 0 {
            interval.tick().await;
        }
        let mut payload = (epoch.elapsed().as_nanos() as u64).to_be_bytes().to_vec();
        payload.resize(PAYLOAD_BYTES, b'x');
        writer.write_all(&publish(TOPIC, qos, (number % 60_000) as u16 + 1, &payload)).await.unwrap();
    }
    let mut latencies = receiving.await.unwrap();
    acknowledging.abort();
    latencies.sort_unstable();
    (latencies[MESSAGES / 2] / 1_000, latencies[MESSAGES * 99 / 100] / 1_000)
}

/// Resident kilobytes for each idle connection.
pub(crate) async fn idle_memory(broker: &Broker, transport: Transport, count: usize, filter: Option<&str>) -> f64 {
    // What the first connection makes once is not what a connection costs.
    let password = broker.password("lamp");
    let mut idle = vec![Wire::connect(broker, transport, "lamp", "lamp", &password).await];
    let before = broker.resident_kilobytes();
    for number in 0..count {
        let mut wire = Wire::connect(broker, transport, &broker.client_identifier(number), "lamp", &password).await;
        if let Some(filter) = filter {
            wire.subscribe(filter, 1).await;
        }
        wire.bytes = BytesMut::new();
        idle.push(wire);
    }
    let after = broker.resident_kilobytes();
    after.saturating_sub(before) as f64 / count as f64
}

/// One client subscribes to filters, each with a topic of its own, another publishes to it. Resident kilobytes
/// that the process has grown by.
pub(crate) async fn passing_topics(broker: &Broker, round: usize, count: usize) -> i64 {
    const AT_ONCE: usize = 50;
    let mut owner = Wire::connect(broker, Transport::Tcp, "owner", "owner", &broker.password("owner")).await;
    let mut lamp = Wire::connect(broker, Transport::Tcp, "lamp", "lamp", &broker.password("lamp")).await;
    let before = broker.resident_kilobytes();
    for first in (0..count).step_by(AT_ONCE) {
        let topic = |number: usize| format!("dev/lamp/tele/{round}-{}", first + number);
        for packets in [subscribe, |filter: &str, _| unsubscribe(filter)] {
            let bytes: Vec<u8> = (0..AT_ONCE).flat_map(|number| packets(&topic(number), 0)).collect();
            owner.send(&bytes).await;
            for _ in 0..AT_ONCE {
                owner.packet().await;
            }
            if packets("a", 0)[0] == 0x82 {
                let bytes: Vec<u8> = (0..AT_ONCE).flat_map(|number| publish(&topic(number), 0, 0, b"on")).collect();
                lamp.send(&bytes).await;
                for _ in 0..AT_ONCE {
                    assert_eq!(owner.packet().await[0] >> 4, 3);
                }
            }
        }
    }
    broker.resident_kilobytes() as i64 - before as i64
}

/// Microseconds until DISCONNECT is read: from the moment at which the decision was durable, and from the call.
pub(crate) async fn revocations(broker: &Broker, count: usize) -> (Vec<u128>, Vec<u128>) {
    let mut devices = Vec::new();
    for number in 0..count {
        let id = format!("d{number}");
        broker.ask(&format!("add {id}"));
        let wire = Wire::connect(broker, Transport::Tcp, &id, &id, &broker.password(&id)).await;
        devices.push((id, wire));
    }
    let (mut from_decision, mut from_call) = (Vec::new(), Vec::new());
    for (id, mut wire) in devices {
        let reading = tokio::spawn(async move {
            let goodbye = wire.packet().await;
            (goodbye[0], now())
        });
        let told = tokio::task::block_in_place(|| broker.ask(&format!("revoke {id}")));
        let (first, read) = reading.await.unwrap();
        assert_eq!(first, 0xE0, "DISCONNECT");
        let (called, durable) = told.split_once(' ').unwrap();
        from_call.push(read.saturating_sub(called.parse().unwrap()));
        from_decision.push(read.saturating_sub(durable.parse().unwrap()));
    }
    (from_decision, from_call)
}
