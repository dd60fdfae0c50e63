//! What an owner may want to know of a device that had trouble: how often it connected, what ended its connections.
//! Counts and phrases; sends nothing.

use crate::buffer::{Buffer, BufferFull};
use crate::lifecycle::Ending;
use crate::tls::TlsError;
use core::fmt::Write as _;
use heapless::String;

/// The longest name of an ending: a word and a reason code.
const MAX_ENDING: usize = 24;

/// The member at its longest: two numbers of ten digits and an ending.
const MAX_MEMBER: usize = 112;

/// Counters since the start of the device, and the last ending that nobody on the device wanted.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    connections: u32,
    failures: u32,
    last_error: String<MAX_ENDING>,
}

impl Diagnostics {
    pub(crate) const fn new() -> Self {
        Self { connections: 0, failures: 0, last_error: String::new() }
    }

    /// The hub accepted the device.
    pub(crate) fn connected(&mut self) {
        self.connections = self.connections.saturating_add(1);
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
        self.last_error.clear();
        // The longest word and a code fit.
        let _ = self.last_error.push_str(word);
        if let Some(code) = code {
            let _ = write!(self.last_error, " 0x{:02X}", code.0);
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
        let Self { connections, failures, last_error } = self;
        let comma = if is_first { "" } else { "," };
        write!(out, r#"{comma}"agent":{{"connections":{connections},"failures":{failures}"#)?;
        if !last_error.is_empty() {
            write!(out, r#","last_error":"{last_error}""#)?;
        }
        out.push(b"}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::reason::ReasonCode;
    use crate::platform::ConnectFailed;

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
        assert_eq!(added::<99>(&diagnostics, "{}"), r#"{"agent":{"connections":1,"failures":0}}"#);
        diagnostics.ended(&Ending::ConnectFailed(ConnectFailed::Refused));
        diagnostics.ended(&Ending::disconnected(ReasonCode::SESSION_TAKEN_OVER, "taken over"));
        diagnostics.ended(&Ending::Left(crate::Farewell::Clean));
        diagnostics.connected();
        let about = added::<200>(&diagnostics, "{\"model\":\"lamp\"} \n");
        let expected = r#"{"model":"lamp","agent":{"connections":2,"failures":2,"last_error":"disconnected 0x8E"}}"#;
        assert_eq!(about, expected);
    }

    #[test]
    fn what_does_not_fit_or_is_no_object_stays_as_it_is() {
        let diagnostics = Diagnostics::new();
        assert_eq!(added::<30>(&diagnostics, r#"{"model":"lamp"}"#), r#"{"model":"lamp"}"#);
        assert_eq!(added::<99>(&diagnostics, "lamp"), "lamp");
    }

    #[test]
    fn the_longest_member_fits() {
        let mut diagnostics = Diagnostics { connections: u32::MAX, failures: u32::MAX, last_error: String::new() };
        diagnostics.ended(&Ending::disconnected(ReasonCode::NOT_AUTHORIZED, ""));
        assert!(added::<200>(&diagnostics, r#"{"model":"lamp"}"#).contains("0x87"));
    }
}
