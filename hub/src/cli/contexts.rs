//! The contexts that `hearthkey login` stored, and `hearthkey context …`: list, choose, show, forget. Asks no hub.
//!
//! In `$XDG_CONFIG_HOME/hearthkey`, or `~/.config/hearthkey`:
//! ```text
//! current-context           the name of the current one; no such file: the hub of this machine
//! contexts/NAME.toml        as `context` reads it; written last and removed first, so that it never points to nothing
//! contexts/NAME.ca.pem      the CA
//! contexts/NAME.token       the token; like all of these of mode 0600
//! ```

use super::{
    args,
    context::{Context, ContextFile, ContextName, LOCAL, Origin, base_dir, read_text},
    failure::{Exit, Failure},
    output::{FAINT, Format, LITERAL, Output, facts, state_cell, styled, table},
};
use crate::data_dir::replace_file;
use comfy_table::Cell;
use reqwest::Url;
use serde_json::json;
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The contexts of this user.
#[derive(Debug)]
pub(super) struct NamedContexts {
    dir: PathBuf,
}

impl NamedContexts {
    /// Where this user's configuration belongs; none if the environment does not say.
    pub(super) fn of_this_user() -> Option<Self> {
        base_dir("XDG_CONFIG_HOME", ".config").map(|dir| Self { dir })
    }

    /// What to tell whose environment does not say.
    pub(super) fn nowhere() -> Failure {
        Failure::new(Exit::Usage, "neither HOME nor XDG_CONFIG_HOME says where contexts belong").next("--context FILE")
    }

    /// Reads a context.
    pub(super) fn read(&self, name: &ContextName) -> Result<Context, Failure> {
        Context::read(&self.path(name, "toml"), Origin::Login(name.clone()))
    }

    /// The current context; none for the hub of this machine.
    pub(super) fn current(&self) -> Result<Option<ContextName>, Failure> {
        let file = self.current_file();
        match read_text(&file) {
            Ok(name) => ContextName::parse(name.trim()).map(Some).map_err(|_| {
                Failure::new(Exit::Unreachable, format!("{} holds no name of a context", file.display()))
                    .next("hearthkey context use local, or another of `hearthkey context list`")
            }),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Failure::new(Exit::Unreachable, format!("cannot read {}: {error}", file.display()))),
        }
    }

    /// All names, in order.
    pub(super) fn names(&self) -> Result<Vec<ContextName>, Failure> {
        let dir = self.dir.join("contexts");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(Exit::Refused, format!("cannot read {}: {error}", dir.display()))),
        };
        let mut names: Vec<ContextName> = entries
            .filter_map(|entry| ContextName::parse(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?).ok())
            .filter(|name| name.as_str() != LOCAL)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Where a context of this name is, or will be.
    pub(super) fn place(&self, name: &ContextName, url: Url) -> Context {
        Context {
            file: self.path(name, "toml"),
            url,
            ca_file: self.path(name, "ca.pem"),
            token_file: self.path(name, "token"),
            origin: Origin::Login(name.clone()),
        }
    }

    /// Stores a context and makes it the current one. Each file is whole or as before, whenever the power fails.
    pub(super) fn store(&self, name: &ContextName, url: &Url, ca_pem: &str, token: &str) -> Result<(), Failure> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.dir.join("contexts"))
            .map_err(|error| unwritable(&self.dir, &error))?;
        let context = ContextFile {
            url: url.to_string(),
            ca_file: format!("{name}.ca.pem").into(),
            token_file: format!("{name}.token").into(),
        };
        let context = toml::to_string(&context).map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
        for (ending, text) in [("ca.pem", ca_pem), ("token", &format!("{token}\n")), ("toml", &context)] {
            write(&self.path(name, ending), text)?;
        }
        self.make_current(name)
    }

    /// Makes a context the current one, or the hub of this machine.
    pub(super) fn make_current(&self, name: &ContextName) -> Result<(), Failure> {
        match name.as_str() {
            LOCAL => remove_if_there(&self.current_file()).map(drop),
            name => write(&self.current_file(), &format!("{name}\n")),
        }
    }

    /// Forgets a context. Returns whether it was the current one.
    pub(super) fn remove(&self, name: &ContextName) -> Result<bool, Failure> {
        let was_current = self.current()?.as_ref() == Some(name);
        if was_current {
            remove_if_there(&self.current_file())?;
        }
        let there = ["toml", "token", "ca.pem"].map(|ending| remove_if_there(&self.path(name, ending)));
        let there = there.into_iter().collect::<Result<Vec<bool>, _>>()?;
        if there.contains(&true) {
            Ok(was_current)
        } else {
            Err(Failure::new(Exit::Refused, format!("there is no context {name}")).next("hearthkey context list"))
        }
    }

    fn path(&self, name: &ContextName, ending: &str) -> PathBuf {
        self.dir.join("contexts").join(format!("{name}.{ending}"))
    }

    fn current_file(&self) -> PathBuf {
        self.dir.join("current-context")
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    replace_file(file, text.as_bytes()).map_err(|error| Failure::new(Exit::Refused, error.to_string()))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("cannot write to {}: {error}", path.display()))
}

/// Returns whether it was there.
fn remove_if_there(file: &Path) -> Result<bool, Failure> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Failure::new(Exit::Refused, format!("cannot remove {}: {error}", file.display()))),
    }
}

pub(super) fn run(command: args::Context, global: &args::Global, out: &mut Output) -> Result<Exit, Failure> {
    let named = NamedContexts::of_this_user();
    let data = global.data.as_deref();
    let found = || Context::find(global.context.as_ref(), data, named.as_ref());
    match command {
        args::Context::Show => show(&found()?, out)?,
        args::Context::Ca => show_ca(&found()?, out)?,
        args::Context::List => list(named.as_ref(), data, out)?,
        args::Context::Use(args) => choose(named.as_ref(), &args.name, data, out)?,
        args::Context::Remove(args) => {
            let name = &args.name;
            if name.as_str() == LOCAL {
                return Err(Failure::new(Exit::Usage, "the context local is the hub's own, on this machine"));
            }
            let was_current = named.ok_or_else(NamedContexts::nowhere)?.remove(name)?;
            match out.format() {
                Format::Json => out.json(&json!({ "name": name, "removed": true, "was_current": was_current }))?,
                Format::Table => out.line(forgotten(name, was_current))?,
            }
        }
    }
    Ok(Exit::Done)
}

/// What it means that a context is gone.
pub(super) fn forgotten(name: &ContextName, was_current: bool) -> String {
    let since = if was_current { "; commands speak to the hub of this machine now" } else { "" };
    format!("the context {name} is forgotten{since}")
}

fn show(context: &Context, out: &mut Output) -> Result<(), Failure> {
    let Context { file, url, ca_file, token_file, .. } = context;
    let pin = context.ca_sha256();
    match out.format() {
        Format::Json => out.json(&json!({ "context_file": file, "url": url.as_str(), "ca_file": ca_file,
            "ca_sha256": pin.ok().map(|pin| pin.to_string()), "token_file": token_file })),
        Format::Table => {
            let path = |path: &Path| path.display().to_string();
            let told_pin = pin.as_ref().map_or_else(|_| "-".to_owned(), ToString::to_string);
            out.table(facts([
                ("hub", url.to_string()),
                ("context", path(file)),
                ("CA certificate", path(ca_file)),
                ("CA SHA-256", told_pin),
                ("token", path(token_file)),
            ]))?;
            if let Ok(pin) = pin {
                let address = reachable_address(url);
                out.line(format!(
                    "{}\n  {}",
                    styled(FAINT, "from another machine:"),
                    styled(LITERAL, format!("hearthkey login {address} --ca-sha256 {pin}"))
                ))?;
            }
            Ok(())
        }
    }
}

/// The address as another machine would name it; `HUB` where this machine's own name for it is of no use there.
fn reachable_address(url: &Url) -> String {
    match url.host_str() {
        Some("localhost" | "127.0.0.1" | "[::1]") => format!("https://HUB:{}", url.port_or_known_default().unwrap_or(443)),
        _ => url.to_string(),
    }
}

fn show_ca(context: &Context, out: &mut Output) -> Result<(), Failure> {
    let pem = context.ca_certificate()?;
    let pin = context.ca_sha256()?.to_string();
    match out.format() {
        Format::Json => out.json(&json!({ "certificate": pem.as_str(), "sha256": pin })),
        Format::Table => {
            out.text(&pem)?;
            out.note(styled(FAINT, format!("SHA-256 {pin}")));
            Ok(())
        }
    }
}

fn list(named: Option<&NamedContexts>, data: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    let current = named.map(NamedContexts::current).transpose()?.flatten();
    let names = named.map(NamedContexts::names).transpose()?.unwrap_or_default();
    let local = ContextName::parse(LOCAL).ok().zip(Context::local(data).ok().map(Ok));
    let others = names.into_iter().filter_map(|name| {
        let context = named?.read(&name);
        Some((name, context))
    });
    let mut items = Vec::new();
    for (name, context) in local.into_iter().chain(others) {
        let is_current = current.as_ref().map_or(LOCAL, ContextName::as_str) == name.as_str();
        let (url, fault) = match context {
            Ok(context) => (Some(context.url.to_string()), None),
            Err(failure) => (None, Some(failure.to_string())),
        };
        items.push((name, url, is_current, fault));
    }
    if out.format() == Format::Json {
        let items: Vec<_> = items
            .iter()
            .map(|(name, url, current, fault)| json!({ "name": name, "url": url, "current": current, "fault": fault }))
            .collect();
        return out.json(&json!({ "items": items }));
    }
    if items.is_empty() {
        return out
            .line("there is no context yet\n  next: hearthkey up, or hearthkey login URL if the hub runs on another machine");
    }
    let mut rows = table(["NAME", "CURRENT", "HUB"]);
    for (name, url, current, fault) in items {
        let hub = url.or(fault).unwrap_or_default();
        rows.add_row([Cell::new(name), state_cell(if current { "yes" } else { "no" }), Cell::new(hub)]);
    }
    out.table(rows)
}

fn choose(named: Option<&NamedContexts>, name: &ContextName, data: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    let named = named.ok_or_else(NamedContexts::nowhere)?;
    let url = match name.as_str() {
        // A hub that has not started yet may be chosen all the same.
        LOCAL => Context::local(data).ok().map(|context| context.url.to_string()),
        _ => Some(named.read(name)?.url.to_string()),
    };
    named.make_current(name)?;
    match out.format() {
        Format::Json => out.json(&json!({ "name": name, "url": url, "current": true })),
        Format::Table => out.line(match url {
            Some(url) => format!("commands speak to {name}, {url}, from now on"),
            None => format!("commands speak to {name}, the hub of this machine, from now on\n  next: hearthkey up"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::context::ContextRef;
    use hearthkey_certs::HomeCa;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> ContextName {
        ContextName::parse(text).expect("a name")
    }

    fn url() -> Url {
        Url::parse("https://hub.local:8443").expect("a URL")
    }

    fn ca_pem(home: &Path) -> String {
        let now = rustls::pki_types::UnixTime::now();
        HomeCa::load_or_create(&home.join("ca"), now).expect("a CA").certificate_pem().to_owned()
    }

    fn stored(home: &Path) -> NamedContexts {
        let named = NamedContexts { dir: home.join("config/hearthkey") };
        named.store(&name("cottage"), &url(), &ca_pem(home), "hk_pat_x").expect("stored");
        named
    }

    #[test]
    fn a_login_is_kept_for_its_owners_eyes_and_found_without_being_named() {
        let home = tempfile::tempdir().expect("a directory");
        let named = stored(home.path());
        let context = Context::find(None, None, Some(&named)).expect("the current one");
        assert_eq!(context.origin, Origin::Login(name("cottage")));
        assert_eq!((context.url.as_str(), context.token().expect("read").as_str()), ("https://hub.local:8443/", "hk_pat_x"));
        assert!(context.trust().is_ok());
        for file in [&context.file, &context.token_file] {
            assert_eq!(fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&named.dir).expect("there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_said_on_the_command_line_goes_before_the_current_context() {
        let home = tempfile::tempdir().expect("a directory");
        let named = stored(home.path());
        let other = home.path().join("other.toml");
        fs::write(&other, "url = \"https://other\"\nca_file = \"ca\"\ntoken_file = \"token\"\n").expect("written");
        let found = |wanted: Option<&ContextRef>, data: Option<&Path>| {
            Context::find(wanted, data, Some(&named)).map(|context| context.url.to_string())
        };
        assert_eq!(found(Some(&ContextRef::File(other)), None).expect("the file"), "https://other/");
        let data = home.path().join("data");
        assert_eq!(
            found(Some(&ContextRef::Named(name("cottage"))), Some(&data)).expect("before --data"),
            "https://hub.local:8443/"
        );
        let failure = found(None, Some(&data)).expect_err("no such data directory, and nothing else instead");
        assert!(failure.to_string().contains(&data.display().to_string()), "{failure}");
        let failure = found(Some(&ContextRef::Named(name("elsewhere"))), None).expect_err("unknown");
        assert!(failure.to_string().contains("there is no context elsewhere\n  next: hearthkey context list"), "{failure}");
    }

    #[test]
    fn the_hub_of_this_machine_can_be_chosen_again() {
        let home = tempfile::tempdir().expect("a directory");
        let named = stored(home.path());
        assert_eq!(named.current().expect("read"), Some(name("cottage")));
        named.make_current(&name(LOCAL)).expect("chosen");
        assert_eq!(named.current().expect("read"), None);
        assert_eq!(named.names().expect("read"), [name("cottage")], "still there");
    }

    #[test]
    fn a_context_that_is_forgotten_leaves_nothing_behind() {
        let home = tempfile::tempdir().expect("a directory");
        let named = stored(home.path());
        named.store(&name("home"), &url(), &ca_pem(home.path()), "hk_pat_y").expect("stored");
        assert!(!named.remove(&name("cottage")).expect("removed"), "home is the current one");
        assert!(named.remove(&name("home")).expect("removed"));
        assert_eq!(named.current().expect("read"), None);
        assert_eq!(fs::read_dir(named.dir.join("contexts")).expect("there").count(), 0);
        assert!(named.remove(&name("home")).expect_err("gone").to_string().contains("there is no context home"));
    }

    #[test]
    fn a_context_is_shown_with_what_another_machine_needs_to_log_in() {
        let home = tempfile::tempdir().expect("a directory");
        let context = stored(home.path()).read(&name("cottage")).expect("read");
        let pin = context.ca_sha256().expect("a hash").to_string();
        let (mut out, printed) = Output::captured(Format::Table);
        show(&context, &mut out).expect("shown");
        assert!(
            printed.text().contains(&format!("hearthkey login https://hub.local:8443/ --ca-sha256 {pin}")),
            "{}",
            printed.text()
        );
        let (mut out, printed) = Output::captured(Format::Json);
        show(&context, &mut out).expect("shown");
        let shown: serde_json::Value = serde_json::from_str(&printed.text()).expect("JSON");
        assert_eq!((shown["ca_sha256"].as_str(), shown["url"].as_str()), (Some(pin.as_str()), Some("https://hub.local:8443/")));
        assert!(!printed.text().contains("hk_pat"));
        assert_eq!(reachable_address(&"https://localhost:9443".parse().expect("a URL")), "https://HUB:9443");
    }

    #[test]
    fn a_list_shows_the_current_one_and_what_is_broken() {
        let home = tempfile::tempdir().expect("a directory");
        let named = stored(home.path());
        fs::write(named.path(&name("broken"), "toml"), "url = 3").expect("written");
        let data = home.path().join("none");
        let (mut out, printed) = Output::captured(Format::Json);
        list(Some(&named), Some(&data), &mut out).expect("listed");
        let shown: serde_json::Value = serde_json::from_str(&printed.text()).expect("JSON");
        let items = shown["items"].as_array().expect("a list");
        assert_eq!(items.len(), 2);
        assert!(items[0]["fault"].as_str().expect("a text").contains("line 1"));
        assert_eq!((&items[1]["name"], &items[1]["current"]), (&json!("cottage"), &json!(true)));
    }
}
