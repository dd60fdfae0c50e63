//! `hearthkey device …`: the life of a device, from the owner's side.

use super::{
    api,
    args::{CredentialArgs, Device},
    client::Client,
    enrolment,
    failure::{Exit, Failure},
    output::{Output, facts, printable, state_cell, table},
    when::Clock,
};
use comfy_table::Cell;
use hearthkey_core::DeviceId;
use serde_json::{Value, json};

pub(super) async fn run(command: Device, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Device::Add(args) => {
            if let Some(why) = args.too_many_children() {
                return Err(Failure::new(Exit::Usage, why));
            }
            let mut body =
                json!({ "id": args.name, "profile": args.profile, "authentication": authentication(&args.credential) });
            if !args.children.is_empty() {
                body["children"] = json!(args.children);
            }
            let answer = client.post(&["devices"], &body).await?;
            enrolment::render(enrolment::Occasion::Added, &answer, client.context(), args.credential.no_qr, clock, out)?;
        }
        Device::Rotate(args) => {
            let body = json!({ "authentication": authentication(&args.credential), "overlap_s": args.overlap });
            let answer = client.post(&["devices", args.device.name.as_str(), "rotate"], &body).await?;
            enrolment::render(
                enrolment::Occasion::Rotated { overlap: args.overlap },
                &answer,
                client.context(),
                args.credential.no_qr,
                clock,
                out,
            )?;
        }
        Device::List => render_list(&client.get_all(&["devices"], &[]).await?, clock, out)?,
        Device::Show(args) => render_one(&client.get(&["devices", args.name.as_str()], &[]).await?, clock, out)?,
        Device::Disable(args) => change(&args.name, "disable", client, out).await?,
        Device::Enable(args) => change(&args.name, "enable", client, out).await?,
        Device::Revoke(args) => change(&args.name, "revoke", client, out).await?,
    }
    Ok(Exit::Done)
}

fn authentication(credential: &CredentialArgs) -> &'static str {
    if credential.secret { "secret" } else { "key" }
}

async fn change(name: &DeviceId, change: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let answer = client.post(&["devices", name.as_str(), change], &json!({})).await?;
    render_change(&answer, out)
}

fn render_change(answer: &Value, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, api::Device { id, profile, status, .. }: api::Device| {
        out.line(match status.as_str() {
            "disabled" => format!("{id} is disabled: its sessions are cut, its keys stay\n  next: hearthkey device enable {id}"),
            "revoked" => format!(
                "{id} is revoked: its sessions are cut, its keys and tokens open nothing any more\n  \
                 to let it in anew: hearthkey device add {id} --profile {profile}"
            ),
            "pending" => format!("{id} may enrol\n  for a fresh enrolment string: hearthkey device rotate {id}"),
            "active" => format!("{id} may connect"),
            status => format!("{id} is {status}"),
        })
    })
}

fn render_list(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, devices: api::Items<api::Device>| {
        if devices.items.is_empty() {
            return out.line("there is no device yet\n  next: hearthkey device add NAME --profile P, with a profile of `hearthkey profile list`");
        }
        let mut rows = table(["NAME", "PROFILE", "STATUS", "CONNECTED", "CREDENTIAL", "ENROLLED", "SOFTWARE"]);
        for device in &devices.items {
            rows.add_row([
                Cell::new(&device.id),
                Cell::new(&device.profile),
                state_cell(&device.status),
                state_cell(if device.connected { "yes" } else { "no" }),
                Cell::new(credentials(device)),
                Cell::new(device.enrolled_at.map_or_else(|| "-".to_owned(), |at| clock.relative(at))),
                Cell::new(software(device)),
            ]);
        }
        out.table(rows)
    })
}

fn render_one(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, device: api::Device| {
        let mut lines = vec![
            ("name", device.id.clone()),
            ("profile", device.profile.clone()),
            ("status", device.status.clone()),
            ("connected", if device.connected { "yes" } else { "no" }.to_owned()),
            ("credential", credentials(&device)),
            ("added", clock.full(device.created_at)),
            ("enrolled", device.enrolled_at.map_or_else(|| "-".to_owned(), |at| clock.full(at))),
            ("software", software(&device)),
        ];
        if !device.children.is_empty() {
            lines.push(("acts for", device.children.join(" ")));
        }
        for key in &device.keys {
            let used =
                key.first_used_at.map_or_else(|| "not used yet".to_owned(), |at| format!("first used {}", clock.relative(at)));
            let retires = key.retires_at.map_or_else(String::new, |at| format!(", retires {}", clock.relative(at)));
            lines.push(("key", format!("{}  added {}, {used}{retires}", key.thumbprint, clock.relative(key.added_at))));
        }
        out.table(facts(lines))
    })
}

/// How the device proves itself, in a word or two.
fn credentials(device: &api::Device) -> String {
    match (device.keys.len(), device.secrets) {
        (0, 0) => "none yet".to_owned(),
        (1, 0) => "key".to_owned(),
        (keys, 0) => format!("{keys} keys"),
        (0, 1) => "secret".to_owned(),
        (0, secrets) => format!("{secrets} secrets"),
        (keys, secrets) => format!("{keys} keys, {secrets} secrets"),
    }
}

fn software(device: &api::Device) -> String {
    device.software.as_deref().filter(|software| !software.is_empty()).map_or_else(|| "-".to_owned(), printable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    const NOW: u64 = 1_780_000_000;

    fn lamp() -> Value {
        json!({
            "id": "lamp", "profile": "switch", "status": "active", "connected": true, "secrets": 0, "children": [],
            "keys": [{"thumbprint": "abc_DEF", "added_at": NOW - 600, "first_used_at": NOW - 590, "retires_at": NOW + 3_600}],
            "created_at": NOW - 700, "enrolled_at": NOW - 600, "software": "acme\u{1b}[2J 1.0", "command_seq": 4, "later": "field"
        })
    }

    fn printed(format: Format, render: impl FnOnce(&Clock, &mut Output) -> Result<(), Failure>) -> String {
        let (mut out, captured) = Output::captured(format);
        render(&Clock::standing(NOW), &mut out).expect("rendered");
        captured.text()
    }

    #[test]
    fn a_list_has_a_row_for_each_device() {
        let mut oven = lamp();
        oven["id"] = json!("oven");
        oven["status"] = json!("pending");
        oven["connected"] = json!(false);
        oven["keys"] = json!([]);
        oven["enrolled_at"] = Value::Null;
        let answer = json!({"items": [lamp(), oven]});
        let table = printed(Format::Table, |clock, out| render_list(&answer, clock, out));
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(rows[0], ["NAME", "PROFILE", "STATUS", "CONNECTED", "CREDENTIAL", "ENROLLED", "SOFTWARE"]);
        assert_eq!(rows[1], ["lamp", "switch", "active", "yes", "key", "10 min ago", "acme\\u{1b}[2J 1.0"]);
        assert_eq!(rows[2][..6], ["oven", "switch", "pending", "no", "none yet", "-"]);

        let json = printed(Format::Json, |clock, out| render_list(&answer, clock, out));
        assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), answer, "fields of a later hub included");
    }

    #[test]
    fn an_empty_home_says_what_to_type() {
        let text = printed(Format::Table, |clock, out| render_list(&json!({"items": []}), clock, out));
        assert!(text.contains("hearthkey device add"), "{text}");
    }

    #[test]
    fn one_device_is_shown_with_its_keys_and_times() {
        let text = printed(Format::Table, |clock, out| render_one(&lamp(), clock, out));
        for expected in ["abc_DEF  added 10 min ago", "retires in 60 min", "2026-05-28T20:16:40+00:00 (10 min ago)"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn each_change_says_what_it_means() {
        for (status, expected) in [
            ("disabled", "hearthkey device enable lamp"),
            ("revoked", "hearthkey device add lamp --profile switch"),
            ("active", "lamp may connect"),
            ("pending", "hearthkey device rotate lamp"),
        ] {
            let mut answer = lamp();
            answer["status"] = json!(status);
            let text = printed(Format::Table, |_, out| render_change(&answer, out));
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_told_and_not_guessed_at() {
        let (mut out, _) = Output::captured(Format::Table);
        let failure = render_one(&json!({"id": 7}), &Clock::standing(NOW), &mut out).expect_err("another shape");
        assert!(failure.to_string().contains("-o json"), "{failure}");
    }
}
