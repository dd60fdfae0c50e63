//! Errors of the API as people and programs can read them (RFC 9457).

use super::request::BodyFault;
use crate::throttle::SlowDown;
use axum::{
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::time::Duration;

/// An error: what went wrong and what to do next.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: Option<&'static str>,
    detail: String,
    challenge: Option<HeaderValue>,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
}

impl Problem {
    /// An error of a status, with a sentence that helps.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, code: None, detail: detail.into(), challenge: None, retry_after: None }
    }

    /// The request cannot be understood.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The request is understood and makes no sense.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// The hub cannot decide now.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Some(super::limits::RETRY_AFTER_FULL);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).coded("temporarily_unavailable") }
    }

    /// The same with a word for programs.
    pub(super) fn coded(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The same with a `WWW-Authenticate`.
    pub(super) fn challenging(self, challenge: HeaderValue) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// The same with a `Retry-After`.
    pub(super) fn retry_after(self, span: Duration) -> Self {
        Self { retry_after: Some(span), ..self }
    }
}

impl From<BodyFault> for Problem {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::TooLarge => {
                let most = super::limits::MAX_API_BODY_BYTES;
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body of a request has at most {most} bytes"))
            }
            BodyFault::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive in time"),
            BodyFault::Broken => Self::bad_request("the body of the request broke off"),
        }
    }
}

impl From<SlowDown> for Problem {
    fn from(slow_down: SlowDown) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, slow_down.to_string()).coded("slow_down").retry_after(slow_down.0)
    }
}

impl From<super::Full> for Problem {
    fn from(_: super::Full) -> Self {
        Self::unavailable("the hub has more to decide than it can; try again shortly")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let document =
            Document { r#type: "about:blank", title, status: self.status.as_u16(), detail: &self.detail, code: self.code };
        let body = serde_json::to_vec(&document).expect("texts and numbers");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(span) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after(span));
        }
        response
    }
}

/// Whole seconds, rounded up, at least one (RFC 9110 section 10.2.3).
pub(super) fn retry_after(span: Duration) -> HeaderValue {
    HeaderValue::from(span.as_millis().div_ceil(1_000).clamp(1, 3_600) as u64)
}

/// Nothing is here.
pub(super) async fn not_found(uri: Uri) -> Problem {
    let path = super::request::shown(uri.path());
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}; the API is under /api/v1"))
}

/// Something is here, for another method; `Allow` says which.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let path = super::request::shown(uri.path());
    let method = super::request::shown(method.as_str());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes no {method}"))
}
