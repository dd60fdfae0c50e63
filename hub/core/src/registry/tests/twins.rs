//! What is desired of a device and what it reports, with their versions.

use super::*;
use crate::limits::{MAX_TWIN_DESIRED_BYTES, MAX_TWIN_REPORTED_BYTES};

impl World {
    fn desire(&mut self, device: &str, body: Value) -> Result<DesiredTwin, TwinRefused> {
        let Value::Object(body) = body else { panic!("{body}") };
        let change = self.registry.change_twin(&self.owner(), &name(device), TwinChange::Merge(body), &self.context())?;
        Ok(self.commit(change))
    }

    fn report(&mut self, device: &str, payload: &str) -> bool {
        let change = self.registry.report_twin(&name(device), payload.as_bytes(), &self.context());
        change.map(|change| self.commit(change)).is_some()
    }
}

#[test]
fn versions_count_changes_and_survive_a_restart() {
    let mut world = World::with_devices(&["lamp"]);
    assert!(world.registry.twin(&name("lamp")).is_settled(), "nothing is desired");
    assert_eq!(world.desire("lamp", json!({"on": true})).expect("taken").v, 1);
    assert_eq!(world.desire("lamp", json!({"on": true})).expect("taken").v, 1);
    assert_eq!(world.desire("lamp", json!({"on": false})).expect("taken").v, 2);
    for (said, is_settled) in [(r#"{"v":1,"on":true}"#, false), (r#"{"on":false}"#, false), (r#"{"v":2,"on":false}"#, true)] {
        assert!(world.report("lamp", said));
        assert!(!world.report("lamp", said), "what is known is not written again");
        assert_eq!(world.registry.twin(&name("lamp")).is_settled(), is_settled, "{said}");
    }
    let before = world.registry.twin(&name("lamp"));
    assert_eq!(restarted(&world.rows).twin(&name("lamp")), before);
}

#[test]
fn what_makes_no_twin_changes_nothing() {
    let mut world = World::with_devices(&["lamp"]);
    assert_eq!(world.desire("oven", json!({})), Err(TwinRefused::UnknownDevice(name("oven"))));
    assert_eq!(world.desire("lamp", json!({"v": 1})), Err(TwinRefused::Version));
    let large = "x".repeat(MAX_TWIN_DESIRED_BYTES - r#"{"v":1,"x":""}"#.len());
    assert_eq!(world.desire("lamp", json!({"x": format!("{large}x")})), Err(TwinRefused::TooLarge(MAX_TWIN_DESIRED_BYTES + 1)));
    assert_eq!(world.desire("lamp", json!({"x": large})).expect("as large as may be").v, 1);
    let frame = r#"{"x":""}"#.len();
    let largest = format!(r#"{{"x":"{}"}}"#, "\u{1}".repeat((MAX_TWIN_REPORTED_BYTES - frame) / 6).replace('\u{1}', "\\u0001"));
    assert!(world.report("lamp", &largest), "and a row can hold it");
    for junk in ["", "1", "[]", "{", r#"{"v":1}{"#, &format!(r#"{{"x":"{}"}}"#, "x".repeat(MAX_TWIN_REPORTED_BYTES))] {
        assert!(!world.report("lamp", junk), "{junk:.20}");
    }
    assert!(!world.report("ghost", "{}"));
}

#[test]
fn a_name_that_starts_anew_has_no_twin_of_the_device_before() {
    let mut world = World::with_devices(&["lamp"]);
    world.desire("lamp", json!({"on": true})).expect("taken");
    assert!(world.report("lamp", r#"{"v":1,"on":true}"#));
    world.revoke("lamp");
    assert_eq!(world.registry.twin(&name("lamp")), Twin::default(), "nobody is to be anything");
    assert!(!world.report("lamp", r#"{"v":1}"#), "a word that comes late is nobody's");
    world.enrol_again("lamp", "lamp-2");
    assert_eq!(world.registry.twin(&name("lamp")), Twin::default());
    assert_eq!(world.desire("lamp", json!({"on": true})).expect("taken").v, 1);

    // By a hub that did not forget it at the revocation.
    world.revoke("lamp");
    let desired = DesiredTwin { v: 7, body: TwinBody::new(), by: "user owner".to_owned(), at: world.now };
    world.put(Table::DesiredTwin, b"lamp", &desired);
    world.add("lamp", "thermostat").expect("a revoked name is free again");
    assert_eq!(world.registry.twin(&name("lamp")), Twin::default());
}
