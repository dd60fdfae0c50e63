//! The audit log.

use super::value::{self, Moment};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Audit {
    Tail(AuditTail),
    List(AuditList),
    Verify(AuditVerify),
    Export(AuditExport),
}

/// Show the latest entries of the audit log, and follow it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey audit tail
  hearthkey audit tail -n 100 --no-follow -o json | jq 'select(.outcome == \"denied\")'")]
pub(in crate::cli) struct AuditTail {
    /// How many entries to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(in crate::cli) lines: u32,
    /// End after them
    #[arg(long)]
    pub(in crate::cli) no_follow: bool,
}

/// Show the entries of the audit log that match
///
/// Actor, action and target match by their beginning.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey audit list --outcome denied --since 2h
  hearthkey audit list --actor 'device lamp' --action mqtt.
  hearthkey audit list --target 'device lamp' --since 2026-08-01 --until 2026-08-02T12:00:00Z
  hearthkey audit list --last 1000 -o json | jq -r '.items[].action' | sort | uniq -c")]
pub(in crate::cli) struct AuditList {
    /// Who did it, such as `user ann`, `device lamp`, `hub`
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) actor: Option<String>,
    /// What was done, such as device.revoke or mqtt.
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) action: Option<String>,
    /// Upon what, such as `device lamp`
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) target: Option<String>,
    /// How it ended
    #[arg(long, value_enum)]
    pub(in crate::cli) outcome: Option<AuditOutcome>,
    /// From when on: 2h ago, or 2026-08-01, or 2026-08-01T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = Moment::parse)]
    pub(in crate::cli) since: Option<Moment>,
    /// Until when
    #[arg(long, value_name = "WHEN", value_parser = Moment::parse)]
    pub(in crate::cli) until: Option<Moment>,
    /// How many entries at most, the latest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(in crate::cli) last: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AuditOutcome {
    /// It was done
    Success,
    /// It was not allowed
    Denied,
    /// It was tried and failed
    Failure,
}

/// Prove that no entry of the audit log was changed or removed
///
/// The hub checks its own log; an exported file is checked here, without a hub. Keep the head that an export tells: a log
/// that was rewritten from the start shows by another head only.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey audit verify
  hearthkey audit export audit.ndjson
  hearthkey audit verify audit.ndjson --head 9f86d081884c7d65…

Exit codes:
  0  the chain holds
  1  it does not, or it ends with another head")]
pub(in crate::cli) struct AuditVerify {
    /// An exported file, or - for standard input [default: the hub's log]
    pub(in crate::cli) file: Option<PathBuf>,
    /// The hash that the last entry of the file must have, as told when it was exported
    #[arg(long, value_name = "HEX", requires = "file", value_parser = value::sha256_hex)]
    pub(in crate::cli) head: Option<String>,
}

/// Write the whole audit log, one JSON object a line, byte for byte as the hub keeps it
///
/// Into a file it is checked as well, and its head told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey audit export audit-2026-08.ndjson
  hearthkey audit export | gzip > audit.ndjson.gz")]
pub(in crate::cli) struct AuditExport {
    /// A file that does not exist yet [default: standard output]
    pub(in crate::cli) file: Option<PathBuf>,
}

impl AuditOutcome {
    pub(in crate::cli) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::Failure => "failure",
        }
    }
}
