//! The end of a pipeline that is only timed.
//!
//! Enters: changes. Leaves: nothing. Always holds: nothing is kept, and nothing waits.

use async_trait::async_trait;
use fuse::change::Changes;
use fuse::error::Error;
use fuse::offset::Epoch;
use fuse::sink::stream::Sink;

/// A sink that keeps nothing.
pub(crate) struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    fn take(&mut self, _changes: Vec<Changes>, _shown: bool) -> std::result::Result<(), Error> {
        Ok(())
    }

    async fn stage(&mut self, _epoch: Epoch, _now_micros: i64) -> std::result::Result<(), Error> {
        Ok(())
    }

    async fn commit(&mut self, _epoch: Epoch) -> std::result::Result<(), Error> {
        Ok(())
    }
}
