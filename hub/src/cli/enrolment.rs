//! What a device needs to get in, shown once: an enrolment string with its QR code, or a client secret.

use super::{
    api,
    context::{Context, shell_quoted},
    failure::{Exit, Failure},
    output::{FAINT, LITERAL, Output, STRONG, styled},
    when::{Clock, span},
};
use anstyle::{AnsiColor, Style};
use hearthkey_core::Seconds;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::Value;

/// Why a device gets a new credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It is new.
    Added,
    /// It has one already, which works on for so long after the first use of the new one.
    Rotated { overlap: Seconds },
}

pub(super) fn render(
    occasion: Occasion,
    answer: &Value,
    context: &Context,
    no_qr: bool,
    clock: &Clock,
    out: &mut Output,
) -> Result<(), Failure> {
    out.answer(answer, |out, api::Enrolment { device, enrolment, client_secret }: api::Enrolment| {
        match (occasion, device.status.as_str()) {
            (Occasion::Added, "active") => out.line(format!("{} is added, with the profile {}", device.id, device.profile))?,
            (Occasion::Added, _) => {
                out.line(format!("{} is added, with the profile {}; it has yet to enrol", device.id, device.profile))?;
            }
            (Occasion::Rotated { overlap: Seconds(0) }, _) => {
                out.line(format!("{} gets a new credential; the old one works until the new one is used", device.id))?;
            }
            (Occasion::Rotated { overlap }, _) => out.line(format!(
                "{} gets a new credential; the old one works until the new one is used, and for {} after",
                device.id,
                span(overlap.0)
            ))?,
        }
        match (enrolment, client_secret) {
            (Some(enrolment), _) => show_string(&enrolment, no_qr, clock, out),
            (None, Some(secret)) => show_secret(&device.id, &secret, context, out),
            (None, None) => Err(Failure::new(Exit::Refused, "the hub's answer holds neither an enrolment string nor a secret")
                .next(format!("hearthkey device rotate {}", device.id))),
        }
    })
}

fn show_string(enrolment: &api::EnrolmentString, no_qr: bool, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    let string = &enrolment.string;
    out.line(format!("\n  {}\n", styled(STRONG, string)))?;
    if out.is_terminal() && !no_qr {
        show_qr_code(string, out)?;
    }
    out.line(format!(
        "It lets one device in, once, until {} ({})",
        clock.time_of_day(enrolment.expires_at),
        clock.relative(enrolment.expires_at)
    ))?;
    out.line(format!(
        "{}\n  {}",
        styled(FAINT, "try it with a simulated device:"),
        styled(LITERAL, format!("hearthkey-sim device --enrol {string}"))
    ))
}

/// Dark on light whatever the terminal's colours: not every scanner reads the inverse.
fn show_qr_code(string: &str, out: &mut Output) -> Result<(), Failure> {
    // Cannot fail for a string of the wire contract; the string alone is enough to enrol.
    let Ok(code) = QrCode::with_error_correction_level(string, EcLevel::L) else { return Ok(()) };
    let has_colours = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    let (dark, light) = if has_colours { (Dense1x2::Dark, Dense1x2::Light) } else { (Dense1x2::Light, Dense1x2::Dark) };
    let style = Style::new().fg_color(Some(AnsiColor::Black.into())).bg_color(Some(AnsiColor::BrightWhite.into()));
    for line in code.render::<Dense1x2>().dark_color(dark).light_color(light).build().lines() {
        out.line(format!("  {}", styled(style, line)))?;
    }
    out.line("")
}

fn show_secret(client_id: &str, secret: &str, context: &Context, out: &mut Output) -> Result<(), Failure> {
    out.line("")?;
    // Lines and not a table: a table would break a secret in two on a narrow terminal.
    out.line(format!("  client_id      {client_id}\n  client_secret  {}", styled(STRONG, secret)))?;
    out.line("\nThe secret is shown this once: store it now")?;
    let curl = format!(
        "curl --cacert {} -u {client_id} -d grant_type=client_credentials {}",
        shell_quoted(&context.ca_file),
        context.url.join("oauth2/token").map_or_else(|_| context.url.to_string(), String::from)
    );
    out.line(format!("{}\n  {}", styled(FAINT, "try it; curl asks for the secret:"), styled(LITERAL, curl)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use serde_json::json;

    const NOW: u64 = 1_780_000_000;

    fn context() -> Context {
        Context {
            file: "local.toml".into(),
            url: "https://localhost:8443".parse().expect("a URL"),
            ca_file: "/data/ca/ca.crt".into(),
            token_file: "/data/contexts/local.token".into(),
            origin: crate::cli::context::Origin::File,
        }
    }

    fn printed(occasion: Occasion, format: Format, answer: &Value) -> String {
        let (mut out, captured) = Output::captured(format);
        render(occasion, answer, &context(), false, &Clock::standing(NOW), &mut out).expect("rendered");
        captured.text()
    }

    fn with_string() -> Value {
        json!({"device": {"id": "lamp", "profile": "switch", "status": "pending", "created_at": NOW},
            "enrolment": {"string": "hk1.AAAA", "expires_at": NOW + 900}})
    }

    #[test]
    fn a_string_comes_with_its_expiry_and_the_command_that_uses_it() {
        let text = printed(Occasion::Added, Format::Table, &with_string());
        for expected in
            ["lamp is added", "yet to enrol", "\n  hk1.AAAA\n", "20:41:40 (in 15 min)", "hearthkey-sim device --enrol hk1.AAAA"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(!text.contains('█'), "a pipe gets no QR code");
        let text = printed(Occasion::Rotated { overlap: Seconds(7_200) }, Format::Table, &with_string());
        assert!(text.contains("the old one works until the new one is used, and for 2 h after"), "{text}");
    }

    #[test]
    fn a_secret_is_shown_once_and_never_as_an_argument() {
        let answer = json!({"device": {"id": "plug", "profile": "tasmota", "status": "active", "created_at": NOW},
            "client_secret": "hk_sec_id_xyz"});
        let text = printed(Occasion::Added, Format::Table, &answer);
        assert_eq!(text.matches("hk_sec_id_xyz").count(), 1, "{text}");
        assert!(
            text.contains(
                "curl --cacert /data/ca/ca.crt -u plug -d grant_type=client_credentials https://localhost:8443/oauth2/token"
            ),
            "{text}"
        );
        let json: Value = serde_json::from_str(&printed(Occasion::Added, Format::Json, &answer)).expect("JSON");
        assert_eq!(json, answer);
    }

    #[test]
    fn the_longest_enrolment_string_fits_a_qr_code() {
        let longest = format!("hk1.{}", "A".repeat(158));
        let code = QrCode::with_error_correction_level(&longest, EcLevel::L).expect("fits");
        assert!(code.width() + 8 < 80, "and a terminal of 80 columns: {}", code.width());
        let (mut out, captured) = Output::captured(Format::Table);
        show_qr_code(&longest, &mut out).expect("drawn");
        assert!(captured.text().lines().count() > 20);
    }
}
