//! How events and summaries look on a terminal and to a script. The one place that writes to standard output.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use hearthkey_sim::scenario::{NetworkCounts, Outcome, Verdict};
use hearthkey_sim::world::Chronicle;
use hearthkey_sim::{Latency, SimEvent, SimEventKind, Summary};
use serde::Serialize;

use crate::arguments::Output;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const QUIET: Style = Style::new().dimmed();

/// Prints one event as a line of text, or as one JSON object.
///
/// # Errors
/// When standard output is closed: the reader has seen enough.
pub(crate) fn print_event(event: &SimEvent, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match output {
        Output::Json => writeln!(stdout, "{}", serde_json::to_string(event)?),
        Output::Text => {
            let device = event.device.as_deref().unwrap_or("device");
            writeln!(stdout, "{device}  {}", in_words(&event.kind))
        }
    }
}

/// A fleet that ran, with what repeats it. The names are those of [`Outcome`].
#[derive(Serialize)]
pub(crate) struct Run<'a> {
    /// What chance drew from.
    pub(crate) seed: u64,
    /// From its start to its last goodbye, seconds.
    pub(crate) took_s: f64,
    /// By how much this process grew from before its devices were made to the end of the run, for each of them: with few
    /// devices mostly what a fleet costs however small it is. `None` where the system does not say.
    pub(crate) resident_bytes_per_device: Option<u64>,
    #[serde(flatten)]
    pub(crate) summary: &'a Summary,
}

/// Prints what a fleet did as a table, or as one JSON object.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_run(run: &Run<'_>, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let Run { seed, took_s, resident_bytes_per_device, summary } = run;
    match output {
        Output::Json => writeln!(stdout, "{}", serde_json::to_string(run)?),
        Output::Text => {
            writeln!(stdout, "{}\n{}{}", latencies(summary), counts(summary, None), reasons(summary))?;
            let memory = resident_bytes_per_device.map(|bytes| format!(", {:.1} KB of memory for each", bytes as f64 / 1e3));
            writeln!(stdout, "\n{} devices, seed {seed}, {took_s:.0} s{}", summary.devices, memory.unwrap_or_default())
        }
    }
}

/// Prints what became of a scenario.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_outcome(outcome: &Outcome, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    if output == Output::Json {
        return writeln!(stdout, "{}", serde_json::to_string(outcome)?);
    }
    let summary = &outcome.summary;
    let counts = counts(summary, outcome.network.as_ref());
    writeln!(stdout, "{}\n{counts}{}\n", latencies(summary), reasons(summary))?;
    write_verdicts(&mut stdout, &outcome.verdicts)?;
    for note in &outcome.notes {
        writeln!(stdout, "        {QUIET}{note}{QUIET:#}")?;
    }
    let Outcome { scenario, seed, took_s, .. } = outcome;
    let end = end_in_words(outcome.interrupted, outcome.is_as_expected());
    writeln!(stdout, "\n{scenario}, seed {seed}: {end} after {took_s:.0} s")
}

/// A virtual home that lived. The names are those of [`Outcome`].
#[derive(Serialize)]
pub(crate) struct Life<'a> {
    /// Seconds by the wall clock.
    pub(crate) took_s: f64,
    pub(crate) interrupted: bool,
    pub(crate) verdicts: &'a [Verdict],
    #[serde(flatten)]
    pub(crate) chronicle: &'a Chronicle,
}

/// Prints what happened in a virtual home.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_life(life: &Life<'_>, is_as_expected: bool, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    if output == Output::Json {
        return writeln!(stdout, "{}", serde_json::to_string(life)?);
    }
    let Life { took_s, interrupted, verdicts, chronicle } = life;
    let fields = serde_json::to_value(chronicle)?;
    let mut table = plain_table();
    for (name, value) in fields.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.add_row([name.replace('_', " "), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(stdout, "{table}\n")?;
    write_verdicts(&mut stdout, verdicts)?;
    let (days, end) = (chronicle.passed_s / 86_400, end_in_words(*interrupted, is_as_expected));
    writeln!(stdout, "\n{days} days in {took_s:.1} s, seed {}: {end}", chronicle.seed)
}

fn write_verdicts(out: &mut impl Write, verdicts: &[Verdict]) -> io::Result<()> {
    for Verdict { expected, found, met } in verdicts {
        let word = if *met { format!("{GOOD}met{GOOD:#}    ") } else { format!("{BAD}not met{BAD:#}") };
        writeln!(out, "{word} {expected} {QUIET}({found}){QUIET:#}")?;
    }
    Ok(())
}

fn end_in_words(interrupted: bool, is_as_expected: bool) -> String {
    match (interrupted, is_as_expected) {
        (true, _) => format!("{BAD}interrupted{BAD:#}"),
        (false, true) => format!("{GOOD}as expected{GOOD:#}"),
        (false, false) => format!("{BAD}not as expected{BAD:#}"),
    }
}

/// Writes a remark to standard error: it is not part of the result.
pub(crate) fn remark(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

fn in_words(event: &SimEventKind) -> String {
    let milliseconds = |took: &Duration| format!("{:.0} ms", took.as_secs_f64() * 1e3);
    match event {
        SimEventKind::Joining { code, .. } => format!(
            "asks to join with the code {GOOD}{code}{GOOD:#}; if the hub shows the same, its owner says:\n  \
             hearthkey approve {code} --name NAME --profile thermostat"
        ),
        SimEventKind::Enrolled { took } => format!("{GOOD}enrolled{GOOD:#} in {}", milliseconds(took)),
        SimEventKind::Connected { took } => format!("{GOOD}connected{GOOD:#} in {}", milliseconds(took)),
        SimEventKind::Acknowledged { topic, payload, took } => {
            format!("{topic} {payload} {QUIET}acknowledged in {}{QUIET:#}", milliseconds(took))
        }
        SimEventKind::Refused { topic, code, reason } => {
            format!("{topic} {BAD}refused{BAD:#}: {reason} {QUIET}(0x{code:02X}){QUIET:#}")
        }
        SimEventKind::Command { name, id, rejected } => {
            let (name, id) = (name.as_deref().unwrap_or("unknown"), id.as_deref().unwrap_or("without id"));
            let outcome = match rejected {
                None => format!("{GOOD}succeeded{GOOD:#}"),
                Some(reason) => format!("{BAD}rejected{BAD:#}: {reason}"),
            };
            format!("command {name} {outcome} {QUIET}({id}){QUIET:#}")
        }
        SimEventKind::Renewed { took } => format!("token renewed in {}", milliseconds(took)),
        SimEventKind::ClockCorrected { by_s } => format!("clock set by {by_s} s to the hub's"),
        SimEventKind::Disconnected { reason } => format!("{BAD}disconnected{BAD:#}: {reason}"),
        SimEventKind::Retrying { after } => format!("{QUIET}tries again in {:.1} s{QUIET:#}", after.as_secs_f64()),
        SimEventKind::Stopped { failure: None } => "stopped".to_owned(),
        SimEventKind::Stopped { failure: Some(reason) } => format!("{BAD}gave up{BAD:#}: {reason}"),
        other => format!("{other:?}"),
    }
}

fn latencies(summary: &Summary) -> Table {
    let mut table = plain_table();
    table.set_header(["", "count", "p50 ms", "p99 ms", "max ms"]);
    let mut row = |name: &str, latency: Latency| {
        let digits = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let count = latency.count.to_string();
        table.add_row([name.to_owned(), count, digits(latency.p50_ms), digits(latency.p99_ms), digits(latency.max_ms)]);
    };
    for (name, latency) in summary.latencies() {
        row(name, latency);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn counts(summary: &Summary, network: Option<&NetworkCounts>) -> Table {
    let mut table = plain_table();
    let network = network.map(NetworkCounts::named).into_iter().flatten();
    for (name, value) in summary.counts().into_iter().chain(network) {
        table.add_row([name.to_owned(), value.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Why sessions ended and devices gave up: a line each, too long for a table.
fn reasons(summary: &Summary) -> String {
    let disconnected = summary.disconnected_by_reason.iter().map(|(reason, count)| (count, "disconnected", reason));
    let failed = summary.failed_by_reason.iter().map(|(reason, count)| (count, "gave up", reason));
    let lines = disconnected.chain(failed).map(|(count, what, reason)| format!("\n {count} x {what}: {reason}"));
    lines.collect()
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_topic_the_reason_and_the_code() {
        let words = in_words(&SimEventKind::Refused {
            topic: "dev/lamp-2/state".to_owned(),
            code: 0x87,
            reason: "not authorized".to_owned(),
        });
        let plain = anstream::adapter::strip_str(&words).to_string();
        assert_eq!(plain, "dev/lamp-2/state refused: not authorized (0x87)");
    }

    #[test]
    fn what_nobody_measured_is_a_dash() {
        let renew = Latency { count: 2, p50_ms: Some(1.25), p99_ms: Some(3.0), max_ms: Some(3.0) };
        let table = latencies(&Summary { renew, ..Summary::default() }).to_string();
        let row = |name: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.trim_start().starts_with(name)).expect("a row");
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("enrol"), ["enrol", "0", "-", "-", "-"]);
        assert_eq!(row("renew"), ["renew", "2", "1.2", "3.0", "3.0"]);
    }

    #[test]
    fn the_summary_names_every_reason() {
        let mut summary = Summary::default();
        summary.disconnected_by_reason.insert("revoked".to_owned(), 3);
        summary.failed_by_reason.insert("not enrolled".to_owned(), 1);
        assert_eq!(reasons(&summary), "\n 3 x disconnected: revoked\n 1 x gave up: not enrolled");
        assert_eq!(reasons(&Summary::default()), "");
    }
}
