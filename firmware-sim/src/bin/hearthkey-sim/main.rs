//! `hearthkey-sim`: runs simulated thermostats from the command line.

mod arguments;
mod display;
mod fleet;
mod stories;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hearthkey_sim::{DeviceOptions, EnrolmentString, Events, Fleet, FleetOptions, Storage};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::arguments::{Arguments, Command, DeviceArguments, RunArguments};
use crate::display::{print_event, remark};

/// A file of enrolment strings for the largest fleet.
const MAX_ENROLMENT_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The clients that stand in for attackers warn of each refusal, which is what is expected of them.
const QUIET: &str = "warn,rumqttc=error";

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(QUIET)))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let outcome = match arguments.command {
        Command::Device(arguments) => run_device(arguments).await,
        Command::Fleet(arguments) => fleet::run(*arguments).await,
        Command::Scenario(command) => stories::run(command),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            remark(&format!("hearthkey-sim: {failure}"));
            ExitCode::FAILURE
        }
    }
}

async fn run_device(arguments: DeviceArguments) -> Result<bool, Failure> {
    let enrolment = match arguments.enrol.as_deref() {
        None => None,
        Some("-") => Some(only_string(read_strings(Path::new("-"))?)?),
        Some(string) => Some(string.parse::<EnrolmentString>()?),
    };
    let storage = match &arguments.storage {
        Some(dir) => Storage::directory(dir)?,
        None if enrolment.is_none() && arguments.join.is_none() => {
            return Err("give the device its enrolment string with --enrol -, the hub to --join, or its --storage: \
                        `hearthkey device add NAME --profile thermostat` prints a string"
                .into());
        }
        None => {
            remark("the identity is gone when this ends; keep it with --storage DIR");
            Storage::memory()
        }
    };
    let run = &arguments.run;
    let device = DeviceOptions {
        join: arguments.join.clone(),
        erase: arguments.erase,
        ..fleet::device_options(enrolment, storage, run, 0)
    };
    let (fleet, mut events) = Fleet::start(vec![device], FleetOptions::default())?;
    print_until_the_end(&mut events, run).await?;
    let summary = fleet.stop().await;
    while let Some(event) = events.next().await {
        // A closed standard output has nobody to tell.
        let _ = print_event(&event, run.output);
    }
    Ok(fleet::every_device_was_served(&summary))
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
