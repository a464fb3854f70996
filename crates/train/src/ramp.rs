//! Values that change over a run: batch tokens, sequence length, mask rate.

use serde::{Deserialize, Serialize};

use crate::schedule::{ScheduleError, out_of_range};

/// A value that grows or falls over the run: batch tokens, sequence length, mask rate.
///
/// In a recipe: a number, `[[0.0, 2048], [0.5, 8192]]` (each value from its progress on), or
/// `{ from = 2048, to = 8192, until = 0.6 }` (a straight line, then level).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RampText<T>", into = "RampText<T>", bound(serialize = "T: Copy + Serialize"))]
pub enum Ramp<T: Copy> {
    /// One value.
    Level(T),
    /// Each value from its progress on; the first at 0, in rising order.
    Points(Vec<(f64, T)>),
    /// A straight line from progress 0 to `until`, then level.
    Line {
        /// The value at progress 0.
        from: T,
        /// The value from `until` on.
        to: T,
        /// The progress at which the line ends, above 0, at most 1.
        until: f64,
    },
}

/// A number that a [`Ramp`] can interpolate.
pub trait RampValue: Copy {
    /// `self + (to − self) · t`, rounded where the type is whole.
    fn between(self, to: Self, t: f64) -> Self;
}

impl RampValue for f64 {
    fn between(self, to: Self, t: f64) -> Self {
        self + (to - self) * t
    }
}

impl RampValue for f32 {
    fn between(self, to: Self, t: f64) -> Self {
        f64::from(self).between(f64::from(to), t) as f32
    }
}

impl RampValue for u64 {
    fn between(self, to: Self, t: f64) -> Self {
        (self as f64).between(to as f64, t).round() as u64
    }
}

impl RampValue for usize {
    fn between(self, to: Self, t: f64) -> Self {
        (self as f64).between(to as f64, t).round() as usize
    }
}

impl<T: RampValue> Ramp<T> {
    /// The value at `progress` (0 … 1).
    pub fn at(&self, progress: f64) -> T {
        match self {
            Self::Level(value) => *value,
            Self::Points(points) => {
                let passed = points.partition_point(|(from, _)| *from <= progress);
                points[passed.max(1) - 1].1
            }
            Self::Line { from, to, until } => from.between(*to, (progress / until).clamp(0.0, 1.0)),
        }
    }
}

impl<T: RampValue + PartialOrd> Ramp<T> {
    /// The largest value that the ramp takes: what buffers must hold.
    pub fn max(&self) -> T {
        let larger = |a: T, b: T| if b > a { b } else { a };
        match self {
            Self::Level(value) => *value,
            Self::Points(points) => points.iter().map(|p| p.1).fold(points[0].1, larger),
            Self::Line { from, to, .. } => larger(*from, *to),
        }
    }
}

impl<T: Copy> From<T> for Ramp<T> {
    fn from(value: T) -> Self {
        Self::Level(value)
    }
}

/// The three ways to write a [`Ramp`].
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, a list of points [[0.0, 2048], [0.5, 8192]], \
                 or a line { from = 2048, to = 8192, until = 0.6 }"
)]
enum RampText<T> {
    Level(T),
    Points(Vec<(f64, T)>),
    Line(Line<T>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<T> {
    from: T,
    to: T,
    until: f64,
}

impl<T: Copy> TryFrom<RampText<T>> for Ramp<T> {
    type Error = ScheduleError;

    fn try_from(text: RampText<T>) -> Result<Self, ScheduleError> {
        match text {
            RampText::Level(value) => Ok(Self::Level(value)),
            RampText::Line(Line { from, to, until }) => {
                if until > 0.0 && until <= 1.0 {
                    Ok(Self::Line { from, to, until })
                } else {
                    Err(out_of_range("until", until, "above 0, at most 1"))
                }
            }
            RampText::Points(points) => {
                if points.first().is_none_or(|(start, _)| *start != 0.0) {
                    return Err(ScheduleError::RampStart);
                }
                for (index, pair) in points.windows(2).enumerate() {
                    let (previous, found) = (pair[0].0, pair[1].0);
                    if !found.is_finite() || found <= previous {
                        return Err(ScheduleError::RampOrder { index: index + 1, found, previous });
                    }
                }
                Ok(Self::Points(points))
            }
        }
    }
}

impl<T: Copy> From<Ramp<T>> for RampText<T> {
    fn from(ramp: Ramp<T>) -> Self {
        match ramp {
            Ramp::Level(value) => Self::Level(value),
            Ramp::Points(points) => Self::Points(points),
            Ramp::Line { from, to, until } => Self::Line(Line { from, to, until }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Run {
        batch_tokens: Ramp<u64>,
    }

    fn read(value: &str) -> Result<Ramp<u64>, String> {
        toml::from_str::<Run>(&format!("batch_tokens = {value}")).map(|run| run.batch_tokens).map_err(|error| error.to_string())
    }

    #[test]
    fn three_ways_to_write_it() {
        let level = read("8192").unwrap();
        assert_eq!((level.at(0.0), level.at(1.0), level.max()), (8192, 8192, 8192));

        let points = read("[[0.0, 2048], [0.5, 8192], [0.9, 4096]]").unwrap();
        let at = [0.0, 0.49, 0.5, 0.89, 0.9, 1.0].map(|p| points.at(p));
        assert_eq!(at, [2048, 2048, 8192, 8192, 4096, 4096]);
        assert_eq!(points.max(), 8192);

        let line = read("{ from = 1000, to = 2000, until = 0.5 }").unwrap();
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|p| line.at(p)), [1000, 1500, 2000, 2000]);

        for ramp in [level, points, line] {
            let run = Run { batch_tokens: ramp };
            let text = toml::to_string(&run).unwrap();
            assert_eq!(toml::from_str::<Run>(&text).unwrap(), run, "{text}");
        }
    }

    #[test]
    fn a_falling_line_is_exact_in_floats() {
        let mask_rate = Ramp::<f64>::Line { from: 0.3, to: 0.15, until: 1.0 };
        assert_eq!(mask_rate.at(0.0), 0.3);
        assert!((mask_rate.at(1.0) - 0.15).abs() < 1e-15);
        assert_eq!(mask_rate.max(), 0.3);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("\"big\"", "expected a number, a list of points"),
            ("[]", "first point at progress 0"),
            ("[[0.1, 5]]", "first point at progress 0"),
            ("[[0.0, 5], [0.5, 6], [0.5, 7]]", "point 2 of the ramp is at progress 0.5"),
            ("[[0.0, 5], [nan, 6]]", "point 1"),
            ("{ from = 1, to = 2, until = 0.0 }", "until = 0 is out of range"),
            ("{ from = 1, to = 2, until = 0.5, more = 1 }", "expected a number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
