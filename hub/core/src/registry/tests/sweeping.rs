use super::*;
use crate::limits::{ENROLMENT_CODE_LIFETIME, MAX_AUDIT_RECORDS};

impl World {
    /// Sweeps until nothing is left to sweep; each sweep fits into one batch of the store.
    fn sweep_clean(&mut self) -> usize {
        for round in 0..100 {
            let change = self.registry.sweep(&self.context());
            if change.writes.is_empty() {
                return round;
            }
            self.commit(change);
        }
        panic!("sweeping never ends");
    }

    fn oldest_audit_rows(&self, count: usize) -> Vec<Vec<u8>> {
        self.rows.iter().filter(|((table, _), _)| *table == Table::Audit).take(count).map(|(_, row)| row.clone()).collect()
    }
}

#[test]
fn a_sweep_in_a_quiet_home_writes_nothing() {
    let mut world = World::with_devices(&["lamp"]);
    world.wait(ENROLMENT_CODE_LIFETIME.0);
    world.sweep_clean();
    world.wait(1_000_000);
    assert_eq!(world.sweep_clean(), 0);
}

#[test]
fn codes_assertions_denials_keys_secrets_and_commands_leave_when_they_have_ended() {
    let mut world = World::with_devices(&["lamp"]);
    world.add("new", "thermostat").expect("a free name");
    let token = world.token("lamp").expect("the key is proved");
    world.put(Table::DeniedToken, token.claims.jti.as_bytes(), &token.claims.exp);
    let code = world.rotate_by_code("lamp").expect("known");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    world.token_by("lamp", &key("lamp-2")).expect("its first use");
    let until = world.now.plus(Seconds(60));
    world.credential(CredentialKind::PersonalAccessToken, Principal::User(name("owner")), "", Some(until));
    world.send("lamp", "identify", None, 60).expect("taken");
    assert_eq!(world.sweep_clean(), 0, "nothing has ended yet");
    world.wait(1_000_000);
    world.sweep_clean();
    assert!(world.registry.enrolments_by_code_hash.is_empty());
    assert!(world.registry.used_assertions.len() == 0);
    assert!(world.registry.denied_tokens.is_empty());
    assert_eq!(world.device("lamp").keys.len(), 1);
    assert_eq!(world.registry.credentials.len(), 1, "the owner's has no end");
    assert!(world.registry.commands.values().all(|command| command.state.is_final()));
    let swept: Vec<_> = world.audit().into_iter().filter(|entry| entry.actor == "hub").map(|entry| entry.action).collect();
    assert_eq!(swept, ["key.retire", "credential.expire", "command.end"], "what an owner may ask about is audited");
}

#[test]
fn a_sweep_of_very_much_at_once_goes_in_batches_that_the_store_takes() {
    let mut world = World::new();
    for number in 0..1_000_u64 {
        let until = world.now.plus(Seconds(60));
        world.credential(CredentialKind::PersonalAccessToken, Principal::User(name("owner")), "", Some(until));
        world.put(Table::UsedAssertion, format!("lamp/{number:032x}").as_bytes(), &until);
        world.put(Table::DeniedToken, format!("t-{number}").as_bytes(), &until);
    }
    world.wait(60);
    assert!(world.sweep_clean() > 1);
    assert_eq!(
        (world.registry.credentials.len(), world.registry.used_assertions.len(), world.registry.denied_tokens.len()),
        (1, 0, 0)
    );
}

#[test]
fn trimming_the_audit_log_keeps_the_chain_provable() {
    let mut world = World::with_devices(&["lamp"]);
    for _ in 0..20 {
        world.token("lamp").expect("the key is proved");
    }
    let entries = world.audit().len();
    let oldest = world.oldest_audit_rows(7);
    let change = world.registry.trim_audit(&oldest);
    world.commit(change);
    assert_eq!(world.audit().len(), entries - 7);
    assert_eq!(world.registry.audit_anchor().seq, 7);
    let oldest = world.oldest_audit_rows(1_000);
    let change = world.registry.trim_audit(&oldest);
    world.commit(change);
    assert_eq!(world.audit().len(), 0);
    world.token("lamp").expect("the chain goes on");
    assert_eq!(world.audit().len(), 1);
}

#[test]
fn only_the_oldest_entries_in_order_are_trimmed() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let rows = world.oldest_audit_rows(4);
    for wrong in [vec![rows[1].clone()], vec![b"nonsense".to_vec()], vec![]] {
        assert!(world.registry.trim_audit(&wrong).writes.is_empty());
    }
    let gap = [rows[0].clone(), rows[2].clone()];
    let change = world.registry.trim_audit(&gap);
    world.commit(change);
    assert_eq!(world.registry.audit_anchor().seq, 1, "up to the gap");
}

#[test]
fn an_altered_entry_that_is_kept_shows_after_a_trim() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let oldest = world.oldest_audit_rows(2);
    let change = world.registry.trim_audit(&oldest);
    world.commit(change);
    let rows: Vec<Vec<u8>> = world.oldest_audit_rows(1_000);
    for place in 0..rows.len() {
        let mut altered = rows.clone();
        altered[place] = String::from_utf8(altered[place].clone()).expect("JSON").replace("device", "Device").into_bytes();
        let proved = audit::verify(world.registry.audit_anchor(), altered.iter().map(Vec::as_slice), world.registry.audit_head());
        assert!(proved.is_err(), "entry {place}");
    }
}

#[test]
fn the_surplus_is_what_is_over_the_bound() {
    let mut world = World::new();
    assert_eq!(world.registry.surplus_audit_records(), 0);
    let head = world.registry.audit_head().seq;
    for (anchor, surplus) in [(0, 7), (6, 1), (7, 0), (head + MAX_AUDIT_RECORDS + 7, 0)] {
        let mut registry = world.registry.clone();
        registry.audit_anchor.seq = anchor;
        registry.audit_head.seq = MAX_AUDIT_RECORDS + 7;
        assert_eq!(registry.surplus_audit_records(), surplus, "anchor {anchor}");
    }
    world.sweep();
}
