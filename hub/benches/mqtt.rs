//! The MQTT front beside mosquitto: one generator, one run, TLS off, passwords and access rules on.
//!
//! `cargo bench -p hearthkey --bench mqtt`. Each broker is a process of its own, so its CPU time and memory are its own. Our
//! rights are a thermostat's profile; mosquitto gets the like in its ACL file. The publish rate limit is lifted, since it is
//! what would be measured otherwise. At the end: time from revocation to the cut.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/mqtt_front/support.rs"]
mod support;

use bytes::{Buf, BytesMut};
use hearthkey::mqtt::Limits;
use hearthkey_core::session::EndReason;
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use support::{Connect, FakeGate, Home, device, packet, string};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

const PAYLOAD_BYTES: usize = 100;
const TOPIC: &str = "dev/lamp/tele/temperature";
/// How far a publisher may be ahead of the slowest subscriber: no broker has to drop.
const WINDOW: u64 = 1_000;
const RUNS: usize = 3;
const IDLE_CONNECTIONS: usize = 400;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().any(|argument| argument == "serve") {
        return runtime.block_on(serve());
    }
    runtime.block_on(compare());
}

/// The front, until standard input closes.
async fn serve() {
    let limits = Limits { publish_rate: 100_000_000, publish_burst: 100_000_000, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    println!("{}", home.address);
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await.unwrap();
}

struct Broker {
    name: &'static str,
    process: Child,
    address: SocketAddr,
    _files: Option<tempfile::TempDir>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    fn ours() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { name: "hearthkey", process, address: line.trim().parse().unwrap(), _files: None }
    }

    async fn mosquitto() -> Option<Self> {
        let program = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find(|program| Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok())?;
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("passwords"), "lamp:lamp\nowner:owner\n").unwrap();
        assert!(Command::new("mosquitto_passwd").args(["-U", &path("passwords")]).status().unwrap().success());
        std::fs::write(path("acl"), "user owner\ntopic readwrite #\npattern write dev/%u/tele/+\npattern read dev/%u/cmd/+\n")
            .unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut configuration = std::fs::File::create(path("mosquitto.conf")).unwrap();
        writeln!(
            configuration,
            "user root\nlistener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\nacl_file {}\npersistence false\n\
             set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 256\nlog_type error",
            address.port(),
            path("passwords"),
            path("acl")
        )
        .unwrap();
        let process = Command::new(program).args(["-c", &path("mosquitto.conf")]).stderr(Stdio::null()).spawn().unwrap();
        let broker = Self { name: "mosquitto", process, address, _files: Some(files) };
        for _ in 0..100 {
            if TcpStream::connect(address).await.is_ok() {
                return Some(broker);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// User and system time of the process.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

async fn compare() {
    let mosquitto = Broker::mosquitto().await;
    if mosquitto.is_none() {
        println!("\n!!! mosquitto is NOT INSTALLED: nothing to compare with (Debian: mosquitto, mosquitto-clients) !!!\n");
    }
    let brokers: Vec<Broker> = std::iter::once(Broker::ours()).chain(mosquitto).collect();

    println!("deliveries/s (CPU us per delivery), {PAYLOAD_BYTES}-byte payload, median of {RUNS}");
    for (subscribers, qos, messages) in [(1, 0, 200_000), (1, 1, 60_000), (50, 0, 12_000), (50, 1, 4_000)] {
        let mut figures = Vec::new();
        for broker in &brokers {
            let mut runs = Vec::new();
            for _ in 0..RUNS {
                runs.push(throughput(broker, subscribers, qos, messages).await);
            }
            runs.sort_by(|a, b| a.0.total_cmp(&b.0));
            figures.push(runs[RUNS / 2]);
        }
        let row = format!("1 to {subscribers:>2}, QoS {qos}");
        print_row(&row, &brokers, &figures.iter().map(|(rate, cpu)| format!("{rate:>9.0} ({cpu:.2})")).collect::<Vec<_>>());
        print_ratio(figures.iter().map(|(rate, _)| *rate));
    }

    println!("\nlatency at 2,000 messages/s, p50 / p99 us");
    for qos in [0, 1] {
        let mut figures = Vec::new();
        for broker in &brokers {
            figures.push(latency(broker, qos).await);
        }
        let cells: Vec<_> = figures.iter().map(|(p50, p99)| format!("{p50:>5} / {p99:>6}")).collect();
        print_row(&format!("1 to 1, QoS {qos}"), &brokers, &cells);
        print_ratio(figures.iter().map(|(_, p99)| *p99 as f64));
    }

    println!("\nresident memory, KB");
    for subscribed in [false, true] {
        // Fresh processes: what a busy one has freed hides what a connection costs.
        let fresh: Vec<Broker> = std::iter::once(Broker::ours()).chain(Broker::mosquitto().await).collect();
        let mut cells = Vec::new();
        let mut each = Vec::new();
        for broker in &fresh {
            let (idle, per_connection) = idle_memory(broker, subscribed).await;
            cells.push(format!("{per_connection:>7.2} each (process {idle})"));
            each.push(per_connection);
        }
        let row = if subscribed { "idle connection, 1 filter" } else { "idle connection" };
        print_row(row, &fresh, &cells);
        print_ratio(each.into_iter());
    }

    let (p50, p99, worst) = revocation().await;
    println!("\nrevocation to DISCONNECT at the client, 300 connected: p50 {p50} us, p99 {p99} us, worst {worst} us");
}

fn print_row(row: &str, brokers: &[Broker], cells: &[String]) {
    print!("{row:<26}");
    for (broker, cell) in brokers.iter().zip(cells) {
        print!(" | {} {cell}", broker.name);
    }
}

fn print_ratio(figures: impl Iterator<Item = f64>) {
    let figures: Vec<f64> = figures.collect();
    match figures.as_slice() {
        [ours, theirs] => println!(" | ours / theirs {:.2}", ours / theirs),
        _ => println!(),
    }
}

struct Wire {
    stream: TcpStream,
    bytes: BytesMut,
}

impl Wire {
    async fn connect(address: SocketAddr, client_identifier: &str, name: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Self { stream, bytes: BytesMut::with_capacity(256 * 1024) };
        let connect = Connect {
            client_identifier: client_identifier.to_owned(),
            user_name: Some(name.to_owned()),
            properties: vec![0x21, 1, 0],
            ..Connect::v5(name)
        };
        wire.stream.write_all(&connect.packet()).await.unwrap();
        let connack = wire.packet().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        wire
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 1, 0];
        body.extend(string(filter));
        body.push(qos);
        self.stream.write_all(&packet(0x82, &body)).await.unwrap();
        assert_eq!(self.packet().await[0], 0x90);
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

fn publish(qos: u8, packet_identifier: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(TOPIC);
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

/// Deliveries per second and CPU microseconds per delivery.
async fn throughput(broker: &Broker, subscribers: usize, qos: u8, messages: u64) -> (f64, f64) {
    let progress: Arc<Vec<AtomicU64>> = Arc::new((0..subscribers).map(|_| AtomicU64::new(0)).collect());
    let moved = Arc::new(Notify::new());
    let mut receiving = Vec::new();
    for index in 0..subscribers {
        let mut wire = Wire::connect(broker.address, &format!("owner-{index}"), "owner").await;
        wire.subscribe(TOPIC, qos).await;
        let (progress, moved) = (progress.clone(), moved.clone());
        receiving.push(tokio::spawn(async move {
            let (mut received, mut acks) = (0, Vec::new());
            while received < messages {
                while let Some(packet) = wire.next() {
                    received += 1;
                    acks.extend(payload_and_ack(packet).1.into_iter().flatten());
                }
                if !acks.is_empty() {
                    wire.stream.write_all(&acks).await.unwrap();
                    acks.clear();
                }
                progress[index].store(received, Ordering::Release);
                moved.notify_one();
                if received < messages {
                    assert!(wire.stream.read_buf(&mut wire.bytes).await.unwrap() > 0, "closed");
                }
            }
        }));
    }
    let publisher = Wire::connect(broker.address, "lamp", "lamp").await;
    let (mut reader, mut writer) = publisher.stream.into_split();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (counting, waking) = (acknowledged.clone(), moved.clone());
    let acknowledging = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut bytes).await {
            // A PUBACK of success has four bytes; the remainder of one that is cut comes with the next read.
            counting.fetch_add(read as u64, Ordering::AcqRel);
            waking.notify_one();
        }
    });
    let payload = [b'x'; PAYLOAD_BYTES];
    let (started, cpu) = (Instant::now(), broker.cpu());
    let mut sent = 0;
    while sent < messages {
        let slowest = progress.iter().map(|received| received.load(Ordering::Acquire)).min().unwrap();
        let mut room = (slowest + WINDOW).saturating_sub(sent);
        if qos > 0 {
            room = room.min((acknowledged.load(Ordering::Acquire) / 4 + 60).saturating_sub(sent));
        }
        let batch = room.min(messages - sent).min(100);
        if batch == 0 {
            moved.notified().await;
            continue;
        }
        let mut bytes = Vec::new();
        for number in sent..sent + batch {
            bytes.extend(publish(qos, (number % 60_000) as u16 + 1, &payload));
        }
        writer.write_all(&bytes).await.unwrap();
        sent += batch;
    }
    for subscriber in receiving {
        subscriber.await.unwrap();
    }
    let (elapsed, cpu) = (started.elapsed(), broker.cpu() - cpu);
    acknowledging.abort();
    let deliveries = messages as f64 * subscribers as f64;
    (deliveries / elapsed.as_secs_f64(), cpu.as_secs_f64() * 1e6 / deliveries)
}

/// p50 and p99 from just before the write of a publish to just after the read of its delivery, in microseconds.
async fn latency(broker: &Broker, qos: u8) -> (u64, u64) {
    const MESSAGES: usize = 6_000;
    let mut subscriber = Wire::connect(broker.address, "owner-0", "owner").await;
    subscriber.subscribe(TOPIC, qos).await;
    let epoch = Instant::now();
    let receiving = tokio::spawn(async move {
        let mut latencies = Vec::with_capacity(MESSAGES);
        while latencies.len() < MESSAGES {
            let (mut payload, ack) = payload_and_ack(subscriber.packet().await);
            latencies.push(epoch.elapsed().as_nanos() as u64 - payload.get_u64());
            if let Some(ack) = ack {
                subscriber.stream.write_all(&ack).await.unwrap();
            }
        }
        latencies
    });
    let publisher = Wire::connect(broker.address, "lamp", "lamp").await;
    let (mut reader, mut writer) = publisher.stream.into_split();
    let acknowledging = tokio::spawn(async move {
        let mut bytes = [0; 4_096];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    // The timer ticks in milliseconds: two messages each, the second half a millisecond later.
    let mut interval = tokio::time::interval(Duration::from_millis(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for number in 0..MESSAGES {
        if number % 2 == 0 {
            interval.tick().await;
        }
        let mut payload = (epoch.elapsed().as_nanos() as u64).to_be_bytes().to_vec();
        payload.resize(PAYLOAD_BYTES, b'x');
        writer.write_all(&publish(qos, (number % 60_000) as u16 + 1, &payload)).await.unwrap();
    }
    let mut latencies = receiving.await.unwrap();
    acknowledging.abort();
    latencies.sort_unstable();
    (latencies[MESSAGES / 2] / 1_000, latencies[MESSAGES * 99 / 100] / 1_000)
}

/// Resident kilobytes of the process before, and per idle connection.
async fn idle_memory(broker: &Broker, subscribed: bool) -> (u64, f64) {
    let before = broker.resident_kilobytes();
    let mut idle = Vec::new();
    for number in 0..IDLE_CONNECTIONS {
        let mut wire = Wire::connect(broker.address, &format!("lamp/{number}"), "lamp").await;
        if subscribed {
            wire.subscribe("dev/lamp/cmd/+", 1).await;
        }
        wire.bytes = BytesMut::new();
        idle.push(wire);
    }
    let after = broker.resident_kilobytes();
    (before, after.saturating_sub(before) as f64 / IDLE_CONNECTIONS as f64)
}

/// Microseconds from the call that revokes to the last byte of DISCONNECT at the client: p50, p99, worst.
async fn revocation() -> (u64, u64, u64) {
    const DEVICES: usize = 300;
    let gate = FakeGate::of_a_home();
    for number in 0..DEVICES {
        let id = format!("d{number}");
        gate.grant(&id, device(&id), support::thermostat(&id), None);
    }
    let home = Home::with(gate, Limits::default()).await;
    let mut clients = Vec::new();
    for number in 0..DEVICES {
        clients.push(home.v5(&format!("d{number}")).await);
    }
    let mut times = Vec::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let principal = device(&format!("d{number}"));
        home.gate.end(principal.clone(), EndReason::Revoked);
        let started = Instant::now();
        home.reconsider(principal);
        let goodbye = client.receive().await;
        times.push(started.elapsed().as_micros() as u64);
        assert_eq!(goodbye.first, 0xE0);
    }
    times.sort_unstable();
    (times[DEVICES / 2], times[DEVICES * 99 / 100], times[DEVICES - 1])
}
