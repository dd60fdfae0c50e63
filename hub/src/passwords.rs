//! Passwords of people: argon2id, off the async threads, a few at a time.
//!
//! Machine secrets are random and need no such thing (`hearthkey_core::secret`).

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use hearthkey_core::registry::PasswordHash;
use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Most hashes at a time: each takes 19 MiB and some 30 ms of a core.
pub const MAX_CONCURRENT_HASHES: usize = 2;
/// Most hashes that wait; a further login is told to come back.
pub const MAX_WAITING_HASHES: usize = 16;
/// Shortest password, in characters (NIST SP 800-63B section 3.1.1.2 wants 15 for a single factor, 8 at least).
pub const MIN_PASSWORD_CHARACTERS: usize = 10;
/// Longest password, in bytes: bounds the work before the hash.
pub const MAX_PASSWORD_BYTES: usize = 256;

/// Hashes and verifies passwords.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

/// Why a password was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long.
    #[error("a password has at least {MIN_PASSWORD_CHARACTERS} characters and at most {MAX_PASSWORD_BYTES} bytes")]
    Length,
    /// [`MAX_WAITING_HASHES`].
    #[error("too many logins at the same time; try again in a moment")]
    Busy,
}

/// The hash of a password that nobody has: verified for unknown users, so that they take as long.
static NOBODYS: LazyLock<String> = LazyLock::new(|| hash_now(&crate::entropy::unique_name()));

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES)), queue: Arc::new(Semaphore::new(MAX_WAITING_HASHES)) }
    }
}

impl Passwords {
    /// Hashes a new password.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<PasswordHash, PasswordError> {
        if password.chars().count() < MIN_PASSWORD_CHARACTERS || password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::Length);
        }
        self.work(move || PasswordHash::new(hash_now(&password))).await
    }

    /// Whether a password is the one of a hash; `None` for a user that does not exist or has no password.
    ///
    /// # Errors
    /// [`PasswordError::Busy`].
    pub async fn verify(&self, password: Zeroizing<String>, hash: Option<PasswordHash>) -> Result<bool, PasswordError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        self.work(move || {
            let phc = hash.as_ref().map_or(NOBODYS.as_str(), PasswordHash::as_phc);
            let fits = argon2::PasswordHash::new(phc)
                .is_ok_and(|phc| Argon2::default().verify_password(password.as_bytes(), &phc).is_ok());
            fits && hash.is_some()
        })
        .await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        done.await.map_err(|_| PasswordError::Busy)
    }
}

/// argon2id with 19 MiB, two passes, one lane: the OWASP minimum, and the crate's default.
fn hash_now(password: &str) -> String {
    let hashed = Argon2::default().hash_password(password.as_bytes());
    hashed.expect("the parameters are the crate's own").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(password: &str) -> Zeroizing<String> {
        Zeroizing::new(password.to_owned())
    }

    #[tokio::test]
    async fn the_right_password_fits_and_no_other() {
        let passwords = Passwords::default();
        let hash = passwords.hash(text("correct horse")).await.expect("long enough");
        assert!(hash.as_phc().starts_with("$argon2id$"));
        assert_eq!(passwords.verify(text("correct horse"), Some(hash.clone())).await, Ok(true));
        assert_eq!(passwords.verify(text("correct horsf"), Some(hash)).await, Ok(false));
        assert_eq!(passwords.verify(text("correct horse"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn short_and_endless_passwords_are_refused() {
        let passwords = Passwords::default();
        assert_eq!(passwords.hash(text("short")).await, Err(PasswordError::Length));
        assert_eq!(passwords.hash(text(&"x".repeat(MAX_PASSWORD_BYTES + 1))).await, Err(PasswordError::Length));
    }

    #[tokio::test]
    async fn a_flood_of_logins_is_turned_away_at_a_bound() {
        let passwords = Passwords::default();
        let tries = (0..MAX_WAITING_HASHES * 3).map(|_| passwords.verify(text("anything at all"), None));
        let mut answers = std::pin::pin!(futures_util::future::join_all(tries));
        // Nobody's turn ends before all have asked.
        let turns = passwords.turns.acquire_many(MAX_CONCURRENT_HASHES as u32).await.expect("open");
        assert!(futures_util::poll!(&mut answers).is_pending());
        drop(turns);
        let answers = answers.await;
        let busy = answers.iter().filter(|answer| **answer == Err(PasswordError::Busy)).count();
        assert_eq!(busy, MAX_WAITING_HASHES * 2);
    }
}
