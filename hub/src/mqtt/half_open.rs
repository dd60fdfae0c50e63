//! Connections that have not finished their CONNECT. At the bound the oldest goes: a thousand that say nothing do not keep
//! out one that does.

use super::slot::lock;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// All half-open connections by age.
#[derive(Debug, Clone)]
pub(super) struct HalfOpen {
    registry: Arc<Mutex<Registry>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Registry {
    by_age: BTreeMap<u64, Arc<Notify>>,
    next: u64,
    is_closed: bool,
}

/// A place among the half-open; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Mutex<Registry>>,
    age: u64,
    shed: Arc<Notify>,
}

impl HalfOpen {
    pub(super) fn new(max: usize) -> Self {
        Self { registry: Arc::default(), max: max.max(1) }
    }

    /// Takes a place, the oldest one's if all are taken.
    pub(super) fn enter(&self) -> Place {
        let shed = Arc::new(Notify::new());
        let mut registry = lock(&self.registry);
        let age = registry.next;
        registry.next += 1;
        if registry.is_closed {
            shed.notify_one();
        } else {
            registry.by_age.insert(age, shed.clone());
        }
        while registry.by_age.len() > self.max
            && let Some((_, oldest)) = registry.by_age.pop_first()
        {
            oldest.notify_one();
        }
        Place { registry: self.registry.clone(), age, shed }
    }

    /// Closes the oldest, since the system is out of descriptors.
    pub(super) fn shed_oldest(&self) {
        if let Some((_, oldest)) = lock(&self.registry).by_age.pop_first() {
            oldest.notify_one();
        }
    }

    /// Closes all, and those to come.
    pub(super) fn close(&self) {
        let mut registry = lock(&self.registry);
        registry.is_closed = true;
        for (_, place) in std::mem::take(&mut registry.by_age) {
            place.notify_one();
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.registry).by_age.len()
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
        lock(&self.registry).by_age.remove(&self.age);
    }
}
