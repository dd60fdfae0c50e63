//! The `hearthkey` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearthkey::cli::main(hearthkey::up::run)
}
