//! Where a secret goes that the hub gives once: to the terminal, alone to a pipe, or into a file of mode 0600.

use super::{
    args::OutArg,
    failure::{Exit, Failure},
    output::{Format, Output, STRONG, styled},
};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Whether a file of that name may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// It holds another secret, which would be lost.
    Keep,
    /// It holds the secret that this one replaces.
    Replace,
}

/// A place that was found fit before the hub is asked: a secret that cannot be kept would be lost.
pub(super) struct Destination {
    file: Option<(NamedTempFile, PathBuf, Earlier)>,
}

impl Destination {
    /// Makes sure that a file can be written, if one was named.
    pub(super) fn prepare(out: &OutArg, earlier: Earlier) -> Result<Self, Failure> {
        let Some(path) = &out.out else { return Ok(Self { file: None }) };
        let refused = |why: String| Failure::new(Exit::Refused, format!("cannot write {}: {why}", path.display()));
        if earlier == Earlier::Keep && path.exists() {
            return Err(refused("it exists".to_owned()).next("another name, with --out"));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Mode 0600 from the start.
        let file = NamedTempFile::new_in(dir).map_err(|error| refused(error.to_string()))?;
        Ok(Self { file: Some((file, path.clone(), earlier)) })
    }

    /// Delivers the secret of an answer. `told` is what people are told beside it; `undo` what to type if the file cannot be
    /// written after all.
    pub(super) fn deliver(self, answer: &Value, secret: &str, told: &str, undo: &str, out: &mut Output) -> Result<(), Failure> {
        let stored = self.file.map(|(mut file, path, earlier)| -> Result<PathBuf, Failure> {
            let written = file.write_all(format!("{secret}\n").as_bytes()).and_then(|()| file.as_file().sync_all());
            let kept = written.and_then(|()| match earlier {
                Earlier::Keep => file.persist_noclobber(&path).map_err(|error| error.error),
                Earlier::Replace => file.persist(&path).map_err(|error| error.error),
            });
            kept.map_err(|error| {
                Failure::new(Exit::Refused, format!("the secret is lost, {} cannot be written: {error}", path.display()))
                    .next(undo)
            })?;
            Ok(path)
        });
        let stored = stored.transpose()?;
        match (out.format(), stored) {
            (Format::Json, None) => out.json(answer),
            (Format::Json, Some(path)) => {
                let mut answer = answer.clone();
                if let Some(fields) = answer.as_object_mut() {
                    fields.remove("secret");
                    fields.insert("secret_file".to_owned(), json!(path));
                }
                out.json(&answer)
            }
            (Format::Table, Some(path)) => out.line(format!("{told}\nThe secret is in {}, and nowhere else", path.display())),
            (Format::Table, None) if out.is_terminal() => {
                out.line(told)?;
                out.line(format!("\n  {}\n\nIt is shown this once: store it now", styled(STRONG, secret)))
            }
            // `TOKEN=$(hearthkey pat create …)` gets the secret and nothing else.
            (Format::Table, None) => {
                out.note(told);
                out.line(secret)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    const SECRET: &str = "hk_pat_0aB3dE6gH9jK_x";

    fn delivered(format: Format, path: Option<&Path>, earlier: Earlier) -> Result<String, Failure> {
        let answer = json!({"credential": {"id": "0aB3dE6gH9jK"}, "secret": SECRET});
        let destination = Destination::prepare(&OutArg { out: path.map(Path::to_owned) }, earlier)?;
        let (mut out, printed) = Output::captured(format);
        destination.deliver(&answer, SECRET, "it is made", "hearthkey pat revoke 0aB3dE6gH9jK", &mut out)?;
        Ok(printed.text())
    }

    #[test]
    fn a_file_takes_the_secret_and_nobody_else_may_read_it() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("backup.token");
        for format in [Format::Table, Format::Json] {
            let text = delivered(format, Some(&file), Earlier::Replace).expect("delivered");
            assert!(!text.contains(SECRET) && text.contains("backup.token"), "{text}");
            assert_eq!(fs::read_to_string(&file).expect("there"), format!("{SECRET}\n"));
            assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn another_secret_is_never_overwritten_and_a_place_that_is_none_is_told_before_the_hub_is_asked() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("backup.token");
        fs::write(&file, "another").expect("written");
        let failure = delivered(Format::Table, Some(&file), Earlier::Keep).expect_err("it exists");
        assert!(failure.to_string().contains("it exists"), "{failure}");
        assert_eq!(fs::read_to_string(&file).expect("there"), "another");
        assert!(delivered(Format::Table, Some(&home.path().join("no/such/dir")), Earlier::Keep).is_err());
    }

    #[test]
    fn without_a_file_it_is_in_the_json_or_on_a_line_of_its_own() {
        let text = delivered(Format::Table, None, Earlier::Keep).expect("delivered");
        assert_eq!(text, format!("it is made\n{SECRET}\n"));
        let text = delivered(Format::Json, None, Earlier::Keep).expect("delivered");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["secret"], SECRET);
    }
}
