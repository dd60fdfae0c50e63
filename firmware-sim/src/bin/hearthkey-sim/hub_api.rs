//! The one request that the simulator makes as the home's owner: adding a device. Knows no other API of the hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hearthkey_sim::EnrolmentString;
use reqwest::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

/// A hub that takes longer is down.
const PATIENCE: Duration = Duration::from_secs(10);
/// A token takes under 2 KB.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// A hub that is asked in the owner's name.
pub(crate) struct HubApi {
    client: reqwest::Client,
    devices_url: reqwest::Url,
    owner_token: Zeroizing<String>,
}

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubApiError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}", path.display())]
    Unfit { path: PathBuf, problem: String },
    #[error("`{0}` is not the address of a hub: give its HTTPS address, such as https://localhost:8443")]
    Address(String),
    #[error("cannot reach the hub at {address}: {reason}; is `hearthkey up` running, and is --ca its CA certificate?")]
    Unreachable { address: String, reason: String },
    #[error("the hub does not accept the owner's token: make another with `hearthkey pat create`")]
    Unauthorized,
    #[error("the hub refused to add {device}: {reason}")]
    Refused { device: String, reason: String },
    #[error("the hub's answer for {device} holds no enrolment string")]
    NoEnrolment { device: String },
}

#[derive(Deserialize)]
struct Added {
    /// Absent for devices that authenticate otherwise than by a key.
    enrolment: Option<Enrolment>,
}

#[derive(Deserialize)]
struct Enrolment {
    string: Zeroizing<String>,
}

/// An error of the hub's API (RFC 9457).
#[derive(Default, Deserialize)]
struct Problem {
    detail: Option<String>,
}

impl HubApi {
    /// The hub at `address`, trusted by the CA certificate in `ca`, asked with the token in `token_file`.
    pub(crate) fn open(address: &str, ca: &Path, token_file: &Path) -> Result<Self, HubApiError> {
        let not_an_address = || HubApiError::Address(address.to_owned());
        let devices_url =
            reqwest::Url::parse(address).and_then(|base| base.join("/api/v1/devices")).map_err(|_| not_an_address())?;
        if devices_url.scheme() != "https" {
            return Err(not_an_address());
        }
        let pem = std::fs::read(ca).map_err(file_error(ca))?;
        let certificate = reqwest::Certificate::from_pem(&pem).map_err(|error| HubApiError::Unfit {
            path: ca.to_owned(),
            problem: format!("not a certificate in PEM ({error})"),
        })?;
        let client = reqwest::Client::builder()
            .tls_certs_only([certificate])
            .https_only(true)
            .timeout(PATIENCE)
            .build()
            .map_err(|error| HubApiError::Unfit { path: ca.to_owned(), problem: innermost(&error) })?;
        Ok(Self { client, devices_url, owner_token: read_token(token_file)? })
    }

    /// Adds a device and answers its enrolment string.
    pub(crate) async fn add_device(&self, device: &str, profile: &str) -> Result<EnrolmentString, HubApiError> {
        let answer = self
            .client
            .post(self.devices_url.clone())
            .bearer_auth(self.owner_token.as_str())
            .json(&serde_json::json!({ "id": device, "profile": profile }))
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(HubApiError::Unauthorized);
        }
        if !status.is_success() {
            let problem: Problem = answer.json().await.unwrap_or_default();
            return Err(HubApiError::Refused {
                device: device.to_owned(),
                reason: problem.detail.unwrap_or_else(|| status.to_string()),
            });
        }
        let added: Added = answer.json().await.map_err(|error| self.unreachable(&error))?;
        let string = added.enrolment.and_then(|enrolment| enrolment.string.parse().ok());
        string.ok_or_else(|| HubApiError::NoEnrolment { device: device.to_owned() })
    }

    fn unreachable(&self, error: &reqwest::Error) -> HubApiError {
        HubApiError::Unreachable { address: self.devices_url.origin().ascii_serialization(), reason: innermost(error) }
    }
}

/// reqwest's own text hides the cause behind "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, HubApiError> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    let file = std::fs::File::open(path).map_err(file_error(path))?;
    let mode = file.metadata().map_err(file_error(path))?.permissions().mode() & 0o7777;
    let unfit = |problem: String| HubApiError::Unfit { path: path.to_owned(), problem };
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

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> HubApiError + use<> {
    let path = path.to_owned();
    move |source| HubApiError::File { path, source }
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
            let refused = HubApi::open(address, Path::new("/nowhere"), Path::new("/nowhere")).err();
            assert!(matches!(refused, Some(HubApiError::Address(_))), "{address}");
        }
    }
}
