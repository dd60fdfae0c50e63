//! How sessions end, what is said, and what becomes of the will.

use crate::support::*;
use hearthkey::mqtt::gate::{Affected, Ending, Happening};
use hearthkey_core::session::EndReason;
use std::time::Duration;

const STATUS: &str = "dev/lamp/status";

#[tokio::test]
async fn a_revoked_device_is_cut_off_before_its_next_publish_and_told_why() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/#", 1).await;
    let mut lamp = home.connected(Connect::v5("lamp").will(STATUS, "offline", true)).await;
    let mut oven = home.v5("oven").await;
    home.gate.end(device("lamp"), EndReason::Revoked);
    home.reconsider(device("lamp"));
    let publish = lamp.publish_packet("dev/lamp/tele/x", "too late", 1, false, &[]);
    lamp.send(&publish).await;
    let (code, words) = lamp.disconnected().await;
    assert_eq!(code, 0x98);
    assert!(words.contains("revoked"), "{words}");
    let will = owner.message().await;
    assert_eq!((will.topic.as_str(), will.payload.as_str()), (STATUS, "offline"), "the will, and not the publish");
    owner.nothing_came().await;
    oven.nothing_came().await;
    home.gate.event(|event| event.what == Happening::Ended(Ending::ByHub(EndReason::Revoked))).await;
    assert!(!home.front.is_online(&device("lamp")));
}

#[tokio::test]
async fn each_reason_has_its_code_and_mqtt_3_sees_a_close() {
    for (reason, code, words) in [
        (EndReason::Revoked, 0x98, "revoked"),
        (EndReason::Disabled, 0x98, "disabled"),
        (EndReason::PolicyChanged, 0x98, "policy changed"),
        (EndReason::Expired { at: NOW }, 0xA0, "access token expired"),
    ] {
        let home = Home::new().await;
        let mut lamp = home.v5("lamp").await;
        let mut old = home.connected(Connect { client_identifier: "lamp/old".to_owned(), ..Connect::v311("lamp") }).await;
        home.gate.end(device("lamp"), reason);
        home.front.reconsider(&Affected::Everything);
        let (told, said) = lamp.disconnected().await;
        assert!(told == code && said.contains(words), "{said}");
        old.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_gone_all_the_same() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 0).await;
    let mut lamp = home.v5("lamp").await;
    let large = "x".repeat(50_000);
    for _ in 0..200 {
        lamp.publish0("dev/lamp/tele/x", &large).await;
    }
    lamp.nothing_came().await;
    home.gate.end(user("owner"), EndReason::Revoked);
    home.reconsider(user("owner"));
    home.gate.event(|event| event.what == Happening::Ended(Ending::ByHub(EndReason::Revoked))).await;
    assert!(!home.front.is_online(&user("owner")), "though it has read nothing yet");
    // And when it does read, it finds whole packets and the reason, if its buffers had room for it.
    within(async {
        while home.front.stats().connections > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_expired_token_ends_the_session_at_once_and_publishes_the_will() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 1).await;
    home.gate.grant("lamp", device("lamp"), thermostat("lamp"), Some(NOW.plus(hearthkey_core::Seconds(1))));
    let mut lamp = home.connected(Connect::v5("lamp").will(STATUS, "offline", false)).await;
    let (code, words) = lamp.disconnected().await;
    assert_eq!(code, 0xA0);
    assert!(words.contains("access token expired at 1780000001"), "{words}");
    assert_eq!(owner.message().await.payload, "offline");
}

#[tokio::test]
async fn a_deadline_that_the_hub_moves_is_the_deadline() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    home.gate.grant("lamp", device("lamp"), thermostat("lamp"), Some(NOW.plus(hearthkey_core::Seconds(1))));
    home.reconsider(device("lamp"));
    assert_eq!(lamp.disconnected().await.0, 0xA0);
}

#[tokio::test]
async fn a_second_connection_takes_over_and_the_first_is_told() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 1).await;
    let mut first = home.connected(Connect::v5("lamp").will(STATUS, "offline", true)).await;
    let mut second = home.connected(Connect::v5("lamp").will(STATUS, "offline", true)).await;
    assert_eq!(second.publish(STATUS, "online", true, &[]).await, 0);
    let (code, words) = first.disconnected().await;
    assert!(code == 0x8E && words.contains("taken over"), "{words}");
    assert_eq!((owner.message().await.payload, owner.message().await.payload), ("offline".to_owned(), "online".to_owned()));
    owner.nothing_came().await;
    second.nothing_came().await;
}

#[tokio::test]
async fn a_kept_session_moves_to_the_connection_that_takes_over() {
    let home = Home::new().await;
    let mut first = home.connected(Connect::kept("owner")).await;
    first.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1("dev/lamp/tele/x", "a").await;
    assert_eq!(first.message_unacknowledged().await.payload, "a");
    let mut second = home.connected(Connect::kept("owner")).await;
    assert_eq!(first.disconnected().await.0, 0x8E);
    let again = second.message().await;
    assert!(again.dup && again.payload == "a");
    lamp.publish1("dev/lamp/tele/x", "b").await;
    assert_eq!(second.message().await.payload, "b");
}

#[tokio::test]
async fn the_will_is_published_unless_the_client_says_goodbye() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 1).await;
    let connect = Connect::v5("lamp").will(STATUS, "offline", false);
    home.connected(connect.clone()).await.goodbye().await;
    let mut with_will = home.connected(connect.clone()).await;
    with_will.send(&[0xE0, 1, 0x04]).await;
    with_will.closed().await;
    assert_eq!(owner.message().await.payload, "offline", "and not the one of the goodbye before");
    drop(home.connected(connect).await);
    assert_eq!(owner.message().await.payload, "offline");
    let mut malformed = home
        .connected(
            Connect { version: 4, user_name: Some("lamp".to_owned()), ..Connect::v5("lamp") }.will(STATUS, "broken", false),
        )
        .await;
    malformed.send(&[0x00, 0x00]).await;
    malformed.closed().await;
    assert_eq!(owner.message().await.payload, "broken");
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_will_needs_the_right_at_connect_and_when_it_is_published() {
    let home = Home::new().await;
    let foreign = Connect::v5("lamp").will("dev/oven/status", "offline", true);
    let (code, words) = home.refusal(foreign.clone()).await;
    assert!(code == 0x87 && words.contains("will: no permission"), "{words}");
    let foreign = Connect { version: 4, user_name: Some("lamp".to_owned()), ..foreign };
    assert_eq!(home.refusal(foreign).await.0, 5);

    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/#", 1).await;
    let lamp = home.connected(Connect::v5("lamp").will(STATUS, "offline", false)).await;
    home.gate.grant("lamp", device("lamp"), rights(&[], &[]), None);
    home.reconsider(device("lamp"));
    drop(lamp);
    home.gate.event(|event| event.what == Happening::Ended(Ending::ConnectionLost)).await;
    home.v5("oven").await.publish1("dev/oven/tele/x", "later").await;
    assert_eq!(owner.message().await.payload, "later", "the will had lost its right");
}

#[tokio::test]
async fn a_will_with_delay_waits_and_is_cancelled_by_a_return() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 1).await;
    let mut connect = Connect::kept("lamp").will(STATUS, "offline", false);
    // An hour: however slow the machine, the return is in time.
    connect.will.as_mut().unwrap().4 = vec![0x18, 0, 0, 0x0E, 0x10];
    drop(home.connected(connect.clone()).await);
    home.gate.event(|event| event.what == Happening::Ended(Ending::ConnectionLost)).await;
    connect.will.as_mut().unwrap().4 = vec![0x18, 0, 0, 0, 1];
    let mut back = home.connected(connect.clone()).await;
    assert_eq!(back.publish1(STATUS, "online").await, 0);
    assert_eq!(owner.message().await.payload, "online");
    drop(back);
    assert_eq!(owner.message().await.payload, "offline", "the second time nobody returns");
}

#[tokio::test]
async fn who_is_silent_for_longer_than_the_keep_alive_is_cut_and_who_pings_is_not() {
    let home = Home::new().await;
    let mut silent = home.connected(Connect { keep_alive: 1, ..Connect::v5("lamp") }).await;
    let mut never = home.connected(Connect { keep_alive: 0, ..Connect::v5("oven") }).await;
    // Half as long would leave it a second and a half, and a machine may stand still for that.
    let mut pinging = home.connected(Connect { keep_alive: 3, ..Connect::v5("owner") }).await;
    let cut = tokio::spawn(async move { silent.disconnected().await });
    while !cut.is_finished() {
        pinging.nothing_came().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cut.await.unwrap().0, 0x8D);
    pinging.nothing_came().await;
    never.nothing_came().await;
    home.gate.event(|event| event.what == Happening::Ended(Ending::KeepAliveTimeout)).await;
}

#[tokio::test]
async fn a_hub_that_stops_says_so_and_publishes_the_wills() {
    let home = Home::new().await;
    let mut lamp = home.connected(Connect::v5("lamp").will(STATUS, "offline", true)).await;
    let mut old = home.v311("owner").await;
    let mut silent = home.stranger().await;
    let front = home.front.clone();
    let stopped = tokio::spawn(async move { front.stop().await });
    let (code, words) = lamp.disconnected().await;
    assert!(code == 0x8B && words.contains("hub stopping"), "{words}");
    old.closed().await;
    silent.closed().await;
    within(stopped).await.unwrap();
    assert_eq!((home.front.stats().connections, home.front.stats().retained_messages), (0, 1));
    let home = home.after_a_power_cut().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 0).await;
    assert_eq!(owner.message().await.payload, "offline", "the wills are durable when stop returns");
}

#[tokio::test]
async fn after_a_stop_nobody_comes_in() {
    let home = Home::new().await;
    home.front.stop().await;
    home.stranger().await.closed().await;
}

#[tokio::test]
async fn a_delayed_will_is_judged_by_the_rights_of_the_moment_at_which_it_fires() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/+/status", 1).await;
    let with_delay = |name: &str| {
        let mut connect = Connect::v5(name).will(&format!("dev/{name}/status"), "offline", false);
        connect.properties = vec![0x11, 0, 0, 0x0E, 0x10];
        connect.will.as_mut().unwrap().4 = vec![0x18, 0, 0, 0, 1];
        connect
    };
    let lamp = home.connected(with_delay("lamp")).await;
    // As if it were revoked between the loss of its connection and the will.
    home.gate.end(device("lamp"), EndReason::Revoked);
    drop(lamp);
    home.gate.event(|event| event.what == Happening::Ended(Ending::ConnectionLost)).await;
    drop(home.connected(with_delay("oven")).await);
    let will = owner.message().await;
    assert_eq!((will.topic.as_str(), will.payload.as_str()), ("dev/oven/status", "offline"));
    owner.nothing_came().await;
}

#[tokio::test]
async fn an_answer_that_comes_late_does_not_undo_a_newer_one() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish1("dev/lamp/tele/x", "1").await, 0);
    let (gate, front) = (home.gate.clone(), home.front.clone());
    // The rights shrink while another thread is about to bring the earlier ones.
    *home.gate.meanwhile.lock().unwrap() = Some(Box::new(move || {
        gate.grant("lamp", device("lamp"), rights(&[], &[]), None);
        front.reconsider(&Affected::Principal(device("lamp")));
    }));
    home.reconsider(device("lamp"));
    assert_eq!(lamp.publish1("dev/lamp/tele/x", "2").await, 0x87);
}

#[tokio::test]
async fn a_delayed_will_does_not_wait_for_who_will_not_come_back() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe(STATUS, 1).await;
    let mut connect = Connect::kept("lamp").will(STATUS, "offline", true);
    connect.will.as_mut().unwrap().4 = vec![0x18, 0, 0, 0x0E, 0x10];
    let mut lamp = home.connected(connect).await;
    home.gate.state.lock().unwrap().gone.insert(device("lamp"));
    home.gate.end(device("lamp"), EndReason::Revoked);
    home.reconsider(device("lamp"));
    assert_eq!(lamp.disconnected().await.0, 0x98);
    assert_eq!(owner.message().await.payload, "offline", "its session ends now, and with it the delay");
}
