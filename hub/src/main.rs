//! The `hearthkey` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearthkey::cli::main(|_options| Err::<ExitCode, _>("this build has no hub to run yet"))
}
