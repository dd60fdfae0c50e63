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
/// The sequence is written to storage once it ran ahead by this much.
const STORE_EVERY: u64 = 16;

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
        }
    }
}

/// Keeps the highest sequence and the last ids.
///
/// A restart may forget up to fifteen sequences, since storage is written sparsely. Nothing can be replayed through that gap:
/// only the hub publishes commands, and the first connection after a restart drops what the hub had queued for the former one.
#[derive(Debug, Default)]
pub struct CommandGate {
    highest: u64,
    stored: u64,
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
        Self { highest: stored, stored, seen: Deque::new() }
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
        hindrance.map_or(Ok(command), refuse)
    }

    /// The sequence to write to storage, once it is worth a write.
    #[must_use]
    pub fn sequence_to_store(&self) -> Option<u64> {
        (self.highest >= self.stored.saturating_add(STORE_EVERY)).then_some(self.highest)
    }

    /// The highest sequence, if storage does not hold it yet: for a clean stop.
    #[must_use]
    pub fn unstored_sequence(&self) -> Option<u64> {
        (self.highest > self.stored).then_some(self.highest)
    }

    /// Notes that `sequence` is in storage.
    pub fn stored(&mut self, sequence: u64) {
        self.stored = self.stored.max(sequence);
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

    fn refusal(gate: &mut CommandGate, publish: &Publish<'_>) -> CommandRefusal {
        gate.admit("set", publish, NOW, None).expect_err("refused").refusal
    }

    #[test]
    fn a_live_command_in_sequence_passes_with_its_arguments() {
        let mut gate = CommandGate::new(11);
        let publish = message(r#"{"id":"c-1","seq":12,"ttl_s":30,"by":"owner","args":{"target_c":21}}"#);
        let command = gate.admit("set", &publish, NOW, None).expect("passes");
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
        assert!(gate.admit("set", &publish, NOW, None).is_ok());
    }

    #[test]
    fn a_repeated_or_stale_command_is_refused_even_after_it_was_refused_for_another_reason() {
        let mut gate = CommandGate::new(11);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-0","seq":11,"ttl_s":30}"#)), CommandRefusal::Stale);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-1","seq":12,"ttl_s":0}"#)), CommandRefusal::Expired);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-1","seq":13,"ttl_s":30}"#)), CommandRefusal::Repeated);
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-2","seq":12,"ttl_s":30}"#)), CommandRefusal::Stale);
        let busy = gate.admit("set", &message(r#"{"id":"c-3","seq":13,"ttl_s":30}"#), NOW, Some(CommandRefusal::Busy));
        assert_eq!(busy.map_err(|refused| refused.refusal), Err(CommandRefusal::Busy));
        assert_eq!(refusal(&mut gate, &message(r#"{"id":"c-4","seq":13,"ttl_s":30}"#)), CommandRefusal::Stale);
    }

    #[test]
    fn time_to_live_is_what_the_hub_left_of_it() {
        let mut gate = CommandGate::new(0);
        let mut publish = message(r#"{"id":"c-1","seq":1,"ttl_s":30}"#);
        publish.message_expiry = Some(4);
        let command = gate.admit("set", &publish, NOW, None).expect("passes");
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
    fn the_sequence_is_stored_once_in_sixteen_commands() {
        let mut gate = CommandGate::new(0);
        let mut writes = 0;
        for sequence in 1..=64 {
            let body = std::format!(r#"{{"id":"c-{sequence}","seq":{sequence},"ttl_s":30}}"#);
            gate.admit("set", &message(&body), NOW, None).expect("passes");
            if let Some(highest) = gate.sequence_to_store() {
                gate.stored(highest);
                writes += 1;
            }
        }
        assert_eq!(writes, 4);
        assert_eq!(gate.unstored_sequence(), None);
    }
}
