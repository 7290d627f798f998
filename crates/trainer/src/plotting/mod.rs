//! Figures as SVG: curves and points in panels, and a legend beside them.
//!
//! It knows shapes, colours and axes, not what they stand for.

mod axis;

use std::io;

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use self::axis::Ruler;
pub use self::axis::{Axis, Scale};

/// A colour.
pub type Colour = RGBColor;

/// Colours that people with any colour vision tell apart (Okabe and Ito 2008,
/// <https://jfly.uni-koeln.de/color/>), but for the yellow, which white swallows.
pub const PALETTE: [Colour; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
/// What belongs to no curve in particular.
pub const GREY: Colour = RGBColor(110, 110, 110);

const INK: Colour = RGBColor(40, 40, 40);
const GRID: Colour = RGBColor(228, 228, 228);
/// The backend knows whole pixels only: it gets finer ones than the figure's.
const FINE: u32 = 4;
/// A font's size as the backend reads it, which divides by this.
const FONT: f64 = 1.24;
const TEXT: f64 = 13.0;
const NOTE: f64 = 11.0;
/// What a character takes on average, as a share of the font's size.
const CHARACTER: f64 = 0.56;
const SAMPLE: i32 = 28;
const LINE: i32 = 20;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// ———
    Solid,
    /// – – –
    Dashed,
    /// · · ·
    Dotted,
    /// A disc per point.
    Points,
}

/// Points that belong together.
pub struct Series {
    /// Their colour.
    pub colour: Colour,
    /// How they are drawn.
    pub stroke: Stroke,
    /// The points, by their values.
    pub points: Vec<(f64, f64)>,
}

/// A ring around a point.
pub struct Mark {
    /// Its colour.
    pub colour: Colour,
    /// The point, by its values.
    pub point: (f64, f64),
}

/// Two axes and what is drawn between them.
pub struct Panel {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// What stands out.
    pub marks: Vec<Mark>,
}

/// A line of the legend.
pub struct Entry {
    /// Its colour.
    pub colour: Colour,
    /// The sample beside it; a ring where there is none.
    pub stroke: Option<Stroke>,
    /// What it stands for.
    pub text: String,
    /// More about it, on a line of its own.
    pub note: Option<String>,
}

/// A figure.
pub struct Figure {
    /// Its width and height in pixels.
    pub size: (u32, u32),
    /// How many panels stand side by side.
    pub columns: usize,
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// The legend.
    pub legend: Vec<Entry>,
}

type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Figure {
    /// The figure as a document.
    pub fn to_svg(&self) -> String {
        let (width, height) = self.size;
        let mut svg = String::new();
        {
            let size = (width * FINE, height * FINE);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            self.draw(&root).expect("a figure is drawn into memory, which refuses nothing");
        }
        let fine = format!("width=\"{}\" height=\"{}\"", width * FINE, height * FINE);
        svg.replacen(&fine, &format!("width=\"{width}\" height=\"{height}\""), 1)
    }

    fn draw(&self, root: &Area<'_>) -> Drawn {
        root.fill(&WHITE)?;
        let widest = self.legend.iter().map(Entry::width).max().unwrap_or(0);
        let legend = widest.min(self.size.0 as i32 / 2);
        let (panels, beside) = root.split_horizontally(fine(self.size.0 as i32 - legend));
        let rows = self.panels.len().div_ceil(self.columns);
        for (area, panel) in panels.split_evenly((rows, self.columns)).iter().zip(&self.panels) {
            panel.draw(area)?;
        }
        let mut y = LINE + 4;
        for entry in &self.legend {
            y = entry.draw(&beside, y)?;
        }
        root.present()
    }
}

impl Panel {
    fn draw(&self, area: &Area<'_>) -> Drawn {
        let (x, y) = (&self.x, &self.y);
        let mut chart = ChartBuilder::on(area)
            .margin(fine(14))
            .x_label_area_size(fine(44))
            .y_label_area_size(fine(62))
            .build_cartesian_2d(Ruler::of(x), Ruler::of(y))?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(FINE))
            .light_line_style(TRANSPARENT)
            .axis_style(GREY.stroke_width(FINE))
            .set_all_tick_mark_size(fine(4))
            .label_style(font(NOTE, INK))
            .axis_desc_style(font(TEXT, INK))
            .x_desc(&x.label)
            .y_desc(&y.label)
            .draw()?;
        for Series { colour, stroke, points } in &self.series {
            let (from, to) = (y.from, y.to);
            // A single point is no line.
            if *stroke == Stroke::Points || points.len() == 1 {
                let shown = points.iter().copied().filter(|point| (from..=to).contains(&point.1));
                chart.draw_series(shown.map(|at| Circle::new(at, fine(4), colour.filled())))?;
                continue;
            }
            for piece in pieces_within(points, from, to) {
                let (dash, gap) = stroke.pattern();
                if gap == 0 {
                    chart.draw_series(LineSeries::new(piece, width(*colour)))?;
                } else {
                    chart.draw_series(DashedLineSeries::new(
                        piece,
                        fine(dash),
                        fine(gap),
                        width(*colour),
                    ))?;
                }
            }
        }
        let shown = self.marks.iter().filter(|mark| (y.from..=y.to).contains(&mark.point.1));
        let rings = shown.flat_map(|Mark { colour, point }| {
            [(6, WHITE.filled()), (6, width(*colour)), (2, colour.filled())]
                .map(|(radius, style)| Circle::new(*point, fine(radius), style))
        });
        chart.draw_series(rings)?;
        Ok(())
    }
}

impl Entry {
    /// In pixels.
    fn width(&self) -> i32 {
        let text = |text: &str, size: f64| (text.chars().count() as f64 * CHARACTER * size) as i32;
        let note = self.note.as_deref().map_or(0, |note| text(note, NOTE));
        SAMPLE + 22 + text(&self.text, TEXT).max(note)
    }

    /// Gives where the next one goes.
    fn draw(&self, area: &Area<'_>, y: i32) -> Result<i32, DrawingAreaErrorKind<io::Error>> {
        let (left, right) = ((fine(4), fine(y)), (fine(4 + SAMPLE), fine(y)));
        let middle = ((left.0 + right.0) / 2, fine(y));
        match self.stroke {
            None => area.draw(&Circle::new(middle, fine(6), width(self.colour)))?,
            Some(Stroke::Points) => {
                area.draw(&Circle::new(middle, fine(4), self.colour.filled()))?;
            }
            Some(Stroke::Solid) => {
                area.draw(&PathElement::new([left, right], width(self.colour)))?;
            }
            Some(stroke) => {
                let (dash, gap) = stroke.pattern();
                let line = [left, right].into_iter();
                let style = width(self.colour);
                area.draw(&DashedPathElement::new(line, fine(dash), fine(gap), style))?;
            }
        }
        let beside = fine(4 + SAMPLE + 8);
        let middle = fine(y) - fine(TEXT as i32) / 2;
        area.draw(&Text::new(self.text.as_str(), (beside, middle), font(TEXT, INK)))?;
        let Some(note) = &self.note else { return Ok(y + LINE) };
        let below = middle + fine(LINE - 3);
        area.draw(&Text::new(note.as_str(), (beside, below), font(NOTE, GREY)))?;
        Ok(y + 2 * LINE)
    }
}

impl Stroke {
    /// The length of a dash and of the gap behind it.
    const fn pattern(self) -> (i32, i32) {
        match self {
            Self::Solid | Self::Points => (1, 0),
            Self::Dashed => (7, 4),
            Self::Dotted => (2, 3),
        }
    }
}

/// The pieces of a line that lie between two heights.
fn pieces_within(points: &[(f64, f64)], from: f64, to: f64) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut goes_on = false;
    for pair in points.windows(2) {
        let ((x, y), rise) = (pair[0], pair[1].1 - pair[0].1);
        // The share of the way at which the line crosses a height.
        let crossing = |height: f64| (height - y) / rise;
        let (first, last) = match rise == 0.0 {
            true if (from..=to).contains(&y) => (0.0, 1.0),
            true => (1.0, 0.0),
            false => {
                let (a, b) = (crossing(from), crossing(to));
                (a.min(b).max(0.0), a.max(b).min(1.0))
            }
        };
        if first > last {
            goes_on = false;
            continue;
        }
        let at = |share: f64| (x + share * (pair[1].0 - x), y + share * rise);
        match pieces.last_mut().filter(|_| goes_on) {
            Some(piece) => piece.push(at(last)),
            None => pieces.push(vec![at(first), at(last)]),
        }
        goes_on = last == 1.0;
    }
    pieces
}

fn fine(pixels: i32) -> i32 {
    pixels * FINE as i32
}

fn width(colour: Colour) -> ShapeStyle {
    colour.stroke_width(2 * FINE)
}

fn font(size: f64, colour: Colour) -> TextStyle<'static> {
    ("sans-serif", size * FONT * f64::from(FINE)).with_color(colour).into_text_style(&(1, 1))
}
