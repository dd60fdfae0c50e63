//! `hearthkey can`: the hub's decision, and the rule behind it.

use super::{
    api,
    args::{Action, Asked, Can},
    client::Client,
    failure::{Exit, Failure},
    output::{BAD, GOOD, Output, styled, understood},
};
use hearthkey_core::{
    DeviceId,
    profile::CommandName,
    scope::PermissionName,
    topic::{TopicFilter, TopicName},
};
use serde_json::Value;

pub(super) async fn run(args: &Can, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let topic = args.topic.as_str();
    let (action, legal) = match args.action {
        Action::Publish => ("publish", TopicName::parse(topic).map(drop).map_err(|error| error.to_string())),
        Action::Subscribe => ("subscribe", TopicFilter::parse(topic).map(drop).map_err(|error| error.to_string())),
        Action::Command => ("command", command(&args.subject, topic)),
        Action::Api => ("api", PermissionName::parse(topic).map(drop).map_err(|error| error.to_string())),
    };
    legal.map_err(|why| {
        Failure::new(Exit::Usage, format!("`{topic}` is nothing to {action}: {why}")).next("hearthkey can --help")
    })?;
    let asked = [("action", action), ("topic", topic)];
    let answer = match &args.subject {
        Asked::Device(device) => client.get(&["devices", device.as_str(), "can"], &asked).await?,
        Asked::Other(subject) => client.get(&["can"], &[[("subject", subject.as_str())].as_slice(), &asked].concat()).await?,
    };
    render(&answer, out)
}

/// A device takes a command, others send one to a device.
fn command(subject: &Asked, text: &str) -> Result<(), String> {
    let name = |name| CommandName::parse(name).map(drop).map_err(|error| error.to_string());
    match subject {
        Asked::Device(_) => name(text),
        Asked::Other(_) => {
            let (device, command) = text.split_once('/').ok_or("write to whom and which, as in lamp/on")?;
            DeviceId::parse(device).map_err(|error| error.to_string())?;
            name(command)
        }
    }
}

fn render(answer: &Value, out: &mut Output) -> Result<Exit, Failure> {
    let allowed = understood::<api::Decision>(answer)?.allowed;
    out.answer(answer, |out, decision: api::Decision| {
        let verdict = if allowed { styled(GOOD, "yes") } else { styled(BAD, "no") };
        out.line(format!("{verdict}  {}", decision.reason))
    })?;
    Ok(if allowed { Exit::Done } else { Exit::Refused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use serde_json::json;

    #[test]
    fn yes_and_no_are_told_with_the_rule_and_the_exit_code() {
        let yes = json!({"allowed": true, "reason": "device lamp may publish to dev/lamp/state: profile switch, permission telemetry, rule dev/${device}/state",
            "rule": {"source": "profile switch", "permission": "telemetry", "template": "dev/${device}/state"}});
        let (mut out, printed) = Output::captured(Format::Table);
        assert_eq!(render(&yes, &mut out).expect("rendered"), Exit::Done);
        assert!(printed.text().starts_with("yes  device lamp may publish"), "{}", printed.text());
        assert!(printed.text().contains("rule dev/${device}/state"));

        let no =
            json!({"allowed": false, "reason": "no permission of profile switch lets device lamp publish to dev/oven/state"});
        let (mut out, printed) = Output::captured(Format::Table);
        assert_eq!(render(&no, &mut out).expect("rendered"), Exit::Refused);
        assert_eq!(printed.text(), "no  no permission of profile switch lets device lamp publish to dev/oven/state\n");

        let (mut out, printed) = Output::captured(Format::Json);
        assert_eq!(render(&no, &mut out).expect("rendered"), Exit::Refused);
        assert_eq!(serde_json::from_str::<Value>(&printed.text()).expect("JSON"), no);
    }
}
