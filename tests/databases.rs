//! Databases: tables at rest, sinks that hold each epoch once, and what changes in one as a stream.
//!
//! Enters: the program, SQLite through Python, a server of Postgres. Leaves: nothing. Always holds: what a
//! database holds is the batch answer, also behind kills at any instant.

mod changes;
#[cfg(feature = "delta")]
mod delta;
mod postgres;
pub(crate) mod server;
mod sqlite;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::Place;
#[cfg(feature = "failpoints")]
use crate::support::Ran;

const ROWS: u64 = 20;

/// How many rows the tables of one commit are apart: 0, whoever reads between.
const TORN: &str = "SELECT (SELECT count(*) FROM ids) - (SELECT sum(n) FROM agg)";

/// A file that comes whole: under a hidden name first, since a folder's files are taken whatever they are called.
fn input(place: &Place, number: u64) {
    let rows = (0..ROWS).map(|row| format!("{{\"id\":{},\"f\":{number}}}\n", number * ROWS + row));
    place.write(&format!("in/.{number:06}"), rows.collect::<String>());
    let folder = place.path().join("in");
    std::fs::rename(folder.join(format!(".{number:06}")), folder.join(format!("{number:06}.json"))).expect("renames");
}

/// Stops the generator, also where an assertion fails: its thread would be waited for without end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a pipeline whose durable step fails at its first, second and third time, each time once more while it recovers,
/// and then to its end. `action`: `exit` or `error`.
#[cfg(feature = "failpoints")]
fn fails_and_goes_on(place: &Place, step: &str, action: &str, once: &dyn Fn(&str) -> Ran) {
    (0..4).for_each(|number| input(place, number));
    let mut failed = 0;
    for skipped in [0, 1, 2] {
        let ran = once(&format!("{step}={skipped}*off->1*return({action})->off"));
        failed += usize::from(ran.code != Some(0));
        // Once more while it recovers.
        once(&format!("{step}=1*return({action})->off"));
        input(place, 4 + skipped);
    }
    assert!(failed > 0, "{step} was never reached");
    once("").data();
}

/// Kills a pipeline again and again while its input grows, each time after `least` milliseconds and up to `more`;
/// `torn` asks for [`TORN`].
fn killed(
    place: &Place,
    kills: u64,
    (least, more): (u64, u64),
    pipeline: impl Fn() -> Command,
    torn: impl Fn() -> String,
) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let generator = scope.spawn(|| {
            let mut number = 1;
            while !stop.load(Ordering::Relaxed) {
                input(place, number);
                number += 1;
                std::thread::sleep(Duration::from_millis(15));
            }
            number
        });
        let stopped = Stop(&stop);
        for kill in 0..kills {
            let mut child = pipeline().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            std::thread::sleep(Duration::from_millis(least + kill * 7919 % more));
            assert!(child.try_wait().expect("asks").is_none(), "it ended by itself");
            child.kill().expect("kills");
            child.wait().expect("ends");
            assert_eq!(torn(), "0\n", "kill {kill}");
        }
        drop(stopped);
        assert!(generator.join().expect("the generator") > kills);
    });
}
