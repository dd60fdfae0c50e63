//! What ends by itself: used assertions, denied tokens, enrolment codes, retired keys, commands that nobody took.

use super::{Change, CommandState, Context, Registry, rows};
use crate::{
    audit::{AuditDraft, AuditRecord, ChainHead, Outcome},
    limits::MAX_AUDIT_RECORDS,
    write::{Table, Write},
};

/// Most rows that one sweep touches, so that it never holds up other decisions for long.
const MAX_SWEPT_ROWS: usize = 256;

impl Registry {
    /// Removes what has ended at `context.now`. Sessions need no sweep: each has its own deadline.
    pub fn sweep(&self, context: &Context) -> Change<()> {
        let now = context.now;
        let mut draft = self.draft(context);
        for ((client, jti), _) in self.used_assertions.iter().filter(|(_, until)| **until <= now).take(MAX_SWEPT_ROWS) {
            draft.delete(Table::UsedAssertion, rows::used_assertion_key(client, jti));
        }
        for (jti, _) in self.denied_tokens.iter().filter(|(_, until)| **until <= now).take(MAX_SWEPT_ROWS) {
            draft.delete(Table::DeniedToken, jti.as_bytes());
        }
        for (hash, _) in self.enrolments_by_code_hash.iter().filter(|(_, record)| record.expires_at <= now).take(MAX_SWEPT_ROWS) {
            draft.delete(Table::EnrolmentCode, hash.as_bytes());
        }
        for device in
            self.devices.values().filter(|device| device.usable_keys(now).count() < device.keys.len()).take(MAX_SWEPT_ROWS)
        {
            let mut device = device.clone();
            device.keys.retain(|key| key.retires_at.is_none_or(|retires| now < retires));
            draft.put(Table::Device, device.id.as_str(), &device);
            draft.audit_entry(by_hub("key.retire", format!("device {}", device.id), Outcome::Success));
        }
        let over = self.credentials.values().filter(|record| record.expires_at.is_some_and(|at| at <= now));
        for credential in over.take(MAX_SWEPT_ROWS) {
            draft.delete(Table::Credential, credential.id.as_bytes());
            draft.audit_entry(by_hub(
                "credential.expire",
                format!("credential {} of {}", credential.id, credential.subject),
                Outcome::Success,
            ));
        }
        for command in self.commands.values().filter(|command| command.is_overdue(now)).take(MAX_SWEPT_ROWS) {
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
        (self.audit_head.seq - self.audit_anchor.seq).saturating_sub(MAX_AUDIT_RECORDS)
    }

    /// Lets the oldest audit entries go: `oldest` are their rows, in order from the anchor. The anchor moves to the last of them.
    pub fn trim_audit(&self, oldest: &[Vec<u8>]) -> Change<()> {
        let mut anchor = self.audit_anchor.clone();
        let mut writes = Vec::new();
        for row in oldest.iter().take(MAX_SWEPT_ROWS) {
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

fn by_hub(action: &'static str, target: String, outcome: Outcome) -> AuditDraft {
    AuditDraft { actor: "hub".to_owned(), action, target, outcome, reason: String::new(), count: 1 }
}
