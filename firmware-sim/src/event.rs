//! What happens to the devices of a fleet, as its watchers see it. Decides nothing, and never slows a device down.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast;

/// How many events a watcher may lag behind before it misses the oldest: some seconds of a thousand devices.
pub const EVENT_BACKLOG: usize = 4096;

/// One thing that happened to one device.
#[derive(Clone, Debug, Serialize)]
pub struct SimEvent {
    /// Which device of the fleet, from 0, in the order in which they were given.
    pub index: usize,
    /// Its id (`client_id`), once it is known from enrolment or storage.
    pub device: Option<Arc<str>>,
    /// What happened.
    #[serde(flatten)]
    pub kind: SimEventKind,
}

/// What happened to a device.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SimEventKind {
    /// The device asked to join, and the hub's owner is to compare the code.
    Joining {
        /// What the device shows; the owner finds the same at the hub, or somebody stands in between.
        code: String,
        /// How long the owner has.
        #[serde(serialize_with = "milliseconds", rename = "expires_in_ms")]
        expires_in: Duration,
    },
    /// The hub registered the device's key.
    Enrolled {
        /// From the first connection attempt to the stored identity.
        #[serde(serialize_with = "milliseconds", rename = "ms")]
        took: Duration,
    },
    /// The MQTT session is open.
    Connected {
        /// From the wish to connect to CONNACK: name, TCP, TLS handshake, signature and token included.
        #[serde(serialize_with = "milliseconds", rename = "ms")]
        took: Duration,
    },
    /// The hub acknowledged a publish.
    Acknowledged {
        /// The topic name.
        topic: String,
        /// What was published; JSON for everything that a thermostat says.
        payload: String,
        /// From handing it to the agent to PUBACK.
        #[serde(serialize_with = "milliseconds", rename = "ms")]
        took: Duration,
    },
    /// The hub refused a publish.
    Refused {
        /// The topic name.
        topic: String,
        /// Reason code of PUBACK.
        code: u8,
        /// Reason string of PUBACK, or the meaning of the code.
        reason: String,
    },
    /// A command was carried out or rejected.
    Command {
        /// Its name, the last topic level; `None` when the agent refused it before looking.
        name: Option<String>,
        /// Its id, if it could be read.
        id: Option<String>,
        /// Why it was rejected or failed; `None` when it succeeded.
        rejected: Option<String>,
    },
    /// The token was renewed within the session.
    Renewed {
        /// From the request to the hub's answer.
        #[serde(serialize_with = "milliseconds", rename = "ms")]
        took: Duration,
    },
    /// The hub told the date to a device that had started with a wrong one ([`crate::DeviceOptions::clock_error`]).
    ClockCorrected {
        /// By how much the device's clock moves, in seconds; negative if it was ahead.
        by_s: i64,
    },
    /// The session ended, or none came about.
    Disconnected {
        /// Why, in words.
        reason: String,
    },
    /// The device will try again.
    Retrying {
        /// When: a back-off with jitter, or minutes for a device that is disabled.
        #[serde(serialize_with = "milliseconds", rename = "after_ms")]
        after: Duration,
    },
    /// The device will do nothing more.
    Stopped {
        /// Why, when nobody asked it to stop.
        failure: Option<String>,
    },
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// Where the devices report to.
#[derive(Clone, Debug)]
pub(crate) struct EventSink(broadcast::Sender<SimEvent>);

/// Lets watchers come later without keeping the devices' end from them.
#[derive(Clone, Debug)]
pub(crate) struct EventDoor(broadcast::WeakSender<SimEvent>);

impl EventDoor {
    /// The events from now on; none if all devices have stopped.
    pub(crate) fn watch(&self) -> Events {
        match self.0.upgrade() {
            Some(sender) => Events(sender.subscribe()),
            None => EventSink::new().watch(),
        }
    }
}

impl EventSink {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENT_BACKLOG))
    }

    pub(crate) fn report(&self, event: SimEvent) {
        // Nobody has to watch.
        let _ = self.0.send(event);
    }

    pub(crate) fn watch(&self) -> Events {
        Events(self.0.subscribe())
    }

    pub(crate) fn door(&self) -> EventDoor {
        EventDoor(self.0.downgrade())
    }
}

/// The events of a fleet from the moment of the call on.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<SimEvent>);

impl Events {
    /// The next event; `None` when the fleet has stopped and everything was read.
    ///
    /// A watcher that falls more than [`EVENT_BACKLOG`] behind misses the oldest; [`crate::Summary`] misses nothing.
    pub async fn next(&mut self) -> Option<SimEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "the watcher of the fleet is too slow and missed events");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: SimEventKind) -> SimEvent {
        SimEvent { index: 0, device: Some("lamp".into()), kind }
    }

    #[test]
    fn an_event_is_one_flat_json_object() {
        let took = Duration::from_micros(12_345);
        let connected = serde_json::to_string(&event(SimEventKind::Connected { took })).expect("JSON");
        assert_eq!(connected, r#"{"index":0,"device":"lamp","event":"connected","ms":12.345}"#);
        let renewed = serde_json::to_string(&event(SimEventKind::Renewed { took })).expect("JSON");
        assert_eq!(renewed, r#"{"index":0,"device":"lamp","event":"renewed","ms":12.345}"#);
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_the_oldest_events_and_blocks_nobody() {
        let sink = EventSink::new();
        let mut watcher = sink.watch();
        for index in 0..2 * EVENT_BACKLOG {
            sink.report(SimEvent { index, ..event(SimEventKind::Renewed { took: Duration::ZERO }) });
        }
        drop(sink);
        let first = watcher.next().await.expect("the newest are kept");
        assert_eq!(first.index, EVENT_BACKLOG);
        let mut rest = 0;
        while watcher.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, EVENT_BACKLOG - 1);
    }
}
