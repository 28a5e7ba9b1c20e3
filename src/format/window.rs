//! The first and the last rows of a result.
//!
//! Enters: batches. Leaves: as many first and last rows as were asked for, and how many there are in all. Always
//! holds: what lies between is let go at once, so memory does not grow with the result.

use std::collections::VecDeque;

use arrow::record_batch::RecordBatch;

/// The rows at both ends of a result.
pub(super) struct Window {
    limit: usize,
    first: Vec<RecordBatch>,
    first_rows: usize,
    last: VecDeque<RecordBatch>,
    last_rows: usize,
    total: usize,
}

/// What a [`Window`] has in the end.
pub(super) struct Ends {
    pub(super) first: Vec<RecordBatch>,
    /// Rows between.
    pub(super) skipped: usize,
    pub(super) last: Vec<RecordBatch>,
}

impl Window {
    /// Keeps `limit` rows, half of them from the start.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, first: Vec::new(), first_rows: 0, last: VecDeque::new(), last_rows: 0, total: 0 }
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) {
        self.total += batch.num_rows();
        let take = batch.num_rows().min(self.limit.div_ceil(2) - self.first_rows);
        if take > 0 {
            self.first.push(batch.slice(0, take));
            self.first_rows += take;
        }
        if take < batch.num_rows() {
            let rest = batch.slice(take, batch.num_rows() - take);
            self.last_rows += rest.num_rows();
            self.last.push_back(rest);
        }
        while let Some(oldest) = self.last.front()
            && self.last_rows - oldest.num_rows() >= self.limit / 2
        {
            self.last_rows -= oldest.num_rows();
            self.last.pop_front();
        }
    }

    pub(super) fn ends(self) -> Ends {
        let surplus = self.last_rows.saturating_sub(self.limit / 2);
        let mut last: Vec<RecordBatch> = self.last.into();
        match last.first_mut() {
            Some(oldest) => *oldest = oldest.slice(surplus, oldest.num_rows() - surplus),
            None => return Ends { first: self.first, skipped: self.total - self.first_rows, last },
        }
        let kept = self.first_rows + self.last_rows - surplus;
        Ends { first: self.first, skipped: self.total - kept, last }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// The numbers that a window of `limit` keeps of 0 to `total`, in batches of `size`.
    fn kept(limit: usize, total: i64, size: usize) -> (Vec<i64>, usize, Vec<i64>) {
        let mut window = Window::new(limit);
        for batch in (0..total).collect::<Vec<_>>().chunks(size) {
            let column = Arc::new(Int64Array::from(batch.to_vec()));
            window.push(&RecordBatch::try_from_iter([("n", column as _)]).expect("a batch"));
        }
        let numbers = |batches: &[RecordBatch]| -> Vec<i64> {
            batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
        };
        let ends = window.ends();
        (numbers(&ends.first), ends.skipped, numbers(&ends.last))
    }

    #[test]
    fn both_ends_are_kept_whatever_the_batches_are() {
        for size in [1, 2, 3, 7, 100] {
            assert_eq!(kept(4, 10, size), (vec![0, 1], 6, vec![8, 9]), "{size}");
            assert_eq!(kept(5, 10, size), (vec![0, 1, 2], 5, vec![8, 9]), "{size}");
            assert_eq!(kept(4, 4, size), (vec![0, 1], 0, vec![2, 3]), "{size}");
            assert_eq!(kept(4, 1, size), (vec![0], 0, vec![]), "{size}");
            assert_eq!(kept(1, 3, size), (vec![0], 2, vec![]), "{size}");
        }
    }
}
