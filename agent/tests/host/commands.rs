//! Commands: carried out once, answered, and refused with the reason; across broken connections, restarts and power cuts.

use crate::support::hub::{Call, Home, Hub, Lamp, count, lamp};
use crate::support::mqtt::{self, FromClient};
use hearthkey_agent::{Agent, Config, Identity, Outcome, Reply, Turn, Workspace};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

pub fn command(id: &str, sequence: u64, packet_id: u16) -> Vec<u8> {
    let body = format!(r#"{{"id":"{id}","seq":{sequence},"ttl_s":30,"by":"owner","args":{{"on":true}}}}"#);
    mqtt::publish("dev/lamp/cmd/set", &body, packet_id, false, Some(30))
}

fn answers(states: &[&str], id: &str) -> Vec<(String, String)> {
    states.iter().map(|state| (format!("dev/lamp/ack/{id}"), (*state).to_owned())).collect()
}

const ACCEPTED: &str = r#"{"state":"accepted"}"#;
const EXECUTING: &str = r#"{"state":"executing"}"#;
const SUCCEEDED: &str = r#"{"state":"succeeded"}"#;

#[tokio::test(start_paused = true)]
async fn a_command_is_accepted_carried_out_and_answered_once() {
    let mut home = Home::new(4).await;
    let (mut lamp, events) = lamp();
    let done = Rc::new(RefCell::new(vec![]));
    let log = done.clone();
    lamp.command = Box::new(move |command, _| {
        log.borrow_mut().push(format!("{} {}", command.name(), command.args().unwrap().as_raw()));
        match command.id() {
            "c-2" => Reply::Done(Outcome::failed("the \"bulb\" is gone")),
            _ => Reply::Done(Outcome::Succeeded),
        }
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let first = call.command(&command("c-1", 1, 1), 3).await;
        assert_eq!(first, (0, answers(&[ACCEPTED, EXECUTING, SUCCEEDED], "c-1")));
        let second = call.command(&command("c-2", 2, 2), 3).await;
        let failed = r#"{"state":"failed","reason":"the \"bulb\" is gone"}"#;
        assert_eq!(second, (0, answers(&[ACCEPTED, EXECUTING, failed], "c-2")));
        assert_eq!(call.command(&command("c-1", 1, 3), 0).await, (0, vec![]), "a repetition is not answered twice");
        let stale = r#"{"state":"rejected","reason":"sequence not above the highest seen"}"#;
        assert_eq!(call.command(&command("c-3", 2, 4), 1).await, (0, answers(&[stale], "c-3")));
        let body = r#"{"id":"c-4","seq":9,"ttl_s":30}"#;
        let retained = mqtt::publish("dev/lamp/cmd/set", body, 5, true, None);
        let refused = r#"{"state":"rejected","reason":"retained commands are refused"}"#;
        assert_eq!(call.command(&retained, 1).await, (0, answers(&[refused], "c-4")));
        let nonsense = mqtt::publish("dev/lamp/cmd/set", "on!", 6, false, None);
        assert_eq!(call.command(&nonsense, 0).await.0, 0x99);
        let foreign = mqtt::publish("dev/lamp2/cmd/set", body, 7, false, None);
        assert_eq!(call.command(&foreign, 0).await.0, 0x90);
    };
    home.run(lamp, check).await;
    assert_eq!(*done.borrow(), [r#"set {"on":true}"#, r#"set {"on":true}"#]);
    assert_eq!(count(&events, "CommandRefused"), 4, "{events:?}");
}

/// Gives the device `commands`, each as soon as it has acknowledged the one before, and acknowledges one thing that the device
/// says whenever it would say no more, until each command has an outcome.
async fn burst(call: &mut Call, commands: u16) -> Vec<(String, String)> {
    let (mut given, mut unacknowledged, mut said) = (0, std::collections::VecDeque::new(), vec![]);
    while said.len() < usize::from(commands) {
        let Ok(packet) = tokio::time::timeout(Duration::from_secs(1), call.packet()).await else {
            let packet_id = unacknowledged.pop_front().expect("the device waits for something");
            call.send(&mqtt::puback(packet_id, 0, "")).await;
            continue;
        };
        match packet {
            FromClient::Publish { topic, payload, packet_id: Some(packet_id), .. } => {
                unacknowledged.push_back(packet_id);
                if topic.contains("/ack/") && payload != ACCEPTED.as_bytes() && payload != EXECUTING.as_bytes() {
                    said.push((topic, String::from_utf8(payload).unwrap()));
                }
                continue;
            }
            FromClient::Subscribe { packet_id, .. } => call.send(&mqtt::suback(packet_id, &[1, 1])).await,
            FromClient::PubAck { reason, .. } => assert_eq!(reason, 0, "after {said:?}"),
            other => panic!("{other:?}"),
        }
        if given < commands {
            given += 1;
            call.send(&command(&format!("c-{given}"), given.into(), given)).await;
        }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn each_command_of_a_burst_is_carried_out_however_slowly_the_hub_takes_the_answers() {
    let mut home = Home::new(28).await;
    let (mut lamp, events) = lamp();
    lamp.poll = Box::new(move |_, outbox| {
        // A device that has much to say: it leaves no place that it may take.
        while outbox.event("door", b"open").is_ok() {}
        Turn::Idle
    });
    let check = async |hub: &mut Hub| {
        let said = burst(&mut hub.admit().await, 5).await;
        let succeeded: Vec<_> = (1..=5).flat_map(|number| answers(&[SUCCEEDED], &format!("c-{number}"))).collect();
        assert_eq!(said, succeeded);
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "CommandRefused"), 0, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_a_while_is_finished_later_and_others_are_rejected_meanwhile() {
    let mut home = Home::new(5).await;
    let (mut lamp, _) = lamp();
    let until = Rc::new(RefCell::new(None));
    let begun = until.clone();
    lamp.command = Box::new(move |_, now| {
        *begun.borrow_mut() = Some(now.instant.after(Duration::from_secs(20)));
        Reply::Begun
    });
    lamp.poll = Box::new(move |now, outbox| {
        let due = *until.borrow();
        match due {
            Some(at) if now.instant >= at => {
                assert!(outbox.finish_command(Outcome::Succeeded));
                assert!(!outbox.finish_command(Outcome::Succeeded), "once");
                *until.borrow_mut() = None;
                Turn::Idle
            }
            Some(at) => Turn::At(at),
            None => Turn::Idle,
        }
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        assert_eq!(call.command(&command("c-1", 1, 1), 2).await, (0, answers(&[ACCEPTED, EXECUTING], "c-1")));
        let busy = r#"{"state":"rejected","reason":"another command is being carried out"}"#;
        assert_eq!(call.command(&command("c-2", 2, 2), 1).await, (0, answers(&[busy], "c-2")));
        // The connection may break meanwhile.
        call.hang_up().await;
        drop(call);
        let mut call = hub.let_in().await;
        assert_eq!(call.publish(0).await, ("dev/lamp/ack/c-1".into(), SUCCEEDED.into()));
    };
    home.run(lamp, check).await;
}

#[tokio::test(start_paused = true)]
async fn sequences_survive_a_restart_and_are_written_once_for_each_command() {
    let mut home = Home::new(6).await;
    let writes = home.platform.writes.clone();
    let before = writes.get();
    let commands = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        for sequence in 1..=40_u16 {
            let (_, said) = call.command(&command(&format!("c-{sequence}"), sequence.into(), sequence), 3).await;
            assert_eq!(said.len(), 3);
        }
    };
    home.run(lamp().0, commands).await;
    assert_eq!(writes.get() - before, 40);
    let replay = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        for (id, sequence) in [("c-32", 32), ("c-40", 40)] {
            let (_, said) = call.command(&command(id, sequence, 1), 1).await;
            assert!(said[0].1.contains("rejected"), "{said:?}");
        }
        assert_eq!(call.command(&command("c-41", 41, 2), 3).await.1.len(), 3, "a newer one passes");
    };
    home.run(lamp().0, replay).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_in_the_midst_of_which_the_power_goes_is_not_carried_out_again_even_by_a_device_enrolled_anew() {
    let mut home = Home::new(29).await;
    let carried_out = Rc::new(RefCell::new(0));
    for life in 0..3 {
        if life == 2 {
            home.rotate().await;
        }
        let (mut lamp, count) = (Lamp::default(), carried_out.clone());
        lamp.command = Box::new(move |_, _| {
            *count.borrow_mut() += 1;
            Reply::Done(Outcome::Succeeded)
        });
        let check = async |hub: &mut Hub| {
            let mut call = hub.let_in().await;
            // Of what the device answers the hub hears nothing the first time, so it offers the command again.
            call.send(&command("c-1", 1, 1)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        home.run(lamp, check).await;
        assert_eq!(*carried_out.borrow(), 1, "life {life}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_hub_counted_of_one_device_means_nothing_to_another_hub_or_another_device() {
    for to_another_home in [false, true] {
        let mut home = Home::new(34).await;
        let obey = async |hub: &mut Hub| {
            let mut call = hub.let_in().await;
            assert_eq!(call.command(&command("c-9", 9, 1), 3).await.1, answers(&[ACCEPTED, EXECUTING, SUCCEEDED], "c-9"));
        };
        home.run(lamp().0, obey).await;
        home.become_another(to_another_home).await;
        assert_eq!(home.platform.storage.borrow()["command-sequence"][..8], [0; 8]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_store_sequences_carries_out_no_command_and_says_so() {
    let mut home = Home::new(30).await;
    home.platform.is_broken.set(true);
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let refused = r#"{"state":"rejected","reason":"its sequence cannot be stored"}"#;
        assert_eq!(call.command(&command("c-1", 1, 1), 1).await, (0, answers(&[refused], "c-1")));
    };
    home.run(lamp, check).await;
    assert_eq!((count(&events, "StorageFailed"), count(&events, "CommandFinished")), (1, 0), "{events:?}");
}

/// Acknowledges all that the device says until it has dealt with this command: its acknowledgement of it, and its answers.
async fn dealt_with(call: &mut Call, id: &str) -> (u8, Vec<String>) {
    let (mut acknowledged, mut answers) = (None, vec![]);
    loop {
        match acknowledged {
            Some(reason) if reason >= 0x80 || answers.len() >= 3 => return (reason, answers),
            _ => {}
        }
        match call.packet().await {
            FromClient::Publish { topic, payload, packet_id: Some(packet_id), .. } => {
                call.send(&mqtt::puback(packet_id, 0, "")).await;
                if topic == format!("dev/lamp/ack/{id}") {
                    answers.push(String::from_utf8(payload).unwrap());
                }
            }
            FromClient::Subscribe { packet_id, .. } => call.send(&mqtt::suback(packet_id, &[1, 1])).await,
            FromClient::PubAck { reason, .. } => acknowledged = Some(reason),
            other => panic!("{other:?}"),
        }
    }
}

fn all_three() -> Vec<String> {
    [ACCEPTED, EXECUTING, SUCCEEDED].map(String::from).to_vec()
}

/// A connection that breaks as soon as the device said that it is online.
async fn flap(hub: &mut Hub) {
    let mut call = hub.admit().await;
    while !matches!(call.packet().await, FromClient::Publish { payload, .. } if payload == b"online") {}
    call.hang_up().await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_brings_its_command_at_once_and_it_is_carried_out_however_often_the_connection_broke_before() {
    for breaks_again in [false, true] {
        let mut home = Home::new(32).await;
        let (mut lamp, events) = lamp();
        lamp.poll = Box::new(move |_, outbox| {
            while outbox.event("door", b"open").is_ok() {}
            Turn::Idle
        });
        let check = async |hub: &mut Hub| {
            for _ in 0..4 {
                flap(hub).await;
            }
            let mut call = hub.admit().await;
            call.send(&command("c-1", 1, 1)).await;
            if breaks_again {
                tokio::time::sleep(Duration::from_secs(1)).await;
                call.hang_up().await;
                call = hub.admit().await;
                let mut again = command("c-1", 1, 1);
                again[0] |= 0x08; // DUP
                call.send(&again).await;
            }
            assert_eq!(dealt_with(&mut call, "c-1").await, (0, all_three()));
        };
        home.run(lamp, check).await;
        assert_eq!(count(&events, "CommandFinished"), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_dropped_within_a_command_leaves_the_next_one_nothing_to_stumble_over() {
    let mut home = Home::new(36).await;
    let identity = Identity::load(&mut home.platform).unwrap().unwrap();
    let (mut agent, mut workspace) = (Agent::new(identity, Config::DEFAULT), Box::new(Workspace::new()));
    let (mut lamp, events) = lamp();
    let was_online = Rc::new(RefCell::new(vec![]));
    let log = was_online.clone();
    lamp.poll = Box::new(move |_, outbox| {
        while outbox.event("door", b"open").is_ok() {}
        log.borrow_mut().push(outbox.is_online());
        Turn::Idle
    });
    for repeated in [false, true] {
        was_online.borrow_mut().clear();
        let hub = &mut home.hub;
        let script = async {
            let mut call = hub.admit().await;
            let mut message = command("c-1", 1, 1);
            if repeated {
                message[0] |= 0x08; // DUP
            }
            call.send(&message).await;
            if repeated {
                assert_eq!(dealt_with(&mut call, "c-1").await, (0, all_three()));
            } else {
                // It has no room to acknowledge it yet.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            ended = agent.run(&mut home.platform, &mut lamp, &mut workspace) => panic!("{ended:?}"),
            () = script => {}
        }
        assert!(!was_online.borrow()[0], "before there was a connection");
    }
    assert_eq!((count(&events, "CommandFinished"), count(&events, "Disconnected")), (1, 0), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_ends_while_the_connection_is_broken_leaves_room_for_the_next() {
    let mut home = Home::new(33).await;
    let (mut lamp, events) = lamp();
    let is_done = Rc::new(RefCell::new(false));
    let done = is_done.clone();
    lamp.poll = Box::new(move |now, outbox| {
        while outbox.event("door", b"open").is_ok() {}
        if done.replace(false) {
            assert!(outbox.finish_command(Outcome::Succeeded));
        }
        Turn::At(now.instant.after(Duration::from_millis(100)))
    });
    lamp.command = Box::new(|command, _| if command.id() == "c-1" { Reply::Begun } else { Reply::Done(Outcome::Succeeded) });
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        call.send(&command("c-1", 1, 1)).await;
        loop {
            match call.packet().await {
                // Of the door nobody takes notice.
                FromClient::Publish { topic, .. } if topic == "dev/lamp/event/door" => {}
                FromClient::Publish { packet_id: Some(packet_id), .. } => call.send(&mqtt::puback(packet_id, 0, "")).await,
                FromClient::Subscribe { packet_id, .. } => call.send(&mqtt::suback(packet_id, &[1, 1])).await,
                FromClient::PubAck { reason, .. } => break assert_eq!(reason, 0),
                other => panic!("{other:?}"),
            }
        }
        call.hang_up().await;
        is_done.replace(true);
        let mut call = hub.admit().await;
        call.send(&command("c-2", 2, 2)).await;
        assert_eq!(dealt_with(&mut call, "c-2").await, (0, all_three()));
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "CommandFinished"), 2, "{events:?}");
}
