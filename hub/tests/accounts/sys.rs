//! `$SYS/broker/…`: owners see how the broker stands, nobody else does, and `#` does not show it.

use crate::home::{Home, PATIENCE};
use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, SubscribeReasonCode},
    },
};
use std::collections::BTreeMap;

fn client(home: &Home, name: &str, password: &str) -> (AsyncClient, EventLoop) {
    let address = home.server.addresses().mqtt.expect("MQTT without TLS");
    let mut options = MqttOptions::new(name, address.ip().to_string(), address.port());
    options.set_credentials(name, password).set_connection_timeout(PATIENCE.as_secs());
    AsyncClient::new(options, 8)
}

async fn next(events: &mut EventLoop) -> Packet {
    let packet = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.expect("connected") {
                return packet;
            }
        }
    };
    tokio::time::timeout(PATIENCE, packet).await.expect("what must come did not come")
}

async fn subscribed(client: &AsyncClient, events: &mut EventLoop, filter: &str) -> SubscribeReasonCode {
    client.subscribe(filter, QoS::AtMostOnce).await.expect("queued");
    loop {
        if let Packet::SubAck(ack) = next(events).await {
            return ack.return_codes[0];
        }
    }
}

#[tokio::test]
async fn an_owner_sees_how_the_broker_stands_and_nobody_else_does() {
    let home = Home::open().await;
    let (owner, mut events) = client(&home, "owner", &home.owner);
    assert!(matches!(subscribed(&owner, &mut events, "$SYS/broker/#").await, SubscribeReasonCode::Success(_)));
    let mut seen = BTreeMap::new();
    while seen.len() < 11 {
        if let Packet::Publish(publish) = next(&mut events).await {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            seen.insert(text(&publish.topic), text(&publish.payload));
        }
    }
    assert!(seen["$SYS/broker/version"].starts_with("hearthkey "));
    assert!(seen["$SYS/broker/uptime"].ends_with(" seconds"));
    assert!(seen["$SYS/broker/clients/connected"].parse::<usize>().is_ok());

    let viewer = home.person("vera", "viewer").await;
    let plug = home.with_secret("plug", "thermostat").await;
    let plug = home.access_token("plug", &plug).await;
    for (name, password) in [("vera", &viewer), ("plug", &plug)] {
        let (client, mut events) = client(&home, name, password);
        for filter in ["$SYS/#", "$SYS/broker/version"] {
            assert_eq!(subscribed(&client, &mut events, filter).await, SubscribeReasonCode::NotAuthorized, "{name} {filter}");
        }
    }

    // MQTT 5 section 4.7.2: a wildcard does not begin with what begins with `$`.
    let (all, mut events) = client(&home, "all", &home.owner);
    assert!(matches!(subscribed(&all, &mut events, "#").await, SubscribeReasonCode::Success(_)));
    all.publish("mark", QoS::AtMostOnce, false, "end").await.expect("queued");
    loop {
        if let Packet::Publish(publish) = next(&mut events).await {
            assert!(!publish.topic.starts_with(b"$"), "{publish:?}");
            if &publish.topic[..] == b"mark" {
                break;
            }
        }
    }
}
