//! A thermostat on an emulated microcontroller: the agent and the thermostat of the simulated fleets, on bare metal.
//!
//! Owns the board's platform and what the terminal shows; everything that decides is in the crates that it shares with fleets.
#![no_std]
#![no_main]

#[macro_use]
mod board;
mod ethernet;
mod executor;
mod network;
mod persistent;
mod platform;
mod provisioning;
mod thermostat;

use core::pin::pin;
use cortex_m_rt::entry;
use executor::Board;
use hearthkey_agent::{
    Agent, Backoff, Clock, Config, Ended, Enrolled, Enrolment, Identity, IdentityError, Platform as _, Software, Workspace, enrol,
};
use network::{Carried, Network};
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
    // SAFETY: the one of this life; the panic handler opens another when this code runs no more.
    let letter = unsafe { Persistent::open() };
    say!("hearthkey-board {}, start {}", env!("CARGO_PKG_VERSION"), letter.count_start());
    if let Some(reason) = letter.take_panic() {
        say!("the former life ended in a panic: {}", reason);
    }
    memory::report_static();
    let (provisioning, mut random) = match Provisioning::take(letter) {
        Ok(taken) => taken,
        Err(NoEntropy) => {
            say!("no entropy was provided: without it no key can be made; this board does not start");
            halt()
        }
    };
    let Some(records) = persistent::records() else { panic!("the flash does not work") };
    let interval = provisioning.interval;
    let board = start_network(random.next_u64());
    let mut platform = BoardPlatform::new(board, random, records);
    let seed = platform.draw();
    let Some(workspace) = cortex_m::singleton!(: Workspace = Workspace::new()) else { ran_twice() };
    let Some(enrolled) = enrol_first(board, &mut platform, workspace, &provisioning) else { halt() };
    drop(provisioning);
    say!("enrolled as {}", enrolled.identity.client_id());
    live(board, &mut platform, workspace, enrolled, BoardThermostat::new(seed, interval));
    halt()
}

fn ran_twice() -> ! {
    panic!("main ran twice")
}

// The functions below are kept apart so that one's stack is free before the next begins.

#[inline(never)]
fn start_network(seed: u64) -> &'static Board {
    let Some(memory) = cortex_m::singleton!(: network::Memory = network::Memory::new()) else { ran_twice() };
    let Some(board) = cortex_m::singleton!(: Board = Board::new(Network::start(memory, seed))) else { ran_twice() };
    board
}

#[inline(never)]
fn enrol_first(
    board: &'static Board,
    platform: &mut BoardPlatform,
    workspace: &mut Workspace,
    provisioning: &Provisioning,
) -> Option<Enrolled> {
    board.run(pin!(enrolled(platform, workspace, provisioning)))
}

/// From power-on to the end of the device's life at its hub.
#[inline(never)]
fn live(
    board: &'static Board,
    platform: &mut BoardPlatform,
    workspace: &mut Workspace,
    enrolled: Enrolled,
    mut thermostat: BoardThermostat,
) {
    let Some(agent) = agent(enrolled) else { ran_twice() };
    match board.run(pin!(agent.run(platform, &mut thermostat, workspace))) {
        Ended::Left(_) => say!("left"),
        Ended::Revoked => say!("revoked: enrol this device anew"),
    }
}

#[inline(never)]
fn agent(Enrolled { identity, clock }: Enrolled) -> Option<&'static mut Agent> {
    cortex_m::singleton!(: Agent = Agent::with_clock(identity, Config::DEFAULT, clock))
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
        let (busy, carried) = (board::busy_micros(), Carried::now());
        match enrol(platform, &enrolment, SOFTWARE, workspace).await {
            Ok(enrolled) => {
                say!("figure enrolment {}", board::busy_micros() - busy);
                Carried::report(carried, "enrolment");
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

/// Listens to the terminal: `s` shows the state of the board, `p` panics, to see what then happens.
fn obey_terminal() {
    match board::Terminal::read() {
        Some(b's') => memory::report_stack(),
        Some(b'p') => panic!("asked to by the terminal"),
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

#[panic_handler]
fn panicked(reason: &core::panic::PanicInfo<'_>) -> ! {
    say!("{}", reason);
    // SAFETY: whoever held the former one runs no more.
    unsafe { Persistent::open() }.note_panic(reason);
    board::reset()
}

mod memory {
    //! How much of flash and RAM is used, from the linker's symbols and the paint on the stack.

    unsafe extern "C" {
        static __sdata: u32;
        static __edata: u32;
        static __sidata: u32;
        static __ebss: u32;
        static _stack_start: u32;
        static _stack_end: u32;
    }

    fn address(symbol: *const u32) -> usize {
        symbol as usize
    }

    /// Flash from its beginning to the end of the initial values, and RAM before the stack.
    pub fn report_static() {
        let data = address(&raw const __edata) - address(&raw const __sdata);
        say!("figure flash {}", address(&raw const __sidata) + data);
        say!("figure static-ram {}", address(&raw const __ebss) - address(&raw const __sdata));
    }

    /// The deepest that the stack has been.
    pub fn report_stack() {
        let (mut at, top) = (address(&raw const _stack_end), address(&raw const _stack_start));
        // SAFETY: the stack's own words, below the one in use; painted before `main`.
        while at < top && unsafe { (at as *const u32).read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
            at += 4;
        }
        say!("figure stack {}", top - at);
    }
}
