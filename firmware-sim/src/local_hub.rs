//! A hub of one's own for a test or a scenario: the real program in a process and a temporary directory of its own.
//!
//! Owns its process, its ports and its directory; everything else is asked over the network, as [`Owner`]. The hub has a
//! process group of its own, so that Ctrl-C at a terminal is its starter's to answer, and ends when its starter does, however
//! that ends: its standard input closes.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::owner::{Owner, OwnerError};

/// Says where the hub's program is, if it is neither beside this program nor on the `PATH`.
pub const HUB_BINARY: &str = "HEARTHKEY_HUB_BINARY";

/// How long a hub may take to start or to stop on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of the hub's log an error repeats.
const LOG_TAIL_BYTES: usize = 4 * 1024;

/// A running hub. Killed when dropped; its directory goes with it. Ends by itself when this process does.
#[derive(Debug)]
pub struct LocalHub {
    home: TempDir,
    binary: PathBuf,
    ports: [u16; 3],
    child: Option<Child>,
    owner: Option<Owner>,
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalHubError {
    /// Its program is nowhere to be found.
    #[error("cannot find the hub's program: build it with `cargo build -p hearthkey`, or name it in {HUB_BINARY}")]
    NoBinary,
    /// The system refused.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It did not come up, or did not go down.
    #[error("the hub did not {what}; the end of its log: {log}")]
    Failed {
        /// start, stop.
        what: &'static str,
        /// The end of its log.
        log: String,
    },
    /// Its owner cannot act.
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

#[derive(Deserialize)]
struct Line {
    event: String,
}

impl LocalHub {
    /// Starts the hub that was built beside this program (`target/debug/hearthkey` for a test), that [`HUB_BINARY`] names,
    /// or that is on the `PATH`.
    ///
    /// # Errors
    /// [`LocalHubError`].
    pub async fn start() -> Result<Self, LocalHubError> {
        Self::start_program(find_binary().ok_or(LocalHubError::NoBinary)?).await
    }

    /// Starts the hub's program at `binary`.
    ///
    /// # Errors
    /// [`LocalHubError`].
    pub async fn start_program(binary: PathBuf) -> Result<Self, LocalHubError> {
        let home = tempfile::tempdir().map_err(system("making a temporary directory"))?;
        let mut hub = Self { home, binary, ports: free_ports(), child: None, owner: None };
        hub.start_again().await?;
        Ok(hub)
    }

    /// Its owner.
    ///
    /// # Panics
    /// Never: a hub that started has one.
    pub fn owner(&self) -> Owner {
        self.owner.clone().expect("made when it started")
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Asks it to stop, as a service manager does, and waits for its end. Nothing to do if it does not run.
    ///
    /// # Errors
    /// [`LocalHubError::Failed`] when it ends otherwise than cleanly.
    pub async fn stop(&mut self) -> Result<(), LocalHubError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(pid) = pid(child) {
            // It may have ended by itself; then its exit tells.
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        // Killed, if it did not end.
        self.child = None;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(self.failed("stop")),
        }
    }

    /// Kills it without warning, as a power cut does.
    ///
    /// # Errors
    /// [`LocalHubError::System`] when the system refuses.
    pub async fn kill(&mut self) -> Result<(), LocalHubError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let killed = child.kill().await.map_err(system("killing the hub"));
        self.child = None;
        killed
    }

    /// Starts it again with the same directory and ports; stops it first if it runs.
    ///
    /// # Errors
    /// [`LocalHubError`].
    pub async fn restart(&mut self) -> Result<(), LocalHubError> {
        self.stop().await?;
        self.start_again().await
    }

    /// Starts it after [`LocalHub::stop`] or [`LocalHub::kill`].
    ///
    /// # Errors
    /// [`LocalHubError`].
    pub async fn start_again(&mut self) -> Result<(), LocalHubError> {
        let log = std::fs::File::options().create(true).append(true).open(self.log());
        let log = log.map_err(system("opening the hub's log"))?;
        let mut command = Command::new(&self.binary);
        for variable in ["HEARTHKEY_DATA", "HEARTHKEY_CONTEXT", "HEARTHKEY_CONFIG"] {
            command.env_remove(variable);
        }
        command.args(["up", "--until-stdin-ends", "-o", "json", "--data"]).arg(self.data());
        for (option, port) in ["--https-port", "--mqtts-port", "--mqtt-port"].into_iter().zip(self.ports) {
            command.args([option, &port.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0).kill_on_drop(true);
        let doing = format!("starting {}", self.binary.display());
        let mut child = command.spawn().map_err(system(&doing))?;
        let mut said = BufReader::new(child.stdout.take().expect("piped above"));
        self.child = Some(child);
        let started = async {
            let mut line = String::new();
            while said.read_line(&mut line).await.is_ok_and(|length| length > 0) {
                if serde_json::from_str::<Line>(&line).is_ok_and(|line| line.event == "started") {
                    return true;
                }
                line.clear();
            }
            false
        };
        if tokio::time::timeout(PATIENCE, started).await != Ok(true) {
            self.kill().await?;
            return Err(self.failed("start"));
        }
        // A full pipe would stop it.
        tokio::spawn(async move {
            let mut sink = [0; 1024];
            while said.read(&mut sink).await.is_ok_and(|length| length > 0) {}
        });
        self.owner = Some(Owner::local(&self.data())?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("hub.log")
    }

    fn failed(&self, what: &'static str) -> LocalHubError {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        let tail = String::from_utf8_lossy(tail);
        let log = if tail.trim().is_empty() { "it is empty" } else { tail.trim() };
        LocalHubError::Failed { what, log: log.to_owned() }
    }
}

impl Drop for LocalHub {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let (Ok(()), Some(pid)) = (child.start_kill(), pid(&child)) {
            // What still writes to the directory would keep it from being removed. Whoever else awaits the child still may.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()?.try_into().ok()?)
}

fn find_binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(HUB_BINARY) {
        return Some(PathBuf::from(named));
    }
    let this = std::env::current_exe().ok()?;
    // A test lies in target/PROFILE/deps, a documentation test deeper in a temporary directory.
    let beside = this.ancestors().skip(1).take(2).map(Path::to_owned);
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    beside.chain(on_path).map(|dir| dir.join("hearthkey")).find(|path| path.is_file())
}

/// Ports that nobody uses, below those that the system hands out: a hub that starts again finds them free. No two calls give
/// the same.
fn free_ports() -> [u16; 3] {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    std::array::from_fn(|_| {
        loop {
            let port = fastrand::u16(10_000..32_000);
            if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                given.insert(port);
                return port;
            }
        }
    })
}

fn system(doing: &str) -> impl FnOnce(std::io::Error) -> LocalHubError + use<> {
    let doing = doing.to_owned();
    move |source| LocalHubError::System { doing, source }
}
