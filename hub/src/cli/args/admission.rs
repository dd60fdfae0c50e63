//! Letting in who asks: devices without an enrolment string, and logins from other machines.

use super::{credential::ScopeArgs, value};
use clap::Args;
use hearthkey_core::{DeviceId, Seconds, profile::ProfileName};
use std::time::Duration;

/// Let devices without an enrolment string ask to join, for a while
///
/// Shows each device that asks, with the code that the device shows, too. It waits until you approve it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey join --for 3m
  hearthkey approve WDJB-MJHT --name living-room --profile thermostat      in another terminal

Ctrl-C stops watching.")]
pub(in crate::cli) struct Join {
    /// How long devices may ask
    #[arg(long = "for", value_name = "DURATION", default_value = "3m", value_parser = value::join_window)]
    pub(in crate::cli) open_for: Duration,
}

/// Let in a device or a login that waits, after you compared its code
///
/// Without CODE it lists who waits. A device needs a name and a profile; on a terminal you are asked for them. A login acts
/// for you from then on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey approve
  hearthkey approve WDJB-MJHT --name living-room --profile thermostat
  hearthkey approve WDJB-MJHT --scope devices:read --expires 8h              a login that may only look")]
pub(in crate::cli) struct Approve {
    /// The code that the device or the other machine shows
    #[arg(value_parser = value::user_code)]
    pub(in crate::cli) code: Option<String>,
    /// For a device: what to call it
    #[arg(long, value_name = "NAME", value_parser = DeviceId::parse, requires = "code")]
    pub(in crate::cli) name: Option<DeviceId>,
    /// For a device: what it may do
    #[arg(long, short, value_name = "PROFILE", value_parser = ProfileName::parse, requires = "code")]
    pub(in crate::cli) profile: Option<ProfileName>,
    #[command(flatten)]
    pub(in crate::cli) scope: ScopeArgs,
    /// For a login: how long it lasts
    #[arg(long, value_name = "DURATION", value_parser = value::pat_lifetime, requires = "code", conflicts_with_all = ["name", "profile"])]
    pub(in crate::cli) expires: Option<Seconds>,
}

/// Turn away a device or a login that waits
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hearthkey deny WDJB-MJHT")]
pub(in crate::cli) struct Deny {
    /// The code that the device or the other machine shows
    #[arg(value_parser = value::user_code)]
    pub(in crate::cli) code: String,
}
