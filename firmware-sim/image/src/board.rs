//! The emulated board, register by register: clock, alarm, terminal, interrupts, reset. The one file with memory-mapped
//! registers of the microcontroller; the network chip has its own.
//!
//! Arm MPS2 with image AN386 (Application Note 386; Cortex-M System Design Kit, DDI 0479): a Cortex-M4F at 25 MHz.
//! Interrupts stay masked for good: they wake the processor from `wfi`, and the main loop looks what there is to do.

use core::cell::Cell;
use core::fmt;
use cortex_m::interrupt::{InterruptNumber, Mutex};
use cortex_m::peripheral::{NVIC, SCB};

/// A register of the board.
#[derive(Clone, Copy)]
pub struct Register(usize);

impl Register {
    /// The register at an address of the memory map of AN386.
    pub const fn at(address: usize) -> Self {
        Self(address)
    }

    /// Its value.
    pub fn read(self) -> u32 {
        // SAFETY: every `Register` is a constant of this crate that names a word of the board's peripherals.
        unsafe { (self.0 as *const u32).read_volatile() }
    }

    /// Sets it.
    pub fn write(self, value: u32) {
        // SAFETY: as above; no register of ours makes the chip write memory by itself.
        unsafe { (self.0 as *mut u32).write_volatile(value) }
    }
}

/// How often the clock ticks: the one frequency of this board.
pub const TICKS_PER_MICROSECOND: u64 = 25;
/// The clock has 32 bits and must be read once in 171 s, lest a turn be missed.
const LONGEST_SLEEP: u64 = 60_000_000 * TICKS_PER_MICROSECOND;

const UART0_DATA: Register = Register::at(0x4000_4000);
const UART0_STATE: Register = Register::at(0x4000_4004);
const UART0_CTRL: Register = Register::at(0x4000_4008);
const UART0_INTCLEAR: Register = Register::at(0x4000_400c);
const UART0_BAUDDIV: Register = Register::at(0x4000_4010);

const CLOCK_CTRL: Register = Register::at(0x4000_0000);
const CLOCK_VALUE: Register = Register::at(0x4000_0004);
const CLOCK_RELOAD: Register = Register::at(0x4000_0008);
const ALARM_CTRL: Register = Register::at(0x4000_1000);
const ALARM_RELOAD: Register = Register::at(0x4000_1008);
const ALARM_INTCLEAR: Register = Register::at(0x4000_100c);

/// The interrupts that wake the processor.
#[derive(Clone, Copy)]
enum Interrupt {
    TerminalReceived = 0,
    Alarm = 9,
    Network = 13,
}

// SAFETY: the numbers of AN386, table 3-4; a constant each.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self as u16
    }
}

const WAKING: [Interrupt; 3] = [Interrupt::TerminalReceived, Interrupt::Alarm, Interrupt::Network];

unsafe extern "C" {
    fn DefaultHandler();
}

/// The interrupts' part of the vector table. None is ever taken; without this one there would be room for 240.
// SAFETY: cortex-m-rt's linker script wants function pointers there, by this name.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
static __INTERRUPTS: [unsafe extern "C" fn(); 32] = [DefaultHandler; 32];

/// The clock has 32 bits: its turns are counted.
#[derive(Clone, Copy)]
struct Clock {
    turns: u32,
    last: u32,
    uncounted: u64,
}

static CLOCK: Mutex<Cell<Clock>> = Mutex::new(Cell::new(Clock { turns: 0, last: 0, uncounted: 0 }));

fn clock(change: impl FnOnce(&mut Clock)) -> Clock {
    cortex_m::interrupt::free(|section| {
        let cell = CLOCK.borrow(section);
        let mut clock = cell.get();
        change(&mut clock);
        cell.set(clock);
        clock
    })
}

/// Starts the clock and the terminal. Once, first of all.
pub fn start() {
    cortex_m::interrupt::disable();
    CLOCK_RELOAD.write(u32::MAX);
    CLOCK_CTRL.write(1);
    UART0_BAUDDIV.write(217); // 115 200 baud
    UART0_CTRL.write(0b1011); // transmit, receive, interrupt on receive
    for interrupt in WAKING {
        // SAFETY: interrupts are masked, so no handler can run into a critical section.
        unsafe { NVIC::unmask(interrupt) };
    }
}

/// Ticks since the start.
pub fn ticks() -> u64 {
    let Clock { turns, last, .. } = clock(|clock| {
        let low = !CLOCK_VALUE.read(); // it counts down
        if low < clock.last {
            clock.turns += 1; // 23 years are 2^22 of them
        }
        clock.last = low;
    });
    u64::from(turns) << 32 | u64::from(last)
}

/// Microseconds since the start.
pub fn micros() -> u64 {
    ticks() / TICKS_PER_MICROSECOND
}

/// Microseconds awake since the start: at one instruction a nanosecond (`-icount shift=0`), thousands of instructions.
pub fn busy_micros() -> u64 {
    (ticks() - clock(|_| {}).uncounted) / TICKS_PER_MICROSECOND
}

/// Does something that is not to count as being awake.
pub fn uncounted(act: impl FnOnce()) {
    let before = ticks();
    act();
    let spent = ticks() - before;
    clock(|clock| clock.uncounted += spent);
}

/// Sleeps until `deadline` (microseconds), or until something arrives. May return early.
pub fn sleep_until(deadline: u64) {
    let remaining = deadline.saturating_mul(TICKS_PER_MICROSECOND).saturating_sub(ticks()).min(LONGEST_SLEEP);
    if remaining == 0 {
        return;
    }
    ALARM_RELOAD.write(remaining as u32); // bounded above
    ALARM_CTRL.write(0b1001); // run, interrupt at zero
    uncounted(cortex_m::asm::wfi);
    ALARM_CTRL.write(0);
    ALARM_INTCLEAR.write(1);
    for interrupt in WAKING {
        NVIC::unpend(interrupt);
    }
}

/// Restarts the processor. Memory beyond the image's own keeps its contents.
pub fn reset() -> ! {
    SCB::sys_reset()
}

/// The terminal at UART0.
pub struct Terminal;

impl Terminal {
    /// A byte that was typed.
    pub fn read() -> Option<u8> {
        UART0_INTCLEAR.write(0b10);
        (UART0_STATE.read() & 0b10 != 0).then(|| UART0_DATA.read() as u8)
    }
}

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while UART0_STATE.read() & 1 != 0 {}
            UART0_DATA.write(byte.into());
        }
        Ok(())
    }
}

/// Prints a line on the terminal.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::board::print_line(format_args!($($part)*)) };
}

/// See [`say!`].
#[inline(never)]
pub fn print_line(line: fmt::Arguments<'_>) {
    // The terminal takes everything.
    let _ = fmt::write(&mut Terminal, line);
    let _ = fmt::Write::write_str(&mut Terminal, "\r\n");
}
