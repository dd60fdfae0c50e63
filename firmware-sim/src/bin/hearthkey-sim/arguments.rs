//! The command line of `hearthkey-sim`. Parses and explains; does nothing.

use std::path::PathBuf;
use std::time::Duration;

use hearthkey_sim::HubLocation;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Simulated thermostats that run the real Hearthkey agent
///
/// Each has its own key, enrols with a one-time enrolment string, opens one MQTT session over TLS, reports its
/// temperature and obeys commands. The room is simulated; everything between the device and the hub is real.
#[derive(Debug, Parser)]
#[command(version, styles = STYLES, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hearthkey device add lamp --profile thermostat | hearthkey-sim device --enrol - --storage ./lamp
  hearthkey-sim device --storage ./lamp            runs the same device again
  hearthkey-sim device --join hub.local            asks the hub's owner to be let in (hearthkey join)
  hearthkey-sim fleet --devices 100 --with-hub --for 1m --report fleet.html
  hearthkey-sim fleet --devices 100 --enrol strings.txt --for 1m -o json
  hearthkey-sim fleet --scenario hub-restart
  hearthkey-sim scenario list";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one thermostat and print what happens to it
    Device(DeviceArguments),
    /// Run many thermostats and sum up how the hub served them, or play a scenario
    ///
    /// Exits with 0 when every device was served, or the scenario came as it expects; else with 1.
    Fleet(Box<FleetArguments>),
    /// List, show and check scenarios
    #[command(subcommand)]
    Scenario(ScenarioCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// The scenarios that ship with this program
    List {
        /// Output format
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print the file of a shipped scenario, to copy and change
    Show {
        /// Its name
        name: String,
    },
    /// Check a scenario file: errors point at the line
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceArguments {
    /// The enrolment string, or - to read it from standard input, as `hearthkey device add` prints it
    ///
    /// Other users of this machine can see arguments: prefer - or the environment. Needed once; a device with
    /// --storage keeps its identity and starts without it from then on.
    #[arg(long, value_name = "STRING", env = "HEARTHKEY_ENROL", hide_env_values = true, group = "admission")]
    pub(crate) enrol: Option<String>,

    /// Without an enrolment string: ask this hub to be let in, such as hub.local or 192.168.1.2:8443
    ///
    /// Its owner opens a window with `hearthkey join` and lets in who shows the right code with `hearthkey approve CODE`.
    #[arg(long, value_name = "HUB", value_parser = hub_location, group = "admission")]
    pub(crate) join: Option<HubLocation>,

    /// Keep key and enrolment in this directory (made with mode 0700); without it they are gone with the process
    #[arg(long, value_name = "DIR")]
    pub(crate) storage: Option<PathBuf>,

    /// Forget the identity in --storage and enrol anew: after a revocation, or to move to another home
    #[arg(long, requires = "admission", requires = "storage")]
    pub(crate) erase: bool,

    #[command(flatten)]
    pub(crate) run: RunArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FleetArguments {
    /// How many thermostats; with --enrol, at most as many as the file has strings (default: all of them)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_DEVICES))]
    pub(crate) devices: Option<u32>,

    /// A file that holds the enrolment strings, as `hearthkey device add` prints them, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "hub",
        required_unless_present_any = ["hub", "storage", "data", "with_hub", "scenario"])]
    pub(crate) enrol: Option<PathBuf>,

    /// Play a scenario: the name of a shipped one (`hearthkey-sim scenario list`), or a TOML file
    ///
    /// Without --hub, --data or --with-hub it is played at a hub of its own in a temporary directory. --devices, --interval,
    /// --ramp, --for and --seed take the place of what the scenario says.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["enrol", "storage"])]
    pub(crate) scenario: Option<String>,

    /// Start a hub in a temporary directory first, and stop it in the end
    #[arg(long, conflicts_with_all = ["hub", "enrol", "data"])]
    pub(crate) with_hub: bool,

    /// The hub's program for --with-hub (default: beside this one, or on the PATH)
    #[arg(long, value_name = "FILE", env = hearthkey_sim::HUB_BINARY)]
    pub(crate) hub_binary: Option<PathBuf>,

    /// Add the devices at the hub on this machine that runs with this data directory, as its owner
    #[arg(long, value_name = "DIR", conflicts_with_all = ["hub", "enrol"])]
    pub(crate) data: Option<PathBuf>,

    /// Add the devices at this hub first, for example https://localhost:8443
    #[arg(long, value_name = "URL", requires = "owner_token_file", requires = "ca", requires = "devices")]
    pub(crate) hub: Option<String>,

    /// A file that holds the owner's access token, such as contexts/local.token in the hub's data directory
    #[arg(long, value_name = "FILE", requires = "hub")]
    pub(crate) owner_token_file: Option<PathBuf>,

    /// The home CA certificate of the hub (PEM), such as ca/ca.crt in the hub's data directory
    #[arg(long, value_name = "FILE", requires = "hub")]
    pub(crate) ca: Option<PathBuf>,

    /// Profile of the devices to add
    #[arg(long, value_name = "PROFILE", default_value = "thermostat")]
    pub(crate) profile: String,

    /// The devices to add are called PREFIX-1, PREFIX-2 and so on
    #[arg(long, value_name = "PREFIX", default_value = "sim")]
    pub(crate) prefix: String,

    /// Keep each device's identity in a directory below this one; devices kept there run again without enrolment
    #[arg(long, value_name = "DIR")]
    pub(crate) storage: Option<PathBuf>,

    /// Start the devices one after another over this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) ramp: Option<Duration>,

    /// Send a command to one of the devices each time this passes, as their owner
    #[arg(long, value_name = "DURATION", value_parser = interval, conflicts_with_all = ["enrol", "scenario"])]
    pub(crate) command_every: Option<Duration>,

    /// Write an HTML report with plots; it opens without a network
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Threads that the devices share (default: one per processor)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: Option<u32>,

    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// Each device holds a socket and some 26 KB; more than this wants several machines.
const MAX_DEVICES: i64 = 20_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Time between two reports of a device, such as 5s, 500ms or 1m (default: 5s)
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(crate) interval: Option<Duration>,

    /// Stop after this time; without it, run until Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) run_for: Option<Duration>,

    /// Draw rooms, weather and chance from this number: the same seed is the same home (default: 1)
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,

    /// How many seconds pass in a room per second
    #[arg(long, value_name = "FACTOR", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) time_scale: u32,

    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For scripts: one JSON object per line.
    Json,
}

impl RunArguments {
    /// Time between two reports.
    pub(crate) fn interval(&self) -> Duration {
        self.interval.unwrap_or(Duration::from_secs(5))
    }

    /// What rooms and weather are drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }
}

/// Host and HTTPS port, 8443 where none is named.
fn hub_location(text: &str) -> Result<HubLocation, String> {
    let authority = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':').ok_or("after ] comes a colon and the port")?)),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte)) {
        return Err("a hub is HOST, HOST:PORT or https://HOST:PORT, with an IPv6 address in brackets".to_owned());
    }
    Ok(HubLocation {
        host: host.try_into().map_err(|_| "a host has at most 64 characters")?,
        https_port: port.map_or(Ok(8443), |port| port.parse().map_err(|_| format!("{port} is no port")))?,
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(10);
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST {
        return Err("at least 10ms".to_owned());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn refusal(line: &str) -> ErrorKind {
        Arguments::try_parse_from(line.split(' ')).expect_err(line).kind()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_fleet_says_where_its_devices_come_from() {
        assert_eq!(refusal("hearthkey-sim fleet --devices 3"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refusal("hearthkey-sim fleet --devices 3 --hub https://localhost:8443"), ErrorKind::MissingRequiredArgument);
        assert_eq!(
            refusal("hearthkey-sim fleet --hub https://h --owner-token-file t --ca c --enrol f --devices 3"),
            ErrorKind::ArgumentConflict
        );
        Arguments::try_parse_from("hearthkey-sim fleet --enrol strings.txt".split(' ')).expect("all strings");
        Arguments::try_parse_from("hearthkey-sim fleet --storage dir".split(' ')).expect("kept devices");
    }

    #[test]
    fn a_hub_is_named_by_host_and_port() {
        for (text, host, port) in [
            ("hub.local", "hub.local", 8443),
            ("https://hub.local:9443/", "hub.local", 9443),
            ("192.168.1.2:1", "192.168.1.2", 1),
            ("[::1]", "::1", 8443),
            ("[::1]:9443", "::1", 9443),
        ] {
            let hub = hub_location(text).expect(text);
            assert_eq!((hub.host.as_str(), hub.https_port), (host, port), "{text}");
        }
        for bad in ["", "http://hub", "hub:", "hub:x", "hub:65536", "::1", "[::1", "[::1]9", "hub/path", "a b", &"a".repeat(65)] {
            assert!(hub_location(bad).is_err(), "{bad}");
        }
        assert_eq!(refusal("hearthkey-sim device --join hub --enrol hk1.x"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("hearthkey-sim device --erase --storage dir"), ErrorKind::MissingRequiredArgument);
        Arguments::try_parse_from("hearthkey-sim device --join hub --erase --storage dir".split(' ')).expect("anew");
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for line in [
            "hearthkey-sim fleet --devices 0 --enrol f",
            "hearthkey-sim fleet --devices 20001 --enrol f",
            "hearthkey-sim device --interval 1ms",
            "hearthkey-sim device --interval soon",
            "hearthkey-sim device --time-scale 0",
        ] {
            let kind = refusal(line);
            assert!(matches!(kind, ErrorKind::ValueValidation | ErrorKind::InvalidValue), "{line}: {kind:?}");
        }
    }
}
