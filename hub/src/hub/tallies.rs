//! What the hub counts, for `/metrics`. Each count has as many labels as an enum has variants: no peer adds one.

use hearthkey_core::oauth::OAuthError;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Tallies {
    tokens_issued: AtomicU64,
    token_refusals_by_error: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tallies {
    /// Counts the answer to a token request, by HTTP or by MQTT.
    pub(super) fn count_token(&self, refused: Option<&OAuthError>) {
        match refused {
            None => {
                self.tokens_issued.fetch_add(1, Ordering::Relaxed);
            }
            Some(error) => {
                let mut refusals = self.token_refusals_by_error.lock().unwrap_or_else(PoisonError::into_inner);
                *refusals.entry(error.code.as_str()).or_default() += 1;
            }
        }
    }

    /// Access tokens issued.
    #[must_use]
    pub fn tokens_issued(&self) -> u64 {
        self.tokens_issued.load(Ordering::Relaxed)
    }

    /// Token requests refused, by the error code of RFC 6749 section 5.2.
    #[must_use]
    pub fn token_refusals(&self) -> BTreeMap<&'static str, u64> {
        self.token_refusals_by_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
