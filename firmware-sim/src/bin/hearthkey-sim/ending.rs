//! When a run is over: at the end of `--for`, with Ctrl-C or SIGTERM. Knows nothing of what runs.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Ctrl-C and SIGTERM. The first ends the run that is under way, with its goodbyes and its summary. One that comes while there
/// is no run to end, before it or after, ends the program.
#[derive(Default)]
pub(crate) struct Signals {
    run: Cell<Option<oneshot::Sender<()>>>,
}

impl Signals {
    /// Resolves with the exit code when the program is to end at once.
    ///
    /// # Errors
    /// When the system lets nobody listen.
    pub(crate) async fn end_of_program(&self) -> io::Result<i32> {
        let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        loop {
            // 128 and the signal, as shells report it.
            let exit = tokio::select! {
                _ = interrupted.recv() => 130,
                _ = terminated.recv() => 143,
            };
            let ends_a_run = self.run.take().is_some_and(|run| run.send(()).is_ok());
            if !ends_a_run {
                return Ok(exit);
            }
        }
    }

    /// Resolves when the run, which begins now, is over.
    pub(crate) async fn end_of_run(&self, run_for: Option<Duration>) {
        let (run, ended) = oneshot::channel();
        self.run.set(Some(run));
        let over = async {
            match run_for {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            _ = ended => {}
        }
    }
}
