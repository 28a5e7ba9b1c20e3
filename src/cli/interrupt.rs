//! Ctrl-C.
//!
//! Enters: SIGINT. Leaves: word of it to whoever waits. Always holds: it is seen by a thread of its own: a query
//! may keep all others busy, and the one that prints may be blocked by a reader that does not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::Kind;

/// How long a stopped statement may take to clean up.
pub(super) const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// How many times Ctrl-C may be pressed before the process ends, should the program be unable to stop in time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// The first one counts.
    Short,
    /// The first one may take its time.
    Long,
    /// It ends statements, and never the process.
    Endless,
}

impl Patience {
    fn presses(self) -> u64 {
        match self {
            Patience::Short => 1,
            Patience::Long => 2,
            Patience::Endless => u64::MAX,
        }
    }
}

/// Tells of each Ctrl-C.
#[derive(Clone)]
pub(super) struct Interrupt {
    presses: watch::Receiver<u64>,
    /// Those that do not count any more.
    past: u64,
    /// The one that ends the process.
    last: Arc<AtomicU64>,
}

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen(patience: Patience) -> Self {
        let (sender, presses) = watch::channel(0);
        let last = Arc::new(AtomicU64::new(patience.presses()));
        let limit = Arc::clone(&last);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(mut signals) = signal(SignalKind::interrupt()) else { return };
                while signals.recv().await.is_some() {
                    sender.send_modify(|presses| *presses += 1);
                    if *sender.borrow() >= limit.load(Ordering::Relaxed) {
                        std::thread::sleep(INTERRUPT_GRACE);
                        std::process::exit(i32::from(Kind::Interrupted.exit_code()));
                    }
                }
            });
        });
        Self { presses, past: 0, last }
    }

    /// From now on the process has this patience.
    pub(super) fn be(&self, patience: Patience) {
        self.last.store(patience.presses(), Ordering::Relaxed);
    }

    /// What was pressed until now does not count.
    pub(super) fn forget(&mut self) {
        self.past = *self.presses.borrow_and_update();
    }

    /// Returns once Ctrl-C has been pressed.
    pub(super) async fn pressed(&mut self) {
        self.pressed_times(1).await;
    }

    /// Returns once Ctrl-C has been pressed twice.
    pub(super) async fn pressed_again(&mut self) {
        self.pressed_times(2).await;
    }

    async fn pressed_times(&mut self, times: u64) {
        let wanted = self.past + times;
        if self.presses.wait_for(|presses| *presses >= wanted).await.is_err() {
            // Nobody listens.
            std::future::pending::<()>().await;
        }
    }
}
