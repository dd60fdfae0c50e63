//! What is denied, and what a denial tells.

use crate::support::*;

/// All that a device without the right is told when it asks for the topics of another, byte by byte.
async fn answers(home: &Home, version: u8) -> Vec<Packet> {
    let mut lamp = home.connected(Connect { version, user_name: Some("lamp".to_owned()), ..Connect::v5("lamp") }).await;
    let mut answers = Vec::new();
    for filter in ["dev/oven/state", "dev/oven/#", "#", "$share/g/dev/oven/state"] {
        let mut body = vec![0, 1];
        body.extend((version == 5).then_some(0));
        body.extend(string(filter));
        body.push(1);
        lamp.send(&packet(0x82, &body)).await;
        answers.push(lamp.receive().await);
        let mut body = vec![0, 2];
        body.extend((version == 5).then_some(0));
        body.extend(string(filter));
        lamp.send(&packet(0xA2, &body)).await;
        answers.push(lamp.receive().await);
    }
    for (qos, retain) in [(1, false), (1, true), (2, false), (2, true)] {
        let publish = lamp.publish_packet("dev/oven/state", "x", qos, retain, &[]);
        lamp.send(&publish).await;
        answers.push(lamp.receive().await);
    }
    // With QoS 0 there is no answer, and no message either.
    lamp.publish0("dev/oven/state", "x").await;
    lamp.nothing_came().await;
    answers
}

#[tokio::test]
async fn who_has_no_right_to_a_topic_never_learns_whether_it_exists() {
    for version in [4, 5] {
        let missing = answers(&Home::new().await, version).await;
        let home = Home::new().await;
        // As much as a topic can be: there is a device, a message is kept, somebody listens, others share it.
        let mut oven = home.v5("oven").await;
        assert_eq!(oven.publish("dev/oven/state", "warm", true, &[]).await, 0);
        let mut owner = home.connected(Connect::kept("owner")).await;
        assert_eq!(owner.subscribe("$share/g/dev/oven/state", 1).await, 1);
        assert_eq!(owner.subscribe("dev/oven/state", 1).await, 1);
        assert_eq!(owner.message().await.payload, "warm");
        assert_eq!(answers(&home, version).await, missing, "MQTT {version}");
        owner.nothing_came().await;
    }
}
