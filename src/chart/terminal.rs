//! Charts as text.
//!
//! Enters: a [`Chart`], and the size of the terminal. Leaves: lines of text. Always holds: no line is wider than
//! asked; without colours, series differ by their signs.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart as Plane, Dataset, GraphType, Widget};
use unicode_width::UnicodeWidthStr;

use super::{Chart, Kind, SERIES, number};

/// Bars that a terminal shows.
const BARS: usize = 50;
const COLOURS: [(Color, u8); SERIES] = [
    (Color::Cyan, 36),
    (Color::Yellow, 33),
    (Color::Magenta, 35),
    (Color::Green, 32),
    (Color::Red, 31),
    (Color::Blue, 34),
    (Color::LightCyan, 96),
    (Color::LightYellow, 93),
];
const SIGNS: [char; SERIES] = ['•', '+', 'x', 'o', '*', '#', '%', '@'];

impl Chart {
    /// The chart as lines of at most `width` columns.
    pub fn text(&self, width: usize, height: usize, colour: bool) -> String {
        if self.kind == Kind::Bar { self.bar_text(width, colour) } else { self.plane_text(width, height, colour) }
    }

    fn bar_text(&self, width: usize, colour: bool) -> String {
        let shown = self.labels.len().min(BARS);
        let labels = self.labels[..shown].iter().map(|label| label_of(label, (width / 3).max(1)));
        let labels: Vec<String> = labels.collect();
        let label_width = labels.iter().map(|label| label.width()).max().unwrap_or_default();
        let value_width = self.points().map(|(_, value)| number(value).width()).max().unwrap_or_default();
        let (low, high) = self.y_range();
        let room = width.saturating_sub(label_width + value_width + 4).max(4);
        // Eighths of a column.
        let scale = |value: f64| (value / (high - low) * room as f64 * 8.0).round().max(0.0) as usize;
        let before_zero = scale(-low.min(0.0)).div_ceil(8);
        let mut text = String::new();
        for (row, label) in labels.iter().enumerate() {
            for (at, series) in self.series.iter().enumerate() {
                let label = if at == 0 { label.as_str() } else { "" };
                let gap = " ".repeat(label_width - label.width());
                let value = series.points.iter().find(|(x, _)| *x == row as f64).map(|(_, value)| *value);
                let (left, right) = match value {
                    Some(value) if value < 0.0 => (scale(-value).div_ceil(8).min(before_zero), String::new()),
                    Some(value) => (0, bar(scale(value))),
                    None => (0, String::new()),
                };
                let left = format!("{}{}", " ".repeat(before_zero - left), "█".repeat(left));
                let bar = paint(&format!("{left}│{right}"), COLOURS[at].1, colour);
                let value = value.map_or_else(|| "NULL".to_owned(), number);
                text.push_str(format!("{label}{gap} {bar} {value}").trim_end());
                text.push('\n');
            }
        }
        if shown < self.labels.len() {
            text.push_str(&format!("… {} more\n", self.labels.len() - shown));
        }
        if self.series.len() > 1 {
            let legend =
                |(at, series): (usize, &super::Series)| paint(&format!("█ {}", series.name), COLOURS[at].1, colour);
            let legend: Vec<String> = self.series.iter().enumerate().map(legend).collect();
            text.push_str(&format!("{}\n", legend.join("  ")));
        }
        text
    }

    fn plane_text(&self, width: usize, height: usize, colour: bool) -> String {
        let (x_low, x_high) = self.x_range();
        let (y_low, y_high) = self.y_range();
        let dataset = |(at, series): (usize, &super::Series)| {
            let name = if self.series.len() > 1 { series.name.clone() } else { String::new() };
            (name, at)
        };
        let named: Vec<(String, usize)> = self.series.iter().enumerate().map(dataset).collect();
        let graph = if self.kind == Kind::Line { GraphType::Line } else { GraphType::Scatter };
        let datasets: Vec<Dataset<'_>> = named
            .iter()
            .map(|(name, at)| {
                let several = !colour && self.series.len() > 1;
                let marker = if several { Marker::Custom(SIGNS[*at]) } else { Marker::Braille };
                let dataset = Dataset::default().data(&self.series[*at].points).marker(marker).graph_type(graph);
                let legend = if several { format!("{} {name}", SIGNS[*at]) } else { name.clone() };
                let dataset = dataset.style(Style::new().fg(COLOURS[*at].0));
                if name.is_empty() { dataset } else { dataset.name(legend) }
            })
            .collect();
        let labels = |low: f64, high: f64, count: usize, label: &dyn Fn(f64) -> String| -> Vec<String> {
            (0..count).map(|at| label(low + (high - low) * at as f64 / (count - 1) as f64)).collect()
        };
        let x_labels = labels(x_low, x_high, (width / 25).clamp(2, 5), &|value| self.x_label(value));
        let y_labels = labels(y_low, y_high, (height / 4).clamp(2, 6), &number);
        let y_name = if self.series.len() == 1 { self.series[0].name.clone() } else { String::new() };
        let plane = Plane::new(datasets)
            .x_axis(Axis::default().title(self.x.clone()).bounds([x_low, x_high]).labels(x_labels))
            .y_axis(Axis::default().title(y_name).bounds([y_low, y_high]).labels(y_labels))
            .hidden_legend_constraints((Constraint::Percentage(60), Constraint::Percentage(60)));
        let side = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).max(8);
        let area = Rect::new(0, 0, side(width), side(height));
        let mut buffer = Buffer::empty(area);
        plane.render(area, &mut buffer);
        lines(&buffer, colour)
    }
}

/// The cells of a buffer, line by line.
fn lines(buffer: &Buffer, colour: bool) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut x = 0;
        while x < buffer.area.width {
            let cell = &buffer[(x, y)];
            let code = COLOURS.iter().find(|(known, _)| *known == cell.fg).map(|(_, code)| *code);
            match code {
                Some(code) if cell.symbol() != " " => line.push_str(&paint(cell.symbol(), code, colour)),
                _ => line.push_str(cell.symbol()),
            }
            x += u16::try_from(cell.symbol().width()).unwrap_or(1).max(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn bar(eighths: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

fn paint(text: &str, code: u8, colour: bool) -> String {
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A label that fits, without line breaks.
fn label_of(text: &str, width: usize) -> String {
    clip(&text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>(), width)
}

/// Cuts a text to `width` columns and ends it in `…`.
pub fn clip(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if cut.width() + 1 > width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chart, numbers, texts, times};
    use super::*;

    #[test]
    fn bars_begin_at_zero() {
        let columns = vec![("c", texts(&["Old Town", "Harbour", "x"])), ("n", numbers(&[8.0, -4.0, 2.0]))];
        let text = chart(columns, None).expect("a chart").text(40, 20, false);
        let expected = "\
Old Town        │█████████████████ 8
Harbour  ████████│ -4
x               │████▎ 2
";
        assert_eq!(text.replace("\n\n", "\n").lines().count(), 3, "{text}");
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        let wanted: Vec<usize> = expected.lines().map(|line| line.matches('█').count()).collect();
        assert!(bars[0] > bars[1] && bars[1] > bars[2], "{text}{wanted:?}");
    }

    #[test]
    fn lines_fit_the_terminal_and_tell_their_axes() {
        let columns = vec![
            ("day", times(&[0, 86_400, 172_800, 700_000])),
            ("n", numbers(&[1.0, 5.0, 3.0, 4.0])),
            ("m", numbers(&[2.0, 2.0, 2.0, 2.0])),
        ];
        for (width, height) in [(80, 20), (40, 12), (9, 8)] {
            let text = chart(columns.clone(), None).expect("a chart").text(width, height, false);
            assert!(text.lines().all(|line| line.width() <= width) && !text.contains('\u{1b}'), "{text}");
            assert_eq!(text.lines().count(), height);
        }
        let text = chart(columns, None).expect("a chart").text(80, 20, true);
        for part in ["1970-01-01", "1970-01-09", "day", "\u{1b}[36m"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
