//! Drives one device of a fleet from outside: power, publishes, a new key, its end. Knows nothing of what the device does.
//!
//! What somebody wants of a device is one small allocation, and waiting for it another word: a fleet has thousands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::enrolment::EnrolmentString;

/// Publishes that wait for a device; a test or a demonstration sends one at a time. Who sends more waits for room.
const MAILBOX_LENGTH: usize = 16;

/// Drives one device of a fleet.
#[derive(Clone, Debug)]
pub struct DeviceHandle(Arc<Wishes>);

/// Why a publish that was injected into a device did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The hub said no.
    #[error("the hub refused it: {reason} (0x{code:02X})")]
    Refused {
        /// Reason code of PUBACK.
        code: u8,
        /// Reason string of PUBACK, or the meaning of the code.
        reason: String,
    },
    /// The agent cannot send it: no valid topic, or too long.
    #[error("the device cannot send it: {0}")]
    Unsendable(String),
    /// The device has stopped, or stopped before the hub answered.
    #[error("the device has stopped")]
    Stopped,
}

#[derive(Debug)]
struct Wishes {
    wished: Mutex<Wished>,
    changed: Notify,
}

#[derive(Debug)]
struct Wished {
    /// The device should say goodbye.
    stop: bool,
    powered: bool,
    /// Moves with each interruption of its power, however short.
    cuts: u64,
    /// To make a new key with, once.
    enrolment: Option<EnrolmentString>,
    publishes: VecDeque<PublishOrder>,
    /// The device will do nothing more, whatever is wished.
    is_over: bool,
}

/// A publish that the device is asked to do.
pub(crate) struct PublishOrder {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Result<(), PublishError>>,
}

impl std::fmt::Debug for PublishOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishOrder").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeviceHandle {
    /// A device that has power.
    pub(crate) fn new() -> (Self, Orders) {
        let wished = Wished { stop: false, powered: true, cuts: 0, enrolment: None, publishes: VecDeque::new(), is_over: false };
        let wishes = Arc::new(Wishes { wished: Mutex::new(wished), changed: Notify::new() });
        (Self(Arc::clone(&wishes)), Orders(wishes))
    }

    /// Has the device publish to any topic, its neighbours' among them, as soon as it has a session, and waits for
    /// the hub's answer. The device's own code has no such door: the hub must hold against firmware that does.
    ///
    /// # Errors
    /// [`PublishError::Refused`] is what the hub owes a publish that the device has no right to.
    pub async fn publish(&self, topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Result<(), PublishError> {
        let (answer, answered) = oneshot::channel();
        let mut order = Some(PublishOrder { topic: topic.into(), payload: payload.into(), answer });
        let send = |wished: &mut Wished| match (wished.is_over, wished.publishes.len() < MAILBOX_LENGTH) {
            (true, _) => Some(Err(PublishError::Stopped)),
            (false, true) => {
                wished.publishes.extend(order.take());
                Some(Ok(()))
            }
            (false, false) => None,
        };
        self.0.wait(send).await?;
        self.0.changed.notify_waiters();
        answered.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Takes the power from the device: it says no goodbye and keeps what its storage holds.
    pub fn cut_power(&self) {
        self.0.wish(|wished| (wished.powered, wished.cuts) = (false, wished.cuts + 1));
    }

    /// Gives it back: the device starts as after any power cut.
    pub fn restore_power(&self) {
        self.0.wish(|wished| wished.powered = true);
    }

    /// Restarts the device with a fresh string of its owner: it makes a new key, as in a rotation.
    pub fn enrol_anew(&self, enrolment: EnrolmentString) {
        self.0.wish(|wished| {
            (wished.powered, wished.cuts, wished.enrolment) = (true, wished.cuts + 1, Some(enrolment));
        });
    }

    /// Asks the device to say goodbye and stop.
    pub fn stop(&self) {
        self.0.wish(|wished| wished.stop = true);
    }
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, Wished> {
        self.wished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, change: impl FnOnce(&mut Wished)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// What `look` finds, now or after one of the next changes. Dropping the future loses nothing.
    async fn wait<T>(&self, mut look: impl FnMut(&mut Wished) -> Option<T>) -> T {
        loop {
            // Before looking: it then hears of what changes after.
            let changed = self.changed.notified();
            let found = look(&mut self.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}

/// The device's side of its handles.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<Wishes>);

/// A life of a device, from one interruption of its power to the next.
#[derive(Debug)]
pub(crate) struct Life {
    cuts: u64,
    /// It makes a new key with this.
    pub(crate) enrolment: Option<EnrolmentString>,
}

impl Orders {
    /// Whether the device should stop.
    pub(crate) fn asked_to_stop(&self) -> bool {
        self.0.lock().stop
    }

    /// Resolves when the device should stop.
    pub(crate) async fn stopping(&self) {
        self.0.wait(|wished| wished.stop.then_some(())).await;
    }

    /// Resolves when the device has power, with the life that begins; `None` when it should stop first.
    pub(crate) async fn next_life(&self) -> Option<Life> {
        let begin = |wished: &mut Wished| match (wished.stop, wished.powered) {
            (true, _) => Some(None),
            (false, true) => Some(Some(Life { cuts: wished.cuts, enrolment: wished.enrolment.take() })),
            (false, false) => None,
        };
        self.0.wait(begin).await
    }

    /// Resolves when `life` lost its power.
    pub(crate) async fn power_cut(&self, life: &Life) {
        self.0.wait(|wished| (wished.cuts != life.cuts).then_some(())).await;
    }

    /// Resolves when the device should publish something, or stop: then with `None`.
    pub(crate) async fn next_publish(&self) -> Option<PublishOrder> {
        let order = self.0.wait(|wished| if wished.stop { Some(None) } else { wished.publishes.pop_front().map(Some) }).await;
        // Others wait for room.
        self.0.changed.notify_waiters();
        order
    }

    /// The device will do nothing more: whoever waits for it is told so, now and later.
    pub(crate) fn end(&self) {
        self.0.wish(|wished| {
            wished.is_over = true;
            wished.publishes.clear();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_publishes_more_than_the_mailbox_holds_waits_for_room_and_nothing_is_lost() {
        let (handle, orders) = DeviceHandle::new();
        let publishing: Vec<_> = (0..3 * MAILBOX_LENGTH)
            .map(|number| {
                let handle = handle.clone();
                tokio::spawn(async move { handle.publish(format!("home/{number}"), "{}").await })
            })
            .collect();
        let mut topics = Vec::new();
        for _ in 0..3 * MAILBOX_LENGTH {
            let order = orders.next_publish().await.expect("nobody asked it to stop");
            order.answer.send(Ok(())).expect("awaited");
            topics.push(order.topic);
        }
        for published in publishing {
            assert_eq!(published.await.expect("no panic"), Ok(()));
        }
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 3 * MAILBOX_LENGTH);
    }

    #[tokio::test]
    async fn when_a_device_is_over_those_who_wait_are_told_and_those_who_come_later_too() {
        let (handle, orders) = DeviceHandle::new();
        let early = handle.clone();
        let early = tokio::spawn(async move { early.publish("home/door", "{}").await });
        let order = orders.next_publish().await.expect("nobody asked it to stop");
        let queued = handle.clone();
        let queued = tokio::spawn(async move { queued.publish("home/door", "{}").await });
        while orders.0.lock().publishes.is_empty() {
            tokio::task::yield_now().await;
        }
        orders.end();
        drop(order);
        for told in [early, queued] {
            assert_eq!(told.await.expect("no panic"), Err(PublishError::Stopped));
        }
        assert_eq!(handle.publish("home/door", "{}").await, Err(PublishError::Stopped));
    }

    #[tokio::test]
    async fn a_power_cut_ends_a_life_however_short_it_is_and_a_new_key_is_made_once() {
        let (handle, orders) = DeviceHandle::new();
        let first = orders.next_life().await.expect("it has power");
        handle.cut_power();
        handle.restore_power();
        orders.power_cut(&first).await;
        let string: EnrolmentString = format!("hk1.{}AGh1Yg", "A".repeat(68)).parse().expect("well-formed");
        handle.enrol_anew(string.clone());
        let anew = orders.next_life().await.expect("it has power");
        assert_eq!(anew.enrolment, Some(string));
        handle.cut_power();
        orders.power_cut(&anew).await;
        handle.restore_power();
        assert_eq!(orders.next_life().await.expect("it has power").enrolment, None);
        handle.cut_power();
        handle.stop();
        assert!(orders.next_life().await.is_none() && orders.next_publish().await.is_none() && orders.asked_to_stop());
    }
}
