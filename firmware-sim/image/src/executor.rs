//! Runs one future on a processor that sleeps while there is nothing to do. Interrupts are masked and only wake it, so a
//! frame that comes between the last look and `wfi` is not missed.
//!
//! Every wake-up looks at everything that is waited for; that is a handful of things, and cheaper than to remember who waits.

use crate::board;
use crate::network::Network;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

/// Whether something asked to be looked at again at once.
static WOKEN: AtomicBool = AtomicBool::new(false);

const VTABLE: RawWakerVTable = RawWakerVTable::new(|_| WAKER, |_| wake(), |_| wake(), |_| {});
const WAKER: RawWaker = RawWaker::new(core::ptr::null(), &VTABLE);

fn wake() {
    WOKEN.store(true, Ordering::Relaxed);
}

/// What a future of this board waits for.
pub struct Board {
    /// The network.
    pub network: Network,
    /// The next instant at which something that waits wants to be looked at, in microseconds.
    alarm: Cell<u64>,
}

impl Board {
    /// A board on which nobody waits.
    pub const fn new(network: Network) -> Self {
        Self { network, alarm: Cell::new(u64::MAX) }
    }

    /// Resolves at `deadline`, in microseconds.
    pub async fn sleep_until(&self, deadline: u64) {
        poll_fn(|_| {
            if board::micros() >= deadline {
                return Poll::Ready(());
            }
            self.alarm.set(self.alarm.get().min(deadline));
            Poll::Pending
        })
        .await;
    }

    /// Runs `future` to its end.
    pub fn run<T>(&self, mut future: Pin<&mut impl Future<Output = T>>) -> T {
        // SAFETY: the functions of the table ignore their argument and touch one static atomic.
        let waker = unsafe { Waker::from_raw(WAKER) };
        let mut context = Context::from_waker(&waker);
        loop {
            crate::obey_terminal();
            self.network.poll();
            self.alarm.set(u64::MAX);
            WOKEN.store(false, Ordering::Relaxed);
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if self.network.poll() || WOKEN.load(Ordering::Relaxed) {
                continue;
            }
            board::sleep_until(self.alarm.get().min(self.network.due().unwrap_or(u64::MAX)));
        }
    }
}
