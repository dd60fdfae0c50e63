//! The `hearthkey` command.

use hearthkey::cli::{Exit, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    hearthkey::cli::main(|_options| Err(Failure::new(Exit::Refused, "this build has no hub to run yet")))
}
