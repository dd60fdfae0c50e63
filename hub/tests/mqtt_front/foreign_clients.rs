//! Clients that we did not write: rumqttc and mosquitto's tools.

use crate::support::*;
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

#[tokio::test]
async fn rumqttc_speaks_with_us_in_mqtt_3() {
    use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet, QoS, SubscribeReasonCode};
    let home = Home::new().await;
    let options = |name: &str, password: &str| {
        let mut options = MqttOptions::new(name, "127.0.0.1", home.address.port());
        options.set_credentials(name, password).set_keep_alive(PATIENCE);
        options
    };
    let (owner, mut owner_events) = AsyncClient::new(options("owner", "owner"), 10);
    owner_events.network_options.set_connection_timeout(PATIENCE.as_secs());
    owner.subscribe("dev/+/tele/#", QoS::ExactlyOnce).await.unwrap();
    within(async {
        while !matches!(owner_events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(ack))
            if ack.return_codes == [SubscribeReasonCode::Success(QoS::ExactlyOnce)])
        {}
    })
    .await;
    let (lamp, mut lamp_events) = AsyncClient::new(options("lamp", "lamp"), 10);
    lamp_events.network_options.set_connection_timeout(PATIENCE.as_secs());
    lamp.subscribe("dev/oven/cmd/+", QoS::AtLeastOnce).await.unwrap();
    lamp.publish("dev/oven/tele/x", QoS::AtLeastOnce, false, "denied").await.unwrap();
    lamp.publish("dev/lamp/tele/x", QoS::AtLeastOnce, false, "seen").await.unwrap();
    let (mut acknowledged, mut refused) = (0, false);
    within(async {
        while acknowledged < 2 || !refused {
            match lamp_events.poll().await.unwrap() {
                Event::Incoming(Packet::PubAck(_)) => acknowledged += 1,
                Event::Incoming(Packet::SubAck(ack)) => refused = ack.return_codes == [SubscribeReasonCode::Failure],
                _ => {}
            }
        }
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = owner_events.poll().await.unwrap() {
                assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("dev/lamp/tele/x", &b"seen"[..]));
                break;
            }
        }
    })
    .await;
    let (_wrong, mut events) = AsyncClient::new(options("lamp", "wrong"), 10);
    events.network_options.set_connection_timeout(PATIENCE.as_secs());
    match within(events.poll()).await {
        Err(ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rumqttc_speaks_with_us_in_mqtt_5() {
    use rumqttc::v5::{
        AsyncClient, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Packet, PubAckReason, SubscribeReasonCode},
        },
    };
    let home = Home::new().await;
    let options = |name: &str| {
        let mut options = MqttOptions::new(name, "127.0.0.1", home.address.port());
        options.set_credentials(name, name).set_keep_alive(PATIENCE);
        options.set_connection_timeout(PATIENCE.as_secs());
        options
    };
    let (owner, mut owner_events) = AsyncClient::new(options("owner"), 10);
    owner.subscribe("dev/+/tele/#", QoS::AtLeastOnce).await.unwrap();
    within(async {
        while !matches!(owner_events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(ack))
            if ack.return_codes == [SubscribeReasonCode::Success(QoS::AtLeastOnce)])
        {}
    })
    .await;
    let (lamp, mut lamp_events) = AsyncClient::new(options("lamp"), 10);
    lamp.publish("dev/oven/tele/x", QoS::AtLeastOnce, false, "denied").await.unwrap();
    let denied = within(async {
        loop {
            if let Event::Incoming(Packet::PubAck(ack)) = lamp_events.poll().await.unwrap() {
                return ack;
            }
        }
    })
    .await;
    assert_eq!(denied.reason, PubAckReason::NotAuthorized);
    assert!(denied.properties.unwrap().reason_string.unwrap().contains("dev/oven/tele/x"));
    lamp.publish("dev/lamp/tele/x", QoS::AtLeastOnce, false, "seen").await.unwrap();
    let polling = tokio::spawn(async move { while lamp_events.poll().await.is_ok() {} });
    within(async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = owner_events.poll().await.unwrap() {
                assert_eq!(&publish.payload[..], b"seen");
                break;
            }
        }
    })
    .await;
    home.gate.end(device("lamp"), hearthkey_core::session::EndReason::Revoked);
    home.reconsider(device("lamp"));
    within(polling).await.unwrap();
}

/// mosquitto's tools.
async fn mosquitto(tool: &str, home: &Home, arguments: &[&str]) -> Command {
    let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    found.unwrap_or_else(|error| panic!("{tool}: {error}; run `.ci/setup test`"));
    let mut command = Command::new(tool);
    command.args(["-h", "127.0.0.1", "-p", &home.address.port().to_string()]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn mosquitto_speaks_with_us_in_both_dialects() {
    let home = Home::new().await;
    home.v5("lamp").await.publish("dev/lamp/tele/x", "20", true, &[]).await;
    for (version, qos) in [("mqttv311", "1"), ("mqttv5", "1"), ("mqttv311", "2"), ("mqttv5", "2")] {
        let subscription = ["-V", version, "-i", "owner", "-u", "owner", "-P", "owner", "-q", qos, "-t", "dev/+/tele/#", "-v"];
        let mut subscriber = mosquitto("mosquitto_sub", &home, &subscription).await.spawn().unwrap();
        let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
        // It says that it is subscribed only when its buffer is full; a retained message shows it.
        within(async { while lines.next_line().await.unwrap().unwrap() != "dev/lamp/tele/x 20" {} }).await;
        let publish = |topic: &'static str, password: &'static str| {
            let home = &home;
            async move {
                let arguments = ["-V", version, "-i", "lamp", "-u", "lamp", "-P", password, "-q", qos, "-t", topic, "-m", "21"];
                within(mosquitto("mosquitto_pub", home, &arguments).await.output()).await.unwrap()
            }
        };
        assert!(publish("dev/lamp/tele/x", "lamp").await.status.success());
        within(async { while lines.next_line().await.unwrap().unwrap() != "dev/lamp/tele/x 21" {} }).await;
        let refused = publish("dev/lamp/tele/x", "wrong").await;
        let words = String::from_utf8_lossy(&refused.stderr).to_lowercase();
        assert!(!refused.status.success() && words.contains("not authori"), "{words}");
        let denied = publish("dev/oven/tele/x", "lamp").await;
        if version == "mqttv5" {
            let words = String::from_utf8_lossy(&denied.stderr).to_lowercase();
            assert!(words.contains("not authorized"), "{words}");
        }
        subscriber.kill().await.unwrap();
    }
}
