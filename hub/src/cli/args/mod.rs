//! The command line as clap reads it, and its help. Whatever can be judged without a hub is judged here.

mod account;
mod admission;
mod audit;
mod credential;
mod value;

pub(super) use account::{Context, Login, Logout, Role, User, UserAdd, UserPassword};
pub(super) use admission::{Approve, Deny, Join};
pub(super) use audit::{Audit, AuditExport, AuditList, AuditTail, AuditVerify};
pub(super) use credential::{Key, KeyCreate, OutArg, Pat, PatCreate};
pub(super) use value::{Asked, CaPin, Moment};

use super::{context::ContextRef, output::Format};
use crate::config::Ports;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hearthkey_core::{
    DeviceId, Seconds,
    limits::MAX_CHILDREN,
    profile::{CommandName, ProfileName},
    topic::TopicFilter,
};
use std::{num::NonZeroU32, path::PathBuf, time::Duration};
use value::{positive_duration, time_to_live, wait};

/// More simulated devices than a home has are for `hearthkey-sim fleet`.
const MAX_SIMULATED: i64 = 500;

const AFTER_HELP: &str = "\
Try it:
  hearthkey up --simulate 3                        a hub and three thermostats, to look at
  hearthkey up                                     your hub
  hearthkey device add lamp --profile switch       in another terminal: let a device in
  hearthkey watch                                  see what devices publish
  hearthkey send lamp on                           tell a device what to do
  hearthkey device revoke lamp                     cut it off, at once and for good
  hearthkey login https://hub.local:8443           from another machine

Exit codes:
  0  done, allowed, succeeded
  1  refused, denied, failed, not valid
  2  the command line is wrong
  3  the hub is not running, or this user cannot reach it
  4  the wait ended before the command did";

/// Lets devices prove who they are, and lets a home's owner decide what each may do.
#[derive(Debug, Parser)]
#[command(name = "hearthkey", version, after_help = AFTER_HELP, max_term_width = 110)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// `table` for people, `json` for programs
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub(super) output: Format,
    /// The hub's data directory [default: $XDG_DATA_HOME/hearthkey or ~/.local/share/hearthkey]
    #[arg(long, global = true, env = "HEARTHKEY_DATA", hide_env_values = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Which hub to speak to, by a name of `hearthkey context list` or a file; goes before --data [default: the current
    /// context, or else the hub of this machine]
    #[arg(long, global = true, env = "HEARTHKEY_CONTEXT", hide_env_values = true, value_name = "NAME|FILE", value_parser = value::context_ref)]
    pub(super) context: Option<ContextRef>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Up(Up),
    #[command(flatten)]
    Asking(Asking),
    Login(Login),
    Logout(Logout),
    #[command(flatten)]
    Local(Local),
}

/// What asks the running hub.
#[derive(Debug, Subcommand)]
pub(super) enum Asking {
    /// Let devices in, see them, pause them, cut them off
    #[command(subcommand)]
    Device(Device),
    /// See and write what devices of one kind may do
    #[command(subcommand)]
    Profile(Profile),
    Can(Can),
    Send(Send),
    /// Say what a device is to be, now or once it is there; see what it says it is
    #[command(subcommand)]
    Twin(Twin),
    Watch(Watch),
    Join(Join),
    Approve(Approve),
    Deny(Deny),
    /// Say who lives here, and what they may do
    #[command(subcommand)]
    User(User),
    /// Make personal access tokens for scripts that act for you, see them, end them
    #[command(subcommand)]
    Pat(Pat),
    /// Make API keys for integrations and for devices that know only a password, see them, end them
    #[command(subcommand)]
    Key(Key),
    /// Replace the key that signs access tokens
    #[command(subcommand)]
    SigningKey(SigningKey),
    /// See who did what, and what was refused
    #[command(subcommand)]
    Audit(Audit),
    /// Show for whom this command line speaks, and what it may do
    Whoami,
}

/// What needs no hub.
#[derive(Debug, Subcommand)]
pub(super) enum Local {
    Check(Check),
    Backup(Backup),
    Restore(Restore),
    /// See and choose which hub the commands speak to
    #[command(subcommand)]
    Context(Context),
    Completions(Completions),
}

/// Run the hub
///
/// The first start makes all that a home needs: a CA, keys, a store, and the context by which the other commands reach the
/// hub. Listens on loopback until you say --lan. Ctrl-C stops it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey up
  hearthkey up --simulate 3 --for 20s        try it: three simulated thermostats, 20 seconds
  hearthkey up --lan                         let devices on your network reach it
  hearthkey up --data /srv/hearthkey --config /etc/hearthkey.toml

Configuration file, all of it optional (`hearthkey check FILE` reads it without starting anything):
  lan = true
  names = [\"hub.local\", \"192.168.1.10\"]       devices are told the first
  issuer = \"https://hub.local:8443\"          what tokens and metadata name
  [listeners]
  https = \"127.0.0.1:8443\"
  mqtts = \"127.0.0.1:8883\"
  mqtt = \"off\"
  [websocket]
  origins = [\"https://panel.home\"]         whose pages may open MQTT over WebSocket
  [limits]
  connections = 5000                          docs/limits.md has all
  [log]
  level = \"info\"
  format = \"text\"")]
pub(super) struct Up {
    /// Configuration file, TOML [default: config.toml in the data directory, if there is one]
    #[arg(long, env = "HEARTHKEY_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Let other machines reach HTTPS and MQTT over TLS
    #[arg(long)]
    pub(super) lan: bool,
    /// Run this many simulated thermostats as well
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_SIMULATED))]
    pub(super) simulate: Option<u32>,
    /// Stop after this time, such as 20s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = positive_duration)]
    pub(super) run_for: Option<Duration>,
    /// Stop when standard input ends: of use to a program that starts a hub and must not leave it behind
    #[arg(long, hide_short_help = true)]
    pub(super) until_stdin_ends: bool,
    #[command(flatten)]
    pub(super) ports: PortArgs,
}

/// Port 0 is any free one: tests run many hubs.
#[derive(Debug, Args)]
pub(super) struct PortArgs {
    /// HTTPS port, 0 for any free one
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    https_port: Option<u16>,
    /// Port of MQTT over TLS, 0 for any free one
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    mqtts_port: Option<u16>,
    /// Port of MQTT without TLS, 0 for any free one
    #[arg(long, value_name = "PORT", hide_short_help = true)]
    mqtt_port: Option<u16>,
}

impl Up {
    pub(super) fn simulate(&self) -> Option<NonZeroU32> {
        self.simulate.and_then(NonZeroU32::new)
    }
}

impl From<&PortArgs> for Ports {
    fn from(ports: &PortArgs) -> Self {
        Self { https: ports.https_port, mqtts: ports.mqtts_port, mqtt: ports.mqtt_port }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Device {
    Add(DeviceAdd),
    /// List all devices
    List,
    /// Show one device: its keys, its state, what it says it is
    Show(DeviceName),
    /// Pause a device: cuts its sessions, keeps its keys
    Disable(DeviceName),
    /// End a pause
    Enable(DeviceName),
    /// Cut a device off, at once and for good
    Revoke(DeviceName),
    Rotate(DeviceRotate),
}

/// Add a device
///
/// Prints an enrolment string, to be given to the device within 15 minutes. The device makes its own key and proves it from
/// then on; the string is of no use to anybody afterwards.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey device add living-room --profile thermostat
  hearthkey device add bridge --profile gateway --child lamp-1 --child lamp-2
  hearthkey device add old-plug --profile tasmota --secret     for a device that cannot sign
  hearthkey device add hall --profile sensor -o json | jq -r .enrolment.string

`hearthkey profile list` shows the profiles.")]
pub(super) struct DeviceAdd {
    /// Its name: 1 to 32 of a-z, 0-9 and -
    #[arg(value_parser = DeviceId::parse)]
    pub(super) name: DeviceId,
    /// What it may do
    #[arg(long, short, value_parser = ProfileName::parse)]
    pub(super) profile: ProfileName,
    /// A device for which this gateway acts too; may be repeated
    #[arg(long = "child", value_name = "NAME", value_parser = DeviceId::parse, value_delimiter = ',')]
    pub(super) children: Vec<DeviceId>,
    #[command(flatten)]
    pub(super) credential: CredentialArgs,
}

/// Give a device a fresh key or secret
///
/// The old one works until the new one is used for the first time, and for a while after: nothing is interrupted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey device rotate living-room
  hearthkey device rotate old-plug --secret --overlap 2d
  hearthkey device rotate hall --overlap 0s     the old one ends with the first use of the new one

A key that may be in the wrong hands: hearthkey device revoke NAME, then hearthkey device add NAME.")]
pub(super) struct DeviceRotate {
    #[command(flatten)]
    pub(super) device: DeviceName,
    /// How long the old one works after the first use of the new one, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = value::overlap)]
    pub(super) overlap: Seconds,
    #[command(flatten)]
    pub(super) credential: CredentialArgs,
}

#[derive(Debug, Args)]
pub(super) struct CredentialArgs {
    /// A client secret instead of a key, for a device that cannot sign; shown once
    #[arg(long)]
    pub(super) secret: bool,
    /// Do not draw the QR code
    #[arg(long)]
    pub(super) no_qr: bool,
}

#[derive(Debug, Args)]
pub(super) struct DeviceName {
    /// The device
    #[arg(value_parser = DeviceId::parse)]
    pub(super) name: DeviceId,
}

#[derive(Debug, Subcommand)]
pub(super) enum Profile {
    /// List all profiles
    List,
    /// Show a profile, as the TOML that would make it
    Show {
        /// The profile
        #[arg(value_parser = ProfileName::parse)]
        name: ProfileName,
    },
    Apply(ProfileApply),
}

/// Write a profile; what it changes holds at once, for connected devices too
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hearthkey profile show switch > my-switch.toml
  $EDITOR my-switch.toml                       name = \"my-switch\"
  hearthkey check my-switch.toml
  hearthkey profile apply my-switch.toml")]
pub(super) struct ProfileApply {
    /// TOML file, or - for standard input
    pub(super) file: PathBuf,
}

/// Ask whether somebody may do something, and why
///
/// Prints the rule that decides. Exit code 0 for yes, 1 for no.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey can living-room publish dev/living-room/tele/temperature
  hearthkey can living-room subscribe 'dev/#'
  hearthkey can living-room command set-setpoint
  hearthkey can user:ann command living-room/set-setpoint
  hearthkey can key:4Fz9QmT0aXbY subscribe 'dev/+/state'    a key or token, by its id in `key list` and `pat list`
  hearthkey can pat:4Fz9QmT0aXbY api audit:read")]
pub(super) struct Can {
    /// A device, user:NAME, or key:ID, pat:ID
    #[arg(value_parser = Asked::parse, value_name = "WHO")]
    pub(super) subject: Asked,
    /// What it would do
    #[arg(value_enum)]
    pub(super) action: Action,
    /// A topic to publish to, a topic filter to subscribe to, the name of a command (of others: DEVICE/COMMAND), a
    /// permission of the API
    pub(super) topic: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Action {
    /// Publish to a topic
    Publish,
    /// Subscribe to a topic filter
    Subscribe,
    /// Take a command; of others: send one
    Command,
    /// Use the HTTP API
    Api,
}

/// Send a command to a device, and wait for its end
///
/// Each command is numbered and carried out at most once. It ends as succeeded, failed, rejected or expired.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey send living-room set-setpoint '{\"celsius\":21.5}'
  hearthkey send lamp on --ttl 5s
  hearthkey send lamp on --wait 0s                      do not wait
  echo '{\"celsius\":19}' | hearthkey send living-room set-setpoint -

Exit codes:
  0  succeeded (with --wait 0s: on its way)
  1  failed, rejected, expired, or refused by the hub
  3  the hub is not running
  4  no end within --wait; the command may still be carried out until it expires")]
pub(super) struct Send {
    /// The device
    #[arg(value_parser = DeviceId::parse)]
    pub(super) name: DeviceId,
    /// The command, as the device's profile names it
    #[arg(value_parser = CommandName::parse)]
    pub(super) command: CommandName,
    /// Its arguments, JSON; - reads standard input
    #[arg(value_name = "JSON")]
    pub(super) arguments: Option<String>,
    /// How long to wait for its end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
    pub(super) wait: Duration,
    /// How long the device may still begin it [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = time_to_live)]
    pub(super) ttl: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Twin {
    /// Show what a device is to be, and what it says it is
    Show {
        /// The device
        #[arg(value_parser = DeviceId::parse)]
        name: DeviceId,
    },
    Set(TwinSet),
}

/// Say what a device is to be
///
/// What is named changes, the rest stays; null removes. The device is told at once, or when it connects.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey twin set living-room setpoint=21.5
  hearthkey twin set living-room '{\"setpoint\":21.5,\"mode\":\"heat\"}'
  hearthkey twin set living-room mode=null               no longer say anything about the mode
  hearthkey twin set living-room setpoint=19 --replace   this, and nothing else")]
pub(super) struct TwinSet {
    /// The device
    #[arg(value_parser = DeviceId::parse)]
    pub(super) name: DeviceId,
    /// NAME=VALUE for each member, or one JSON object
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub(super) desired: Vec<String>,
    /// In place of all that was desired
    #[arg(long)]
    pub(super) replace: bool,
    /// Only if this is the version that is desired now (0: none yet)
    #[arg(long, value_name = "V")]
    pub(super) if_version: Option<u64>,
}

/// See what passes the hub, as it passes
///
/// Prints time, topic and payload until Ctrl-C. Says so when messages were lost, and comes back when the hub does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey watch                              all devices
  hearthkey watch 'dev/living-room/#'          one device
  hearthkey watch 'dev/+/tele/temperature' -o json | jq .payload
  hearthkey watch 'dev/+/status' --count 1     the next message, then end")]
pub(super) struct Watch {
    /// Topic filter; quote it, your shell knows * and # too
    #[arg(default_value = "dev/#", value_parser = TopicFilter::parse)]
    pub(super) filter: TopicFilter,
    /// End after this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum SigningKey {
    /// Sign with a fresh key from now on; tokens that the old one signed hold until they end
    Rotate,
}

/// Check a profile or a configuration file, without a hub
///
/// Exit code 0 if it is valid, 1 with line and column if it is not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey check my-switch.toml
  hearthkey check /etc/hearthkey.toml")]
pub(super) struct Check {
    /// TOML file, or - for standard input
    pub(super) file: PathBuf,
    /// What the file is [default: a profile if it has permissions or a name, else a configuration]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(super) kind: Option<FileKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FileKind {
    /// What devices of one kind may do
    Profile,
    /// How a hub runs
    Config,
}

/// Write everything that the hub keeps to one file, on the hub's machine, whether the hub runs or not
///
/// Whoever has the file knows who lives here and what each device may do: it is readable by you only. The home's CA and keys (`ca`
/// and `keys` in the data directory) are not part of it: keep a copy of those too. A hub that runs writes the backup and puts that
/// on the audit record; what a stopped hub has is read from its data directory. `hearthkey restore FILE` brings it back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey backup /media/usb/home.backup
  hearthkey backup --force /media/usb/home.backup
  hearthkey backup \"home-$(date +%F).backup\" -o json")]
pub(super) struct Backup {
    /// Where to write it
    pub(super) file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(super) force: bool,
}

/// Put a backup in the place of the store, while the hub is stopped
///
/// The hub writes backups by itself, daily, to `backups` in its data directory; `hearthkey backup` writes one now. What was in the store is moved aside, never removed; what
/// was decided after the backup is forgotten, revocations included. The home's CA and keys are not part of a backup.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ls ~/.local/share/hearthkey/backups
  hearthkey restore ~/.local/share/hearthkey/backups/store-00000000000000000042.backup")]
pub(super) struct Restore {
    /// The backup
    pub(super) file: PathBuf,
}

/// Print a script that completes commands with the Tab key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearthkey completions bash > ~/.local/share/bash-completion/completions/hearthkey
  hearthkey completions zsh > ~/.zfunc/_hearthkey
  hearthkey completions fish > ~/.config/fish/completions/hearthkey.fish")]
pub(super) struct Completions {
    /// Your shell
    pub(super) shell: Shell,
}

impl DeviceAdd {
    /// What clap cannot count by itself.
    pub(super) fn too_many_children(&self) -> Option<String> {
        (self.children.len() > MAX_CHILDREN).then(|| format!("a gateway acts for at most {MAX_CHILDREN} children"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_contract_lists_is_understood() {
        for line in [
            "hearthkey up",
            "hearthkey up --data d --config f --lan --simulate 3 --for 20s",
            "hearthkey up --https-port 0 --mqtts-port 0 --mqtt-port 0",
            "hearthkey device add lamp --profile switch",
            "hearthkey device add lamp --profile switch --secret -o json",
            "hearthkey device add hub-2 -p gateway --child a --child b,c",
            "hearthkey device list -o json",
            "hearthkey device show lamp",
            "hearthkey device disable lamp",
            "hearthkey device enable lamp",
            "hearthkey device revoke lamp",
            "hearthkey device rotate lamp --secret",
            "hearthkey device rotate lamp --overlap 2h",
            "hearthkey device rotate lamp --overlap 0s",
            "hearthkey profile list",
            "hearthkey profile show switch",
            "hearthkey profile apply f.toml",
            "hearthkey can lamp publish dev/lamp/tele/x",
            "hearthkey can lamp subscribe dev/#",
            "hearthkey can lamp command on",
            "hearthkey can user:ann command lamp/on",
            "hearthkey can key:4Fz9QmT0aXbY api audit:read",
            "hearthkey twin show lamp",
            "hearthkey twin set lamp on=true level=3 --if-version 7",
            "hearthkey twin set lamp {} --replace",
            "hearthkey send lamp on",
            "hearthkey send lamp set {\"a\":1} --wait 10s --ttl 30s",
            "hearthkey watch",
            "hearthkey watch dev/+/status -n 3 --context c.toml",
            "hearthkey audit tail -n 5 --no-follow",
            "hearthkey check f.toml",
            "hearthkey check f.toml --kind config",
            "hearthkey audit list",
            "hearthkey audit list --actor user --action a --target t --outcome denied --since 2h --until 2026-08-01 -n 5",
            "hearthkey audit verify",
            "hearthkey audit verify f.ndjson",
            "hearthkey audit verify - --head abababababababababababababababababababababababababababababababab",
            "hearthkey audit export",
            "hearthkey audit export f.ndjson",
            "hearthkey context show",
            "hearthkey context ca",
            "hearthkey context list -o json",
            "hearthkey context use local",
            "hearthkey context remove cottage",
            "hearthkey login hub.local",
            "hearthkey login https://hub.local:8443 --ca ca.pem --context cottage",
            "hearthkey login hub.local --user ann --password-file - --expires 7d",
            "hearthkey login hub.local --ca-sha256 abababababababababababababababababababababababababababababababab",
            "hearthkey logout --context cottage",
            "hearthkey whoami",
            "hearthkey user add ann --role member",
            "hearthkey user add ann --role owner --password-file -",
            "hearthkey user add ann --role viewer --no-password",
            "hearthkey user list",
            "hearthkey user show ann",
            "hearthkey user role ann owner",
            "hearthkey user password",
            "hearthkey user password ann",
            "hearthkey user remove ann",
            "hearthkey pat create backup",
            "hearthkey pat create backup --scope a --scope b --device lamp,oven --expires 366d --out f",
            "hearthkey pat list --all",
            "hearthkey pat show 0aB3dE6gH9jK",
            "hearthkey pat rotate 0aB3dE6gH9jK --out f",
            "hearthkey pat revoke 0aB3dE6gH9jK",
            "hearthkey key create ha --integration ha --profile home-assistant --scope telemetry --network 10.0.0.0/8,::1",
            "hearthkey key create plug --device plug --expires 90d",
            "hearthkey key list",
            "hearthkey key show 0aB3dE6gH9jK",
            "hearthkey key roll 0aB3dE6gH9jK",
            "hearthkey key roll 0aB3dE6gH9jK --overlap 0s",
            "hearthkey key revoke 0aB3dE6gH9jK",
            "hearthkey join",
            "hearthkey join --for 3m",
            "hearthkey approve",
            "hearthkey approve WDJB-MJHT --name lamp --profile switch",
            "hearthkey approve WDJB-MJHT --scope devices:read --expires 8h",
            "hearthkey deny wdjb-mjht",
            "hearthkey signing-key rotate",
            "hearthkey completions zsh",
            "hearthkey backup home.backup --force",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).expect_err("shown"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_any_hub_is_asked() {
        for line in [
            "hearthkey device add Lamp --profile switch",
            "hearthkey device add lamp+ --profile switch",
            "hearthkey device show ../etc",
            "hearthkey device add lamp --profile switch --child #",
            "hearthkey send lamp On",
            "hearthkey send lamp on --wait soon",
            "hearthkey send lamp on --ttl 0s",
            "hearthkey send lamp on --ttl 1500ms",
            "hearthkey send lamp on --ttl 8days",
            "hearthkey watch dev/#/x",
            "hearthkey watch dev/# -n 0",
            "hearthkey up --simulate 0",
            "hearthkey up --simulate 501",
            "hearthkey up --for 0s",
            "hearthkey can lamp delete dev/x",
            "hearthkey audit tail -n 1001",
            "hearthkey audit list -n 1001",
            "hearthkey audit list --since yesterday",
            "hearthkey audit list --outcome good",
            "hearthkey audit verify f --head abc",
            "hearthkey login http://hub.local",
            "hearthkey login hub.local --ca-sha256 abc",
            "hearthkey --context Home device list",
            "hearthkey context use ../x",
            "hearthkey user add Ann --role member",
            "hearthkey user role ann king",
            "hearthkey pat create x --expires 367d",
            "hearthkey pat create x --expires 0s",
            "hearthkey pat create x --scope UPPER",
            "hearthkey key create x --device plug --network 10.0.0.0/33",
            "hearthkey join --for 16m",
            "hearthkey device rotate lamp --overlap 31d",
            "hearthkey deny -",
            "hearthkey -o yaml device list",
        ] {
            let error = parse(line).expect_err(line);
            assert!(matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        for line in [
            "hearthkey device add lamp",
            "hearthkey",
            "hearthkey device",
            "hearthkey send lamp",
            "hearthkey user add ann",
            "hearthkey user add ann --role member --no-password --password-file f",
            "hearthkey login",
            "hearthkey login hub.local --password-file f",
            "hearthkey login hub.local --ca f --ca-sha256 abababababababababababababababababababababababababababababababab",
            "hearthkey key create x",
            "hearthkey key create x --integration ha",
            "hearthkey key create x --profile sensor",
            "hearthkey key create x --device plug --scope a",
            "hearthkey key create x --device plug --integration ha --profile sensor",
            "hearthkey approve --name lamp",
            "hearthkey approve WDJB-MJHT --name lamp --expires 8h",
            "hearthkey audit verify --head abababababababababababababababababababababababababababababababab",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
