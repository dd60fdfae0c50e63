//! `hearthkey check`: reads a profile or a configuration as the hub would, without a hub.

use super::{
    args::{Check, FileKind},
    context::{read_text, shell_quoted},
    failure::{Exit, Failure},
    output::{Format, GOOD, Output, WAITING, styled, table},
};
use crate::{
    config::{Config, Ports},
    mqtt::Limits,
};
use hearthkey_core::{
    profile::{FilterTemplate, Grant, Profile},
    scope::PermissionName,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Read},
    path::Path,
};

/// Far more than either kind of file may have; the kind's own bound speaks first.
const MAX_INPUT_BYTES: u64 = 256 * 1024;

pub(super) fn check(args: &Check, out: &mut Output) -> Result<Exit, Failure> {
    let text = read_file_or_stdin(&args.file)?;
    match args.kind.unwrap_or_else(|| kind_of(&text)) {
        FileKind::Profile => {
            let profile = Profile::from_toml(&text).map_err(|error| not_valid(&args.file, "profile", &error))?;
            show_profile(&args.file, &profile, out)?;
        }
        FileKind::Config => {
            let config = Config::from_toml(&text).map_err(|error| not_valid(&args.file, "configuration", &error))?;
            show_config(&args.file, &config, out)?;
        }
    }
    Ok(Exit::Done)
}

/// A file that the hub would refuse.
pub(super) fn not_valid(file: &Path, kind: &str, error: &impl Display) -> Failure {
    let error = error.to_string();
    Failure::new(Exit::Refused, format!("{} is no valid {kind}: {}", named(file), error.trim_end()))
}

/// Reads a text file in one piece; `-` is standard input.
pub(super) fn read_file_or_stdin(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text).map(|_| text)
    } else {
        read_text(file).map(|text| text.to_string())
    };
    read.map_err(|error| Failure::new(Exit::Refused, format!("cannot read {}: {error}", named(file))))
}

/// What to call a file to a person.
pub(super) fn named(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

/// A profile has permissions and a name, a configuration neither. What is no TOML at all is refused by either.
fn kind_of(text: &str) -> FileKind {
    let is_profile = toml::from_str::<toml::Table>(text)
        .map_or_else(|_| text.contains("permissions"), |table| table.contains_key("permissions") || table.contains_key("name"));
    if is_profile { FileKind::Profile } else { FileKind::Config }
}

fn show_profile(file: &Path, profile: &Profile, out: &mut Output) -> Result<(), Failure> {
    if out.format() == Format::Json {
        return out.json(&json!({ "file": file, "kind": "profile", "valid": true, "name": profile.name, "warnings": [] }));
    }
    out.line(format!("{} {} is a valid profile, {}", styled(GOOD, "ok"), named(file), profile.name))?;
    let mut rules = table(["PERMISSION", "ALLOWS", "WHAT"]);
    for (permission, Grant { publish, subscribe, commands, api }) in &profile.permissions {
        let allowed = [
            ("publish", lines(publish, FilterTemplate::as_str)),
            ("subscribe", lines(subscribe, FilterTemplate::as_str)),
            ("command", commands.iter().cloned().map(String::from).collect::<Vec<_>>().join("\n")),
            ("API", lines(api, PermissionName::as_str)),
        ];
        for (allows, what) in allowed.iter().filter(|(_, what)| !what.is_empty()) {
            rules.add_row([permission.as_str(), allows, what]);
        }
    }
    out.table(rules)?;
    out.line(format!("next: hearthkey profile apply {}", shell_quoted(file)))
}

fn lines<T>(rules: &[T], text: impl Fn(&T) -> &str) -> String {
    rules.iter().map(text).collect::<Vec<_>>().join("\n")
}

fn show_config(file: &Path, config: &Config, out: &mut Output) -> Result<(), Failure> {
    let listeners = config.listeners(false, Ports::default());
    let warnings = config.warnings();
    let limits = config.limits.limits().map_err(|error| not_valid(file, "configuration", &error))?;
    if out.format() == Format::Json {
        let limits: BTreeMap<_, _> = limits.values().collect();
        return out.json(&json!({
            "file": file, "kind": "config", "valid": true, "listeners": listeners, "limits": limits, "warnings": warnings,
        }));
    }
    out.line(format!("{} {} is a valid configuration", styled(GOOD, "ok"), named(file)))?;
    let mut addresses = table(["LISTENER", "ADDRESS"]);
    addresses.add_row(["https", &listeners.https.to_string()]);
    addresses.add_row(["mqtts", &listeners.mqtts.to_string()]);
    addresses.add_row(["mqtt", &listeners.mqtt.map_or_else(|| "off".to_owned(), |address| address.to_string())]);
    out.table(addresses)?;
    for ((name, value), (_, default)) in limits.values().zip(Limits::default().values()).filter(|(ours, theirs)| ours != theirs) {
        out.line(format!("limits.{name} is {value} instead of {default}"))?;
    }
    for warning in warnings {
        out.line(format!("{} {warning}", styled(WAITING, "note")))?;
    }
    out.line(format!("next: hearthkey up --config {}", shell_quoted(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_told_by_what_it_holds() {
        assert_eq!(kind_of("name = \"x\"\n[permissions]\n"), FileKind::Profile);
        assert_eq!(kind_of("[permissions.a]\npublish = [\n"), FileKind::Profile);
        assert_eq!(kind_of("lan = true\n"), FileKind::Config);
        assert_eq!(kind_of(""), FileKind::Config);
        assert_eq!(kind_of("lan = \n"), FileKind::Config);
    }

    #[test]
    fn each_shipped_profile_is_shown_with_its_rules() {
        for profile in Profile::shipped() {
            let (mut out, printed) = Output::captured(Format::Table);
            show_profile(Path::new("p.toml"), &profile, &mut out).expect("shown");
            assert!(printed.text().starts_with(&format!("ok p.toml is a valid profile, {}", profile.name)));
            for permission in profile.permissions.keys() {
                assert!(printed.text().contains(permission.as_str()));
            }
        }
    }

    #[test]
    fn a_configuration_is_shown_with_its_listeners_and_warnings() {
        let config = Config::from_toml("[listeners]\nmqtt = \"0.0.0.0:1883\"\n[limits]\nsubscriptions = 7\n").expect("valid");
        let (mut out, printed) = Output::captured(Format::Table);
        show_config(Path::new("c.toml"), &config, &mut out).expect("shown");
        assert!(
            printed.text().contains("127.0.0.1:8443") && printed.text().contains("note listeners.mqtt"),
            "{}",
            printed.text()
        );
        assert!(printed.text().contains("limits.subscriptions is 7 instead of 128"), "{}", printed.text());
        let (mut out, printed) = Output::captured(Format::Json);
        show_config(Path::new("c.toml"), &config, &mut out).expect("shown");
        let shown: serde_json::Value = serde_json::from_str(&printed.text()).expect("JSON");
        assert_eq!(shown["warnings"].as_array().map(Vec::len), Some(1));
    }
}
