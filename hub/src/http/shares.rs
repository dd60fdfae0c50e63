//! How many of something there may be at once, in all and for each who has some. Counts and decides; knows nothing of what.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// What is given out, by holder.
#[derive(Debug)]
pub(super) struct Shares<K> {
    counts: Mutex<HashMap<K, usize>>,
    most: usize,
    most_each: usize,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(super) struct Share<K: Hash + Eq> {
    shares: Arc<Shares<K>>,
    holder: K,
}

/// None is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoneLeft {
    /// The holder has as many as one may have.
    ForHolder,
    /// All are taken.
    AtAll,
}

impl<K> Shares<K> {
    pub(super) fn new(most: usize, most_each: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::new(HashMap::new()), most, most_each })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// Takes one.
    ///
    /// # Errors
    /// [`NoneLeft`].
    pub(super) fn take(self: &Arc<Self>, holder: K) -> Result<Share<K>, NoneLeft> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.get(&holder).copied().unwrap_or(0) >= self.most_each {
            return Err(NoneLeft::ForHolder);
        }
        if counts.values().sum::<usize>() >= self.most {
            return Err(NoneLeft::AtAll);
        }
        *counts.entry(holder.clone()).or_default() += 1;
        Ok(Share { shares: self.clone(), holder })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut counts = self.shares.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_some_and_nobody_has_all() {
        let shares = Shares::new(4, 2);
        let mine: Vec<_> = (0..2).map(|_| shares.take("me").expect("left")).collect();
        assert_eq!(shares.take("me").err(), Some(NoneLeft::ForHolder));
        let others: Vec<_> = ["you", "them"].into_iter().map(|holder| shares.take(holder).expect("left")).collect();
        assert_eq!(shares.take("you").err(), Some(NoneLeft::AtAll));
        assert_eq!(shares.taken(), 4);
        drop(mine);
        assert!(shares.take("you").is_ok());
        drop(others);
        assert!(shares.counts.lock().expect("no panic").is_empty(), "who has none is forgotten");
    }
}
