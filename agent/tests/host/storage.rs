//! Storage that cannot be read: a device that has an identity keeps it, and does nothing that it should have remembered.

use crate::support::hub::{Home, Hub, Lamp, enrolment_string};
use crate::support::mqtt;
use crate::support::pki::HomeCa;
use hearthkey_agent::{
    Command, EnrolError, Enrolment, Identity, IdentityError, Outcome, Record, Reply, Software, StorageFailed, Workspace, enrol,
};
use std::cell::Cell;
use std::rc::Rc;

#[tokio::test(start_paused = true)]
async fn an_identity_that_cannot_be_read_is_neither_forgotten_nor_replaced() {
    let mut home = Home::new(70).await;
    let (stored, writes) = (home.platform.storage.borrow().clone(), home.platform.writes.get());
    home.platform.unreadable.set(Some(Record::Identity));
    let unreadable = IdentityError::Storage(StorageFailed);
    assert_eq!(Identity::load(&mut home.platform).err(), Some(unreadable));
    // Not even for whoever would enrol it anew.
    let enrolment = Enrolment::parse(&enrolment_string(&HomeCa::new("home"), [8; 16], "hub")).unwrap();
    let software = Software { id: "lamp", version: "1" };
    let enrolled = enrol(&mut home.platform, &enrolment, software, &mut Box::new(Workspace::new())).await;
    assert_eq!(enrolled.err(), Some(EnrolError::Identity(unreadable)));
    assert_eq!((&*home.platform.storage.borrow(), home.platform.writes.get()), (&stored, writes));
    home.platform.unreadable.set(None);
    assert!(Identity::load(&mut home.platform).unwrap().is_some());
}

fn command(id: &str, sequence: u16) -> Vec<u8> {
    let body = format!(r#"{{"id":"{id}","seq":{sequence},"ttl_s":30,"by":"owner"}}"#);
    mqtt::publish("dev/lamp/cmd/set", &body, sequence, false, Some(30))
}

#[tokio::test(start_paused = true)]
async fn a_device_that_cannot_read_what_it_obeyed_last_obeys_nothing_until_it_can() {
    let mut home = Home::new(71).await;
    let (unreadable, storage) = (home.platform.unreadable.clone(), home.platform.storage.clone());
    let obeyed = Rc::new(Cell::new(0));
    let lamp = || {
        let obeyed = obeyed.clone();
        let command = Box::new(move |_: &Command<'_>, _| {
            obeyed.set(obeyed.get() + 1);
            Reply::Done(Outcome::Succeeded)
        });
        Lamp { command, ..Lamp::default() }
    };
    let first = async |hub: &mut Hub| hub.let_in().await.command(&command("first", 5), 3).await;
    home.run(lamp(), async |hub| assert_eq!(first(hub).await.1[2].1, r#"{"state":"succeeded"}"#)).await;

    unreadable.set(Some(Record::CommandSequence));
    let lamp = lamp();
    let events = lamp.events.clone();
    let second = async |hub: &mut Hub| {
        let mut call = hub.let_in().await;
        let unknown = r#"{"state":"rejected","reason":"its sequence cannot be stored"}"#;
        // One from before it, which must not be carried out again, and one that would overwrite what it cannot read.
        for (id, sequence) in [("first", 5), ("second", 6)] {
            assert_eq!(call.command(&command(id, sequence), 1).await.1[0].1, unknown);
        }
        assert_eq!(storage.borrow()[Record::CommandSequence.name()][..8], 5_u64.to_be_bytes());
        // Read at the next connection, without a restart.
        unreadable.set(None);
        call.send(&mqtt::disconnect(0x8b, "hub stopping")).await;
        let mut call = hub.let_in().await;
        let stale = r#"{"state":"rejected","reason":"sequence not above the highest seen"}"#;
        assert_eq!(call.command(&command("again", 5), 1).await.1[0].1, stale);
        assert_eq!(call.command(&command("third", 7), 3).await.1[2].1, r#"{"state":"succeeded"}"#);
    };
    home.run(lamp, second).await;
    assert_eq!(obeyed.get(), 2);
    assert_eq!(events.borrow().iter().filter(|event| *event == "StorageFailed").count(), 1, "{events:?}");
}
