//! `hearthkey-sim scenario` and `fleet --scenario`: finds a scenario, plays it, and shows what became of it.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Instant;

use hearthkey_sim::scenario::{self, ClockKind, MAX_SCENARIO_BYTES, Report, Scenario, Stage, VirtualReport};
use hearthkey_sim::world::World;

use crate::Failure;
use crate::arguments::{FleetArguments, Output, RunArguments, ScenarioCommand};
use crate::display::{Life, print_life, print_outcome};
use crate::ending::Signals;
use crate::fleet::{allow_open_files, find_hub, progress_bar, show_progress, try_report, write_report};

/// Of a device, and two of the proxy between it and the hub.
const SOCKETS_OF_A_BAD_CONNECTION: usize = 3;
/// Steps of a virtual home between two looks at the keyboard.
const STEPS_AT_ONCE: usize = 2_000;
/// Points of a plot of a virtual life.
const STAGES: u64 = 400;

/// Lists, shows or checks.
pub(crate) fn run(command: ScenarioCommand) -> Result<bool, Failure> {
    // A closed standard output has nobody to tell.
    match command {
        ScenarioCommand::List { output } => drop(list(output)),
        ScenarioCommand::Show { name } => {
            let found = Scenario::all_shipped().into_iter().find(|(scenario, _)| scenario.name == name);
            let (_, text) = found.ok_or_else(|| unknown(&name))?;
            drop(anstream::stdout().lock().write_all(text.as_bytes()));
        }
        ScenarioCommand::Check { file } => {
            let scenario = read(&file)?;
            drop(writeln!(anstream::stdout().lock(), "{}: {} is a scenario", file.display(), scenario.name));
        }
    }
    Ok(true)
}

/// Plays a scenario; whether it came as expected.
pub(crate) async fn play(name: &str, arguments: &FleetArguments, signals: &Signals) -> Result<bool, Failure> {
    let mut scenario = find(name)?;
    let run = &arguments.run;
    scenario.devices = arguments.devices.map_or(scenario.devices, |devices| devices as usize);
    scenario.interval = run.interval.unwrap_or(scenario.interval);
    scenario.ramp = arguments.ramp.unwrap_or(scenario.ramp);
    scenario.duration = run.run_for.unwrap_or(scenario.duration);
    scenario.seed = run.seed.unwrap_or(scenario.seed);
    scenario.validate()?;
    try_report(arguments.report.as_deref())?;
    if scenario.clock == ClockKind::Virtual {
        if arguments.with_hub || arguments.hub.is_some() || arguments.data.is_some() {
            return Err(format!(
                "{} lives in virtual time, with a hub inside: leave out --hub, --data and --with-hub",
                scenario.name
            )
            .into());
        }
        return live(&scenario, run, arguments.report.as_deref(), signals).await;
    }
    let sockets_each = if scenario.network.is_some() { SOCKETS_OF_A_BAD_CONNECTION } else { 1 };
    allow_open_files(scenario.devices * sockets_each)?;
    let (owner, hub) = match find_hub(arguments).await? {
        Some(found) => found,
        None => {
            let own = FleetArguments { with_hub: true, ..arguments.clone() };
            find_hub(&own).await?.ok_or("there is no hub")?
        }
    };
    let mut stage = Stage {
        owner,
        hub,
        prefix: arguments.prefix.clone(),
        profile: arguments.profile.clone(),
        threads: arguments.threads.map(|threads| threads as usize),
    };
    let bar = progress_bar(scenario.devices as u64, "");
    let outcome =
        scenario::play(&scenario, &mut stage, signals.end_of_run(None), |what, summary| show_progress(&bar, summary, what)).await;
    bar.finish_and_clear();
    if let Some(mut hub) = stage.hub {
        hub.stop().await?;
    }
    let outcome = outcome?;
    // A closed standard output has nobody to tell.
    let _ = print_outcome(&outcome, run.output);
    if let Some(file) = &arguments.report {
        let (summary, record) = (&outcome.summary, &outcome.record);
        let report = Report {
            title: &scenario.name,
            story: &scenario.story,
            verdicts: &outcome.verdicts,
            notes: &outcome.notes,
            network: outcome.network.as_ref(),
            summary,
            record,
        };
        write_report(file, report.to_html()?)?;
    }
    Ok(outcome.is_as_expected())
}

/// Lets a virtual home live; whether it stayed as it should be.
async fn live(scenario: &Scenario, run: &RunArguments, report: Option<&Path>, signals: &Signals) -> Result<bool, Failure> {
    let days = scenario.duration.as_secs() / 86_400;
    let bar = progress_bar(days, "days");
    let mut world = World::new(scenario);
    let interrupted = signals.end_of_run(None);
    tokio::pin!(interrupted);
    let began = Instant::now();
    let stage_s = (scenario.duration.as_secs() / STAGES).max(86_400);
    let mut stages = vec![world.chronicle()];
    let end = loop {
        let mut steps = (0..STEPS_AT_ONCE).map(|_| world.step());
        if let Some(end) = steps.find(|step| !matches!(step, Ok(true))) {
            break end;
        }
        let chronicle = world.chronicle();
        bar.set_position(chronicle.passed_s / 86_400);
        if stages.last().is_none_or(|last| chronicle.passed_s >= last.passed_s + stage_s) {
            stages.push(chronicle);
        }
        tokio::select! {
            biased;
            () = &mut interrupted => break Ok(true),
            () = tokio::task::yield_now() => {}
        }
    };
    bar.finish_and_clear();
    let chronicle = &world.chronicle();
    let verdicts = &scenario::judge_life(scenario, chronicle, &end);
    let interrupted = matches!(end, Ok(true));
    if let Some(file) = report {
        let (title, story) = (&scenario.name, &scenario.story);
        write_report(file, VirtualReport { title, story, verdicts, chronicle, stages: &stages }.to_html()?)?;
    }
    let is_as_expected = !interrupted && verdicts.iter().all(|verdict| verdict.met);
    let life = Life { took_s: began.elapsed().as_secs_f64(), interrupted, verdicts, chronicle };
    // A closed standard output has nobody to tell.
    let _ = print_life(&life, is_as_expected, run.output);
    if let Err(violation) = end {
        return Err(format!("{violation}: --scenario {} --seed {}", scenario.name, scenario.seed).into());
    }
    Ok(is_as_expected)
}

fn list(output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    for (Scenario { name, story, devices, .. }, _) in Scenario::all_shipped() {
        match output {
            Output::Text => writeln!(stdout, "{name:14}{story}")?,
            Output::Json => {
                writeln!(stdout, "{}", serde_json::json!({ "name": name, "story": story, "devices": devices }))?;
            }
        }
    }
    Ok(())
}

/// A shipped scenario by its name; a file by its path, which has a dot or a slash in it.
fn find(name: &str) -> Result<Scenario, Failure> {
    match Scenario::shipped(name) {
        Some(scenario) => Ok(scenario),
        None if name.contains(['.', '/']) => read(Path::new(name)),
        None => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Failure {
    let names: Vec<_> = Scenario::all_shipped().into_iter().map(|(scenario, _)| scenario.name).collect();
    format!("there is no scenario `{name}`; there are {}, and files such as ./{name}.toml", names.join(", ")).into()
}

fn read(file: &Path) -> Result<Scenario, Failure> {
    let mut text = String::new();
    let opened = std::fs::File::open(file).and_then(|file| file.take(MAX_SCENARIO_BYTES + 1).read_to_string(&mut text));
    let length = opened.map_err(|error| {
        format!("{}: {error}; `hearthkey-sim scenario list` names the scenarios that need no file", file.display())
    })?;
    if length as u64 > MAX_SCENARIO_BYTES {
        return Err(format!("{}: longer than the {MAX_SCENARIO_BYTES} bytes of a scenario", file.display()).into());
    }
    Ok(Scenario::parse(&file.display().to_string(), &text)?)
}
