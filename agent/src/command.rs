//! Decides whether a command may be carried out: live, in sequence, never seen, and in time by the device's own clock.
//! Knows nothing of how it is carried out, nor of how the answer travels.

use crate::json::{Object, Value};
use crate::mqtt::codec::Publish;
use crate::time::Instant;
use core::time::Duration;
use heapless::{Deque, String};

/// The longest command id: it becomes a topic level.
pub const MAX_COMMAND_ID: usize = 40;
/// The longest command name: it comes as a topic level.
pub const MAX_COMMAND_NAME: usize = 40;
/// The longest payload of a command.
pub const MAX_COMMAND_PAYLOAD: usize = 1024;
/// How many finished commands are remembered by id, to tell a repetition from a stale sequence.
const REMEMBERED: usize = 8;

/// A command that passed every check. Only [`CommandGate::admit`] makes one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Command<'a> {
    id: &'a str,
    name: &'a str,
    sequence: u64,
    by: &'a str,
    args: Option<Value<'a>>,
    deadline: Instant,
}

impl<'a> Command<'a> {
    /// The hub's name for this one command.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// What to do: the last level of the topic.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its place in the order of this device's commands.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Who gave it; empty if not said.
    #[must_use]
    pub fn by(&self) -> &'a str {
        self.by
    }

    /// The arguments, any JSON value.
    #[must_use]
    pub fn args(&self) -> Option<Value<'a>> {
        self.args
    }

    /// Until when it may be begun.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Why a command is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandRefusal {
    /// Not the body of a command. There is no id to answer to.
    Malformed,
    /// Retained: whoever stored it, it is not an order of now.
    Retained,
    /// Its id was seen before: a repetition by the transport. The first one was answered; this one is not.
    Repeated,
    /// Its sequence is not above the highest seen.
    Stale,
    /// Its time to live is over.
    Expired,
    /// Another command is being carried out.
    Busy,
    /// There is no room to answer it: PUBACK says so.
    NoRoom,
    /// Its sequence is not in storage, or what is there cannot be read: after a power cut it could be carried out again.
    NotStored,
}

impl CommandRefusal {
    /// The reason that the hub is told.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "not a command body",
            Self::Retained => "retained commands are refused",
            Self::Repeated => "command id seen before",
            Self::Stale => "sequence not above the highest seen",
            Self::Expired => "time to live is over",
            Self::Busy => "another command is being carried out",
            Self::NoRoom => "no room for its answers",
            Self::NotStored => "its sequence cannot be stored",
        }
    }
}

/// Keeps the highest sequence and the last ids.
///
/// A command is carried out at most once, whatever happens to the device meanwhile: its sequence is in storage before it begins.
/// The hub offers it again as long as it has heard nothing of it, also to a device that just came back from a power cut or a
/// panic in that very command; it is stale then.
#[derive(Debug, Default)]
pub struct CommandGate {
    highest: u64,
    /// Nothing is known of it if storage could not be read.
    stored: Option<u64>,
    seen: Deque<String<MAX_COMMAND_ID>, REMEMBERED>,
}

/// A refused command, with its id as far as it could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The id to answer to, unless the body was malformed.
    pub id: Option<&'a str>,
    /// Why.
    pub refusal: CommandRefusal,
}

impl CommandGate {
    /// A gate that refuses sequences up to `stored`.
    #[must_use]
    pub const fn new(stored: u64) -> Self {
        Self { highest: stored, stored: Some(stored), seen: Deque::new() }
    }

    /// A gate that does not know yet what storage holds: it lets no command pass, and stores nothing over what it does not know.
    #[must_use]
    pub const fn unread() -> Self {
        Self { highest: 0, stored: None, seen: Deque::new() }
    }

    /// Notes what storage holds. `None` if it cannot be read.
    pub fn loaded(&mut self, stored: Option<u64>) {
        self.highest = self.highest.max(stored.unwrap_or_default());
        self.stored = stored;
    }

    pub(crate) fn is_read(&self) -> bool {
        self.stored.is_some()
    }

    /// Judges a message under `cmd/<name>`, received at `now`. `hindrance` is why no command whatever can be carried out now.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn admit<'a>(
        &mut self,
        name: &'a str,
        publish: &Publish<'a>,
        now: Instant,
        hindrance: Option<CommandRefusal>,
    ) -> Result<Command<'a>, Refused<'a>> {
        let command = read(name, publish, now).ok_or(Refused { id: None, refusal: CommandRefusal::Malformed })?;
        let refuse = |refusal| Err(Refused { id: Some(command.id), refusal });
        if publish.retain {
            return refuse(CommandRefusal::Retained);
        }
        if self.seen.iter().any(|seen| seen == command.id) {
            return refuse(CommandRefusal::Repeated);
        }
        if command.sequence <= self.highest {
            return refuse(CommandRefusal::Stale);
        }
        if hindrance == Some(CommandRefusal::NoRoom) {
            // Nothing is said of it but PUBACK: if that is lost, it may come again and be carried out.
            return refuse(CommandRefusal::NoRoom);
        }
        // From here on the sequence counts as seen, whatever becomes of the command.
        self.highest = command.sequence;
        if self.seen.is_full() {
            self.seen.pop_front();
        }
        if let Ok(id) = String::try_from(command.id) {
            // A place is free: see above.
            let _ = self.seen.push_back(id);
        }
        if now >= command.deadline {
            return refuse(CommandRefusal::Expired);
        }
        if let Some(hindrance) = hindrance {
            return refuse(hindrance);
        }
        if self.stored < Some(command.sequence) {
            return refuse(CommandRefusal::NotStored);
        }
        Ok(command)
    }

    /// The sequence to write to storage, and then to [tell](Self::stored), before [`admit`](Self::admit) may pass this message.
    #[must_use]
    pub fn sequence_to_store(&self, name: &str, publish: &Publish<'_>, now: Instant) -> Option<u64> {
        let command = read(name, publish, now).filter(|command| !publish.retain && now < command.deadline)?;
        (command.sequence > self.highest.max(self.stored?)).then_some(command.sequence)
    }

    /// Notes that `sequence` is in storage.
    pub fn stored(&mut self, sequence: u64) {
        self.stored = self.stored.max(Some(sequence));
    }
}

fn read<'a>(name: &'a str, publish: &Publish<'a>, now: Instant) -> Option<Command<'a>> {
    if publish.payload.len() > MAX_COMMAND_PAYLOAD || !is_level(name, MAX_COMMAND_NAME) {
        return None;
    }
    let body = Object::parse(publish.payload).ok()?;
    let id = body.get("id")?.as_str().filter(|id| is_level(id, MAX_COMMAND_ID))?;
    let sequence = body.get("seq")?.as_u64()?;
    let ttl = u32::try_from(body.get("ttl_s")?.as_u64()?).ok()?;
    // The hub counts the message expiry down while the message waits: what is left of it is what counts.
    let ttl = publish.message_expiry.map_or(ttl, |expiry| expiry.min(ttl));
    let by = match body.get("by") {
        Some(by) => by.as_str()?,
        None => "",
    };
    let deadline = now.after(Duration::from_secs(u64::from(ttl)));
    Some(Command { id, name, sequence, by, args: body.get("args"), deadline })
}

/// Fit for one topic level and for JSON without escapes.
fn is_level(text: &str, longest: usize) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=longest).contains(&text.len()) && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(10_000);

    fn message(payload: &str) -> Publish<'_> {
        Publish {
            dup: false,
            packet_id: Some(1),
            retain: false,
            topic: "dev/lamp/cmd/set",
            message_expiry: None,
            payload: payload.as_bytes(),
        }
    }

    /// As the shell does: what is to be stored first is stored.
    fn admit<'a>(
        gate: &mut CommandGate,
        publish: &Publish<'a>,
        hindrance: Option<CommandRefusal>,
    ) -> Result<Command<'a>, Refused<'a>> {
        if let Some(sequence) = gate.sequence_to_store("set", publish, NOW) {
            gate.stored(sequence);
        }
        gate.admit("set", publish, NOW, hindrance)
    }

    fn refusal(gate: &mut CommandGate, publish: &Publish<'_>) -> CommandRefusal {
        admit(gate, publish, None).expect_err("refused").refusal
    }

    #[test]
    fn a_live_command_in_sequence_passes_with_its_arguments() {
        let mut gate = CommandGate::new(11);
        let publish = message(r#"{"id":"c-1","seq":12,"ttl_s":30,"by":"owner","args":{"target_c":21}}"#);
        let command = admit(&mut gate, &publish, None).expect("passes");
        assert_eq!((command.id(), command.name(), command.sequence(), command.by()), ("c-1", "set", 12, "owner"));
        assert_eq!(command.args().map(|args| args.as_raw()), Some(r#"{"target_c":21}"#));
        assert_eq!(command.deadline(), Instant::from_millis(40_000));
    }

    #[test]
    fn a_retained_command_is_refused_and_leaves_no_trace() {
        let mut gate = CommandGate::new(0);
        let mut publish = message(r#"{"id":"c-1","seq":12,"ttl_s":30}"#);
        publish.retain = true;
        assert_eq!(refusal(&mut gate, &publish), CommandRefusal::Retained);
        publish.retain = false;
        assert!(admit(&mut gate, &publish, None).is_ok());
    }

    #[test]
    fn a_command_for_which_there_was_no_room_may_come_again() {
        let mut gate = CommandGate::new(0);
        let publish = message(r#"{"id":"c-1","seq":12,"ttl_s":30}"#);
        let refused = admit(&mut gate, &publish, Some(CommandRefusal::NoRoom)).map_err(|refused| refused.refusal);
        assert_eq!(refused, Err(CommandRefusal::NoRoom));
        assert!(admit(&mut gate, &publish, None).is_ok());
    }

    #[test]
    fn a_repeated_or_stale_command_is_refused_even_after_it_was_refused_for_another_reason() {
        let mut gate = CommandGate::new(11);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-0","seq":11,"ttl_s":30}"#)), CommandRefusal::Stale);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-1","seq":12,"ttl_s":0}"#)), CommandRefusal::Expired);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-1","seq":13,"ttl_s":30}"#)), CommandRefusal::Repeated);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-2","seq":12,"ttl_s":30}"#)), CommandRefusal::Stale);
        let busy = admit(&mut gate, &message(r#"{"id":"c-3","seq":13,"ttl_s":30}"#), Some(CommandRefusal::Busy));
        assert_eq!(busy.map_err(|refused| refused.refusal), Err(CommandRefusal::Busy));
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-4","seq":13,"ttl_s":30}"#)), CommandRefusal::Stale);
    }

    #[test]
    fn time_to_live_is_what_the_hub_left_of_it() {
        let mut gate = CommandGate::new(0);
        let mut publish = message(r#"{"id":"c-1","seq":1,"ttl_s":30}"#);
        publish.message_expiry = Some(4);
        let command = admit(&mut gate, &publish, None).expect("passes");
        assert_eq!(command.deadline(), Instant::from_millis(14_000));
        let mut publish = message(r#"{"id":"c-2","seq":2,"ttl_s":30}"#);
        publish.message_expiry = Some(0);
        assert_eq!(refusal(&mut gate, &publish), CommandRefusal::Expired);
    }

    #[test]
    fn what_is_not_a_command_body_is_refused_without_an_id() {
        let mut gate = CommandGate::new(0);
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"id":"c","seq":1}"#,
            r#"{"id":"c","ttl_s":1}"#,
            r#"{"seq":1,"ttl_s":1}"#,
            r#"{"id":"a/b","seq":1,"ttl_s":1}"#,
            r#"{"id":"","seq":1,"ttl_s":1}"#,
            r#"{"id":"c","seq":-1,"ttl_s":1}"#,
            r#"{"id":"c","seq":1.5,"ttl_s":1}"#,
            r#"{"id":"c","seq":1,"ttl_s":4294967296}"#,
            r#"{"id":"+","seq":1,"ttl_s":1}"#,
        ] {
            assert_eq!(refusal(&mut gate, &message(wrong)), CommandRefusal::Malformed, "{wrong}");
        }
    }

    #[test]
    fn a_command_passes_only_once_its_sequence_is_stored_and_what_cannot_pass_costs_no_write() {
        let mut gate = CommandGate::new(4);
        let publish = message(r#"{"id":"c-5","seq":5,"ttl_s":30}"#);
        assert_eq!(gate.sequence_to_store("set", &publish, NOW), Some(5));
        let unstored = gate.admit("set", &publish, NOW, None).map_err(|refused| refused.refusal);
        assert_eq!(unstored, Err(CommandRefusal::NotStored));
        for (sequence, ttl) in [(5, 30), (4, 30), (6, 0)] {
            let body = std::format!(r#"{{"id":"c-6","seq":{sequence},"ttl_s":{ttl}}}"#);
            assert_eq!(gate.sequence_to_store("set", &message(&body), NOW), None, "{body}");
        }
        let publish = message(r#"{"id":"c-7","seq":7,"ttl_s":30}"#);
        let retained = Publish { retain: true, ..publish };
        assert_eq!(gate.sequence_to_store("set", &retained, NOW), None);
        gate.stored(gate.sequence_to_store("set", &publish, NOW).expect("in order"));
        assert!(gate.admit("set", &publish, NOW, None).is_ok());
        assert_eq!(refusal(&mut CommandGate::new(7), &publish), CommandRefusal::Stale, "after a restart");
    }
}
