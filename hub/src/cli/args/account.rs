//! Who speaks to which hub: login, contexts, people.

use super::value::{self, CaPin};
use crate::cli::context::ContextName;
use clap::{Args, Subcommand, ValueEnum};
use hearthkey_core::{Seconds, session::UserName};
use std::path::PathBuf;

/// Log in to a hub on another machine
///
/// Shows a code, and waits until somebody who is logged in approves it with `hearthkey approve CODE`. With --user it asks for
/// that user's password instead. The hub is known by its CA: give the certificate, or its SHA-256.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey context show                        on the hub's machine: shows the SHA-256 of its CA
  hearthkey login https://hub.local:8443 --ca-sha256 4f0c…
  hearthkey login https://hub.local:8443 --ca ca.pem --user ann
  hearthkey login https://hub.local:8443 --ca ca.pem --user ann --password-file - < password
  hearthkey login hub.local --ca ca.pem --context cottage      under a name of your choice

The context is kept in $XDG_CONFIG_HOME/hearthkey or ~/.config/hearthkey, and is the current
one from then on. Logging in there again needs neither --ca nor --ca-sha256.

Exit codes:
  0  logged in
  1  denied, or the password is wrong
  3  the hub cannot be reached, or is not the hub of that CA
  4  nobody approved in time")]
pub(in crate::cli) struct Login {
    /// The hub; https:// and port 8443 unless said otherwise
    #[arg(value_parser = value::hub_url)]
    pub(in crate::cli) url: reqwest::Url,
    /// Log in as this user, with a password
    #[arg(long, value_name = "NAME", value_parser = value::user_name)]
    pub(in crate::cli) user: Option<UserName>,
    /// Read the password from a file, or - for standard input, instead of asking for it
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(in crate::cli) password_file: Option<PathBuf>,
    /// How long to stay logged in, at most 30d [default: 12h]
    #[arg(long, value_name = "DURATION", requires = "user", value_parser = value::seconds)]
    pub(in crate::cli) expires: Option<Seconds>,
    /// The hub's CA certificate, PEM; `hearthkey context ca` on the hub's machine prints it
    #[arg(long, value_name = "FILE", conflicts_with = "ca_sha256")]
    pub(in crate::cli) ca: Option<PathBuf>,
    /// SHA-256 of the hub's CA certificate, as `hearthkey context show` prints it on the hub's machine
    #[arg(long, value_name = "HEX", value_parser = CaPin::parse)]
    pub(in crate::cli) ca_sha256: Option<CaPin>,
}

/// End a login: revokes its token at the hub and forgets the context
///
/// Without --context it is the current one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey logout
  hearthkey logout --context cottage")]
pub(in crate::cli) struct Logout {}

/// Which hub the commands speak to.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Which hub a command speaks to, the first that is given:
  --context NAME or FILE, or HEARTHKEY_CONTEXT
  --data DIR, or HEARTHKEY_DATA     the hub of that data directory, on this machine
  hearthkey context use NAME        the current context; `hearthkey login` sets it too
  the hub of this machine           called `local`

Examples:
  hearthkey context list
  hearthkey context use local
  hearthkey device list --context cottage")]
pub(in crate::cli) enum Context {
    /// List the contexts, and which is the current one
    List,
    /// Make a context the current one; `local` is the hub of this machine
    Use(ContextArg),
    /// Show the hub's url, its CA and the files of CA and token; never the token
    Show,
    /// Print the hub's CA certificate, for `hearthkey login --ca` on another machine
    Ca,
    /// Forget a context, without asking its hub; `hearthkey logout` revokes its token as well
    Remove(ContextArg),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ContextArg {
    /// The context
    #[arg(value_parser = value::context_name)]
    pub(in crate::cli) name: ContextName,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum User {
    Add(UserAdd),
    /// List the people of this home
    List,
    /// Show one of them
    Show(UserArg),
    Role(UserRole),
    Password(UserPassword),
    /// Remove somebody; their tokens end at once
    Remove(UserArg),
}

/// Add somebody
///
/// Asks for their password on the terminal, twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey user add ann --role member
  hearthkey user add ben --role viewer --password-file - < password
  hearthkey user add kim --role member --no-password      cannot log in before `user password`")]
pub(in crate::cli) struct UserAdd {
    /// Their name: 1 to 32 of a-z, 0-9 and -
    #[arg(value_parser = value::user_name)]
    pub(in crate::cli) name: UserName,
    /// What they may do
    #[arg(long, value_enum)]
    pub(in crate::cli) role: Role,
    /// Read the password from a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) password_file: Option<PathBuf>,
    /// No password, so no login for now
    #[arg(long, conflicts_with = "password_file")]
    pub(in crate::cli) no_password: bool,
}

/// Say what somebody may do; their sessions and tokens follow at once
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hearthkey user role ann owner")]
pub(in crate::cli) struct UserRole {
    #[command(flatten)]
    pub(in crate::cli) user: UserArg,
    /// What they may do
    #[arg(value_enum)]
    pub(in crate::cli) role: Role,
}

/// Set a password: your own, or as an owner anybody's
///
/// Asks for it on the terminal, twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey user password                       your own
  hearthkey user password ann
  hearthkey user password ann --password-file - < password")]
pub(in crate::cli) struct UserPassword {
    /// Whose [default: your own]
    #[arg(value_parser = value::user_name)]
    pub(in crate::cli) name: Option<UserName>,
    /// Read it from a file, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UserArg {
    /// Who
    #[arg(value_parser = value::user_name)]
    pub(in crate::cli) name: UserName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Role {
    /// Everything, people and credentials included
    Owner,
    /// See, and send commands
    Member,
    /// See
    Viewer,
}

impl Role {
    pub(in crate::cli) const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }
}
