//! Waiting for what must happen. Knows nothing of what is waited for.
//!
//! Nothing here measures: the bound only turns what would hang into a failure.

use std::future::Future;
use std::time::Duration;

/// How long what must happen may take on a machine that does much else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at a condition that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The future's outcome.
///
/// # Panics
/// When it does not come; `what` tells what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

/// What `look` sees, once it sees something.
///
/// # Panics
/// When it never does; `what` tells what was waited for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await
}
