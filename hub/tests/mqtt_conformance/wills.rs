//! Wills: the part of section 3.1 that speaks of them.

use crate::{peer::*, support::*};

/// A client with this will, and a watcher of its topic.
async fn testator(home: &Home, version: u8, qos: u8, retain: bool, property_bytes: &[u8]) -> (Client, Client) {
    let mut watcher = home.connected(owner(5, "watcher")).await;
    watcher.subscribe("last", 1 | 0x08).await;
    let will = Some(("last".to_owned(), b"will".to_vec(), qos, retain, property_bytes.to_vec()));
    (home.connected(Connect { will, ..owner(version, "a") }).await, watcher)
}

/// 5: 3.1.2-7, 3.1.2-8 · 3.1.1: 3.1.2-8
/// However the connection ends, if not by DISCONNECT 0x00.
#[tokio::test]
async fn mqtt_3_1_2_8_the_will_is_published_when_the_connection_is_lost() {
    for version in BOTH {
        let home = Home::new().await;
        let (client, mut watcher) = testator(&home, version, 1, false, &[]).await;
        drop(client);
        assert_eq!(watcher.message().await.payload, "will");
        let (mut client, mut watcher) = testator(&home, version, 1, false, &[]).await;
        client.send(&[0x00, 0x00]).await;
        assert_eq!(watcher.message().await.payload, "will");
    }
    let home = Home::new().await;
    let (mut client, mut watcher) = testator(&home, 5, 1, false, &[]).await;
    client.send(&[0xE0, 1, 0x04]).await;
    assert_eq!(watcher.message().await.payload, "will", "DISCONNECT with will message");
}

/// 5: 3.1.2-9 · 3.1.1: 3.1.2-9
#[tokio::test]
async fn mqtt_3_1_2_9_a_will_has_topic_and_message() {
    for version in BOTH {
        let home = Home::new().await;
        let own: &[u8] = if version == 5 { &[0] } else { &[] };
        for will in [Vec::new(), own.to_vec(), [own, &string("last")].concat()] {
            is_malformed(&home, version, &connect_packet(version, 0x06, &[string("owner"), will].concat())).await;
        }
    }
}

/// 5: 3.1.2-10, 3.14.4-3 · 3.1.1: 3.1.2-10, 3.14.4-3
#[tokio::test]
async fn mqtt_3_1_2_10_a_normal_disconnect_removes_the_will() {
    for version in BOTH {
        let home = Home::new().await;
        let (client, mut watcher) = testator(&home, version, 1, false, &[]).await;
        client.goodbye().await;
        connections_left(&home, 1).await;
        watcher.nothing_came().await;
    }
}

/// 5: 3.1.2-11, 3.1.2-13 · 3.1.1: 3.1.2-11, 3.1.2-13, 3.1.2-15
#[tokio::test]
async fn mqtt_3_1_2_11_without_a_will_there_are_no_will_flags_and_fields() {
    for version in BOTH {
        let home = Home::new().await;
        for flags in [0x0A, 0x12, 0x22, 0x2A] {
            is_malformed(&home, version, &connect_packet(version, flags, &string("owner"))).await;
        }
        let fields = [string("owner"), string("last"), string("will")].concat();
        is_malformed(&home, version, &connect_packet(version, 0x02, &fields)).await;
    }
}

/// 3.1.1: 3.1.2-12
#[tokio::test]
async fn mqtt_311_3_1_2_12_without_a_will_nothing_is_published() {
    for version in BOTH {
        let home = Home::new().await;
        let mut watcher = home.connected(owner(5, "watcher")).await;
        watcher.subscribe("#", 0).await;
        drop(home.connected(owner(version, "a")).await);
        connections_left(&home, 1).await;
        watcher.nothing_came().await;
    }
}

/// 5: 3.1.2-12 · 3.1.1: 3.1.2-14
#[tokio::test]
async fn mqtt_3_1_2_12_a_will_has_qos_0_1_or_2() {
    for version in BOTH {
        let home = Home::new().await;
        for (qos, gets) in [(0, 0), (1, 1), (2, 1)] {
            let (client, mut watcher) = testator(&home, version, qos, false, &[]).await;
            drop(client);
            assert_eq!(watcher.message().await.qos, gets, "the watcher asked for QoS 1");
        }
        let will: &[u8] = if version == 5 { &[0] } else { &[] };
        let fields = [&string("owner"), will, &string("last"), &string("will")].concat();
        is_malformed(&home, version, &connect_packet(version, 0x1E, &fields)).await;
    }
}

/// 5: 3.1.2-14 · 3.1.1: 3.1.2-16
#[tokio::test]
async fn mqtt_3_1_2_14_a_will_without_retain_is_not_retained() {
    for version in BOTH {
        let home = Home::new().await;
        let (client, mut watcher) = testator(&home, version, 1, false, &[]).await;
        drop(client);
        assert!(!watcher.message().await.retain);
        let mut late = home.connected(owner(5, "late")).await;
        late.subscribe("last", 0).await;
        late.nothing_came().await;
    }
}

/// 5: 3.1.2-15 · 3.1.1: 3.1.2-17
#[tokio::test]
async fn mqtt_3_1_2_15_a_will_with_retain_is_retained() {
    for version in BOTH {
        let home = Home::new().await;
        let (client, mut watcher) = testator(&home, version, 1, true, &[]).await;
        drop(client);
        assert!(watcher.message().await.retain);
        let mut late = home.connected(owner(5, "late")).await;
        late.subscribe("last", 0).await;
        assert_eq!(late.message().await.payload, "will");
    }
}

/// 5: 3.1.3-9
/// A session that goes on before the delay has passed takes its old will with it.
#[tokio::test]
async fn mqtt_3_1_3_9_who_returns_in_time_leaves_no_will() {
    let home = Home::new().await;
    let mut watcher = home.connected(owner(5, "watcher")).await;
    watcher.subscribe("last", 1).await;
    let will = |which: u8, delay: u8| Some(("last".to_owned(), vec![b'0' + which], 1, false, vec![0x18, 0, 0, 0, delay]));
    // Long enough for any machine to return in time; that a will which was not taken back comes later, the simulation sees.
    drop(home.connected(Connect { will: will(2, 200), ..kept(5, "a") }).await);
    connections_left(&home, 1).await;
    drop(home.connected(Connect { will: will(1, 1), ..kept(5, "a") }).await);
    assert_eq!(watcher.message().await.payload, "1", "the will of the second connection, after its own delay");
    home.connected(kept(5, "a")).await.goodbye().await;
    watcher.nothing_came().await;
}

/// 5: 3.1.3-10
#[tokio::test]
async fn mqtt_3_1_3_10_the_user_properties_of_a_will_keep_their_order() {
    let home = Home::new().await;
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", "")];
    let bytes: Vec<u8> = pairs.iter().flat_map(|(name, value)| [vec![0x26], string(name), string(value)].concat()).collect();
    let (client, mut watcher) = testator(&home, 5, 1, false, &bytes).await;
    drop(client);
    assert_eq!(watcher.message().await.properties, bytes);
}

/// 5: 3.1.3-11 · 3.1.1: 3.1.3-10
#[tokio::test]
async fn mqtt_3_1_3_11_the_topic_of_a_will_is_a_utf_8_string() {
    let home = Home::new().await;
    for (version, code) in [(5, Some(0x90)), (4, None)] {
        let will: &[u8] = if version == 5 { &[0] } else { &[] };
        let fields = [&string("owner"), will, &binary(&[0xFF]), &string("will")].concat();
        is_refused(&home, &connect_packet(version, 0x06, &fields), code).await;
    }
}
