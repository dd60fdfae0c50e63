//! Shared subscriptions: each message to one member of each group.

use crate::support::*;
use hearthkey::mqtt::Limits;

const TEMPERATURE: &str = "dev/lamp/tele/temperature";

async fn member(home: &Home, name: &str, filter: &str, qos: u8) -> Client {
    let mut client = home.connected(Connect { client_identifier: name.to_owned(), ..Connect::v5("owner") }).await;
    assert_eq!(client.subscribe(filter, qos).await, qos);
    client
}

#[tokio::test]
async fn each_message_goes_to_one_member_of_each_group_in_turn() {
    let home = Home::new().await;
    for qos in 0..=2 {
        let mut one = member(&home, "one", "$share/g/dev/lamp/tele/+", qos).await;
        let mut two = member(&home, "two", "$share/g/dev/lamp/tele/+", qos).await;
        // The same name with another filter is another group, and so is the same filter with another name.
        let mut other_name = member(&home, "three", "$share/h/dev/lamp/tele/+", qos).await;
        let mut other_filter = member(&home, "four", "$share/g/dev/lamp/#", qos).await;
        let mut alone = member(&home, "five", "dev/lamp/tele/+", qos).await;
        let mut lamp = home.v5("lamp").await;
        for number in 0..6 {
            let publish = lamp.publish_packet(TEMPERATURE, &number.to_string(), 2, false, &[]);
            lamp.send(&publish).await;
            assert_eq!(lamp.expect_ack(0x50, number + 1).await, 0);
            let whose_turn = if number % 2 == 0 { &mut one } else { &mut two };
            for each in [whose_turn, &mut other_name, &mut other_filter, &mut alone] {
                let message = each.message().await;
                assert_eq!((message.payload, message.qos), (number.to_string(), qos));
            }
        }
        for mut each in [one, two, other_name, other_filter, alone] {
            each.nothing_came().await;
            each.goodbye().await;
        }
    }
}

#[tokio::test]
async fn mqtt_3_clients_share_too() {
    let home = Home::new().await;
    let mut old = home.v311("owner").await;
    assert_eq!(old.subscribe("$share/g/dev/lamp/tele/+", 1).await, 1);
    home.v5("lamp").await.publish1(TEMPERATURE, "21").await;
    assert_eq!(old.message().await.payload, "21");
}

#[tokio::test]
async fn a_new_member_gets_no_retained_messages() {
    let home = Home::new().await;
    home.v5("lamp").await.publish("dev/lamp/status", "online", true, &[]).await;
    let mut owner = member(&home, "one", "$share/g/dev/lamp/status", 1).await;
    owner.nothing_came().await;
}

#[tokio::test]
async fn only_who_may_see_a_topic_gets_its_share() {
    let gate = FakeGate::of_a_home();
    gate.grant("guest", user("guest"), rights(&[], &["dev/oven/#"]), None);
    let home = Home::with(gate, Limits::default()).await;
    let mut guest = home.v5("guest").await;
    assert_eq!(guest.subscribe("$share/g/dev/+/tele/+", 1).await, 0x87);
    // Rights that shrink while the subscription stands: the others get what it may not see.
    home.gate.grant("guest", user("guest"), rights(&[], &["dev/#"]), None);
    home.reconsider(user("guest"));
    assert_eq!(guest.subscribe("$share/g/dev/+/tele/+", 1).await, 1);
    let mut owner = member(&home, "one", "$share/g/dev/+/tele/+", 1).await;
    home.gate.grant("guest", user("guest"), rights(&[], &["dev/oven/#"]), None);
    home.reconsider(user("guest"));
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b", "c"] {
        lamp.publish1(TEMPERATURE, text).await;
        assert_eq!(owner.message().await.payload, text);
    }
    guest.nothing_came().await;
}

#[tokio::test]
async fn a_member_without_room_is_passed_over_and_a_member_that_has_left_is_forgotten() {
    let home = Home::new().await;
    let mut connect = Connect { client_identifier: "one".to_owned(), ..Connect::v5("owner") };
    connect.properties = vec![0x21, 0, 1];
    let mut one = home.connected(connect).await;
    one.subscribe("$share/g/dev/lamp/tele/+", 1).await;
    let mut two = member(&home, "two", "$share/g/dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "a").await;
    assert_eq!(one.message_unacknowledged().await.payload, "a");
    for text in ["b", "c", "d"] {
        lamp.publish1(TEMPERATURE, text).await;
        assert_eq!(two.message().await.payload, text, "the first one has taken all that it takes");
    }
    assert_eq!(two.unsubscribe("$share/g/dev/lamp/tele/+").await.body[3..], [0]);
    assert_eq!(two.unsubscribe("$share/g/dev/lamp/tele/+").await.body[3..], [0x11]);
    one.puback(1).await;
    lamp.publish1(TEMPERATURE, "e").await;
    assert_eq!(one.message().await.payload, "e");
    two.nothing_came().await;
}

#[tokio::test]
async fn what_a_member_did_not_acknowledge_goes_to_another_when_its_session_ends() {
    let home = Home::new().await;
    let mut one = member(&home, "one", "$share/g/dev/lamp/tele/+", 1).await;
    let mut two = member(&home, "two", "$share/g/dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "a").await;
    assert_eq!(one.message_unacknowledged().await.payload, "a");
    one.goodbye().await;
    assert_eq!(two.message().await.payload, "a");
    lamp.publish1(TEMPERATURE, "b").await;
    assert_eq!(two.message().await.payload, "b");
}

#[tokio::test]
async fn what_was_sent_with_qos_2_is_nobody_elses() {
    let home = Home::new().await;
    let mut one = member(&home, "one", "$share/g/dev/lamp/tele/+", 2).await;
    let mut two = member(&home, "two", "$share/g/dev/lamp/tele/+", 2).await;
    home.v5("lamp").await.publish2(TEMPERATURE, "a").await;
    assert_eq!(one.message_unacknowledged().await.payload, "a");
    one.goodbye().await;
    two.nothing_came().await;
}

#[tokio::test]
async fn a_kept_member_that_is_away_gets_messages_only_if_nobody_else_is_there() {
    let home = Home::new().await;
    let kept = Connect { client_identifier: "kept".to_owned(), ..Connect::kept("owner") };
    let mut away = home.connected(kept.clone()).await;
    away.subscribe("$share/g/dev/lamp/tele/+", 1).await;
    away.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "for the one who is away").await;
    let mut here = member(&home, "here", "$share/g/dev/lamp/tele/+", 1).await;
    for text in ["a", "b"] {
        lamp.publish1(TEMPERATURE, text).await;
        assert_eq!(here.message().await.payload, text);
    }
    here.goodbye().await;
    // Membership and messages survive a power cut.
    let home = home.after_a_power_cut().await;
    home.v5("lamp").await.publish1(TEMPERATURE, "later").await;
    let mut away = home.connected(kept).await;
    for text in ["for the one who is away", "later"] {
        assert_eq!(away.message().await.payload, text);
    }
    away.nothing_came().await;
}

#[tokio::test]
async fn a_member_that_comes_back_gets_its_share_and_no_more() {
    let home = Home::new().await;
    let kept = Connect { client_identifier: "kept".to_owned(), ..Connect::kept("owner") };
    let mut back = home.connected(kept.clone()).await;
    back.subscribe("$share/g/dev/lamp/tele/+", 1).await;
    back.goodbye().await;
    let mut other = member(&home, "other", "$share/g/dev/lamp/tele/+", 1).await;
    let mut back = home.connected(kept).await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b", "c", "d"] {
        lamp.publish1(TEMPERATURE, text).await;
    }
    let (mut came, mut came_to_other) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        came.push(back.message().await.payload);
        came_to_other.push(other.message().await.payload);
    }
    back.nothing_came().await;
    other.nothing_came().await;
    came.extend(came_to_other);
    came.sort();
    assert_eq!(came, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn what_an_absent_member_holds_goes_to_another_when_its_session_ends_even_after_a_power_cut_and_never_half() {
    let home = Home::new().await;
    let kept = |name: &str| Connect { client_identifier: name.to_owned(), ..Connect::kept("owner") };
    let mut away = home.connected(kept("away")).await;
    away.subscribe("$share/g/dev/lamp/tele/+", 1).await;
    away.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    // More than the store takes as one batch.
    let texts: Vec<String> = (0..5).map(|number: usize| number.to_string().repeat(205_000)).collect();
    for text in &texts {
        assert_eq!(lamp.publish1(TEMPERATURE, text).await, 0);
    }
    let home = home.after_a_power_cut().await;
    let mut here = home.connected(kept("here")).await;
    here.subscribe("$share/g/dev/lamp/tele/+", 1).await;
    let queued = home.gate.rows().iter().filter(|(key, _)| key.first() == Some(&b'q')).count();
    home.gate.state.lock().unwrap().fewest_queued = queued;
    home.connected(Connect { clean_start: true, ..kept("away") }).await;
    for text in &texts {
        assert!(here.message_unacknowledged().await.payload == *text, "another message, or none");
    }
    assert_eq!(home.gate.state.lock().unwrap().fewest_queued, queued, "a power cut would have lost some");
}

#[tokio::test]
async fn what_a_member_may_no_longer_see_when_it_comes_back_goes_to_another() {
    let gate = FakeGate::of_a_home();
    gate.grant("guest", user("guest"), rights(&[], &["dev/#"]), None);
    let home = Home::with(gate, Limits::default()).await;
    let mut guest = home.connected(Connect::kept("guest")).await;
    guest.subscribe("$share/g/dev/+/tele/+", 1).await;
    guest.goodbye().await;
    home.v5("lamp").await.publish1(TEMPERATURE, "a").await;
    home.v5("oven").await.publish1("dev/oven/tele/x", "b").await;
    home.gate.grant("guest", user("guest"), rights(&[], &["dev/oven/#"]), None);
    let mut owner = member(&home, "one", "$share/g/dev/+/tele/+", 1).await;
    owner.nothing_came().await;
    let mut guest = home.connected(Connect::kept("guest")).await;
    assert_eq!(guest.message().await.payload, "b");
    assert_eq!(owner.message().await.payload, "a");
    guest.nothing_came().await;
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_group_has_as_many_members_as_it_may_have_and_a_further_one_is_told() {
    const GROUP: &str = "$share/g/dev/+/state";
    let home = Home::new().await;
    let mut members = Vec::new();
    for number in 0..128 {
        let connect = Connect { client_identifier: format!("member-{number}"), ..Connect::v5("owner") };
        let mut member = home.connected(connect).await;
        assert_eq!(member.subscribe(GROUP, 1).await, 1, "{number}");
        members.push(member);
    }
    let mut one_more = home.v5("owner").await;
    assert_eq!(one_more.subscribe(GROUP, 1).await, 0x97);
    assert_eq!(one_more.subscribe("$share/h/dev/+/state", 1).await, 1, "another group is another matter");
    let mut member = members.pop().unwrap();
    assert_eq!(member.subscribe(GROUP, 0).await, 0, "who is one may change how");
    member.unsubscribe(GROUP).await;
    assert_eq!(one_more.subscribe(GROUP, 1).await, 1);
}

#[tokio::test]
async fn no_member_sees_with_qos_2_what_a_power_cut_would_have_its_publisher_repeat_to_another() {
    let home = Home::new().await;
    let mut one = member(&home, "one", "$share/g/dev/lamp/tele/+", 2).await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    home.gate.disk.set(DiskMode::Hangs);
    let mut publish = lamp.publish_packet(TEMPERATURE, "21", 2, false, &[]);
    lamp.send(&publish).await;
    // The hub has taken it when it answers what follows.
    lamp.nothing_came().await;
    one.nothing_came().await;
    let home = home.after_a_power_cut().await;
    let mut two = member(&home, "two", "$share/g/dev/lamp/tele/+", 2).await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    publish[0] |= 0x08;
    lamp.send(&publish).await;
    assert_eq!(lamp.expect_ack(0x50, 1).await, 0);
    assert_eq!(two.message().await.payload, "21");
    // Nobody waits for a disk that has nothing to keep.
    home.gate.disk.set(DiskMode::Hangs);
    let mut oven = home.v5("oven").await;
    let mut three = member(&home, "three", "$share/g/dev/oven/tele/+", 2).await;
    assert_eq!(oven.publish2("dev/oven/tele/temperature", "23").await, 0);
    assert_eq!(three.message().await.payload, "23");
}
