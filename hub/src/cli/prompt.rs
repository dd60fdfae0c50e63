//! Asks whoever sits at the terminal: for a password, which is not shown, or for a line, which is. Passwords come from a
//! file or standard input as well, and never from the command line.

use super::{
    check::named,
    context::read_text,
    failure::{Exit, Failure},
};
use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
};
use zeroize::Zeroizing;

/// A passphrase is far shorter; more is another file.
const MAX_PASSWORD_BYTES: u64 = 4_096;
/// After that many slips something else is wrong.
const MAX_ATTEMPTS: usize = 3;

/// A password that exists.
pub(super) fn password(whose: &str, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(file) => in_file(file),
        None => ask_unseen(&format!("password of {whose}: ")),
    }
}

/// A password that is to be: typed twice.
pub(super) fn fresh_password(whose: &str, file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    if let Some(file) = file {
        return in_file(file);
    }
    let first = ask_unseen(&format!("new password of {whose}: "))?;
    if ask_unseen("once more: ")? == first {
        Ok(first)
    } else {
        Err(Failure::new(Exit::Usage, "the two are not the same; nothing was changed"))
    }
}

/// Whether somebody is there who can be asked.
pub(super) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a line until it can be understood.
pub(super) fn line<T, E: std::fmt::Display>(question: &str, understand: impl Fn(&str) -> Result<T, E>) -> Result<T, Failure> {
    for _ in 0..MAX_ATTEMPTS {
        let mut terminal = io::stderr();
        let asked = write!(terminal, "{question}: ").and_then(|()| terminal.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| io::stdin().read_line(&mut answer));
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(Failure::new(Exit::Usage, format!("cannot ask for the {question}: {error}"))),
        }
        match understand(answer.trim()) {
            Ok(understood) => return Ok(understood),
            Err(why) => {
                let _ = writeln!(terminal, "{why}");
            }
        }
    }
    Err(Failure::new(Exit::Usage, format!("no {question} was given")))
}

fn ask_unseen(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::Interrupted => Failure::new(Exit::Usage, "no password was given"),
        _ => Failure::new(Exit::Usage, format!("there is no terminal to ask for a password: {error}"))
            .next("--password-file FILE, or - for standard input"),
    })?;
    not_empty(typed)
}

/// The first line of a file; `-` is standard input.
fn in_file(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let read = if file == Path::new("-") {
        let mut text = Zeroizing::new(String::new());
        io::stdin().take(MAX_PASSWORD_BYTES + 1).read_to_string(&mut text).map(|_| text)
    } else {
        read_text(file)
    };
    let text =
        read.map_err(|error| Failure::new(Exit::Usage, format!("cannot read the password from {}: {error}", named(file))))?;
    if text.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(Failure::new(Exit::Usage, format!("a password has at most {MAX_PASSWORD_BYTES} bytes")));
    }
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.contains('\n') {
        return Err(Failure::new(Exit::Usage, format!("{} has several lines; a password is one", named(file))));
    }
    not_empty(Zeroizing::new(line.to_owned()))
}

fn not_empty(password: Zeroizing<String>) -> Result<Zeroizing<String>, Failure> {
    if password.is_empty() { Err(Failure::new(Exit::Usage, "no password was given")) } else { Ok(password) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_file_is_its_one_line() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("password");
        let read = |text: &str| {
            std::fs::write(&file, text).expect("written");
            password("ann", Some(&file)).map(|password| password.to_string()).map_err(|failure| failure.exit())
        };
        for text in [" a b ", " a b \n", " a b \r\n"] {
            assert_eq!(read(text), Ok(" a b ".to_owned()));
        }
        for text in ["", "\n", "a\nb\n", &"x".repeat(4_097)] {
            assert_eq!(read(text), Err(Exit::Usage), "{text:?}");
        }
        assert!(fresh_password("ann", Some(Path::new("/nonexistent"))).is_err());
    }
}
