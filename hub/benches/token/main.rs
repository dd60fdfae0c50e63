//! Token requests: what each costs the server in CPU time, beside an axum hello world and node `oidc-provider` in the same run,
//! and the memory that the hub holds after many.
//! `cargo bench -p hearthkey --bench token`; `HEARTHKEY_BENCH_TOKENS=1000000` for the whole million.
//!
//! Servers run as processes of their own, so that the clients' CPU time is not counted. The hub has everything on: store with
//! fdatasync, audit, limits, MQTT front.

mod load;
mod serve;
mod server;

use load::{Connection, Load};
use server::{Measured, Server};
use std::{
    fmt::Display,
    io::{StdoutLock, Write},
};

const TOKENS: &str = "HEARTHKEY_BENCH_TOKENS";
/// A run that is over within a minute.
const DEFAULT_TOKENS: usize = 150_000;

const HELLOS: usize = 64_000;
const BY_SECRET: usize = 16_000;
/// Half of what the hub remembers at a time goes into the rows of the table, the other half into the memory.
const BY_ASSERTION: usize = hearthkey_core::limits::MAX_USED_ASSERTIONS / 4;
const OF_OIDC_PROVIDER: usize = 6_000;

/// What we aim at (docs/architecture.md).
const MAX_US_BY_SECRET: f64 = 120.0;
const MAX_US_BY_ASSERTION: f64 = 250.0;
const MIN_TIMES_OIDC_PROVIDER: f64 = 10.0;
const MAX_MB: f64 = 30.0;

fn main() {
    match std::env::var(server::ROLE).as_deref() {
        Ok("hub") => serve::hub(),
        Ok(_) => serve::hello(),
        Err(_) => measure(&mut std::io::stdout().lock()),
    }
}

fn measure(out: &mut StdoutLock<'_>) {
    let tokens = std::env::var(TOKENS).map_or(DEFAULT_TOKENS, |text| text.parse().expect("HEARTHKEY_BENCH_TOKENS is a number"));
    let hello = {
        let server = Server::start("hello").expect("this program");
        server.measure(&Load::hello(), HELLOS, Connection::Plain)
    };
    row(out, "axum hello world", &hello, &hello);

    let theirs = match Server::start_oidc_provider() {
        Ok(server) => Some(measure_oidc_provider(out, &server, &hello)),
        Err(why) => {
            say(out, format!("\n*** NOT MEASURED: node oidc-provider: {why} ***\n"));
            None
        }
    };

    let server = Server::start("hub").expect("this program");
    let (by_secret, by_assertion) = (Load::by_secret(&server.serving), Load::by_assertion(&server.serving));
    let idle = server.memory_mb();
    server.measure(&by_secret, BY_SECRET, Connection::Plain);
    let mut measure = |what: &str, load: &Load, count, connection| {
        let measured = server.measure(load, count, connection);
        row(out, format!("hearthkey: {what}"), &measured, &hello);
        measured
    };
    let secret = measure("client_secret_post", &by_secret, BY_SECRET, Connection::Plain);
    let assertion = measure("private_key_jwt", &by_assertion, BY_ASSERTION, Connection::Plain);
    measure("client_secret_post, TLS", &by_secret, BY_SECRET, Connection::Tls);
    measure("private_key_jwt, TLS", &by_assertion, BY_ASSERTION, Connection::Tls);

    let so_far = 3 * BY_SECRET + 2 * BY_ASSERTION;
    let assertions = tokens.saturating_sub(so_far).min(hearthkey_core::limits::MAX_USED_ASSERTIONS - 2 * BY_ASSERTION);
    let secrets = tokens.saturating_sub(so_far + assertions);
    server.measure(&by_assertion, assertions, Connection::Plain);
    server.measure(&by_secret, secrets, Connection::Plain);
    let total = so_far + assertions + secrets;
    let by_key = 2 * BY_ASSERTION + assertions;
    let memory = server.memory_mb();
    say(out, format!("\nresident: {idle:.1} MB before the first token, {memory:.1} MB after {total} ({by_key} by assertion)"));

    let mut aim = |what: &str, value: f64, met: bool, aim: String| {
        say(out, format!("{} {what}: {value:.1}, the aim is {aim}", if met { "ok    " } else { "MISSED" }));
    };
    let us = |measured: &Measured, most: f64| (measured.cpu_us, measured.cpu_us <= most, format!("at most {most}"));
    let (value, met, most) = us(&secret, MAX_US_BY_SECRET);
    aim("us of CPU by secret", value, met, most);
    let (value, met, most) = us(&assertion, MAX_US_BY_ASSERTION);
    aim("us of CPU by assertion", value, met, most);
    if let Some((their_secret, their_assertion)) = theirs {
        for (what, theirs, ours) in [("secret", their_secret, secret), ("assertion", their_assertion, assertion)] {
            let times = theirs.cpu_us / ours.cpu_us;
            let least = format!("at least {MIN_TIMES_OIDC_PROVIDER}");
            aim(&format!("times as cheap as oidc-provider by {what}"), times, times >= MIN_TIMES_OIDC_PROVIDER, least);
        }
    }
    aim(&format!("MB resident after {total} tokens"), memory, memory <= MAX_MB, format!("at most {MAX_MB} after 1000000"));
}

/// By secret and by assertion.
fn measure_oidc_provider(out: &mut StdoutLock<'_>, server: &Server, hello: &Measured) -> (Measured, Measured) {
    let mut measure = |what: &str, load: &Load<'_>| {
        // Once for the compiler of node.
        server.measure(load, OF_OIDC_PROVIDER, Connection::Plain);
        let measured = server.measure(load, OF_OIDC_PROVIDER, Connection::Plain);
        row(out, format!("{}: {what}", server.serving.name), &measured, hello);
        measured
    };
    let by_secret = measure("client_secret_post", &Load::by_secret(&server.serving));
    (by_secret, measure("private_key_jwt", &Load::by_assertion(&server.serving)))
}

fn row(out: &mut StdoutLock<'_>, what: impl Display, measured: &Measured, hello: &Measured) {
    let (rate, cpu, ratio) = (measured.per_second, measured.cpu_us, measured.cpu_us / hello.cpu_us);
    say(out, format!("{what:<46} {rate:>8.0}/s  {cpu:>7.1} us CPU  {ratio:>6.1} x hello"));
}

fn say(out: &mut StdoutLock<'_>, line: impl Display) {
    writeln!(out, "{line}").expect("a terminal or a file");
}
