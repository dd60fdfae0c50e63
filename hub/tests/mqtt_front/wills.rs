//! Wills and a hub that is killed: who stays away is announced dead, who comes back is not. In virtual time, on the fabric that has
//! no thread.

use crate::support::*;
use hearthkey::mqtt::{
    FabricKind, Front, Limits,
    gate::{Affected, Happening},
};
use hearthkey_core::session::EndReason;
use std::{sync::Arc, time::Duration};
use tokio::time::advance;

const STATUS: &str = "dev/lamp/status";
/// Before the end of the grace, whatever else took time, and after it.
const IN_TIME: Duration = Duration::from_secs(60);
const TOO_LATE: Duration = Duration::from_secs(20);

/// What becomes of a device's rights.
type Change<'a> = &'a dyn Fn(&FakeGate);

/// A home whose clients are in the same process, so that its clock can be the test's.
struct VirtualHome {
    gate: Arc<FakeGate>,
    front: Front<FakeGate>,
}

impl VirtualHome {
    fn new() -> Self {
        Self::on(FakeGate::of_a_home(), Limits::default())
    }

    fn on(gate: Arc<FakeGate>, limits: Limits) -> Self {
        let front = Front::on(FabricKind::Native, gate.clone(), limits, gate.rows());
        Self { gate, front }
    }

    /// Another hub on what is durable once everybody has had a turn.
    async fn killed(self) -> Self {
        self.killed_with(Limits::default()).await
    }

    async fn killed_with(self, limits: Limits) -> Self {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let gate = FakeGate::of_a_home();
        gate.state.lock().unwrap().rows = self.gate.rows().into_iter().collect();
        Self::on(gate, limits)
    }

    async fn connected(&self, connect: Connect) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let front = self.front.clone();
        tokio::spawn(async move { front.serve_connection(theirs, ([127, 0, 0, 1], 1).into()).await });
        Client::over(ours).admitted(connect).await
    }

    /// The owner, who follows all statuses.
    async fn observer(&self) -> Client {
        let mut owner = self.connected(Connect::v5("owner")).await;
        owner.subscribe("dev/+/status", 1).await;
        owner
    }

    fn stored_wills(&self) -> usize {
        self.gate.rows().iter().filter(|(key, _)| key.first() == Some(&b'w')).count()
    }
}

/// With a session that ends with its connection, in both versions, and with one that is kept.
fn lamps() -> [Connect; 3] {
    let v311 = Connect { version: 4, ..Connect::v5("lamp") };
    [Connect::v5("lamp"), Connect { user_name: Some("lamp".to_owned()), ..v311 }, Connect::kept("lamp")]
        .map(|connect| connect.will(STATUS, "offline", true))
}

fn delayed(connect: Connect, delay: u8) -> Connect {
    let mut connect = connect.will(STATUS, "offline", true);
    connect.will.as_mut().unwrap().4 = vec![0x18, 0, 0, 2, delay];
    connect
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stays_away_after_a_kill_of_the_hub_is_announced_dead() {
    for connect in lamps() {
        let home = VirtualHome::new();
        let mut lamp = home.connected(connect).await;
        assert_eq!(lamp.publish(STATUS, "online", true, &[]).await, 0);
        let home = home.killed().await;
        let mut observer = home.observer().await;
        assert_eq!(observer.message().await.payload, "online");
        advance(IN_TIME).await;
        observer.nothing_came().await;
        advance(TOO_LATE).await;
        let will = observer.message().await;
        assert_eq!((will.topic.as_str(), will.payload.as_str()), (STATUS, "offline"));
        // Once, and kept for those who come later, whatever happens next.
        assert_eq!(home.stored_wills(), 0);
        let home = home.killed().await;
        let mut observer = home.observer().await;
        assert_eq!(observer.message().await.payload, "offline");
        advance(IN_TIME + TOO_LATE).await;
        observer.nothing_came().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_back_after_a_kill_of_the_hub_is_not_announced_dead_before_it_goes_again() {
    for connect in lamps() {
        let home = VirtualHome::new();
        let _first = home.connected(connect.clone()).await;
        // Killed again before the time was over: it counts anew.
        let home = home.killed().await;
        advance(IN_TIME).await;
        let home = home.killed().await;
        let mut observer = home.observer().await;
        advance(IN_TIME).await;
        let lamp = home.connected(connect.clone()).await;
        advance(IN_TIME + TOO_LATE).await;
        observer.nothing_came().await;
        assert_eq!(home.stored_wills(), 1, "of its connection of now");
        drop(lamp);
        assert_eq!(observer.message().await.payload, "offline");
        // Without a will this time.
        let home = home.killed().await;
        let _third = home.connected(connect.clone()).await;
        let home = home.killed().await;
        home.connected(Connect { will: None, ..connect }).await.goodbye().await;
        assert_eq!(home.stored_wills(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_took_leave_before_the_kill_leaves_no_will() {
    for connect in lamps() {
        let home = VirtualHome::new();
        home.connected(connect).await.goodbye().await;
        let home = home.killed().await;
        assert_eq!(home.stored_wills(), 0);
        let mut observer = home.observer().await;
        advance(IN_TIME + TOO_LATE).await;
        observer.nothing_came().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_counts_from_the_start_of_the_hub_and_ends_with_the_session() {
    // 517 s, with a session of an hour, and of 300 s; connected when the hub is killed, gone before, and stopped in good order.
    for (expiry, waits) in [([0, 0, 0x0E, 0x10], 517), ([0, 0, 1, 0x2C], 300)] {
        for ending in ["killed", "gone before", "stopped"] {
            let connect = Connect { properties: [&[0x11][..], &expiry].concat(), ..delayed(Connect::kept("lamp"), 5) };
            let home = VirtualHome::new();
            let mut lamp = Some(home.connected(connect).await);
            match ending {
                "stopped" => home.front.stop().await,
                "gone before" => lamp = None,
                _ => {}
            }
            let home = home.killed().await;
            let mut observer = home.observer().await;
            advance(Duration::from_secs(waits - 15)).await;
            observer.nothing_came().await;
            advance(TOO_LATE).await;
            assert_eq!(observer.message().await.payload, "offline", "{ending}");
            drop(lamp);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_begins_anew_ends_the_kept_session_and_its_will_comes_first() {
    let home = VirtualHome::new();
    let _lamp = home.connected(delayed(Connect::kept("lamp"), 5)).await;
    let home = home.killed().await;
    let mut observer = home.observer().await;
    let mut lamp = home.connected(Connect { clean_start: true, ..Connect::kept("lamp") }).await;
    lamp.publish(STATUS, "online", true, &[]).await;
    assert_eq!(observer.message().await.payload, "offline");
    assert_eq!(observer.message().await.payload, "online");
}

#[tokio::test(start_paused = true)]
async fn a_will_after_a_restart_needs_the_right_of_that_moment_but_not_a_token_that_still_runs() {
    let ends = |reason: EndReason| move |gate: &FakeGate| gate.end(device("lamp"), reason.clone());
    let no_right = |gate: &FakeGate| gate.grant("lamp", device("lamp"), rights(&["dev/lamp/tele/+"], &[]), None);
    let cases: [(&str, Change<'_>, bool); 4] = [
        ("revoked", &ends(EndReason::Revoked), false),
        ("disabled", &ends(EndReason::Disabled), false),
        ("without the right", &no_right, false),
        ("expired", &ends(EndReason::Expired { at: NOW }), true),
    ];
    for (what, change, is_published) in cases {
        let home = VirtualHome::new();
        let _lamp = home.connected(lamps()[2].clone()).await;
        let home = home.killed().await;
        change(&home.gate);
        let mut observer = home.observer().await;
        advance(IN_TIME + TOO_LATE).await;
        if is_published {
            assert_eq!(observer.message().await.payload, "offline", "{what}");
        }
        observer.nothing_came().await;
        assert_eq!(home.stored_wills(), 0, "{what}");
        let is_denied = |event: &hearthkey::mqtt::gate::SessionEvent| {
            matches!(event.what, Happening::Denied(_)) && event.principal == Some(device("lamp"))
        };
        let recorded = home.gate.state.lock().unwrap().events.iter().filter(|event| is_denied(event)).count();
        assert_eq!(recorded, usize::from(what == "without the right"), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_will_stands_on_the_newest_token_of_its_session() {
    let home = VirtualHome::new();
    home.gate.grant("newer", device("lamp"), thermostat("lamp"), None);
    let connect = Connect::by_method("lamp", "client_credentials", b"lamp").will(STATUS, "offline", true);
    let mut lamp = home.connected(connect).await;
    let data = [&[0x15][..], &string("client_credentials"), &[0x16], &string("newer")].concat();
    lamp.send(&packet(0xF0, &[&[0x19][..], &properties(&data)].concat())).await;
    assert_eq!(lamp.receive().await.first, 0xF0);
    let home = home.killed().await;
    home.gate.grant("newer", device("lamp"), thermostat("lamp"), None);
    home.gate.state.lock().unwrap().grants.remove("lamp");
    let mut observer = home.observer().await;
    advance(IN_TIME + TOO_LATE).await;
    assert_eq!(observer.message().await.payload, "offline");
}

#[tokio::test(start_paused = true)]
async fn a_will_does_not_hold_up_connack_and_is_stored_before_what_its_client_publishes() {
    let home = VirtualHome::new();
    home.gate.disk.set(DiskMode::Hangs);
    let mut lamp = home.connected(lamps()[0].clone()).await;
    let online = lamp.publish_packet(STATUS, "online", 1, true, &[]);
    lamp.send(&online).await;
    lamp.nothing_came().await;
    let batches = home.gate.state.lock().unwrap().batches;
    home.gate.disk.set(DiskMode::HangsAfter(batches + 1));
    // One batch, and the power fails: whoever finds "online" retained finds the will, too.
    lamp.nothing_came().await;
    assert_eq!(home.stored_wills(), 1);
    home.gate.disk.set(DiskMode::Works);
    assert_eq!(lamp.puback_of(1).await, 0);
    assert_eq!(home.stored_wills(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_grace_is_the_owners_to_choose() {
    for (grace, waits) in [(0, 2), (600, 610)] {
        let home = VirtualHome::new();
        let _lamp = home.connected(lamps()[0].clone()).await;
        let limits = Limits { will_grace: Duration::from_secs(grace), ..Limits::default() };
        let home = home.killed_with(limits).await;
        let mut observer = home.observer().await;
        advance(Duration::from_secs(waits)).await;
        assert_eq!(observer.message().await.payload, "offline");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_back_when_the_grace_is_over_is_announced_dead_before_it_speaks_again() {
    for connect in lamps() {
        let home = VirtualHome::new();
        let _lamp = home.connected(connect.clone()).await;
        let limits = Limits { will_grace: Duration::from_millis(2_500), ..Limits::default() };
        let home = home.killed_with(limits).await;
        let mut observer = home.observer().await;
        // The hub looks once a second: it has not noticed yet.
        for milliseconds in [1_000, 1_000, 600] {
            advance(Duration::from_millis(milliseconds)).await;
            observer.nothing_came().await;
        }
        let mut lamp = home.connected(connect).await;
        assert_eq!(lamp.publish(STATUS, "online", true, &[]).await, 0);
        for status in ["offline", "online"] {
            assert_eq!(observer.message().await.payload, status);
        }
        observer.nothing_came().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_will_for_which_there_is_no_room_is_recorded_and_counted_and_forgotten() {
    let limits = Limits { max_retained_bytes_per_principal: 300, ..Limits::default() };
    let home = VirtualHome::on(FakeGate::of_a_home(), limits);
    let mut lamp = home.connected(Connect::v5("lamp").will(STATUS, &"offline".repeat(100), true)).await;
    assert_eq!(lamp.publish(STATUS, "online", true, &[]).await, 0);
    let denied = home.front.stats().denied;
    drop(lamp);
    let is_it = |what: &Happening| matches!(what, Happening::Limited { limit } if limit.starts_with("will: too many retained"));
    let event = home.gate.event(|event| is_it(&event.what)).await;
    assert_eq!((&*event.client_identifier, event.principal), ("lamp", Some(device("lamp"))));
    assert_eq!(home.front.stats().denied, denied + 1);
    let mut observer = home.observer().await;
    assert_eq!(observer.message().await.payload, "online", "what was there stays");
    home.front.reconsider(&Affected::Everything);
    observer.nothing_came().await;
    assert_eq!(home.stored_wills(), 0);
}
