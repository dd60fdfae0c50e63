//! What the phases of a life cost, as lines `figure …` on the terminal: instructions, stack, bytes on the wire; and how much of flash
//! and RAM is used. What measuring costs does not count. Knows nothing of what happens in a phase.

use crate::board;
use crate::network::Carried;
use core::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    static __sdata: u32;
    static __edata: u32;
    static __sidata: u32;
    static __ebss: u32;
    static _stack_start: u32;
    static _stack_end: u32;
}

/// Below its own frame measuring leaves this much of the stack as it is: what it calls saves a register there, and what it calls
/// last writes deeper than what is measured by no more than the second.
const IN_USE: usize = 64;
const SHOWING: usize = 2048;

/// The deepest that the stack has been in this life, in bytes.
static DEEPEST: AtomicUsize = AtomicUsize::new(0);

fn address(symbol: *const u32) -> usize {
    symbol as usize
}

/// Shows flash from its beginning to the end of the initial values, and RAM before the stack.
pub fn report_static() {
    let data = address(&raw const __edata) - address(&raw const __sdata);
    say!("figure flash {}", address(&raw const __sidata) + data);
    say!("figure static-ram {}", address(&raw const __ebss) - address(&raw const __sdata));
}

/// Shows the deepest that the stack has been in this life.
pub fn report_stack() {
    let (_, depth) = measure_stack();
    say!("figure stack {}", DEEPEST.load(Ordering::Relaxed).max(depth));
}

/// Something that is measured, from its beginning.
#[derive(Clone, Copy)]
pub struct Phase {
    busy: u64,
    carried: Carried,
}

impl Phase {
    /// Began with this life.
    pub const LIFE: Self = Self { busy: 0, carried: Carried::NOTHING };

    /// Begins now.
    pub fn begin() -> Self {
        Self { busy: board::busy_micros(), carried: Carried::now() }
    }

    /// Ends here. The stack is the deepest since the phase that ended before.
    #[inline(never)]
    pub fn end(self, name: &str) {
        let instructions = (board::busy_micros() - self.busy) as u32; // less than 4 000 G
        board::uncounted(|| {
            let (lowest, depth) = measure_stack();
            DEEPEST.fetch_max(depth, Ordering::Relaxed);
            let Carried { sent, received } = self.carried.since();
            say!(
                "figure {}: {} thousand instructions, {} stack, {} sent, {} received",
                name,
                instructions,
                depth,
                sent,
                received
            );
            paint_stack(lowest - SHOWING);
        });
    }
}

/// The lowest address of the stack that was written since it was painted, and how far that is from its beginning.
fn measure_stack() -> (usize, usize) {
    let (mut at, top) = (address(&raw const _stack_end), address(&raw const _stack_start));
    // SAFETY: the stack's own words, below the one in use; painted before `main`.
    while at < top && unsafe { (at as *const u32).read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
        at += 4;
    }
    (at, top - at)
}

/// Paints what is not in use anew.
fn paint_stack(lowest: usize) {
    let mut at = lowest.max(address(&raw const _stack_end));
    let in_use = cortex_m::register::msp::read() as usize - IN_USE;
    while at < in_use {
        // SAFETY: the stack's own words, below all that is in use; no interrupt is ever taken.
        unsafe { (at as *mut u32).write_volatile(cortex_m_rt::STACK_PAINT_VALUE) };
        at += 4;
    }
}
