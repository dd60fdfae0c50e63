//! What ends by itself: used assertions, denied tokens, enrolment codes, retired keys, commands that nobody took.

use super::{Change, CommandState, Context, Registry, rows, used_assertions};
use crate::{
    audit::{AuditDraft, AuditRecord, ChainHead, Outcome},
    limits::MAX_AUDIT_RECORDS,
    write::{Table, Write},
};

/// Most things that one sweep ends, so that it never holds up other decisions for long and always fits into one batch of the
/// store (512 writes, 1 MiB): each is a row and an audit entry at most.
const MAX_SWEPT: usize = 120;
/// Most used assertions that one sweep forgets besides, one write each.
const MAX_FORGOTTEN: usize = 250;
/// Most audit entries that leave in one batch, one write each.
const MAX_TRIMMED: usize = 256;

impl Registry {
    /// Removes what has ended at `context.now`. Sessions need no sweep: each has its own deadline.
    pub fn sweep(&self, context: &Context) -> Change<()> {
        let now = context.now;
        let mut draft = self.draft(context);
        for (client, jti) in self.used_assertions.ended(now).take(MAX_FORGOTTEN) {
            draft.delete(Table::UsedAssertion, used_assertions::row_key(client, jti));
        }
        let mut room = MAX_SWEPT;
        for (jti, _) in self.denied_tokens.iter().filter(|(_, until)| **until <= now).take(room) {
            draft.delete(Table::DeniedToken, jti.as_bytes());
            room -= 1;
        }
        for (hash, _) in self.enrolments_by_code_hash.iter().filter(|(_, record)| record.expires_at <= now).take(room) {
            draft.delete(Table::EnrolmentCode, hash.as_bytes());
            room -= 1;
        }
        let retired = self.devices.values().filter(|device| device.usable_keys(now).count() < device.keys.len());
        for device in retired.take(room) {
            let mut device = device.clone();
            device.keys.retain(|key| key.retires_at.is_none_or(|retires| now < retires));
            draft.put(Table::Device, device.id.as_str(), &device);
            draft.audit_entry(by_hub("key.retire", format!("device {}", device.id)));
            room -= 1;
        }
        for credential in self.credentials.values().filter(|credential| !credential.is_usable(now)).take(room) {
            draft.delete(Table::Credential, credential.id.as_bytes());
            let target = format!("credential {} of {}", credential.id, credential.subject);
            draft.audit_entry(by_hub("credential.expire", target));
            room -= 1;
        }
        for command in self.commands.values().filter(|command| command.is_overdue(now)).take(room) {
            match command.state {
                CommandState::Sent => draft.end_command(command, CommandState::Expired, "nobody took it in time"),
                _ => draft.end_command(command, CommandState::Failed, "the device told no end"),
            }
        }
        draft.finish(())
    }

    /// How many of the oldest audit entries are over [`MAX_AUDIT_RECORDS`].
    #[must_use]
    pub fn surplus_audit_records(&self) -> u64 {
        self.audit_head.seq.saturating_sub(self.audit_anchor.seq).saturating_sub(MAX_AUDIT_RECORDS)
    }

    /// Lets the oldest audit entries go: `oldest` are their rows, in order from the anchor. The anchor moves to the last of them.
    pub fn trim_audit(&self, oldest: &[Vec<u8>]) -> Change<()> {
        let mut anchor = self.audit_anchor.clone();
        let mut writes = Vec::new();
        for row in oldest.iter().take(MAX_TRIMMED) {
            let Ok(record) = serde_json::from_slice::<AuditRecord>(row) else { break };
            if record.seq != anchor.seq + 1 {
                break;
            }
            writes.push(Write::Delete { table: Table::Audit, key: record.seq.to_be_bytes().to_vec() });
            anchor = ChainHead::of_row(record.seq, row);
        }
        if !writes.is_empty() {
            let value = serde_json::to_vec(&anchor).expect("a chain head is plain JSON");
            writes.push(Write::Put { table: Table::Meta, key: rows::AUDIT_ANCHOR.to_vec(), value });
        }
        Change { writes, answer: () }
    }
}

fn by_hub(action: &'static str, target: String) -> AuditDraft {
    AuditDraft { actor: "hub".to_owned(), action, target, outcome: Outcome::Success, reason: String::new(), count: 1 }
}
