//! A server as a process of its own: started, loaded, watched, ended.

use crate::load::{Connection, Load};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Which server a child process is.
pub(crate) const ROLE: &str = "HEARTHKEY_BENCH_ROLE";
/// Clients of each kind: as many as it takes to use up all the assertions that the hub remembers.
pub(crate) const CLIENTS: usize =
    hearthkey_core::limits::MAX_USED_ASSERTIONS / hearthkey_core::limits::MAX_USED_ASSERTIONS_PER_CLIENT;

const OIDC_PROVIDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/token/oidc-provider");

/// What a server tells its parent, as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) name: String,
    pub(crate) plain: SocketAddr,
    pub(crate) token_path: String,
    pub(crate) issuer: String,
    pub(crate) by_secret: Vec<SecretClient>,
    pub(crate) by_key: Vec<KeyClient>,
    #[serde(default)]
    pub(crate) tls: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) ca_pem: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SecretClient {
    pub(crate) id: String,
    pub(crate) secret: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct KeyClient {
    pub(crate) id: String,
    /// PKCS #8, base64.
    pub(crate) key: String,
}

pub(crate) struct Measured {
    pub(crate) per_second: f64,
    /// CPU time of the server, user and system, per request.
    pub(crate) cpu_us: f64,
}

pub(crate) struct Server {
    child: Child,
    pub(crate) serving: Serving,
}

impl Server {
    /// This program in another role.
    pub(crate) fn start(role: &str) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        Self::spawn(Command::new(this).env(ROLE, role))
    }

    /// node oidc-provider, at the version of its lock file; why not, and what to do about it.
    pub(crate) fn start_oidc_provider() -> Result<Self, String> {
        if !Path::new(OIDC_PROVIDER).join("node_modules/oidc-provider").is_dir() {
            return Err(format!("it is not installed; run `npm ci --prefix {OIDC_PROVIDER}`"));
        }
        let mut node = Command::new("node");
        node.arg("server.mjs").current_dir(OIDC_PROVIDER).env("CLIENTS", CLIENTS.to_string()).env("NODE_ENV", "production");
        // It warns of its in-memory adapter, which is what we want here.
        Self::spawn(node.stderr(Stdio::null()))
    }

    fn spawn(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
        read.map_err(|error| error.to_string())?;
        let serving = serde_json::from_str(&line).map_err(|error| format!("it did not start: {error}: {line}"))?;
        Ok(Self { child, serving })
    }

    pub(crate) fn measure(&self, load: &Load<'_>, count: usize, connection: Connection) -> Measured {
        let (mut cpu_before, count) = (0.0, count.max(1));
        let elapsed = load.run(&self.serving, count, connection, || cpu_before = self.cpu_us());
        let cpu = self.cpu_us() - cpu_before;
        Measured { per_second: count as f64 / elapsed.as_secs_f64(), cpu_us: cpu / count as f64 }
    }

    /// User and system time so far, in clock ticks of 10 ms.
    fn cpu_us(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
        ticks * 10_000.0
    }

    pub(crate) fn memory_mb(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).expect("a number").parse::<f64>().expect("a number") / 1_024.0
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("Linux, and the server runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
