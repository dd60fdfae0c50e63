//! rumqttc over WebSocket, TLS under the home CA: as over TCP.

use std::time::Duration;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::patience::{PATIENCE, within};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};

fn client(hub: &Hub, client_identifier: &str, password: &str) -> (AsyncClient, EventLoop) {
    let url = hub.url("/mqtt").replace("https", "wss");
    let mut options = MqttOptions::new(client_identifier, url, hub.ports().https);
    options.set_credentials(client_identifier, password).set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(100_000, 100_000);
    options.set_transport(Transport::wss_with_config(TlsConfiguration::Rustls(hub.tls())));
    let (client, mut events) = AsyncClient::new(options, 16);
    events.network_options.set_connection_timeout(PATIENCE.as_secs());
    (client, events)
}

async fn seen<T>(what: &str, events: &mut EventLoop, look: impl Fn(&Packet) -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap_or_else(|error| panic!("{what}: {error}"))
                && let Some(seen) = look(&packet)
            {
                return seen;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_over_websocket_publishes_and_subscribes_within_its_rights_and_is_cut_like_any_other() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let (owner, mut messages) = client(&hub, "owner", &hub.owner_token());
    owner.subscribe("dev/+/tele/+", QoS::AtLeastOnce).await.expect("queued");
    seen("SUBACK", &mut messages, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    let (lamp, mut answers) = client(&hub, "lamp", &token);
    for topic in ["dev/oven/tele/temperature", "dev/lamp/tele/temperature"] {
        lamp.publish(topic, QoS::AtLeastOnce, false, "21.5".repeat(10_000)).await.expect("queued");
        seen("PUBACK", &mut answers, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    }
    let (topic, length) = seen("a message", &mut messages, |packet| match packet {
        Packet::Publish(publish) => Some((publish.topic.clone(), publish.payload.len())),
        _ => None,
    })
    .await;
    assert_eq!((topic.as_str(), length), ("dev/lamp/tele/temperature", 40_000), "and not its neighbour's");
    hub.told(&["device", "revoke", "lamp"]).await;
    within("the cut", async { while answers.poll().await.is_ok() {} }).await;
    hub.audited("the cut", |entry| entry["action"] == "mqtt.disconnect" && entry["reason"] == "revoked").await;
    hub.finish().await;
}
