//! Connections that have not finished their CONNECT. At the bound the oldest goes of the source that has most: a thousand that
//! say nothing do not keep out one that does, and a host that opens a thousand a second pushes out nobody else's.

use super::slot::lock;
use crate::throttle::share;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// All half-open connections by source and age.
#[derive(Debug, Clone)]
pub(super) struct HalfOpen {
    registry: Arc<Mutex<Registry>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Registry {
    /// No source without one.
    ages_by_source: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
    count: usize,
    next: u64,
    is_closed: bool,
}

/// A place among the half-open; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Mutex<Registry>>,
    source: IpAddr,
    age: u64,
    shed: Arc<Notify>,
}

impl HalfOpen {
    pub(super) fn new(max: usize) -> Self {
        Self { registry: Arc::default(), max: max.max(1) }
    }

    /// Takes a place, that of another if all are taken.
    pub(super) fn enter(&self, source: IpAddr) -> Place {
        let (source, shed) = (share(source), Arc::new(Notify::new()));
        let mut registry = lock(&self.registry);
        let age = registry.next;
        registry.next += 1;
        if registry.is_closed {
            shed.notify_one();
        } else {
            registry.ages_by_source.entry(source).or_default().insert(age, shed.clone());
            registry.count += 1;
        }
        if registry.count > self.max {
            registry.shed();
        }
        Place { registry: self.registry.clone(), source, age, shed }
    }

    /// Closes one, since the system is out of descriptors.
    pub(super) fn shed(&self) {
        lock(&self.registry).shed();
    }

    /// Closes all, and those to come.
    pub(super) fn close(&self) {
        let mut registry = lock(&self.registry);
        registry.is_closed = true;
        registry.count = 0;
        for place in std::mem::take(&mut registry.ages_by_source).values().flat_map(BTreeMap::values) {
            place.notify_one();
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.registry).count
    }
}

impl Registry {
    /// Closes the oldest of the source that has most; of several such sources, the one that is oldest of all.
    fn shed(&mut self) {
        let first = |ages: &BTreeMap<u64, _>| ages.first_key_value().map(|(&age, _)| age);
        let most = self.ages_by_source.iter().max_by_key(|(_, ages)| (ages.len(), Reverse(first(ages))));
        if let Some((source, age)) = most.and_then(|(&source, ages)| Some((source, first(ages)?)))
            && let Some(oldest) = self.remove(source, age)
        {
            oldest.notify_one();
        }
    }

    fn remove(&mut self, source: IpAddr, age: u64) -> Option<Arc<Notify>> {
        let ages = self.ages_by_source.get_mut(&source)?;
        let removed = ages.remove(&age)?;
        if ages.is_empty() {
            self.ages_by_source.remove(&source);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Place {
    /// Waits until this place is taken away.
    pub(super) async fn taken_away(&self) {
        self.shed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry).remove(self.source, self.age);
    }
}
