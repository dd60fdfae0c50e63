//! What breaks the protocol or a limit: a clear word or a close, and nothing lost by others.

use crate::support::*;
use bytes::BytesMut;
use hearthkey::mqtt::{
    Limits,
    packet::{Version, decode, frame},
};

/// 5: 3.2.2-15
#[tokio::test]
async fn each_fault_has_its_code() {
    let limits = Limits { max_packet_bytes: 1_000, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let publish = |topic: &str, flags: u8, property_bytes: &[u8]| {
        let mut body = string(topic);
        if flags & 6 != 0 {
            body.extend([0, 1]);
        }
        body.extend(properties(property_bytes));
        packet(0x30 | flags, &body)
    };
    let mut subscribe = vec![0, 1, 0];
    subscribe.extend(string("dev/lamp/cmd/+"));
    let subscribe = |options: u8| packet(0x82, &[&subscribe[..], &[options]].concat());
    let faults: Vec<(&str, Vec<u8>, u8)> = vec![
        ("a second CONNECT", Connect::v5("lamp").packet(), 0x82),
        ("QoS 3", publish("dev/lamp/tele/x", 0x06, &[]), 0x81),
        ("DUP with QoS 0", publish("dev/lamp/tele/x", 0x08, &[]), 0x81),
        ("a topic alias beyond the maximum", publish("dev/lamp/tele/x", 0, &[0x23, 0, 33]), 0x94),
        ("topic alias 0", publish("dev/lamp/tele/x", 0, &[0x23, 0, 0]), 0x94),
        ("a topic alias that stands for nothing", publish("", 0, &[0x23, 0, 1]), 0x82),
        ("a topic that is not UTF-8", packet(0x30, &[0, 2, 0xC3, 0x28, 0]), 0x81),
        ("a wildcard in a topic", publish("dev/lamp/tele/+", 0, &[]), 0x90),
        ("an empty topic", publish("", 0, &[]), 0x82),
        ("a topic that is too long", publish(&"x".repeat(600), 0, &[]), 0x90),
        ("a subscription identifier in PUBLISH", publish("dev/lamp/tele/x", 0, &[0x0B, 1]), 0x81),
        ("an unknown property", publish("dev/lamp/tele/x", 0, &[0x7F, 1]), 0x81),
        ("a property twice", publish("dev/lamp/tele/x", 0, &[0x01, 0, 0x01, 0]), 0x82),
        ("packet identifier 0", packet(0x32, &[&string("dev/lamp/tele/x")[..], &[0, 0, 0]].concat()), 0x82),
        ("a packet beyond the limit", packet(0x30, &[0; 1_000]), 0x95),
        ("reserved flags", vec![0x80, 0], 0x81),
        ("packet type 0", vec![0x00, 0], 0x81),
        ("CONNACK", vec![0x20, 2, 0, 0], 0x82),
        ("SUBACK", vec![0x90, 3, 0, 1, 0], 0x82),
        ("UNSUBACK", vec![0xB0, 2, 0, 1], 0x82),
        ("PINGRESP", vec![0xD0, 0], 0x82),
        ("PUBREL without its flags", vec![0x60, 2, 0, 1], 0x81),
        ("PUBREC with packet identifier 0", vec![0x50, 2, 0, 0], 0x82),
        (
            "no local on a shared subscription",
            packet(0x82, &[&[0, 1, 0][..], &string("$share/g/dev/lamp/cmd/+"), &[0x04]].concat()),
            0x82,
        ),
        ("PINGREQ with a body", vec![0xC0, 1, 0], 0x81),
        ("SUBSCRIBE with retain handling 3", subscribe(0x30), 0x82),
        ("SUBSCRIBE with QoS 3", subscribe(0x03), 0x81),
        ("SUBSCRIBE with reserved options", subscribe(0x40), 0x81),
        ("SUBSCRIBE without a filter", packet(0x82, &[0, 1, 0]), 0x82),
        ("a remaining length of five bytes", vec![0xC0, 0x80, 0x80, 0x80, 0x80, 0], 0x81),
        ("a remaining length that is padded", vec![0xC0, 0x80, 0x00], 0x81),
    ];
    for (what, bytes, code) in faults {
        let mut lamp = home.v5("lamp").await;
        lamp.send(&bytes).await;
        assert_eq!(lamp.disconnected().await.0, code, "{what}");
        let mut old = home.v311("oven").await;
        old.send(&[0x32, 3, 0, 1, b'a']).await;
        old.closed().await;
    }
    home.v5("lamp").await.nothing_came().await;
}

#[tokio::test]
async fn what_came_before_a_fault_counts() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    let mut bytes = lamp.publish_packet("dev/lamp/tele/x", "21", 1, false, &[]);
    bytes.extend([0x00, 0x00]);
    lamp.send(&bytes).await;
    assert_eq!(lamp.disconnected().await.0, 0x81);
    assert_eq!(owner.message().await.payload, "21");
}

#[tokio::test]
async fn a_packet_in_single_bytes_is_a_packet() {
    let home = Home::new().await;
    let mut lamp = home.stranger().await;
    for byte in Connect::v5("lamp").packet() {
        lamp.send(&[byte]).await;
    }
    assert_eq!(lamp.receive().await.body[1], 0);
    let publish = lamp.publish_packet("dev/lamp/tele/x", "21", 1, false, &[]);
    for byte in publish {
        lamp.send(&[byte]).await;
    }
    assert_eq!(lamp.puback_of(1).await, 0);
}

#[tokio::test]
async fn packets_that_come_with_connect_are_obeyed_after_it() {
    let home = Home::new().await;
    let mut lamp = home.stranger().await;
    let mut bytes = Connect::v5("lamp").packet();
    bytes.extend(lamp.publish_packet("dev/lamp/tele/x", "21", 1, false, &[]));
    bytes.extend([0xC0, 0]);
    lamp.send(&bytes).await;
    assert_eq!(lamp.receive().await.first, 0x20);
    assert_eq!(lamp.puback_of(1).await, 0);
    assert_eq!(lamp.receive().await.first, 0xD0);
}

/// 5: 3.3.4-7
#[tokio::test]
async fn more_unacknowledged_publishes_than_announced_end_the_connection() {
    let limits = Limits { receive_maximum: 3, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut lamp = home.v5("lamp").await;
    assert!(lamp.connack.body.windows(3).any(|window| window == [0x21, 0, 3]), "{:?}", lamp.connack);
    home.gate.disk.set(DiskMode::Hangs);
    let mut old = home.v311("oven").await;
    for _ in 0..3 {
        let publish = lamp.publish_packet("dev/lamp/status", "x", 1, true, &[]);
        lamp.send(&publish).await;
    }
    lamp.nothing_came().await;
    let publish = lamp.publish_packet("dev/lamp/status", "x", 1, true, &[]);
    lamp.send(&publish).await;
    assert_eq!(lamp.disconnected().await.0, 0x93);
    // MQTT 3.1.1 knows no such number: it waits.
    for _ in 0..10 {
        let publish = old.publish_packet("dev/oven/status", "x", 1, true, &[]);
        old.send(&publish).await;
    }
    home.gate.disk.set(DiskMode::Works);
    for packet_identifier in 1..=10 {
        old.puback_of(packet_identifier).await;
    }
}

#[tokio::test]
async fn a_client_gets_no_packet_larger_than_it_takes() {
    let home = Home::new().await;
    let mut small = Connect::v5("owner");
    small.properties = vec![0x27, 0, 0, 0, 100];
    let mut owner = home.connected(small).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1("dev/lamp/tele/x", &"x".repeat(100)).await;
    lamp.publish1("dev/lamp/tele/x", "small").await;
    assert_eq!(owner.message().await.payload, "small");
    // Words are left out where they do not fit.
    let topic = format!("$SYS/{}", "x".repeat(60));
    assert_eq!(owner.publish1(&topic, "x").await, 0x87);
    let mut tiny = Connect::v5("owner");
    tiny.properties = vec![0x27, 0, 0, 0, 10];
    let mut stranger = home.stranger().await;
    stranger.send(&tiny.packet()).await;
    let refusal = stranger.receive().await;
    assert_eq!((refusal.first, refusal.body), (0x20, vec![0, 0x95, 0]), "a CONNACK that says so fits");
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_take_ends_the_connection_rather_than_leave_it_waiting() {
    let home = Home::new().await;
    let filters = |between: &[u8]| {
        let each = (0..100).map(|number| [string(&format!("a/{number}")), between.to_vec()].concat());
        [vec![0, 1, 0], each.flatten().collect()].concat()
    };
    for request in [packet(0x82, &filters(&[0])), packet(0xA2, &filters(&[]))] {
        let mut small = Connect::v5("owner");
        small.properties = vec![0x27, 0, 0, 0, 100];
        let mut owner = home.connected(small).await;
        owner.send(&request).await;
        let (code, words) = owner.disconnected().await;
        assert!(code == 0x95 && words.contains("fewer filters"), "{code:#x} {words}");
    }
}

/// A small generator with a seed: a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1));
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at.min(bytes.len()), self.next() as u8),
                4 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                _ => {
                    let tail = bytes[at.min(bytes.len())..].to_vec();
                    bytes.extend(tail);
                }
            }
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut connect = Connect::kept("lamp").will("dev/lamp/status", "offline", true);
    connect.user_name = Some("lamp".to_owned());
    let mut publish = string("dev/lamp/tele/temperature");
    publish.extend([0, 9, 14, 0x02, 0, 0, 0, 9, 0x01, 1, 0x26, 0, 1, b'a', 0, 1, b'b', b'2', b'1']);
    let mut subscribe = vec![0, 7, 2, 0x0B, 5];
    subscribe.extend(string("dev/+/cmd/#"));
    subscribe.push(0x2D);
    let mut unsubscribe = vec![0, 8, 0];
    unsubscribe.extend(string("a/b"));
    vec![
        connect.packet(),
        Connect::by_method("lamp", "client_credentials", b"grant_type=client_credentials").packet(),
        Connect::v311("lamp").packet(),
        packet(0x3B, &publish),
        packet(0x30, &string("a")),
        packet(0x82, &subscribe),
        packet(0xA2, &unsubscribe),
        vec![0x40, 2, 0, 1],
        vec![0x40, 4, 0, 1, 0x80, 0],
        vec![0xC0, 0],
        vec![0xE0, 0],
        vec![0xE0, 7, 4, 5, 0x11, 0, 0, 0, 9],
        packet(0xF0, &[&[0x19, 24, 0x15][..], &string("client_credentials")[..], &[0x16, 0, 0][..]].concat()),
    ]
}

#[test]
fn two_hundred_thousand_mutilated_packets_are_read_without_panic() {
    let seed = 0x9E37_79B9_7F4A_7C15;
    let mut random = Random(seed);
    let corpus = corpus();
    let mut legible = 0;
    for _ in 0..200_000 {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut bytes);
        let mut buffer = BytesMut::from(&bytes[..]);
        let version = if random.next() & 1 == 0 { Version::V5 } else { Version::V311 };
        while let Ok(Some(frame)) = frame::next(&mut buffer, 16 * 1024) {
            legible += u32::from(decode::connect(frame.clone()).is_ok());
            legible += u32::from(decode::packet(frame, version).is_ok());
        }
    }
    assert!(legible > 10_000, "most mutations must reach the decoders: {legible}");
}

#[tokio::test]
async fn a_hub_that_was_sent_rubbish_serves_the_next_client() {
    let home = Home::new().await;
    let mut random = Random(42);
    let corpus = corpus();
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/oven/tele/+", 1).await;
    for _ in 0..300 {
        let mut stranger = home.stranger().await;
        let mut bytes = if random.below(4) == 0 { Vec::new() } else { Connect::v5("lamp").packet() };
        for _ in 0..4 {
            let mut packet = corpus[random.below(corpus.len())].clone();
            random.mutate(&mut packet);
            bytes.extend(packet);
        }
        stranger.send(&bytes).await;
    }
    let mut oven = home.v5("oven").await;
    assert_eq!(oven.publish1("dev/oven/tele/x", "180").await, 0);
    assert_eq!(owner.message().await.payload, "180");
    assert_eq!(home.front.stats().router_replacements, 0, "the router saw none of it");
}

#[tokio::test]
async fn one_packet_holds_no_more_filters_and_user_properties_than_the_hub_reads() {
    let home = Home::new().await;
    let user_properties = |count: usize| [&[0x26][..], &string("k"), &string("v")].concat().repeat(count);
    let filters = |first: u8, count: usize| {
        let mut body = vec![0, 1, 0];
        for number in 0..count {
            body.extend(string(&format!("f/{number}")));
            body.extend((first == 0x82).then_some(0));
        }
        packet(first, &body)
    };
    let publish = |count: usize| packet(0x32, &[&string("a")[..], &[0, 1], &properties(&user_properties(count))].concat());
    for (within_bounds, beyond, answer) in [
        (filters(0x82, 256), filters(0x82, 257), 0x90),
        (filters(0xA2, 256), filters(0xA2, 257), 0xB0),
        (publish(64), publish(65), 0x40),
    ] {
        let mut owner = home.v5("owner").await;
        owner.send(&within_bounds).await;
        assert_eq!(owner.receive().await.first, answer);
        owner.send(&beyond).await;
        let (code, words) = owner.disconnected().await;
        assert!(code == 0x97 && words.contains("too many"), "{words}");
    }
    let with = |count: usize| Connect { properties: user_properties(count), ..Connect::v5("owner") };
    home.connected(with(64)).await.nothing_came().await;
    assert_eq!(home.refusal(with(65)).await.0, 0x97);
}
