//! Answers that last: how many there may be, and when they end. An event stream ends when the hub stops, when the credential
//! does not hold any more, and when its reader takes nothing; the last event says why.

use super::{
    Http,
    extract::{Caller, ended},
    limits::{MAX_STREAMS, MAX_STREAMS_PER_PRINCIPAL, MAX_WAITING_EVENTS, STREAM_HEARTBEAT, STREAM_STALL},
    problem::Problem,
    shares::{NoneLeft, Share, Shares},
};
use axum::{
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use hearthkey_core::{
    UnixTime,
    registry::Permission,
    rights::Rights,
    session::{Principal, Standing},
};
use serde::Serialize;
use std::{convert::Infallible, marker::PhantomData, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

/// All lasting answers of now, by principal.
#[derive(Debug)]
pub(super) struct Streams(Arc<Shares<Principal>>);

/// Leave for one lasting answer, given back on drop.
pub(super) type Lasting = Share<Principal>;

/// The sending end of an event stream for callers that hold the permission `P`.
pub(super) struct Events<P> {
    http: Arc<Http>,
    caller: Caller,
    events: mpsc::Sender<Event>,
    changes: watch::Receiver<u64>,
    /// When the caller's standing is looked at anew, changes apart.
    looks_again_at: Instant,
    _lasting: Lasting,
    permission: PhantomData<P>,
}

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StreamEnd {
    HubStopping,
    /// The credential ended, or lost the permission.
    NotAllowed(String),
    /// The reader took nothing for [`STREAM_STALL`].
    TooSlow,
    /// The reader is gone.
    Gone,
    /// All was told.
    Complete,
    /// What was followed cannot go on.
    Broken(&'static str),
}

#[derive(Serialize)]
struct Ending {
    reason: String,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Shares::new(MAX_STREAMS, MAX_STREAMS_PER_PRINCIPAL))
    }
}

impl Streams {
    /// Leave for one more lasting answer.
    ///
    /// # Errors
    /// 429 for a principal that has too many, 503 when all have.
    pub(super) fn begin(&self, principal: &Principal) -> Result<Lasting, Problem> {
        self.0.take(principal.clone()).map_err(|none_left| match none_left {
            NoneLeft::ForHolder => {
                let detail =
                    format!("{principal} has {MAX_STREAMS_PER_PRINCIPAL} event streams or waiting requests already; end one");
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).coded("too_many_streams");
                problem.retry_after(super::limits::RETRY_AFTER_FULL)
            }
            NoneLeft::AtAll => {
                Problem::unavailable(format!("the hub serves {MAX_STREAMS} event streams and waiting requests already"))
            }
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.taken()
    }
}

impl<P: Permission + Send + Sync + 'static> Events<P> {
    /// An event stream whose events `send` produces until it returns why it ends.
    ///
    /// # Errors
    /// The permission is missing, or there are too many streams.
    pub(super) fn stream<F>(http: &Arc<Http>, caller: Caller, send: impl FnOnce(Self) -> F) -> Result<Response, Problem>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Each change of credentials, users and devices is audited: so this tells when to look again. Taken first, so that no
        // change falls between the look and the waiting.
        let changes = http.hub.audit_changes();
        caller.may::<P>(http)?;
        let standing = http.hub.judge(&caller.authority).map_err(ended)?;
        let lasting = http.streams.begin(&caller.authority.principal)?;
        let (sender, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
        tokio::spawn(send(Self {
            http: http.clone(),
            caller,
            events: sender,
            changes,
            looks_again_at: looks_again_at(&standing, http.hub.now()),
            _lasting: lasting,
            permission: PhantomData,
        }));
        let events = stream::unfold(receiver, async |mut receiver| {
            let event = receiver.recv().await?;
            Some((Ok::<_, Infallible>(event), receiver))
        });
        Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(STREAM_HEARTBEAT)).into_response())
    }

    /// What the stream runs on.
    pub(super) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    /// The audit entry that the hub has shown last. What it changed is looked at before the next event is sent.
    pub(super) fn shown(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Waits for `next`, as long as the stream may go on; `Ok(None)` when something changed in the hub meanwhile.
    ///
    /// # Errors
    /// Why the stream ends.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<Option<T>, StreamEnd> {
        let mut stop = self.http.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Err(StreamEnd::HubStopping),
            () = self.events.closed() => return Err(StreamEnd::Gone),
            changed = self.changes.changed() => changed.map_err(|_| StreamEnd::HubStopping)?,
            () = sleep_until(self.looks_again_at) => {}
            next = next => return Ok(Some(next)),
        }
        self.rights().map(|_| None)
    }

    /// Hands an event to the reader, waiting for it if it is slow.
    ///
    /// # Errors
    /// Why the stream ends.
    pub(super) async fn send(&mut self, name: &str, data: &impl Serialize) -> Result<(), StreamEnd> {
        if self.changes.has_changed().unwrap_or(true) || self.looks_again_at <= Instant::now() {
            self.rights()?;
        }
        let event = Event::default().event(name).json_data(data).map_err(|_| StreamEnd::Broken("an event has no JSON form"))?;
        hand_over(&self.events, event, self.http.stop.clone()).await
    }

    /// Ends the stream, telling the reader why if it still reads.
    pub(super) fn end(self, end: &StreamEnd) {
        debug!(principal = %self.caller.authority.principal, source = %self.caller.peer.source, ?end, "event stream ended");
        let reason = match end {
            StreamEnd::HubStopping => "hub stopping; try again shortly".to_owned(),
            StreamEnd::NotAllowed(why) => why.clone(),
            StreamEnd::TooSlow => "too slow: nothing was read for a while".to_owned(),
            StreamEnd::Gone | StreamEnd::Complete => return,
            StreamEnd::Broken(why) => (*why).to_owned(),
        };
        if let Ok(event) = Event::default().event("end").json_data(Ending { reason }) {
            let _ = self.events.try_send(event);
        }
    }

    /// What the caller may do with topics now, if the stream may go on.
    ///
    /// # Errors
    /// Why the stream ends.
    pub(super) fn rights(&mut self) -> Result<Arc<Rights>, StreamEnd> {
        let hub = &self.http.hub;
        let standing = hub.judge(&self.caller.authority).map_err(|end| StreamEnd::NotAllowed(end.reason_string()))?;
        let permitted = hub.view(|registry| registry.permit_user::<P>(&self.caller.authority, hub.now()).map(drop));
        permitted.map_err(|missing| StreamEnd::NotAllowed(missing.to_string()))?;
        self.looks_again_at = looks_again_at(&standing, hub.now());
        Ok(standing.rights)
    }
}

fn looks_again_at(standing: &Standing, now: UnixTime) -> Instant {
    /// A clock that is set back must not lengthen a life by more than this.
    const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
    let expires_in = standing.expires_at.map(|at| Duration::from_secs(at.since(now).0));
    Instant::now() + expires_in.map_or(AT_LEAST_EVERY, |expires_in| expires_in.min(AT_LEAST_EVERY))
}

async fn hand_over<T>(events: &mpsc::Sender<T>, event: T, mut stop: watch::Receiver<bool>) -> Result<(), StreamEnd> {
    tokio::select! {
        biased;
        sent = timeout(STREAM_STALL, events.send(event)) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(StreamEnd::Gone),
            Err(_) => Err(StreamEnd::TooSlow),
        },
        _ = stop.wait_for(|stop| *stop) => Err(StreamEnd::HubStopping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_and_one_that_is_slow_is_waited_for() {
        let (_stop, stopped) = watch::channel(false);
        let (events, mut reader) = mpsc::channel(1);
        assert_eq!(hand_over(&events, 1, stopped.clone()).await, Ok(()));
        let slow = async {
            tokio::time::advance(STREAM_STALL / 2).await;
            reader.recv().await
        };
        let (handed_over, read) = tokio::join!(hand_over(&events, 2, stopped.clone()), slow);
        assert_eq!((handed_over, read), (Ok(()), Some(1)));
        assert_eq!(hand_over(&events, 3, stopped.clone()).await, Err(StreamEnd::TooSlow));
        drop(reader);
        assert_eq!(hand_over(&events, 4, stopped).await, Err(StreamEnd::Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_stops_waits_for_no_reader() {
        let (stop, stopped) = watch::channel(false);
        let (events, _reader) = mpsc::channel(1);
        assert_eq!(hand_over(&events, 1, stopped.clone()).await, Ok(()));
        stop.send(true).expect("somebody listens");
        assert_eq!(hand_over(&events, 2, stopped).await, Err(StreamEnd::HubStopping));
    }
}
