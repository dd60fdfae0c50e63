//! A power cut at any moment: a batch is stored whole or not at all, so after a restart each operation is done or not done.

use super::*;
use crate::claims::AccessTokenClaims;

/// One operation of the story below, told to a world.
type Step = (&'static str, fn(&mut World));

/// Enrolment, tokens, rotation by key and by secret, commands, credentials, pause, revocation, renewal, sweeping.
const STORY: [Step; 25] = [
    ("add", |world| drop(world.add_coded(7, "lamp"))),
    ("add again by another code", |world| drop(world.rotate_coded(8, "lamp"))),
    ("register", |world| drop(world.register(&code(8), &key("lamp")))),
    ("first token", |world| drop(world.token("lamp"))),
    ("second token", |world| drop(world.token("lamp"))),
    ("rotate", |world| drop(world.rotate_coded(9, "lamp"))),
    ("register the new key", |world| drop(world.register(&code(9), &key("lamp-2")))),
    ("token by the new key", |world| drop(world.token_by("lamp", &key("lamp-2")))),
    ("rotate to a secret", |world| {
        let secret = world.rotate_by_secret("lamp").expect("room");
        world.note("secret", secret);
    }),
    ("token by secret", |world| {
        let secret = world.noted("secret");
        drop(world.token_by_secret("lamp", &secret));
    }),
    ("command", |world| {
        let id = world.send("lamp", "identify", None, 60).expect("taken").record.id;
        world.note("command", id.into());
    }),
    ("accepted", |world| {
        let id = world.noted("command");
        drop(world.answer("lamp", &id, CommandState::Accepted));
    }),
    ("another command", |world| drop(world.send("lamp", "identify", None, 60))),
    ("command ends", |world| {
        let id = world.noted("command");
        drop(world.answer("lamp", &id, CommandState::Succeeded));
    }),
    ("profile", |world| world.apply_profile("name = \"custom\"\n[permissions.a]\npublish = [\"dev/${device}/tele/+\"]\n")),
    ("disable", |world| world.disable("lamp")),
    ("enable", |world| world.enable("lamp")),
    ("token to revoke", |world| {
        let token = world.token_by("lamp", &key("lamp-2")).expect("the key is proved");
        world.note("token", serde_json::to_string(&token.claims).expect("plain JSON"));
    }),
    ("revoke a token", |world| {
        let claims: AccessTokenClaims = serde_json::from_str(&world.noted("token")).expect("just written");
        let token = IssuedToken { claims, expires_in: Seconds(300) };
        drop(world.revoke_token_by("lamp", &key("lamp-2"), &token));
    }),
    ("command that stays", |world| drop(world.send("lamp", "identify", None, 60))),
    ("revoke", |world| world.revoke("lamp")),
    ("add anew", |world| drop(world.add_coded(10, "lamp"))),
    ("register anew", |world| drop(world.register(&code(10), &key("lamp-3")))),
    ("token anew", |world| drop(world.token_by("lamp", &key("lamp-3")))),
    ("sweep", |world| {
        world.wait(10_000);
        world.sweep();
    }),
];

fn code(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

impl World {
    fn add_coded(&mut self, code: u64, device: &str) -> Result<Vec<u8>, DeviceRefused> {
        self.serial = code - 1;
        let added = self.add(device, "thermostat");
        self.serial = 1_000 * code;
        added
    }

    fn rotate_coded(&mut self, code: u64, device: &str) -> Result<Vec<u8>, DeviceRefused> {
        self.serial = code - 1;
        let rotated = self.rotate_by_code(device);
        self.serial = 1_000 * code;
        rotated
    }

    fn note(&mut self, what: &'static str, text: String) {
        self.notes.insert(what, text);
    }

    fn noted(&self, what: &'static str) -> String {
        self.notes[what].clone()
    }
}

/// What holds in any home between two operations.
fn is_whole(registry: &Registry, rows: &BTreeMap<(Table, Vec<u8>), Vec<u8>>) -> Result<(), String> {
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let audit = rows.iter().filter(|((table, _), _)| *table == Table::Audit).map(|(_, row)| row.as_slice());
    audit::verify(&registry.audit_anchor, audit, &registry.audit_head).map_err(|broken| broken.to_string())?;
    for device in registry.devices.values() {
        let secrets = registry.client_secrets(&device.id).count();
        let codes = registry.enrolments_by_code_hash.values().filter(|record| record.device == device.id).count();
        let waiting = registry.commands_of(&device.id).filter(|command| !command.state.is_final()).count();
        match device.status {
            DeviceStatus::Pending => check(device.keys.is_empty() && secrets == 0, "a device that waits proves nothing")?,
            DeviceStatus::Active => check(!device.keys.is_empty() || secrets > 0, "an active device can prove itself")?,
            DeviceStatus::Disabled => {}
            DeviceStatus::Revoked => check(secrets + codes + waiting == 0, "nothing of a revoked device is open")?,
        }
        let entries = |action: &str| {
            let rows = rows.iter().filter(|((table, _), _)| *table == Table::Audit);
            let records = rows.filter_map(|(_, row)| serde_json::from_slice::<audit::AuditRecord>(row).ok());
            records.filter(|record| record.action == action && record.target == format!("device {}", device.id)).count()
        };
        let moved = entries("device.disable") + entries("device.revoke") + entries("device.add") - 1;
        check(u64::try_from(moved) == Ok(device.epoch), "each cut and each new life moved the epoch, and is in the audit log")?;
        let sent = registry.commands_of(&device.id).map(|command| command.seq).max().unwrap_or(0);
        check(sent <= device.command_seq, "a command has a number that was given out")?;
        let used = device.keys.iter().any(|key| key.first_used_at.is_some());
        let spent = |record: &EnrolmentRecord| {
            let key = device.keys.iter().find(|key| record.used_by.as_ref() == Some(&key.thumbprint));
            record.used_by.is_none() || key.is_some_and(|key| key.first_used_at.is_none())
        };
        check(!used || registry.enrolments_by_code_hash.values().all(spent), "the code of a key in use is spent")?;
    }
    Ok(())
}

/// The story in a world that keeps each state between two steps.
fn told() -> (World, Vec<Registry>) {
    let mut world = World::new();
    let mut states = vec![world.registry.clone()];
    for (what, step) in STORY {
        let before = world.batches.len();
        step(&mut world);
        assert_eq!(world.batches.len(), before + 1, "{what} is one batch");
        states.push(world.registry.clone());
    }
    (world, states)
}

#[test]
fn after_a_power_cut_each_operation_is_done_or_not_done() {
    let (world, states) = told();
    for kept in 1..=world.batches.len() {
        let mut rows = BTreeMap::new();
        world.batches[..kept].iter().for_each(|batch| write_to(&mut rows, batch));
        let registry = restarted(&rows);
        assert!(registry == states[kept - 1], "{kept} batches");
        assert_eq!(is_whole(&registry, &rows), Ok(()), "{kept} batches");
    }
}

#[test]
fn a_store_that_tore_batches_would_be_noticed() {
    let (world, _) = told();
    let mut torn_and_noticed = 0;
    for kept in 1..world.batches.len() {
        let next = &world.batches[kept];
        for writes in 1..next.len() {
            let mut rows = BTreeMap::new();
            world.batches[..kept].iter().for_each(|batch| write_to(&mut rows, batch));
            write_to(&mut rows, &next[..writes]);
            torn_and_noticed += usize::from(is_whole(&restarted(&rows), &rows).is_err());
        }
    }
    assert!(torn_and_noticed > 40, "the control finds {torn_and_noticed} torn states");
}

#[test]
fn what_a_power_cut_undid_can_be_asked_for_again() {
    for (lost, (what, step)) in STORY.iter().enumerate() {
        let mut world = World::new();
        for (_, earlier) in &STORY[..lost] {
            earlier(&mut world);
        }
        let (registry, rows, batches, serial) = (world.registry.clone(), world.rows.clone(), world.batches.clone(), world.serial);
        step(&mut world);
        let done = world.registry.clone();
        (world.registry, world.rows, world.batches, world.serial) = (restarted(&rows), rows, batches, serial);
        assert!(world.registry == registry, "before: {what}");
        step(&mut world);
        if *what != "sweep" {
            assert!(world.registry == done, "asked again: {what}");
        }
    }
}

#[test]
fn a_lost_registration_leaves_the_code_good_and_a_lost_token_the_assertion() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    let before = (world.registry.clone(), world.rows.clone(), world.batches.clone());
    world.register(&code, &key("lamp")).expect("the code is good");
    (world.registry, world.rows, world.batches) = before;
    world.register(&code, &key("lamp")).expect("the answer was never sent, so the device asks again");
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let before = (world.registry.clone(), world.rows.clone(), world.batches.clone());
    world.post(GRANT, &assertion).expect("its first use");
    (world.registry, world.rows, world.batches) = before;
    assert!(world.post(GRANT, &assertion).is_ok(), "the use was never acknowledged");
}
