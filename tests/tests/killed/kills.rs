//! Kills a hub at chosen system calls, round after round, and asks what is left.

use hearthkey_tests::hub::{Hub, code_of};
use hearthkey_tests::keyed::{Keyed, token_form};
use hearthkey_tests::patience::until;
use hearthkey_tests::process::Running;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

/// What writes to the store: its log, and what makes it durable.
pub(crate) const STORE_WRITES: [&str; 2] = ["pwrite64", "fdatasync"];
/// What replaces a file of its own.
pub(crate) const FILE_WRITES: [&str; 2] = ["fsync", "renameat"];
/// strace counts calls by thread, and the store writes from several: beyond this many a round ends without a kill at the latest.
const MOST_CALLS: u32 = 12;

/// What a round finds after the hub died.
#[derive(Debug)]
pub(crate) struct Found<A> {
    /// What the hub answered before it died.
    pub(crate) acknowledged: Option<A>,
    /// Where it died, for messages.
    pub(crate) at: String,
}

/// For the n-th call of each kind, for each n: `prepare`, then `attempt`, and the hub is killed at that call; it starts again,
/// `verify` looks. A round in which the hub came to answer is killed right after, and is the last of its kind.
pub(crate) async fn at_each_write<P, A>(
    hub: &mut Hub,
    calls: &[&str],
    prepare: impl AsyncFn(&Hub, &str) -> P,
    attempt: impl AsyncFn(&Hub, &P) -> Option<A>,
    verify: impl AsyncFn(&Hub, &P, &Found<A>),
) {
    let (mut round, mut killed) = (0, 0);
    for call in calls {
        for n in 1..=MOST_CALLS {
            round += 1;
            let prepared = prepare(hub, &format!("d{:04}-{round:02}", fastrand::u16(..10_000))).await;
            let mut strace = attach(hub, call, n).await;
            let acknowledged = attempt(hub, &prepared).await;
            hub.kill().await;
            strace.ended().await;
            hub.start_again().await;
            let (_, chain) = api(hub, Method::GET, "/api/v1/audit/verify", None).await.expect("it runs");
            let found = Found { acknowledged, at: format!("{call} number {n}") };
            assert_eq!(chain["ok"], true, "{}: {chain}", found.at);
            verify(hub, &prepared, &found).await;
            if found.acknowledged.is_some() {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed >= calls.len(), "only {killed} kills at {calls:?}");
}

async fn attach(hub: &Hub, call: &str, n: u32) -> Running {
    let mut command = Command::new("strace");
    let process = hub.process_id().to_string();
    command.args(["-f", "-p", &process, "-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:signal=SIGKILL:when={n}")]);
    let strace = Running::start(command);
    until("strace to attach; it needs the right to trace processes of its user (kernel.yama.ptrace_scope = 0)", async || {
        strace.err().contains(" attached").then_some(())
    })
    .await;
    strace
}

/// An answer of the API to its owner: status and JSON, null if there is none. `None` when the hub died first.
pub(crate) async fn api(hub: &Hub, method: Method, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
    let request = hub.http().request(method, hub.url(path)).bearer_auth(hub.owner_token());
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    answer(request).await
}

/// A change that must succeed: its answer. `None` when the hub died first.
pub(crate) async fn done(hub: &Hub, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
    let (status, answer) = api(hub, method, path, body).await?;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    Some(answer)
}

/// The owner posts `body`, while nobody kills the hub.
pub(crate) async fn posted(hub: &Hub, path: &str, body: Value) -> Value {
    done(hub, Method::POST, path, Some(body)).await.expect("it runs")
}

pub(crate) async fn seen(hub: &Hub, path: &str) -> Value {
    done(hub, Method::GET, path, None).await.expect("it runs")
}

async fn answer(request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or_default()))
}

/// The status of an answer to a form.
pub(crate) async fn form(hub: &Hub, path: &str, bearer: Option<&str>, body: String) -> Option<(u16, Value)> {
    let request = hub.http().post(hub.url(path)).header("content-type", "application/x-www-form-urlencoded").body(body);
    answer(match bearer {
        Some(bearer) => request.bearer_auth(bearer),
        None => request,
    })
    .await
}

/// Registers a device's key; `None` when the hub died first.
pub(crate) async fn registered(hub: &Hub, device: &Keyed, enrolment_string: &str) -> Option<u16> {
    let metadata = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [device.jwk()] } });
    let request = hub.http().post(hub.url("/oauth2/register")).bearer_auth(code_of(enrolment_string)).json(&metadata);
    Some(answer(request).await?.0)
}

/// The status of a token request by assertion; `None` when the hub died first.
pub(crate) async fn token_by(hub: &Hub, assertion: &str) -> Option<u16> {
    let (status, answer) = form(hub, "/oauth2/token", None, token_form(assertion)).await?;
    if let Some(token) = answer["access_token"].as_str() {
        hub.remember_secret(token);
    }
    Some(status)
}

/// Whether a token is good, as a service asks.
pub(crate) async fn is_active(hub: &Hub, token: &str) -> bool {
    let (status, answer) =
        form(hub, "/oauth2/introspect", Some(&hub.owner_token()), format!("token={token}")).await.expect("it runs");
    assert_eq!(status, 200, "{answer}");
    answer["active"].as_bool().expect("yes or no")
}

/// Whether a bearer credential opens the API.
pub(crate) async fn opens(hub: &Hub, bearer: &str) -> bool {
    let answer = hub.http().get(hub.url("/api/v1/me")).bearer_auth(bearer).send().await.expect("it runs");
    assert!([200, 401].contains(&answer.status().as_u16()), "{answer:?}");
    answer.status() == 200
}

/// How many entries the audit log has of this.
pub(crate) async fn audited(hub: &Hub, filter: &str) -> usize {
    let page = seen(hub, &format!("/api/v1/audit?limit=1000&{filter}")).await;
    page["items"].as_array().expect("entries").len()
}
