//! Requests that may be repeated without doing things twice: `Idempotency-Key`.
//!
//! An answer is kept for a while, in memory only, for the credential that asked; a repetition gets the same bytes. The request
//! runs to its end although whoever asked has gone, so that a repetition finds what became of it.

use super::{
    Http,
    extract::{Caller, ended},
    limits::{
        IDEMPOTENCY_KEPT_FOR, MAX_API_BODY_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_IDEMPOTENT_ANSWER_BYTES, MAX_IDEMPOTENT_ANSWERS,
        MAX_IDEMPOTENT_ANSWERS_PER_PRINCIPAL, RETRY_AFTER_FULL,
    },
    problem::Problem,
    request::read_body,
};
use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hearthkey_core::session::{Authority, Principal, Proof};
use http_body_util::{BodyExt, Limited};
use ring::digest::{self, Digest};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use zeroize::Zeroizing;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The header fields of an answer that a repetition gets too.
const KEPT_FIELDS: [HeaderName; 4] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG, header::CACHE_CONTROL];

/// Answers of the last minutes by who asked and under which key.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers(Mutex<HashMap<Asked, Entry>>);

/// Who asked, by which credential, under which key. Another credential of the same person gets nothing that was shown to this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    principal: Principal,
    credential: String,
    key: String,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Vec<u8>,
    at: Instant,
    answer: Option<Answer>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// May hold a secret.
    body: Arc<Zeroizing<Vec<u8>>>,
}

/// What is known of a request under a key.
enum Known {
    Fresh(Begun),
    Answered(Answer),
}

/// A request under way: forgotten when it is dropped without an answer.
struct Begun {
    http: Arc<Http>,
    asked: Asked,
}

/// Lets a `POST` with an `Idempotency-Key` count once.
pub(super) async fn once(State(http): State<Arc<Http>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return next.run(request).await;
    }
    match answer(&http, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(http: &Arc<Http>, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let key = key(&parts.headers)?;
    let caller = Caller::from_request_parts(&mut parts, http).await?;
    let body = read_body(body, MAX_API_BODY_BYTES).await?;
    // The body may have taken its time, and the answer to a repetition asks nobody any more.
    http.hub.judge(&caller.authority).map_err(ended)?;
    let asked = Asked { credential: name_of(&caller.authority), principal: caller.authority.principal.clone(), key };
    let begun = match begin(http, asked, fingerprint(&parts, &body))? {
        Known::Fresh(begun) => begun,
        Known::Answered(answer) => return Ok(answer.again()),
    };
    parts.extensions.insert(caller);
    let request = Request::from_parts(parts, Body::from(body));
    // Not this future, which ends with the connection.
    let running = tokio::spawn(async move { begun.keep(next.run(request).await).await });
    running.await.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request broke off; look at the hub's log"))
}

fn key(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = values.next().and_then(|value| value.to_str().ok());
    let legal =
        |key: &&str| (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match (key.filter(legal), values.next()) {
        (Some(key), None) => Ok(key.to_owned()),
        _ => {
            let detail = format!("Idempotency-Key is one field of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
            Err(Problem::bad_request(detail).coded("idempotency_key"))
        }
    }
}

fn fingerprint(parts: &Parts, body: &[u8]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    for part in [parts.uri.to_string().as_bytes(), content_type.unwrap_or_default(), body] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish()
}

/// The credential, or for access tokens what they allow: a fresh token of the same scope goes on where the one before ended, but
/// not one of another device that got the name.
fn name_of(authority: &Authority) -> String {
    match &authority.proof {
        Proof::Credential(id) => id.to_string(),
        Proof::AccessToken { scope, epoch, .. } => format!("epoch {epoch} scope {scope}"),
    }
}

fn begin(http: &Arc<Http>, asked: Asked, fingerprint: Digest) -> Result<Known, Problem> {
    let now = Instant::now();
    let mut entries = http.kept_answers.lock();
    entries.retain(|_, entry| entry.answer.is_none() || now.duration_since(entry.at) < IDEMPOTENCY_KEPT_FOR);
    if let Some(entry) = entries.get(&asked) {
        if entry.fingerprint != fingerprint.as_ref() {
            let detail = "this Idempotency-Key was used for another request; take a fresh one for each";
            return Err(Problem::unprocessable(detail).coded("idempotency_key_reused"));
        }
        return entry.answer.clone().map(Known::Answered).ok_or_else(|| {
            let detail = "the request with this Idempotency-Key is still being answered; repeat it shortly";
            Problem::new(StatusCode::CONFLICT, detail).coded("in_progress").retry_after(RETRY_AFTER_FULL)
        });
    }
    let full = || Problem::unavailable("too many requests with an Idempotency-Key are under way; try again shortly");
    let own = entries.keys().filter(|other| other.principal == asked.principal).count();
    if own >= MAX_IDEMPOTENT_ANSWERS_PER_PRINCIPAL {
        forget_oldest(&mut entries, |other| other.principal == asked.principal).ok_or_else(full)?;
    } else if entries.len() >= MAX_IDEMPOTENT_ANSWERS {
        forget_oldest(&mut entries, |_| true).ok_or_else(full)?;
    }
    entries.insert(asked.clone(), Entry { fingerprint: fingerprint.as_ref().to_vec(), at: now, answer: None });
    drop(entries);
    Ok(Known::Fresh(Begun { http: Arc::clone(http), asked }))
}

/// Forgets the oldest answer; requests under way stay.
fn forget_oldest(entries: &mut HashMap<Asked, Entry>, which: impl Fn(&Asked) -> bool) -> Option<()> {
    let answered = entries.iter().filter(|(asked, entry)| which(asked) && entry.answer.is_some());
    let oldest = answered.min_by_key(|(_, entry)| entry.at)?.0.clone();
    entries.remove(&oldest);
    Some(())
}

impl KeptAnswers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// Keeps an answer that did something; what was refused may be tried again.
    async fn keep(self, response: Response) -> Response {
        if !response.status().is_success() {
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(body) = Limited::new(body, MAX_IDEMPOTENT_ANSWER_BYTES).collect().await else {
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer is too long to be kept").into_response();
        };
        let body = body.to_bytes();
        let mut headers = HeaderMap::new();
        for name in KEPT_FIELDS {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let answer = Answer { status: parts.status, headers, body: Arc::new(Zeroizing::new(body.to_vec())) };
        if let Some(entry) = self.http.kept_answers.lock().get_mut(&self.asked) {
            entry.answer = Some(answer);
        }
        Response::from_parts(parts, Body::from(body))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut entries = self.http.kept_answers.lock();
        if entries.get(&self.asked).is_some_and(|entry| entry.answer.is_none()) {
            entries.remove(&self.asked);
        }
    }
}

impl Answer {
    fn again(&self) -> Response {
        let mut response = (self.status, self.body.to_vec()).into_response();
        *response.headers_mut() = self.headers.clone();
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}
