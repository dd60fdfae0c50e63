//! The home's owner, as far as a simulation needs one: a client of the hub's HTTP API (docs/api.md) like any other.
//!
//! Adds, rotates, disables and revokes devices and sends them commands, in the name of whoever holds the token. Knows
//! nothing of fleets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::enrolment::EnrolmentString;

/// A hub that takes longer is down. A command may take up to [`COMMAND_PATIENCE`] more.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a command may take until its device has answered.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// Devices that are added at the same time: a group commit of the hub takes them together.
const ADDED_AT_ONCE: usize = 8;
/// A token takes under 2 KB.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// A hub that is asked in its owner's name. A handle: clones are the same owner.
#[derive(Clone)]
pub struct Owner(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    base: Url,
    token: Zeroizing<String>,
    ca: PathBuf,
    #[cfg_attr(not(feature = "scenarios"), expect(dead_code, reason = "for MQTT"))]
    tls: Arc<ClientConfig>,
}

/// Why the hub did not do what its owner asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Not an HTTPS address.
    #[error("`{0}` is not the address of a hub: give its HTTPS address, such as https://localhost:8443")]
    Address(String),
    /// The hub does not answer.
    #[error("cannot reach the hub at {address}: {reason}; is `hearthkey up` running there?")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Something answers that the CA did not certify.
    #[error("what answers at {address} is not the hub of {}: {reason}; a hub keeps its CA certificate in ca/ca.crt in its data directory", ca.display())]
    Impostor {
        /// Where.
        address: String,
        /// Whose certificates were trusted.
        ca: PathBuf,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// No hub was ever started with this data directory.
    #[error("{}: {source}; no hub was started with this data directory: `hearthkey up --data DIR` does", path.display())]
    NoHub {
        /// What is missing.
        path: PathBuf,
        /// How that showed.
        source: std::io::Error,
    },
    /// The token is not good.
    #[error("the hub does not accept the owner's token: make another with `hearthkey pat create`")]
    Unauthorized,
    /// The hub said no.
    #[error("the hub refused to {what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its words.
        reason: String,
    },
    /// The hub said yes in a way that makes no sense.
    #[error("the hub's answer to {what} holds no {missing}")]
    BadAnswer {
        /// What was asked.
        what: String,
        /// What it should hold.
        missing: &'static str,
    },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CommandEnd {
    /// `succeeded`, `failed`, `rejected`, `expired`; something else if it had not ended when patience did.
    pub state: String,
    /// Why, where it did not succeed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What `hearthkey up` writes to `DATA/contexts/local.toml` for programs on its machine.
#[derive(Deserialize)]
struct Context {
    url: String,
    ca_file: PathBuf,
    token_file: PathBuf,
}

/// An error of the hub's API (RFC 9457).
#[derive(Default, Deserialize)]
struct Problem {
    detail: Option<String>,
}

impl Owner {
    /// The owner of the hub whose data directory this is, on the hub's own machine.
    ///
    /// # Errors
    /// [`OwnerError::NoHub`] if no hub was ever started with it, or what [`Owner::open`] says.
    pub fn local(data: &Path) -> Result<Self, OwnerError> {
        let path = data.join("contexts").join("local.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => OwnerError::NoHub { path: path.clone(), source },
            _ => OwnerError::File { path: path.clone(), source },
        })?;
        let Context { url, ca_file, token_file } =
            toml::from_str(&text).map_err(|error| OwnerError::Unfit { path, problem: error.message().to_owned() })?;
        Self::open(&url, &ca_file, &token_file)
    }

    /// The owner of the hub at `address` (HTTPS), trusted by the CA certificate in `ca` (PEM), by the token in `token_file`.
    ///
    /// # Errors
    /// [`OwnerError`]; the hub is not asked yet.
    pub fn open(address: &str, ca: &Path, token_file: &Path) -> Result<Self, OwnerError> {
        let base = Url::parse(address).ok().filter(|base| base.scheme() == "https");
        let base = base.and_then(|base| base.join("/api/v1/").ok()).ok_or_else(|| OwnerError::Address(address.to_owned()))?;
        let unfit = |problem: String| OwnerError::Unfit { path: ca.to_owned(), problem };
        let pem = std::fs::read(ca).map_err(file_error(ca))?;
        let not_a_ca = |error: &dyn std::fmt::Display| unfit(format!("not a CA certificate in PEM ({error})"));
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|error| not_a_ca(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|error| not_a_ca(&error))?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unfit(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .https_only(true)
            .no_proxy()
            .timeout(PATIENCE + COMMAND_PATIENCE)
            .build()
            .map_err(|error| unfit(innermost(&error).to_string()))?;
        let token = read_token(token_file)?;
        Ok(Self(Arc::new(Inner { client, base, token, ca: ca.to_owned(), tls: Arc::new(tls) })))
    }

    /// Adds a device that authenticates by its key; its enrolment string.
    ///
    /// # Errors
    /// [`OwnerError`]; nothing was added.
    pub async fn add_device(&self, device: &str, profile: &str) -> Result<EnrolmentString, OwnerError> {
        let what = format!("add {device}");
        let answer = self.ask(&what, Method::POST, "devices", Some(json!({ "id": device, "profile": profile }))).await?;
        enrolment_string(what, &answer)
    }

    /// Adds `PREFIX-1`, `PREFIX-2` and so on; their enrolment strings in that order. `each` is called for each.
    ///
    /// # Errors
    /// [`OwnerError`]; devices that were added before stay.
    pub async fn add_devices(
        &self,
        prefix: &str,
        count: usize,
        profile: &str,
        each: impl Fn(),
    ) -> Result<Vec<EnrolmentString>, OwnerError> {
        let (each, ids) = (&each, (1..=count).map(|number| format!("{prefix}-{number}")));
        let adding = ids.map(|id| async move {
            let added = self.add_device(&id, profile).await;
            each();
            added
        });
        futures_util::stream::iter(adding).buffered(ADDED_AT_ONCE).try_collect().await
    }

    /// Has a device make a new key: its new enrolment string. The old key goes on for the hub's grace period.
    ///
    /// # Errors
    /// [`OwnerError`]; nothing was changed.
    pub async fn rotate_device(&self, device: &str) -> Result<EnrolmentString, OwnerError> {
        let what = format!("rotate {device}");
        let answer = self.ask(&what, Method::POST, &format!("devices/{device}/rotate"), Some(json!({}))).await?;
        enrolment_string(what, &answer)
    }

    /// Revokes a device: when this returns, its session has been told to end.
    ///
    /// # Errors
    /// [`OwnerError`]; nothing was changed.
    pub async fn revoke_device(&self, device: &str) -> Result<(), OwnerError> {
        self.ask(&format!("revoke {device}"), Method::POST, &format!("devices/{device}/revoke"), None).await.map(drop)
    }

    /// Sends a command and waits for its end, at most half a minute.
    ///
    /// # Errors
    /// [`OwnerError`]; the command may have been sent, if the hub stopped meanwhile.
    pub async fn command(&self, device: &str, name: &str, args: Option<Value>) -> Result<CommandEnd, OwnerError> {
        let what = format!("send {name} to {device}");
        let ttl_s = COMMAND_PATIENCE.as_secs();
        let body = match args {
            Some(args) => json!({ "args": args, "ttl_s": ttl_s }),
            None => json!({ "ttl_s": ttl_s }),
        };
        let sent = self.ask(&what, Method::POST, &format!("devices/{device}/commands/{name}"), Some(body)).await?;
        let Some(id) = sent["id"].as_str() else { return Err(OwnerError::BadAnswer { what, missing: "id" }) };
        let ended = self.ask(&what, Method::GET, &format!("devices/{device}/commands/{id}?wait_s={ttl_s}"), None).await?;
        serde_json::from_value(ended).map_err(|_| OwnerError::BadAnswer { what, missing: "state" })
    }

    fn address(&self) -> String {
        self.0.base.origin().ascii_serialization()
    }

    pub(crate) async fn ask(&self, what: &str, method: Method, path: &str, body: Option<Value>) -> Result<Value, OwnerError> {
        let url = self.0.base.join(path).map_err(|_| OwnerError::Address(path.to_owned()))?;
        let mut request = self.0.client.request(method, url).bearer_auth(self.0.token.as_str());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(OwnerError::Unauthorized);
        }
        if !status.is_success() {
            return Err(OwnerError::Refused { what: what.to_owned(), reason: why(answer).await });
        }
        answer.json().await.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &reqwest::Error) -> OwnerError {
        let (address, cause) = (self.address(), innermost(error));
        let reason = cause.to_string();
        match cause.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(_)) => OwnerError::Impostor { address, ca: self.0.ca.clone(), reason },
            _ => OwnerError::Unreachable { address, reason },
        }
    }
}

/// What scenarios need beside the API: MQTT and the token endpoint.
#[cfg(feature = "scenarios")]
impl Owner {
    /// The owner's token.
    pub(crate) fn token(&self) -> &str {
        &self.0.token
    }

    /// TLS that trusts the home CA and nothing else.
    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.tls)
    }

    /// Sends a form to a path of the hub, such as `/oauth2/token`: status and JSON of the answer.
    pub(crate) async fn form(&self, path: &str, basic: Option<(&str, &str)>, body: Vec<u8>) -> Result<(u16, Value), OwnerError> {
        let url = self.0.base.join(path).map_err(|_| OwnerError::Address(path.to_owned()))?;
        let mut request = self.0.client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        if let Some((id, secret)) = basic {
            request = request.basic_auth(id, Some(secret));
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or_default()))
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owner({})", self.address())
    }
}

async fn why(answer: Response) -> String {
    let status = answer.status();
    let problem: Problem = answer.json().await.unwrap_or_default();
    problem.detail.unwrap_or_else(|| status.to_string())
}

fn enrolment_string(what: String, answer: &Value) -> Result<EnrolmentString, OwnerError> {
    let string = answer["enrolment"]["string"].as_str().and_then(|string| string.parse().ok());
    string.ok_or(OwnerError::BadAnswer { what, missing: "enrolment string" })
}

/// reqwest's own text hides the cause behind "error sending request".
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    loop {
        // The source of an io::Error is not what it wraps, but that one's source.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        match wrapped.map(|error| error as &(dyn std::error::Error + 'static)).or(cause.source()) {
            Some(source) => cause = source,
            None => return cause,
        }
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, OwnerError> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    let file = std::fs::File::open(path).map_err(file_error(path))?;
    let mode = file.metadata().map_err(file_error(path))?.permissions().mode() & 0o7777;
    let unfit = |problem: String| OwnerError::Unfit { path: path.to_owned(), problem };
    if mode & 0o077 != 0 {
        let remedy = format!("accessible to others (mode {mode:04o}): chmod 600 {}", path.display());
        return Err(unfit(remedy));
    }
    let mut token = Zeroizing::new(String::with_capacity(MAX_TOKEN_BYTES as usize));
    file.take(MAX_TOKEN_BYTES).read_to_string(&mut token).map_err(file_error(path))?;
    let trimmed = token.trim();
    if trimmed.is_empty() || !trimmed.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unfit("not an access token".to_owned()));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> OwnerError + use<> {
    let path = path.to_owned();
    move |source| OwnerError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn token_file(content: &str, mode: u32) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), content).expect("writable");
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).expect("ours");
        let token = read_token(file.path()).map_err(|error| error.to_string())?;
        Ok(token.to_string())
    }

    #[test]
    fn a_token_is_read_from_a_file_that_only_its_owner_reads() {
        assert_eq!(token_file("hk_pat_abc_def\n", 0o600).as_deref(), Ok("hk_pat_abc_def"));
        let refused = token_file("hk_pat_abc_def\n", 0o644).expect_err("others may read it");
        assert!(refused.contains("chmod 600"), "{refused}");
        assert!(!refused.contains("hk_pat_abc_def"), "{refused}");
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_token() {
        for content in ["", " \n", "two words", "a\r\nHost: elsewhere", "\u{fc}"] {
            assert!(token_file(content, 0o600).is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_hub_is_asked_over_https_only() {
        for address in ["", "localhost:8443", "http://localhost:8443", "ftp://hub"] {
            let refused = Owner::open(address, Path::new("/nowhere"), Path::new("/nowhere")).err();
            assert!(matches!(refused, Some(OwnerError::Address(_))), "{address}");
        }
    }

    #[test]
    fn a_directory_of_no_hub_is_named() {
        let refused = Owner::local(Path::new("/nowhere")).expect_err("nothing there");
        assert!(refused.to_string().contains("/nowhere/contexts/local.toml"), "{refused}");
    }
}
