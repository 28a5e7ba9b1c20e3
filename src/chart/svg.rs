//! Charts as SVG.
//!
//! Enters: a [`Chart`], and perhaps a title. Leaves: one SVG document. Always holds: text is text in it, in the
//! reader's fonts, and its size does not depend on the screen.

use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::prelude::*;

use super::{Chart, Kind, number};
use crate::error::{Error, Result};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 500;
/// Height of a bar and the gap below it.
const BAR_HEIGHT: u32 = 26;
/// Bars of a chart.
const BARS: usize = 200;
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
];

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

impl Chart {
    /// The chart as an SVG document.
    pub fn svg(&self, title: Option<&str>) -> Result<String> {
        if self.labels.len() > BARS {
            let many = self.labels.len();
            return Err(
                Error::query(format!("{many} bars: a chart shows at most {BARS}")).hint("add ORDER BY and LIMIT")
            );
        }
        let mut text = String::new();
        let drawn =
            if self.kind == Kind::Bar { self.draw_bars(&mut text, title) } else { self.draw_plane(&mut text, title) };
        drawn.map_err(|error| Error::query(format!("the chart cannot be drawn: {error}")))?;
        Ok(text)
    }

    fn draw_plane(&self, text: &mut String, title: Option<&str>) -> Drawn {
        let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&root);
        builder.margin(16).x_label_area_size(44).y_label_area_size(64);
        if let Some(title) = title {
            builder.caption(title, ("sans-serif", 22));
        }
        let (x, y) = (self.x_range(), self.y_range());
        let mut plane = builder.build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        let y_name = if self.series.len() == 1 { self.series[0].name.as_str() } else { "" };
        plane
            .configure_mesh()
            .light_line_style(WHITE)
            .x_labels(8)
            .x_desc(self.x.as_str())
            .y_desc(y_name)
            .x_label_formatter(&|value| self.x_label(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for (at, series) in self.series.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let drawn = match self.kind {
                Kind::Line => {
                    plane.draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))?
                }
                _ => plane.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?,
            };
            drawn
                .label(&series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()));
        }
        if self.series.len() > 1 {
            plane.configure_series_labels().background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.3)).draw()?;
        }
        root.present()?;
        Ok(())
    }

    /// Bars lie, so that their names can be read.
    fn draw_bars(&self, text: &mut String, title: Option<&str>) -> Drawn {
        let rows = u32::try_from(self.labels.len() * self.series.len())?;
        let root = SVGBackend::with_string(text, (WIDTH, rows * BAR_HEIGHT + 110)).into_drawing_area();
        root.fill(&WHITE)?;
        let longest = self.labels.iter().map(|label| label.chars().count()).max().unwrap_or_default();
        let names = u32::try_from(longest.min(40) * 8 + 24)?;
        let mut builder = ChartBuilder::on(&root);
        builder.margin(16).x_label_area_size(44).y_label_area_size(names);
        if let Some(title) = title {
            builder.caption(title, ("sans-serif", 22));
        }
        let (low, high) = self.y_range();
        let many = self.series.len();
        // A place for each bar, the first one on top.
        let places = self.labels.len() * many;
        let mut plane = builder.build_cartesian_2d(low..high, (0..places - 1).into_segmented())?;
        let label = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(place) | SegmentValue::Exact(place) if (places - 1 - place).is_multiple_of(many) => {
                self.labels.get((places - 1 - place) / many).cloned().unwrap_or_default()
            }
            _ => String::new(),
        };
        plane
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .y_labels(places)
            .x_desc(if many == 1 { self.series[0].name.as_str() } else { "" })
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&label)
            .draw()?;
        for (at, series) in self.series.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let bars = series.points.iter().map(|(row, value)| {
                let place = places - 1 - (*row as usize * many + at);
                let above = if place + 1 == places { SegmentValue::Last } else { SegmentValue::Exact(place + 1) };
                let ends = [(0.0, SegmentValue::Exact(place)), (*value, above)];
                let mut bar = Rectangle::new(ends, colour.filled());
                bar.set_margin(3, 3, 0, 0);
                bar
            });
            let drawn = plane.draw_series(bars)?;
            drawn
                .label(&series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()));
        }
        if many > 1 {
            plane.configure_series_labels().background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.3)).draw()?;
        }
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{chart, numbers, texts, times};
    use super::*;

    #[test]
    fn a_document_has_the_axes_and_a_shape_for_each_value() {
        let columns = vec![("day", times(&[0, 86_400, 700_000])), ("<n>", numbers(&[1.0, 5.0, 3.0]))];
        let line = chart(columns.clone(), None).expect("a chart").svg(Some("a & b")).expect("svg");
        assert!(line.starts_with("<svg") && line.trim_end().ends_with("</svg>"));
        for part in ["polyline", "1970-01-0", "a &amp; b", "&lt;n&gt;"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let points = chart(columns, Some(Kind::Scatter)).expect("a chart").svg(None).expect("svg");
        assert_eq!(points.matches("<circle").count(), 3, "{points}");
        let columns =
            vec![("c", texts(&["Old Town", "Harbour"])), ("n", numbers(&[1.0, 5.0])), ("m", numbers(&[2.0, 3.0]))];
        let bars = chart(columns, None).expect("a chart").svg(None).expect("svg");
        assert!(bars.contains("Old Town") && bars.contains("Harbour"), "{bars}");
        for colour in ["#1F77B4", "#FF7F0E"] {
            assert!(bars.matches(colour).count() >= 2, "{colour} in {bars}");
        }
    }
}
