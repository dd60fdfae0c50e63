//! `hearthkey pat …` and `hearthkey key …`: the life of a personal access token and of an API key.

use super::{
    api,
    args::{Key, KeyCreate, Pat, PatCreate},
    client::Client,
    failure::{Exit, Failure},
    login::own_principal,
    output::{Output, facts, printable, table, understood},
    shown_once::{Destination, Earlier},
    when::{Clock, span},
};
use comfy_table::{Cell, Color};
use hearthkey_core::{
    limits::UNUSED_AFTER,
    secret::{CredentialKind, PresentedCredential},
    session::Principal,
};
use serde_json::{Value, json};

/// The public id of a credential, in characters.
const ID_CHARACTERS: usize = 12;
/// How many permissions a list shows of a credential; `show` has them all.
const LISTED_PERMISSIONS: usize = 3;

pub(super) async fn pat(command: Pat, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Pat::Create(args) => {
            let destination = Destination::prepare(&args.out, Earlier::Keep)?;
            let answer = client.post(&["credentials", "personal-access-tokens"], &new_token(&args)).await?;
            render_created("is made", &answer, destination, clock, out)?;
        }
        Pat::List(args) => {
            let whose = if args.all { None } else { Some(own_principal(client).await?) };
            let mut answer = client.get_all(&["credentials"], &[("kind", "personal_access_token")]).await?;
            if let Some(own) = &whose {
                keep_own(&mut answer, own);
            }
            render_list("there is no personal access token\n  next: hearthkey pat create NAME", &answer, clock, out)?;
        }
        Pat::Show(args) => show(&args.id, client, clock, out).await?,
        Pat::Rotate(args) => {
            let id = checked_id(&args.credential.id)?;
            let destination = Destination::prepare(&args.out, Earlier::Replace)?;
            let answer = client.post(&["credentials", id, "rotate"], &json!({})).await?;
            let occasion = format!("takes the place of {id}, which ends when the new one is first used");
            render_created(&occasion, &answer, destination, clock, out)?;
        }
        Pat::Revoke(args) => revoke(&args.id, client, out).await?,
    }
    Ok(Exit::Done)
}

pub(super) async fn key(command: Key, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Key::Create(args) => {
            let destination = Destination::prepare(&args.out, Earlier::Keep)?;
            let answer = client.post(&["credentials", "api-keys"], &new_key(&args)).await?;
            render_created("is made", &answer, destination, clock, out)?;
        }
        Key::List => {
            let answer = client.get_all(&["credentials"], &[("kind", "api_key")]).await?;
            render_list("there is no API key\n  next: hearthkey key create --help", &answer, clock, out)?;
        }
        Key::Show(args) => show(&args.id, client, clock, out).await?,
        Key::Roll(args) => {
            let id = checked_id(&args.credential.id)?;
            let destination = Destination::prepare(&args.out, Earlier::Replace)?;
            let answer = client.post(&["credentials", id, "roll"], &json!({ "overlap_s": args.overlap })).await?;
            let overlap = match args.overlap.0 {
                0 => "which has ended".to_owned(),
                overlap => format!("which works for another {}", span(overlap)),
            };
            render_created(&format!("takes the place of {id}, {overlap}"), &answer, destination, clock, out)?;
        }
        Key::Revoke(args) => revoke(&args.id, client, out).await?,
    }
    Ok(Exit::Done)
}

fn new_token(args: &PatCreate) -> Value {
    let mut body = json!({ "name": args.name });
    if let Some(scope) = args.scope.text() {
        body["scope"] = json!(scope);
    }
    if !args.devices.is_empty() {
        body["devices"] = json!(args.devices);
    }
    if let Some(lifetime) = args.expires {
        body["expires_in_s"] = json!(lifetime);
    }
    body
}

fn new_key(args: &KeyCreate) -> Value {
    let mut body = match &args.device {
        Some(device) => json!({ "name": args.name, "device": device }),
        None => json!({ "name": args.name, "integration": args.integration, "profile": args.profile }),
    };
    if let Some(scope) = args.scope.text() {
        body["scope"] = json!(scope);
    }
    if let Some(lifetime) = args.expires {
        body["expires_in_s"] = json!(lifetime);
    }
    if !args.networks.is_empty() {
        body["networks"] = json!(args.networks);
    }
    body
}

/// An id that is one. What was given is not repeated: it may be a secret.
fn checked_id(id: &str) -> Result<&str, Failure> {
    if id.len() == ID_CHARACTERS && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(id);
    }
    let Ok(PresentedCredential { id, kind, .. }) = PresentedCredential::parse(id) else {
        return Err(Failure::new(Exit::Usage, format!("an id has {ID_CHARACTERS} letters and digits"))
            .next("hearthkey pat list, or hearthkey key list"));
    };
    let noun = match kind {
        CredentialKind::PersonalAccessToken => "pat",
        CredentialKind::ApiKey | CredentialKind::ClientSecret => "key",
    };
    Err(Failure::new(Exit::Usage, format!("that is a secret, and now stands in your shell's history; its id is {id}"))
        .next(format!("hearthkey {noun} revoke {id}")))
}

fn keep_own(list: &mut Value, own: &Principal) {
    let is_own = |item: &Value| item.get("subject").is_some_and(|subject| json!(own) == *subject);
    if let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) {
        items.retain(is_own);
    }
}

async fn show(id: &str, client: &Client, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    let answer = client.get(&["credentials", checked_id(id)?], &[]).await?;
    render_one(&answer, clock, out)
}

async fn revoke(id: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let id = checked_id(id)?;
    client.delete(&["credentials", id]).await?;
    out.done(&json!({ "id": id, "revoked": true }), format!("{id} is revoked: it opens nothing any more"))
}

fn render_created(
    occasion: &str,
    answer: &Value,
    destination: Destination,
    clock: &Clock,
    out: &mut Output,
) -> Result<(), Failure> {
    let api::Created { credential, secret } = understood(answer)?;
    let told = format!(
        "the {} {} ({}) of {} {occasion}; {}{}",
        kind(&credential),
        printable(&credential.name),
        credential.id,
        credential.subject,
        credential.expires_at.map_or_else(|| "it does not expire".to_owned(), |at| format!("it ends {}", clock.full(at))),
        use_of(&credential)
    );
    let undo = format!("hearthkey {} revoke {}", noun(&credential), credential.id);
    destination.deliver(answer, &secret, &told, &undo, out)
}

/// How it is presented, where that is not plain.
fn use_of(credential: &api::Credential) -> String {
    match &credential.subject {
        Principal::Device(device) => format!("\nthe device's MQTT user name is {device}, its password the key"),
        Principal::User(_) | Principal::Integration(_) => {
            "\nit goes into `Authorization: Bearer …`, or is a password by MQTT".to_owned()
        }
    }
}

fn kind(credential: &api::Credential) -> String {
    match credential.kind.as_str() {
        "personal_access_token" => "personal access token".to_owned(),
        "api_key" => "API key".to_owned(),
        "client_secret" => "client secret".to_owned(),
        other => printable(other),
    }
}

fn noun(credential: &api::Credential) -> &'static str {
    if credential.kind == "personal_access_token" { "pat" } else { "key" }
}

fn render_list(none: &str, answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, credentials: api::Items<api::Credential>| {
        if credentials.items.is_empty() {
            return out.line(none);
        }
        let mut rows = table(["ID", "NAME", "OF", "MAY", "EXPIRES", "LAST USED", "NOTE"]);
        for credential in &credentials.items {
            let notes = notes(credential, clock).join(", ");
            rows.add_row([
                Cell::new(&credential.id),
                Cell::new(printable(&credential.name)),
                Cell::new(&credential.subject),
                Cell::new(may(credential)),
                Cell::new(credential.expires_at.map_or_else(|| "never".to_owned(), |at| clock.relative(at))),
                Cell::new(last_used(credential, clock)),
                Cell::new(notes).fg(Color::DarkYellow),
            ]);
        }
        out.table(rows)
    })
}

fn render_one(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, credential: api::Credential| {
        let mut lines = vec![
            ("id", credential.id.clone()),
            ("kind", kind(&credential)),
            ("name", printable(&credential.name)),
            ("of", credential.subject.to_string()),
            ("may", printable(&credential.scope)),
        ];
        if let Some(profile) = &credential.profile {
            lines.push(("profile", printable(profile)));
        }
        if let Some(devices) = &credential.devices {
            lines.push(("only about", devices.join(" ")));
        }
        if !credential.networks.is_empty() {
            lines.push(("only from", credential.networks.join(" ")));
        }
        lines.push(("made", clock.full(credential.created_at)));
        lines.push(("expires", credential.expires_at.map_or_else(|| "never".to_owned(), |at| clock.full(at))));
        lines.push(("last used", last_used(&credential, clock)));
        lines.extend(notes(&credential, clock).into_iter().map(|note| ("note", note)));
        out.table(facts(lines))
    })
}

/// What it may do, in as much as fits into a row.
fn may(credential: &api::Credential) -> String {
    let permissions: Vec<&str> = credential.scope.split(' ').collect();
    let (listed, further) = permissions.split_at(permissions.len().min(LISTED_PERMISSIONS));
    let further = if further.is_empty() { String::new() } else { format!(" and {} more", further.len()) };
    let about = credential.devices.as_ref().map_or_else(String::new, |devices| format!(" about {}", devices.join(" ")));
    format!("{}{further}{about}", printable(&listed.join(" ")))
}

fn last_used(credential: &api::Credential, clock: &Clock) -> String {
    match &credential.last_used {
        Some(used) if used.source.is_empty() => clock.relative(used.at),
        Some(used) => format!("{} from {}", clock.relative(used.at), printable(&used.source)),
        None => "never".to_owned(),
    }
}

fn notes(credential: &api::Credential, clock: &Clock) -> Vec<String> {
    let waits = credential.replaces.as_ref().map(|old| format!("replaces {} on first use", printable(old)));
    let replaced = credential.replaced_at.map(|at| format!("replaced {}", clock.relative(at)));
    let warnings = credential.warnings.iter().map(|warning| match warning.as_str() {
        "expires_soon" => "expires soon".to_owned(),
        "unused" => format!("unused for {}", span(UNUSED_AFTER.0)),
        // A later hub may warn of more.
        other => printable(other),
    });
    waits.into_iter().chain(replaced).chain(warnings).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use hearthkey_core::secret::Secret;

    const NOW: u64 = 1_780_000_000;

    fn token() -> Value {
        json!({"id": "0aB3dE6gH9jK", "kind": "personal_access_token", "name": "back\u{1b}up", "subject": {"user": "ann"},
            "scope": "devices:read", "devices": ["lamp"], "created_at": NOW - 600, "expires_at": NOW + 86_400,
            "last_used": {"at": NOW - 60, "source": "192.168.1.7"}, "warnings": ["expires_soon", "unused", "later"]})
    }

    fn printed(format: Format, render: impl FnOnce(&Clock, &mut Output) -> Result<(), Failure>) -> String {
        let (mut out, captured) = Output::captured(format);
        render(&Clock::standing(NOW), &mut out).expect("rendered");
        captured.text()
    }

    #[test]
    fn a_list_warns_of_what_ends_soon_or_is_not_used() {
        let answer = json!({"items": [token()]});
        let text = printed(Format::Table, |clock, out| render_list("none", &answer, clock, out));
        let row: Vec<&str> =
            text.lines().nth(1).expect("a row").split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            row,
            [
                "0aB3dE6gH9jK",
                "back\\u{1b}up",
                "user ann",
                "devices:read about lamp",
                "in 24 h",
                "60 s ago from 192.168.1.7",
                "expires soon, unused for 180 days, later"
            ]
        );
        let json = printed(Format::Json, |clock, out| render_list("none", &answer, clock, out));
        assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), answer);
        let mut owners = token();
        owners["scope"] = json!("audit:read commands:send credentials:manage devices:manage devices:read");
        let text = printed(Format::Table, |clock, out| render_list("none", &json!({"items": [owners.clone()]}), clock, out));
        assert!(text.contains("audit:read commands:send credentials:manage and 2 more about lamp"), "{text}");
        let text = printed(Format::Table, |clock, out| render_one(&owners, clock, out));
        assert!(text.contains("devices:manage devices:read"), "{text}");
        let text = printed(Format::Table, |clock, out| render_list("none", &json!({"items": []}), clock, out));
        assert_eq!(text, "none\n");
    }

    #[test]
    fn one_credential_is_shown_with_all_its_bounds() {
        let key = json!({"id": "0aB3dE6gH9jK", "kind": "api_key", "name": "ha", "subject": {"integration": "ha"},
            "scope": "telemetry", "profile": "home-assistant", "networks": ["192.168.1.0/24"], "created_at": NOW,
            "replaced_at": NOW - 120});
        let text = printed(Format::Table, |clock, out| render_one(&key, clock, out));
        for expected in ["API key", "integration ha", "home-assistant", "192.168.1.0/24", "never", "replaced 2 min ago"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn everybody_elses_tokens_stay_out_of_ones_own_list() {
        let mut bens = token();
        bens["subject"] = json!({"user": "ben"});
        let mut list = json!({"items": [bens, token()]});
        let ann = serde_json::from_value(json!({"user": "ann"})).expect("a principal");
        keep_own(&mut list, &ann);
        assert_eq!(list, json!({"items": [token()]}));
    }

    #[test]
    fn a_secret_that_is_given_for_an_id_is_not_repeated() {
        assert_eq!(checked_id("0aB3dE6gH9jK").expect("an id"), "0aB3dE6gH9jK");
        let (id, secret) = Secret::generate(CredentialKind::ApiKey, &[7; 64]);
        let failure = checked_id(secret.expose()).expect_err("a secret").to_string();
        assert!(failure.contains(&format!("hearthkey key revoke {id}")) && !failure.contains(secret.expose()), "{failure}");
        for wrong in ["", "../users/ann", "0aB3dE6gH9j", "hk_pat_0aB3dE6gH9jK_wrong"] {
            let failure = checked_id(wrong).expect_err("none").to_string();
            assert!(failure.contains("12 letters and digits") && (wrong.is_empty() || !failure.contains(wrong)), "{failure}");
        }
    }
}
