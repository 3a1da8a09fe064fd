//! The picture: how fast TCP goes through each, and what it costs, as bars.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Row, Sample};

/// Width of the picture, of the names at its left, and of the room for a figure behind each bar.
const WIDTH: i32 = 960;
const NAMES: i32 = 250;
const FIGURE: i32 = 48;

/// Height of a row, of its bar, and of what stands above the first.
const ROW: i32 = 24;
const BAR: i32 = 16;
const TOP: i32 = 44;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const OURS: RGBColor = RGBColor(0xb0, 0x50, 0x18);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);

/// Draws it to `path`.
///
/// # Errors
/// If it cannot be written.
pub fn draw(path: &Path, rows: &[Row]) -> Result<()> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.is_measured()).collect();
    let count = i32::try_from(rows.len()).unwrap_or(i32::MAX / ROW / 2);
    let size = (WIDTH.unsigned_abs(), (TOP + count * ROW + 12).unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    paint(&area, &rows).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Painted<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn paint<'a>(area: &Area<'a>, rows: &[&Row]) -> Painted<'a> {
    area.fill(&WHITE)?;
    for (at, row) in (0..).zip(rows) {
        let style = (FONT, 13)
            .into_font()
            .color(&INK)
            .pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(row.entry.name, (NAMES - 8, TOP + at * ROW + BAR / 2), style))?;
    }
    let half = (WIDTH - NAMES) / 2;
    panel(
        area,
        rows,
        NAMES,
        half,
        "TCP, one connection, Gbit/s (more is better)",
        |s| s.tcp1,
    )?;
    panel(
        area,
        rows,
        NAMES + half,
        half,
        "processor time of both ends, s/GB (less is better)",
        |s| s.cpu,
    )?;
    area.present()
}

fn panel<'a>(
    area: &Area<'a>,
    rows: &[&Row],
    left: i32,
    width: i32,
    title: &str,
    of: fn(&Sample) -> f64,
) -> Painted<'a> {
    let head = (FONT, 13)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(title, (left, TOP / 2), head.clone()))?;
    let values: Vec<f64> = rows.iter().map(|row| row.median(of).unwrap_or(0.0)).collect();
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    for ((at, row), value) in (0..).zip(rows).zip(&values) {
        let top = TOP + at * ROW;
        // Rounded to whole pixels.
        let right = left + (f64::from(width - FIGURE) * value / most) as i32;
        let colour = if row.entry.id.contains("marmot") { OURS } else { OTHERS };
        area.draw(&Rectangle::new([(left, top), (right, top + BAR)], colour.filled()))?;
        area.draw(&Text::new(
            format!("{value:.2}"),
            (right + 4, top + BAR / 2),
            head.clone(),
        ))?;
    }
    Ok(())
}
