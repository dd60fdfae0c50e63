//! The audit log: pages of it, and its end as it grows. Entries go out as they are stored, byte for byte.

use super::Problem;
use crate::http::{
    Http,
    extract::{Caller, QueryOf},
    limits::MAX_AUDIT_PAGE,
    streams::{Events, StreamEnd},
};
use axum::{Json, extract::State, response::Response};
use hearthkey_core::{audit::ChainHead, registry::ReadAudit};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Entries that one page has, where the caller does not say.
const DEFAULT_PAGE: usize = 100;
/// Entries that a tail reads at once.
const TAIL_PAGE: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<u64>,
    limit: Option<usize>,
    last: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TailFrom {
    #[serde(default)]
    last: u64,
}

#[derive(Serialize)]
pub(super) struct AuditPage {
    items: Vec<Box<RawValue>>,
    /// The last entry there is.
    head: ChainHead,
    /// What the oldest entry that is kept continues.
    anchor: ChainHead,
}

/// `GET /audit`.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Page { after, limit, last }): QueryOf<Page>,
) -> Result<Json<AuditPage>, Problem> {
    caller.permit_for_all::<ReadAudit>(&http)?;
    let limit = limit.unwrap_or(last.map_or(DEFAULT_PAGE, |last| usize::try_from(last).unwrap_or(usize::MAX)));
    if after.is_some() && last.is_some() {
        return Err(Problem::bad_request("`after` and `last` exclude each other"));
    }
    if limit > MAX_AUDIT_PAGE {
        return Err(Problem::unprocessable(format!("one answer has at most {MAX_AUDIT_PAGE} entries; go on with `after`")));
    }
    let (anchor, head) = http.hub.audit_chain();
    let after = last.map_or(after.unwrap_or(0), |last| head.seq.saturating_sub(last)).max(anchor.seq);
    let items = rows(&http, after, limit).await?;
    Ok(Json(AuditPage { items, head, anchor }))
}

/// `GET /audit/tail`.
pub(super) async fn tail(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(TailFrom { last }): QueryOf<TailFrom>,
) -> Result<Response, Problem> {
    caller.permit_for_all::<ReadAudit>(&http)?;
    let (anchor, head) = http.hub.audit_chain();
    let after = head.seq.saturating_sub(last.min(MAX_AUDIT_PAGE as u64)).max(anchor.seq);
    Events::<ReadAudit>::stream(&http, caller, |events| follow(events, after))
}

async fn follow(mut events: Events<ReadAudit>, mut after: u64) {
    let end = loop {
        if let Err(end) = hand_out(&mut events, &mut after).await {
            break end;
        }
        // Each entry is a change.
        if let Err(end) = events.wait(std::future::pending::<()>()).await {
            break end;
        }
    };
    events.end(&end);
}

/// Hands out all that has been written since.
async fn hand_out(events: &mut Events<ReadAudit>, after: &mut u64) -> Result<(), StreamEnd> {
    loop {
        let page = rows(events.http(), *after, TAIL_PAGE).await.map_err(|_| StreamEnd::Broken("the audit log cannot be read"))?;
        if page.is_empty() {
            return Ok(());
        }
        for row in page {
            events.send("record", &row).await?;
            *after += 1;
        }
    }
}

async fn rows(http: &Arc<Http>, after: u64, limit: usize) -> Result<Vec<Box<RawValue>>, Problem> {
    let hub = Arc::clone(&http.hub);
    // The rows may have to come from the disk.
    let rows = tokio::task::spawn_blocking(move || hub.audit_rows(after, limit)).await;
    let unreadable = |why: String| {
        tracing::error!(why, "the audit log cannot be read");
        Problem::unavailable("the audit log cannot be read now; look at the hub's log")
    };
    let rows = rows.map_err(|error| unreadable(error.to_string()))?.map_err(|error| unreadable(error.to_string()))?;
    let text = |row: Vec<u8>| String::from_utf8(row).ok().and_then(|row| RawValue::from_string(row).ok());
    rows.into_iter().map(|row| text(row).ok_or_else(|| unreadable("an entry is not JSON".to_owned()))).collect()
}
