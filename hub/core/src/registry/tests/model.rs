//! Random lives of a home against a model of it that fits on a page. A failure prints the shortest life that shows it.

use super::*;
use crate::limits::{
    ENROLMENT_CODE_LIFETIME, MAX_DENIED_TOKENS, MAX_ENDED_COMMANDS_PER_DEVICE, MAX_PENDING_COMMANDS_PER_DEVICE, ROTATION_GRACE,
};
use crate::{scope::PermissionName, topic::TopicName};
use proptest::prelude::*;

const DEVICES: [&str; 2] = ["lamp", "oven"];

/// What somebody does.
#[derive(Debug, Clone)]
enum Step {
    Add {
        device: usize,
        with_secret: bool,
    },
    Rotate {
        device: usize,
        with_secret: bool,
    },
    /// With the code made last, whoever it was for, and a new key or the one registered last.
    Register {
        device: usize,
        new_key: bool,
    },
    Token {
        device: usize,
        by: usize,
        scope: usize,
    },
    RevokeToken {
        token: usize,
    },
    Disable(usize),
    Enable(usize),
    Revoke(usize),
    Command(usize),
    Wait(u64),
    Sweep,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = || 0..DEVICES.len();
    let step = prop_oneof![
        3 => (device(), any::<bool>()).prop_map(|(device, with_secret)| Step::Add { device, with_secret }),
        2 => (device(), any::<bool>()).prop_map(|(device, with_secret)| Step::Rotate { device, with_secret }),
        5 => (device(), prop_oneof![3 => Just(true), 1 => Just(false)]).prop_map(|(device, new_key)| Step::Register { device, new_key }),
        8 => (device(), 0_usize..8, 0_usize..4).prop_map(|(device, by, scope)| Step::Token { device, by, scope }),
        1 => (0_usize..8).prop_map(|token| Step::RevokeToken { token }),
        1 => device().prop_map(Step::Disable),
        2 => device().prop_map(Step::Enable),
        1 => device().prop_map(Step::Revoke),
        2 => device().prop_map(Step::Command),
        3 => prop_oneof![Just(1), Just(60), Just(300), Just(1_000), Just(3_600)].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A key or a secret, oldest first.
struct Proof {
    name: String,
    is_key: bool,
    used: bool,
    retires_at: Option<u64>,
}

#[derive(Default)]
struct Device {
    /// None before it is added: pending, active, disabled or revoked.
    status: Option<DeviceStatus>,
    /// Which of its lives it is in: a token of another is worth nothing.
    life: u64,
    proofs: Vec<Proof>,
    /// The code, until when, and the key that used it.
    code: Option<(Vec<u8>, u64, Option<String>)>,
}

struct Token {
    issued: IssuedToken,
    device: usize,
    life: u64,
    revoked: bool,
}

#[derive(Default)]
struct Model {
    devices: [Device; 2],
    tokens: Vec<Token>,
    keys_made: u64,
}

impl Device {
    fn exists(&self) -> bool {
        self.status.is_some_and(|status| status != DeviceStatus::Revoked)
    }

    fn usable(&self, now: u64) -> impl Iterator<Item = &Proof> {
        self.proofs.iter().filter(move |proof| proof.retires_at.is_none_or(|at| now < at))
    }

    fn has_proved(&mut self, place: usize, now: u64) {
        if !self.proofs[place].used {
            for older in self.proofs[..place].iter_mut().filter(|older| older.retires_at.is_none()) {
                older.retires_at = Some(now + ROTATION_GRACE.0);
            }
        }
        self.proofs[place].used = true;
        let name = &self.proofs[place].name;
        self.code.take_if(|(.., used_by)| used_by.as_ref() == Some(name));
    }
}

impl Model {
    fn step(&mut self, world: &mut World, step: Step) {
        let now = world.now.0;
        let fresh_secret = |secret: String| Proof { name: secret, is_key: false, used: false, retires_at: None };
        match step {
            Step::Add { device: index, with_secret } => {
                let device = &mut self.devices[index];
                let outcome = if with_secret {
                    world.add_with_secret(DEVICES[index], "thermostat").map(Ok)
                } else {
                    world.add(DEVICES[index], "thermostat").map(Err)
                };
                assert_eq!(outcome.is_err(), device.exists());
                let Ok(outcome) = outcome else { return };
                *device = Device { status: Some(DeviceStatus::Pending), life: device.life + 1, ..Device::default() };
                match outcome {
                    Ok(secret) => {
                        device.status = Some(DeviceStatus::Active);
                        device.proofs.push(fresh_secret(secret));
                    }
                    Err(code) => device.code = Some((code, now + ENROLMENT_CODE_LIFETIME.0, None)),
                }
            }
            Step::Rotate { device: index, with_secret } => {
                world.sweep();
                let device = &mut self.devices[index];
                let secrets = device.usable(now).filter(|proof| !proof.is_key).count();
                if secrets >= crate::limits::MAX_SECRETS_PER_CLIENT {
                    return;
                }
                let outcome = if with_secret {
                    world.rotate_by_secret(DEVICES[index]).map(Ok)
                } else {
                    world.rotate_by_code(DEVICES[index]).map(Err)
                };
                assert_eq!(outcome.is_ok(), device.exists());
                match outcome {
                    Ok(Ok(secret)) => {
                        device.code = None;
                        device.proofs.push(fresh_secret(secret));
                        if device.status == Some(DeviceStatus::Pending) {
                            device.status = Some(DeviceStatus::Active);
                        }
                    }
                    Ok(Err(code)) => device.code = Some((code, now + ENROLMENT_CODE_LIFETIME.0, None)),
                    Err(_) => {}
                }
            }
            Step::Register { device: index, new_key } => {
                let device = &mut self.devices[index];
                let newest = device.proofs.iter().rev().find(|proof| proof.is_key);
                let name = match newest {
                    Some(proof) if !new_key => proof.name.clone(),
                    _ => {
                        self.keys_made += 1;
                        format!("key {}", self.keys_made)
                    }
                };
                if device.usable(now).filter(|proof| proof.is_key).count() >= MAX_KEYS_PER_CLIENT {
                    return;
                }
                let Some((code, until, used_by)) = &mut device.code else { return };
                let known = device.proofs.iter().find(|proof| proof.name == name);
                let expected = now < *until
                    && device.status != Some(DeviceStatus::Revoked)
                    && used_by.as_ref().is_none_or(|used_by| *used_by == name)
                    && known.is_none_or(|known| known.retires_at.is_none());
                let unknown = known.is_none();
                // A retired key is forgotten by a sweep; then it is a new one. Nobody offers it here.
                if known.is_some_and(|known| known.retires_at.is_some_and(|at| at <= now)) {
                    return;
                }
                assert_eq!(world.register(code, &key(&name)).is_ok(), expected, "{name}");
                if expected {
                    *used_by = Some(name.clone());
                    if unknown {
                        device.proofs.push(Proof { name, is_key: true, used: false, retires_at: None });
                    }
                    if device.status == Some(DeviceStatus::Pending) {
                        device.status = Some(DeviceStatus::Active);
                    }
                }
            }
            Step::Token { device: index, by, scope } => {
                let device = &mut self.devices[index];
                if device.proofs.is_empty() {
                    assert!(world.token_by(DEVICES[index], &key("nobody")).is_err());
                    return;
                }
                let place = by % device.proofs.len();
                let proof = &device.proofs[place];
                let usable = proof.retires_at.is_none_or(|at| now < at);
                let form = format!("{GRANT}{}", ["", "&scope=telemetry", "&scope=twin+commands", "&scope=devices:manage"][scope]);
                let expected = usable && device.status == Some(DeviceStatus::Active) && scope != 3;
                let outcome = if proof.is_key {
                    let assertion = world.assertion(DEVICES[index], &key(&proof.name)).sign(&key(&proof.name));
                    world.post(&form, &assertion)
                } else {
                    let name = proof.name.clone();
                    world.post_as(ClientAuthentication::Secret { client_id: DEVICES[index], client_secret: &name }, &form)
                };
                assert_eq!(outcome.is_ok(), expected, "{:?} {outcome:?}", device.status);
                if let Ok(issued) = outcome {
                    let allowed = world.registry.profile(&name("thermostat")).expect("shipped").scope();
                    assert!(issued.claims.scope.is_subset_of(&allowed));
                    device.has_proved(place, now);
                    self.tokens.push(Token { issued, device: index, life: device.life, revoked: false });
                }
            }
            Step::RevokeToken { token } => {
                let Some(token) = self.tokens.get_mut(token) else { return };
                let device = &mut self.devices[token.device];
                let Some(place) =
                    device.proofs.iter().position(|proof| proof.is_key && proof.retires_at.is_none_or(|at| now < at))
                else {
                    return;
                };
                let with = key(&device.proofs[place].name);
                let outcome = world.revoke_token_by(DEVICES[token.device], &with, &token.issued);
                assert_eq!(outcome.is_ok(), device.status == Some(DeviceStatus::Active));
                if outcome.is_ok() {
                    device.has_proved(place, now);
                    token.revoked = true;
                }
            }
            Step::Disable(index) => {
                let device = &mut self.devices[index];
                if device.exists() {
                    world.disable(DEVICES[index]);
                    device.life += 1;
                    device.status = Some(DeviceStatus::Disabled);
                }
            }
            Step::Enable(index) => {
                let device = &mut self.devices[index];
                if device.exists() {
                    world.sweep();
                    world.enable(DEVICES[index]);
                    let proves = device.usable(now).next().is_some();
                    device.status = Some(if proves { DeviceStatus::Active } else { DeviceStatus::Pending });
                }
            }
            Step::Revoke(index) => {
                let device = &mut self.devices[index];
                if device.status.is_some() {
                    world.revoke(DEVICES[index]);
                    *device = Device { status: Some(DeviceStatus::Revoked), life: device.life + 1, ..Device::default() };
                }
            }
            Step::Command(index) => {
                let active = self.devices[index].status == Some(DeviceStatus::Active);
                let sent = world.send(DEVICES[index], "identify", None, 300);
                assert!(active || sent.is_err());
            }
            Step::Wait(seconds) => world.wait(seconds),
            Step::Sweep => world.sweep(),
            Step::Restart => world.registry = restarted(&world.rows),
        }
    }

    fn check(&self, world: &World) {
        for token in &self.tokens {
            let device = &self.devices[token.device];
            let good = device.status == Some(DeviceStatus::Active)
                && device.life == token.life
                && !token.revoked
                && world.now < token.issued.claims.exp;
            assert_eq!(world.judge(&token.issued).is_ok(), good, "{:?} of {}", token.issued.claims.jti, DEVICES[token.device]);
        }
        for (device, id) in self.devices.iter().zip(DEVICES) {
            assert_eq!(world.registry.device(&name(id)).map(|record| record.status), device.status, "{id}");
            let commands = world.registry.commands_of(&name(id)).count();
            assert!(commands <= MAX_ENDED_COMMANDS_PER_DEVICE + MAX_PENDING_COMMANDS_PER_DEVICE);
            if let Some(record) = world.registry.device(&name(id)) {
                assert!(record.keys.len() <= MAX_KEYS_PER_CLIENT);
            }
        }
        assert!(world.registry.enrolments_by_code_hash.len() <= DEVICES.len());
        assert!(world.registry.denied_tokens.len() <= MAX_DENIED_TOKENS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_life_of_a_home_lets_a_token_be_good_that_should_not_be_or_the_other_way_round(steps in steps()) {
        let mut world = World::new();
        let mut model = Model::default();
        for step in steps {
            model.step(&mut world, step);
            model.check(&world);
        }
    }

    #[test]
    fn the_rights_of_a_narrower_scope_are_among_those_of_a_wider_one(
        wide in proptest::sample::subsequence(vec!["telemetry", "commands", "twin"], 0..=3),
        narrow in proptest::sample::subsequence(vec!["telemetry", "commands", "twin"], 0..=3),
        topic in "(dev|tele)/(lamp|oven)/(tele|cmd|ack|twin|status)(/(x|desired|reported))?",
    ) {
        let world = World::with_devices(&["lamp"]);
        let scope = |names: &[&str]| names.iter().filter_map(|name| PermissionName::parse(name).ok()).collect::<Scope>();
        let (wide, narrow) = (scope(&wide), scope(&narrow));
        let rights = |scope: &Scope| world.registry.rights_of_device(world.device("lamp"), scope).expect("a profile");
        let topic = TopicName::parse(&topic).expect("legal");
        let (wider, narrower) = (rights(&wide), rights(&narrow));
        if narrow.is_subset_of(&wide) {
            prop_assert!(narrower.publish_rule(&topic).is_none() || wider.publish_rule(&topic).is_some());
            prop_assert!(narrower.authorize_delivery(&topic).is_err() || wider.authorize_delivery(&topic).is_ok());
        }
        prop_assert!(!topic.as_str().contains("oven") || wider.publish_rule(&topic).is_none());
    }
}
