//! The thermostat as the agent's application: when it reports, how it obeys, what watchers are told.

use std::collections::VecDeque;
use std::time::Duration;

use hearthkey_agent::json::Object;
use hearthkey_agent::tls::{Refusal, TlsError};
use hearthkey_agent::{
    Application, Awaited, Buffer, BufferFull, Command, ConnectFailed, Ending, Event, Farewell, NotQueued, Now, Outbox, Outcome,
    PublishId, Qos, Reply, Turn, UnixTime,
};
use hearthkey_thermostat::{Published, Reporting};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::event::SimEventKind;
use crate::fleet::Reporter;
use crate::handle::{Orders, PublishError, PublishOrder};

/// More publishes than the agent's queue holds cannot await an answer; the oldest is forgotten.
const MAX_UNANSWERED: usize = 32;

/// A thermostat that an agent runs.
pub(crate) struct SimulatedThermostat {
    thermostat: Reporting,
    orders: Orders,
    /// An order that is not with the agent yet.
    order: Option<PublishOrder>,
    reporter: Reporter,
    /// Held until the first connection succeeded or failed.
    permit: Option<OwnedSemaphorePermit>,
    /// In the order in which they were sent.
    unanswered: VecDeque<Unanswered>,
    connecting_since: Instant,
    /// Name of the command being carried out.
    command_name: String,
    /// The agent knows that it should leave.
    leaving: bool,
    /// The wrong date that it started with, and when that was, until the hub tells the right one.
    wrong_clock: Option<(Instant, UnixTime)>,
}

/// A publish whose PUBACK has not come.
struct Unanswered {
    id: PublishId,
    payload: String,
    since: Instant,
    answer: Option<oneshot::Sender<Result<(), PublishError>>>,
}

impl SimulatedThermostat {
    pub(crate) fn new(
        seed: u64,
        interval: Duration,
        time_scale: u32,
        orders: Orders,
        reporter: Reporter,
        permit: Option<OwnedSemaphorePermit>,
        wrong_clock: Option<(Instant, UnixTime)>,
    ) -> Self {
        let mut thermostat = Reporting::new(seed, interval, time_scale);
        if let Some(first) = reporter.next_number() {
            thermostat.number_readings_from(first);
        }
        Self {
            thermostat,
            orders,
            order: None,
            reporter,
            permit,
            unanswered: VecDeque::new(),
            connecting_since: Instant::now(),
            command_name: String::new(),
            leaving: false,
            wrong_clock,
        }
    }

    pub(crate) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    fn answered(&mut self, id: PublishId) -> Option<Unanswered> {
        let place = self.unanswered.iter().position(|unanswered| unanswered.id == id)?;
        self.unanswered.remove(place)
    }

    fn carry_out_order(&mut self, outbox: &mut Outbox<'_>) {
        let Some(order) = self.order.take() else { return };
        match outbox.publish(&order.topic, &order.payload, Qos::AtLeastOnce, false) {
            Ok(id) => await_answer(&mut self.unanswered, id, &order.payload, Some(order.answer)),
            Err(NotQueued::Full | NotQueued::Offline) => self.order = Some(order),
            Err(NotQueued::Topic) => refuse(order, "not a topic name, or longer than the agent takes"),
            Err(NotQueued::Payload) => refuse(order, "the payload is longer than the agent takes"),
        }
    }
}

impl Application for SimulatedThermostat {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        self.thermostat.thermostat().write_about("simulated thermostat", out)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        if self.orders.asked_to_stop() {
            self.leaving = true;
            return Turn::Stop(Farewell::Clean);
        }
        if outbox.is_online() {
            self.carry_out_order(outbox);
        }
        let Self { thermostat, unanswered, reporter, .. } = self;
        thermostat.poll(now.instant, outbox, |Published { id, payload }| {
            reporter.published(payload);
            await_answer(unanswered, id, payload, None);
        })
    }

    fn command(&mut self, command: &Command<'_>, _now: Now) -> Reply {
        command.name().clone_into(&mut self.command_name);
        self.thermostat.command(command)
    }

    fn twin_desired(&mut self, desired: Object<'_>, _outbox: &mut Outbox<'_>) {
        self.thermostat.twin_desired(&desired);
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connecting { .. } => self.connecting_since = Instant::now(),
            Event::Connected { .. } => {
                self.permit = None;
                self.thermostat.connected();
                self.reporter.report(SimEventKind::Connected { took: self.connecting_since.elapsed() });
            }
            Event::Renewed { took, .. } => self.reporter.report(SimEventKind::Renewed { took }),
            Event::Acknowledged { id, topic } => {
                if let Some(Unanswered { payload, since, answer, .. }) = self.answered(id) {
                    let took = since.elapsed();
                    self.reporter.report(SimEventKind::Acknowledged { topic: topic.to_owned(), payload, took });
                    tell(answer, Ok(()));
                }
            }
            Event::Refused { id, topic, reason_code, reason } => {
                let reason = if reason.is_empty() { reason_code.name() } else { reason }.to_owned();
                let (topic, code) = (topic.to_owned(), reason_code.0);
                self.reporter.report(SimEventKind::Refused { topic, code, reason: reason.clone() });
                let answer = self.answered(id).and_then(|unanswered| unanswered.answer);
                tell(answer, Err(PublishError::Refused { code, reason }));
            }
            Event::SubscriptionRefused { filter, reason_code } => {
                let (topic, code, reason) = (filter.to_owned(), reason_code.0, reason_code.name().to_owned());
                self.reporter.report(SimEventKind::Refused { topic, code, reason });
            }
            Event::CommandFinished { id, outcome } => {
                let rejected = match outcome {
                    Outcome::Succeeded => None,
                    Outcome::Failed(reason) | Outcome::Rejected(reason) => Some(reason.to_string()),
                };
                let (name, id) = (Some(self.command_name.clone()), Some(id.to_owned()));
                self.reporter.report(SimEventKind::Command { name, id, rejected });
            }
            Event::CommandRefused { id, refusal } => {
                let (id, rejected) = (id.map(str::to_owned), Some(refusal.reason().to_owned()));
                self.reporter.report(SimEventKind::Command { name: None, id, rejected });
            }
            Event::Disconnected { ending: Ending::Left(_), .. } => {}
            Event::Disconnected { ending, retry_in } => {
                self.permit = None;
                self.reporter.report(SimEventKind::Disconnected { reason: in_words(ending) });
                if let Some(after) = retry_in {
                    self.reporter.report(SimEventKind::Retrying { after });
                }
            }
            Event::StorageFailed => tracing::error!("the device's storage failed; it goes on with what it has in memory"),
            Event::ClockSet(date) => {
                if let Some((since, wrong)) = self.wrong_clock.take() {
                    let believed = wrong.as_secs().saturating_add(since.elapsed().as_secs());
                    let by_s = date.as_secs().wrapping_sub(believed).cast_signed();
                    self.reporter.report(SimEventKind::ClockCorrected { by_s });
                }
            }
            Event::Command(_) => {}
        }
    }

    async fn wake(&mut self) {
        if self.leaving {
            // A wish that the agent is fulfilling must not wake it again and again.
            std::future::pending().await
        } else if self.order.is_some() {
            // One order at a time; the next waits in the mailbox.
            self.orders.stopping().await;
        } else {
            // Nothing is awaited between taking the order and keeping it: a dropped future loses none.
            self.order = self.orders.next_publish().await;
        }
    }
}

fn await_answer(
    unanswered: &mut VecDeque<Unanswered>,
    id: PublishId,
    payload: &[u8],
    answer: Option<oneshot::Sender<Result<(), PublishError>>>,
) {
    if unanswered.len() >= MAX_UNANSWERED {
        unanswered.pop_front();
    }
    let payload = String::from_utf8_lossy(payload).into_owned();
    unanswered.push_back(Unanswered { id, payload, since: Instant::now(), answer });
}

fn refuse(order: PublishOrder, problem: &str) {
    tell(Some(order.answer), Err(PublishError::Unsendable(problem.to_owned())));
}

fn tell(answer: Option<oneshot::Sender<Result<(), PublishError>>>, result: Result<(), PublishError>) {
    if let Some(answer) = answer {
        // Whoever asked may have gone.
        let _ = answer.send(result);
    }
}

/// Few different texts: they are counted by text.
pub(crate) fn in_words(ending: &Ending) -> String {
    match ending {
        Ending::ConnectFailed(ConnectFailed::HostNotFound) => "the hub's name has no address".to_owned(),
        Ending::ConnectFailed(ConnectFailed::Refused) => "nothing listens at the hub's address; is the hub running?".to_owned(),
        Ending::ConnectFailed(ConnectFailed::Unreachable) => "the hub cannot be reached".to_owned(),
        Ending::ConnectFailed(ConnectFailed::NoResources) => "no socket is left on this host; raise `ulimit -n`".to_owned(),
        Ending::Tls(error) if error.is_broken_connection() => "the connection broke".to_owned(),
        Ending::Tls(TlsError::Refused(Refusal::OutsideValidity)) => {
            "the hub's certificate does not hold at the date that the device knows".to_owned()
        }
        Ending::Tls(error) => format!("the server did not prove to be the hub: {error:?}"),
        Ending::TimedOut(awaited) => {
            let what = match awaited {
                Awaited::Connection => "the TCP connection",
                Awaited::Handshake => "the TLS handshake",
                Awaited::ConnAck => "CONNACK",
                Awaited::Renewal => "the renewal",
                Awaited::PingResp => "PINGRESP",
                Awaited::Acknowledgement => "an acknowledgement",
                Awaited::Reading => "the hub to read",
            };
            format!("timed out waiting for {what}")
        }
        Ending::Refused { reason_code, reason } if reason.is_empty() => format!("refused: {}", reason_code.name()),
        Ending::Refused { reason, .. } => format!("refused: {reason}"),
        Ending::Disconnected { reason_code, reason } if reason.is_empty() => reason_code.name().to_owned(),
        Ending::Disconnected { reason, .. } => reason.to_string(),
        Ending::BadPacket(error) => format!("the hub broke the protocol: {error:?}"),
        Ending::BadAuthentication => "the hub broke the authentication method".to_owned(),
        Ending::Assertion(error) => format!("no token request could be made: {error:?}"),
        Ending::Left(_) => "left".to_owned(),
    }
}
