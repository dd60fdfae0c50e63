//! Whatever bytes come, whoever holds connections open: a well-behaved device is served, nothing acknowledged is lost, and
//! the log tells no secret.

use std::time::Duration;

use hearthkey_tests::agent::Agent;
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{Keyed, token_form};
use hearthkey_tests::mosquitto::{Mosquitto, shown};
use hearthkey_tests::patience::{until, within};
use hearthkey_tests::wire::{Connect, Wire, integer, packet, publish, string, subscribe, tls};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Names the inputs of a failed run, and repeats them.
const SEED: &str = "HEARTHKEY_TEST_SEED";
/// Inputs for each listener.
const ROUNDS: usize = 120;

fn random() -> fastrand::Rng {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    // Shown when the test fails.
    #[expect(clippy::print_stderr, reason = "the seed of a test that failed")]
    {
        eprintln!("{SEED}={seed}");
    }
    fastrand::Rng::with_seed(seed)
}

#[tokio::test]
async fn whatever_bytes_come_to_any_listener_the_hub_goes_on_and_loses_nothing() {
    let mut random = random();
    let mut hub = Hub::start().await;
    let mut lamp = hub.agent("lamp", "thermostat").await;
    lamp.connected().await;
    let token = Keyed::enrolled(&hub, "attacker", "thermostat").await.token(&hub).await;
    let keeper = Mosquitto::owner(&hub, "keeper");
    let kept = ["-c", "-x", "3600", "-q", "1", "-t", "dev/lamp/tele/kept"];
    assert_eq!(keeper.subscribe(&[&["-E"], &kept[..]].concat()).ended().await, 0);
    lamp.publish("dev/lamp/tele/kept", "acknowledged").await.expect("allowed");

    let (https, mqtts, mqtt) = (hub.ports().https, hub.ports().mqtts, hub.ports().mqtt);
    for _ in 0..ROUNDS {
        // Below TLS, and where TLS is not expected.
        for port in [https, mqtts, mqtt] {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the hub listens");
            let bytes = match random.u8(..3) {
                0 => mqtt_input(&mut random, &token),
                1 => http_input(&mut random),
                _ => client_hello(&mut random),
            };
            throw(stream, &bytes).await;
        }
        let bytes = mqtt_input(&mut random, &token);
        throw(tls(&hub, mqtts).await.expect("the hub proves itself"), &bytes).await;
        let bytes = http_input(&mut random);
        throw(tls(&hub, https).await.expect("the hub proves itself"), &bytes).await;
    }

    // The device did not notice, and the hub has kept everything.
    lamp.telemetry().await;
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    let summary = lamp.leave().await;
    assert_eq!((summary.disconnected_by_reason.len(), summary.refused), (0, 0), "{summary:?}");
    hub.audited("refused input", |entry| entry["action"] == "mqtt.connect" && entry["outcome"] == "denied").await;
    hub.restart().await;
    assert_eq!(hub.device("lamp").await["status"], "active");
    let mut state = Mosquitto::owner(&hub, "owner").subscribed(&["-t", "dev/lamp/state"]).await;
    state.line("the retained state", shown).await;
    assert_eq!(keeper.subscribe(&kept).line("what was acknowledged", shown).await.payload, "acknowledged");
    hub.finish().await;
}

/// Sends bytes, ends its own side, and waits until the hub has ended the other.
async fn throw(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    // The hub may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    within("the hub to close what makes no sense", async {
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await;
}

fn bytes(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    (0..random.usize(..most)).map(|_| random.u8(..)).collect()
}

/// Good packets in a bad order, spoilt in one place, cut off, or none at all.
fn mqtt_input(random: &mut fastrand::Rng, token: &str) -> Vec<u8> {
    let version = if random.bool() { 5 } else { 4 };
    let connect = Connect { version, ..Connect::by_password("attacker", token) }.packet();
    let topic = "dev/attacker/tele/n";
    let packets = [
        connect.clone(),
        publish(version, topic, b"1", 1),
        publish(version, "dev/+/tele/#", b"1", 2),
        publish(version, "", b"1", 0),
        publish(version, "\u{0}", b"1", 3),
        packet(0x36, &string(topic)),
        packet(0x34, &[string(topic), vec![0, 9, 0]].concat()),
        subscribe(version, topic),
        subscribe(version, "dev/#/x"),
        subscribe(version, &"+/".repeat(200)),
        packet(0x82, &[0, 1]),
        packet(0xa2, &[0, 1, 0]),
        packet(0xc0, &[]),
        packet(0xe0, &[]),
        packet(0x20, &[0, 0]),
        packet(0x90, &[0, 1, 0]),
        packet(0xb0, &[0, 1]),
        packet(0x40, &[0, 1]),
        packet(0x62, &[0, 1]),
        packet(0xf0, &[0x19, 0]),
        packet(0x00, &[]),
        // A remaining length of 256 MiB, and one that never ends.
        [vec![0x30], integer(268_435_455), vec![0; 100]].concat(),
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0xff],
        packet(0x10, &[string("MQIsdp"), vec![3, 2, 0, 60], string("attacker")].concat()),
        packet(0x10, &[string("MQTT"), vec![6, 2, 0, 60, 0], string("attacker")].concat()),
    ];
    let mut input = if random.u8(..4) == 0 { Vec::new() } else { connect };
    for _ in 0..random.usize(1..6) {
        input.extend(&packets[random.usize(..packets.len())]);
    }
    spoil(random, input)
}

fn http_input(random: &mut fastrand::Rng) -> Vec<u8> {
    let form = token_form(&"A".repeat(random.usize(..6_000)));
    let requests = [
        "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /readyz HTTP/1.1\r\n\r\n".to_owned(),
        "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "BREW /oauth2/token HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a/".repeat(20_000)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Much: more\r\n".repeat(2_000)),
        format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        ),
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET"
            .to_owned(),
        "POST /oauth2/register HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_owned(),
        format!(
            "POST /oauth2/register HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer AAAA\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n\r\n{}",
            "[".repeat(3_000)
        ),
        format!("GET /api/v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", "hk_pat_".repeat(500)),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\u{0}\u{0}\u{0}".to_owned(),
    ];
    let mut input = Vec::new();
    for _ in 0..random.usize(1..4) {
        input.extend(requests[random.usize(..requests.len())].as_bytes());
    }
    spoil(random, input)
}

/// Something that begins like a TLS record.
fn client_hello(random: &mut fastrand::Rng) -> Vec<u8> {
    let body = bytes(random, 600);
    let length = u16::try_from(body.len() + 4).unwrap_or(u16::MAX).to_be_bytes();
    let mut input = vec![0x16, 3, 1, length[0], length[1], 1, 0, length[0], length[1]];
    input.extend(body);
    spoil(random, input)
}

fn spoil(random: &mut fastrand::Rng, mut input: Vec<u8>) -> Vec<u8> {
    match random.u8(..5) {
        0 => input.truncate(random.usize(..=input.len())),
        1 => {
            for _ in 0..random.usize(1..5) {
                let place = random.usize(..input.len().max(1));
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
        2 => input.extend(bytes(random, 2_000)),
        3 => input = bytes(random, 2_000),
        _ => {}
    }
    input
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_by_its_code_and_recorded() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let connect = Connect::by_password("lamp", &token);
    for (what, bytes, code) in [
        ("a second CONNECT", connect.packet(), 0x82),
        ("a packet that only servers send", packet(0x20, &[0, 0, 0]), 0x82),
        ("flags that are reserved", packet(0xc1, &[]), 0x81),
        ("a remaining length without end", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x7f], 0x81),
        ("more than the hub announced to take", [vec![0x30], integer(1 << 20), vec![0; 64]].concat(), 0x95),
        ("a wildcard in a topic name", publish(5, "dev/lamp/+", b"1", 1), 0x90),
        ("AUTH without a method", packet(0xf0, &[0x19, 0]), 0x82),
        ("QoS 3", packet(0x36, &[string("dev/lamp/state"), vec![0, 1, 0]].concat()), 0x81),
        ("a topic that is no UTF-8", packet(0x30, &[0, 2, 0xc3, 0x28, 0, b'1']), 0x81),
    ] {
        let mut wire = Wire::tls(&hub).await;
        assert_eq!(wire.connect(&connect).await.connack_code(), 0, "{what}");
        wire.send(&bytes).await;
        let farewell = wire.receive().await.unwrap_or_else(|| panic!("{what}: closed without a word"));
        assert_eq!(farewell.disconnect_code(), code, "{what}: {farewell:?}");
        assert!(wire.until_closed().await.is_empty(), "{what}");
    }
    hub.audited("the breach", |entry| entry["actor"] == "device lamp" && entry["action"] == "mqtt.disconnect").await;
    // Before CONNECT a stranger is told nothing.
    for bytes in [publish(5, "dev/lamp/state", b"1", 1), vec![0xff; 64], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut wire = Wire::plain(&hub).await;
        wire.send(&bytes).await;
        assert!(wire.until_closed().await.is_empty(), "{bytes:?}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_thousand_half_open_connections_on_each_port_keep_nobody_out() {
    // Both ends of them are on this machine.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
    assert!(limit.maximum.is_none_or(|most| most > 4_096), "this test needs `ulimit -Hn` above 4096: {limit:?}");

    // What most systems give a program to begin with is less than that.
    let hub = Hub::start_under(&["prlimit", "--nofile=1024:"], &[]).await;
    let token = Keyed::enrolled(&hub, "slow", "thermostat").await.token(&hub).await;
    let mut held = Vec::new();
    for number in 0..1_000_u32 {
        for port in [hub.ports().https, hub.ports().mqtts, hub.ports().mqtt] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the hub listens");
            let beginning: &[u8] = match number % 3 {
                0 => b"",
                1 => b"\x16\x03\x01\x02\x00\x01\x00",
                _ => b"\x10\x7f\x00\x04MQTT",
            };
            // Older ones are closed to make room for newer ones.
            let _ = stream.write_all(beginning).await;
            held.push(stream);
        }
    }
    let mut lamp = Agent::enrol(&hub.add("lamp", "thermostat").await);
    lamp.connected().await;
    lamp.telemetry().await;
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("slow", &token)).await.connack_code(), 0);
    assert_eq!(Wire::plain(&hub).await.connect(&Connect::by_password("slow/2", &token)).await.connack_code(), 0);
    // The hub waits for nobody for ever.
    until("the hub to give up on the oldest", async || {
        let oldest = held.first_mut().expect("held");
        matches!(tokio::time::timeout(Duration::from_millis(100), oldest.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
            .then_some(())
    })
    .await;
    drop(held);
    lamp.telemetry().await;
    let summary = lamp.leave().await;
    assert_eq!(summary.disconnected_by_reason.len(), 0, "{summary:?}");
    assert!(!hub.log().contains("cannot accept"), "it had a descriptor for each: {}", hub.log());
    hub.finish().await;
}
