//! Which hub the command line speaks to, and with which token. Finds and reads the files; sends nothing.
//!
//! The hub writes `DATA/contexts/local.toml` when it starts; `hearthkey login` writes the like of it (see `contexts`):
//! ```toml
//! url = "https://localhost:8443"
//! ca_file = "../ca/ca.crt"           # relative to this file, or absolute
//! token_file = "local.token"         # mode 0600; the token alone
//! ```

use super::{
    contexts::NamedContexts,
    failure::{Exit, Failure},
    trust::{CaPin, Trust},
};
use hearthkey_core::DeviceId;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::{
    env, fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// A context, a CA certificate or a token is far smaller; more is another file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What a context file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    /// Where the hub's HTTPS API is, such as `https://localhost:8443`.
    pub url: String,
    /// The home CA's certificate, PEM: the only one that is trusted.
    pub ca_file: PathBuf,
    /// The file that holds a personal access token and nothing else.
    pub token_file: PathBuf,
}

/// Where the context file of a data directory is.
#[must_use]
pub fn local_context_file(data: &Path) -> PathBuf {
    data.join("contexts").join("local.toml")
}

/// The name of a context; the alphabet of a device id, so it is a harmless file name too.
pub(super) type ContextName = DeviceId;

/// The name of the context of the hub on this machine.
pub(super) const LOCAL: &str = "local";

/// How `--context` names a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContextRef {
    /// One that `hearthkey login` stored, or `local`.
    Named(ContextName),
    /// A file in the form of a [`ContextFile`].
    File(PathBuf),
}

/// Where the hub keeps its data unless told otherwise: `$XDG_DATA_HOME/hearthkey`, or `~/.local/share/hearthkey`.
///
/// # Errors
/// [`Failure`] if neither variable is set.
pub fn default_data_dir() -> Result<PathBuf, Failure> {
    base_dir("XDG_DATA_HOME", ".local/share")
        .ok_or_else(|| Failure::new(Exit::Usage, "neither HOME nor XDG_DATA_HOME says where data belongs").next("add --data DIR"))
}

/// This program's part of a directory of the XDG Base Directory Specification; relative paths do not count.
pub(super) fn base_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home))).map(|base| base.join("hearthkey"))
}

/// Who wrote a context, and so who can renew it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The hub of a data directory on this machine.
    Hub {
        /// What starts that hub.
        up: String,
    },
    /// `hearthkey login`.
    Login(ContextName),
    /// Somebody by hand.
    File,
}

/// A context that was found and read, apart from its secret.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// The file that said so.
    pub(super) file: PathBuf,
    /// Where the hub is.
    pub(super) url: Url,
    /// The home CA's certificate.
    pub(super) ca_file: PathBuf,
    /// Where the token is.
    pub(super) token_file: PathBuf,
    /// Who wrote it.
    pub(super) origin: Origin,
}

impl Context {
    /// Reads the context that is named, or that of the data directory, or the current one, or the local one: the first of
    /// these that was said.
    pub(super) fn find(wanted: Option<&ContextRef>, data: Option<&Path>, named: Option<&NamedContexts>) -> Result<Self, Failure> {
        match (wanted, data) {
            (Some(ContextRef::File(file)), _) => Self::read(file, Origin::File),
            (Some(ContextRef::Named(name)), _) if name.as_str() == LOCAL => Self::local(data),
            (Some(ContextRef::Named(name)), _) => match named {
                Some(named) => named.read(name),
                None => Err(NamedContexts::nowhere()),
            },
            (None, Some(data)) => Self::local(Some(data)),
            (None, None) => match named.map(NamedContexts::current).transpose()?.flatten().zip(named) {
                Some((name, named)) => named.read(&name),
                None => Self::local(None),
            },
        }
    }

    /// Reads the context of the hub on this machine.
    pub(super) fn local(data: Option<&Path>) -> Result<Self, Failure> {
        let (data, up) = match data {
            Some(data) => (data.to_owned(), format!("hearthkey up --data {}", shell_quoted(data))),
            None => (default_data_dir()?, "hearthkey up".to_owned()),
        };
        match fs::metadata(&data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
                Exit::Unreachable,
                format!("there is no hub yet: its data directory {} does not exist", data.display()),
            )
            .next(up)
            .next("--data DIR or HEARTHKEY_DATA, if the hub keeps its data elsewhere")
            .next("hearthkey login URL, if it runs on another machine")),
            _ => Self::read(&local_context_file(&data), Origin::Hub { up }),
        }
    }

    /// Reads a context file.
    pub(super) fn read(file: &Path, origin: Origin) -> Result<Self, Failure> {
        let text = read_text(file).map_err(|error| match (error.kind(), &origin) {
            (io::ErrorKind::NotFound, Origin::Hub { up }) => Failure::new(
                Exit::Unreachable,
                format!("there is no context file {}: the hub writes it when it starts", file.display()),
            )
            .next(up),
            (io::ErrorKind::NotFound, Origin::Login(name)) => {
                Failure::new(Exit::Unreachable, format!("there is no context {name}")).next("hearthkey context list")
            }
            _ => unreadable(file, &error, &origin),
        })?;
        let faulty = |detail: String| {
            Failure::new(Exit::Unreachable, format!("{} is no context: {detail}", file.display()))
                .next(format!("{}, or correct the file", origin.renewal()))
        };
        let context: ContextFile = toml::from_str(&text).map_err(|error| faulty(error.to_string().trim_end().to_owned()))?;
        let url = Url::parse(&context.url).map_err(|error| faulty(format!("url = \"{}\": {error}", context.url)))?;
        if url.scheme() != "https" || url.cannot_be_a_base() {
            return Err(faulty(format!("url = \"{}\": a token travels over https:// only", context.url)));
        }
        let beside = file.parent().unwrap_or(Path::new("."));
        let resolved = |path: PathBuf| {
            let path = beside.join(path);
            path.canonicalize().unwrap_or(path)
        };
        Ok(Self {
            file: file.to_owned(),
            url,
            ca_file: resolved(context.ca_file),
            token_file: resolved(context.token_file),
            origin,
        })
    }

    /// The home CA's certificate, PEM.
    pub(super) fn ca_certificate(&self) -> Result<Zeroizing<String>, Failure> {
        read_text(&self.ca_file).map_err(|error| unreadable(&self.ca_file, &error, &self.origin))
    }

    /// By what the hub is known.
    pub(super) fn trust(&self) -> Result<Trust, Failure> {
        Trust::in_pem(&self.ca_certificate()?).map_err(|why| {
            Failure::new(Exit::Unreachable, format!("{} is no CA certificate: {why}", self.ca_file.display()))
                .next(format!("{}, or correct ca_file of the context", self.origin.renewal()))
        })
    }

    /// The SHA-256 of the home CA's certificate.
    pub(super) fn ca_sha256(&self) -> Result<CaPin, Failure> {
        self.trust().map(|trust| trust.sha256())
    }

    /// The token.
    pub(super) fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let text = read_text(&self.token_file).map_err(|error| unreadable(&self.token_file, &error, &self.origin))?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    /// What starts the hub.
    pub(super) fn start(&self) -> String {
        match &self.origin {
            Origin::Hub { up } => up.clone(),
            Origin::Login(_) | Origin::File => "hearthkey up, on the hub's machine".to_owned(),
        }
    }

    /// What gives the context a fresh token.
    pub(super) fn renewal(&self) -> String {
        match &self.origin {
            Origin::Login(name) => format!("hearthkey login {} --context {name}", self.url),
            origin => origin.renewal(),
        }
    }
}

impl Origin {
    /// What writes the context anew.
    fn renewal(&self) -> String {
        match self {
            Self::Hub { .. } => "restart the hub, which writes it anew".to_owned(),
            Self::Login(name) => format!("hearthkey login URL --context {name}"),
            Self::File => "another context, with --context".to_owned(),
        }
    }
}

/// Reads a small file in one piece.
pub(super) fn read_text(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let read = fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    match read as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes"))),
        false => Ok(text),
    }
}

fn unreadable(file: &Path, error: &io::Error, origin: &Origin) -> Failure {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Failure::new(Exit::Unreachable, format!("cannot read {}: {error}", file.display())).next(origin.renewal());
    }
    if !matches!(origin, Origin::Hub { .. }) {
        return Failure::new(Exit::Unreachable, format!("this user may not read {}", file.display()));
    }
    let failure = Failure::new(
        Exit::Unreachable,
        format!("{} may be read by the user who runs the hub only, and that is not you", file.display()),
    );
    match owner_of(file) {
        Some(owner) => failure.next(format!("sudo -u {owner} hearthkey …")),
        None => failure.next("run this as the user who runs the hub"),
    }
}

/// The owner of a file, or of the closest directory above it that can be looked at: a name, or `#` and a number for sudo.
fn owner_of(file: &Path) -> Option<String> {
    let uid = file.ancestors().find_map(|path| fs::metadata(path).ok())?.uid().to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| format!("'#{uid}'")))
}

/// A path that can be pasted into a shell.
pub(super) fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: Result<Context, Failure>) -> (Exit, String) {
        let failure = failure.expect_err("a fault");
        (failure.exit(), failure.to_string())
    }

    #[test]
    fn a_context_names_its_files_relative_to_itself() {
        let home = tempfile::tempdir().expect("a directory");
        let file = local_context_file(home.path());
        fs::create_dir(home.path().join("contexts")).expect("created");
        fs::write(&file, "url = \"https://localhost:8443\"\nca_file = \"../ca/ca.crt\"\ntoken_file = \"local.token\"\n")
            .expect("written");
        fs::write(home.path().join("contexts/local.token"), "hk_pat_x\n").expect("written");
        let context = Context::find(None, Some(home.path()), None).expect("found");
        assert_eq!(context.token().expect("read").as_str(), "hk_pat_x");
        assert_eq!(context.ca_file, home.path().join("contexts/../ca/ca.crt"), "not there yet, so as it is written");
        assert_eq!(
            Context::find(Some(&ContextRef::File(file.clone())), None, None).expect("named").url.as_str(),
            "https://localhost:8443/"
        );
    }

    #[test]
    fn what_the_hub_writes_is_what_is_read() {
        let written = ContextFile {
            url: "https://localhost:8443".to_owned(),
            ca_file: "/data/ca/ca.crt".into(),
            token_file: "/data/contexts/local.token".into(),
        };
        let text = toml::to_string(&written).expect("plain texts");
        assert_eq!(toml::from_str::<ContextFile>(&text), Ok(written));
    }

    #[test]
    fn a_hub_that_never_started_is_told_with_the_command_that_starts_it() {
        let home = tempfile::tempdir().expect("a directory");
        let missing = home.path().join("none here");
        let (exit, text) = told(Context::find(None, Some(&missing), None));
        assert_eq!(exit, Exit::Unreachable);
        assert!(text.contains("does not exist"), "{text}");
        assert!(text.contains(&format!("next: hearthkey up --data '{}'", missing.display())), "{text}");
        let (exit, text) = told(Context::find(None, Some(home.path()), None));
        assert_eq!(exit, Exit::Unreachable);
        assert!(text.contains("local.toml") && text.contains("next: hearthkey up"), "{text}");
    }

    #[test]
    fn a_token_never_travels_without_tls() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("home.toml");
        fs::write(&file, "url = \"http://localhost:8443\"\nca_file = \"ca\"\ntoken_file = \"token\"\n").expect("written");
        let (_, text) = told(Context::find(Some(&ContextRef::File(file.clone())), None, None));
        assert!(text.contains("https:// only"), "{text}");
        fs::write(&file, "url = \"https://localhost\"\nca_file = \"ca\"\ntoken = \"hk_pat_x\"\n").expect("written");
        let (_, text) = told(Context::find(Some(&ContextRef::File(file.clone())), None, None));
        assert!(text.contains("line 3"), "{text}");
    }

    #[test]
    fn the_owner_of_a_file_is_named_even_if_the_file_cannot_be_seen() {
        let home = tempfile::tempdir().expect("a directory");
        let there = owner_of(home.path()).expect("an owner");
        assert_eq!(owner_of(&home.path().join("no/such/file")), Some(there));
    }

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(shell_quoted(Path::new("/srv/hearthkey")), "/srv/hearthkey");
        assert_eq!(shell_quoted(Path::new("/srv/it's here")), r"'/srv/it'\''s here'");
    }
}
