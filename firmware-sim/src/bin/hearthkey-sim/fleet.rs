//! `hearthkey-sim fleet`: where the devices come from, and what is shown while they run.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use hearthkey_sim::scenario::{Record, Report};
use hearthkey_sim::{DeviceOptions, EnrolmentString, Fleet, FleetOptions, LocalHub, Owner, Storage, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arguments::{FleetArguments, RunArguments};
use crate::display::{Run, print_run, remark};
use crate::ending::Signals;
use crate::{Failure, read_strings};

/// Files beside the devices' sockets: the program's own, and what talks to the hub.
const OTHER_OPEN_FILES: u64 = 64;
/// How often the live counts of a fleet are drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// Runs a fleet, or plays a scenario; whether all went well.
pub(crate) async fn run(arguments: FleetArguments, signals: &Signals) -> Result<bool, Failure> {
    if let Some(scenario) = &arguments.scenario {
        return crate::stories::play(scenario, &arguments, signals).await;
    }
    let run = &arguments.run;
    try_report(arguments.report.as_deref())?;
    allow_open_files(arguments.devices.unwrap_or_default() as usize)?;
    let hub = find_hub(&arguments).await?;
    let enrolments = fleet_enrolments(&arguments, hub.as_ref().map(|(owner, _)| owner)).await?;
    let resident_before = resident_bytes();
    let devices = fleet_devices(&arguments, enrolments)?;
    allow_open_files(devices.len())?;
    let options = FleetOptions {
        threads: arguments.threads.map(|threads| threads as usize),
        ramp: arguments.ramp.unwrap_or_default(),
        ..FleetOptions::default()
    };
    let began = Instant::now();
    let (fleet, events) = Fleet::start(devices, options)?;
    drop(events);
    let mut record = Record::default();
    let commands = arguments.command_every.zip(hub.as_ref().map(|(owner, _)| owner.clone()));
    watch_fleet(&fleet, run, commands, &mut record, signals).await;
    let resident = resident_before.zip(resident_bytes()).map(|(before, now)| now.saturating_sub(before));
    let summary = fleet.stop().await;
    // A closed standard output has nobody to tell.
    let took = began.elapsed();
    let (seed, took_s) = (run.seed(), took.as_secs_f64());
    let resident_bytes_per_device = resident.map(|bytes| bytes / (summary.devices.max(1) as u64));
    let _ = print_run(&Run { seed, took_s, resident_bytes_per_device, summary: &summary }, run.output);
    if let Some((_, Some(mut hub))) = hub {
        hub.stop().await?;
    }
    if let Some(file) = &arguments.report {
        let interval = humantime::format_duration(run.interval());
        let took = humantime::format_duration(Duration::from_secs(took.as_secs()));
        let story = format!("{} devices, a reading every {interval}, seed {}, {took}", summary.devices, run.seed());
        let (summary, record) = (&summary, &record);
        let report = Report { title: "A fleet", story: &story, verdicts: &[], notes: &[], network: None, summary, record };
        write_report(file, report.to_html()?)?;
    }
    Ok(every_device_was_served(&summary))
}

/// Memory of this process that is resident now, without what the system could read from its files again; `None` where the system
/// does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Whether every device had a session and none gave up.
pub(crate) fn every_device_was_served(summary: &Summary) -> bool {
    summary.reached == summary.devices as u64 && summary.failed_by_reason.is_empty()
}

/// The hub that the arguments name, in its owner's hands; started here for --with-hub.
pub(crate) async fn find_hub(arguments: &FleetArguments) -> Result<Option<(Owner, Option<LocalHub>)>, Failure> {
    if let (Some(hub), Some(ca), Some(token)) = (&arguments.hub, &arguments.ca, &arguments.owner_token_file) {
        return Ok(Some((Owner::open(hub, ca, token)?, None)));
    }
    if let Some(data) = &arguments.data {
        return Ok(Some((Owner::local(data)?, None)));
    }
    if !arguments.with_hub {
        return Ok(None);
    }
    let hub = match &arguments.hub_binary {
        Some(binary) => LocalHub::start_program(binary.clone()).await?,
        None => LocalHub::start().await?,
    };
    let data = hub.data();
    remark(&format!("started a hub in {}; to see what passes: hearthkey watch --data {}", data.display(), data.display()));
    Ok(Some((hub.owner(), Some(hub))))
}

/// Takes as many file descriptors as so many devices need, if the system allows.
pub(crate) fn allow_open_files(sockets: usize) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    let needed = sockets as u64 + OTHER_OPEN_FILES;
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit }).map_err(|_| {
        let allowed = limit.maximum.unwrap_or_default();
        format!(
            "so many devices need {needed} open files, and a program may have {allowed} here: take fewer --devices, or raise \
             the limit (as root: ulimit -n {needed})"
        )
        .into()
    })
}

/// Says before a run rather than after it that its report has no place.
pub(crate) fn try_report(file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    let opened = std::fs::File::options().append(true).create(true).open(file);
    opened.map(drop).map_err(|error| format!("no report can be written to {}: {error}", file.display()).into())
}

/// Writes an HTML report and says where.
pub(crate) fn write_report(file: &Path, html: String) -> Result<(), Failure> {
    std::fs::write(file, html).map_err(|error| format!("{}: {error}", file.display()))?;
    remark(&format!("the report is in {}", file.display()));
    Ok(())
}

/// Enrolment strings from the file, from the hub, or none for a fleet that is kept in --storage.
async fn fleet_enrolments(arguments: &FleetArguments, owner: Option<&Owner>) -> Result<Vec<EnrolmentString>, Failure> {
    if let Some(file) = &arguments.enrol {
        let strings = read_strings(file)?;
        return match arguments.devices.map(|devices| devices as usize) {
            None => Ok(strings),
            Some(devices) if devices <= strings.len() => Ok(strings.into_iter().take(devices).collect()),
            Some(devices) => {
                Err(format!("{} holds {} enrolment strings, {devices} devices need as many", file.display(), strings.len())
                    .into())
            }
        };
    }
    let Some(owner) = owner else { return Ok(Vec::new()) };
    let devices = arguments.devices.ok_or("say how many devices, with --devices N")?;
    let bar = progress_bar(u64::from(devices), "adding devices at the hub");
    let strings = owner.add_devices(&arguments.prefix, devices as usize, &arguments.profile, || bar.inc(1)).await?;
    bar.finish_and_clear();
    Ok(strings)
}

/// One device per enrolment string, or per directory that is kept in --storage.
fn fleet_devices(arguments: &FleetArguments, enrolments: Vec<EnrolmentString>) -> Result<Vec<DeviceOptions>, Failure> {
    let run = &arguments.run;
    let count = match (&arguments.storage, enrolments.len()) {
        (Some(dir), 0) => kept_devices(dir)?.min(arguments.devices.map_or(usize::MAX, |devices| devices as usize)),
        (_, count) => count,
    };
    let mut enrolments = enrolments.into_iter();
    (0..count)
        .map(|index| {
            let storage = match &arguments.storage {
                Some(dir) => Storage::directory(dir.join(device_directory(index)))?,
                None => Storage::memory(),
            };
            Ok(device_options(enrolments.next(), storage, run, index as u64))
        })
        .collect()
}

fn device_directory(index: usize) -> String {
    format!("device-{}", index + 1)
}

fn kept_devices(dir: &Path) -> Result<usize, Failure> {
    let kept = (0..).take_while(|index| dir.join(device_directory(*index)).is_dir()).count();
    if kept == 0 {
        return Err(format!("{} keeps no devices: enrol some with --enrol FILE or --hub URL", dir.display()).into());
    }
    Ok(kept)
}

/// What one device is given.
pub(crate) fn device_options(
    enrolment: Option<EnrolmentString>,
    storage: Storage,
    run: &RunArguments,
    index: u64,
) -> DeviceOptions {
    DeviceOptions {
        enrolment,
        interval: run.interval(),
        seed: run.seed().wrapping_add(index),
        time_scale: run.time_scale,
        ..DeviceOptions::stored_in(storage)
    }
}

/// Shows how many devices the hub has served, then what they do, until the run is over.
async fn watch_fleet(
    fleet: &Fleet,
    run: &RunArguments,
    commands: Option<(Duration, Owner)>,
    record: &mut Record,
    signals: &Signals,
) {
    let bar = progress_bar(fleet.len() as u64, "");
    let (end, commanding) = (signals.end_of_run(run.run_for), command_now_and_then(fleet, commands, run.seed()));
    tokio::pin!(end, commanding);
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            _ = redraw.tick() => {
                let summary = fleet.summary();
                record.sample(fleet);
                show_progress(&bar, &summary, "");
                let failed: u64 = summary.failed_by_reason.values().sum();
                if failed == summary.devices as u64 {
                    break;
                }
            }
            () = &mut end => break,
            never = &mut commanding => match never {},
        }
    }
    bar.finish_and_clear();
}

async fn command_now_and_then(fleet: &Fleet, commands: Option<(Duration, Owner)>, seed: u64) -> Infallible {
    let Some((every, owner)) = commands else { return std::future::pending().await };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let online: Vec<_> = fleet.states().iter().enumerate().filter(|(_, state)| state.online).map(|(at, _)| at).collect();
        let Some(index) = random.choice(online) else { continue };
        if let Err(error) = fleet.command(&owner, index, "identify", None).await {
            tracing::warn!("{error}");
        }
    }
}

/// Draws the live counts.
pub(crate) fn show_progress(bar: &ProgressBar, summary: &Summary, what: &str) {
    bar.set_length(summary.devices as u64);
    bar.set_position(summary.reached);
    bar.set_message(format!(
        "online {}, acknowledged {}, refused {}, commands {} {what}",
        summary.online,
        summary.acknowledged,
        summary.refused,
        summary.commands_succeeded + summary.commands_rejected,
    ));
}

/// Drawn on standard error, and only on a terminal.
pub(crate) fn progress_bar(length: u64, message: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed} {bar:24.green} {pos}/{len} {msg}").expect("a constant template");
    ProgressBar::new(length).with_style(style).with_message(message.to_owned())
}
