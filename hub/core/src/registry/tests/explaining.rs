//! What `hearthkey can` says: the decision and the rule that made it.

use super::*;
use crate::{
    profile::CommandName,
    scope::PermissionName,
    topic::{TopicFilter, TopicName},
};

fn publish(topic: &str) -> Question {
    Question::Publish(TopicName::parse(topic).expect("legal"))
}

fn subscribe(filter: &str) -> Question {
    Question::Subscribe(TopicFilter::parse(filter).expect("legal"))
}

fn send(device: &str, command: &str) -> Question {
    Question::Send(name(device), CommandName::parse(command).expect("legal"))
}

fn api(permission: &str) -> Question {
    Question::Api(PermissionName::parse(permission).expect("legal"))
}

impl World {
    fn explained(&self, subject: &Subject, question: &Question) -> (bool, String) {
        let decision = self.registry.explain_for(subject, question, self.now);
        assert_eq!(decision.allowed, decision.rule.is_some());
        (decision.allowed, decision.reason)
    }
}

#[test]
fn what_people_may_do_is_explained_by_their_role() {
    let world = World::with_devices(&["lamp"]);
    let owner = Subject::User(name("owner"));
    for (question, allowed, words) in [
        (publish("home/note"), true, "user owner may publish to home/note: role owner, permission mqtt:publish, rule #"),
        (publish("dev/lamp/cmd/identify"), false, "only the hub publishes to dev/lamp/cmd/identify"),
        (subscribe("$SYS/#"), true, "user owner may subscribe to $SYS/#: role owner, permission telemetry:read, rule $SYS/#"),
        (
            send("lamp", "identify"),
            true,
            "user owner may send the command identify to device lamp: role owner, permission commands:send",
        ),
        (send("lamp", "explode"), false, "no permission of profile thermostat lets device lamp take the command explode"),
        (send("oven", "identify"), false, "there is no device oven"),
        (api("audit:read"), true, "user owner may use the API with audit:read: role owner"),
        (api("audit:forge"), false, "no permission lets user owner, owner use the API with audit:forge"),
    ] {
        let (told, reason) = world.explained(&owner, &question);
        assert!(told == allowed && reason.starts_with(words), "{question:?}: {reason}");
    }
    assert_eq!(world.explained(&Subject::User(name("ann")), &api("audit:read")), (false, "there is no user ann".to_owned()));
}

#[test]
fn what_a_credential_may_do_is_explained_as_it_is_now() {
    let mut world = World::with_devices(&["lamp"]);
    let Proof::Credential(id) = world.owner.proof.clone() else { panic!("a token") };
    let token = Subject::Credential(id.clone());
    assert!(world.explained(&token, &api("devices:manage")).0);
    assert!(world.explained(&token, &send("lamp", "identify")).0);
    let (allowed, reason) = world.explained(&Subject::Credential("nonesuch".into()), &api("devices:read"));
    assert!(!allowed && reason.starts_with("there is no credential nonesuch"), "{reason}");
    let mut record = world.registry.credential(&id).expect("known").clone();
    record.devices = Some(vec![name("oven")]);
    let value = serde_json::to_vec(&record).expect("JSON");
    world
        .commit(Change { writes: vec![Write::Put { table: Table::Credential, key: id.as_bytes().to_vec(), value }], answer: () });
    for (question, words) in [
        (send("lamp", "identify"), "is limited to other devices than lamp"),
        (subscribe("dev/lamp/#"), "subscribe to dev/lamp/#"),
        (api("audit:read"), "use the API with audit:read"),
    ] {
        let (allowed, reason) = world.explained(&token, &question);
        assert!(!allowed && reason.contains(words), "{reason}");
    }
    assert!(world.explained(&token, &subscribe("dev/oven/#")).0);
}
