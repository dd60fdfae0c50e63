//! The MQTT front on each fabric beside mosquitto and stock rumqttd: one load generator, one run.
//!
//! `cargo bench -p hearthkey --bench mqtt`, about seven minutes. Each broker is a process of its own, so that its CPU time and
//! memory are its own. Ours is the whole hub: store with fdatasync, registry, audit, access tokens, a profile's rights.
//! mosquitto has passwords and an ACL file, stock rumqttd neither, and no TLS, since it is built without. What
//! would be measured otherwise is lifted: the publish rate limit, mosquitto's queue and in-flight limits.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod brokers;
mod hub;
mod load;

use brokers::Broker;
use hearthkey::mqtt::FabricKind;
use hearthkey_core::{
    DeviceId,
    profile::Profile,
    rights::{LastPermit, Rights},
    scope::PermissionName,
    topic::TopicName,
};
use load::{Row, TOPIC, Transport};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{hint::black_box, sync::Arc, time::Duration};

const RUNS: usize = 3;
const IDLE_CONNECTIONS: usize = 5_000;
const REVOCATIONS: usize = 1_000;
/// Stock rumqttd looks through all filters for each new topic: more would not end.
const PASSING_TOPICS: usize = 20_000;
/// A run that takes longer counts as failed: the whole stays bounded.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    raise_open_files();
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.get(1..).unwrap_or_default() {
        [serve, kind] if serve == "serve" => match kind.as_str() {
            "router" => runtime.block_on(hub::serve(FabricKind::Router)),
            "native" => runtime.block_on(hub::serve(FabricKind::Native)),
            _ => brokers::serve_stock(),
        },
        parts => runtime.block_on(compare(parts)),
    }
}

fn raise_open_files() {
    let allowed = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed }).unwrap();
}

/// All parts, or those that are named: throughput, latency, memory, topics, authorization, revocation.
async fn compare(parts: &[String]) {
    let named: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.contains(&part);
    println!("{} CPUs, load generator on the same machine; payload {} bytes", cpus(), load::PAYLOAD_BYTES);
    let mut cpu_of_native = None;
    if wanted("throughput") {
        cpu_of_native = throughput(&Broker::all().await).await;
    }
    if wanted("authorization") {
        authorization(cpu_of_native);
    }
    if wanted("latency") {
        latency(&Broker::all().await).await;
    }
    if wanted("memory") {
        for (what, transport, filter) in [
            ("TCP", Transport::Tcp, None),
            ("TCP, 1 filter", Transport::Tcp, Some("dev/lamp/cmd/+")),
            ("TLS, 1 filter", Transport::Tls, Some("dev/lamp/cmd/+")),
        ] {
            // Fresh processes: what a busy one has freed hides what a connection costs.
            memory(what, &Broker::all().await, transport, filter).await;
        }
    }
    if wanted("topics") {
        topics(&Broker::all().await).await;
    }
    if wanted("revocation") {
        for broker in [Broker::hub("router").await, Broker::hub("native").await] {
            revocation(broker).await;
        }
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// CPU microseconds per delivery of the native fabric, 1 to 1, QoS 0, without TLS.
async fn throughput(brokers: &[Broker]) -> Option<f64> {
    println!("\ndeliveries/s (CPU us per delivery), median of {RUNS}; ratio to mosquitto");
    let mut cpu_of_native = None;
    for transport in [Transport::Tcp, Transport::Tls] {
        for (publishers, subscribers, qos, messages) in
            [(1, 1, 0, 200_000), (1, 1, 1, 60_000), (50, 1, 0, 200_000), (50, 1, 1, 60_000), (1, 50, 0, 8_000), (1, 50, 1, 4_000)]
        {
            let row = Row { publishers, subscribers, qos, messages, transport };
            let mut runs = vec![Vec::new(); brokers.len()];
            // In turns, so that what else this machine does falls on all of them.
            for _ in 0..RUNS {
                for (broker, runs) in brokers.iter().zip(&mut runs) {
                    if broker.offers(transport) {
                        runs.extend(tokio::time::timeout(PATIENCE, load::throughput(broker, row)).await.ok());
                    }
                }
            }
            let figures: Vec<Option<(f64, f64)>> = runs.into_iter().map(median).collect();
            println!("{row}");
            let theirs = brokers.iter().zip(&figures).find(|(broker, _)| broker.name == "mosquitto");
            let theirs = theirs.and_then(|(_, figure)| *figure).map(|(rate, _)| rate);
            for (broker, figure) in brokers.iter().zip(&figures) {
                match figure {
                    Some((rate, cpu)) => {
                        let ratio = theirs.map_or(String::new(), |theirs| format!("{:>6.2} x", rate / theirs));
                        println!("    {:<20} {rate:>9.0} ({cpu:>5.2}) {ratio}", broker.name);
                    }
                    None if broker.offers(transport) => println!("    {:<20} FAILED: no run ended in {PATIENCE:?}", broker.name),
                    None => println!("    {:<20} not offered", broker.name),
                }
            }
            if let (1, 1, 0, Transport::Tcp) = (publishers, subscribers, qos, transport) {
                let native = brokers.iter().zip(&figures).find(|(broker, _)| broker.name.ends_with("native"));
                cpu_of_native = native.and_then(|(_, figure)| *figure).map(|(_, cpu)| cpu);
            }
        }
    }
    cpu_of_native
}

/// By the first figure.
fn median<T: Copy>(mut runs: Vec<(f64, T)>) -> Option<(f64, T)> {
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    runs.get(runs.len() / 2).copied()
}

async fn latency(brokers: &[Broker]) {
    println!("\nlatency at 2,000 messages/s, 1 to 1, TCP, p50 / p99 us, median of {RUNS} by p99");
    for qos in [0, 1] {
        let mut runs = vec![Vec::new(); brokers.len()];
        for _ in 0..RUNS {
            for (broker, runs) in brokers.iter().zip(&mut runs) {
                let (p50, p99) = load::latency(broker, qos).await;
                runs.push((p99 as f64, p50));
            }
        }
        let figures: Vec<_> = runs.into_iter().map(|runs| median(runs).unwrap()).collect();
        let theirs = brokers.iter().zip(&figures).find(|(broker, _)| broker.name == "mosquitto").map(|(_, figure)| figure.0);
        println!("QoS {qos}");
        for (broker, (p99, p50)) in brokers.iter().zip(&figures) {
            let ratio = theirs.map_or(String::new(), |theirs| format!("p99 {:.2} x", p99 / theirs));
            println!("    {:<20} {p50:>6} / {p99:>6.0} {ratio}", broker.name);
        }
    }
}

async fn memory(what: &str, brokers: &[Broker], transport: Transport, filter: Option<&str>) {
    println!("\nresident memory for each of {IDLE_CONNECTIONS} idle connections, {what}");
    for broker in brokers.iter().filter(|broker| broker.offers(transport)) {
        match tokio::time::timeout(PATIENCE * 2, load::idle_memory(broker, transport, IDLE_CONNECTIONS, filter)).await {
            Ok((before, each)) => println!("    {:<20} {each:>6.2} KB (process before: {before} KB)", broker.name),
            Err(_) => println!("    {:<20} FAILED: not connected in {:?}", broker.name, PATIENCE * 2),
        }
    }
}

async fn topics(brokers: &[Broker]) {
    println!("\ngrowth of resident memory when {PASSING_TOPICS} topics and as many filters come and go, twice");
    for broker in brokers {
        let mut grown = Vec::new();
        for round in 0..2 {
            let passing = load::passing_topics(broker, round, PASSING_TOPICS);
            grown.push(tokio::time::timeout(PATIENCE, passing).await.map_or("FAILED".to_owned(), |grown| format!("{grown} KB")));
        }
        println!("    {:<20} {}", broker.name, grown.join(", then "));
    }
}

/// Nanoseconds of each decision, and what share of the CPU time of a delivery they are.
fn authorization(cpu_us_per_delivery: Option<f64>) {
    const ROUNDS: u32 = 1_000_000;
    let profile = Profile::shipped().find(|profile| profile.name.as_str() == "thermostat").unwrap();
    let device = Arc::new(Rights::of_device(&profile, &profile.scope(), &DeviceId::parse("lamp").unwrap(), &[]));
    let owner = Rights::granting("owner", &PermissionName::parse("all").unwrap(), &["#"], &["#"]);
    let each = |started: u64| (cpu_of_this_thread() - started) as f64 / f64::from(ROUNDS);
    let mut topic = TopicName::parse(TOPIC).unwrap();
    let started = cpu_of_this_thread();
    for _ in 0..ROUNDS {
        topic = black_box(&device).authorize_publish(topic).unwrap().into_topic();
    }
    let publish = each(started);
    let mut last = LastPermit::default();
    let started = cpu_of_this_thread();
    for _ in 0..ROUNDS {
        let permit = black_box(&mut last).authorize_publish(black_box(&device), topic).unwrap();
        topic = permit.topic().clone();
        last.keep(&device, permit);
    }
    let again = each(started);
    let command = TopicName::parse("dev/lamp/cmd/identify").unwrap();
    let mut delivery = Vec::new();
    for (rights, topic) in [(&owner, &topic), (&*device, &command)] {
        let started = cpu_of_this_thread();
        for _ in 0..ROUNDS {
            black_box(black_box(rights).authorize_delivery(black_box(topic)).unwrap());
        }
        delivery.push(each(started));
    }
    println!(
        "\nauthorization: publish {publish:.0} ns, to the topic before and with a copy of it {again:.0} ns, delivery to the owner {:.0} ns, to a device {:.0} ns",
        delivery[0], delivery[1]
    );
    if let Some(cpu) = cpu_us_per_delivery {
        let share = (again + delivery[0]) / (cpu * 1_000.0) * 100.0;
        println!("    {share:.1} % of the {cpu:.2} us of CPU for one delivery, native, 1 to 1, QoS 0: one of each");
    }
}

/// Nanoseconds.
fn cpu_of_this_thread() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

async fn revocation(broker: Broker) {
    let mut times = load::revocations(&broker, REVOCATIONS).await;
    println!("\n{}: {REVOCATIONS} devices connected, each revoked; p50 / p99 / worst us until DISCONNECT is read", broker.name);
    for (what, times) in [("from the durable decision", &mut times.0), ("from the call, fdatasync included", &mut times.1)] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        println!("    {what:<36} {} / {} / {}", at(50), at(99), at(100));
    }
}
