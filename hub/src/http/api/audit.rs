//! The audit log: pages of it, its end as it grows, its proof, and all of it. Entries go out as they are stored, byte for byte.

use super::{Empty, Problem};
use crate::{
    http::{
        Http,
        extract::{Caller, QueryOf},
        limits::{DECISION_WAIT, MAX_AUDIT_PAGE, STREAM_STALL},
        streams::{Events, StreamEnd},
    },
    hub::Hub,
    store::StoreError,
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use hearthkey_core::{
    UnixTime,
    audit::{self, AuditRecord, BrokenChain, ChainHead, Filter, Outcome},
    registry::ReadAudit,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{io, sync::Arc};
use tokio::{
    sync::{SemaphorePermit, mpsc},
    time::timeout,
};

/// Entries that one page has, where the caller does not say.
const DEFAULT_PAGE: usize = 100;
/// Entries that are read from the disk at once.
const READ_AT_ONCE: usize = 512;
/// Entries that a tail reads at once.
const TAIL_PAGE: usize = 256;
/// How often a proof begins anew, as entries left meanwhile; with [`READ_AT_ONCE`] far above what a trim takes, once is rare.
const MAX_PROOFS: usize = 4;

type Row = Vec<u8>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<u64>,
    limit: Option<usize>,
    last: Option<u64>,
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    outcome: Option<Outcome>,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
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
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Verified {
    ok: bool,
    entries: u64,
    head: ChainHead,
    anchor: ChainHead,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

/// `GET /audit`.
pub(super) async fn list(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(page): QueryOf<Page>,
) -> Result<Json<AuditPage>, Problem> {
    caller.may_for_all::<ReadAudit>(&http)?;
    let Page { after, limit, last, actor, action, target, outcome, since, until } = page;
    let filter = Filter { actor, action, target, outcome, since, until };
    let limit = limit.unwrap_or(last.map_or(DEFAULT_PAGE, |last| usize::try_from(last).unwrap_or(usize::MAX)));
    if after.is_some() && last.is_some() {
        return Err(Problem::bad_request("`after` and `last` exclude each other"));
    }
    if limit > MAX_AUDIT_PAGE {
        return Err(Problem::unprocessable(format!("one answer has at most {MAX_AUDIT_PAGE} entries; go on with `after`")));
    }
    let (anchor, head) = http.hub.audit_chain();
    let (first, end) = (anchor.seq, head.seq);
    let (rows, next_after) = read(&http, &caller, move |hub| match last {
        Some(last) => {
            let last = usize::try_from(last).unwrap_or(usize::MAX).min(limit);
            Ok((newest(hub, &filter, first, end, last)?, None))
        }
        None => oldest(hub, &filter, after.unwrap_or(0).max(first), end, limit),
    })
    .await?;
    Ok(Json(AuditPage { items: texts(rows)?, head, anchor, next_after }))
}

/// `GET /audit/tail`.
pub(super) async fn tail(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(TailFrom { last }): QueryOf<TailFrom>,
) -> Result<Response, Problem> {
    caller.may_for_all::<ReadAudit>(&http)?;
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
        // An entry is stored a moment before what it says is in force: one that ends this stream must not be sent on it.
        let (from, shown) = (*after, events.shown());
        let count = usize::try_from(shown.saturating_sub(from)).unwrap_or(usize::MAX).min(TAIL_PAGE);
        if count == 0 {
            return Ok(());
        }
        let rows = off_thread(events.http(), move |hub| Ok(hub.audit_rows(from, count)?)).await;
        let page = rows.and_then(texts).map_err(|_| StreamEnd::Broken("the audit log cannot be read"))?;
        if page.is_empty() {
            return Ok(());
        }
        for row in page {
            events.send("record", &row).await?;
            *after += 1;
        }
    }
}

/// `GET /audit/verify`: the chain from the oldest entry that is kept to the last.
pub(super) async fn verify(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Empty {}): QueryOf<Empty>,
) -> Result<Json<Verified>, Problem> {
    caller.may_for_all::<ReadAudit>(&http)?;
    let (proved, anchor, head) = read(&http, &caller, |hub| {
        for _ in 1..MAX_PROOFS {
            match prove(hub)? {
                // The oldest entries left while they were read.
                (Err(_), anchor, _) if hub.audit_chain().0 != anchor => {}
                proved => return Ok(proved),
            }
        }
        prove(hub)
    })
    .await?;
    let (entries, fault) = match proved {
        Ok(entries) => (entries, None),
        Err(broken) => {
            tracing::error!(%broken, "the audit log does not hold");
            (head.seq.saturating_sub(anchor.seq), Some(broken.to_string()))
        }
    };
    Ok(Json(Verified { ok: fault.is_none(), entries, head, anchor, fault }))
}

fn prove(hub: &Hub) -> Result<(Result<u64, BrokenChain>, ChainHead, ChainHead), NotRead> {
    let (anchor, head) = hub.audit_chain();
    let mut failed = None;
    let rows = Rows { hub, after: anchor.seq, end: head.seq, read: Vec::new().into_iter() }.map_while(|row| match row {
        Ok(row) => Some(row),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let proved = audit::verify(&anchor, rows, &head);
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((proved, anchor, head)),
    }
}

/// `GET /audit/export`: the stored rows up to now, a line each.
pub(super) async fn export(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(Empty {}): QueryOf<Empty>,
) -> Result<Response, Problem> {
    caller.may_for_all::<ReadAudit>(&http)?;
    let lasting = http.streams.begin(&caller.authority.principal)?;
    let (anchor, head) = http.hub.audit_chain();
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        let _lasting = lasting;
        let mut after = anchor.seq;
        while after < head.seq {
            // Who may not read on gets a document that breaks off, not one that looks whole.
            let page = match caller.may_for_all::<ReadAudit>(&http) {
                Ok(_) => off_thread(&http, move |hub| oldest(hub, &Filter::default(), after, head.seq, READ_AT_ONCE)).await,
                Err(problem) => Err(problem),
            };
            let page = page.map(|(rows, _)| rows).map_err(|_| io::Error::other("the export cannot go on"));
            let ends = page.as_ref().map_or(true, Vec::is_empty);
            after += page.as_ref().map_or(0, |rows| rows.len() as u64);
            let lines = page.map(|rows| rows.into_iter().flat_map(|row| row.into_iter().chain([b'\n'])).collect::<Bytes>());
            let sent = timeout(STREAM_STALL, sender.send(lines)).await;
            if ends || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let body = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let content_type = HeaderValue::from_static("application/x-ndjson");
    let disposition = HeaderValue::from_static("attachment; filename=\"audit.ndjson\"");
    let headers = [(header::CONTENT_TYPE, content_type), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// The rows behind `after` up to `end`, read in pieces.
struct Rows<'a> {
    hub: &'a Hub,
    after: u64,
    end: u64,
    read: std::vec::IntoIter<Row>,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.after >= self.end {
            return None;
        }
        let row = match self.read.next() {
            Some(row) => row,
            None => match self.hub.audit_rows(self.after, READ_AT_ONCE) {
                Ok(rows) => {
                    self.read = rows.into_iter();
                    self.read.next()?
                }
                Err(error) => return Some(Err(error)),
            },
        };
        self.after += 1;
        Some(Ok(row))
    }
}

/// The first `limit` entries behind `after` that are wanted, and where to go on if there may be more.
fn oldest(hub: &Hub, filter: &Filter, mut after: u64, end: u64, limit: usize) -> Result<(Vec<Row>, Option<u64>), NotRead> {
    let mut found = Vec::new();
    while found.len() < limit && after < end {
        let at_once = if filter.wants_all() { limit - found.len() } else { READ_AT_ONCE };
        let rows = hub.audit_rows(after, at_once.min(READ_AT_ONCE))?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            if found.len() == limit || after >= end {
                break;
            }
            after += 1;
            if filter.wants_all() || filter.wants(&record(&row)?) {
                found.push(row);
            }
        }
    }
    Ok((found, (after < end).then_some(after)))
}

/// The last `count` entries that are wanted, oldest first.
fn newest(hub: &Hub, filter: &Filter, first: u64, end: u64, count: usize) -> Result<Vec<Row>, NotRead> {
    let mut found = Vec::new();
    let mut to = end;
    while found.len() < count && to > first {
        let at_once = if filter.wants_all() { count - found.len() } else { READ_AT_ONCE };
        let from = to.saturating_sub(at_once.min(READ_AT_ONCE) as u64).max(first);
        let rows = hub.audit_rows(from, usize::try_from(to - from).unwrap_or(READ_AT_ONCE))?;
        for row in rows.into_iter().rev() {
            if found.len() < count && (filter.wants_all() || filter.wants(&record(&row)?)) {
                found.push(row);
            }
        }
        to = from;
    }
    found.reverse();
    Ok(found)
}

/// Why rows were not read.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("an entry is no entry: {0}")]
    Entry(#[from] serde_json::Error),
}

fn record(row: &[u8]) -> Result<AuditRecord, NotRead> {
    Ok(serde_json::from_slice(row)?)
}

fn texts(rows: Vec<Row>) -> Result<Vec<Box<RawValue>>, Problem> {
    let text = |row: Row| String::from_utf8(row).ok().and_then(|row| RawValue::from_string(row).ok());
    rows.into_iter().map(|row| text(row).ok_or_else(|| unreadable("an entry is not JSON"))).collect()
}

/// Reads what may be much: a few at a time, off the async threads; for who may know it when it was read.
async fn read<T: Send + 'static>(
    http: &Arc<Http>,
    caller: &Caller,
    look: impl FnOnce(&Hub) -> Result<T, NotRead> + Send + 'static,
) -> Result<T, Problem> {
    let _turn: SemaphorePermit<'_> = timeout(DECISION_WAIT, http.audit_readings.acquire())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| Problem::unavailable("the audit log is being read by as many as can; try again shortly"))?;
    let read = off_thread(http, look).await?;
    caller.may_for_all::<ReadAudit>(http)?;
    Ok(read)
}

async fn off_thread<T: Send + 'static>(
    http: &Arc<Http>,
    look: impl FnOnce(&Hub) -> Result<T, NotRead> + Send + 'static,
) -> Result<T, Problem> {
    let hub = Arc::clone(&http.hub);
    let read = tokio::task::spawn_blocking(move || look(&hub)).await;
    read.map_err(unreadable)?.map_err(unreadable)
}

fn unreadable(why: impl ToString) -> Problem {
    let why = why.to_string();
    tracing::error!(why, "the audit log cannot be read");
    Problem::unavailable("the audit log cannot be read now; look at the hub's log")
}
