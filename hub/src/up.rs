//! `hearthkey up`: starts the hub, says where it is, and stops it cleanly. Simulated devices are [`crate::simulate`]'s.

use crate::{
    cli::{Exit, Failure, Output, UpOptions},
    config::{InvalidConfig, LogConfig, LogFormat},
    mqtt::FabricKind,
    server::{Server, Settings},
    simulate,
};
use hearthkey_certs::HubNames;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io,
    net::{IpAddr, UdpSocket},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Runs the hub until Ctrl-C, SIGTERM, the end of `--for`, or that of standard input if it was asked to heed that.
///
/// # Errors
/// [`Failure`] with the next thing to do.
pub fn run(options: UpOptions) -> Result<ExitCode, Failure> {
    start_logging(&options.config.log);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Refused, format!("cannot start: {error}")))?;
    let exit = runtime.block_on(up(options))?;
    Ok(exit.into())
}

async fn up(options: UpOptions) -> Result<Exit, Failure> {
    let mut out = Output::new(options.format);
    let refused = |error: &dyn std::fmt::Display| Failure::new(Exit::Refused, error.to_string());
    // Before anything is made: from here on a signal means a clean end.
    let signals = Signals::listen().map_err(|error| refused(&format!("cannot listen for signals: {error}")))?;
    let settings = settings(&options).map_err(|error| refused(&error))?;
    let server = Server::start(settings).await.map_err(|error| refused(&error))?;
    for warning in options.config.warnings() {
        out.note(format!("warning: {warning}"));
    }
    if let Some(restored) = server.restored() {
        out.note(format!(
            "warning: the store was damaged; the backup {} was restored ({} rows). What was decided after it, revocations included, is gone: run `{} device list`",
            restored.backup.display(),
            restored.rows,
            program()
        ));
    }
    greet(&server, &options, &mut out)?;
    let stdin_ends = stdin_ends(options.until_stdin_ends);
    let ended = async {
        tokio::select! {
            () = signals.end_of_run(options.run_for) => {}
            () = stdin_ends => {}
        }
    };
    let exit = match options.simulate {
        Some(devices) => simulate::run(&server, &options.data, &data_flag(&options), devices, &mut out, ended).await,
        None => {
            ended.await;
            Ok(Exit::Done)
        }
    };
    server.stop().await;
    exit
}

/// What a person should type for this program.
pub(crate) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "hearthkey".to_owned())
}

fn greet(server: &Server, options: &UpOptions, out: &mut Output) -> Result<(), Failure> {
    let addresses = server.addresses();
    if options.format == crate::cli::Format::Json {
        return out.json_line(&serde_json::json!({
            "event": "started",
            "first_start": server.is_first_start(),
            "data": options.data,
            "url": server.reachable(),
            "issuer": server.hub().issuer(),
            "listeners": addresses,
            "fabric": options.config.mqtt.fabric,
        }));
    }
    if server.is_first_start() {
        out.line(format!("made a home CA, a signing key and the owner's context in {}", options.data.display()))?;
    }
    out.line(format!("https  {}", server.reachable()))?;
    if let Some(why) = issuer_note(server.hub().issuer(), server.reachable(), options.config.issuer.is_some()) {
        out.note(why);
    }
    if let Some(why) = address_note(server.reachable()) {
        out.note(why);
    }
    out.line(format!("mqtts  {}", addresses.mqtts))?;
    if let Some(mqtt) = addresses.mqtt {
        out.line(format!("mqtt   {mqtt} (no TLS)"))?;
    }
    if options.config.mqtt.fabric != FabricKind::default() {
        out.line(format!("mqtt.fabric is {}", options.config.mqtt.fabric))?;
    }
    if options.simulate.is_none() {
        let data = data_flag(options);
        out.line(format!("next, in another terminal: {} device add thermostat-1 --profile thermostat{data}", program()))?;
        out.line("Ctrl-C stops the hub")?;
    }
    Ok(())
}

/// What to say where the issuer, which nobody chose, is not where clients reach the hub.
fn issuer_note(issuer: &str, reachable: &str, chosen: bool) -> Option<String> {
    let back_on_loopback = reachable.starts_with("https://localhost:") && !issuer.starts_with("https://localhost:");
    (!chosen && issuer != reachable && !back_on_loopback).then(|| {
        format!(
            "tokens and metadata name {issuer} as the issuer, from an earlier start; to change that, say issuer = \"{reachable}\" \
             in the configuration"
        )
    })
}

/// What to say where devices will hold an address of the network, which a router may give to another machine tomorrow.
fn address_note(reachable: &str) -> Option<String> {
    let (host, _port) = reachable.strip_prefix("https://")?.rsplit_once(':')?;
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    (!address.is_loopback()).then(|| {
        format!(
            "devices that you add now will look for this hub at {address} for good; if that may change, let names in the \
             configuration begin with a name that they can resolve, before you add them"
        )
    })
}

/// ` --data DIR`, where it is not the default.
fn data_flag(options: &UpOptions) -> String {
    let default = crate::cli::default_data_dir().is_ok_and(|default| default == options.data);
    if default || std::env::var_os("HEARTHKEY_DATA").is_some() {
        String::new()
    } else {
        format!(" --data {}", options.data.display())
    }
}

/// Ctrl-C and SIGTERM, heard from the moment on in which this is made.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves on a signal, or after `run_for`.
    async fn end_of_run(mut self, run_for: Option<Duration>) {
        let elapsed = async {
            match run_for {
                Some(span) => tokio::time::sleep(span).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = elapsed => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Resolves when standard input ends; never if nobody `heeds` it. Whatever comes there is passed over.
async fn stdin_ends(heeds: bool) {
    if !heeds {
        return std::future::pending().await;
    }
    let (told, ended) = oneshot::channel();
    // A thread of its own: a read that blocks must not hold up the end of the runtime.
    std::thread::spawn(move || {
        // What cannot be read has ended as well.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = told.send(());
    });
    let _ = ended.await;
}

fn settings(options: &UpOptions) -> Result<Settings, InvalidConfig> {
    let mut names: HubNames = options.config.hub_names()?;
    let on_lan = !options.listeners.https.ip().is_loopback() || !options.listeners.mqtts.ip().is_loopback();
    let mut host = options.config.names.first().map(|name| name.as_str().to_owned());
    if on_lan {
        if let Some(address) = address_in_lan() {
            names.add_address(address)?;
            host.get_or_insert_with(|| address.to_string());
        }
        if let Some(hostname) = hostname::get().ok().and_then(|name| name.into_string().ok()) {
            // A host name that is no DNS name cannot stand in a certificate, and nobody could resolve it.
            let _ = names.add(&hostname).and_then(|()| names.add(&format!("{hostname}.local")));
        }
    }
    let defaults = Settings::new(options.data.clone(), options.listeners);
    Ok(Settings {
        names,
        host: host.unwrap_or(defaults.host),
        issuer: options.config.issuer.as_ref().map(|issuer| issuer.as_str().to_owned()),
        fabric: options.config.mqtt.fabric,
        limits: options.config.limits.limits()?,
        websocket_origins: options.config.websocket.origins.clone(),
        ..defaults
    })
}

/// The address that this machine would use in its network. A connected UDP socket sends nothing.
fn address_in_lan() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// Takes as many file descriptors as the system allows: most give a program 1,024 to begin with, fewer than the connections
/// that the listeners take on, and without a descriptor the store cannot write.
fn raise_open_files() {
    let allowed = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: allowed.maximum, ..allowed };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, ?allowed, "the number of open files stays as it is");
    }
}

fn start_logging(config: &LogConfig) {
    // rumqttd's span per publish costs 40 % of its throughput.
    let filter = format!("{},rumqttd=off,hyper=warn,h2=warn,rustls=warn,sled=warn", config.level.as_str());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match config.format {
        LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_devices_will_hold_is_told_and_a_name_is_not() {
        for told in ["https://192.168.1.5:8443", "https://[fd00::5]:8443"] {
            let note = address_note(told).expect("a note");
            assert!(note.contains("names") && note.contains("before you add them"), "{note}");
        }
        for fine in ["https://localhost:8443", "https://hub.local:8443", "https://127.0.0.1:8443", "https://[::1]:8443"] {
            assert_eq!(address_note(fine), None, "{fine}");
        }
    }

    #[test]
    fn an_issuer_that_nobody_can_follow_is_told_with_the_remedy() {
        let (old, new) = ("https://192.168.1.5:8443", "https://192.168.1.6:8443");
        let note = issuer_note(old, new, false).expect("a note");
        assert!(note.contains(old) && note.contains(&format!("issuer = \"{new}\"")), "{note}");
        assert_eq!(issuer_note(old, new, true), None, "the owner knows");
        assert_eq!(issuer_note(old, old, false), None);
        assert_eq!(issuer_note(old, "https://localhost:8443", false), None, "for a while on loopback");
    }
}
