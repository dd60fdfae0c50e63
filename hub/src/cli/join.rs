//! `hearthkey join`, `approve` and `deny`: who asks to be let in, and the owner's word on it.

use super::{
    api,
    args::{Approve, Deny, Join},
    client::Client,
    failure::{Exit, Failure},
    output::{FAINT, Format, LITERAL, Output, STRONG, printable, styled, table, understood},
    prompt,
    when::Clock,
};
use hearthkey_core::{DeviceId, UnixTime, profile::ProfileName};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// How often to look who has come.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn join(args: &Join, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let answer = client.post(&["join"], &json!({ "for_s": args.open_for.as_secs() })).await?;
    let window: api::JoinWindow = understood(&answer)?;
    let clock = Clock::system();
    match out.format() {
        Format::Json => out.json_line(&answer)?,
        Format::Table => out.line(format!(
            "devices may ask to join until {} ({}); Ctrl-C closes the window",
            clock.time_of_day(window.open_until),
            clock.relative(window.open_until)
        ))?,
    }
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut seen = BTreeSet::new();
    let closes = tokio::time::Instant::now() + args.open_for;
    loop {
        let answer = tokio::select! {
            biased;
            _ = &mut interrupted => return close(window.open_until, &clock, client, out).await,
            answer = client.get_all(&["approvals"], &[]) => answer?,
        };
        show_newcomers(&answer, &mut seen, &Clock::system(), out)?;
        if tokio::time::Instant::now() >= closes {
            out.note(closed(seen.len()));
            return Ok(Exit::Done);
        }
        tokio::select! {
            biased;
            _ = &mut interrupted => return close(window.open_until, &clock, client, out).await,
            () = tokio::time::sleep_until(closes.min(tokio::time::Instant::now() + LOOK_EVERY)) => {}
        }
    }
}

/// Whoever stops watching watches the door no more: it is closed.
async fn close(until: UnixTime, clock: &Clock, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    if let Err(failure) = client.post(&["join"], &json!({ "for_s": 0 })).await {
        out.note(format!("the window could not be closed; devices may still ask until {}", clock.time_of_day(until)));
        return Err(failure);
    }
    out.note("the window is closed; hearthkey approve lists those who still wait");
    Ok(Exit::Done)
}

fn closed(asked: usize) -> String {
    match asked {
        0 => "no device asked; hearthkey join opens the window again".to_owned(),
        1 => "the window is closed; 1 device asked. hearthkey approve lists those who still wait".to_owned(),
        asked => format!("the window is closed; {asked} devices asked. hearthkey approve lists those who still wait"),
    }
}

/// Shows each device once, as it comes.
fn show_newcomers(answer: &Value, seen: &mut BTreeSet<String>, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    for item in understood::<api::Items<Value>>(answer)?.items {
        let approval: api::Approval = understood(&item)?;
        if !matches!(approval.wanted, api::Wanted::Join { .. }) || !seen.insert(approval.user_code.clone()) {
            continue;
        }
        match out.format() {
            Format::Json => out.json_line(&item)?,
            Format::Table => out.line(format!(
                "{} {}  {}\n  if the device shows the same code: {}",
                styled(FAINT, clock.time_of_day(clock.now())),
                styled(STRONG, printable(&approval.user_code)),
                described(&approval.wanted),
                styled(LITERAL, format!("hearthkey approve {} --name NAME --profile P", printable(&approval.user_code)))
            ))?,
        }
    }
    Ok(())
}

fn described(wanted: &api::Wanted) -> String {
    match wanted {
        api::Wanted::Join { software, thumbprint } => {
            let software = if software.is_empty() { "a device".to_owned() } else { format!("a device, {}", printable(software)) };
            format!("{software}, with the key {}", printable(thumbprint))
        }
        api::Wanted::Login { client, source } => {
            format!("a login from {}, by {}", printable(source), printable(client))
        }
    }
}

pub(super) async fn approve(args: Approve, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let waiting = client.get_all(&["approvals"], &[]).await?;
    let Some(code) = &args.code else {
        render_waiting(&waiting, clock, out)?;
        return Ok(Exit::Done);
    };
    let approval = find(&waiting, code)?;
    let (body, sentence) = match &approval.wanted {
        api::Wanted::Join { .. } => join_body(&args, &approval, client, out).await?,
        api::Wanted::Login { source, .. } => {
            if args.name.is_some() || args.profile.is_some() {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("{} is a login and gets neither name nor profile", approval.user_code),
                ));
            }
            let mut body = json!({});
            if let Some(scope) = args.scope.text() {
                body["scope"] = json!(scope);
            }
            if let Some(lifetime) = args.expires {
                body["expires_in_s"] = json!(lifetime);
            }
            let sentence = format!(
                "the login from {} acts for you from now on\n  to end it: hearthkey logout there, or hearthkey pat revoke ID here",
                printable(source)
            );
            (body, sentence)
        }
    };
    let answer = client.post(&["approvals", &approval.user_code], &body).await?;
    let answer = if answer.is_null() { json!({ "user_code": approval.user_code, "approved": true }) } else { answer };
    out.done(&answer, sentence)?;
    Ok(Exit::Done)
}

async fn join_body(
    args: &Approve,
    approval: &api::Approval,
    client: &Client,
    out: &mut Output,
) -> Result<(Value, String), Failure> {
    let code = &approval.user_code;
    if args.expires.is_some() || args.scope.text().is_some() {
        return Err(Failure::new(Exit::Usage, format!("{code} is a device; its profile says what it may do")));
    }
    let (name, profile) = match (&args.name, &args.profile) {
        (Some(name), Some(profile)) => (name.clone(), profile.clone()),
        (name, profile) if prompt::somebody_is_there() => {
            out.note(format!("{}  {}", styled(STRONG, printable(code)), described(&approval.wanted)));
            let name = name.clone().map_or_else(|| prompt::line("name of the device", DeviceId::parse), Ok)?;
            let profile = match profile {
                Some(profile) => profile.clone(),
                None => ask_profile(client).await?,
            };
            (name, profile)
        }
        _ => {
            return Err(Failure::new(Exit::Usage, format!("{code} is a device, which needs a name and a profile"))
                .next(format!("hearthkey approve {code} --name NAME --profile P, with a profile of `hearthkey profile list`")));
        }
    };
    let sentence = format!("{name} is let in, with the profile {profile}\n  next: hearthkey watch 'dev/{name}/#'");
    Ok((json!({ "name": name, "profile": profile }), sentence))
}

async fn ask_profile(client: &Client) -> Result<ProfileName, Failure> {
    let profiles: api::Items<api::ProfileSummary> = understood(&client.get_all(&["profiles"], &[]).await?)?;
    let names: Vec<String> = profiles.items.into_iter().map(|profile| profile.name).collect();
    prompt::line(&format!("profile ({})", names.join(", ")), |text| match ProfileName::parse(text) {
        Ok(profile) if names.iter().any(|name| name == text) => Ok(profile),
        _ => Err(format!("there is no profile `{}`", printable(text))),
    })
}

pub(super) async fn deny(args: &Deny, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let approval = find(&client.get_all(&["approvals"], &[]).await?, &args.code)?;
    client.delete(&["approvals", &approval.user_code]).await?;
    let what = match approval.wanted {
        api::Wanted::Join { .. } => "the device",
        api::Wanted::Login { .. } => "the login",
    };
    out.done(
        &json!({ "user_code": approval.user_code, "denied": true }),
        format!("{what} {} is turned away", approval.user_code),
    )?;
    Ok(Exit::Done)
}

/// Who waits with a code, however it is written.
fn find(waiting: &Value, code: &str) -> Result<api::Approval, Failure> {
    let plain = |code: &str| code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let waiting: api::Items<api::Approval> = understood(waiting)?;
    waiting.items.into_iter().find(|approval| plain(&approval.user_code) == code).ok_or_else(|| {
        Failure::new(Exit::Refused, format!("nobody waits with the code {code}; it may have expired, or be answered already"))
            .next("hearthkey approve, which lists those who wait")
    })
}

fn render_waiting(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, waiting: api::Items<api::Approval>| {
        if waiting.items.is_empty() {
            return out.line("nobody waits\n  next: hearthkey join --for 3m, so that devices may ask");
        }
        let mut rows = table(["CODE", "WHO", "UNTIL"]);
        for approval in &waiting.items {
            rows.add_row([printable(&approval.user_code), described(&approval.wanted), clock.relative(approval.expires_at)]);
        }
        out.table(rows)?;
        out.line("next: hearthkey approve CODE, or hearthkey deny CODE, once you have compared it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_780_000_000;

    fn waiting() -> Value {
        json!({"items": [
            {"user_code": "WDJB-MJHT", "wanted": {"join": {"software": "acme\u{1b} 1.0", "thumbprint": "abc_DEF"}}, "expires_at": NOW + 180},
            {"user_code": "BCDF-GHJK", "wanted": {"login": {"client": "hearthkey-cli", "source": "192.168.1.7"}}, "expires_at": NOW + 600}]})
    }

    #[test]
    fn those_who_wait_are_listed_with_what_tells_them_apart() {
        let (mut out, printed) = Output::captured(Format::Table);
        render_waiting(&waiting(), &Clock::standing(NOW), &mut out).expect("rendered");
        for expected in [
            "WDJB-MJHT",
            "a device, acme\\u{1b} 1.0, with the key abc_DEF",
            "in 3 min",
            "a login from 192.168.1.7, by hearthkey-cli",
        ] {
            assert!(printed.text().contains(expected), "{expected} in {}", printed.text());
        }
        let (mut out, printed) = Output::captured(Format::Table);
        render_waiting(&json!({"items": []}), &Clock::standing(NOW), &mut out).expect("rendered");
        assert!(printed.text().contains("hearthkey join"));
        let (mut out, printed) = Output::captured(Format::Json);
        render_waiting(&waiting(), &Clock::standing(NOW), &mut out).expect("rendered");
        assert_eq!(serde_json::from_str::<Value>(&printed.text()).expect("JSON"), waiting());
    }

    #[test]
    fn each_device_that_asks_is_shown_once_and_logins_are_not_devices() {
        let mut seen = BTreeSet::new();
        let (mut out, printed) = Output::captured(Format::Table);
        for _ in 0..2 {
            show_newcomers(&waiting(), &mut seen, &Clock::standing(NOW), &mut out).expect("shown");
        }
        let text = printed.text();
        assert_eq!(text.matches("hearthkey approve WDJB-MJHT --name NAME --profile P").count(), 1, "{text}");
        assert!(!text.contains("BCDF"), "{text}");
    }

    #[test]
    fn a_code_finds_who_waits_with_it_and_nobody_else() {
        assert_eq!(find(&waiting(), "WDJBMJHT").expect("there").user_code, "WDJB-MJHT");
        let failure = find(&waiting(), "WDJBMJHX").err().expect("nobody");
        assert_eq!(failure.exit(), Exit::Refused);
        assert!(failure.to_string().contains("next: hearthkey approve"), "{failure}");
    }
}
