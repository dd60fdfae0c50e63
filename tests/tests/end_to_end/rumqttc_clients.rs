//! rumqttc's clients at a hub, in both dialects: the token is the password.

use std::time::Duration;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::patience::{PATIENCE, within};
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, Packet as Packet5, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{ConnectionError as ConnectionError5, Event as Event5, StateError as StateError5};
use rumqttc::{
    ConnectionError, Event, Packet, QoS, SubscribeReasonCode as SubscribeReasonCode4, TlsConfiguration, Transport, v5,
};

fn v5_client(hub: &Hub, client_identifier: &str, password: &str, tls: bool) -> (v5::AsyncClient, v5::EventLoop) {
    let port = if tls { hub.ports().mqtts } else { hub.ports().mqtt };
    let mut options = v5::MqttOptions::new(client_identifier, "localhost", port);
    options.set_credentials(client_identifier, password).set_keep_alive(Duration::from_secs(30));
    options.set_connection_timeout(PATIENCE.as_secs());
    if tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(hub.tls())));
    }
    v5::AsyncClient::new(options, 16)
}

fn v4_client(hub: &Hub, client_identifier: &str, password: &str, tls: bool) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    let port = if tls { hub.ports().mqtts } else { hub.ports().mqtt };
    let mut options = rumqttc::MqttOptions::new(client_identifier, "localhost", port);
    options.set_credentials(client_identifier, password).set_keep_alive(Duration::from_secs(30));
    if tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(hub.tls())));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
    events.network_options.set_connection_timeout(PATIENCE.as_secs());
    (client, events)
}

/// What `look` sees in the packets that come.
async fn v5_packet<T>(what: &str, events: &mut v5::EventLoop, look: impl Fn(&Packet5) -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Event5::Incoming(packet) = events.poll().await.unwrap_or_else(|error| panic!("{what}: {error}"))
                && let Some(seen) = look(&packet)
            {
                return seen;
            }
        }
    })
    .await
}

/// What `look` sees in the packets that come.
async fn v4_packet<T>(what: &str, events: &mut rumqttc::EventLoop, look: impl Fn(&Packet) -> Option<T>) -> T {
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

fn v5_puback(packet: &Packet5) -> Option<PubAckReason> {
    if let Packet5::PubAck(ack) = packet { Some(ack.reason) } else { None }
}

fn v5_suback(packet: &Packet5) -> Option<SubscribeReasonCode> {
    if let Packet5::SubAck(ack) = packet { ack.return_codes.first().copied() } else { None }
}

#[tokio::test]
async fn a_v5_client_publishes_and_subscribes_within_its_rights() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for tls in [true, false] {
        let (owner, mut seen) = v5_client(&hub, "owner", &hub.owner_token(), tls);
        owner.subscribe("dev/+/tele/+", v5::mqttbytes::QoS::AtLeastOnce).await.expect("queued");
        let granted = v5_packet("SUBACK", &mut seen, v5_suback).await;
        assert_eq!(granted, SubscribeReasonCode::Success(v5::mqttbytes::QoS::AtLeastOnce));

        let (lamp, mut answers) = v5_client(&hub, "lamp", &token, tls);
        for (topic, reason) in [
            ("dev/lamp/tele/temperature", PubAckReason::Success),
            ("dev/oven/tele/temperature", PubAckReason::NotAuthorized),
            ("dev/lamp/cmd/identify", PubAckReason::NotAuthorized),
        ] {
            lamp.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, "21.5").await.expect("queued");
            assert_eq!(v5_packet("PUBACK", &mut answers, v5_puback).await, reason, "{topic}");
        }
        lamp.subscribe("dev/oven/#", v5::mqttbytes::QoS::AtLeastOnce).await.expect("queued");
        assert_eq!(v5_packet("SUBACK", &mut answers, v5_suback).await, SubscribeReasonCode::NotAuthorized);
        lamp.subscribe("dev/lamp/cmd/+", v5::mqttbytes::QoS::AtLeastOnce).await.expect("queued");
        let granted = v5_packet("SUBACK", &mut answers, v5_suback).await;
        assert_eq!(granted, SubscribeReasonCode::Success(v5::mqttbytes::QoS::AtLeastOnce));

        let message = v5_packet("the message", &mut seen, |packet| match packet {
            Packet5::Publish(publish) => Some((publish.topic.clone(), publish.payload.clone())),
            _ => None,
        });
        let (topic, payload) = message.await;
        assert_eq!((&topic[..], &payload[..]), (&b"dev/lamp/tele/temperature"[..], &b"21.5"[..]));
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_v4_client_publishes_and_subscribes_within_its_rights() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for tls in [true, false] {
        let (owner, mut seen) = v4_client(&hub, "owner", &hub.owner_token(), tls);
        let suback = |packet: &Packet| if let Packet::SubAck(ack) = packet { ack.return_codes.first().copied() } else { None };
        owner.subscribe("dev/+/tele/+", QoS::AtLeastOnce).await.expect("queued");
        let granted = v4_packet("SUBACK", &mut seen, suback).await;
        assert_eq!(granted, SubscribeReasonCode4::Success(QoS::AtLeastOnce));

        let (lamp, mut answers) = v4_client(&hub, "lamp", &token, tls);
        lamp.subscribe("dev/oven/#", QoS::AtLeastOnce).await.expect("queued");
        assert_eq!(v4_packet("SUBACK", &mut answers, suback).await, SubscribeReasonCode4::Failure);
        for topic in ["dev/oven/tele/temperature", "dev/lamp/tele/temperature"] {
            lamp.publish(topic, QoS::AtLeastOnce, false, "21.5").await.expect("queued");
            let puback = |packet: &Packet| matches!(packet, Packet::PubAck(_)).then_some(());
            v4_packet("PUBACK", &mut answers, puback).await;
        }
        let message = |packet: &Packet| if let Packet::Publish(publish) = packet { Some(publish.topic.clone()) } else { None };
        assert_eq!(v4_packet("a message", &mut seen, message).await, "dev/lamp/tele/temperature", "and not its neighbour's");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_revocation_reaches_clients_that_know_nothing_of_us() {
    let hub = Hub::start().await;
    let five = Keyed::enrolled(&hub, "five", "thermostat").await.token(&hub).await;
    let four = Keyed::enrolled(&hub, "four", "thermostat").await.token(&hub).await;
    let (_five, mut five_events) = v5_client(&hub, "five", &five, true);
    let (_four, mut four_events) = v4_client(&hub, "four", &four, true);
    v5_packet("CONNACK", &mut five_events, |packet| matches!(packet, Packet5::ConnAck(_)).then_some(())).await;
    v4_packet("CONNACK", &mut four_events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
    hub.told(&["device", "revoke", "five"]).await;
    hub.told(&["device", "revoke", "four"]).await;

    let cut = within("the cut", async {
        loop {
            if let Err(error) = five_events.poll().await {
                return error;
            }
        }
    });
    match cut.await {
        ConnectionError5::MqttState(StateError5::ServerDisconnect { reason_code, reason_string }) => {
            assert_eq!(reason_code, DisconnectReasonCode::AdministrativeAction);
            assert!(reason_string.as_deref().is_some_and(|reason| reason.starts_with("revoked")), "{reason_string:?}");
        }
        other => panic!("{other:?}"),
    }
    let cut = within("the cut", async {
        loop {
            if let Err(error) = four_events.poll().await {
                return error;
            }
        }
    });
    let cut = cut.await;
    assert!(matches!(cut, ConnectionError::MqttState(_) | ConnectionError::Io(_)), "{cut:?}");

    // They try again with what they have, and are told no.
    match within("a refusal", five_events.poll()).await {
        Err(ConnectionError5::ConnectionRefused(code)) => assert_eq!(code, ConnectReturnCode::NotAuthorized),
        other => panic!("{other:?}"),
    }
    match within("a refusal", four_events.poll()).await {
        Err(ConnectionError::ConnectionRefused(code)) => assert_eq!(code, rumqttc::ConnectReturnCode::NotAuthorized),
        other => panic!("{other:?}"),
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_home_ca_says_nothing_to_the_hub() {
    let (home, elsewhere) = (Hub::start().await, Hub::start().await);
    let port = home.ports().mqtts;
    let mut options = v5::MqttOptions::new("lamp", "localhost", port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(elsewhere.tls())));
    options.set_connection_timeout(PATIENCE.as_secs());
    let (_client, mut events) = v5::AsyncClient::new(options, 16);
    match within("a refusal", events.poll()).await {
        Err(ConnectionError5::Tls(_) | ConnectionError5::Io(_)) => {}
        other => panic!("{other:?}"),
    }
    home.finish().await;
    elsewhere.finish().await;
}
