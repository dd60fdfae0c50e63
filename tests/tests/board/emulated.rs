//! The board in its emulator, as a program with a terminal.

use std::path::{Path, PathBuf};

use hearthkey_tests::process::Running;
use tokio::process::Command;

/// A running board; it is switched off when this is dropped.
#[derive(Debug)]
pub(crate) struct Board {
    running: Running,
}

pub(crate) fn image_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-sim/image")
}

/// Builds the image, unless it is there.
async fn build() {
    let mut command = Command::new(image_dir().join("build"));
    let status = command.kill_on_drop(true).status().await.expect("the build script runs");
    assert!(status.success(), "the image does not build; `.ci/setup test` installs what it needs");
}

impl Board {
    /// Builds the image and switches the board on, with an enrolment string and further arguments of `firmware-sim/image/board`.
    pub(crate) async fn start(enrolment_string: &str, arguments: &[&str]) -> Self {
        build().await;
        let mut command = Command::new(image_dir().join("board"));
        command.env("HEARTHKEY_ENROL", enrolment_string).args(["--interval", "1"]).args(arguments);
        Self { running: Running::start_with_terminal(command) }
    }

    /// What follows `start` in the next line that begins so.
    pub(crate) async fn said(&mut self, start: &str) -> String {
        let what = format!("a line `{start}`");
        self.running.line(&what, |line| Some(line.trim_end().strip_prefix(start)?.to_owned())).await
    }

    /// Types on its terminal.
    pub(crate) async fn type_in(&mut self, text: &str) {
        self.running.type_in(text).await;
    }

    /// All that it showed.
    pub(crate) fn shown(&self) -> String {
        self.running.out()
    }
}
