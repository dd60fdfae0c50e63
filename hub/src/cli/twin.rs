//! `hearthkey twin`: what a device is to be, and what it says it is.

use super::{
    api,
    args::{Twin, TwinSet},
    client::Client,
    failure::{Exit, Failure},
    output::{FAINT, GOOD, Output, WAITING, facts, printable, styled},
    when::Clock,
};
use serde_json::{Map, Value};

pub(super) async fn run(args: &Twin, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let answer = match args {
        Twin::Show { name } => client.get(&["devices", name.as_str(), "twin"], &[]).await?,
        Twin::Set(TwinSet { name, desired, replace, if_version }) => {
            let path = ["devices", name.as_str(), "twin"];
            let body = object(desired)?;
            if *replace {
                client.put_if(&path, &body, *if_version).await?
            } else {
                client.patch_if(&path, &body, *if_version).await?
            }
        }
    };
    render(&answer, clock, out)?;
    Ok(Exit::Done)
}

/// A JSON object, or `name=value` for each member; a value that is no JSON is text.
fn object(words: &[String]) -> Result<Value, Failure> {
    if let [text] = words
        && text.trim_start().starts_with('{')
    {
        return serde_json::from_str(text).map_err(|error| {
            Failure::new(Exit::Usage, format!("what is desired is no JSON: {error}"))
                .next("quote it for the shell, as in '{\"setpoint\":21.5}', or write setpoint=21.5")
        });
    }
    let mut members = Map::new();
    for word in words {
        let (name, value) = word.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("`{word}` is neither a JSON object nor name=value"))
                .next("hearthkey twin set --help")
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        members.insert(name.to_owned(), value);
    }
    Ok(Value::Object(members))
}

fn render(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, twin: api::Twin| {
        let state = match (&twin.desired, twin.settled) {
            (None, _) => styled(FAINT, "nothing is desired"),
            (Some(_), true) => styled(GOOD, "the device has obeyed"),
            (Some(_), false) => styled(WAITING, "the device has not obeyed yet"),
        };
        let desired = twin.desired.map_or_else(
            || "-".to_owned(),
            |side| format!("v{} {}  by {}, {}", side.v, shown(&side.body), printable(&side.by), clock.relative(side.at)),
        );
        let reported = twin.reported.map_or_else(
            || "-".to_owned(),
            |side| {
                let version = side.v.map_or_else(String::new, |v| format!("v{v} "));
                format!("{version}{}  {}", shown(&side.body), clock.relative(side.at))
            },
        );
        out.table(facts([("device", twin.device), ("state", state), ("desired", desired), ("reported", reported)]))
    })
}

fn shown(body: &Value) -> String {
    printable(&body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use serde_json::json;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn members_are_written_as_json_or_one_by_one() {
        assert_eq!(object(&words(&["{\"setpoint\":21.5}"])).expect("an object"), json!({"setpoint": 21.5}));
        let members = object(&words(&["setpoint=21.5", "mode=heat", "away=null", "plan={\"from\":7}", "note=a=b"]));
        let wanted = json!({"setpoint": 21.5, "mode": "heat", "away": null, "plan": {"from": 7}, "note": "a=b"});
        assert_eq!(members.expect("members"), wanted);
        for wrong in [&["21.5"][..], &["=5"], &["{"], &["a=1", "{}"]] {
            assert_eq!(object(&words(wrong)).expect_err("neither").exit(), Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn both_sides_are_shown_and_whether_they_agree() {
        let answer = json!({"device": "lamp", "settled": false,
            "desired": {"v": 8, "body": {"setpoint": 21.5}, "by": "user owner", "at": 1_780_000_000},
            "reported": {"v": 7, "body": {"setpoint": 19}, "at": 1_780_000_000}});
        let (mut out, printed) = Output::captured(Format::Table);
        render(&answer, &Clock::standing(1_780_000_060), &mut out).expect("shown");
        let text = printed.text();
        for part in ["v8 {\"setpoint\":21.5}", "by user owner", "v7 {\"setpoint\":19}", "has not obeyed yet"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
