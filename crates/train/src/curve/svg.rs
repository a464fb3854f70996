//! Panels with axes, lines and dots as SVG text.

use std::fmt::Write;

use crate::figures::grouped;

/// One diagram; all panels of a picture share the steps as their x axis.
#[derive(Debug)]
pub(super) struct Panel {
    title: &'static str,
    height: f64,
    /// Whether the axis begins at zero.
    pub(super) from_zero: bool,
    pub(super) lines: Vec<Line>,
    pub(super) dots: Vec<Dots>,
}

/// A line through points (step, value); its class gives colour and width.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) class: &'static str,
    /// In the legend, unless empty.
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// Points joined by a thin line, the best of them ringed.
#[derive(Debug)]
pub(super) struct Dots {
    pub(super) class: &'static str,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// The step of the best.
    pub(super) best: Option<f64>,
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 104.0;
const GAP: f64 = 44.0;
const BOTTOM: f64 = 58.0;

/// Light and dark by the reader's preference; the classes of lines and dots.
const STYLE: &str = "\
svg{background:#fff;color-scheme:light dark}\
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Noto Sans CJK SC',sans-serif;fill:#57606a}\
.title{font-size:19px;font-weight:600;fill:#1f2328}.panel{font-size:13px;font-weight:600;fill:#1f2328}\
.paper{fill:#fff}.grid{stroke:#eaeef2}.axis{stroke:#afb8c1}\
path{fill:none;stroke-linejoin:round;stroke-linecap:round}\
.raw{stroke:#2563eb;stroke-opacity:.32;stroke-width:1}.train{stroke:#2563eb;stroke-width:2.2}\
.eval{stroke:#e8590c;stroke-width:1.4}.eval2{stroke:#7c3aed;stroke-width:1.4}.rate{stroke:#0f9d76;stroke-width:1.8}\
circle.eval{fill:#e8590c;stroke:#fff}circle.eval2{fill:#7c3aed;stroke:#fff}\
circle.best{fill:none;stroke-width:1.6}.best.eval{stroke:#e8590c}.best.eval2{stroke:#7c3aed}\
text.value{font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}\
text.value.eval{fill:#c2410c}text.value.eval2{fill:#6d28d9}\
@media(prefers-color-scheme:dark){svg{background:#0d1117}.paper{fill:#0d1117}text{fill:#9198a1}\
.title,.panel{fill:#f0f6fc}.grid{stroke:#21262d}.axis{stroke:#3d444d}\
.raw,.train{stroke:#6ea8fe}.eval{stroke:#ff9a52}.eval2{stroke:#b794f6}.rate{stroke:#3dd6a3}\
circle.eval{fill:#ff9a52;stroke:#0d1117}circle.eval2{fill:#b794f6;stroke:#0d1117}\
.best.eval{fill:none;stroke:#ff9a52}.best.eval2{fill:none;stroke:#b794f6}\
text.value{stroke:#0d1117}text.value.eval{fill:#ff9a52}text.value.eval2{fill:#b794f6}}";

/// The whole picture. `title` and `subtitle` are escaped already.
pub(super) fn draw(width: f64, steps: (f64, f64), title: &str, subtitle: &str, panels: &[Panel]) -> String {
    let plots: f64 = panels.iter().map(|panel| panel.height).sum();
    let height = TOP + plots + GAP * (panels.len() as f64 - 1.0) + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}: {subtitle}\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"10\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"36\">{title}</text>\n<text x=\"{LEFT}\" y=\"57\">{subtitle}</text>\n"
    );
    let x = Scale { from: steps, to: (LEFT, width - RIGHT) };
    let mut top = TOP;
    for (place, panel) in panels.iter().enumerate() {
        panel.draw(&mut out, &x, top, place, place + 1 == panels.len());
        top += panel.height + GAP;
    }
    out.push_str("</svg>\n");
    out
}

/// A straight mapping from values to pixels.
struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let share = (value - self.from.0) / (self.from.1 - self.from.0);
        // far outside is cut at a place that still fits the numbers of a viewer
        self.to.0 + (self.to.1 - self.to.0) * share.clamp(-3.0, 4.0)
    }
}

impl Panel {
    pub(super) fn new(title: &'static str, height: f64) -> Self {
        Self { title, height, from_zero: false, lines: Vec::new(), dots: Vec::new() }
    }

    /// The values that the axis spans: those of the smooth lines and the dots, not the outliers of single steps.
    fn range(&self) -> (f64, f64) {
        let smooth = self.lines.iter().filter(|line| line.class != "raw").flat_map(|line| &line.points);
        let values = smooth.chain(self.dots.iter().flat_map(|dots| &dots.points)).map(|point| point.1);
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        if low > high {
            return (0.0, 1.0);
        }
        if self.from_zero {
            low = low.min(0.0);
        }
        let margin = if high - low > 1e-9 * high.abs().max(low.abs()) { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.5 };
        if !self.from_zero {
            low -= margin;
        }
        high += margin;
        (low, high)
    }

    fn draw(&self, out: &mut String, x: &Scale, top: f64, place: usize, last: bool) {
        let (left, right) = x.to;
        let bottom = top + self.height;
        let range = self.range();
        let y = Scale { from: range, to: (bottom, top) };
        let _ = writeln!(out, "<text class=\"panel\" x=\"{left}\" y=\"{}\">{}</text>", top - 12.0, self.title);
        let mut grid = String::new();
        let (ticks, step) = ticks(range, (self.height / 48.0).max(2.0));
        for tick in ticks {
            let at = y.at(tick);
            let _ = write!(grid, "M{left} {at:.1}H{right}");
            let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", left - 9.0, at + 4.0, label(tick, step));
        }
        let (ticks, step) = ticks_of_steps(x.from);
        for tick in ticks {
            let at = x.at(tick);
            let _ = write!(grid, "M{at:.1} {top}V{bottom}");
            if last {
                let _ =
                    writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 20.0, step_label(tick, step));
            }
        }
        let _ = writeln!(out, "<path class=\"grid\" d=\"{grid}\"/><path class=\"axis\" d=\"M{left} {bottom}H{right}\"/>");
        if last {
            let middle = (left + right) / 2.0;
            let _ = writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">step</text>", bottom + 40.0);
        }
        let _ = writeln!(
            out,
            "<clipPath id=\"p{place}\"><rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"/></clipPath>\n<g clip-path=\"url(#p{place})\">",
            right - left,
            self.height
        );
        for line in &self.lines {
            if !line.points.is_empty() {
                let _ = writeln!(out, "<path class=\"{}\" d=\"{}\"/>", line.class, path(&line.points, x, &y));
            }
        }
        for dots in self.dots.iter().filter(|dots| dots.points.len() > 1) {
            let _ = writeln!(out, "<path class=\"{}\" d=\"{}\"/>", dots.class, path(&dots.points, x, &y));
        }
        out.push_str("</g>\n");
        for dots in &self.dots {
            self.draw_dots(out, dots, x, &y);
        }
        if place == 0 {
            self.legend(out, right, top - 12.0);
        }
    }

    fn draw_dots(&self, out: &mut String, dots: &Dots, x: &Scale, y: &Scale) {
        let radius = if dots.points.len() > 60 { 2.0 } else { 3.6 };
        for (step, value) in &dots.points {
            let _ = writeln!(out, "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"/>", dots.class, x.at(*step), y.at(*value));
        }
        let best = dots.points.iter().find(|(step, _)| Some(*step) == dots.best);
        if let Some(&(step, value)) = best {
            let (cx, cy) = (x.at(step), y.at(value));
            let _ = writeln!(out, "<circle class=\"best {}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"7\"/>", dots.class);
            let room_left = cx - x.to.0 > 90.0;
            let (anchor, dx) = if room_left { ("end", 0.0) } else { ("start", 0.0) };
            let up = if cy - y.to.1 > 30.0 { -14.0 } else { 24.0 };
            let _ = writeln!(
                out,
                "<text class=\"value {}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} {value:.3}</text>",
                dots.class,
                (cx + dx).min(x.to.1),
                cy + up,
                escape(&dots.name)
            );
        }
    }

    /// The names of the lines, right-aligned on one row.
    fn legend(&self, out: &mut String, right: f64, y: f64) {
        let dots = self.dots.iter().map(|dots| (dots.class, dots.name.as_str(), true));
        let lines = self.lines.iter().map(|line| (line.class, line.name, false));
        let mut at = right;
        for (class, name, dotted) in dots.chain(lines).filter(|(_, name, _)| !name.is_empty()) {
            // no font is known here: 6.4 pixels a letter is wide enough for 12-pixel system fonts, 12 for CJK
            let letters: f64 = name.chars().map(|c| if c as u32 >= 0x2e80 { 12.0 } else { 6.4 }).sum();
            let start = at - letters;
            let _ = writeln!(out, "<text x=\"{start:.1}\" y=\"{y}\">{}</text>", escape(name));
            let (from, to, middle) = (start - 30.0, start - 8.0, y - 4.0);
            let _ = writeln!(out, "<path class=\"{class}\" d=\"M{from:.1} {middle}H{to:.1}\"/>");
            if dotted {
                let _ = writeln!(out, "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{middle}\" r=\"3.6\"/>", (from + to) / 2.0);
            }
            at = from - 18.0;
        }
    }
}

fn path(points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
    let mut path = String::new();
    for (place, (step, value)) in points.iter().enumerate() {
        let letter = if place == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", x.at(*step), y.at(*value));
    }
    path
}

/// Round numbers inside a range, about `count` of them: steps of 1, 2 or 5 times a power of ten.
fn ticks((low, high): (f64, f64), count: f64) -> (Vec<f64>, f64) {
    let rough = (high - low) / count;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * 0.999).unwrap_or(power * 10.0);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    // a hair above the count that was asked for, whatever the rounding
    ((first..=last).take(40).map(|n| n as f64 * step).collect(), step)
}

fn ticks_of_steps(range: (f64, f64)) -> (Vec<f64>, f64) {
    let (ticks, step) = ticks(range, 8.0);
    if step >= 1.0 { (ticks, step) } else { ((0..=range.1 as u64).map(|n| n as f64).collect(), 1.0) }
}

/// As many decimals as the distance of the ticks needs; very small numbers as `5e-4`.
fn label(tick: f64, step: f64) -> String {
    if tick == 0.0 {
        return "0".to_owned();
    }
    if tick.abs() < 9.995e-3 || tick.abs() >= 1e5 {
        let decimals = (tick.abs().log10().floor() - (step.log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize;
        return format!("{tick:.decimals$e}");
    }
    let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 8.0) as usize;
    format!("{tick:.decimals$}")
}

fn step_label(tick: f64, step: f64) -> String {
    let (size, unit) = match step {
        s if s >= 1e6 => (1e6, "M"),
        s if s >= 1e4 => (1e3, "k"),
        _ => return grouped(tick as u64),
    };
    if tick == 0.0 { "0".to_owned() } else { format!("{}{unit}", grouped((tick / size) as u64)) }
}

/// Text for XML: the four marks as entities, control characters left out.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |range, count| {
            let (ticks, step) = ticks(range, count);
            ticks.into_iter().map(|tick| label(tick, step)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels((2.1, 9.3), 6.0), "4 6 8");
        assert_eq!(labels((0.0, 1.06e-3), 2.0), "0 1e-3");
        assert_eq!(labels((0.0, 1e-3), 4.0), "0 5e-4 1.0e-3");
        assert_eq!(labels((0.42, 0.58), 4.0), "0.45 0.50 0.55");
        assert_eq!(labels((-0.5, 0.5), 4.0), "-0.5 0 0.5");
        assert_eq!(labels((0.0, 2.5e-4), 5.0), "0 5e-5 1.0e-4 1.5e-4 2.0e-4 2.5e-4");
    }

    #[test]
    fn steps_are_whole() {
        let labels = |last| {
            let (ticks, step) = ticks_of_steps((0.0, last));
            ticks.into_iter().map(|tick| step_label(tick, step)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(3.0), "0 1 2 3");
        assert_eq!(labels(2400.0), "0 500 1,000 1,500 2,000");
        assert_eq!(labels(120_000.0), "0 20k 40k 60k 80k 100k 120k");
        assert_eq!(labels(9.0e6), "0 2M 4M 6M 8M");
    }
}
