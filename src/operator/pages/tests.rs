//! Rows on pages against a map of the standard library.
//!
//! Enters: random rows that come and go, and spills. Leaves: nothing. Always holds: what is found is what the map finds,
//! wherever a page is; what is counted is what is there.

use datafusion::execution::disk_manager::DiskManagerBuilder;
use proptest::prelude::*;

use super::*;

fn disk() -> Arc<DiskManager> {
    Arc::new(DiskManagerBuilder::default().build().expect("a disk"))
}

fn entry(weight: i64) -> Entry {
    Entry { weight, order: 1, row: 2 }
}

/// Keys of several lengths, of which some begin others, and many have more than eight bytes in common.
fn key(number: u64) -> Vec<u8> {
    let [high, low] = (number as u16).to_be_bytes();
    let mut key = vec![high];
    key.resize(1 + usize::from(low % 4) * 4, 4);
    key.push(low);
    key
}

fn all<'a>(rows: impl Iterator<Item = Result<(&'a Key, &'a Entry)>>) -> Vec<(Key, i64)> {
    rows.map(|row| row.expect("a row")).map(|(key, entry)| (key.clone(), entry.weight)).collect()
}

/// What is counted, anew.
fn check(pages: &Pages) {
    let live = || pages.index.values().map(|at| pages.page(*at));
    assert_eq!(pages.index.first_key_value().map(|(key, _)| key.len()), Some(0));
    assert_eq!(pages.index.len() + pages.free.len(), pages.pages.len());
    assert_eq!(pages.rows, live().map(|page| page.len).sum::<usize>());
    assert_eq!(pages.warm_bytes.get(), live().map(Page::bytes).sum::<usize>());
    assert_eq!(pages.index_bytes, pages.index.keys().map(|key| key.len()).sum::<usize>());
    let on_disk = live().filter_map(|page| page.cold).map(|place| u64::from(place.length)).sum::<u64>();
    assert_eq!(pages.files.bytes().1, on_disk);
    for (place, page) in pages.pages.iter().enumerate() {
        let times = pages.queue.borrow().iter().filter(|at| **at as usize == place).count();
        assert_eq!(times, usize::from(page.queued.get()), "page {place} stands in the queue {times} times");
        assert!(
            page.queued.get() || page.rows.get().is_none_or(|rows| rows.all().is_empty()),
            "page {place} can not go"
        );
        if let Some(rows) = page.rows.get() {
            assert_eq!((page.len, page.key_bytes), (rows.all().len(), rows.key_bytes()));
        }
    }
}

proptest! {
    #[test]
    fn rows_are_those_of_a_map(steps in prop::collection::vec((0_u8..9, 1_usize..700, any::<u64>()), 1..40)) {
        let (mut pages, disk) = (Pages::new(), disk());
        pages.files.full = 1 << 14;
        let mut model: BTreeMap<Key, i64> = BTreeMap::new();
        for (kind, count, seed) in steps {
            let numbers = (0..count as u64).map(|at| match seed % 3 {
                0 => seed.wrapping_add(at),
                1 => seed.wrapping_sub(at),
                _ => seed.wrapping_add(at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32,
            });
            match kind {
                0..3 => for key in numbers.map(key) {
                    let before = pages.add(&key, entry(2)).expect("adds");
                    let weight = model.entry(key.into()).or_insert(0);
                    prop_assert_eq!(before, *weight);
                    *weight += 2;
                },
                // Some go, as they come or in order.
                3 | 4 => {
                    let from = key(seed);
                    let some = model.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded));
                    let step = 1 + (seed % 2) as usize;
                    let some: Vec<(Key, i64)> = some.step_by(step).take(count).map(|(key, weight)| (key.clone(), *weight)).collect();
                    for (key, weight) in some {
                        prop_assert_eq!(pages.add(&key, entry(-weight)).expect("takes away"), weight);
                        model.remove(&key);
                    }
                }
                5 | 6 => {
                    let (before, want) = (pages.bytes(), if kind == 5 { usize::MAX } else { count * 20 });
                    let freed = pages.spill(want, &disk).expect("spills");
                    prop_assert!(pages.bytes() <= before - freed);
                    prop_assert!(freed >= want || pages.warm_bytes.get() <= 4 * size_of::<Row>());
                }
                7 => {
                    let from = key(seed);
                    let expected: Vec<_> = model.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)).take(count).map(|(key, weight)| (key.clone(), *weight)).collect();
                    prop_assert_eq!(all(pages.from(&from).take(count)), expected);
                    let expected: Vec<_> = model.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&from[..]))).rev().take(count).map(|(key, weight)| (key.clone(), *weight)).collect();
                    prop_assert_eq!(all(pages.before(Some(&from)).take(count)), expected);
                    let found = pages.get(&from).expect("looks").map(|entry| entry.weight);
                    prop_assert_eq!(found, model.get(&from[..]).copied());
                }
                _ => {
                    let warm = pages.warm_bytes.get();
                    let mut blocks = Vec::new();
                    pages.blocks(count, |block| {
                        blocks.push(block.iter().map(|(key, entry)| ((*key).clone(), entry.weight)).collect::<Vec<_>>());
                        Ok(())
                    }).expect("reads");
                    prop_assert!(blocks.iter().rev().skip(1).all(|block| (count..count + PAGE_ROWS).contains(&block.len())));
                    prop_assert_eq!(blocks.concat(), model.clone().into_iter().collect::<Vec<_>>());
                    prop_assert_eq!(warm, pages.warm_bytes.get());
                }
            }
            prop_assert_eq!(pages.len(), model.len());
            check(&pages);
        }
        prop_assert_eq!(all(pages.before(None)), model.into_iter().rev().collect::<Vec<_>>());
    }
}

#[test]
fn memory_is_free_while_rows_are_on_disk() {
    let (mut pages, disk) = (Pages::new(), disk());
    for number in 0..20_000_u64 {
        let mut key = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes().to_vec();
        key.resize(100, 7);
        pages.add(&key, entry(1)).expect("adds");
    }
    let before = pages.bytes();
    assert!((20_000 * 140..20_000 * 190).contains(&before), "{before}");
    let expected = all(pages.from(&[]));
    let freed = pages.spill(usize::MAX, &disk).expect("spills");
    assert_eq!(pages.bytes(), before - freed);
    assert!(pages.bytes() * 25 < before, "{} of {before} are left", pages.bytes());
    assert_eq!(pages.rows, 20_000);
    assert_eq!(all(pages.from(&[])), expected);
    // They have not changed, so they go without being written.
    let (size, _) = pages.files.bytes();
    pages.spill(usize::MAX, &disk).expect("spills");
    assert_eq!(pages.files.bytes(), (size, size));
    check(&pages);
}

#[test]
fn what_is_used_stays_in_memory_and_what_has_gone_leaves_the_disk() {
    let (mut pages, disk) = (Pages::new(), disk());
    pages.files.full = 1 << 16;
    let key = |number: u32| [&number.to_be_bytes()[..], &[1; 96]].concat();
    (0..20_000).for_each(|number| assert_eq!(pages.add(&key(number), entry(1)).expect("adds"), 0));
    pages.spill(1, &disk).expect("spills");
    // Now each page has been passed once but those that are used.
    let hot: Vec<u32> = (0..20_000).filter(|number| number % 2_000 == 0).collect();
    for number in &hot {
        pages.get(&key(*number)).expect("looks");
    }
    let half = pages.bytes() / 2;
    pages.spill(half, &disk).expect("spills");
    let is_warm = |pages: &Pages, number: u32| pages.page(pages.find(&key(number))).rows.get().is_some();
    assert!(hot[1..].iter().all(|number| is_warm(&pages, *number)), "a page that was used has gone to disk");
    // Some rows change again and again; what is on disk stays in proportion.
    for round in 0..30 {
        for number in (0..20_000).step_by(100).filter(|number| number / 1_000 % 3 == round % 3) {
            pages.add(&key(number), entry(1)).expect("adds");
        }
        pages.spill(usize::MAX, &disk).expect("spills");
        let (size, live) = pages.files.bytes();
        assert!(size <= 2 * live + (1 << 17), "{size} bytes on disk, of which {live} are needed");
    }
    check(&pages);
    let rows = all(pages.from(&[]));
    for (key, weight) in rows {
        pages.add(&key, entry(-weight)).expect("takes away");
    }
    assert_eq!((pages.len(), pages.index.len(), pages.files.bytes()), (0, 1, (0, 0)));
    check(&pages);
}

#[test]
fn a_damaged_page_is_an_error() {
    let (mut pages, disk) = (Pages::new(), disk());
    (0..500_u32).for_each(|number| assert_eq!(pages.add(&number.to_be_bytes(), entry(1)).expect("adds"), 0));
    pages.spill(usize::MAX, &disk).expect("spills");
    for page in &mut pages.pages {
        page.len += 1;
    }
    let first = pages.from(&[]).next().expect("something");
    assert!(first.expect_err("an error").to_string().contains("not as it was written"));
    assert!(pages.get(&[0; 4]).is_err() && pages.add(&[0; 4], entry(1)).is_err());
}
