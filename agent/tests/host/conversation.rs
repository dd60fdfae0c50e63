//! The agent and a hub over real TLS: connecting, publishing, obeying, renewing, ending. Time is virtual.

use crate::commands::command;
use crate::support::hub::{Call, Home, Hub, LIFETIME, Lamp, count, lamp, token_response};
use crate::support::mqtt::{self, FromClient};
use crate::support::pki::TODAY;
use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_agent::{Ended, Farewell, Identity, NotQueued, Qos, Turn};
use p256::ecdsa::signature::Verifier;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What an assertion claims, once its signature is found to be that of the device's key.
fn claims(home_key: &Identity, form: &[u8]) -> serde_json::Value {
    let form = std::str::from_utf8(form).expect("a form is text");
    let jwt = form.rsplit_once("client_assertion=").expect("an assertion").1;
    let (signed, signature) = jwt.rsplit_once('.').expect("a JWT");
    let decode = |part: &str| {
        let mut bytes = vec![0; 512];
        Base64UrlUnpadded::decode(part, &mut bytes).expect("base64url").to_vec()
    };
    let mut point = vec![4];
    point.extend(home_key.public_key().coordinates());
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).expect("a key");
    let signature = p256::ecdsa::Signature::from_slice(&decode(signature)).expect("64 bytes");
    key.verify(signed.as_bytes(), &signature).expect("signed by the device");
    serde_json::from_slice(&decode(signed.split_once('.').expect("a JWT").1)).expect("claims")
}

#[tokio::test(start_paused = true)]
async fn a_device_that_knows_no_date_is_told_it_and_proves_its_key() {
    let mut home = Home::new(1).await;
    let identity = Identity::load(&mut home.platform).unwrap().unwrap();
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.answer().await;
        let connect = call.connect().await;
        assert_eq!(connect.client_identifier, "lamp");
        assert_eq!(connect.method.as_deref(), Some("client_credentials"));
        assert_eq!(connect.data.as_deref(), Some([].as_slice()), "no date, no assertion");
        assert!(connect.clean_start, "the first connection of a life drops what was queued for the former one");
        assert_eq!(connect.will, Some(("dev/lamp/status".into(), b"offline".to_vec(), 1, true)));
        assert_eq!((connect.receive_maximum, connect.maximum_packet_size), (1, 2048));
        let form = call.challenge(TODAY + 77).await;
        let claims = claims(&identity, &form);
        assert_eq!(
            (&claims["iss"], &claims["sub"], &claims["aud"]),
            (&"lamp".into(), &"lamp".into(), &"https://hub:8443".into())
        );
        assert_eq!(claims["iat"].as_u64(), Some(TODAY + 77), "the hub's date is the device's");
        call.welcome(false, TODAY + 77, &[]).await;
        let publishes = call.settle_in().await;
        let said: Vec<_> = publishes
            .iter()
            .map(|publish| match publish {
                FromClient::Publish { topic, payload, retain, .. } => (topic.as_str(), payload.as_slice(), *retain),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            said,
            [
                ("dev/lamp/status", b"online".as_slice(), true),
                (
                    "dev/lamp/about",
                    br#"{"model":"lamp","agent":{"state":"online","connections":1,"failures":0}}"#.as_slice(),
                    true
                )
            ]
        );
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Connected"), 1);
    let numbers = format!("{:?}", b"secret");
    for shown in ["secret", numbers.trim_matches(['[', ']'])] {
        assert_eq!(count(&events, shown), 0, "the access token is nobody's business");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_knows_the_date_needs_no_second_round_trip() {
    let mut home = Home::new(2).await;
    let identity = Identity::load(&mut home.platform).unwrap().unwrap();
    let (lamp, _) = lamp();
    let check = async |hub: &mut Hub| {
        hub.let_in().await.send(&mqtt::disconnect(0x8b, "hub stopping")).await;
        let mut call = hub.answer().await;
        let connect = call.connect().await;
        let claims = claims(&identity, &connect.data.unwrap());
        assert!(claims["iat"].as_u64().unwrap() >= TODAY);
        assert!(!connect.clean_start, "the session goes on");
    };
    home.run(lamp, check).await;
}

#[tokio::test(start_paused = true)]
async fn telemetry_is_published_acknowledged_and_refused_publishes_are_told_with_the_reason() {
    let mut home = Home::new(3).await;
    let (mut lamp, events) = lamp();
    let mut sent = false;
    lamp.poll = Box::new(move |now, outbox| {
        if outbox.is_online() && !sent {
            sent = true;
            outbox.telemetry("temperature", b"21.5", Qos::AtLeastOnce).unwrap();
            outbox.publish("dev/neighbour/tele/temperature", b"99", Qos::AtLeastOnce, false).unwrap();
            outbox.telemetry("light", b"1", Qos::AtMostOnce).unwrap();
        }
        Turn::At(now.instant.after(Duration::from_secs(1)))
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        let mut seen = vec![];
        while seen.len() < 5 {
            match call.packet().await {
                FromClient::Publish { topic, packet_id, .. } => {
                    let reason = if topic.contains("neighbour") { 0x87 } else { 0 };
                    if let Some(packet_id) = packet_id {
                        call.send(&mqtt::puback(packet_id, reason, if reason == 0 { "" } else { "not yours" })).await;
                    }
                    seen.push((topic, packet_id.is_some()));
                }
                FromClient::Subscribe { packet_id, .. } => call.send(&mqtt::suback(packet_id, &[1, 0x87])).await,
                other => panic!("{other:?}"),
            }
        }
        assert!(seen.contains(&("dev/lamp/tele/temperature".into(), true)));
        assert!(seen.contains(&("dev/lamp/tele/light".into(), false)));
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Acknowledged"), 3, "online, about, temperature");
    let refused = r#"topic: "dev/neighbour/tele/temperature", reason_code: 0x87 Not authorized, reason: "not yours""#;
    assert_eq!(count(&events, refused), 1, "{events:?}");
    assert_eq!(count(&events, r#"SubscriptionRefused { filter: "dev/lamp/twin/desired""#), 1);
}

#[tokio::test(start_paused = true)]
async fn the_desired_state_reaches_the_application_and_is_reported() {
    let mut home = Home::new(7).await;
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let desired = mqtt::publish("dev/lamp/twin/desired", r#"{"v":7,"on":true}"#, 1, true, None);
        let (reason, said) = call.command(&desired, 1).await;
        assert_eq!((reason, said), (0, vec![("dev/lamp/twin/reported".into(), r#"{"v":7,"on":true}"#.into())]));
        let nonsense = mqtt::publish("dev/lamp/twin/desired", "7", 2, true, None);
        assert_eq!(call.command(&nonsense, 0).await.0, 0x99);
    };
    home.run(lamp().0, check).await;
}

/// Waits for the next packet of a session that has settled, pings aside.
async fn not_a_ping(call: &mut Call) -> FromClient {
    loop {
        match call.packet().await {
            FromClient::PingReq => call.send(&mqtt::PINGRESP).await,
            other => return other,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_is_renewed_in_place_before_it_ends_and_writes_nothing_to_storage() {
    let mut home = Home::new(8).await;
    let identity = Identity::load(&mut home.platform).unwrap().unwrap();
    let writes = home.platform.writes.clone();
    let before = writes.get();
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let mut jtis = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let since = tokio::time::Instant::now();
            let FromClient::Auth { reason: 0x19, data, .. } = not_a_ping(&mut call).await else { panic!("no renewal") };
            let waited = since.elapsed().as_secs();
            assert!((LIFETIME / 2..=LIFETIME * 2 / 3).contains(&waited), "renewed after {waited} s");
            let claims = claims(&identity, &data);
            assert!(claims["iat"].as_u64().unwrap().abs_diff(hub.date()) <= 1);
            assert!(jtis.insert(claims["jti"].to_string()), "each assertion is another");
            call.send(&mqtt::auth(0, &token_response(LIFETIME), Some(hub.date()))).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Renewed"), 5);
    assert_eq!(count(&events, "Connected"), 1);
    assert_eq!(writes.get(), before);
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_asked_for_again_with_each_new_token_until_it_is_granted() {
    let mut home = Home::new(31).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        let mut codes = [[0x87, 1], [1, 0x87], [1, 1]].into_iter();
        let mut renewals = 0;
        while renewals < 4 {
            match call.packet().await {
                FromClient::Subscribe { packet_id, .. } => {
                    call.send(&mqtt::suback(packet_id, &codes.next().expect("granted at the third time"))).await;
                    assert_eq!(codes.len(), 2 - renewals, "once with each token");
                }
                FromClient::Publish { packet_id: Some(packet_id), .. } => call.send(&mqtt::puback(packet_id, 0, "")).await,
                FromClient::Publish { packet_id: None, topic, .. } => assert_eq!(topic, "dev/lamp/about"),
                FromClient::Auth { reason: 0x19, .. } => {
                    call.send(&mqtt::auth(0, &token_response(LIFETIME), Some(hub.date()))).await;
                    renewals += 1;
                }
                FromClient::PingReq => call.send(&mqtt::PINGRESP).await,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(codes.len(), 0);
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "SubscriptionRefused"), 2, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_nobody_answers_ends_the_connection() {
    let mut home = Home::new(9).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        while call.next().await.inspect(|packet| assert!(!matches!(packet, FromClient::Publish { .. }))).is_some() {
            call.send(&mqtt::PINGRESP).await;
        }
        hub.let_in().await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "TimedOut(Renewal)"), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_hub_is_noticed() {
    let mut home = Home::new(10).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        assert_eq!(call.packet().await, FromClient::PingReq);
        assert_eq!(call.next().await, None);
        hub.let_in().await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "TimedOut(PingResp)"), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_lives_but_never_acknowledges_a_subscription_or_a_publish_is_left() {
    for acknowledges_publishes in [false, true] {
        let mut home = Home::new(38).await;
        let (lamp, events) = lamp();
        let check = async |hub: &mut Hub| {
            let mut call = hub.admit().await;
            while let Some(packet) = call.next().await {
                match packet {
                    FromClient::PingReq => call.send(&mqtt::PINGRESP).await,
                    FromClient::Publish { packet_id: Some(packet_id), .. } if acknowledges_publishes => {
                        call.send(&mqtt::puback(packet_id, 0, "")).await;
                    }
                    FromClient::Subscribe { packet_id, .. } if !acknowledges_publishes => {
                        call.send(&mqtt::suback(packet_id, &[1, 1])).await;
                    }
                    _ => {}
                }
            }
            hub.let_in().await;
        };
        home.run(lamp, check).await;
        assert_eq!(count(&events, "TimedOut(Acknowledgement)"), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_takes_the_call_and_says_nothing_is_given_up() {
    let mut home = Home::new(11).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let silent = hub.ring().await;
        let mut half = hub.answer().await;
        half.connect().await;
        hub.let_in().await;
        drop((silent, half));
    };
    home.run(lamp, check).await;
    assert_eq!((count(&events, "TimedOut(Handshake)"), count(&events, "TimedOut(ConnAck)")), (1, 1), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_replaced_at_once() {
    let mut home = Home::new(12).await;
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        call.send(&mqtt::disconnect(0xa0, "access token expired at 12:00:30Z")).await;
        let since = tokio::time::Instant::now();
        hub.ring().await;
        assert!(since.elapsed() < Duration::from_millis(10), "{:?}", since.elapsed());
    };
    home.run(lamp().0, check).await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_device_stops_and_says_so_in_a_session_and_at_the_door() {
    for at_the_door in [false, true] {
        let mut home = Home::new(13).await;
        let (lamp, events) = lamp();
        let check = async |hub: &mut Hub| {
            if at_the_door {
                let mut call = hub.answer().await;
                call.connect().await;
                call.challenge(TODAY).await;
                call.send(&mqtt::connack_refused(0x87, "invalid_client: client lamp is revoked")).await;
                assert_eq!(call.next().await, None);
            } else {
                let mut call = hub.let_in().await;
                call.send(&mqtt::disconnect(0x98, "revoked by owner")).await;
                assert_eq!(call.next().await, None);
            }
            hub.ring().await;
            panic!("it called again");
        };
        assert_eq!(home.run(lamp, check).await, Some(Ended::Revoked));
        assert_eq!(count(&events, "retry_in: None"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disabled_or_displaced_device_tries_again_slowly_and_gets_in_once_it_may() {
    for (code, reason) in [(0x98, "disabled"), (0x8e, "taken over")] {
        let mut home = Home::new(14).await;
        let check = async |hub: &mut Hub| {
            hub.let_in().await.send(&mqtt::disconnect(code, reason)).await;
            let since = tokio::time::Instant::now();
            hub.let_in().await;
            assert!((150..=310).contains(&since.elapsed().as_secs()), "{reason}: {:?}", since.elapsed());
        };
        home.run(lamp().0, check).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_makes_the_device_ask_for_date_and_issuer_before_it_tries_again() {
    let mut home = Home::new(15).await;
    let check = async |hub: &mut Hub| {
        hub.let_in().await.send(&mqtt::disconnect(0x8b, "hub stopping")).await;
        let mut call = hub.answer().await;
        assert_ne!(call.connect().await.data.as_deref(), Some([].as_slice()));
        call.send(&mqtt::connack_refused(0x87, "invalid_client: client authentication failed")).await;
        let mut call = hub.answer().await;
        assert_eq!(call.connect().await.data.as_deref(), Some([].as_slice()), "asks anew");
    };
    home.run(lamp().0, check).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_hub_is_called_with_growing_patience() {
    let mut home = Home::new(16).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        for _ in 0..30 {
            drop(hub.ring().await);
        }
        let since = tokio::time::Instant::now();
        for _ in 0..30 {
            drop(hub.ring().await);
        }
        assert!((300..=60 * 30).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
        hub.let_in().await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Connected"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_acknowledged_is_sent_again_with_dup_when_the_hub_kept_the_session() {
    let mut home = Home::new(17).await;
    let (mut lamp, _) = lamp();
    let mut sent = false;
    lamp.poll = Box::new(move |_, outbox| {
        if outbox.is_online() && !sent {
            sent = true;
            outbox.telemetry("door", b"open", Qos::AtLeastOnce).unwrap();
        }
        Turn::Idle
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        let first = loop {
            match call.packet().await {
                FromClient::Publish { topic, packet_id, dup, .. } if topic == "dev/lamp/tele/door" => break (packet_id, dup),
                _ => {}
            }
        };
        call.hang_up().await;
        drop(call);
        let mut call = hub.admit().await;
        let again = loop {
            match call.packet().await {
                FromClient::Publish { topic, packet_id, dup, .. } if topic == "dev/lamp/tele/door" => break (packet_id, dup),
                _ => {}
            }
        };
        assert_eq!((first.1, again), (false, (first.0, true)));
    };
    home.run(lamp, check).await;
}

#[tokio::test(start_paused = true)]
async fn a_door_event_of_the_offline_time_is_delivered_later_and_a_reading_is_not() {
    let mut home = Home::new(18).await;
    let (mut lamp, _) = lamp();
    let mut sent = false;
    lamp.poll = Box::new(move |_, outbox| {
        if !sent {
            sent = true;
            assert!(!outbox.is_online());
            assert_eq!(outbox.telemetry("light", b"1", Qos::AtMostOnce), Err(NotQueued::Offline));
            outbox.event("door", b"open").unwrap();
        }
        Turn::Idle
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        loop {
            match call.packet().await {
                FromClient::Publish { topic, .. } if topic == "dev/lamp/event/door" => break,
                _ => {}
            }
        }
    };
    home.run(lamp, check).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_says_offline_first_and_does_not_wake_the_will() {
    let mut home = Home::new(19).await;
    let (mut lamp, _) = lamp();
    lamp.poll = Box::new(|now, _| match now.instant.as_millis() {
        0..5_000 => Turn::At(hearthkey_agent::Instant::from_millis(5_000)),
        _ => Turn::Stop(Farewell::Clean),
    });
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        assert_eq!(call.publish(0).await, ("dev/lamp/status".into(), "offline".into()));
        assert_eq!(call.packet().await, FromClient::Disconnect(0));
        assert_eq!(call.next().await, None);
    };
    assert_eq!(home.run(lamp, check).await, Some(Ended::Left(Farewell::Clean)));
}

#[tokio::test(start_paused = true)]
async fn leaving_with_the_will_says_so_and_a_hub_that_acknowledges_nothing_holds_nobody_back() {
    for farewell in [Farewell::WithWill, Farewell::Clean] {
        let mut home = Home::new(20).await;
        let (mut lamp, _) = lamp();
        lamp.poll = Box::new(move |now, _| match now.instant.as_millis() {
            0..5_000 => Turn::At(hearthkey_agent::Instant::from_millis(5_000)),
            _ => Turn::Stop(farewell),
        });
        let check = async |hub: &mut Hub| {
            let mut call = hub.let_in().await;
            loop {
                match call.packet().await {
                    FromClient::Disconnect(reason) => break assert_eq!(reason, 4, "the will speaks"),
                    FromClient::Publish { payload, .. } => assert_eq!(payload, b"offline"),
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(home.run(lamp, check).await, Some(Ended::Left(farewell)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_can_leave_while_its_hub_is_away() {
    let mut home = Home::new(21).await;
    let (mut lamp, _) = lamp();
    lamp.poll = Box::new(|now, _| match now.instant.as_millis() {
        0..20_000 => Turn::At(hearthkey_agent::Instant::from_millis(20_000)),
        _ => Turn::Stop(Farewell::Clean),
    });
    let check = async |hub: &mut Hub| {
        while tokio::time::timeout(Duration::from_secs(60), hub.ring()).await.is_ok() {}
    };
    assert_eq!(home.run(lamp, check).await, Some(Ended::Left(Farewell::Clean)));
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_breaks_the_protocol_is_answered_with_its_reason_and_a_new_connection() {
    let wrong: [(&[u8], u8); 6] = [
        (&[0xf1, 0], 0x81),
        (&[0x10, 0], 0x82),
        (&[0x34, 5, 0, 1, b't', 0, 1], 0x82),
        (&[0x30, 0xff, 0xff, 0x7f], 0x95),
        (&[0x20, 3, 0, 0, 0], 0x82),
        (&[0x90, 4, 0, 77, 0, 1], 0x82),
    ];
    for (bytes, reason) in wrong {
        let mut home = Home::new(22).await;
        let (lamp, events) = lamp();
        let check = async |hub: &mut Hub| {
            let mut call = hub.let_in().await;
            call.send(bytes).await;
            assert_eq!(call.packet().await, FromClient::Disconnect(reason), "{bytes:x?}");
            assert_eq!(call.next().await, None);
            hub.let_in().await;
        };
        home.run(lamp, check).await;
        assert_eq!(count(&events, "BadPacket"), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_authenticates_otherwise_is_left() {
    let token = token_response(LIFETIME);
    let answers: [Vec<u8>; 4] = [
        mqtt::packet(0x20, &[0, 0, 0]),
        mqtt::connack(false, b"{}", TODAY, &[]),
        mqtt::auth(0x18, br#"{"issuer":"https://hub:8443"}"#, None),
        mqtt::auth(0, &token, None),
    ];
    for answer in answers {
        let mut home = Home::new(23).await;
        let (lamp, events) = lamp();
        let check = async |hub: &mut Hub| {
            let mut call = hub.answer().await;
            call.connect().await;
            call.send(&answer).await;
            hub.ring().await;
        };
        home.run(lamp, check).await;
        assert_eq!(count(&events, "BadAuthentication"), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_to_be_dropped_is_not_taken_over() {
    let mut home = Home::new(26).await;
    let (lamp, events) = lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.answer().await;
        assert!(call.connect().await.clean_start);
        call.welcome(true, TODAY, &[]).await;
        assert_eq!(call.packet().await, FromClient::Disconnect(0x82));
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Connected"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_refused_to_a_revoked_device_stops_it() {
    let mut home = Home::new(27).await;
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let FromClient::Auth { reason: 0x19, .. } = not_a_ping(&mut call).await else { panic!("no renewal") };
        call.send(&mqtt::disconnect(0x87, "invalid_client: client lamp is revoked")).await;
        assert_eq!(call.next().await, None);
    };
    assert_eq!(home.run(lamp().0, check).await, Some(Ended::Revoked));
}

/// A hub without a battery starts with yesterday's date, tells it to everyone, and learns today's later.
#[tokio::test(start_paused = true)]
async fn a_hub_whose_clock_is_set_has_its_devices_back_in_a_moment() {
    let mut home = Home::new(35).await;
    let check = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let FromClient::Auth { reason: 0x19, .. } = not_a_ping(&mut call).await else { panic!("no renewal") };
        call.send(&mqtt::disconnect(0x87, "invalid_client: the assertion expired 300 s ago by the hub's clock")).await;
        let since = tokio::time::Instant::now();
        let mut call = hub.answer().await;
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        assert_eq!(call.connect().await.data.as_deref(), Some([].as_slice()), "asks for the date");
    };
    home.run(lamp().0, check).await;
}

#[test]
fn what_holds_a_secret_shows_none_of_its_bytes() {
    use hearthkey_agent::mqtt::codec::{Connect, Packet, decode};
    let secret = b"eyJ.top.secret".as_slice();
    let mut memory = secret.to_vec();
    let connack = mqtt::connack(false, &token_response(LIFETIME), TODAY, &[]);
    let renewal = mqtt::auth(0, &token_response(LIFETIME), Some(TODAY));
    let connect = Connect {
        client_identifier: "lamp",
        clean_start: true,
        keep_alive: 60,
        session_expiry: 0,
        receive_maximum: 1,
        maximum_packet_size: 2048,
        authentication: Some(("client_credentials", secret)),
        will: None,
        user_name_and_password: Some(("lamp", secret)),
    };
    let (connack, renewal) = (decode(&connack).unwrap(), decode(&renewal).unwrap());
    assert!(matches!((connack, renewal), (Packet::ConnAck(_), Packet::Auth(_))));
    let shown = format!("{connack:?} {renewal:?} {connect:?} {:?}", hearthkey_agent::Buffer::new(&mut memory));
    assert!(!shown.contains("secret") && !shown.contains("101, 121, 74"), "{shown}");
}

#[cfg(feature = "sans-io")]
#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_leaves_no_token_in_its_workspace() {
    use hearthkey_agent::{Agent, Config, Workspace};
    let mut home = Home::new(37).await;
    let identity = Identity::load(&mut home.platform).unwrap().unwrap();
    let (mut agent, mut workspace) = (Agent::new(identity, Config::DEFAULT), Box::new(Workspace::new()));
    let (mut lamp, _) = lamp();
    let script = async {
        let mut call = home.hub.let_in().await;
        // The beginning of a packet stays where it is until the rest comes.
        call.send(&command("c-1", 1, 1)[..20]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        ended = agent.run(&mut home.platform, &mut lamp, &mut workspace) => panic!("{ended:?}"),
        () = script => {}
    }
    assert!(workspace.is_blank());
}

/// A lamp that fills every buffer that it is given.
fn chattering_lamp() -> (Lamp, Rc<RefCell<Vec<String>>>) {
    let (mut lamp, events) = lamp();
    lamp.poll = Box::new(|now, outbox| {
        if outbox.is_online() {
            while outbox.telemetry("noise", &[b'x'; 500], Qos::AtMostOnce).is_ok() {}
        }
        Turn::At(now.instant.after(Duration::from_millis(100)))
    });
    (lamp, events)
}

/// A reader and a writer make progress together: the hub sends faster than it reads.
#[tokio::test(start_paused = true)]
async fn a_hub_that_writes_without_reading_does_not_stop_the_device_from_reading() {
    let mut home = Home::new(24).await;
    let (lamp, events) = chattering_lamp();
    let check = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Nothing was read for five seconds; the pipe and every buffer are full. A command still gets in.
        call.send(&command("c-1", 1, 1)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "Command("), 1, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_never_reads_is_given_up() {
    let mut home = Home::new(25).await;
    let (lamp, events) = chattering_lamp();
    let check = async |hub: &mut Hub| {
        let call = hub.admit().await;
        hub.ring().await;
        drop(call);
    };
    home.run(lamp, check).await;
    assert_eq!(count(&events, "TimedOut(Reading)"), 1, "{events:?}");
}
