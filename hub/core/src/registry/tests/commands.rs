use super::*;
use crate::{
    limits::{
        COMMAND_EXECUTION_TIME, MAX_COMMAND_BYTES, MAX_COMMAND_TTL, MAX_ENDED_COMMANDS_PER_DEVICE,
        MAX_PENDING_COMMANDS_PER_DEVICE,
    },
    profile::CommandName,
};

impl World {
    pub(super) fn send(
        &mut self,
        device: &str,
        command: &str,
        args: Option<&str>,
        ttl: u64,
    ) -> Result<NewCommand, CommandRefused> {
        let randomness = self.fresh().to_be_bytes();
        let command = CommandName::parse(command).expect("legal");
        let change =
            self.registry.send_command(&self.owner(), &name(device), command, args, Seconds(ttl), randomness, &self.context())?;
        Ok(self.commit(change))
    }

    pub(super) fn answer(&mut self, device: &str, id: &str, state: CommandState) -> Option<CommandRecord> {
        let answer = Acknowledgement { state, reason: String::new() };
        let change = self.registry.acknowledge_command(&name(device), &name(device), id, answer, &self.context())?;
        Some(self.commit(change))
    }

    fn state(&self, device: &str, id: &str) -> CommandState {
        self.registry.command(&name(device), id).expect("known").state
    }
}

const ALL_STATES: [CommandState; 7] = [
    CommandState::Sent,
    CommandState::Accepted,
    CommandState::Executing,
    CommandState::Succeeded,
    CommandState::Failed,
    CommandState::Rejected,
    CommandState::Expired,
];

#[test]
fn a_command_is_numbered_and_says_who_asked_and_how_long_it_counts() {
    let mut world = World::with_devices(&["lamp"]);
    let first = world.send("lamp", "set-setpoint", Some("{\"celsius\": 21.5}"), 30).expect("taken");
    let second = world.send("lamp", "identify", None, 30).expect("taken");
    let body: Value = serde_json::from_slice(&first.payload).expect("JSON");
    assert_eq!(body, json!({"id": &*first.record.id, "seq": 1, "ttl_s": 30, "by": "owner", "args": {"celsius": 21.5}}));
    let body: Value = serde_json::from_slice(&second.payload).expect("JSON");
    assert_eq!(body, json!({"id": &*second.record.id, "seq": 2, "ttl_s": 30, "by": "owner"}));
    assert_eq!(world.device("lamp").command_seq, 2);
}

#[test]
fn a_restored_backup_counts_on_above_what_devices_have_obeyed_since_also_when_it_is_restored_again() {
    let mut world = World::with_devices(&["lamp"]);
    world.send("lamp", "identify", None, 30).expect("taken");
    let backup = world.rows.clone();
    for seconds in 1..=3 {
        for _ in 0..10 {
            world.send("lamp", "identify", None, 30).expect("taken");
        }
        let obeyed = world.device("lamp").command_seq;
        let now = world.now.plus(Seconds(seconds));
        let rows = backup.clone().into_iter();
        world.rows = rows.map(|((table, key), row)| ((table, key), restored(table, row, now))).collect();
        world.registry = restarted(&world.rows);
        let next = world.send("lamp", "identify", None, 30).expect("taken");
        assert!(next.record.seq > obeyed, "restored {seconds} times");
    }
    // What cannot be read is left for the registry to refuse.
    assert_eq!(restored(Table::Device, b"no JSON".to_vec(), UnixTime(0)), b"no JSON");
}

#[test]
fn the_numbers_go_on_when_a_revoked_name_is_added_again() {
    let mut world = World::with_devices(&["lamp"]);
    world.send("lamp", "identify", None, 30).expect("taken");
    world.revoke("lamp");
    world.enrol_again("lamp", "lamp-2");
    assert_eq!(world.send("lamp", "identify", None, 30).expect("taken").record.seq, 2);
}

#[test]
fn a_command_waits_for_its_device_with_what_is_left_of_its_time() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let answered = world.send("lamp", "identify", None, 30).expect("taken").record;
    let brief = world.send("lamp", "identify", None, 10).expect("taken").record;
    let waiting = world.send("lamp", "set-setpoint", Some("{\"celsius\": 21.50}"), 30).expect("taken").record;
    world.answer("lamp", &answered.id, CommandState::Accepted);
    let ids = |world: &World, device: &str| -> Vec<Box<str>> {
        world.registry.commands_waiting(&name(device), world.now).map(|command| command.id.clone()).collect()
    };
    assert_eq!(ids(&world, "lamp"), [brief.id, waiting.id.clone()]);
    assert_eq!(ids(&world, "oven"), []);
    world.now = world.now.plus(Seconds(20));
    assert_eq!(ids(&world, "lamp"), std::slice::from_ref(&waiting.id));
    let command = world.registry.command(&name("lamp"), &waiting.id).expect("known");
    let body = String::from_utf8(command.payload(world.now)).expect("UTF-8");
    assert!(body.contains(r#""ttl_s":10,"#) && body.contains(r#""args":{"celsius": 21.50}"#), "{body}");
    world.now = world.now.plus(Seconds(10));
    assert_eq!(ids(&world, "lamp"), []);
}

#[test]
fn a_command_that_a_device_has_is_not_sent_again_and_still_ends_in_one_way() {
    let mut world = World::with_devices(&["lamp"]);
    let command = world.send("lamp", "identify", None, 30).expect("taken").record;
    let context = world.context();
    let change = world.registry.note_delivered_command(&name("lamp"), &command.id, &context).expect("noted");
    world.commit(change);
    assert_eq!(world.registry.commands_waiting(&name("lamp"), world.now).count(), 0);
    assert!(world.registry.note_delivered_command(&name("lamp"), &command.id, &context).is_none(), "once");
    assert!(world.registry.note_delivered_command(&name("lamp"), "c-0", &context).is_none(), "what is known");
    assert_eq!(world.registry.command(&name("lamp"), &command.id).expect("known").state, CommandState::Sent);
    world.answer("lamp", &command.id, CommandState::Succeeded);
    assert_eq!(world.registry.command(&name("lamp"), &command.id).expect("known").state, CommandState::Succeeded);
}

#[test]
fn a_device_gets_only_the_commands_of_its_profile() {
    let mut world = World::with_devices(&["lamp"]);
    let refused = world.send("lamp", "explode", None, 30).expect_err("not taken");
    assert_eq!(
        refused.to_string(),
        "device lamp takes no command explode; its profile thermostat has: set-setpoint, set-mode, identify"
    );
    world.enrol("meter", "tasmota");
    assert!(world.send("meter", "identify", None, 30).expect_err("none").to_string().ends_with("has: none"));
    world.enrol("bridge", "gateway");
    assert!(world.send("bridge", "whatever", None, 30).is_ok(), "a gateway takes any");
}

#[test]
fn a_device_that_cannot_act_gets_no_command() {
    let mut world = World::with_devices(&["off", "gone"]);
    world.disable("off");
    world.revoke("gone");
    world.add("new", "thermostat").expect("a free name");
    let told = |refused: CommandRefused| refused.to_string();
    assert_eq!(
        world.send("off", "identify", None, 9).map_err(told).map(drop),
        Err("device off is disabled; `hearthkey device enable` ends that".to_owned())
    );
    assert_eq!(world.send("gone", "identify", None, 9).map_err(told).map(drop), Err("device gone is revoked".to_owned()));
    assert_eq!(
        world.send("new", "identify", None, 9).map_err(told).map(drop),
        Err("device new is waiting for its enrolment".to_owned())
    );
    assert_eq!(world.send("ghost", "identify", None, 9).map(drop), Err(CommandRefused::UnknownDevice(name("ghost"))));
}

#[test]
fn a_time_to_live_is_from_a_second_to_a_week() {
    let mut world = World::with_devices(&["lamp"]);
    for (ttl, good) in [(0, false), (1, true), (MAX_COMMAND_TTL.0, true), (MAX_COMMAND_TTL.0 + 1, false), (u64::MAX, false)] {
        assert_eq!(world.send("lamp", "identify", None, ttl).is_ok(), good, "{ttl}");
    }
}

#[test]
fn arguments_are_one_json_value_that_fits() {
    let mut world = World::with_devices(&["lamp"]);
    for good in ["1", " {\"a\": [1, null]} ", "\"text\"", "null"] {
        assert!(world.send("lamp", "identify", Some(good), 9).is_ok(), "{good}");
    }
    for bad in ["", "{", "{} {}", "{\"a\":1},\"seq\":9", "nonsense", "[1,]"] {
        assert!(matches!(world.send("lamp", "identify", Some(bad), 9), Err(CommandRefused::NotJson(_))), "{bad}");
    }
    let empty = world.send("lamp", "identify", Some("\"\""), 9).expect("fits").payload.len();
    let fill = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    assert_eq!(
        world.send("lamp", "identify", Some(&fill(MAX_COMMAND_BYTES - empty)), 9).expect("just fits").payload.len(),
        MAX_COMMAND_BYTES
    );
    let refused = world.send("lamp", "identify", Some(&fill(MAX_COMMAND_BYTES - empty + 1)), 9);
    assert_eq!(refused.map(drop), Err(CommandRefused::TooLarge(MAX_COMMAND_BYTES + 1)));
}

#[test]
fn so_many_commands_wait_and_no_more() {
    let mut world = World::with_devices(&["lamp"]);
    let mut ids = Vec::new();
    for _ in 0..MAX_PENDING_COMMANDS_PER_DEVICE {
        ids.push(world.send("lamp", "identify", None, 30).expect("room").record.id);
    }
    assert_eq!(world.send("lamp", "identify", None, 30).map(drop), Err(CommandRefused::TooMany(name("lamp"))));
    world.answer("lamp", &ids[3], CommandState::Succeeded).expect("an end");
    assert!(world.send("lamp", "identify", None, 30).is_ok(), "an end makes room");
}

#[test]
fn a_command_only_goes_forward_and_ends_once() {
    let allowed: [(CommandState, &[CommandState]); 3] = [
        (
            CommandState::Sent,
            &[
                CommandState::Accepted,
                CommandState::Executing,
                CommandState::Succeeded,
                CommandState::Failed,
                CommandState::Rejected,
            ],
        ),
        (
            CommandState::Accepted,
            &[CommandState::Executing, CommandState::Succeeded, CommandState::Failed, CommandState::Rejected],
        ),
        (CommandState::Executing, &[CommandState::Succeeded, CommandState::Failed, CommandState::Rejected]),
    ];
    for earlier in ALL_STATES {
        for next in ALL_STATES {
            let mut world = World::with_devices(&["lamp"]);
            let id = world.send("lamp", "identify", None, 30).expect("taken").record.id;
            match earlier {
                CommandState::Sent => {}
                CommandState::Expired => {
                    world.wait(30);
                    world.sweep();
                }
                other => drop(world.answer("lamp", &id, other).expect("the first word")),
            }
            let may = allowed.iter().any(|(from, to)| *from == earlier && to.contains(&next));
            assert_eq!(world.answer("lamp", &id, next).is_some(), may, "{} after {}", next.as_str(), earlier.as_str());
            assert_eq!(world.state("lamp", &id), if may { next } else { earlier });
        }
    }
}

#[test]
fn a_device_answers_its_own_commands_only() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let id = world.send("lamp", "identify", None, 30).expect("taken").record.id;
    assert_eq!(world.answer("oven", &id, CommandState::Succeeded), None);
    assert_eq!(world.answer("lamp", "c-0", CommandState::Succeeded), None);
    assert_eq!(world.state("lamp", &id), CommandState::Sent);
}

#[test]
fn a_long_reason_is_cut_and_told() {
    for hostile in ["\u{0}", "😀", "\""] {
        let mut world = World::with_devices(&["lamp"]);
        let id = world.send("lamp", "identify", None, 30).expect("taken").record.id;
        let answer = Acknowledgement { state: CommandState::Failed, reason: hostile.repeat(5_000) };
        let change =
            world.registry.acknowledge_command(&name("lamp"), &name("lamp"), &id, answer, &world.context()).expect("an end");
        assert_eq!(world.commit(change).reason, hostile.repeat(256), "and its rows fit into the store");
    }
}

#[test]
fn a_command_that_nobody_took_expires_and_one_that_was_taken_has_time_to_end() {
    let mut world = World::with_devices(&["lamp"]);
    let lost = world.send("lamp", "identify", None, 30).expect("taken").record.id;
    let slow = world.send("lamp", "identify", None, 30).expect("taken").record.id;
    let stuck = world.send("lamp", "identify", None, 30).expect("taken").record.id;
    world.answer("lamp", &slow, CommandState::Executing).expect("may follow");
    world.answer("lamp", &stuck, CommandState::Accepted).expect("may follow");
    world.wait(29);
    world.sweep();
    assert_eq!(world.state("lamp", &lost), CommandState::Sent);
    world.wait(1);
    world.sweep();
    assert_eq!(world.state("lamp", &lost), CommandState::Expired);
    assert_eq!(world.answer("lamp", &lost, CommandState::Succeeded), None, "one end");
    world.wait(600);
    world.sweep();
    assert!(world.answer("lamp", &slow, CommandState::Succeeded).is_some(), "the device was at it");
    world.wait(COMMAND_EXECUTION_TIME.0);
    world.sweep();
    assert_eq!(world.state("lamp", &stuck), CommandState::Failed);
    assert_eq!(world.registry.command(&name("lamp"), &stuck).expect("known").reason, "the device told no end");
}

#[test]
fn ended_commands_are_remembered_up_to_a_bound() {
    let mut world = World::with_devices(&["lamp"]);
    for round in 0..5 * MAX_ENDED_COMMANDS_PER_DEVICE {
        let id = world.send("lamp", "identify", None, 30).expect("taken").record.id;
        world.answer("lamp", &id, CommandState::Succeeded).expect("an end");
        let kept: Vec<u64> = world.registry.commands_of(&name("lamp")).map(|command| command.seq).collect();
        assert!(kept.len() <= MAX_ENDED_COMMANDS_PER_DEVICE, "{} in round {round}", kept.len());
        assert_eq!(kept.last(), Some(&world.device("lamp").command_seq), "the newest is among them");
    }
    for _ in 0..3 {
        for _ in 0..MAX_PENDING_COMMANDS_PER_DEVICE {
            world.send("lamp", "identify", None, 30).expect("taken");
        }
        world.wait(30);
        world.sweep();
        let kept = world.registry.commands_of(&name("lamp")).count();
        assert!(kept < MAX_ENDED_COMMANDS_PER_DEVICE + MAX_PENDING_COMMANDS_PER_DEVICE, "{kept}");
    }
}

#[test]
fn revoking_a_device_ends_its_commands() {
    let mut world = World::with_devices(&["lamp"]);
    let mut ids = Vec::new();
    for _ in 0..MAX_PENDING_COMMANDS_PER_DEVICE {
        ids.push(world.send("lamp", "identify", None, 30).expect("room").record.id);
    }
    world.revoke("lamp");
    assert!(ids.iter().all(|id| world.state("lamp", id) == CommandState::Failed));
    world.enrol_again("lamp", "lamp-2");
    assert!(world.send("lamp", "identify", None, 30).is_ok(), "what waited for its predecessor is not in its way");
    assert_eq!(world.answer("lamp", &ids[0], CommandState::Succeeded), None);
}

#[test]
fn a_command_is_answered_by_its_device_or_who_acts_for_it_and_the_audit_log_says_by_whom() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    world.add_with_children("gate", "gateway", &["lamp"]).expect("new");
    let mut answer = |by: &str| {
        let id = world.send("lamp", "identify", None, 30).expect("taken").record.id;
        let answer = Acknowledgement { state: CommandState::Succeeded, reason: String::new() };
        let change = world.registry.acknowledge_command(&name(by), &name("lamp"), &id, answer, &world.context())?;
        world.commit(change);
        world.audit().last().map(|entry| entry.actor.clone())
    };
    assert_eq!(answer("lamp").as_deref(), Some("device lamp"));
    assert_eq!(answer("gate").as_deref(), Some("device gate"));
    assert_eq!(answer("oven"), None);
}
