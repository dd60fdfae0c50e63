//! The HTTPS client of a hub: requests, answers, refusals and event streams. Trusts the home CA and nothing else.
//!
//! Knows the shape of the API, and nothing of what its answers mean or how they are shown.

use super::{
    context::Context,
    failure::{Exit, Failure},
    trust::Trust,
};
use hearthkey_core::{limits::MAX_AUDIT_RECORDS, write::MAX_VALUE_BYTES};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

/// The hub is on this machine or in this home.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, beside what a request itself asks the hub to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Notices a hub that vanished without a word, in a stream that may rightly be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The list of the most devices that a hub keeps, and then some.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The largest MQTT payload that the hub passes on, as base64 in JSON, and then some.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// How many items of a list to ask for at once: the most that the hub gives.
const PAGE_ITEMS: &str = "500";
/// More pages than the most credentials that a hub keeps fill; a list that goes on is a mistake.
const MAX_PAGES: usize = 32;
/// The longest audit log that a hub keeps.
const MAX_EXPORT_BYTES: u64 = MAX_AUDIT_RECORDS * (MAX_VALUE_BYTES as u64 + 1);

/// A hub, and what this command line says about itself to it.
pub(super) struct Client {
    http: reqwest::Client,
    context: Context,
    speaker: Speaker,
}

/// As whom a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// As the holder of the context's token.
    Holder,
    /// As nobody yet: it is about to log in.
    Nobody,
}

/// Why an endpoint of OAuth refuses (RFC 6749 section 5.2).
#[derive(Debug, Deserialize)]
pub(super) struct OAuthRefusal {
    /// The code, such as `authorization_pending`.
    pub(super) error: String,
    /// For people.
    #[serde(default)]
    pub(super) error_description: String,
}

/// One event of a stream (WHATWG HTML, section 9.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The type; `message` unless the hub says otherwise.
    pub(super) name: String,
    /// The data.
    pub(super) data: String,
}

/// A stream of events.
pub(super) struct Events {
    response: Response,
    decoder: EventDecoder,
}

/// RFC 9457.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

impl Client {
    /// A client that holds the context's token.
    pub(super) fn new(context: Context) -> Result<Self, Failure> {
        let trust = context.trust()?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", *context.token()?)).map_err(|_| {
            Failure::new(Exit::Unreachable, format!("{} holds no token", context.token_file.display())).next(context.renewal())
        })?;
        bearer.set_sensitive(true);
        Self::speaking(context, Speaker::Holder, &trust, HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
    }

    /// A client that holds no token yet, for a context that is still to be stored.
    pub(super) fn anonymous(context: Context, trust: &Trust) -> Result<Self, Failure> {
        Self::speaking(context, Speaker::Nobody, trust, HeaderMap::new())
    }

    fn speaking(context: Context, speaker: Speaker, trust: &Trust, headers: HeaderMap) -> Result<Self, Failure> {
        let impossible =
            |detail: &dyn std::fmt::Display| Failure::new(Exit::Unreachable, format!("cannot set up HTTPS: {detail}"));
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.client_config().map_err(|error| impossible(&error))?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEP_ALIVE)
            .default_headers(headers)
            .user_agent(concat!("hearthkey/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| impossible(&innermost(&error)))?;
        Ok(Self { http, context, speaker })
    }

    /// Which hub this is.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// `GET`.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// `GET` of a list, all of its pages put together.
    pub(super) async fn get_all(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut list = Value::Null;
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page_query = [("limit", PAGE_ITEMS)].into_iter().chain(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let query: Vec<(&str, &str)> = query.iter().copied().chain(page_query).collect();
            let mut page = self.get(path, &query).await?;
            cursor = page.as_object_mut().and_then(|page| page.remove("next")?.as_str().map(str::to_owned));
            match (items_of(&mut list), items_of(&mut page)) {
                (Some(items), Some(more)) => items.append(more),
                _ => list = page,
            }
            if cursor.is_none() {
                return Ok(list);
            }
        }
        Err(self.nonsense("the list does not end"))
    }

    /// `GET` of a TOML document.
    pub(super) async fn get_toml(&self, path: &[&str]) -> Result<String, Failure> {
        let body = self.body(self.request(Method::GET, path).header(ACCEPT, "application/toml")).await?;
        String::from_utf8(body).map_err(|_| self.nonsense("it is not UTF-8"))
    }

    /// `POST` of a JSON document.
    pub(super) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// `POST` of a JSON document, to what may take longer to answer than others.
    pub(super) async fn post_patiently(&self, path: &[&str], body: &Value, patience: Duration) -> Result<Value, Failure> {
        self.json(self.request(Method::POST, path).timeout(patience).json(body)).await
    }

    /// `PATCH` with a JSON document.
    pub(super) async fn patch(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.json(self.request(Method::PATCH, path).json(body)).await
    }

    /// `PUT` of a JSON document.
    pub(super) async fn put(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    /// `PUT` of a JSON document, if given only upon a version.
    pub(super) async fn put_if(&self, path: &[&str], body: &Value, version: Option<u64>) -> Result<Value, Failure> {
        self.json(upon(self.request(Method::PUT, path).json(body), version)).await
    }

    /// `PATCH` with a JSON merge patch, if given only upon a version.
    pub(super) async fn patch_if(&self, path: &[&str], body: &Value, version: Option<u64>) -> Result<Value, Failure> {
        let request = self.request(Method::PATCH, path).header(CONTENT_TYPE, "application/merge-patch+json");
        self.json(upon(request.body(body.to_string()), version)).await
    }

    /// `DELETE`.
    pub(super) async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        self.body(self.request(Method::DELETE, path)).await.map(drop)
    }

    /// The home CA's certificate, PEM, as the hub gives it to anybody.
    pub(super) async fn ca_pem(&self) -> Result<String, Failure> {
        let body = self.body(self.request_at(Method::GET, &["ca.pem"])).await?;
        String::from_utf8(body).map_err(|_| self.nonsense("it is not UTF-8"))
    }

    /// `POST` of a form to an endpoint of OAuth: its answer, or its refusal.
    pub(super) async fn oauth(&self, endpoint: &str, form: &[(&str, &str)]) -> Result<Result<Value, OAuthRefusal>, Failure> {
        let response = self.send(self.request_at(Method::POST, &["oauth2", endpoint]).form(form)).await?;
        if !response.status().is_client_error() {
            let body = self.bounded(self.accepted(response).await?).await?;
            return self.parsed(&body).map(Ok);
        }
        let (status, retry_after) = (response.status(), retry_after(&response));
        let body = self.bounded(response).await?;
        serde_json::from_slice(&body).map(Err).map_err(|_| self.refusal(status, &body, retry_after))
    }

    /// `GET` of a document of any length, as it comes. Returns its length in bytes.
    pub(super) async fn download(&self, path: &[&str], into: &mut impl Write) -> Result<u64, Failure> {
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, self.request(Method::GET, path).send()).await;
        let response = opened.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error))?;
        let mut response = self.accepted(response).await?;
        let mut length = 0;
        loop {
            let chunk = tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await.map_err(|_| self.silent())?;
            let Some(chunk) = chunk.map_err(|error| self.unreachable(&error))? else { return Ok(length) };
            length += chunk.len() as u64;
            if length > MAX_EXPORT_BYTES {
                return Err(self.nonsense("it is too long"));
            }
            into.write_all(&chunk)?;
        }
    }

    /// `PUT` of a TOML document.
    pub(super) async fn put_toml(&self, path: &[&str], toml: String) -> Result<Value, Failure> {
        self.json(self.request(Method::PUT, path).header(CONTENT_TYPE, "application/toml").body(toml)).await
    }

    /// Opens a stream of events.
    pub(super) async fn events(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Events, Failure> {
        let request = self.request(Method::GET, path).query(query).header(ACCEPT, "text/event-stream");
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await;
        let response = opened.map_err(|_| self.silent())?.map_err(|error| self.unreachable(&error))?;
        Ok(Events { response: self.accepted(response).await?, decoder: EventDecoder::default() })
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request_at(method, &[&["api", "v1"], path].concat())
    }

    fn request_at(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url: Url = self.context.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let body = self.body(request).await?;
        self.parsed(&body)
    }

    /// An empty answer is null.
    fn parsed(&self, body: &[u8]) -> Result<Value, Failure> {
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|error| self.nonsense(&error.to_string()))
    }

    async fn body(&self, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let response = self.send(request).await?;
        let response = self.accepted(response).await?;
        self.bounded(response).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let (client, request) = request.build_split();
        let mut request = request.map_err(|error| self.unreachable(&error))?;
        request.timeout_mut().get_or_insert(ANSWER_TIMEOUT);
        client.execute(request).await.map_err(|error| self.unreachable(&error))
    }

    async fn bounded(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.nonsense("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Turns a refusal into a failure in the hub's own words.
    async fn accepted(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(&response);
        let body = self.bounded(response).await.unwrap_or_default();
        Err(self.refusal(status, &body, retry_after))
    }

    fn refusal(&self, status: StatusCode, body: &[u8], retry_after: Option<u64>) -> Failure {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let failure = refusal(status, &problem, self.speaker, &self.context);
        match retry_after {
            Some(seconds) => failure.next(format!("try again in {seconds} s")),
            None => failure,
        }
    }

    fn nonsense(&self, detail: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("the answer of {} makes no sense: {detail}", self.context.url))
            .next("check that a hub of this version answers there")
    }

    fn silent(&self) -> Failure {
        Failure::new(Exit::Unreachable, format!("{} gave no answer in time", self.context.url))
            .next("try again; if it stays so, look at the hub's log")
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let Context { url, ca_file, .. } = &self.context;
        if error.is_timeout() && !error.is_connect() {
            return self.silent();
        }
        let refused = causes(error)
            .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
        if refused {
            return Failure::new(Exit::Unreachable, format!("the hub is not running: nothing answers at {url}"))
                .next(self.context.start());
        }
        let untrusted = causes(error).any(|cause| cause.is::<rustls::Error>());
        if untrusted {
            let what = format!("what answers at {url} is not the hub of this home: {}", innermost(error));
            return Failure::new(Exit::Unreachable, what).next(match self.speaker {
                Speaker::Holder => format!("check the url and the CA certificate {}", ca_file.display()),
                Speaker::Nobody => "check the url, and the CA against `hearthkey context show` on the hub's machine".to_owned(),
            });
        }
        Failure::new(Exit::Unreachable, format!("cannot reach the hub at {url}: {}", innermost(error)))
            .next(format!("{}, if it is not running", self.context.start()))
    }
}

fn refusal(status: StatusCode, problem: &Problem, speaker: Speaker, context: &Context) -> Failure {
    let detail = match (problem.detail.as_str(), problem.title.as_str()) {
        ("", "") => format!("the hub answers {status}"),
        ("", title) => title.to_owned(),
        (detail, _) => detail.to_owned(),
    };
    match (status, speaker) {
        (StatusCode::UNAUTHORIZED, Speaker::Holder) => {
            Failure::new(Exit::Refused, format!("the hub refuses the token in {}: {detail}", context.token_file.display()))
                .next(format!("{}; or name another context: --context", context.renewal()))
        }
        (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT, _) => {
            Failure::new(Exit::Unreachable, detail)
        }
        _ => Failure::new(Exit::Refused, detail),
    }
}

fn upon(request: RequestBuilder, version: Option<u64>) -> RequestBuilder {
    match version {
        Some(version) => request.header(IF_MATCH, format!("\"{version}\"")),
        None => request,
    }
}

fn items_of(list: &mut Value) -> Option<&mut Vec<Value>> {
    list.get_mut("items")?.as_array_mut()
}

/// How long the hub asks to wait, in seconds (RFC 9110 section 10.2.3).
fn retry_after(response: &Response) -> Option<u64> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// An error and what caused it. An `io::Error` names the cause of what it holds, so what it holds comes in between.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held as &(dyn Error + 'static)),
        None => error.source(),
    })
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

impl Events {
    /// The next event; none once the hub is gone.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.decoder.event() {
                return Ok(Some(event));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.decoder.feed(&chunk)?,
                // A stream has no end of its own: however it ends, the hub is gone.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
}

/// Takes bytes, gives events. Comments, ids and retry times are passed over.
#[derive(Default)]
struct EventDecoder {
    buffer: Vec<u8>,
    name: String,
    data: String,
}

impl EventDecoder {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.extend_from_slice(bytes);
        let line_is_open = !bytes.contains(&b'\n');
        if (line_is_open && self.buffer.len() > MAX_EVENT_BYTES) || self.data.len() > MAX_EVENT_BYTES {
            return Err(Failure::new(Exit::Unreachable, format!("the hub sent an event of more than {MAX_EVENT_BYTES} bytes")));
        }
        Ok(())
    }

    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
                if data.is_empty() {
                    continue;
                }
                let name = if name.is_empty() { "message".to_owned() } else { name };
                return Some(Event { name, data });
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.name),
                "data" => {
                    if !self.data.is_empty() {
                        self.data.push('\n');
                    }
                    self.data.push_str(value);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::context::Origin;

    const STREAM: &str = ": hello\n\nevent: message\ndata: {\"a\":\ndata: 1}\n\nid: 7\r\ndata: b\r\n\r\nevent: lost\n\n";

    fn decoded(chunks: impl Iterator<Item = Vec<u8>>) -> Vec<(String, String)> {
        let mut decoder = EventDecoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.feed(&chunk).expect("within bounds");
            events.extend(std::iter::from_fn(|| decoder.event()).map(|event| (event.name, event.data)));
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let expected = [("message", "{\"a\":\n1}"), ("message", "b")].map(|(name, data)| (name.to_owned(), data.to_owned()));
        for size in [1, 2, 7, STREAM.len()] {
            assert_eq!(decoded(STREAM.as_bytes().chunks(size).map(<[u8]>::to_vec)), expected, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused_and_does_not_fill_the_memory() {
        let mut decoder = EventDecoder::default();
        let line = vec![b'x'; 64 * 1024];
        assert!((0..100).any(|_| decoder.feed(&line).is_err()));
        let mut decoder = EventDecoder::default();
        let line = [b"data: ", line.as_slice(), b"\n"].concat();
        assert!((0..100).any(|_| {
            let refused = decoder.feed(&line).is_err();
            decoder.event().is_some() || refused
        }));
    }

    #[test]
    fn a_refusal_is_told_in_the_hubs_words() {
        let context = Context {
            file: "local.toml".into(),
            url: Url::parse("https://localhost:8443").expect("a URL"),
            ca_file: "ca.crt".into(),
            token_file: "local.token".into(),
            origin: Origin::Hub { up: "hearthkey up".to_owned() },
        };
        let problem = Problem {
            title: "Not Found".to_owned(),
            detail: "there is no device oven; `hearthkey device list` shows all".to_owned(),
        };
        let told = refusal(StatusCode::NOT_FOUND, &problem, Speaker::Holder, &context);
        assert_eq!((told.exit(), told.to_string()), (Exit::Refused, problem.detail.clone()));
        let told = refusal(StatusCode::UNAUTHORIZED, &Problem::default(), Speaker::Holder, &context).to_string();
        assert!(told.contains("local.token") && told.contains("next: "), "{told}");
        let told = refusal(StatusCode::UNAUTHORIZED, &problem, Speaker::Nobody, &context).to_string();
        assert_eq!(told, problem.detail, "a wrong password is no fault of a token");
        let told = refusal(StatusCode::SERVICE_UNAVAILABLE, &Problem::default(), Speaker::Holder, &context);
        assert_eq!(told.exit(), Exit::Unreachable);
    }
}
