//! Proves that what the hub acknowledged arrived: every reading has a number, and the numbers that were acknowledged are
//! compared with those that a subscriber saw. Knows nothing of sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A reading's number, as it stands in its JSON: `{"celsius":20.1,"heating":true,"n":17}`.
const NUMBER_KEY: &str = "\"n\":";
/// Readings of one device that are told apart: twelve days at one a second. Later ones do not count.
const MAX_NUMBER: usize = 1 << 20;

/// The accounts of a fleet's readings. A handle: clones are the same ledger.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Mutex<Accounts>>);

#[derive(Debug)]
struct Accounts {
    devices: Vec<Account>,
    index_by_id: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Debug, Default)]
struct Account {
    next: usize,
    acknowledged: Bits,
    arrived: Bits,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

/// What became of a fleet's readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Delivery {
    /// Readings that the hub acknowledged to their device.
    pub acknowledged: u64,
    /// Readings that a subscriber received, repetitions not counted.
    pub arrived: u64,
    /// Acknowledged, and never received: the hub broke its word.
    pub lost: u64,
}

impl Ledger {
    pub(crate) fn new(devices: usize) -> Self {
        Self(Arc::new(Mutex::new(Accounts { devices: vec![Account::default(); devices], index_by_id: HashMap::new() })))
    }

    pub(crate) fn identify(&self, device: usize, id: &Arc<str>) {
        self.lock().index_by_id.insert(Arc::clone(id), device);
    }

    /// The number that a device's next reading should bear, whatever lives it had before.
    pub(crate) fn next_number(&self, device: usize) -> u32 {
        self.lock().devices.get(device).map_or(0, |account| u32::try_from(account.next).unwrap_or(u32::MAX))
    }

    /// A device published this.
    pub(crate) fn published(&self, device: usize, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(number_in);
        if let (Some(number), Some(account)) = (number, self.lock().devices.get_mut(device)) {
            account.next = number + 1;
        }
    }

    /// The hub acknowledged a reading of this device.
    pub(crate) fn acknowledged(&self, device: usize, payload: &str) {
        if let (Some(number), Some(account)) = (number_in(payload), self.lock().devices.get_mut(device)) {
            account.acknowledged.insert(number);
        }
    }

    /// A subscriber received a reading of the device of this id.
    #[cfg_attr(not(feature = "scenarios"), expect(dead_code, reason = "only stories have a witness"))]
    pub(crate) fn arrived(&self, id: &str, payload: &str) {
        let mut accounts = self.lock();
        let Accounts { devices, index_by_id } = &mut *accounts;
        let account = index_by_id.get(id).and_then(|index| devices.get_mut(*index));
        if let (Some(number), Some(account)) = (number_in(payload), account) {
            account.arrived.insert(number);
        }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        let accounts = self.lock();
        let mut delivery = Delivery::default();
        for Account { acknowledged, arrived, .. } in &accounts.devices {
            delivery.acknowledged += acknowledged.count();
            delivery.arrived += arrived.count();
            delivery.lost += acknowledged.without(arrived);
        }
        delivery
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bits {
    /// `number` is below [`MAX_NUMBER`].
    fn insert(&mut self, number: usize) {
        let (word, bit) = (number / 64, number % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many of these are not among `others`.
    fn without(&self, others: &Self) -> u64 {
        let others = others.0.iter().copied().chain(std::iter::repeat(0));
        self.0.iter().zip(others).map(|(word, other)| u64::from((word & !other).count_ones())).sum()
    }
}

fn number_in(payload: &str) -> Option<usize> {
    let (_, number) = payload.rsplit_once(NUMBER_KEY)?;
    number.strip_suffix('}')?.parse().ok().filter(|number| *number < MAX_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_did_not_arrive_is_lost() {
        let ledger = Ledger::new(2);
        ledger.identify(0, &"lamp".into());
        let readings: Vec<_> = (0..130).map(|number| format!(r#"{{"celsius":20.0,"n":{number}}}"#)).collect();
        for reading in &readings {
            ledger.published(0, reading.as_bytes());
            ledger.acknowledged(0, reading);
        }
        for reading in &readings[..128] {
            ledger.arrived("lamp", reading);
            ledger.arrived("lamp", reading);
        }
        assert_eq!(ledger.delivery(), Delivery { acknowledged: 130, arrived: 128, lost: 2 });
        assert_eq!(ledger.next_number(0), 130);
    }

    #[test]
    fn what_arrived_without_acknowledgement_and_strangers_lose_nothing() {
        let ledger = Ledger::new(1);
        ledger.identify(0, &"lamp".into());
        ledger.arrived("lamp", r#"{"celsius":20.0,"n":0}"#);
        for payload in ["", "{}", r#"{"n":-1}"#, r#"{"n":99999999999}"#, r#"{"n":"x"}"#] {
            ledger.acknowledged(0, payload);
            ledger.arrived("stranger", payload);
        }
        assert_eq!(ledger.delivery(), Delivery { acknowledged: 0, arrived: 1, lost: 0 });
    }
}
