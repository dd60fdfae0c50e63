//! Personal access tokens and API keys.

use super::value;
use clap::{Args, Subcommand};
use hearthkey_core::{
    DeviceId, Seconds, network::Network, profile::ProfileName, scope::PermissionName, session::IntegrationName,
};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Pat {
    Create(PatCreate),
    List(PatList),
    /// Show one: what it may do, until when, and its last use
    Show(CredentialArg),
    Rotate(PatRotate),
    /// End a token at once
    Revoke(CredentialArg),
}

/// Make a personal access token, for a script that acts for you
///
/// It never may more than you may at that moment. Shown once: alone on standard output, unless that is a terminal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey pat create backup --expires 90d --out backup.token
  hearthkey pat create night --scope devices:read --scope commands:send --device lamp
  TOKEN=$(hearthkey pat create cron --scope devices:read)")]
pub(in crate::cli) struct PatCreate {
    /// What it is for
    pub(in crate::cli) name: String,
    #[command(flatten)]
    pub(in crate::cli) scope: ScopeArgs,
    /// The only device that it is about; may be repeated [default: all that you may]
    #[arg(long = "device", value_name = "NAME", value_parser = DeviceId::parse, value_delimiter = ',')]
    pub(in crate::cli) devices: Vec<DeviceId>,
    /// How long it lives, at most 366d [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = value::pat_lifetime)]
    pub(in crate::cli) expires: Option<Seconds>,
    #[command(flatten)]
    pub(in crate::cli) out: OutArg,
}

/// List your tokens
#[derive(Debug, Args)]
pub(in crate::cli) struct PatList {
    /// Everybody's, if you are an owner
    #[arg(long)]
    pub(in crate::cli) all: bool,
}

/// Replace a token by another with the same rights
///
/// The old one works until the new one is first used; whoever uses it afterwards ends both. If the new one got lost, rotate again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey pat rotate 0aB3dE6gH9jK --out backup.token
  hearthkey pat rotate 0aB3dE6gH9jK -o json | jq -r .secret")]
pub(in crate::cli) struct PatRotate {
    #[command(flatten)]
    pub(in crate::cli) credential: CredentialArg,
    #[command(flatten)]
    pub(in crate::cli) out: OutArg,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Key {
    Create(KeyCreate),
    /// List the API keys, and which are about to expire or have long been unused
    List,
    /// Show one: what it may do, from where, and its last use
    Show(CredentialArg),
    Roll(KeyRoll),
    /// End a key at once
    Revoke(CredentialArg),
}

/// Make an API key, for an integration or for a device that knows only a user name and a password
///
/// Shown once: alone on standard output, unless that is a terminal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey key create kitchen-ha --integration home-assistant --profile home-assistant --network 192.168.1.0/24
  hearthkey key create dashboard --integration grafana --profile home-assistant --scope telemetry --expires 90d
  hearthkey key create old-plug --device plug --out plug.key

`hearthkey profile list` shows the profiles.")]
pub(in crate::cli) struct KeyCreate {
    /// What it is for
    pub(in crate::cli) name: String,
    /// The integration that holds it
    #[arg(long, value_name = "NAME", value_parser = value::integration_name, requires = "profile", required_unless_present = "device")]
    pub(in crate::cli) integration: Option<IntegrationName>,
    /// What the integration may do
    #[arg(long, short, value_name = "PROFILE", value_parser = ProfileName::parse, requires = "integration")]
    pub(in crate::cli) profile: Option<ProfileName>,
    #[command(flatten)]
    pub(in crate::cli) scope: ScopeArgs,
    /// The device that holds it, with the rights of its own profile
    #[arg(long, value_name = "NAME", value_parser = DeviceId::parse, conflicts_with_all = ["integration", "profile", "scope"])]
    pub(in crate::cli) device: Option<DeviceId>,
    /// How long it lives [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = value::seconds)]
    pub(in crate::cli) expires: Option<Seconds>,
    /// The only network that it may come from, such as 192.168.1.0/24; may be repeated [default: any]
    #[arg(long = "network", value_name = "NETWORK", value_delimiter = ',')]
    pub(in crate::cli) networks: Vec<Network>,
    #[command(flatten)]
    pub(in crate::cli) out: OutArg,
}

/// Replace a key by another; the old one works for a while yet
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey key roll 0aB3dE6gH9jK --overlap 1d
  hearthkey key roll 0aB3dE6gH9jK --overlap 0s --out plug.key     the old one ends at once")]
pub(in crate::cli) struct KeyRoll {
    #[command(flatten)]
    pub(in crate::cli) credential: CredentialArg,
    /// How long the old key works beside the new one, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = value::overlap)]
    pub(in crate::cli) overlap: Seconds,
    #[command(flatten)]
    pub(in crate::cli) out: OutArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CredentialArg {
    /// Its id: the 12 characters after hk_pat_ or hk_key_, as the lists show them
    // No parser: clap's message would repeat a secret that was given by mistake.
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ScopeArgs {
    /// A permission that it has; may be repeated [default: all that there are]
    #[arg(long, value_name = "PERMISSION", value_parser = PermissionName::parse, value_delimiter = ' ')]
    pub(in crate::cli) scope: Vec<PermissionName>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OutArg {
    /// Write the secret to this file, for your eyes only, and do not print it
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
}

impl ScopeArgs {
    /// `scope` as RFC 6749 section 3.3 writes it; none if nothing was said.
    pub(in crate::cli) fn text(&self) -> Option<String> {
        let names: Vec<&str> = self.scope.iter().map(PermissionName::as_str).collect();
        if names.is_empty() { None } else { Some(names.join(" ")) }
    }
}
