//! A thermostat on an emulated microcontroller: the agent and the thermostat of the simulated fleets, on bare metal.
//!
//! Owns the board's platform and what the terminal shows; everything that decides is in the crates that it shares with fleets.
#![no_std]
#![no_main]

#[macro_use]
mod board;
mod ethernet;
mod executor;
mod figures;
mod network;
mod persistent;
mod platform;
mod provisioning;
mod thermostat;

use core::pin::pin;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use executor::Board;
use figures::Phase;
use hearthkey_agent::{
    Agent, Backoff, Clock, Config, Ended, Enrolled, Enrolment, Identity, IdentityError, Platform as _, Software, Workspace, enrol,
};
use network::Network;
use persistent::Persistent;
use platform::BoardPlatform;
use provisioning::{NoEntropy, Provisioning};
use rand_core::RngCore as _;
use thermostat::BoardThermostat;

/// RFC 7591 `software_id`.
const SOFTWARE: Software<'static> = Software { id: "hearthkey-board", version: env!("CARGO_PKG_VERSION") };

#[entry]
fn main() -> ! {
    board::start();
    let Some(started) = start() else { halt() };
    if enrol_first(started) {
        live(started);
    }
    halt()
}

// Each function below has its stack to itself: `main` holds nothing but a reference, and what must stay is in statics.

/// What a life needs.
struct Started {
    board: &'static Board,
    platform: BoardPlatform,
    provisioning: Provisioning,
    workspace: &'static mut Workspace,
    agent: Option<Agent>,
}

fn ran_twice() -> ! {
    panic!("main ran twice")
}

/// Starts everything that works without a hub. `None` without entropy.
#[inline(never)]
fn start() -> Option<&'static mut Started> {
    // SAFETY: the one of this life; the panic handler opens another when this code runs no more.
    let letter = unsafe { Persistent::open() };
    say!("hearthkey-board {}, start {}", env!("CARGO_PKG_VERSION"), letter.count_start());
    if let Some(reason) = letter.take_panic() {
        say!("the former life ended in a panic: {}", reason);
    }
    figures::report_static();
    let (provisioning, mut random) = match Provisioning::take(letter) {
        Ok(taken) => taken,
        Err(NoEntropy) => {
            say!("no entropy was provided: without it no key can be made; this board does not start");
            return None;
        }
    };
    let Some(records) = persistent::records() else { panic!("the flash does not work") };
    let board = start_network(random.next_u64());
    let platform = BoardPlatform::new(board, random, records);
    Some(place(board, platform, provisioning))
}

/// What is built here is built on the stack before it gets to its place; so in [`start_network`] and [`make_agent`].
#[inline(never)]
fn place(board: &'static Board, platform: BoardPlatform, provisioning: Provisioning) -> &'static mut Started {
    let Some(workspace) = cortex_m::singleton!(: Workspace = Workspace::new()) else { ran_twice() };
    let started = cortex_m::singleton!(: Started = Started { board, platform, provisioning, workspace, agent: None });
    started.unwrap_or_else(|| ran_twice())
}

#[inline(never)]
fn start_network(seed: u64) -> &'static Board {
    let Some(memory) = cortex_m::singleton!(: network::Memory = network::Memory::new()) else { ran_twice() };
    let Some(board) = cortex_m::singleton!(: Board = Board::new(Network::start(memory, seed))) else { ran_twice() };
    board
}

/// False if this board has no place at a hub.
#[inline(never)]
fn enrol_first(started: &mut Started) -> bool {
    let Some(enrolled) = run_enrolment(started) else { return false };
    started.provisioning.forget_enrolment_string();
    say!("enrolled as {}", enrolled.identity.client_id());
    make_agent(&mut started.agent, enrolled);
    true
}

#[inline(never)]
fn run_enrolment(started: &mut Started) -> Option<Enrolled> {
    let Started { board, platform, provisioning, workspace, .. } = started;
    board.run(pin!(enrolled(platform, workspace, provisioning)))
}

#[inline(never)]
fn make_agent(place: &mut Option<Agent>, Enrolled { identity, clock }: Enrolled) {
    *place = Some(Agent::with_clock(identity, Config::DEFAULT, clock));
}

/// From power-on to the end of the device's life at its hub.
#[inline(never)]
fn live(started: &mut Started) {
    let Started { board, platform, provisioning, workspace, agent } = started;
    let Some(agent) = agent else { return };
    let mut thermostat = BoardThermostat::new(platform.draw(), provisioning.interval);
    let ended = board.run(pin!(agent.run(platform, &mut thermostat, workspace)));
    match ended {
        Ended::Left(_) => say!("left"),
        Ended::Revoked => {
            // The next start asks for an enrolment string.
            if Identity::erase(platform).is_err() {
                say!("the identity cannot be erased");
            }
            say!("revoked: enrol this device anew");
        }
    }
}

/// The identity in storage, or a new one.
async fn enrolled(platform: &mut BoardPlatform, workspace: &mut Workspace, provisioning: &Provisioning) -> Option<Enrolled> {
    match Identity::load(platform) {
        Ok(Some(identity)) => return Some(Enrolled { identity, clock: Clock::unset() }),
        Ok(None) => {}
        // It may be readable after the reset.
        Err(IdentityError::Storage(_)) => panic!("the stored identity cannot be read"),
        Err(IdentityError::Corrupt) => {
            say!("the stored identity is none: enrolling anew");
            Identity::erase(platform).ok()?;
        }
    }
    let Some(string) = provisioning.enrolment_string() else {
        say!("not enrolled, and no enrolment string was provided: `hearthkey device add NAME --profile thermostat` prints one");
        return None;
    };
    let enrolment = match Enrolment::parse(string) {
        Ok(enrolment) => enrolment,
        Err(error) => {
            say!("{}", error);
            return None;
        }
    };
    let mut failures = 0;
    loop {
        let phase = Phase::begin();
        // Pinned where it is made: moving a future leaves a copy on the stack.
        let ended = pin!(enrol(platform, &enrolment, SOFTWARE, workspace)).await;
        match ended {
            Ok(enrolled) => {
                phase.end("enrolment");
                return Some(enrolled);
            }
            Err(error) => {
                say!("enrolment failed: {}", error);
                if !error.may_pass() {
                    return None;
                }
                let delay = Backoff::DEFAULT.delay(failures, platform.draw());
                failures += 1;
                let retry = platform.now().after(delay);
                platform.sleep_until(retry).await;
            }
        }
    }
}

/// Listens to the terminal: `s` shows how much of the stack was used, `p` panics and `f` faults, to see what then happens.
fn obey_terminal() {
    match board::Terminal::read() {
        Some(b's') => figures::report_stack(),
        Some(b'p') => panic!("asked to by the terminal"),
        Some(b'f') => cortex_m::asm::udf(),
        _ => {}
    }
}

/// Sleeps for good.
fn halt() -> ! {
    loop {
        board::sleep_until(u64::MAX);
        obey_terminal();
    }
}

/// A fault ends as a panic does: told and reset.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("a fault at {:#x}", frame.pc())
}

#[panic_handler]
fn panicked(reason: &core::panic::PanicInfo<'_>) -> ! {
    say!("{}", reason);
    // SAFETY: whoever held the former one runs no more.
    unsafe { Persistent::open() }.note_panic(reason);
    board::reset()
}
