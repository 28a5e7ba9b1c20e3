//! Which columns a terminal has room for, and how wide each may be.
//!
//! Enters: what each column needs, and the room. Leaves: the columns to show, with their widths. Always holds:
//! a column is narrowed no further than it can be read; where that is not enough, columns in the middle are left
//! out, and the first and the last ones stay.

/// Characters that a narrowed text keeps.
const READABLE: usize = 16;
/// Characters that a narrowed name keeps.
const READABLE_NAME: usize = 12;

/// What a column needs.
pub(super) struct Need {
    /// To show all of it.
    width: usize,
    /// To be read.
    least: usize,
}

impl Need {
    /// `name` and `cells` are the widths of a column's name and of its widest value; `whole`: values are not cut.
    pub(super) fn new(name: usize, cells: usize, whole: bool) -> Self {
        let cells_least = if whole { cells } else { cells.min(READABLE) };
        Self { width: name.max(cells).max(1), least: cells_least.max(name.min(READABLE_NAME)).max(1) }
    }
}

/// A column to show; `at` is nothing for the mark of those left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) at: Option<usize>,
    pub(super) width: usize,
}

/// Columns of a terminal that a table takes, with its lines and blanks.
fn cost(slots: &[Slot]) -> usize {
    slots.iter().map(|slot| slot.width + 3).sum::<usize>() + 1
}

/// The columns that fit.
pub(super) fn fit(needs: &[Need], room: Option<usize>) -> Vec<Slot> {
    let slots = |width: fn(&Need) -> usize| -> Vec<Slot> {
        needs.iter().enumerate().map(|(at, need)| Slot { at: Some(at), width: width(need) }).collect()
    };
    let all = slots(|need| need.width);
    let Some(room) = room.filter(|room| cost(&all) > *room) else { return all };
    let narrowed = slots(|need| need.least);
    let mut shown = if cost(&narrowed) <= room { narrowed } else { ends(&narrowed, room) };
    let mut spare = room.saturating_sub(cost(&shown));
    // The spare room goes to those that were narrowed, evenly.
    while spare > 0 {
        let narrow = shown.iter_mut().filter(|slot| slot.at.is_some_and(|at| slot.width < needs[at].width));
        let Some(slot) = narrow.min_by_key(|slot| slot.width) else { break };
        slot.width += 1;
        spare -= 1;
    }
    shown
}

/// As many columns from both ends as there is room for.
fn ends(slots: &[Slot], room: usize) -> Vec<Slot> {
    let gap = Slot { at: None, width: 1 };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut used = cost(&[gap]);
    while left.len() + right.len() < slots.len() {
        let next = if left.len() <= right.len() { slots[left.len()] } else { slots[slots.len() - 1 - right.len()] };
        used += cost(&[next]) - cost(&[]);
        if used > room {
            break;
        }
        if left.len() <= right.len() { left.push(next) } else { right.push(next) }
    }
    if left.is_empty() {
        // Not even one: it is cut.
        let gaps = if slots.len() > 1 { cost(&[gap]) } else { cost(&[]) };
        left.extend(slots.first().map(|slot| Slot { width: room.saturating_sub(gaps + 3).max(1), ..*slot }));
    }
    if left.len() < slots.len() {
        left.push(gap);
    }
    left.extend(right.into_iter().rev());
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(needs: &[(usize, usize, bool)], room: usize) -> Vec<(Option<usize>, usize)> {
        let needs: Vec<Need> = needs.iter().map(|(name, cells, number)| Need::new(*name, *cells, *number)).collect();
        let slots = fit(&needs, Some(room));
        assert!(cost(&slots) <= room, "{slots:?} in {room}");
        slots.into_iter().map(|slot| (slot.at, slot.width)).collect()
    }

    #[test]
    fn what_fits_is_not_touched() {
        assert_eq!(shown(&[(2, 9, true), (4, 30, false)], 46), [(Some(0), 9), (Some(1), 30)]);
    }

    #[test]
    fn texts_are_narrowed_before_columns_go() {
        assert_eq!(shown(&[(2, 9, true), (4, 90, false)], 50), [(Some(0), 9), (Some(1), 34)]);
        assert_eq!(shown(&[(4, 90, false), (4, 20, false)], 50), [(Some(0), 23), (Some(1), 20)]);
    }

    #[test]
    fn columns_in_the_middle_go_first() {
        let many: Vec<(usize, usize, bool)> = (0..30).map(|_| (5, 10, true)).collect();
        let slots = shown(&many, 80);
        assert_eq!(
            slots.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2), None, Some(28), Some(29)]
        );
    }

    #[test]
    fn a_narrow_terminal_shows_the_first_column_at_least() {
        assert_eq!(shown(&[(5, 60, true), (5, 60, true)], 40), [(Some(0), 32), (None, 1)]);
        assert_eq!(shown(&[(5, 60, true)], 40), [(Some(0), 36)]);
    }
}
