//! `hearthkey login`, `logout` and `whoami`: how a command line on another machine comes to a token, and gives it back.
//!
//! By RFC 8628, where somebody at the hub approves a code, or by a user's password. Until the hub has proved to be the one
//! that was meant, nothing is said to it.

use super::{
    api,
    args::Login,
    check::{named as name_of_file, read_file_or_stdin},
    client::{Client, OAuthRefusal},
    context::{Context, ContextName, ContextRef, LOCAL, Origin},
    contexts::{NamedContexts, forgotten},
    failure::{Exit, Failure},
    output::{FAINT, Format, LITERAL, Output, STRONG, facts, printable, styled, understood},
    prompt,
    trust::Trust,
    when::Clock,
};
use hearthkey_core::session::Principal;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// What this command line calls itself.
const CLIENT_ID: &str = "hearthkey-cli";
/// RFC 8628 section 3.4.
const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// How often to ask unless the hub says, and how much less often when it asks for that (RFC 8628 sections 3.2 and 3.5).
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The least and the most that a hub may say.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A code that lives for longer is forgotten at the screen on which it stands.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

pub(super) async fn login(args: &Login, wanted: Option<&ContextRef>, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let contexts = NamedContexts::of_this_user().ok_or_else(NamedContexts::nowhere)?;
    let name = context_name(wanted, &args.url)?;
    let earlier = contexts.read(&name).ok();
    if let Some(other) = earlier.as_ref().filter(|earlier| earlier.url != args.url) {
        return Err(Failure::new(Exit::Usage, format!("the context {name} is already of another hub, {}", other.url))
            .next(format!("hearthkey login {} --context ANOTHER-NAME", args.url)));
    }
    let (trust, known_pem) = trust(args, earlier.as_ref())?;
    let client = Client::anonymous(contexts.place(&name, args.url.clone()), &trust)?;
    let ca_pem = match known_pem {
        Some(pem) => pem,
        None => pinned_ca(&client, &trust).await?,
    };
    let token = match &args.user {
        Some(user) => by_password(args, user.as_str(), &client).await?,
        None => by_approval(&client, clock, out).await?,
    };
    let earlier = earlier.and_then(|earlier| Some((Client::new(earlier.clone()).ok()?, earlier.token().ok()?)));
    contexts.store(&name, &args.url, &ca_pem, &token)?;
    if let Some((client, token)) = earlier {
        // The login that this one replaces ends now; if the hub does not take it any more, it has ended already.
        let _ = client.oauth("revoke", &[("token", &token)]).await;
    }
    let me = Client::new(contexts.read(&name)?)?.get(&["me"], &[]).await?;
    logged_in(&name, &args.url, &me, clock, out)?;
    Ok(Exit::Done)
}

/// What to call the context: as was said, or after the hub's host.
fn context_name(wanted: Option<&ContextRef>, url: &Url) -> Result<ContextName, Failure> {
    match wanted {
        Some(ContextRef::Named(name)) if name.as_str() != LOCAL => Ok(name.clone()),
        Some(_) => Err(Failure::new(Exit::Usage, "a login is kept under a name other than local, and not in a file")
            .next("--context NAME; or unset HEARTHKEY_CONTEXT")),
        None => {
            let host = url.host_str().unwrap_or_default();
            let label = match url.domain() {
                Some(domain) => domain.split('.').next().unwrap_or(domain),
                None => host,
            };
            let legal = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' };
            let name: String = label.chars().map(legal).take(ContextName::MAX_BYTES).collect();
            let name = name.trim_matches('-');
            ContextName::parse(if name == LOCAL { "hub" } else { name })
                .map_err(|_| Failure::new(Exit::Usage, format!("{host} makes no name for a context")).next("--context NAME"))
        }
    }
}

/// By what the hub is to be known, and the CA's certificate if it is known already.
fn trust(args: &Login, earlier: Option<&Context>) -> Result<(Trust, Option<Zeroizing<String>>), Failure> {
    match (&args.ca, args.ca_sha256, earlier) {
        (Some(file), ..) => {
            let pem = read_file_or_stdin(file)?;
            let trust = Trust::in_pem(&pem).map_err(|why| {
                Failure::new(Exit::Refused, format!("{} is no CA certificate: {why}", name_of_file(file)))
                    .next("hearthkey context ca, on the hub's machine")
            })?;
            Ok((trust, Some(Zeroizing::new(pem))))
        }
        (None, Some(pin), _) => Ok((Trust::Pin(pin), None)),
        (None, None, Some(earlier)) => Ok((earlier.trust()?, Some(earlier.ca_certificate()?))),
        (None, None, None) => Err(Failure::new(
            Exit::Usage,
            format!("nothing tells yet whether what answers at {} is your hub: its CA is not known here", args.url),
        )
        .next("hearthkey context show, on the hub's machine: it prints the CA's SHA-256")
        .next(format!("hearthkey login {} --ca-sha256 HEX", args.url))),
    }
}

/// The CA's certificate, from a hub that has proved to be issued by it.
async fn pinned_ca(client: &Client, trust: &Trust) -> Result<Zeroizing<String>, Failure> {
    let pem = client.ca_pem().await?;
    let given = Trust::in_pem(&pem).map(|given| given.sha256());
    if given == Ok(trust.sha256()) {
        return Ok(Zeroizing::new(pem));
    }
    Err(Failure::new(Exit::Unreachable, "the hub gives another CA certificate than the one that issued its own")
        .next("hearthkey context ca, on the hub's machine, and then --ca FILE"))
}

async fn by_password(args: &Login, user: &str, client: &Client) -> Result<Zeroizing<String>, Failure> {
    let password = prompt::password(user, args.password_file.as_deref())?;
    let mut body = json!({ "user": user, "password": *password });
    if let Some(lifetime) = args.expires {
        body["expires_in_s"] = json!(lifetime);
    }
    let answer = client.post(&["login"], &body).await?;
    understood::<api::Created>(&answer).map(|created| Zeroizing::new(created.secret))
}

async fn by_approval(client: &Client, clock: &Clock, out: &mut Output) -> Result<Zeroizing<String>, Failure> {
    let asked = client.oauth("device_authorization", &[("client_id", CLIENT_ID)]).await?;
    let answer = asked.map_err(|refusal| refused(&refusal))?;
    let waiting: api::DeviceAuthorization = understood(&answer)?;
    show_code(&waiting, clock, out)?;
    let spinner = spinner(out);
    let interrupted = tokio::signal::ctrl_c();
    let token = tokio::select! {
        token = poll(client, &waiting) => token,
        _ = interrupted => Err(Failure::new(Exit::Refused, "not logged in")),
    };
    spinner.finish_and_clear();
    token
}

fn show_code(waiting: &api::DeviceAuthorization, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    let expires_at = clock.now().plus(hearthkey_core::Seconds(waiting.expires_in));
    let code = printable(&waiting.user_code);
    match out.format() {
        Format::Json => out.json_line(&json!({ "user_code": waiting.user_code, "expires_at": expires_at })),
        Format::Table => {
            out.line(format!("the code of this login is {}", styled(STRONG, &code)))?;
            out.line(format!(
                "type this on the hub's machine, or wherever you are logged in, until {}:\n  {}",
                clock.time_of_day(expires_at),
                styled(LITERAL, format!("hearthkey approve {code}"))
            ))
        }
    }
}

fn spinner(out: &Output) -> ProgressBar {
    if !out.is_terminal() || out.format() == Format::Json {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message("waiting for the approval");
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

async fn poll(client: &Client, waiting: &api::DeviceAuthorization) -> Result<Zeroizing<String>, Failure> {
    let form = [("grant_type", DEVICE_CODE_GRANT), ("device_code", &waiting.device_code), ("client_id", CLIENT_ID)];
    let begun = Instant::now();
    let lifetime = Duration::from_secs(waiting.expires_in).min(LONGEST_WAIT);
    let mut interval = waiting.interval.map_or(POLL_INTERVAL, Duration::from_secs).clamp(POLL_INTERVALS.0, POLL_INTERVALS.1);
    loop {
        tokio::time::sleep(interval).await;
        match client.oauth("token", &form).await {
            Ok(Ok(answer)) => return understood::<api::TokenResponse>(&answer).map(|answer| Zeroizing::new(answer.access_token)),
            Ok(Err(refusal)) => interval = next_interval(&refusal, interval)?,
            // RFC 8628 section 3.5: a hub that does not answer is asked less often.
            Err(failure) if failure.exit() == Exit::Unreachable => interval = (interval * 2).min(POLL_INTERVALS.1),
            Err(failure) => return Err(failure),
        }
        if begun.elapsed() >= lifetime {
            return Err(expired());
        }
    }
}

/// How long to wait before asking again, or why there is no use in it (RFC 8628 section 3.5).
fn next_interval(refusal: &OAuthRefusal, interval: Duration) -> Result<Duration, Failure> {
    match refusal.error.as_str() {
        "authorization_pending" => Ok(interval),
        "slow_down" => Ok(interval + POLL_INTERVAL),
        "access_denied" => Err(Failure::new(Exit::Refused, "the login was denied")),
        "expired_token" => Err(expired()),
        _ => Err(refused(refusal)),
    }
}

fn expired() -> Failure {
    Failure::new(Exit::TimedOut, "nobody approved the code in time").next("the same command again, for another code")
}

fn refused(refusal: &OAuthRefusal) -> Failure {
    let what = match refusal.error_description.as_str() {
        "" => format!("the hub answers {}", printable(&refusal.error)),
        description => printable(description),
    };
    Failure::new(Exit::Refused, what)
}

fn logged_in(name: &ContextName, url: &Url, answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    if out.format() == Format::Json {
        return out.json_line(&json!({ "context": name, "url": url.as_str(), "me": answer }));
    }
    let me: api::Me = understood(answer)?;
    let until = me.expires_at.map_or_else(String::new, |at| format!(", until {}", clock.full(at)));
    out.line(format!("logged in at {url} as {}{until}", who(&me)))?;
    out.line(styled(FAINT, format!("commands speak to the context {name} from now on; `hearthkey logout` ends that")))
}

/// `user ann, owner`.
fn who(me: &api::Me) -> String {
    let role = me.role.as_deref().map_or_else(String::new, |role| format!(", {}", printable(role)));
    format!("{}{role}", me.principal)
}

pub(super) async fn logout(context: Context, out: &mut Output) -> Result<Exit, Failure> {
    let Origin::Login(name) = context.origin.clone() else {
        return Err(Failure::new(Exit::Usage, format!("{} is no login that could end", context.file.display()))
            .next("hearthkey context list shows the logins, and --context NAME names one"));
    };
    let revoked = match revoke(context).await {
        Ok(()) => true,
        Err(failure) if failure.exit() == Exit::Refused => {
            out.note(format!("the hub did not take the token any more: {failure}"));
            false
        }
        Err(failure) => {
            return Err(failure.next(format!("hearthkey context remove {name}, which asks no hub and leaves the token valid")));
        }
    };
    let was_current = NamedContexts::of_this_user().ok_or_else(NamedContexts::nowhere)?.remove(&name)?;
    let document = json!({ "name": name, "revoked": revoked, "removed": true, "was_current": was_current });
    out.done(&document, format!("logged out; {}", forgotten(&name, was_current)))?;
    Ok(Exit::Done)
}

async fn revoke(context: Context) -> Result<(), Failure> {
    let token = context.token()?;
    let answer = Client::new(context)?.oauth("revoke", &[("token", &token)]).await?;
    answer.map(drop).map_err(|refusal| refused(&refusal))
}

pub(super) async fn whoami(client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let answer = client.get(&["me"], &[]).await?;
    render_me(&answer, client.context(), clock, out)?;
    Ok(Exit::Done)
}

fn render_me(answer: &Value, context: &Context, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, me: api::Me| {
        let path = |path: &Path| path.display().to_string();
        let mut lines = vec![("you", who(&me)), ("may", printable(&me.scope))];
        if let Some(devices) = &me.devices {
            lines.push(("only about", devices.join(" ")));
        }
        if let Some(credential) = &me.credential {
            lines.push(("by", format!("{} ({})", printable(&credential.name), credential.id)));
        }
        lines.push(("until", me.expires_at.map_or_else(|| "it is revoked".to_owned(), |at| clock.full(at))));
        lines.extend([("hub", context.url.to_string()), ("context", path(&context.file))]);
        out.table(facts(lines))
    })
}

/// Whether a credential is the asker's own.
pub(super) async fn own_principal(client: &Client) -> Result<Principal, Failure> {
    understood::<api::Me>(&client.get(&["me"], &[]).await?).map(|me| me.principal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_780_000_000;

    fn refusal(error: &str) -> OAuthRefusal {
        OAuthRefusal { error: error.to_owned(), error_description: String::new() }
    }

    #[test]
    fn polling_slows_down_when_asked_and_ends_with_the_answer() {
        let five = Duration::from_secs(5);
        assert_eq!(next_interval(&refusal("authorization_pending"), five).expect("wait"), five);
        assert_eq!(next_interval(&refusal("slow_down"), five).expect("wait"), Duration::from_secs(10));
        for (error, exit) in
            [("access_denied", Exit::Refused), ("expired_token", Exit::TimedOut), ("invalid_client", Exit::Refused)]
        {
            assert_eq!(next_interval(&refusal(error), five).expect_err("the end").exit(), exit, "{error}");
        }
    }

    #[test]
    fn a_context_is_called_after_its_hub_unless_it_has_a_name() {
        let called = |url: &str| context_name(None, &url.parse().expect("a URL")).map(|name| name.to_string()).ok();
        assert_eq!(called("https://hub.local:8443").as_deref(), Some("hub"));
        assert_eq!(called("https://192.168.1.10:8443").as_deref(), Some("192-168-1-10"));
        assert_eq!(called("https://[fd00::1]:8443").as_deref(), Some("fd00--1"));
        assert_eq!(called("https://local").as_deref(), Some("hub"));
        let url: Url = "https://hub.local".parse().expect("a URL");
        let named = |text: &str| ContextRef::Named(ContextName::parse(text).expect("a name"));
        assert_eq!(context_name(Some(&named("cottage")), &url).expect("as said").as_str(), "cottage");
        assert!(context_name(Some(&named(LOCAL)), &url).is_err());
        assert!(context_name(Some(&ContextRef::File("c.toml".into())), &url).is_err());
    }

    #[test]
    fn whoever_asks_is_told_as_whom_and_until_when() {
        let answer = json!({"principal": {"user": "ann"}, "role": "member", "scope": "commands:send devices:read",
            "devices": ["lamp"], "expires_at": NOW + 3_600});
        let context = Context {
            file: "cottage.toml".into(),
            url: "https://hub.local:8443".parse().expect("a URL"),
            ca_file: "cottage.ca.pem".into(),
            token_file: "cottage.token".into(),
            origin: Origin::File,
        };
        let (mut out, printed) = Output::captured(Format::Table);
        render_me(&answer, &context, &Clock::standing(NOW), &mut out).expect("rendered");
        for expected in ["user ann, member", "commands:send devices:read", "lamp", "in 60 min", "https://hub.local:8443/"] {
            assert!(printed.text().contains(expected), "{expected} in {}", printed.text());
        }
        let (mut out, printed) = Output::captured(Format::Table);
        let name = ContextName::parse("cottage").expect("a name");
        logged_in(&name, &context.url, &answer, &Clock::standing(NOW), &mut out).expect("rendered");
        assert!(
            printed.text().contains("as user ann, member, until 2026-05-28T21:26:40+00:00 (in 60 min)"),
            "{}",
            printed.text()
        );
    }
}
