//! `hearthkey-sim`: runs simulated thermostats from the command line.

mod arguments;
mod display;
mod ending;
mod fleet;
mod stories;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use hearthkey_sim::{DeviceOptions, EnrolmentString, Events, Fleet, FleetOptions, Storage};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::arguments::{Arguments, Command, DeviceArguments, RunArguments};
use crate::display::{print_event, remark};
use crate::ending::Signals;

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
    let signals = Signals::default();
    let outcome = tokio::select! {
        biased;
        exit = signals.end_of_program() => match exit {
            Ok(exit) => Err(exit),
            Err(error) => Ok(Err(format!("cannot listen for signals: {error}").into())),
        },
        outcome = run(arguments.command, &signals) => Ok(outcome),
    };
    // What ran is gone by now, a hub of its own included. The threads of a fleet may still say goodbye: nobody waits for them.
    match outcome.unwrap_or_else(|exit| std::process::exit(exit)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            remark(&format!("hearthkey-sim: {failure}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, signals: &Signals) -> Result<bool, Failure> {
    match command {
        Command::Device(arguments) => run_device(arguments, signals).await,
        Command::Fleet(arguments) => fleet::run(*arguments, signals).await,
        Command::Scenario(command) => stories::run(command),
    }
}

async fn run_device(arguments: DeviceArguments, signals: &Signals) -> Result<bool, Failure> {
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
    print_until_the_end(&mut events, run, signals).await;
    let summary = fleet.stop().await;
    while let Some(event) = events.next().await {
        // A closed standard output has nobody to tell.
        let _ = print_event(&event, run.output);
    }
    Ok(fleet::every_device_was_served(&summary))
}

async fn print_until_the_end(events: &mut Events, run: &RunArguments, signals: &Signals) {
    let end = signals.end_of_run(run.run_for);
    tokio::pin!(end);
    loop {
        tokio::select! {
            event = events.next() => match event {
                // A closed standard output (`| head`) ends the run like Ctrl-C.
                Some(event) if print_event(&event, run.output).is_err() => return,
                Some(_) => {}
                None => return,
            },
            () = &mut end => return,
        }
    }
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
