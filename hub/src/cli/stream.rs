//! `hearthkey watch` and `hearthkey audit tail`: what happens, as it happens, until Ctrl-C.

use super::{
    api,
    args::{AuditTail, Watch},
    client::{Client, Event, Events},
    failure::{Exit, Failure},
    output::{BAD, FAINT, Format, GOOD, LITERAL, Output, WAITING, printable, styled, understood},
    when::Clock,
};
use serde_json::{Value, json};
use std::{ops::ControlFlow, time::Duration};

/// First and longest pause before asking again whether the hub is back.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

pub(super) async fn watch(args: &Watch, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let query = [("filter", args.filter.as_str())];
    let mut left = args.count;
    follow(client, &["watch"], &query, out, |event, out| {
        show_message(&event, &Clock::system(), out)?;
        if event.name == "message" {
            left = left.map(|left| left - 1);
        }
        Ok(if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await
}

pub(super) async fn audit_tail(args: &AuditTail, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let last = args.lines.to_string();
    if args.no_follow {
        if args.lines > 0 {
            let page: api::Items<Value> = understood(&client.get(&["audit"], &[("last", &last)]).await?)?;
            page.items.iter().try_for_each(|record| show_record(record, &Clock::system(), out))?;
        }
        return Ok(Exit::Done);
    }
    // After a pause the stream begins with the latest entries again; each is shown once.
    let mut shown = 0;
    follow(client, &["audit", "tail"], &[("last", &last)], out, |event, out| {
        let record: Value = parsed(&event)?;
        let seq = record["seq"].as_u64().unwrap_or(u64::MAX);
        if event.name == "record" && seq > shown {
            if shown > 0 && seq > shown + 1 {
                out.note(styled(
                    WAITING,
                    format!("{} entries passed unseen; hearthkey audit tail -n shows more", seq - shown - 1),
                ));
            }
            shown = seq;
            show_record(&record, &Clock::system(), out)?;
        }
        Ok(ControlFlow::Continue(()))
    })
    .await
}

/// Shows events until Ctrl-C, or until `show` has seen enough. When the hub goes away, says so and waits until it is back.
async fn follow(
    client: &Client,
    path: &[&str],
    query: &[(&str, &str)],
    out: &mut Output,
    mut show: impl FnMut(Event, &mut Output) -> Result<ControlFlow<()>, Failure>,
) -> Result<Exit, Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut events = client.events(path, query).await?;
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(Exit::Done),
            event = events.next() => match event? {
                Some(event) => {
                    if show(event, out)?.is_break() {
                        return Ok(Exit::Done);
                    }
                }
                None => {
                    out.note(styled(WAITING, "the hub went away: what passes now is not seen; waiting for it, Ctrl-C to end"));
                    tokio::select! {
                        _ = &mut interrupted => return Ok(Exit::Done),
                        again = reopen(client, path, query) => events = again?,
                    }
                    out.note(styled(GOOD, "the hub is back"));
                }
            },
        }
    }
}

pub(super) async fn reopen(client: &Client, path: &[&str], query: &[(&str, &str)]) -> Result<Events, Failure> {
    let (mut pause, longest) = BACK_OFF;
    loop {
        tokio::time::sleep(pause).await;
        match client.events(path, query).await {
            Err(failure) if failure.exit() == Exit::Unreachable => pause = (pause * 2).min(longest),
            opened => return opened,
        }
    }
}

pub(super) fn parsed(event: &Event) -> Result<Value, Failure> {
    serde_json::from_str(&event.data)
        .map_err(|error| Failure::new(Exit::Refused, format!("the hub sent an event that is no JSON: {error}")))
}

fn show_message(event: &Event, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    let data = parsed(event)?;
    match (event.name.as_str(), out.format()) {
        ("message", Format::Json) => out.json_line(&data),
        ("message", Format::Table) => out.line(message_line(&understood(&data)?, clock)),
        ("lost", Format::Json) => out.json_line(&json!({ "lost": data["count"] })),
        ("lost", Format::Table) => {
            let lost: api::Lost = understood(&data)?;
            let what = format!("{} messages were not shown: this terminal is slower than the devices", lost.count);
            out.line(styled(WAITING, what))
        }
        // A later hub may tell more.
        _ => Ok(()),
    }
}

fn message_line(message: &api::Message, clock: &Clock) -> String {
    let payload = match (&message.payload, &message.payload_base64) {
        (Some(text), _) => printable(text),
        (None, Some(base64)) => format!("{} {}", styled(FAINT, "base64"), printable(base64)),
        (None, None) => String::new(),
    };
    let time = styled(FAINT, clock.time_of_day(message.time));
    let retained = if message.retain { styled(FAINT, " (retained)") } else { String::new() };
    format!("{time} {} {payload}{retained}", styled(LITERAL, printable(&message.topic)))
}

fn show_record(record: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    match out.format() {
        Format::Json => out.json_line(record),
        Format::Table => out.line(record_line(&understood(record)?, clock)),
    }
}

pub(super) fn record_line(record: &api::AuditRecord, clock: &Clock) -> String {
    let outcome = match record.outcome.as_str() {
        "success" => styled(GOOD, "success"),
        other => styled(BAD, printable(other)),
    };
    let mut line = format!(
        "{:>6} {} {} {} {} {outcome}",
        record.seq,
        styled(FAINT, clock.moment(record.time)),
        printable(&record.actor),
        styled(LITERAL, printable(&record.action)),
        printable(&record.target),
    );
    if !record.reason.is_empty() {
        line.push_str(&format!(": {}", printable(&record.reason)));
    }
    if record.count > 1 {
        line.push_str(&format!(" ({} times)", record.count));
    }
    if !record.source.is_empty() {
        line.push_str(&styled(FAINT, format!(" from {}", printable(&record.source))));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_780_000_000;

    fn shown(format: Format, name: &str, data: &Value) -> String {
        let (mut out, printed) = Output::captured(format);
        let event = Event { name: name.to_owned(), data: data.to_string() };
        show_message(&event, &Clock::standing(NOW), &mut out).expect("shown");
        printed.text()
    }

    #[test]
    fn a_message_is_a_line_of_time_topic_and_payload() {
        let message =
            json!({"topic": "dev/lamp/state", "payload": "{\"on\":true}\u{1b}c", "qos": 1, "retain": true, "time": NOW});
        assert_eq!(shown(Format::Table, "message", &message), "20:26:40 dev/lamp/state {\"on\":true}\\u{1b}c (retained)\n");
        let bytes = json!({"topic": "dev/lamp/tele/x", "payload_base64": "AP8=", "qos": 0, "retain": false, "time": NOW});
        assert_eq!(shown(Format::Table, "message", &bytes), "20:26:40 dev/lamp/tele/x base64 AP8=\n");
        let line = shown(Format::Json, "message", &message);
        assert_eq!(line.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), message);
    }

    #[test]
    fn messages_that_were_lost_are_told() {
        assert!(shown(Format::Table, "lost", &json!({"count": 7})).starts_with("7 messages were not shown"));
        assert_eq!(shown(Format::Json, "lost", &json!({"count": 7})), "{\"lost\":7}\n");
        assert_eq!(shown(Format::Table, "later", &json!({})), "");
    }

    #[test]
    fn an_audit_entry_is_a_line_that_says_who_what_and_why() {
        let record = json!({"seq": 12, "time": NOW, "actor": "device lamp", "action": "mqtt.publish", "target": "topic dev/oven/state",
            "outcome": "denied", "reason": "no permission", "source": "192.168.1.7", "count": 3, "previous": "00"});
        let (mut out, printed) = Output::captured(Format::Table);
        show_record(&record, &Clock::standing(NOW), &mut out).expect("shown");
        assert_eq!(
            printed.text(),
            "    12 2026-05-28T20:26:40+00:00 device lamp mqtt.publish topic dev/oven/state denied: no permission (3 times) from 192.168.1.7\n"
        );
        let (mut out, printed) = Output::captured(Format::Json);
        show_record(&record, &Clock::standing(NOW), &mut out).expect("shown");
        assert_eq!(serde_json::from_str::<Value>(&printed.text()).expect("JSON"), record);
    }
}
