//! Section 4.7: topic names and filters.

use crate::{peer::*, support::*};

/// Subscribes to `filter` and publishes to all topics: those that come.
async fn matched(version: u8, filter: &str, topics: &[&str]) -> Vec<String> {
    let home = Home::new().await;
    let mut client = home.connected(owner(version, "a")).await;
    assert_eq!(client.subscribe(filter, 0).await, 0, "{filter}");
    client.subscribe("the end", 0).await;
    for topic in topics.iter().chain(&["the end"]) {
        client.publish0(topic, "x").await;
    }
    let mut came = Vec::new();
    loop {
        let topic = client.message().await.topic;
        if topic == "the end" {
            return came;
        }
        came.push(topic);
    }
}

async fn is_no_filter(filter: &str) {
    let home = Home::new().await;
    for (version, code) in [(5, 0x8F), (4, 0x80)] {
        let mut client = home.connected(owner(version, "a")).await;
        assert_eq!(client.subscribe(filter, 0).await, code, "{filter}");
    }
}

/// 5: 4.7.1-1 · 3.1.1: 3.8.3-2, 4.7.1-2
#[tokio::test]
async fn mqtt_4_7_1_1_the_multi_level_wildcard_is_the_whole_last_level() {
    for filter in ["a#", "a/#/b", "#/a", "a/b#", "##"] {
        is_no_filter(filter).await;
    }
    for version in BOTH {
        assert_eq!(matched(version, "a/#", &["a", "a/b", "a/b/c", "b", "ab"]).await, ["a", "a/b", "a/b/c"]);
        assert_eq!(matched(version, "#", &["a", "/", "a/b"]).await, ["a", "/", "a/b"]);
    }
}

/// 5: 4.7.1-2 · 3.1.1: 4.7.1-3
#[tokio::test]
async fn mqtt_4_7_1_2_the_single_level_wildcard_is_a_whole_level() {
    for filter in ["a+", "+a", "a/b+/c", "++"] {
        is_no_filter(filter).await;
    }
    for version in BOTH {
        assert_eq!(matched(version, "+/b/+", &["a/b/c", "/b/", "a/b", "a/c/b", "a/b/c/d"]).await, ["a/b/c", "/b/"]);
        assert_eq!(matched(version, "+", &["a", "/a", "a/b"]).await, ["a"]);
    }
}

/// 5: 4.7.2-1 · 3.1.1: 4.7.2-1
/// A topic of the hub's own, since nobody else may publish there.
#[tokio::test]
async fn mqtt_4_7_2_1_a_wildcard_in_front_does_not_match_a_dollar() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        for filter in ["#", "+/x", "+/#"] {
            client.subscribe(filter, 0).await;
        }
        let topic = hearthkey_core::topic::TopicName::parse("$SYS/x").unwrap();
        let permit = hearthkey_core::rights::PublishPermit::for_hub(topic);
        home.front.publish(permit, hearthkey::mqtt::message::Message::at_least_once("x")).await.unwrap();
        client.publish0("end", "x").await;
        assert_eq!(client.message().await.topic, "end");
    }
}

/// 5: 4.7.3-1 · 3.1.1: 4.7.3-1
#[tokio::test]
async fn mqtt_4_7_3_1_names_and_filters_have_a_character() {
    is_no_filter("").await;
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.send(&publish_bytes(version, 0, b"", &[], "x")).await;
        if version == 5 {
            let (code, _) = client.disconnected().await;
            assert!(matches!(code, 0x82 | 0x90), "{code:#04x}");
        }
        client.closed().await;
    }
}

/// 5: 4.7.3-2 · 3.1.1: 4.7.3-2
#[tokio::test]
async fn mqtt_4_7_3_2_names_and_filters_hold_no_null_character() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &publish_bytes(version, 0, b"a\0", &[], "x"), 0x90).await;
        is_ended(&home, version, &request(0x82, version, &[string("\0"), vec![0]].concat()), 0x81).await;
    }
}

/// 5: 4.7.3-3 · 3.1.1: 4.7.3-3
/// The hub's own bound is far below: 512 bytes.
#[tokio::test]
async fn mqtt_4_7_3_3_names_and_filters_have_a_greatest_length() {
    is_no_filter(&"x".repeat(65_535)).await;
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &publish_bytes(version, 0, &[b'x'; 65_535], &[], "x"), 0x90).await;
        let longest = "x".repeat(512);
        assert_eq!(matched(version, &longest, &[&longest]).await, [longest]);
    }
}

/// 5: 4.7.3-4 · 3.1.1: 4.7.3-4
#[tokio::test]
async fn mqtt_4_7_3_4_topics_are_compared_as_they_are() {
    for version in BOTH {
        let alike = ["A", "a", "a/", "/a", "a ", "\u{E9}", "e\u{301}", "\u{FB01}", "fi"];
        for topic in alike {
            assert_eq!(matched(version, topic, &alike).await, [topic]);
        }
    }
}
