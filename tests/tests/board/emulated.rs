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

/// Which of the two images.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Image {
    /// With p256-cm4.
    Fast,
    /// With p256 alone, in a target directory of its own.
    Reference,
}

impl Image {
    /// One of the scripts beside the image, for this image.
    fn script(self, name: &str) -> Command {
        let mut command = Command::new(image_dir().join(name));
        if let Self::Reference = self {
            command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference-image"));
        }
        command
    }
}

/// Builds the image, unless it is there.
async fn build(image: Image) {
    let mut command = image.script("build");
    if let Image::Reference = image {
        command.arg("--no-default-features");
    }
    let status = command.kill_on_drop(true).status().await.expect("the build script runs");
    assert!(status.success(), "the image does not build; `.ci/setup test` installs what it needs");
}

impl Board {
    /// Builds the image and switches the board on, with an enrolment string and further arguments of `firmware-sim/image/board`.
    pub(crate) async fn start(enrolment_string: &str, arguments: &[&str]) -> Self {
        Self::start_of(Image::Fast, enrolment_string, arguments).await
    }

    /// The same with one of the images.
    pub(crate) async fn start_of(image: Image, enrolment_string: &str, arguments: &[&str]) -> Self {
        build(image).await;
        let mut command = image.script("board");
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
