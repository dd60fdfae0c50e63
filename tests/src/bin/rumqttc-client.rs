//! One MQTT client of the tests, on rumqttc: connects as the first line of standard input tells, does what each further line says,
//! and prints what comes of it, a line of JSON each. Knows nothing of Hearthkey beyond its address.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use hearthkey_tests::hub::tls_under;
use hearthkey_tests::patience::PATIENCE;
use rumqttc::v5::mqttbytes::v5::{self as v5_packets, Packet as Packet5, PubAckReason, PubCompReason, PubRecReason};
use rumqttc::v5::{self, ConnectionError as ConnectionError5, Event as Event5, StateError as StateError5};
use rumqttc::{ConnectReturnCode, ConnectionError, Event, LastWill, Outgoing, Packet, QoS, SubscribeReasonCode};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

/// Requests that wait for the event loop.
const QUEUE: usize = 16;
const NOT_AUTHORIZED: u8 = 0x87;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let Some(told) = next(&mut lines).await else { return };
    if told["version"] == 5 {
        five(&told, lines).await
    } else {
        four(&told, lines).await
    }
    // Whoever reads standard input would wait for one more line.
    std::process::exit(0);
}

async fn next(lines: &mut Lines<BufReader<Stdin>>) -> Option<Value> {
    let line = lines.next_line().await.ok()??;
    Some(serde_json::from_str(&line).expect("a line of JSON"))
}

fn show(event: &Value) {
    // Who does not listen any more needs no more.
    let _ = writeln!(std::io::stdout(), "{event}");
}

fn text(told: &Value, name: &str) -> String {
    told[name].as_str().unwrap_or_default().to_owned()
}

fn number<T: TryFrom<u64>>(told: &Value, name: &str) -> Option<T> {
    told[name].as_u64().and_then(|number| T::try_from(number).ok())
}

/// Where the hub is, and how to get there.
fn way(told: &Value) -> (String, u16, Transport) {
    let port = number(told, "port").expect("a port");
    let tls = TlsConfiguration::Rustls(tls_under(Path::new(&text(told, "ca"))));
    match told["path"].as_str() {
        Some(path) => (format!("wss://localhost:{port}{path}"), port, Transport::wss_with_config(tls)),
        None => ("localhost".to_owned(), port, Transport::tls_with_config(tls)),
    }
}

async fn five(told: &Value, mut lines: Lines<BufReader<Stdin>>) {
    let (host, port, transport) = way(told);
    let mut options = v5::MqttOptions::new(text(told, "client_id"), host, port);
    options.set_transport(transport).set_keep_alive(Duration::from_secs(30));
    options.set_credentials(text(told, "client_id"), text(told, "password"));
    options.set_connection_timeout(PATIENCE.as_secs());
    options.set_clean_start(told["clean"] == true).set_session_expiry_interval(number(told, "session_expiry"));
    if let Some(topic) = told["will"].as_str() {
        let delay_interval = number(told, "will_delay");
        let properties = delay_interval.map(|_| v5_packets::LastWillProperties {
            delay_interval,
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        });
        options.set_last_will(v5_packets::LastWill::new(topic, "offline", qos5(1), true, properties));
    }
    let (client, mut events) = v5::AsyncClient::new(options, QUEUE);
    tokio::spawn(async move {
        while let Some(does) = next(&mut lines).await {
            let done = if does["publish"].is_string() {
                let properties = v5_packets::PublishProperties {
                    message_expiry_interval: number(&does, "expiry"),
                    topic_alias: number(&does, "alias"),
                    response_topic: does["response_topic"].as_str().map(str::to_owned),
                    correlation_data: does["correlation"].as_str().map(|data| data.to_owned().into()),
                    ..v5_packets::PublishProperties::default()
                };
                let (topic, qos, retain) =
                    (text(&does, "publish"), qos5(number(&does, "qos").unwrap_or(0)), does["retain"] == true);
                client.publish_with_properties(topic, qos, retain, text(&does, "payload"), properties).await
            } else if does["subscribe"].is_string() {
                client.subscribe(text(&does, "subscribe"), qos5(number(&does, "qos").unwrap_or(0))).await
            } else {
                client.disconnect().await
            };
            done.expect("the event loop runs");
        }
    });
    loop {
        match events.poll().await {
            Ok(Event5::Incoming(packet)) => show_packet5(&packet),
            Ok(Event5::Outgoing(Outgoing::Publish(0))) => show(&json!({ "published": 0 })),
            Ok(Event5::Outgoing(_)) => {}
            Err(ConnectionError5::ConnectionRefused(code)) => return show(&json!({ "refused": refusal(code), "words": null })),
            Err(ConnectionError5::MqttState(StateError5::ServerDisconnect { reason_code, reason_string })) => {
                return show(&json!({ "ended": reason_code as u8, "words": reason_string }));
            }
            Err(error) => return show(&json!({ "ended": null, "words": error.to_string() })),
        }
    }
}

fn refusal(code: v5_packets::ConnectReturnCode) -> Option<u8> {
    (code == v5_packets::ConnectReturnCode::NotAuthorized).then_some(NOT_AUTHORIZED)
}

fn show_packet5(packet: &Packet5) {
    let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match packet {
        Packet5::ConnAck(ack) => show(&json!({ "connected": { "session_present": ack.session_present } })),
        Packet5::Publish(publish) => {
            let properties = publish.properties.clone().unwrap_or_default();
            let message = json!({
                "topic": said(&publish.topic), "payload": said(&publish.payload), "qos": publish.qos as u8, "retain": publish.retain,
                "expiry": properties.message_expiry_interval, "response_topic": properties.response_topic,
                "correlation": properties.correlation_data.map(|data| said(&data)),
            });
            show(&json!({ "message": message }));
        }
        Packet5::PubAck(ack) => {
            show(&json!({ "published": if ack.reason == PubAckReason::Success { 0 } else { NOT_AUTHORIZED } }))
        }
        // Otherwise PUBCOMP is the last word.
        Packet5::PubRec(ack) if ack.reason == PubRecReason::NotAuthorized => show(&json!({ "published": NOT_AUTHORIZED })),
        Packet5::PubComp(ack) => show(&json!({ "published": if ack.reason == PubCompReason::Success { 0 } else { 0x92 } })),
        Packet5::SubAck(ack) => {
            let codes = ack.return_codes.iter().map(|code| match code {
                v5_packets::SubscribeReasonCode::Success(qos) => *qos as u8,
                v5_packets::SubscribeReasonCode::NotAuthorized => NOT_AUTHORIZED,
                _ => 0x80,
            });
            show(&json!({ "subscribed": codes.collect::<Vec<u8>>() }));
        }
        _ => {}
    }
}

fn qos5(level: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(level).expect("a QoS")
}

async fn four(told: &Value, mut lines: Lines<BufReader<Stdin>>) {
    let (host, port, transport) = way(told);
    let mut options = rumqttc::MqttOptions::new(text(told, "client_id"), host, port);
    options.set_transport(transport).set_keep_alive(Duration::from_secs(30));
    options.set_credentials(text(told, "client_id"), text(told, "password")).set_clean_session(told["clean"] == true);
    if let Some(topic) = told["will"].as_str() {
        options.set_last_will(LastWill::new(topic, "offline", QoS::AtLeastOnce, true));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, QUEUE);
    events.network_options.set_connection_timeout(PATIENCE.as_secs());
    tokio::spawn(async move {
        while let Some(does) = next(&mut lines).await {
            let qos = rumqttc::qos(number(&does, "qos").unwrap_or(0)).expect("a QoS");
            let done = if does["publish"].is_string() {
                client.publish(text(&does, "publish"), qos, does["retain"] == true, text(&does, "payload")).await
            } else if does["subscribe"].is_string() {
                client.subscribe(text(&does, "subscribe"), qos).await
            } else {
                client.disconnect().await
            };
            done.expect("the event loop runs");
        }
    });
    loop {
        match events.poll().await {
            Ok(Event::Incoming(packet)) => show_packet4(&packet),
            Ok(Event::Outgoing(Outgoing::Publish(0))) => show(&json!({ "published": 0 })),
            Ok(Event::Outgoing(_)) => {}
            Err(ConnectionError::ConnectionRefused(code)) => {
                let code = (code == ConnectReturnCode::NotAuthorized).then_some(5);
                return show(&json!({ "refused": code, "words": null }));
            }
            Err(error) => return show(&json!({ "ended": null, "words": error.to_string() })),
        }
    }
}

fn show_packet4(packet: &Packet) {
    match packet {
        Packet::ConnAck(ack) => show(&json!({ "connected": { "session_present": ack.session_present } })),
        Packet::Publish(publish) => {
            let payload = String::from_utf8_lossy(&publish.payload);
            let message =
                json!({ "topic": publish.topic, "payload": payload, "qos": publish.qos as u8, "retain": publish.retain });
            show(&json!({ "message": message }));
        }
        Packet::PubAck(_) | Packet::PubComp(_) => show(&json!({ "published": 0 })),
        Packet::SubAck(ack) => {
            let codes = ack.return_codes.iter().map(|code| match code {
                SubscribeReasonCode::Success(qos) => *qos as u8,
                SubscribeReasonCode::Failure => 0x80,
            });
            show(&json!({ "subscribed": codes.collect::<Vec<u8>>() }));
        }
        _ => {}
    }
}
