//! Sums of floats that hold every bit.
//!
//! Enters: floats, added or taken away any number of times. Leaves: their sum, rounded once. Always holds: the sum
//! depends on the values that are in it, and not on their order or on what has been taken away since; NaN and
//! infinities are counted apart, so they leave as they came.
//!
//! The sum is kept as floats that do not overlap: J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic and
//! Fast Robust Geometric Predicates", 1997, grow-expansion; the rounding is that of Python's math.fsum.

use smallvec::SmallVec;

/// Values from here on are kept scaled down, so that no partial sum overflows.
const BIG: f64 = 1e290;
/// By how much: a power of two.
const SCALE: f64 = 1.0 / (1_u64 << 60) as f64;

/// An exact sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Exact {
    /// Least first.
    parts: SmallVec<[f64; 2]>,
    rare: Option<Box<Rare>>,
}

/// What few sums have.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rare {
    nan: i64,
    positive: i64,
    negative: i64,
    /// The sum of large values, each times [`SCALE`].
    big: SmallVec<[f64; 2]>,
}

impl Exact {
    /// Adds a value so many times; below 0, takes it away.
    pub(super) fn add(&mut self, value: f64, times: i64) {
        if !value.is_finite() {
            let rare = self.rare.get_or_insert_default();
            let count = match value {
                f64::INFINITY => &mut rare.positive,
                f64::NEG_INFINITY => &mut rare.negative,
                _ => &mut rare.nan,
            };
            *count += times;
        } else if times == 1 {
            self.add_finite(value);
        } else if times == -1 {
            self.add_finite(-value);
        } else {
            let (product, error) = two_product(value, times as f64);
            if product.is_finite() {
                self.add_finite(product);
                self.add_finite(error);
            } else {
                let (product, error) = two_product(value * SCALE, times as f64);
                let big = &mut self.rare.get_or_insert_default().big;
                grow(big, product);
                grow(big, error);
            }
        }
    }

    /// Adds the product of two finite values so many times. A product beyond the largest float is an infinity.
    pub(super) fn add_product(&mut self, a: f64, b: f64, times: i64) {
        let (product, error) = two_product(a, b);
        self.add(product, times);
        if product.is_finite() {
            self.add(error, times);
        }
    }

    fn add_finite(&mut self, value: f64) {
        if value.abs() >= BIG {
            grow(&mut self.rare.get_or_insert_default().big, value * SCALE);
        } else {
            grow(&mut self.parts, value);
        }
    }

    /// Adds another sum.
    pub(super) fn add_sum(&mut self, other: &Exact) {
        other.parts.iter().for_each(|part| grow(&mut self.parts, *part));
        if let Some(other) = &other.rare {
            let rare = self.rare.get_or_insert_default();
            rare.nan += other.nan;
            rare.positive += other.positive;
            rare.negative += other.negative;
            other.big.iter().for_each(|part| grow(&mut rare.big, *part));
        }
    }

    /// Adds another sum times a factor; only of sums that are plain.
    pub(super) fn add_scaled(&mut self, other: &Exact, factor: f64) {
        other.parts.iter().for_each(|part| self.add_product(*part, factor, 1));
    }

    /// Takes the product of two sums away; only of sums that are plain.
    pub(super) fn subtract_product(&mut self, a: &Exact, b: &Exact) {
        for x in &a.parts {
            b.parts.iter().for_each(|y| self.add_product(*x, *y, -1));
        }
    }

    /// True if it has neither NaN nor infinities nor large values.
    pub(super) fn is_plain(&self) -> bool {
        self.rare.as_ref().is_none_or(|rare| **rare == Rare::default())
    }

    /// The sum, rounded to the nearest float.
    pub(super) fn value(&self) -> f64 {
        let Some(rare) = &self.rare else { return round(&self.parts) };
        if rare.nan != 0 || (rare.positive != 0 && rare.negative != 0) {
            return f64::NAN;
        }
        if rare.positive != 0 {
            return f64::INFINITY;
        }
        if rare.negative != 0 {
            return f64::NEG_INFINITY;
        }
        if rare.big.is_empty() {
            return round(&self.parts);
        }
        let mut all = rare.big.clone();
        self.parts.iter().for_each(|part| grow(&mut all, part * SCALE));
        round(&all) / SCALE
    }

    /// As bytes, for a checkpoint: four counts, then the floats, of 8 bytes each.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let none = Rare::default();
        let rare = self.rare.as_deref().unwrap_or(&none);
        let counts = [rare.nan, rare.positive, rare.negative, rare.big.len() as i64];
        let counts = counts.iter().flat_map(|count| count.to_le_bytes());
        counts.chain(rare.big.iter().chain(&self.parts).flat_map(|part| part.to_le_bytes())).collect()
    }

    /// What [`Exact::to_bytes`] gave.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let words: Vec<[u8; 8]> = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()).collect();
        let Some((counts, parts)) = words.split_at_checked(4) else { return Self::default() };
        let counts: Vec<i64> = counts.iter().map(|word| i64::from_le_bytes(*word)).collect();
        let parts: Vec<f64> = parts.iter().map(|word| f64::from_le_bytes(*word)).collect();
        let (big, parts) = parts.split_at(usize::try_from(counts[3]).unwrap_or(0).min(parts.len()));
        let rare = Rare { nan: counts[0], positive: counts[1], negative: counts[2], big: big.into() };
        Self { parts: parts.into(), rare: (rare != Rare::default()).then(|| Box::new(rare)) }
    }
}

/// A product, and what its rounding has left out.
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    (product, a.mul_add(b, -product))
}

/// Adds a value to an expansion, without rounding.
fn grow(parts: &mut SmallVec<[f64; 2]>, value: f64) {
    let mut x = value;
    let mut kept = 0;
    for at in 0..parts.len() {
        let mut y = parts[at];
        if x.abs() < y.abs() {
            std::mem::swap(&mut x, &mut y);
        }
        let high = x + y;
        let low = y - (high - x);
        if low != 0.0 {
            parts[kept] = low;
            kept += 1;
        }
        x = high;
    }
    parts.truncate(kept);
    if x != 0.0 {
        parts.push(x);
    }
}

/// The sum of an expansion, to nearest, ties to even.
fn round(parts: &[f64]) -> f64 {
    let Some((last, rest)) = parts.split_last() else { return 0.0 };
    let mut high = *last;
    let mut low = 0.0;
    let mut at = rest.len();
    while at > 0 {
        at -= 1;
        let x = high;
        let y = rest[at];
        high = x + y;
        low = y - (high - x);
        if low != 0.0 {
            break;
        }
    }
    // A half that was rounded to even goes the other way if anything is left below it.
    if at > 0 && ((low < 0.0 && rest[at - 1] < 0.0) || (low > 0.0 && rest[at - 1] > 0.0)) {
        let twice = low * 2.0;
        let up = high + twice;
        if twice == up - high {
            high = up;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_float() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => -1e6..1e6_f64,
            2 => any::<f64>(),
            1 => prop::sample::select(vec![0.1, 1e16, -1e16, 1.0, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, -0.0]),
        ]
    }

    proptest! {
        #[test]
        fn what_is_taken_away_leaves_nothing(kept in prop::collection::vec(-1e9..1e9_f64, 0..20),
                                             gone in prop::collection::vec(any_float(), 0..20)) {
            let mut sum = Exact::default();
            gone.iter().for_each(|value| sum.add(*value, 1));
            kept.iter().for_each(|value| sum.add(*value, 3));
            gone.iter().rev().for_each(|value| sum.add(*value, -1));
            kept.iter().for_each(|value| sum.add(*value, -2));
            let mut alone = Exact::default();
            kept.iter().for_each(|value| alone.add(*value, 1));
            prop_assert_eq!(sum.value().to_bits(), alone.value().to_bits());
            let again = Exact::from_bytes(&sum.to_bytes());
            prop_assert_eq!(again.value().to_bits(), sum.value().to_bits());
        }

        #[test]
        fn the_order_does_not_matter(mut values in prop::collection::vec(any_float(), 0..20)) {
            let sum = |values: &[f64]| {
                let mut sum = Exact::default();
                values.iter().for_each(|value| sum.add(*value, 1));
                sum.value()
            };
            let forward = sum(&values);
            values.reverse();
            prop_assert!(forward == sum(&values) || forward.is_nan() && sum(&values).is_nan());
        }

        #[test]
        fn the_sum_of_two_sums_is_that_of_their_values(a in prop::collection::vec(any_float(), 0..20),
                                                       b in prop::collection::vec(any_float(), 0..20)) {
            let sum = |values: &mut dyn Iterator<Item = &f64>| {
                let mut sum = Exact::default();
                values.for_each(|value| sum.add(*value, 1));
                sum
            };
            let mut both = sum(&mut a.iter());
            both.add_sum(&Exact::from_bytes(&sum(&mut b.iter()).to_bytes()));
            let all = sum(&mut a.iter().chain(&b));
            prop_assert!(both.value() == all.value() || both.value().is_nan() && all.value().is_nan());
        }
    }

    #[test]
    fn sums_are_rounded_once() {
        let sum = |values: &[f64]| {
            let mut sum = Exact::default();
            values.iter().for_each(|value| sum.add(*value, 1));
            sum.value()
        };
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }
}
