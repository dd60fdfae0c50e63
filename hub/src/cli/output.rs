//! All that a command prints: results on standard output, notes on standard error.
//!
//! Colours reach a terminal only. A reader that goes away ends the command quietly. What devices wrote is never let
//! through raw: [`printable`] takes the terminal's control characters out of it.

use super::failure::{Exit, Failure};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// Bold: headings, the one thing to see.
pub(super) const STRONG: Style = Style::new().bold();
/// Dim: times, hints.
pub(super) const FAINT: Style = Style::new().dimmed();
/// Allowed, connected, succeeded.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// On its way, waiting.
pub(super) const WAITING: Style = AnsiColor::Yellow.on_default();
/// Refused, revoked, failed.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// Topics and commands to type.
pub(super) const LITERAL: Style = AnsiColor::Cyan.on_default();

/// For people or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences, for people.
    #[default]
    Table,
    /// The hub's JSON as it is, for programs; streams print one object a line.
    Json,
}

/// Where a command prints.
pub struct Output {
    format: Format,
    terminal: bool,
    results: Box<dyn Write>,
    notes: Box<dyn Write>,
}

impl Output {
    /// Standard output and standard error.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            terminal: io::stdout().is_terminal(),
            results: Box::new(anstream::stdout()),
            notes: Box::new(anstream::stderr()),
        }
    }

    /// What was asked for with `-o`.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether a person looks at the results.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line of the result.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        Ok(writeln!(self.results, "{line}")?)
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.results.write_all(text.as_bytes())?)
    }

    /// Prints one JSON document, over several lines for readers.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.results, document).map_err(io::Error::from)?;
        self.line("")
    }

    /// Prints one JSON object of a stream, on one line, at once.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn json_line(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.results, object).map_err(io::Error::from)?;
        self.line("")?;
        Ok(self.results.flush()?)
    }

    /// Prints a table.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn table(&mut self, mut table: Table) -> Result<(), Failure> {
        if !self.terminal {
            table.force_no_tty();
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(table.trim_fmt())
    }

    /// Tells something beside the result, on standard error; that nobody listens there is no failure.
    pub fn note(&mut self, note: impl Display) {
        let _ = writeln!(self.notes, "{note}");
    }

    /// Says what was done: as JSON, or in words for people.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn done(&mut self, document: &Value, sentence: impl Display) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(document),
            Format::Table => self.line(sentence),
        }
    }

    /// Prints an answer of the hub: verbatim as JSON, or rendered for people.
    ///
    /// # Errors
    /// [`Failure`] if the answer is not of the shape that people are shown, or cannot be written.
    pub fn answer<T: DeserializeOwned>(
        &mut self,
        answer: &Value,
        render: impl FnOnce(&mut Self, T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(answer),
            Format::Table => render(self, understood(answer)?),
        }
    }
}

/// Reads an answer of the hub.
///
/// # Errors
/// [`Failure`] if the answer has another shape.
pub(super) fn understood<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|error| {
        Failure::new(Exit::Refused, format!("this version does not understand the hub's answer: {error}"))
            .next("run the `hearthkey` that the hub runs, or `-o json` for the answer as it is")
    })
}

/// A borderless table under a heading, fit for a pipe as well.
pub(super) fn table<const N: usize>(heading: [&str; N]) -> Table {
    let mut table = plain_table();
    table.set_header(heading.map(|title| Cell::new(title).add_attribute(comfy_table::Attribute::Bold)));
    table
}

/// A table of names and values.
pub(super) fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = plain_table();
    for (name, value) in facts {
        table.add_row([Cell::new(name).add_attribute(comfy_table::Attribute::Dim), Cell::new(value)]);
    }
    table
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// A word that tells a state, in the colour of the state.
pub(super) fn state_cell(state: &str) -> Cell {
    let cell = Cell::new(state);
    match state {
        "active" | "succeeded" | "success" | "yes" => cell.fg(Color::DarkGreen),
        "pending" | "sent" | "accepted" | "executing" => cell.fg(Color::DarkYellow),
        "disabled" | "revoked" | "failed" | "rejected" | "expired" | "denied" | "failure" => cell.fg(Color::DarkRed),
        _ => cell,
    }
}

/// A text in a style.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Text from elsewhere without the characters that steer a terminal.
pub(super) fn printable(text: &str) -> String {
    let steers =
        |character: char| character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .flat_map(|character| match steers(character) {
            true => character.escape_default().collect::<Vec<_>>(),
            false => vec![character],
        })
        .collect()
}

#[cfg(test)]
pub(super) mod capture {
    //! An output that a test can read.

    use super::{Format, Output};
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    /// What was printed: results and notes, without colours.
    #[derive(Clone, Default)]
    pub(in crate::cli) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no test panicked while writing").clone()).expect("UTF-8")
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panicked while writing").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output {
        /// Prints into memory, as to a pipe.
        pub(in crate::cli) fn captured(format: Format) -> (Self, Captured) {
            let captured = Captured::default();
            let sink = || Box::new(anstream::StripStream::new(Box::new(captured.clone()) as Box<dyn Write>));
            (Self { format, terminal: false, results: sink(), notes: sink() }, captured)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_devices_wrote_cannot_steer_the_terminal() {
        assert_eq!(printable("21.5 °C"), "21.5 °C");
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut out, _) = Output::captured(Format::Json);
        out.results = Box::new(Closed);
        for failure in [out.line("x"), out.json(&[1]), out.json_line(&[1]), out.text("x")] {
            assert_eq!(failure.expect_err("closed").exit(), Exit::Done);
        }
    }
}
