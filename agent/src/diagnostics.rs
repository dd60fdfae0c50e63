//! What an owner may want to know of a device that has trouble: what state it is in, how often it connected, what went wrong
//! last. Counts and phrases, and knows whether that was told since it changed; sends nothing.

use crate::buffer::{Buffer, BufferFull};
use crate::lifecycle::Ending;
use crate::mqtt::reason::ReasonCode;
use crate::tls::TlsError;
use core::fmt::Write as _;

/// The member at its longest: a state, two numbers of ten digits and an error.
const MAX_MEMBER: usize = 128;

/// Counters since the start of the device, and the last thing that nobody on the device wanted.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    connections: u32,
    failures: u32,
    /// A word, empty at first, and the hub's reason code if it gave one.
    last_error: (&'static str, Option<ReasonCode>),
    is_restricted: bool,
    has_broken_storage: bool,
    has_news: bool,
}

impl Diagnostics {
    pub(crate) const fn new() -> Self {
        Self {
            connections: 0,
            failures: 0,
            last_error: ("", None),
            is_restricted: false,
            has_broken_storage: false,
            has_news: false,
        }
    }

    /// The hub accepted the device.
    pub(crate) fn connected(&mut self) {
        self.connections = self.connections.saturating_add(1);
        self.is_restricted = false;
    }

    /// The hub answered a subscription: `refused` is why it refused, if it did.
    pub(crate) fn subscribed(&mut self, refused: Option<ReasonCode>) {
        self.has_news |= self.is_restricted != refused.is_some();
        self.is_restricted = refused.is_some();
        if refused.is_some() {
            self.note("subscribe-refused", refused);
        }
    }

    /// The hub refused a publish.
    pub(crate) fn publish_refused(&mut self, reason_code: ReasonCode) {
        self.note("publish-refused", Some(reason_code));
    }

    /// Storage was asked for something, and worked or did not.
    pub(crate) fn storage(&mut self, works: bool) {
        self.has_news |= self.has_broken_storage == works;
        self.has_broken_storage = !works;
        if !works {
            self.note("storage-failed", None);
        }
    }

    /// A connection ended, or none came about.
    pub(crate) fn ended(&mut self, ending: &Ending) {
        let (word, code) = match ending {
            Ending::ConnectFailed(_) => ("unreachable", None),
            Ending::Tls(error) if error.is_broken_connection() => ("connection-lost", None),
            Ending::BadPacket(_) | Ending::Tls(TlsError::UnexpectedMessage) => ("bad-packet", None),
            Ending::Tls(_) => ("not-the-hub", None),
            Ending::TimedOut(_) => ("timed-out", None),
            Ending::Refused { reason_code, .. } => ("refused", Some(*reason_code)),
            Ending::Disconnected { reason_code, .. } => ("disconnected", Some(*reason_code)),
            Ending::BadAuthentication => ("bad-authentication", None),
            Ending::Assertion(_) => ("no-assertion", None),
            Ending::Left(_) => return,
        };
        self.failures = self.failures.saturating_add(1);
        self.note(word, code);
    }

    fn note(&mut self, word: &'static str, code: Option<ReasonCode>) {
        self.has_news |= self.last_error != (word, code);
        self.last_error = (word, code);
    }

    /// Whether state or last error changed since they were told.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news
    }

    /// They are told now.
    pub(crate) fn told(&mut self) {
        self.has_news = false;
    }

    /// What hinders the device now. A connection is there, else nobody could be told.
    fn state(&self) -> &'static str {
        match self {
            Self { has_broken_storage: true, .. } => "storage-failed",
            Self { is_restricted: true, .. } => "restricted",
            Self { .. } => "online",
        }
    }

    /// Adds the member `agent` to the JSON object in `about`, or leaves it as it is when it does not fit.
    pub(crate) fn add_to(&self, about: &mut Buffer<'_>) {
        let Some(open) = about.written().trim_ascii_end().strip_suffix(b"}").map(<[u8]>::trim_ascii_end) else { return };
        let (end, is_empty) = (open.len(), open == b"{");
        let mut bytes = [0; MAX_MEMBER];
        let mut member = Buffer::new(&mut bytes);
        if self.write(is_empty, &mut member).is_ok() && about.has_room_for(end, member.len()) {
            about.truncate(end);
            // There is room.
            let _ = about.push(member.written());
        }
    }

    fn write(&self, is_first: bool, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let Self { connections, failures, last_error: (word, code), .. } = self;
        let (comma, state) = (if is_first { "" } else { "," }, self.state());
        write!(out, r#"{comma}"agent":{{"state":"{state}","connections":{connections},"failures":{failures}"#)?;
        if !word.is_empty() {
            write!(out, r#","last_error":"{word}"#)?;
            if let Some(ReasonCode(code)) = code {
                write!(out, " 0x{code:02X}")?;
            }
            out.push(b"\"")?;
        }
        out.push(b"}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::ConnectFailed;
    use std::borrow::ToOwned as _;

    fn added<const N: usize>(diagnostics: &Diagnostics, about: &str) -> std::string::String {
        let mut bytes = [0; N];
        let mut out = Buffer::new(&mut bytes);
        out.push(about.as_bytes()).expect("fits");
        diagnostics.add_to(&mut out);
        core::str::from_utf8(out.written()).expect("text").into()
    }

    #[test]
    fn an_owner_reads_what_ended_the_last_connection_and_how_often_that_happened() {
        let mut diagnostics = Diagnostics::new();
        diagnostics.connected();
        assert_eq!(added::<99>(&diagnostics, "{}"), r#"{"agent":{"state":"online","connections":1,"failures":0}}"#);
        diagnostics.ended(&Ending::ConnectFailed(ConnectFailed::Refused));
        diagnostics.ended(&Ending::disconnected(ReasonCode::SESSION_TAKEN_OVER, "taken over"));
        diagnostics.ended(&Ending::Left(crate::Farewell::Clean));
        diagnostics.connected();
        let about = added::<200>(&diagnostics, "{\"model\":\"lamp\"} \n");
        let expected =
            r#"{"model":"lamp","agent":{"state":"online","connections":2,"failures":2,"last_error":"disconnected 0x8E"}}"#;
        assert_eq!(about, expected);
    }

    #[test]
    fn what_changes_is_news_until_it_is_told_and_what_stays_is_none() {
        let mut diagnostics = Diagnostics::new();
        let mut is_news = |change: fn(&mut Diagnostics)| {
            change(&mut diagnostics);
            let has_news = diagnostics.has_news();
            diagnostics.told();
            (has_news, added::<200>(&diagnostics, "{}").split('"').nth(5).expect("a state").to_owned())
        };
        let news = |is_news: bool, state: &str| (is_news, state.to_owned());
        assert_eq!(is_news(Diagnostics::connected), news(false, "online"));
        assert_eq!(is_news(|it| it.subscribed(None)), news(false, "online"));
        assert_eq!(is_news(|it| it.subscribed(Some(ReasonCode::NOT_AUTHORIZED))), news(true, "restricted"));
        assert_eq!(is_news(|it| it.subscribed(Some(ReasonCode::NOT_AUTHORIZED))), news(false, "restricted"));
        assert_eq!(is_news(|it| it.storage(false)), news(true, "storage-failed"));
        assert_eq!(is_news(|it| it.storage(false)), news(false, "storage-failed"));
        assert_eq!(is_news(|it| it.storage(true)), news(true, "restricted"));
        assert_eq!(is_news(|it| it.storage(true)), news(false, "restricted"));
        assert_eq!(is_news(|it| it.subscribed(None)), news(true, "online"));
        assert_eq!(is_news(|it| it.publish_refused(ReasonCode::NOT_AUTHORIZED)), news(true, "online"));
        assert_eq!(is_news(|it| it.publish_refused(ReasonCode::NOT_AUTHORIZED)), news(false, "online"));
        assert_eq!(is_news(|it| it.publish_refused(ReasonCode::QUOTA_EXCEEDED)), news(true, "online"));
    }

    #[test]
    fn what_does_not_fit_or_is_no_object_stays_as_it_is() {
        let diagnostics = Diagnostics::new();
        assert_eq!(added::<30>(&diagnostics, r#"{"model":"lamp"}"#), r#"{"model":"lamp"}"#);
        assert_eq!(added::<99>(&diagnostics, "lamp"), "lamp");
    }

    #[test]
    fn the_longest_member_fits() {
        let mut diagnostics = Diagnostics { connections: u32::MAX, failures: u32::MAX, ..Diagnostics::new() };
        diagnostics.storage(false);
        diagnostics.subscribed(Some(ReasonCode::NOT_AUTHORIZED));
        assert!(added::<200>(&diagnostics, r#"{"model":"lamp"}"#).contains("\"subscribe-refused 0x87\"}"));
    }
}
