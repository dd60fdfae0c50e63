//! `hearthkey profile …`: what devices of one kind may do.

use super::{
    api,
    args::{Profile, ProfileApply},
    check::{not_valid, read_file_or_stdin},
    client::Client,
    failure::{Exit, Failure},
    output::{Format, Output, table},
    when::span,
};
use hearthkey_core::profile::Profile as CheckedProfile;
use serde_json::Value;

pub(super) async fn run(command: Profile, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Profile::List => render_list(&client.get_all(&["profiles"], &[]).await?, out)?,
        Profile::Show { name } => {
            let path = ["profiles", name.as_str()];
            match out.format() {
                Format::Json => out.json(&client.get(&path, &[]).await?)?,
                Format::Table => {
                    let toml = client.get_toml(&path).await?;
                    out.line(toml.trim_end())?;
                }
            }
        }
        Profile::Apply(ProfileApply { file }) => {
            let toml = read_file_or_stdin(&file)?;
            let profile = CheckedProfile::from_toml(&toml).map_err(|error| not_valid(&file, "profile", &error))?;
            let answer = client.put_toml(&["profiles", profile.name.as_str()], toml).await?;
            match out.format() {
                Format::Json => out.json(&answer)?,
                Format::Table => out.line(format!(
                    "{0} holds now, for connected devices too\n  next: hearthkey device add NAME --profile {0}",
                    profile.name
                ))?,
            }
        }
    }
    Ok(Exit::Done)
}

fn render_list(answer: &Value, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, profiles: api::Items<api::ProfileSummary>| {
        let mut rows = table(["NAME", "PERMISSIONS", "TOKENS LIVE", "DESCRIPTION"]);
        for profile in profiles.items {
            rows.add_row([profile.name, profile.permissions.join(" "), span(profile.token_lifetime_s), profile.description]);
        }
        out.table(rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_tells_what_each_profile_is_for() {
        let answer = json!({"items": [{"name": "switch", "description": "A lamp, plug or relay", "token_lifetime_s": 300,
            "permissions": ["commands", "telemetry", "twin"]}]});
        let (mut out, printed) = Output::captured(Format::Table);
        render_list(&answer, &mut out).expect("rendered");
        let text = printed.text();
        assert!(text.contains("switch") && text.contains("commands telemetry twin") && text.contains("5 min"), "{text}");
        let (mut out, printed) = Output::captured(Format::Json);
        render_list(&answer, &mut out).expect("rendered");
        assert_eq!(serde_json::from_str::<Value>(&printed.text()).expect("JSON"), answer);
    }
}
