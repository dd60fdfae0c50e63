//! `hearthkey up --simulate N`: thermostats that enrol, connect and obey for real, over real sockets, and a demonstration of
//! what the hub allows and what it does not. Plays the owner's part; the devices play theirs in `hearthkey-sim`.

use crate::{
    cli::{
        Exit, Failure, Output,
        simulate_view::{SimLine, SimSummary, show, show_summary},
    },
    hub::{Hub, NotDecided, Refusal, ShownOnce},
    mqtt::watch::Watched,
    server::Server,
    up::program,
};
use hearthkey_core::{
    DeviceId, Seconds,
    profile::{CommandName, ProfileName},
    registry::{CommandState, DeviceStatus, NewDevice},
    session::Authority,
    topic::{SubscriptionFilter, TopicFilter},
};
use hearthkey_sim::{DeviceOptions, EnrolmentString, Events, Fleet, FleetOptions, PublishError, SimEvent, SimEventKind, Storage};
use std::{
    fmt::Display,
    future::Future,
    num::NonZeroU32,
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// Time between two reports of a simulated thermostat.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long the demonstration waits for one step.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the simulated devices are.
const PROFILE: &str = "thermostat";
/// The command of the demonstration.
const COMMAND: (&str, &str) = ("set-setpoint", r#"{"celsius":22.5}"#);

/// Runs the devices until `ended`; the exit says whether everything that should have happened did.
pub(crate) async fn run(
    server: &Server,
    data: &Path,
    data_flag: &str,
    devices: NonZeroU32,
    out: &mut Output,
    ended: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let hub = server.hub();
    let owner = owner(hub, data)?;
    let names: Vec<DeviceId> =
        (1..=devices.get()).filter_map(|number| DeviceId::parse(&format!("thermostat-{number}")).ok()).collect();
    let mut options = Vec::with_capacity(names.len());
    for (name, seed) in names.iter().zip(1..) {
        options.push(prepare(hub, &owner, data, name, seed).await?);
    }
    let filter = SubscriptionFilter { share_name: None, filter: TopicFilter::parse("dev/#").map_err(failed)? };
    let standing = hub.judge(&owner).map_err(|end| failed(end.reason_string()))?;
    let mut telemetry = server.front().watch(filter, standing.rights).await.map_err(failed)?;
    let (fleet, mut events) = Fleet::start(options, FleetOptions::default()).map_err(failed)?;

    let mut tally = Tally::default();
    let mut demonstrated = false;
    {
        let mut demonstration = pin!(demonstrate(hub, &owner, &fleet, &names));
        let mut ended = pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                lines = &mut demonstration, if !demonstrated => {
                    demonstrated = true;
                    for line in lines?.into_iter().chain(hints(&names, data_flag)) {
                        show(out, &line)?;
                    }
                }
                event = events.next() => match event {
                    Some(event) => {
                        if let Some(line) = tally.take(&event) {
                            show(out, &line)?;
                        }
                    }
                    None => break,
                },
                Some(watched) = telemetry.next() => {
                    if let Watched::Message(routed) = watched
                        && let Some(line) = telemetry_line(routed.topic.as_str(), &routed.message.payload)
                    {
                        show(out, &line)?;
                    }
                }
            }
        }
    }
    drain(&mut events, &mut tally);
    let fleet = fleet.stop().await;
    let summary = SimSummary {
        ran: began.elapsed(),
        enrolled: tally.enrolled,
        tokens: tally.tokens,
        authorized: fleet.acknowledged,
        refused: fleet.refused,
        commands_succeeded: fleet.commands_succeeded,
        commands_failed: fleet.commands_rejected,
    };
    show_summary(out, &summary)?;
    let unreached = fleet.devices - usize::try_from(fleet.reached).unwrap_or(usize::MAX).min(fleet.devices);
    for (reason, count) in &fleet.failed_by_reason {
        out.note(format!("{count} devices gave up: {reason}"));
    }
    if demonstrated && unreached == 0 {
        return Ok(Exit::Done);
    }
    out.note(format!(
        "the run ended early: {unreached} of {} devices had no session yet; give it longer with --for 60s",
        fleet.devices
    ));
    Ok(Exit::Refused)
}

#[derive(Default)]
struct Tally {
    enrolled: u64,
    tokens: u64,
}

impl Tally {
    fn take(&mut self, event: &SimEvent) -> Option<SimLine> {
        let device = event.device.as_deref().unwrap_or("a device").to_owned();
        match &event.kind {
            SimEventKind::Enrolled { .. } => {
                self.enrolled += 1;
                Some(SimLine::Enrolled { device, profile: PROFILE.to_owned() })
            }
            SimEventKind::Connected { .. } | SimEventKind::Renewed { .. } => {
                self.tokens += 1;
                None
            }
            _ => None,
        }
    }
}

/// Counts what has happened already and nobody has looked at.
fn drain(events: &mut Events, tally: &mut Tally) {
    while let Some(Some(event)) = futures_util::FutureExt::now_or_never(events.next()) {
        tally.take(&event);
    }
}

fn telemetry_line(topic: &str, payload: &[u8]) -> Option<SimLine> {
    let mut levels = topic.split('/').skip(1);
    let (device, kind) = (levels.next()?, levels.next()?);
    (kind == "tele").then(|| SimLine::Telemetry {
        device: device.to_owned(),
        topic: topic.to_owned(),
        payload: String::from_utf8_lossy(payload).into_owned(),
    })
}

/// The owner, by the token that lies beside the data.
fn owner(hub: &Arc<Hub>, data: &Path) -> Result<Authority, Failure> {
    let file = data.join("contexts").join("local.token");
    let token = std::fs::read_to_string(&file).map(zeroize::Zeroizing::new);
    let token = token.map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    hub.admit(token.trim()).map(|(authority, _)| authority).map_err(failed)
}

/// Adds the device, or enrols it anew, unless it has its key from an earlier run.
async fn prepare(hub: &Hub, owner: &Authority, data: &Path, name: &DeviceId, seed: u64) -> Result<DeviceOptions, Failure> {
    let place = data.join("simulated").join(name.as_str());
    let status = hub.view(|registry| registry.device(name).map(|device| device.status));
    let storage = Storage::directory(&place).map_err(failed)?;
    let has_identity = storage.load("identity").map_err(failed)?.is_some();
    let context = hub.context(None, "simulate");
    let (enrolment, shown) = hub.new_enrolment();
    match status {
        Some(DeviceStatus::Active) if has_identity => {
            return Ok(DeviceOptions { interval: INTERVAL, seed, ..DeviceOptions::stored_in(storage) });
        }
        Some(DeviceStatus::Disabled) => {
            return Err(failed(format!("device {name} is disabled")).next(format!("{} device enable {name}", program())));
        }
        Some(DeviceStatus::Active | DeviceStatus::Pending) => {
            let rotated = hub.decide(|registry| {
                let permit = registry.permit_user(owner, hub.now())?;
                registry.rotate_device(&permit, name, enrolment, None, &context).map_err(Refusal::Policy)
            });
            rotated.await.map_err(failed)?;
        }
        None | Some(DeviceStatus::Revoked) => {
            let new = NewDevice { id: name.clone(), profile: ProfileName::parse(PROFILE).map_err(failed)?, children: Vec::new() };
            hub.add_device(owner, new, enrolment, &context).await.map_err(failed)?;
        }
    }
    let storage = if has_identity {
        // The identity is of another life of this name: the hub does not know its key any more.
        drop(storage);
        std::fs::remove_dir_all(&place).map_err(failed)?;
        Storage::directory(&place).map_err(failed)?
    } else {
        storage
    };
    let ShownOnce::EnrolmentString(secret) = shown else { return Err(failed("no enrolment string was made")) };
    let enrolment: EnrolmentString = secret.expose().parse().map_err(|error| failed(format!("{error:?}")))?;
    Ok(DeviceOptions { enrolment: Some(enrolment), interval: INTERVAL, seed, ..DeviceOptions::stored_in(storage) })
}

/// A publish to a neighbour's topic, which must be refused, and a command, which must come back done.
async fn demonstrate(hub: &Arc<Hub>, owner: &Authority, fleet: &Fleet, names: &[DeviceId]) -> Result<Vec<SimLine>, Failure> {
    let (Some(first), Some(last)) = (names.first(), names.last()) else { return Ok(Vec::new()) };
    let neighbour = if first == last { "somebody-else".to_owned() } else { last.to_string() };
    let topic = format!("dev/{neighbour}/tele/temperature");
    let intruder = fleet.device(0).ok_or_else(|| failed("the fleet has no device"))?;
    let answer = tokio::time::timeout(PATIENCE, intruder.publish(topic.clone(), r#"{"celsius":99}"#)).await;
    let refusal = match answer {
        Ok(Err(PublishError::Refused { reason, .. })) => SimLine::Refused { device: first.to_string(), topic, reason },
        Ok(Ok(())) => return Err(failed(format!("the hub let {first} publish to {topic}"))),
        Ok(Err(other)) => return Err(failed(format!("{first} could not try to publish to {topic}: {other}"))),
        Err(_) => return Err(failed(format!("no answer within {} s to a publish of {first}", PATIENCE.as_secs()))),
    };
    let (name, args) = COMMAND;
    let asked = Instant::now();
    let command = CommandName::parse(name).map_err(failed)?;
    let context = hub.context(None, "simulate");
    let sent = hub.send_command(owner, last, command, Some(args), Seconds(PATIENCE.as_secs()), &context).await;
    let sent = sent.map_err(|error: NotDecided<_>| failed(error))?;
    let ended = hub.command_after(last, &sent.id, PATIENCE).await.unwrap_or(sent);
    if ended.state != CommandState::Succeeded {
        return Err(failed(format!("the command {name} to {last} ended as {}: {}", ended.state.as_str(), ended.reason)));
    }
    let command = SimLine::Command {
        device: last.to_string(),
        name: name.to_owned(),
        args: args.to_owned(),
        states: vec!["sent".to_owned(), ended.state.as_str().to_owned()],
        took: asked.elapsed(),
    };
    Ok(vec![refusal, command])
}

fn hints(names: &[DeviceId], data_flag: &str) -> Vec<SimLine> {
    let Some(first) = names.first() else { return Vec::new() };
    let program = program();
    let hint =
        |what: &str, command: String| SimLine::Hint { what: what.to_owned(), command: format!("{program} {command}{data_flag}") };
    vec![
        hint("ask why", format!("can {first} publish dev/somebody-else/tele/temperature")),
        hint("cut one off", format!("device revoke {first}")),
        hint("add your own", "device add porch --profile thermostat".to_owned()),
        hint("read what happened", "audit tail".to_owned()),
    ]
}

fn failed(why: impl Display) -> Failure {
    Failure::new(Exit::Refused, why.to_string())
}
