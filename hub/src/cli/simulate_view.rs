//! What `hearthkey up --simulate N` shows: each event as a line, and a table at the end. Runs nothing.

use super::{
    Failure, Format, Output,
    output::{BAD, FAINT, GOOD, LITERAL, STRONG, WAITING, facts, printable, styled},
};
use serde::Serialize;
use std::time::Duration;

/// Something that happened in a simulated home.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SimLine {
    /// The hub answers.
    Started {
        /// Where.
        url: String,
        /// Where it keeps its data.
        data: String,
    },
    /// A device has registered its key.
    Enrolled {
        /// Which.
        device: String,
        /// Its profile.
        profile: String,
    },
    /// A publish was authorized and delivered.
    Telemetry {
        /// Whose.
        device: String,
        /// The topic.
        topic: String,
        /// The payload, as text.
        payload: String,
    },
    /// A publish was refused.
    Refused {
        /// Whose.
        device: String,
        /// The topic.
        topic: String,
        /// Why, in the hub's words.
        reason: String,
    },
    /// A command went to a device and its end came back.
    Command {
        /// To whom.
        device: String,
        /// What.
        name: String,
        /// Its arguments, JSON; empty if there are none.
        args: String,
        /// The states that it went through, in order.
        states: Vec<String>,
        /// From asking to its end.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
    },
    /// What somebody who watches may want to type.
    Hint {
        /// What for.
        what: String,
        /// The command.
        command: String,
    },
}

/// What happened in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SimSummary {
    /// How long it ran.
    #[serde(rename = "ran_ms", serialize_with = "milliseconds")]
    pub ran: Duration,
    /// Devices that enrolled.
    pub enrolled: u64,
    /// Access tokens that were issued, renewals included.
    pub tokens: u64,
    /// Publishes that were authorized.
    pub authorized: u64,
    /// Publishes that were refused.
    pub refused: u64,
    /// Commands that succeeded.
    pub commands_succeeded: u64,
    /// Commands that ended otherwise.
    pub commands_failed: u64,
}

fn milliseconds<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// Prints one event: a line, or with `-o json` one object.
///
/// # Errors
/// [`Failure`] if it cannot be written.
pub fn show(out: &mut Output, line: &SimLine) -> Result<(), Failure> {
    match out.format() {
        Format::Json => out.json_line(line),
        Format::Table => out.line(sentence(line)),
    }
}

/// Prints the summary: a table, or with `-o json` one object.
///
/// # Errors
/// [`Failure`] if it cannot be written.
pub fn show_summary(out: &mut Output, summary: &SimSummary) -> Result<(), Failure> {
    if out.format() == Format::Json {
        return out.json_line(&serde_json::json!({ "event": "summary", "summary": summary }));
    }
    out.line(styled(STRONG, format!("\nafter {:.0} s", summary.ran.as_secs_f64())))?;
    out.table(facts([
        ("devices enrolled", summary.enrolled.to_string()),
        ("access tokens issued", summary.tokens.to_string()),
        ("publishes authorized", summary.authorized.to_string()),
        ("publishes refused", summary.refused.to_string()),
        ("commands succeeded", summary.commands_succeeded.to_string()),
        ("commands that ended otherwise", summary.commands_failed.to_string()),
    ]))
}

/// The words stand in a column, so that the eye finds the refusal.
fn sentence(line: &SimLine) -> String {
    let word = |style, word: &str| styled(style, format!("{word:10}"));
    match line {
        SimLine::Started { url, data } => format!("{} {url}, data in {data}", word(STRONG, "hub")),
        SimLine::Enrolled { device, profile } => {
            format!("{} {device} made its key and registered it, profile {profile}", word(GOOD, "enrolled"))
        }
        SimLine::Telemetry { topic, payload, .. } => {
            format!("{} {} {}", word(GOOD, "authorized"), styled(LITERAL, printable(topic)), printable(payload))
        }
        SimLine::Refused { device, topic, reason } => format!(
            "{} {device} may not publish to {}: {}",
            word(BAD, "refused"),
            styled(LITERAL, printable(topic)),
            printable(reason)
        ),
        SimLine::Command { device, name, args, states, took } => format!(
            "{} {name} {}to {device}: {} {}",
            word(WAITING, "command"),
            if args.is_empty() { String::new() } else { format!("{} ", printable(args)) },
            states.join(", "),
            styled(FAINT, format!("in {} ms", took.as_millis()))
        ),
        SimLine::Hint { what, command } => format!("{} {what}: {}", word(FAINT, "next"), styled(LITERAL, command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn lines() -> Vec<SimLine> {
        vec![
            SimLine::Started { url: "https://localhost:8443".into(), data: "/tmp/x".into() },
            SimLine::Enrolled { device: "sim-1".into(), profile: "thermostat".into() },
            SimLine::Telemetry { device: "sim-1".into(), topic: "dev/sim-1/tele/temperature".into(), payload: "20.5".into() },
            SimLine::Refused {
                device: "sim-1".into(),
                topic: "dev/sim-2/tele/temperature".into(),
                reason: "not authorized".into(),
            },
            SimLine::Command {
                device: "sim-2".into(),
                name: "set-setpoint".into(),
                args: "{\"celsius\":22}".into(),
                states: ["accepted", "executing", "succeeded"].map(String::from).to_vec(),
                took: Duration::from_millis(14),
            },
            SimLine::Hint { what: "watch it".into(), command: "hearthkey watch".into() },
        ]
    }

    #[test]
    fn each_event_is_a_line_that_begins_with_its_word() {
        let (mut out, printed) = Output::captured(Format::Table);
        lines().iter().for_each(|line| show(&mut out, line).expect("shown"));
        let text = printed.text();
        let words: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(words, ["hub", "enrolled", "authorized", "refused", "command", "next"]);
        assert!(text.contains("set-setpoint {\"celsius\":22} to sim-2: accepted, executing, succeeded in 14 ms"), "{text}");
    }

    #[test]
    fn programs_get_one_object_a_line() {
        let (mut out, printed) = Output::captured(Format::Json);
        lines().iter().for_each(|line| show(&mut out, line).expect("shown"));
        let summary = SimSummary { ran: Duration::from_secs(20), enrolled: 3, refused: 1, ..SimSummary::default() };
        show_summary(&mut out, &summary).expect("shown");
        let events: Vec<Value> = printed.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(events[4]["event"], "command");
        assert_eq!(events[4]["took_ms"], 14);
        assert_eq!(events[6]["summary"]["ran_ms"], 20_000);
    }

    #[test]
    fn the_summary_counts_what_was_authorized_and_what_was_refused() {
        let (mut out, printed) = Output::captured(Format::Table);
        let summary =
            SimSummary { ran: Duration::from_secs(20), enrolled: 3, authorized: 57, refused: 1, ..SimSummary::default() };
        show_summary(&mut out, &summary).expect("shown");
        let text = printed.text();
        assert!(text.contains("after 20 s"), "{text}");
        assert!(text.lines().any(|line| line.contains("publishes authorized") && line.trim_end().ends_with("57")), "{text}");
    }
}
