//! How events and summaries look on a terminal and to a script. The one place that writes to standard output.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use hearthkey_sim::scenario::{Outcome, Verdict};
use hearthkey_sim::world::Chronicle;
use hearthkey_sim::{Latency, SimEvent, SimEventKind, Summary};

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

/// Prints what a fleet did as a table, or as one JSON object.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_summary(summary: &Summary, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match output {
        Output::Json => writeln!(stdout, "{}", serde_json::to_string(summary)?),
        Output::Text => writeln!(stdout, "{}\n{}{}", latencies(summary), counts(summary), reasons(summary)),
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
    writeln!(stdout, "{}\n{}{}\n", latencies(summary), counts(summary), reasons(summary))?;
    for Verdict { expected, found, met } in &outcome.verdicts {
        let word = if *met { format!("{GOOD}met{GOOD:#}    ") } else { format!("{BAD}not met{BAD:#}") };
        writeln!(stdout, "{word} {expected} {QUIET}({found}){QUIET:#}")?;
    }
    for note in &outcome.notes {
        writeln!(stdout, "        {QUIET}{note}{QUIET:#}")?;
    }
    let Outcome { scenario, seed, took_s, .. } = outcome;
    let end = match (outcome.interrupted, outcome.is_as_expected()) {
        (true, _) => format!("{BAD}interrupted{BAD:#}"),
        (false, true) => format!("{GOOD}as expected{GOOD:#}"),
        (false, false) => format!("{BAD}not as expected{BAD:#}"),
    };
    writeln!(stdout, "\n{scenario}, seed {seed}: {end} after {took_s:.0} s")
}

/// Prints what happened in a virtual home.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_chronicle(chronicle: &Chronicle, took: Duration, is_whole: bool, output: Output) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let fields = serde_json::to_value(chronicle)?;
    if output == Output::Json {
        return writeln!(stdout, "{fields}");
    }
    let mut table = plain_table();
    for (name, value) in fields.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.add_row([name.replace('_', " "), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let end = if is_whole { format!("{GOOD}all invariants held{GOOD:#}") } else { format!("{BAD}ended early{BAD:#}") };
    let days = chronicle.passed_s / 86_400;
    writeln!(stdout, "{table}\n{days} days in {:.1} s, seed {}: {end}", took.as_secs_f64(), chronicle.seed)
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
        let digits = |value: f64| if latency.count == 0 { "-".to_owned() } else { format!("{value:.1}") };
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

fn counts(summary: &Summary) -> Table {
    let mut table = plain_table();
    for (name, value) in summary.counts() {
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
    fn the_summary_names_every_reason() {
        let mut summary = Summary::default();
        summary.disconnected_by_reason.insert("revoked".to_owned(), 3);
        summary.failed_by_reason.insert("not enrolled".to_owned(), 1);
        assert_eq!(reasons(&summary), "\n 3 x disconnected: revoked\n 1 x gave up: not enrolled");
        assert_eq!(reasons(&Summary::default()), "");
    }
}
