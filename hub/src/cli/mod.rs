//! The command line: what an owner types and what it prints. A client of the hub's HTTPS API like any other.
//!
//! Decides nothing about a home; whatever it knows it asks the running hub. `hearthkey up` it hands to the caller of [`main`].

mod api;
mod args;
mod audit;
mod backup;
mod can;
mod check;
mod client;
mod context;
mod contexts;
mod credential;
mod device;
mod enrolment;
mod failure;
mod join;
mod login;
mod output;
mod profile;
mod prompt;
mod restore;
mod send;
mod shown_once;
pub mod simulate_view;
mod stream;
mod trust;
mod twin;
mod user;
mod when;

pub use context::{ContextFile, default_data_dir, local_context_file};
pub use failure::{Exit, Failure};
pub use output::{Format, Output};

use crate::config::{Config, Listeners};
use args::{Asking, Audit, Cli, Command, Global, Local, SigningKey};
use clap::{CommandFactory, Parser};
use client::Client;
use context::Context;
use contexts::NamedContexts;
use serde_json::json;
use std::{io, num::NonZeroU32, path::Path, path::PathBuf, process::ExitCode, time::Duration};
use when::Clock;

/// How `hearthkey up` was asked to run; the configuration is read and checked.
#[derive(Debug)]
pub struct UpOptions {
    /// The data directory; may not exist yet.
    pub data: PathBuf,
    /// The configuration.
    pub config: Config,
    /// Where to listen: configuration, `--lan` and ports put together.
    pub listeners: Listeners,
    /// How many simulated thermostats to run.
    pub simulate: Option<NonZeroU32>,
    /// When to stop by itself.
    pub run_for: Option<Duration>,
    /// Whether to stop when standard input ends.
    pub until_stdin_ends: bool,
    /// How to print.
    pub format: Format,
}

/// Runs the command line of this process; `up` runs the hub.
pub fn main(up: impl FnOnce(UpOptions) -> Result<ExitCode, Failure>) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help into a pipe that nobody reads is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let mut out = Output::new(cli.global.output);
    let ended = match cli.command {
        Command::Up(args) => up_options(&cli.global, &args).and_then(up),
        Command::Asking(command) => ask(command, &cli.global, &mut out).map(ExitCode::from),
        Command::Login(args) => {
            waiting_for(login::login(&args, cli.global.context.as_ref(), &Clock::system(), &mut out)).map(ExitCode::from)
        }
        Command::Logout(_) => {
            find_context(&cli.global).and_then(|context| waiting_for(login::logout(context, &mut out))).map(ExitCode::from)
        }
        Command::Local(command) => run_locally(command, &cli.global, &mut out).map(ExitCode::from),
    };
    ended.unwrap_or_else(|failure| {
        if let Failure::Told { .. } = failure {
            out.note(&failure);
        }
        failure.exit().into()
    })
}

fn run_locally(command: Local, global: &Global, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Local::Check(args) => check::check(&args, out),
        Local::Backup(args) => backup::back_up(&args, global, &data_dir(global)?, out),
        Local::Restore(args) => restore::restore(&args, &data_dir(global)?, out),
        Local::Completions(args) => completions(args.shell, out),
        Local::Context(command) => contexts::run(command, global, out),
    }
}

fn ask(command: Asking, global: &Global, out: &mut Output) -> Result<Exit, Failure> {
    if let Asking::Audit(Audit::Verify(args)) = &command
        && let Some(file) = &args.file
    {
        return audit::verify_file(args, file, out);
    }
    let client = &Client::new(find_context(global)?)?;
    let clock = &Clock::system();
    waiting_for(async {
        match command {
            Asking::Device(command) => device::run(command, client, clock, out).await,
            Asking::Profile(command) => profile::run(command, client, out).await,
            Asking::Can(args) => can::run(&args, client, out).await,
            Asking::Send(args) => send::run(args, client, clock, out).await,
            Asking::Twin(args) => twin::run(&args, client, clock, out).await,
            Asking::Watch(args) => stream::watch(&args, client, out).await,
            Asking::Join(args) => join::join(&args, client, out).await,
            Asking::Approve(args) => join::approve(args, client, clock, out).await,
            Asking::Deny(args) => join::deny(&args, client, out).await,
            Asking::User(command) => user::run(command, client, clock, out).await,
            Asking::Pat(command) => credential::pat(command, client, clock, out).await,
            Asking::Key(command) => credential::key(command, client, clock, out).await,
            Asking::SigningKey(SigningKey::Rotate) => rotate_signing_key(client, out).await,
            Asking::Audit(Audit::Tail(args)) => stream::audit_tail(&args, client, out).await,
            Asking::Audit(Audit::List(args)) => audit::list(&args, client, clock, out).await,
            Asking::Audit(Audit::Verify(_)) => audit::verify(client, out).await,
            Asking::Audit(Audit::Export(args)) => audit::export(&args, client, out).await,
            Asking::Whoami => login::whoami(client, clock, out).await,
        }
    })
}

fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    global.data.clone().map_or_else(default_data_dir, Ok)
}

fn find_context(global: &Global) -> Result<Context, Failure> {
    Context::find(global.context.as_ref(), global.data.as_deref(), NamedContexts::of_this_user().as_ref())
}

fn waiting_for<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Refused, format!("cannot start: {error}")))?;
    runtime.block_on(answer)
}

async fn rotate_signing_key(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    client.post(&["signing-keys", "rotate"], &json!({})).await?;
    let sentence = "a fresh key signs access tokens from now on; those that the old one signed hold until they end";
    out.done(&json!({ "rotated": true }), sentence)?;
    Ok(Exit::Done)
}

fn up_options(global: &Global, args: &args::Up) -> Result<UpOptions, Failure> {
    let data = data_dir(global)?;
    let config = read_config(args.config.as_deref(), &data)?;
    let listeners = config.listeners(args.lan, (&args.ports).into());
    Ok(UpOptions {
        data,
        config,
        listeners,
        simulate: args.simulate(),
        run_for: args.run_for,
        until_stdin_ends: args.until_stdin_ends,
        format: global.output,
    })
}

/// Reads the configuration: the file that was named, or the one in the data directory if there is one.
fn read_config(named: Option<&Path>, data: &Path) -> Result<Config, Failure> {
    let file = named.map_or_else(|| data.join("config.toml"), Path::to_owned);
    match context::read_text(&file) {
        Ok(text) => Config::from_toml(&text).map_err(|error| check::not_valid(&file, "configuration", &error)),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Failure::new(Exit::Refused, format!("cannot read {}: {error}", file.display()))),
    }
}

fn completions(shell: clap_complete::Shell, out: &mut Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hearthkey", &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
