//! Who is connected, and who must leave when it gets crowded. Counts and decides; knows nothing of sockets and TLS.
//!
//! A source is one IPv4 address or one IPv6 subnet. A connection waits for its peer (in the handshake, before a request) or a request of it is being answered. At a bound the
//! connection that has waited longest leaves, of the source that has most: whoever opens a thousand connections and
//! says nothing crowds out itself. Where all are being answered, the newcomer is turned away.

use super::limits::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SOURCE};
use crate::throttle::share;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::Notify, time::Instant};

/// All connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Door(Mutex<Visits>);

/// A place inside, given back on drop.
#[derive(Debug)]
pub(super) struct Visit {
    door: Arc<Door>,
    number: u64,
    address: IpAddr,
    source: IpAddr,
    leave: Arc<Notify>,
}

/// A request that is being answered: its connection is not told to leave. Ends on drop.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Visit>);

#[derive(Debug, Default)]
struct Visits {
    next_number: u64,
    by_number: BTreeMap<u64, State>,
    waiting_by_source: HashMap<IpAddr, BTreeSet<(u64, u64)>>,
    count_by_source: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct State {
    requests: usize,
    /// Its place in the order of those who wait, and since when.
    waits: Option<(u64, Instant)>,
    leave: Arc<Notify>,
}

impl Door {
    /// Lets a connection in, if need be in the place of another. `None`: everybody inside is being answered.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Visit> {
        let source = share(address);
        let mut visits = self.visits();
        if visits.count_by_source.get(&source).copied().unwrap_or(0) >= MAX_CONNECTIONS_PER_SOURCE {
            visits.send_away(source)?;
        } else if visits.by_number.len() >= MAX_CONNECTIONS {
            let crowd = visits.waiting_by_source.iter().max_by_key(|(_, waiting)| (waiting.len(), Reverse(waiting.first())));
            let crowd = crowd.map(|(source, _)| *source)?;
            visits.send_away(crowd)?;
        }
        visits.next_number += 1;
        let number = visits.next_number;
        let leave = Arc::new(Notify::new());
        let state = State { requests: 0, waits: None, leave: leave.clone() };
        visits.by_number.insert(number, state);
        *visits.count_by_source.entry(source).or_default() += 1;
        visits.begin_waiting(number, source);
        drop(visits);
        Some(Visit { door: self.clone(), number, address: address.to_canonical(), source, leave })
    }

    /// How many are inside.
    pub(super) fn count(&self) -> usize {
        self.visits().by_number.len()
    }

    fn visits(&self) -> MutexGuard<'_, Visits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visits {
    fn begin_waiting(&mut self, number: u64, source: IpAddr) {
        self.next_number += 1;
        let order = self.next_number;
        if let Some(state) = self.by_number.get_mut(&number) {
            state.waits = Some((order, Instant::now()));
            self.waiting_by_source.entry(source).or_default().insert((order, number));
        }
    }

    fn end_waiting(&mut self, number: u64, source: IpAddr) {
        let Some((order, _)) = self.by_number.get_mut(&number).and_then(|state| state.waits.take()) else { return };
        if let Some(waiting) = self.waiting_by_source.get_mut(&source) {
            waiting.remove(&(order, number));
            if waiting.is_empty() {
                self.waiting_by_source.remove(&source);
            }
        }
    }

    /// Tells the connection of a source that has waited longest to leave; its place is free at once.
    fn send_away(&mut self, source: IpAddr) -> Option<()> {
        let (_, number) = *self.waiting_by_source.get(&source)?.first()?;
        self.end_waiting(number, source);
        let state = self.by_number.get_mut(&number)?;
        state.leave.notify_one();
        self.remove(number, source);
        Some(())
    }

    fn remove(&mut self, number: u64, source: IpAddr) {
        if self.by_number.remove(&number).is_none() {
            return;
        }
        if let Some(count) = self.count_by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.count_by_source.remove(&source);
            }
        }
    }
}

impl Visit {
    /// Where the connection comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// Waits until the connection is told to leave.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// A request has come.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        let mut visits = self.door.visits();
        visits.end_waiting(self.number, self.source);
        if let Some(state) = visits.by_number.get_mut(&self.number) {
            state.requests += 1;
        }
        drop(visits);
        InFlight(self.clone())
    }

    /// Since when nothing was asked; `None` while something is being answered.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.door.visits().by_number.get(&self.number).and_then(|state| state.waits).map(|(_, since)| since)
    }
}

impl InFlight {
    /// Where the request comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.0.address
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut visits = self.door.visits();
        visits.end_waiting(self.number, self.source);
        visits.remove(self.number, self.source);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let visit = &self.0;
        let mut visits = visit.door.visits();
        let Some(state) = visits.by_number.get_mut(&visit.number) else { return };
        state.requests -= 1;
        if state.requests == 0 {
            visits.begin_waiting(visit.number, visit.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::net::Ipv4Addr;

    fn source(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 168, 1, last).into()
    }

    fn must_leave(visit: &Visit) -> bool {
        visit.told_to_leave().now_or_never().is_some()
    }

    fn crowd(door: &Arc<Door>, from: u8, count: usize) -> Vec<Arc<Visit>> {
        (0..count).map(|_| Arc::new(door.enter(source(from)).expect("room"))).collect()
    }

    #[test]
    fn whoever_opens_too_many_silent_connections_crowds_out_itself() {
        let door = Arc::new(Door::default());
        let device = crowd(&door, 7, 1);
        let silent = crowd(&door, 66, 3 * MAX_CONNECTIONS);
        assert!(!must_leave(&device[0]));
        let gone = silent.iter().take_while(|visit| must_leave(visit)).count();
        assert_eq!(gone, silent.len() - MAX_CONNECTIONS_PER_SOURCE, "the oldest of them go first");
        assert_eq!(door.count(), MAX_CONNECTIONS_PER_SOURCE + 1);
    }

    #[test]
    fn many_sources_together_do_not_crowd_out_one_that_has_few() {
        let door = Arc::new(Door::default());
        let device = crowd(&door, 7, 2);
        let silent: Vec<_> = (100..108).flat_map(|from| crowd(&door, from, MAX_CONNECTIONS_PER_SOURCE)).collect();
        assert!(door.count() <= MAX_CONNECTIONS);
        assert!(device.iter().all(|visit| !must_leave(visit)));
        let late = door.enter(source(8)).expect("there is room for a newcomer");
        assert!(!must_leave(&late));
        drop((silent, device, late));
        assert_eq!(door.count(), 0);
    }

    #[test]
    fn a_host_with_a_thousand_addresses_is_one_source() {
        let door = Arc::new(Door::default());
        let device = crowd(&door, 7, 1);
        let host = |last: u16| IpAddr::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, last));
        let silent: Vec<_> = (0..1_000).map(|last| door.enter(host(last)).expect("room")).collect();
        assert_eq!(door.count(), MAX_CONNECTIONS_PER_SOURCE + 1);
        assert!(!must_leave(&device[0]));
        assert_eq!(silent[5].address(), host(5), "each is still known by its address");
    }

    #[test]
    fn a_connection_that_is_being_answered_stays() {
        let door = Arc::new(Door::default());
        let asking = crowd(&door, 7, MAX_CONNECTIONS_PER_SOURCE);
        let requests: Vec<_> = asking.iter().map(Visit::request).collect();
        assert!(asking[0].idle_since().is_none());
        assert!(door.enter(source(7)).is_none(), "the newcomer is turned away");
        assert!(door.enter(source(8)).is_some(), "another source is not");
        drop(requests);
        assert!(asking[0].idle_since().is_some());
        assert!(door.enter(source(7)).is_some());
        assert_eq!(asking.iter().filter(|visit| must_leave(visit)).count(), 1);
    }
}
