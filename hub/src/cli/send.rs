//! `hearthkey send`: a command on its way, told as it goes, until it ends or the wait does.

use super::{
    api,
    args::Send,
    client::{Client, Events},
    failure::{Exit, Failure},
    output::{BAD, FAINT, Format, GOOD, Output, WAITING, printable, styled, understood},
    stream::{parsed, reopen},
    when::Clock,
};
use hearthkey_core::limits::MAX_COMMAND_BYTES;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    io::Read,
    time::{Duration, Instant},
};

pub(super) async fn run(args: Send, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let mut body = json!({});
    if let Some(arguments) = arguments(args.arguments.as_deref())? {
        body["args"] = arguments;
    }
    if let Some(ttl) = args.ttl {
        body["ttl_s"] = json!(ttl.as_secs());
    }
    let device = args.name.as_str();
    let answer = client.post(&["devices", device, "commands", args.command.as_str()], &body).await?;
    let mut command: api::Command = understood(&answer)?;
    let mut progress = Progress::start(&answer, &command, args.wait, clock, out)?;
    let id = command.id.clone();
    let mut states = States { client, path: ["devices", device, "commands", &id], events: None };
    while !is_final(&command.state) {
        // A time-out of nothing would still ask once.
        let left = args.wait.checked_sub(progress.since.elapsed()).filter(|left| !left.is_zero());
        let Some(left) = left else { break };
        let Ok(next) = tokio::time::timeout(left, states.next()).await else { break };
        let answer = next?;
        command = understood(&answer)?;
        progress.tell(&answer, &command, out)?;
    }
    progress.spinner.finish_and_clear();
    match command.state.as_str() {
        "succeeded" => Ok(Exit::Done),
        state if is_final(state) => Ok(Exit::Refused),
        _ if args.wait.is_zero() => Ok(Exit::Done),
        _ => Err(not_ended(&command, args.wait, is_connected(client, device).await, clock)),
    }
}

/// The states of a command as they come; those of before come again when the hub was away.
struct States<'a> {
    client: &'a Client,
    path: [&'a str; 4],
    events: Option<Events>,
}

impl States<'_> {
    async fn next(&mut self) -> Result<Value, Failure> {
        let mut events = match self.events.take() {
            Some(events) => events,
            None => self.client.events(&self.path, &[]).await?,
        };
        loop {
            match events.next().await? {
                Some(event) if event.name == "state" => {
                    self.events = Some(events);
                    return parsed(&event);
                }
                Some(event) if event.name != "end" => {}
                _ => events = reopen(self.client, &self.path, &[]).await?,
            }
        }
    }
}

/// Whether the device is connected, as far as the hub tells.
async fn is_connected(client: &Client, device: &str) -> Option<bool> {
    let answer = client.get(&["devices", device], &[]).await.ok()?;
    understood::<api::Device>(&answer).ok().map(|device| device.connected)
}

fn not_ended(command: &api::Command, wait: Duration, connected: Option<bool>, clock: &Clock) -> Failure {
    let api::Command { device, name, state, .. } = command;
    let wait = humantime::format_duration(wait);
    let why = if connected == Some(false) { format!("; {device} is not connected") } else { String::new() };
    Failure::new(Exit::TimedOut, format!("{name} has not ended within {wait}: it is {state}{why}"))
        .next(format!("wait longer with --wait; {device} may still begin it until {}", clock.time_of_day(command.expires_at)))
}

fn arguments(text: Option<&str>) -> Result<Option<Value>, Failure> {
    let read;
    let text = match text {
        None => return Ok(None),
        Some("-") => {
            let mut input = String::new();
            let limit = MAX_COMMAND_BYTES as u64 + 1;
            std::io::stdin()
                .take(limit)
                .read_to_string(&mut input)
                .map_err(|error| Failure::new(Exit::Usage, format!("cannot read the arguments from standard input: {error}")))?;
            read = input;
            read.as_str()
        }
        Some(text) => text,
    };
    if text.len() > MAX_COMMAND_BYTES {
        return Err(Failure::new(Exit::Usage, format!("a command has at most {MAX_COMMAND_BYTES} bytes")));
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        Failure::new(Exit::Usage, format!("the arguments are no JSON: {error}"))
            .next("quote them for the shell, as in '{\"celsius\":21.5}' or '\"text\"'")
    })
}

fn is_final(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "rejected" | "expired")
}

/// Tells each state once, with a spinner below where somebody watches.
struct Progress {
    since: Instant,
    told: Vec<String>,
    spinner: ProgressBar,
}

impl Progress {
    fn start(answer: &Value, command: &api::Command, wait: Duration, clock: &Clock, out: &mut Output) -> Result<Self, Failure> {
        if out.format() == Format::Json {
            out.json_line(answer)?;
        } else {
            out.line(format!(
                "{}  {} to {}, {}",
                styled(WAITING, "sent     "),
                command.name,
                command.device,
                styled(FAINT, format!("{}, expires {}", command.id, clock.relative(command.expires_at)))
            ))?;
        }
        let waits = !wait.is_zero() && out.is_terminal() && out.format() == Format::Table;
        let spinner = if waits { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            spinner.set_style(style);
        }
        spinner.set_message(format!("waiting for {}", command.device));
        if waits {
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        let mut progress = Self { since: Instant::now(), told: vec!["sent".to_owned()], spinner };
        progress.tell(answer, command, out)?;
        Ok(progress)
    }

    fn tell(&mut self, answer: &Value, command: &api::Command, out: &mut Output) -> Result<(), Failure> {
        if self.told.contains(&command.state) {
            return Ok(());
        }
        self.told.push(command.state.clone());
        if out.format() == Format::Json {
            return out.json_line(answer);
        }
        let line = line(command, self.since.elapsed());
        self.spinner.suspend(|| out.line(line))
    }
}

fn line(command: &api::Command, elapsed: Duration) -> String {
    let style = match command.state.as_str() {
        "succeeded" => GOOD,
        "failed" | "rejected" | "expired" => BAD,
        _ => WAITING,
    };
    let reason = command
        .reason
        .as_deref()
        .filter(|reason| !reason.is_empty())
        .map_or_else(String::new, |reason| format!("  {}", printable(reason)));
    let after = styled(FAINT, format!("after {:.1} s", elapsed.as_secs_f64()));
    format!("{}{reason}  {after}", styled(style, format!("{:9}", command.state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: &str, reason: Option<&str>) -> Value {
        json!({"id": "c-0123456789abcdef", "device": "lamp", "name": "on", "seq": 4, "by": "user owner",
            "created_at": 1_780_000_000, "expires_at": 1_780_000_030, "state": state, "reason": reason})
    }

    fn command(state: &str, reason: Option<&str>) -> api::Command {
        understood(&record(state, reason)).expect("a command")
    }

    /// What is printed while a command goes through its states, some told again.
    fn printed(format: Format) -> String {
        let (mut out, printed) = Output::captured(format);
        let clock = Clock::standing(1_780_000_000);
        let (first, wait) = (record("sent", None), Duration::from_secs(10));
        let mut progress = Progress::start(&first, &command("sent", None), wait, &clock, &mut out).expect("told");
        for (state, reason) in [
            ("sent", None),
            ("accepted", None),
            ("sent", None),
            ("accepted", None),
            ("executing", None),
            ("failed", Some("stuck\u{7}")),
        ] {
            progress.tell(&record(state, reason), &command(state, reason), &mut out).expect("told");
        }
        printed.text()
    }

    #[test]
    fn each_state_is_told_once_and_the_reason_with_it() {
        let text = printed(Format::Table);
        let words: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(words, ["sent", "accepted", "executing", "failed"]);
        assert!(text.contains("on to lamp, c-0123456789abcdef, expires in 30 s") && text.contains("stuck\\u{7}"), "{text}");

        let lines = printed(Format::Json);
        let states: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("an object a line")["state"].to_string())
            .collect();
        assert_eq!(states, ["\"sent\"", "\"accepted\"", "\"executing\"", "\"failed\""]);
    }

    #[test]
    fn a_wait_that_ends_early_says_why_and_until_when_it_may_still_happen() {
        let clock = Clock::standing(1_780_000_010);
        let failure = not_ended(&command("sent", None), Duration::from_secs(10), Some(false), &clock);
        assert_eq!(failure.exit(), Exit::TimedOut);
        let text = failure.to_string();
        assert!(text.contains("on has not ended within 10s: it is sent; lamp is not connected"), "{text}");
        assert!(text.contains("--wait") && text.contains("20:27:10"), "{text}");
    }

    #[test]
    fn arguments_are_json_or_nothing() {
        assert_eq!(arguments(None).expect("none"), None);
        assert_eq!(arguments(Some("{\"celsius\":21.5}")).expect("JSON"), Some(json!({"celsius": 21.5})));
        let failure = arguments(Some("{celsius:21}")).expect_err("no JSON");
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("'{\"celsius\":21.5}'"));
        assert_eq!(arguments(Some(&"1".repeat(MAX_COMMAND_BYTES + 1))).expect_err("too long").exit(), Exit::Usage);
    }
}
