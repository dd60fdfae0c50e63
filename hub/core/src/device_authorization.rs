//! Asking from a device without a keyboard, or from another machine: RFC 8628. Codes in, a grant out.
//!
//! Owns who waits, under which code, and how often they may ask. Kept in memory only: whoever waits while the hub restarts
//! asks anew. Knows no clock and no randomness, nor what is granted.

use crate::{Seconds, UnixTime, secret::SecretHash};
use base64ct::{Base64UrlUnpadded, Encoding};
use ring::digest;
use std::{collections::BTreeMap, fmt};

/// How long somebody may wait for an approval.
pub const WAIT: Seconds = Seconds::minutes(10);
/// How often a waiting client may ask (RFC 8628 section 3.5: 5 s, and 5 more each time it was too fast).
pub const INTERVAL: Seconds = Seconds(5);
/// Most that wait at a time: a person approves one by one, and more is a flood.
pub const MAX_WAITING: usize = 64;
/// Most whose answer is kept beside them; at the bound the one that ends first makes room.
pub const MAX_ANSWERED: usize = 64;
/// How often a grant is handed out: an answer may get lost on its way, eight are lost by something else.
pub const MAX_HAND_OUTS: u8 = 8;

/// RFC 8628 section 6.1: consonants only, none that looks like another, none that makes a word.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// What a person compares and types: eight letters, shown as `WDJB-MJHT`; 34 bits, guarded by a limit on guesses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserCode([u8; 8]);

/// Those who wait. `W` is what they want, `G` what they are granted.
#[derive(Debug)]
pub struct DeviceAuthorizations<W, G> {
    waiting_by_device_code: BTreeMap<String, Waiting<W, G>>,
}

#[derive(Debug)]
struct Waiting<W, G> {
    user_code: UserCode,
    /// Whether it is the code that a person compares; until then nobody is shown it.
    is_comparable: bool,
    wanted: W,
    expires_at: UnixTime,
    interval: Seconds,
    next_poll_at: UnixTime,
    answer: Answer<G>,
}

#[derive(Debug)]
enum Answer<G> {
    None,
    Granted { grant: G, hand_outs_left: u8 },
    Denied,
}

/// What a poll is answered (RFC 8628 section 3.5).
#[derive(Debug, PartialEq, Eq)]
pub enum Poll<G> {
    /// `authorization_pending`.
    Pending,
    /// `slow_down`: too soon; the interval has grown.
    SlowDown {
        /// Wait this long before asking again.
        interval: Seconds,
    },
    /// `access_denied`.
    Denied,
    /// `expired_token`: too late, taken already, or never asked.
    Expired,
    /// [`MAX_HAND_OUTS`] times; whether it was used meanwhile is for the one to know who granted it.
    Granted(G),
}

/// Why nobody can be put on the list now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotWait {
    /// [`MAX_WAITING`].
    #[error("{MAX_WAITING} requests wait for approval already; try again later")]
    TooMany,
    /// Another waits under the same code: once in 25 thousand million.
    #[error("the code is taken; ask again")]
    CodeTaken,
}

impl UserCode {
    /// A code from randomness; the bias of 16 bits over 20 letters is under one in three thousand.
    #[must_use]
    pub fn from_random(randomness: [u8; 16]) -> Self {
        let mut letters = [0; 8];
        for (letter, pair) in letters.iter_mut().zip(randomness.chunks_exact(2)) {
            let number = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
            *letter = ALPHABET[number % ALPHABET.len()];
        }
        Self(letters)
    }

    /// A code as a person types it: any case, with or without the hyphen or spaces.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters: Vec<u8> =
            text.bytes().filter(|byte| !b"- ".contains(byte)).map(|byte| byte.to_ascii_uppercase()).take(9).collect();
        let letters: [u8; 8] = letters.try_into().ok()?;
        letters.iter().all(|letter| ALPHABET.contains(letter)).then_some(Self(letters))
    }
}

/// What a device joins by without knowing the home's CA: it commits to a share of the code before it sees the hub's, so that
/// nobody in the middle can choose keys until two codes are the same. All that a person compares is in [`Self::code`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCommitment([u8; 32]);

/// The device's share of the code: 16 random bytes, told once the hub has told its own.
pub type JoinNonce = [u8; 16];

impl JoinCommitment {
    /// A commitment as the device sent it: SHA-256 of its nonce, base64url without padding.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(base64url(text)?))
    }

    /// The code that a device and the hub both show if nobody stands between them: of the CA that the device saw, the key that
    /// the hub was sent, and both shares. `None` for a nonce that was not committed to.
    ///
    /// `point` is the key as X and Y of P-256, 64 bytes; `hub_share` the code that the hub answered with.
    #[must_use]
    pub fn code(&self, ca_sha256: &[u8; 32], point: &[u8], nonce: &JoinNonce, hub_share: &UserCode) -> Option<UserCode> {
        let sha256 = |parts: &[&[u8]]| digest::digest(&digest::SHA256, &parts.concat());
        if sha256(&[nonce]).as_ref() != self.0 {
            return None;
        }
        let digest = sha256(&[b"hearthkey join 1", ca_sha256, point, nonce, &hub_share.0]);
        Some(UserCode::from_random(digest.as_ref()[..16].try_into().expect("half of 32 bytes")))
    }
}

/// Exactly `N` bytes, base64url without padding.
#[must_use]
pub fn base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let decoded = Base64UrlUnpadded::decode(text, &mut bytes).ok()?;
    (decoded.len() == N).then_some(bytes)
}

impl<W, G> Default for DeviceAuthorizations<W, G> {
    fn default() -> Self {
        Self { waiting_by_device_code: BTreeMap::new() }
    }
}

impl<W, G: Clone> DeviceAuthorizations<W, G> {
    /// Puts somebody on the list until [`WAIT`] is over.
    ///
    /// # Errors
    /// [`CannotWait`].
    pub fn start(&mut self, device_code: &SecretHash, user_code: UserCode, wanted: W, now: UnixTime) -> Result<(), CannotWait> {
        self.start_as(device_code, user_code, true, wanted, now)
    }

    /// As [`Self::start`], under a code that is only a share of the one to compare: nobody is shown it, and nobody can answer
    /// it, until [`Self::settle`].
    ///
    /// # Errors
    /// [`CannotWait`].
    pub fn start_unsettled(
        &mut self,
        device_code: &SecretHash,
        share: UserCode,
        wanted: W,
        now: UnixTime,
    ) -> Result<(), CannotWait> {
        self.start_as(device_code, share, false, wanted, now)
    }

    fn start_as(
        &mut self,
        device_code: &SecretHash,
        user_code: UserCode,
        is_comparable: bool,
        wanted: W,
        now: UnixTime,
    ) -> Result<(), CannotWait> {
        self.waiting_by_device_code.retain(|_, waiting| now < waiting.expires_at);
        let answered = |waiting: &Waiting<W, G>| !matches!(waiting.answer, Answer::None);
        let ends = self.waiting_by_device_code.iter().filter(|(_, waiting)| answered(waiting));
        let (count, first) = (ends.clone().count(), ends.min_by_key(|(_, waiting)| waiting.expires_at));
        if self.waiting_by_device_code.len() - count >= MAX_WAITING {
            return Err(CannotWait::TooMany);
        }
        if let Some(first) = first.map(|(code, _)| code.clone()).filter(|_| count >= MAX_ANSWERED) {
            self.waiting_by_device_code.remove(&first);
        }
        if self.waiting_by_device_code.values().any(|waiting| waiting.user_code == user_code) {
            return Err(CannotWait::CodeTaken);
        }
        let waiting = Waiting {
            user_code,
            is_comparable,
            wanted,
            expires_at: now.plus(WAIT),
            interval: INTERVAL,
            next_poll_at: now,
            answer: Answer::None,
        };
        self.waiting_by_device_code.insert(device_code.to_hex(), waiting);
        Ok(())
    }

    /// Tells the code to compare of one who waits under a share of it, as soon as it is known. True from then on: a code is
    /// settled once. False if nobody waits so, or another under that code.
    pub fn settle(
        &mut self,
        device_code: &SecretHash,
        code: impl FnOnce(&UserCode, &W) -> Option<UserCode>,
        now: UnixTime,
    ) -> bool {
        let key = device_code.to_hex();
        let code = match self.waiting_by_device_code.get(&key) {
            Some(waiting) if waiting.is_comparable => return true,
            Some(waiting) if now < waiting.expires_at => code(&waiting.user_code, &waiting.wanted),
            _ => None,
        };
        let Some(code) = code.filter(|code| self.waiting_by_device_code.values().all(|other| other.user_code != *code)) else {
            return false;
        };
        if let Some(waiting) = self.waiting_by_device_code.get_mut(&key) {
            (waiting.user_code, waiting.is_comparable) = (code, true);
        }
        true
    }

    /// What all want who wait for an answer, whether a person can compare their codes yet or not.
    pub fn unanswered(&self, now: UnixTime) -> impl Iterator<Item = &W> {
        let open = move |waiting: &&Waiting<W, G>| now < waiting.expires_at && matches!(waiting.answer, Answer::None);
        self.waiting_by_device_code.values().filter(open).map(|waiting| &waiting.wanted)
    }

    /// Those who wait for an answer under a code to compare, with their codes and how long they wait.
    pub fn waiting(&self, now: UnixTime) -> impl Iterator<Item = (&UserCode, &W, UnixTime)> {
        let open = move |waiting: &&Waiting<W, G>| {
            now < waiting.expires_at && waiting.is_comparable && matches!(waiting.answer, Answer::None)
        };
        self.waiting_by_device_code.values().filter(open).map(|waiting| (&waiting.user_code, &waiting.wanted, waiting.expires_at))
    }

    /// What the one wants who waits under a code.
    #[must_use]
    pub fn wanted(&self, user_code: &UserCode, now: UnixTime) -> Option<&W> {
        self.waiting(now).find(|(code, ..)| *code == user_code).map(|(_, wanted, _)| wanted)
    }

    /// What the one wants who asks with a device code, answered or not.
    #[must_use]
    pub fn wanted_by(&self, device_code: &SecretHash, now: UnixTime) -> Option<&W> {
        let waiting = self.waiting_by_device_code.get(&device_code.to_hex()).filter(|waiting| now < waiting.expires_at);
        waiting.map(|waiting| &waiting.wanted)
    }

    /// Answers the one who waits under a code: a grant, or `None` for a denial. False if nobody waits.
    pub fn answer(&mut self, user_code: &UserCode, grant: Option<G>, now: UnixTime) -> bool {
        let open = |waiting: &&mut Waiting<W, G>| {
            let is_open = now < waiting.expires_at && waiting.is_comparable && matches!(waiting.answer, Answer::None);
            is_open && waiting.user_code == *user_code
        };
        match self.waiting_by_device_code.values_mut().find(open) {
            Some(waiting) => {
                waiting.answer = grant.map_or(Answer::Denied, |grant| Answer::Granted { grant, hand_outs_left: MAX_HAND_OUTS });
                true
            }
            None => false,
        }
    }

    /// Asks for the answer. Who has one may ask for it again: it may have got lost.
    pub fn poll(&mut self, device_code: &SecretHash, now: UnixTime) -> Poll<G> {
        let waiting = self.waiting_by_device_code.get_mut(&device_code.to_hex());
        let Some(waiting) = waiting.filter(|waiting| now < waiting.expires_at) else { return Poll::Expired };
        match &mut waiting.answer {
            Answer::Granted { hand_outs_left: 0, .. } => Poll::Expired,
            Answer::Granted { grant, hand_outs_left } => {
                *hand_outs_left -= 1;
                Poll::Granted(grant.clone())
            }
            Answer::Denied => Poll::Denied,
            Answer::None if now < waiting.next_poll_at => {
                waiting.interval = Seconds(waiting.interval.0 + INTERVAL.0);
                waiting.next_poll_at = now.plus(waiting.interval);
                Poll::SlowDown { interval: waiting.interval }
            }
            Answer::None => {
                waiting.next_poll_at = now.plus(waiting.interval);
                Poll::Pending
            }
        }
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, letter) in self.0.iter().enumerate() {
            let separator = if place == 4 { "-" } else { "" };
            write!(f, "{separator}{}", char::from(*letter))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Pepper;

    const NOW: UnixTime = UnixTime(1_780_000_000);

    fn hash(text: &str) -> SecretHash {
        Pepper::new([0; 32]).hash(text.as_bytes())
    }

    fn code(seed: u8) -> UserCode {
        UserCode::from_random([seed; 16])
    }

    #[test]
    fn who_is_approved_gets_the_grant_until_it_must_have_arrived() {
        let mut list = DeviceAuthorizations::<&str, &str>::default();
        list.start(&hash("d"), code(1), "join", NOW).expect("room");
        assert_eq!(list.poll(&hash("d"), NOW), Poll::Pending);
        assert_eq!(list.wanted(&code(1), NOW), Some(&"join"));
        assert_eq!(list.wanted_by(&hash("d"), NOW), Some(&"join"));
        assert_eq!((list.wanted_by(&hash("other"), NOW), list.wanted_by(&hash("d"), NOW.plus(WAIT))), (None, None));
        assert_eq!(list.waiting(NOW).collect::<Vec<_>>(), [(&code(1), &"join", NOW.plus(WAIT))]);
        assert!(list.answer(&code(1), Some("granted"), NOW));
        assert!(!list.answer(&code(1), None, NOW), "one answer");
        let later = NOW.plus(INTERVAL);
        assert_eq!(list.poll(&hash("other"), later), Poll::Expired);
        for _ in 0..MAX_HAND_OUTS {
            assert_eq!(list.poll(&hash("d"), later), Poll::Granted("granted"), "the answer before may have got lost");
        }
        assert_eq!(list.poll(&hash("d"), later), Poll::Expired);
    }

    #[test]
    fn a_share_is_no_code_and_nobody_can_answer_it() {
        let mut list = DeviceAuthorizations::<&str, &str>::default();
        list.start_unsettled(&hash("a"), code(1), "join", NOW).expect("room");
        list.start(&hash("b"), code(2), "login", NOW).expect("room");
        assert_eq!(list.waiting(NOW).map(|(_, wanted, _)| *wanted).collect::<Vec<_>>(), ["login"]);
        assert_eq!(list.unanswered(NOW).count(), 2);
        assert!(!list.answer(&code(1), Some("granted"), NOW));
        assert!(!list.settle(&hash("a"), |_, _| None, NOW), "no code");
        assert!(!list.settle(&hash("a"), |_, _| Some(code(2)), NOW), "the code of another");
        assert!(!list.settle(&hash("c"), |_, _| Some(code(3)), NOW), "nobody");
        assert!(!list.settle(&hash("a"), |_, _| Some(code(3)), NOW.plus(WAIT)), "too late");
        let told = |share: &UserCode, wanted: &&str| ((share, *wanted) == (&code(1), "join")).then(|| code(3));
        assert!(list.settle(&hash("a"), told, NOW));
        assert!(list.settle(&hash("a"), |_, _| Some(code(4)), NOW), "once");
        assert_eq!((list.wanted(&code(3), NOW), list.wanted(&code(4), NOW)), (Some(&"join"), None));
        assert!(list.answer(&code(3), Some("granted"), NOW));
        assert_eq!(list.poll(&hash("a"), NOW), Poll::Granted("granted"));
    }

    #[test]
    fn the_code_to_compare_is_another_whatever_a_stranger_in_the_middle_changes() {
        let commitment = |nonce: &[u8]| JoinCommitment(digest::digest(&digest::SHA256, nonce).as_ref().try_into().expect("32"));
        let (ca, point, nonce) = ([1; 32], [2; 64], [3; 16]);
        let told = commitment(&nonce).code(&ca, &point, &nonce, &code(4));
        assert!(told.is_some());
        assert_ne!(commitment(&nonce).code(&[9; 32], &point, &nonce, &code(4)), told, "another CA");
        assert_ne!(commitment(&nonce).code(&ca, &[9; 64], &nonce, &code(4)), told, "another key");
        assert_ne!(commitment(&nonce).code(&ca, &point, &nonce, &code(5)), told, "another share of the hub");
        assert_ne!(commitment(&[9; 16]).code(&ca, &point, &[9; 16], &code(4)), told, "another share of the device");
        assert_eq!(commitment(&nonce).code(&ca, &point, &[9; 16], &code(4)), None, "not what was committed to");
        for bad in ["", "AAAA", &"A".repeat(42), &"A".repeat(44), &"=".repeat(43)] {
            assert_eq!(JoinCommitment::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_is_denied_or_too_late_gets_nothing() {
        let mut list = DeviceAuthorizations::<(), ()>::default();
        list.start(&hash("a"), code(1), (), NOW).expect("room");
        list.start(&hash("b"), code(2), (), NOW).expect("room");
        assert!(list.answer(&code(1), None, NOW));
        assert_eq!(list.poll(&hash("a"), NOW), Poll::Denied);
        assert_eq!(list.poll(&hash("a"), NOW.plus(WAIT)), Poll::Expired);
        assert!(!list.answer(&code(2), Some(()), NOW.plus(WAIT)));
        assert_eq!(list.poll(&hash("b"), NOW.plus(WAIT)), Poll::Expired);
    }

    #[test]
    fn who_asks_too_often_must_wait_longer_each_time() {
        let mut list = DeviceAuthorizations::<(), ()>::default();
        list.start(&hash("a"), code(1), (), NOW).expect("room");
        assert_eq!(list.poll(&hash("a"), NOW), Poll::Pending);
        assert_eq!(list.poll(&hash("a"), NOW.plus(Seconds(4))), Poll::SlowDown { interval: Seconds(10) });
        assert_eq!(list.poll(&hash("a"), NOW.plus(Seconds(9))), Poll::SlowDown { interval: Seconds(15) });
        assert_eq!(list.poll(&hash("a"), NOW.plus(Seconds(24))), Poll::Pending);
    }

    /// Another code for each number below 400.
    fn user_code(number: usize) -> UserCode {
        let mut randomness = [0; 16];
        randomness[1] = u8::try_from(number % 20).expect("small");
        randomness[3] = u8::try_from(number / 20).expect("small");
        UserCode::from_random(randomness)
    }

    #[test]
    fn the_list_is_bounded_and_empties_itself() {
        let mut list = DeviceAuthorizations::<(), ()>::default();
        for number in 0..MAX_WAITING {
            list.start(&hash(&number.to_string()), user_code(number), (), NOW).expect("room");
        }
        assert_eq!(list.start(&hash("x"), code(9), (), NOW), Err(CannotWait::TooMany));
        assert_eq!(list.start(&hash("x"), code(9), (), NOW.plus(WAIT)), Ok(()));
        assert_eq!(list.waiting(NOW.plus(WAIT)).count(), 1);
    }

    #[test]
    fn those_who_have_their_answer_leave_room_for_others() {
        let mut list = DeviceAuthorizations::<(), ()>::default();
        for number in 0..3 * MAX_ANSWERED {
            let now = NOW.plus(Seconds(u64::try_from(number).expect("small")));
            assert_eq!(list.start(&hash(&number.to_string()), user_code(number), (), now), Ok(()));
            assert!(list.answer(&user_code(number), Some(()), now));
            assert!(list.waiting_by_device_code.len() <= MAX_ANSWERED + 1);
        }
        let now = NOW.plus(Seconds(3 * MAX_ANSWERED as u64));
        assert_eq!(list.poll(&hash("0"), now), Poll::Expired, "the oldest made room");
        assert_eq!(list.poll(&hash(&(3 * MAX_ANSWERED - 1).to_string()), now), Poll::Granted(()));
    }

    #[test]
    fn a_code_reads_back_however_it_is_typed() {
        let code = UserCode::from_random([3, 200, 7, 9, 1, 0, 255, 255, 4, 4, 9, 13, 77, 1, 2, 3]);
        let shown = code.to_string();
        assert_eq!(UserCode::parse(&shown), Some(code.clone()));
        assert_eq!(UserCode::parse(&shown.to_lowercase().replace('-', " ")), Some(code));
        for bad in ["", "AEIO-UYAA", "BCDF-GHJ", "BCDF-GHJKL", "ÄÄÄÄ"] {
            assert_eq!(UserCode::parse(bad), None, "{bad}");
        }
    }
}
