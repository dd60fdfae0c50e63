//! A subscription is replaced while a message is on its way: nothing is lost (MQTT 5 section 3.8.4), nothing comes twice.

use crate::support::*;
use hearthkey::mqtt::fabric::{Fabric, FabricGone, Forward, Link};
use hearthkey::mqtt::fabric_chosen::{ChosenFabric, ChosenLink};
use hearthkey::mqtt::message::Message;
use hearthkey::mqtt::{Front, Limits};
use hearthkey_core::rights::{PublishPermit, SubscribePermit};
use hearthkey_core::topic::TopicFilter;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::net::TcpListener;
use tokio::sync::watch;

const TEMPERATURE: &str = "dev/lamp/tele/temperature";

/// A fabric on which messages stay on their way while the test wants it, and a subscription too.
struct Slow(ChosenFabric, watch::Receiver<bool>, Arc<AtomicBool>);

struct SlowLink {
    link: ChosenLink,
    arrives: watch::Receiver<bool>,
    next_subscription_waits: Arc<AtomicBool>,
    on_its_way: Option<Forward>,
}

impl Fabric for Slow {
    type Link = SlowLink;

    async fn link(&self) -> Result<SlowLink, FabricGone> {
        let (arrives, next_subscription_waits) = (self.1.clone(), self.2.clone());
        Ok(SlowLink { link: self.0.link().await?, arrives, next_subscription_waits, on_its_way: None })
    }

    async fn replace(&self, dead: SlowLink) -> Result<SlowLink, FabricGone> {
        Ok(SlowLink { link: self.0.replace(dead.link).await?, ..dead })
    }

    fn replacements(&self) -> u64 {
        self.0.replacements()
    }
}

impl Link for SlowLink {
    fn publish(&mut self, permit: &PublishPermit, message: &Message, publisher: Option<u64>, queued_for: Box<[u64]>) {
        self.link.publish(permit, message, publisher, queued_for);
    }

    async fn flush(&mut self) -> Result<(), FabricGone> {
        self.link.flush().await
    }

    async fn subscribe(&mut self, permit: &SubscribePermit, number: u32) -> Result<(), FabricGone> {
        if self.next_subscription_waits.swap(false, Ordering::AcqRel) {
            self.arrives.wait_for(|arrives| *arrives).await.expect("the test goes on");
        }
        self.link.subscribe(permit, number).await
    }

    async fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), FabricGone> {
        self.link.unsubscribe(filter).await
    }

    async fn pull(&mut self) -> Result<Forward, FabricGone> {
        if self.on_its_way.is_none() {
            self.on_its_way = Some(self.link.pull().await?);
        }
        self.arrives.wait_for(|arrives| *arrives).await.expect("the test goes on");
        Ok(self.on_its_way.take().expect("it has not arrived yet"))
    }

    fn try_pull(&mut self) -> Option<Forward> {
        let arrives = *self.arrives.borrow();
        arrives.then(|| self.on_its_way.take().or_else(|| self.link.try_pull())).flatten()
    }
}

/// A home on such a fabric, and what lets messages arrive.
async fn slow_home() -> (Home, watch::Sender<bool>) {
    let (home, arrives, _) = slower_home().await;
    (home, arrives)
}

/// The same, and what lets the next subscription wait for the messages.
async fn slower_home() -> (Home, watch::Sender<bool>, Arc<AtomicBool>) {
    let mut home = Home::new().await;
    let (arrives, receiver) = watch::channel(true);
    let next_subscription_waits = Arc::new(AtomicBool::new(false));
    let fabric = Slow(ChosenFabric::new(FABRIC, 100), receiver, next_subscription_waits.clone());
    let front = Front::with_fabric(home.gate.clone(), Limits::default(), [], fabric);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    home.address = listener.local_addr().unwrap();
    tokio::spawn(async move { front.serve_tcp(listener, std::future::pending()).await });
    (home, arrives, next_subscription_waits)
}

#[tokio::test]
async fn a_connection_that_is_taken_over_amid_a_subscribe_leaves_no_subscription_that_its_successor_lacks() {
    let (home, arrives, next_subscription_waits) = slower_home().await;
    let mut replaced = home.connected(Connect::kept("owner")).await;
    arrives.send_replace(false);
    next_subscription_waits.store(true, Ordering::Release);
    let mut body = vec![0, 1, 0];
    for filter in ["dev/lamp/tele/+", "dev/oven/tele/+"] {
        body.extend(string(filter));
        body.push(0);
    }
    replaced.send(&packet(0x82, &body)).await;
    within(async {
        while next_subscription_waits.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.connack.body[0], 1, "the session goes on");
    arrives.send_replace(true);
    assert_eq!(replaced.disconnected().await.0, 0x8E);
    assert_eq!(owner.subscribe("dev/oven/tele/+", 0).await, 0);
    for id in ["lamp", "oven"] {
        home.v5(id).await.publish0(&format!("dev/{id}/tele/x"), id).await;
        assert_eq!(owner.message().await.payload, id);
    }
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_message_on_its_way_arrives_once_when_its_subscription_gets_another_qos() {
    let (home, arrives) = slow_home().await;
    let mut lamp = home.v5("lamp").await;
    for (connect, is_kept) in [(Connect::v5("owner"), false), (Connect::kept("owner"), true)] {
        for (before, after) in [(1, 0), (2, 0), (2, 1), (0, 1), (0, 2), (1, 2)] {
            let mut owner = home.connected(Connect { clean_start: true, ..connect.clone() }).await;
            assert_eq!(owner.subscribe("dev/lamp/tele/+", before).await, before);
            arrives.send_replace(false);
            assert_eq!(lamp.publish2(TEMPERATURE, "on its way").await, 0);
            let is_queued = is_kept && before > 0;
            let mut came = Vec::new();
            if is_queued {
                came.push(owner.message().await);
            }
            assert_eq!(owner.subscribe("dev/lamp/tele/+", after).await, after);
            arrives.send_replace(true);
            if !is_queued {
                came.push(owner.message().await);
            }
            assert_eq!(lamp.publish2(TEMPERATURE, "next").await, 0);
            came.push(owner.message().await);
            let came: Vec<_> = came.iter().map(|message| (message.payload.as_str(), message.qos)).collect();
            // What a kept session had not been promised with a QoS cannot get one; else the QoS of its arrival counts.
            let counts = if is_kept { before } else { after };
            assert_eq!(came, [("on its way", counts), ("next", after)], "{before} to {after}, kept: {is_kept}");
            owner.nothing_came().await;
        }
    }
}

#[tokio::test]
async fn a_message_that_was_queued_does_not_come_again_by_the_next_subscription() {
    let (home, arrives) = slow_home().await;
    let mut lamp = home.v5("lamp").await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.subscribe("dev/lamp/tele/+", 2).await, 2);
    arrives.send_replace(false);
    assert_eq!(lamp.publish2(TEMPERATURE, "on its way").await, 0);
    assert_eq!(owner.message().await.payload, "on its way");
    owner.unsubscribe("dev/lamp/tele/+").await;
    assert_eq!(owner.subscribe("#", 0).await, 0);
    arrives.send_replace(true);
    assert_eq!(lamp.publish2(TEMPERATURE, "next").await, 0);
    assert_eq!(owner.message().await.payload, "next");
    owner.nothing_came().await;
}

#[tokio::test]
async fn of_overlapping_subscriptions_a_kept_session_gets_one_copy_with_the_identifiers_of_all() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    owner.subscribe_with("dev/lamp/tele/+", 1, &[0x0B, 7]).await;
    owner.subscribe_with("dev/lamp/#", 0, &[0x0B, 8]).await;
    assert_eq!(lamp.publish1(TEMPERATURE, "21").await, 0);
    let message = owner.message().await;
    assert_eq!((message.qos, message.payload.as_str()), (1, "21"));
    let mut identifiers: Vec<_> = message.properties.chunks(2).map(<[u8]>::to_vec).collect();
    identifiers.sort();
    assert_eq!(identifiers, [[0x0B, 7], [0x0B, 8]]);
    lamp.publish0(TEMPERATURE, "22").await;
    let copies = [owner.message().await, owner.message().await];
    assert!(copies.iter().all(|copy| copy.qos == 0 && copy.payload == "22"), "QoS 0 comes once for each: {copies:?}");
    owner.nothing_came().await;
}
