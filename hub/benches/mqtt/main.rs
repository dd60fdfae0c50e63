//! The MQTT front on each fabric beside mosquitto and stock rumqttd: one load generator, one run.
//!
//! `cargo bench -p hearthkey --bench mqtt`, about seven minutes; `-- latency memory native mosquitto` for these parts and
//! brokers only. Prints the rows of docs/fabrics.md. Each broker is a process of its own, so that its CPU time and
//! memory are its own. Ours is the whole hub: store with fdatasync, registry, audit, access tokens, a profile's rights.
//! mosquitto has passwords and an ACL file, stock rumqttd neither, and no TLS, since it is built without. What
//! would be measured otherwise is lifted: the publish rate limit, mosquitto's queue and in-flight limits.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod brokers;
mod hub;
mod load;

use brokers::{Broker, NAMES};
use hearthkey::mqtt::FabricKind;
use hearthkey_core::{DeviceId, profile::Profile, rights::Rights, scope::PermissionName, topic::TopicName};
use load::{PAYLOAD_BYTES, Row, TOPIC, Transport};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

const RUNS: usize = 3;
/// More, since the worst hundredth is what another process makes it.
const LATENCY_RUNS: usize = 5;
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

/// All parts and brokers, or those that are named: the rows of the tables of docs/fabrics.md, each as soon as it is measured.
async fn compare(words: &[String]) {
    const PARTS: [&str; 6] = ["throughput", "authorization", "latency", "memory", "revocation", "topics"];
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    if let Some(unknown) = words.iter().find(|word| !PARTS.contains(word) && !NAMES.contains(word)) {
        println!("what is {unknown}? Parts: {}; brokers: {}", PARTS.join(" "), NAMES.join(" "));
        return;
    }
    let named = |among: &[&'static str]| -> Vec<&'static str> {
        let named: Vec<_> = among.iter().copied().filter(|word| words.contains(word)).collect();
        if named.is_empty() { among.to_vec() } else { named }
    };
    let (parts, names) = (named(&PARTS), named(&NAMES));
    let started = Instant::now();
    println!("{} CPUs, load generator on the same machine, load average {}\n", cpus(), load_average());
    let mut cpu_of_native = None;
    if parts.contains(&"throughput") {
        println!(
            "Deliveries per second, (CPU us per delivery), x mosquitto's rate; payload {PAYLOAD_BYTES} bytes, median of {RUNS}:"
        );
        print_header(&names);
        cpu_of_native = throughput(&Broker::started(&names).await).await;
        println!();
    }
    if parts.contains(&"authorization") {
        authorization(cpu_of_native);
    }
    if parts.iter().any(|part| ["latency", "memory", "revocation", "topics"].contains(part)) {
        print_header(&names);
    }
    if parts.contains(&"latency") {
        latency(&Broker::started(&names).await).await;
    }
    if parts.contains(&"memory") {
        let each = format!("each of {} idle connections, KB", grouped(IDLE_CONNECTIONS as f64));
        for (what, transport, filter) in [
            (each.as_str(), Transport::Tcp, None),
            ("the same with 1 filter", Transport::Tcp, Some("dev/lamp/cmd/+")),
            ("the same over TLS", Transport::Tls, Some("dev/lamp/cmd/+")),
        ] {
            // Fresh processes: what a busy one has freed hides what a connection costs.
            memory(what, &Broker::started(&names).await, transport, filter).await;
        }
    }
    if parts.contains(&"revocation") {
        revocation(&names).await;
    }
    if parts.contains(&"topics") {
        topics(&Broker::started(&names).await).await;
    }
    println!("\n{} s, load average {}", started.elapsed().as_secs(), load_average());
}

fn print_header(names: &[&str]) {
    print_row("", names.iter().map(|name| (*name).to_owned()));
    println!("|---{}|", "|---".repeat(names.len()));
}

fn print_row(what: &str, cells: impl Iterator<Item = String>) {
    println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Of the last minute: what else this machine does.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// A whole number with commas.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// CPU microseconds per delivery of the native fabric, 1 to 1, QoS 0, without TLS.
async fn throughput(brokers: &[Broker]) -> Option<f64> {
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
            let of = |name| brokers.iter().zip(&figures).find(|(broker, _)| broker.name == name).and_then(|(_, figure)| *figure);
            let cells = brokers.iter().zip(&figures).map(|(broker, figure)| match (figure, of("mosquitto")) {
                (Some((rate, cpu)), Some((theirs, _))) if broker.name != "mosquitto" => {
                    format!("{} k ({cpu:.2}) {:.1} x", grouped(rate / 1e3), rate / theirs)
                }
                (Some((rate, cpu)), _) => format!("{} k ({cpu:.2})", grouped(rate / 1e3)),
                (None, _) if broker.offers(transport) => "did not end".to_owned(),
                (None, _) => String::new(),
            });
            print_row(&row.to_string(), cells);
            if let (1, 1, 0, Transport::Tcp) = (publishers, subscribers, qos, transport) {
                cpu_of_native = of("native").map(|(_, cpu)| cpu);
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
    for (qos, what) in [(0, "latency at 2,000/s, QoS 0, p50 / p99 us"), (1, "the same, QoS 1")] {
        let mut runs = vec![Vec::new(); brokers.len()];
        for _ in 0..LATENCY_RUNS {
            for (broker, runs) in brokers.iter().zip(&mut runs) {
                let (p50, p99) = load::latency(broker, qos).await;
                runs.push((p99 as f64, p50));
            }
        }
        let cells = runs.into_iter().map(|runs| median(runs).unwrap());
        print_row(what, cells.map(|(p99, p50)| format!("{} / {}", grouped(p50 as f64), grouped(p99))));
    }
}

async fn memory(what: &str, brokers: &[Broker], transport: Transport, filter: Option<&str>) {
    let mut cells = Vec::new();
    for broker in brokers {
        if !broker.offers(transport) {
            cells.push(String::new());
            continue;
        }
        let measuring = load::idle_memory(broker, transport, IDLE_CONNECTIONS, filter);
        let each = tokio::time::timeout(PATIENCE * 2, measuring).await;
        cells.push(each.map_or("did not end".to_owned(), |kilobytes| format!("{kilobytes:.2}")));
    }
    print_row(what, cells.into_iter());
}

async fn topics(brokers: &[Broker]) {
    let mut cells = Vec::new();
    for broker in brokers {
        let mut grown = Vec::new();
        for round in 0..2 {
            let passing = load::passing_topics(broker, round, PASSING_TOPICS);
            let megabytes = |kilobytes: i64| format!("{:.1}", kilobytes as f64 / 1024.0);
            grown.push(tokio::time::timeout(PATIENCE, passing).await.map_or("did not end".to_owned(), megabytes));
        }
        cells.push(grown.join(", "));
    }
    let count = grouped(PASSING_TOPICS as f64);
    let what = format!("growth when {count} topics and as many filters come and go, MB, then once more");
    print_row(&what, cells.into_iter());
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
        "authorization: publish {publish:.0} ns, delivery to the owner {:.0} ns, to a device {:.0} ns",
        delivery[0], delivery[1]
    );
    if let Some(cpu) = cpu_us_per_delivery {
        let share = (publish + delivery[0]) / (cpu * 1_000.0) * 100.0;
        println!("{share:.1} % of the {cpu:.2} us of CPU for one delivery, native, 1 to 1, QoS 0: one of each");
    }
    println!();
}

/// Nanoseconds.
fn cpu_of_this_thread() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

async fn revocation(names: &[&'static str]) {
    let (mut from_decision, mut from_call) = (Vec::new(), Vec::new());
    for name in names {
        if ["mosquitto", "stock"].contains(name) {
            from_decision.push(String::new());
            from_call.push(String::new());
            continue;
        }
        let times = load::revocations(&Broker::hub(name).await, REVOCATIONS).await;
        for (mut times, cells) in [(times.0, &mut from_decision), (times.1, &mut from_call)] {
            times.sort_unstable();
            let at = |share: usize| grouped(times[times.len() * share / 100] as f64);
            cells.push(format!("{} / {}", at(50), at(99)));
        }
    }
    let count = grouped(REVOCATIONS as f64);
    let what = format!("revocation to DISCONNECT read, {count} connected, p50 / p99 us");
    print_row(&what, from_decision.into_iter());
    print_row("the same from the call, `fdatasync` included", from_call.into_iter());
}
