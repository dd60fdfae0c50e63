//! `hearthkey-sim`: runs simulated thermostats from the command line.

mod arguments;
mod display;
mod hub_api;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hearthkey_sim::{DeviceOptions, EnrolmentString, Events, Fleet, FleetOptions, Storage, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::arguments::{Arguments, Command, DeviceArguments, FleetArguments, RunArguments};
use crate::display::{print_event, print_summary, remark};
use crate::hub_api::HubApi;

/// A file of enrolment strings for the largest fleet.
const MAX_ENROLMENT_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// How often the live counts of a fleet are drawn.
const REDRAW: Duration = Duration::from_millis(250);

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let outcome = match arguments.command {
        Command::Device(arguments) => run_device(arguments).await,
        Command::Fleet(arguments) => run_fleet(arguments).await,
    };
    match outcome {
        Ok(summary) if every_device_was_served(&summary) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            remark(&format!("hearthkey-sim: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn every_device_was_served(summary: &Summary) -> bool {
    summary.reached == summary.devices as u64 && summary.failed_by_reason.is_empty()
}

async fn run_device(arguments: DeviceArguments) -> Result<Summary, Failure> {
    let enrolment = match arguments.enrol.as_deref() {
        None => None,
        Some("-") => Some(only_string(read_strings(Path::new("-"))?)?),
        Some(string) => Some(string.parse::<EnrolmentString>()?),
    };
    let storage = match &arguments.storage {
        Some(dir) => Storage::directory(dir)?,
        None if enrolment.is_none() => {
            return Err("give the device its enrolment string with --enrol -, or its --storage: \
                        `hearthkey device add NAME --profile thermostat` prints a string"
                .into());
        }
        None => {
            remark("the identity is gone when this ends; keep it with --storage DIR");
            Storage::memory()
        }
    };
    let run = &arguments.run;
    let device = DeviceOptions { erase: arguments.erase, ..device_options(enrolment, storage, run, 0) };
    let (fleet, mut events) = Fleet::start(vec![device], FleetOptions::default())?;
    print_until_the_end(&mut events, run).await?;
    let summary = fleet.stop().await;
    while let Some(event) = events.next().await {
        // A closed standard output has nobody to tell.
        let _ = print_event(&event, run.output);
    }
    Ok(summary)
}

async fn print_until_the_end(events: &mut Events, run: &RunArguments) -> Result<(), Failure> {
    let end = end_of_run(run.run_for);
    tokio::pin!(end);
    loop {
        tokio::select! {
            event = events.next() => match event {
                // A closed standard output (`| head`) ends the run like Ctrl-C.
                Some(event) if print_event(&event, run.output).is_err() => return Ok(()),
                Some(_) => {}
                None => return Ok(()),
            },
            ended = &mut end => return ended,
        }
    }
}

async fn run_fleet(arguments: FleetArguments) -> Result<Summary, Failure> {
    let run = &arguments.run;
    let enrolments = fleet_enrolments(&arguments).await?;
    let devices = fleet_devices(&arguments, enrolments)?;
    let options = FleetOptions { threads: arguments.threads.map(|threads| threads as usize), ..FleetOptions::default() };
    let (fleet, events) = Fleet::start(devices, options)?;
    drop(events);
    watch_fleet(&fleet, run).await?;
    let summary = fleet.stop().await;
    // A closed standard output has nobody to tell.
    let _ = print_summary(&summary, run.output);
    Ok(summary)
}

/// Enrolment strings from the file, from the hub, or none for a fleet that is kept in --storage.
async fn fleet_enrolments(arguments: &FleetArguments) -> Result<Vec<EnrolmentString>, Failure> {
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
    let (Some(hub), Some(ca), Some(token)) = (&arguments.hub, &arguments.ca, &arguments.owner_token_file) else {
        return Ok(Vec::new());
    };
    // The process-wide provider that reqwest's TLS asks for; setting it twice is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let hub = HubApi::open(hub, ca, token)?;
    let devices = arguments.devices.unwrap_or(0);
    let bar = progress_bar(u64::from(devices), "adding devices at the hub");
    let mut strings = Vec::new();
    for number in 1..=devices {
        let id = format!("{}-{number}", arguments.prefix);
        strings.push(hub.add_device(&id, &arguments.profile).await?);
        bar.inc(1);
    }
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

fn device_options(enrolment: Option<EnrolmentString>, storage: Storage, run: &RunArguments, index: u64) -> DeviceOptions {
    DeviceOptions {
        enrolment,
        interval: run.interval,
        seed: run.seed.wrapping_add(index),
        time_scale: run.time_scale,
        ..DeviceOptions::stored_in(storage)
    }
}

/// Shows how many devices the hub has served, then what they do, until the run is over.
async fn watch_fleet(fleet: &Fleet, run: &RunArguments) -> Result<(), Failure> {
    let bar = progress_bar(fleet.summary().devices as u64, "");
    let end = end_of_run(run.run_for);
    tokio::pin!(end);
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            _ = redraw.tick() => {
                let summary = fleet.summary();
                bar.set_position(summary.reached);
                bar.set_message(format!(
                    "online {}, acknowledged {}, refused {}, commands {}",
                    summary.online,
                    summary.acknowledged,
                    summary.refused,
                    summary.commands_succeeded + summary.commands_rejected,
                ));
                let failed: u64 = summary.failed_by_reason.values().sum();
                if failed == summary.devices as u64 {
                    break;
                }
            }
            ended = &mut end => {
                ended?;
                break;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn progress_bar(length: u64, message: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24.green} {pos}/{len} {msg}").expect("a constant template");
    // Draws on standard error, and only on a terminal.
    ProgressBar::new(length).with_style(style).with_message(message.to_owned())
}

/// The end of --for, Ctrl-C or SIGTERM. A second Ctrl-C does not wait for the devices to say goodbye.
async fn end_of_run(run_for: Option<Duration>) -> Result<(), Failure> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let over = async {
        match run_for {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {
            tokio::spawn(async move {
                interrupted.recv().await;
                // 128 + SIGINT, as shells report it.
                std::process::exit(130);
            });
        }
    }
    Ok(())
}

/// At least one.
fn read_strings(path: &Path) -> Result<Vec<EnrolmentString>, Failure> {
    let name = if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() };
    let text = read_text(path).map_err(|error| format!("{name}: {error}"))?;
    let strings = EnrolmentString::parse_lines(&text).map_err(|(line, error)| format!("{name}, line {line}: {error}"))?;
    if strings.is_empty() {
        return Err(
            format!("{name} holds no enrolment string: `hearthkey device add NAME --profile thermostat` prints one").into()
        );
    }
    Ok(strings)
}

fn only_string(mut strings: Vec<EnrolmentString>) -> Result<EnrolmentString, Failure> {
    match (strings.pop(), strings.len()) {
        (Some(string), 0) => Ok(string),
        (_, others) => Err(format!("{} enrolment strings are for as many devices: use hearthkey-sim fleet", others + 1).into()),
    }
}

fn read_text(path: &Path) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        if std::io::stdin().is_terminal() {
            remark("paste the enrolment string, then press Ctrl-D");
        }
        std::io::stdin().take(MAX_ENROLMENT_FILE_BYTES).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(MAX_ENROLMENT_FILE_BYTES).read_to_string(&mut text)?;
    }
    Ok(text)
}
