//! How far a run may go: the [`Budget`] of steps, tokens, epochs or time, and what is [`Spent`] of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schedule::ScheduleError;

/// What a run has spent so far; written into every checkpoint, so that a resumed run goes on counting.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Optimizer steps done.
    pub steps: u64,
    /// Tokens seen, over all steps.
    pub tokens: u64,
    /// Passes over the training data, with the fraction of the current one.
    pub epochs: f64,
    /// Time in training, pauses and the time between stop and resume left out.
    pub time: Duration,
}

/// The length of a run. In a recipe: `"30m"`, `"1h30m"`, `"90s"`, `"10000 steps"`, `"20M tokens"`, `"3 epochs"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Optimizer steps.
    Steps(u64),
    /// Tokens seen.
    Tokens(u64),
    /// Passes over the training data.
    Epochs(f64),
    /// Wall clock: the schedule follows the time, whatever the machine's speed (Izsak et al. 2021, §3).
    Time(Duration),
}

impl Budget {
    /// The share of the budget that is spent, in 0 … 1.
    pub fn progress(&self, spent: &Spent) -> f64 {
        let share = match *self {
            Self::Steps(total) => spent.steps as f64 / total as f64,
            Self::Tokens(total) => spent.tokens as f64 / total as f64,
            Self::Epochs(total) => spent.epochs / total,
            Self::Time(total) => spent.time.as_secs_f64() / total.as_secs_f64(),
        };
        if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) }
    }

    /// Whether nothing is left.
    pub fn is_spent(&self, spent: &Spent) -> bool {
        self.progress(spent) >= 1.0
    }

    /// The time still to go at the average pace so far; `None` before anything is spent.
    pub fn remaining(&self, spent: &Spent) -> Option<Duration> {
        if let Self::Time(total) = self {
            return Some(total.saturating_sub(spent.time));
        }
        let progress = self.progress(spent);
        if progress <= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(spent.time.as_secs_f64() * (1.0 - progress) / progress).ok()
    }

    /// The number of steps of the whole run, where the budget or the pace so far tells it.
    pub fn total_steps(&self, spent: &Spent) -> Option<u64> {
        if let Self::Steps(total) = self {
            return Some(*total);
        }
        let progress = self.progress(spent);
        (progress > 0.0).then(|| (spent.steps as f64 / progress).round() as u64)
    }
}

impl FromStr for Budget {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let unknown = || ScheduleError::Budget { found: text.to_owned() };
        let trimmed = text.trim();
        let unit_at = trimmed.rfind(char::is_whitespace);
        let budget = match unit_at.map(|at| (trimmed[..at].trim(), trimmed[at..].trim())) {
            Some((count, "steps" | "step")) => Self::Steps(whole(count).ok_or_else(unknown)?),
            Some((count, "tokens" | "token")) => Self::Tokens(whole(count).ok_or_else(unknown)?),
            Some((count, "epochs" | "epoch")) => Self::Epochs(scaled(count).ok_or_else(unknown)?),
            _ => Self::Time(parse_duration(trimmed).ok_or_else(unknown)?),
        };
        let empty = match budget {
            Self::Steps(n) | Self::Tokens(n) => n == 0,
            Self::Epochs(n) => n <= 0.0,
            Self::Time(t) => t.is_zero(),
        };
        if empty {
            return Err(ScheduleError::EmptyBudget { found: text.to_owned() });
        }
        Ok(budget)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Tokens(n) => write!(f, "{n} tokens"),
            Self::Epochs(n) => write!(f, "{n} epochs"),
            Self::Time(t) => f.write_str(&format_duration(*t)),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Budget;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a budget such as \"30m\", \"10000 steps\", \"20M tokens\" or \"3 epochs\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Budget, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// `12`, `12_000`, `1.5k`, `20M`, `3G`/`3B`.
fn scaled(text: &str) -> Option<f64> {
    let text = text.replace('_', "");
    let (digits, scale) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'G' | 'B' => (&text[..text.len() - 1], 1e9),
        _ => (text.as_str(), 1.0),
    };
    plain_number(digits).map(|n| n * scale)
}

fn whole(text: &str) -> Option<u64> {
    let number = scaled(text)?;
    (number.fract() == 0.0 && number < 9e15).then_some(number as u64)
}

/// Digits with at most one point: no sign, no exponent, no `inf` or `nan`, which `f64::from_str` would take.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain && text.bytes().any(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `1h30m`, `90s`, `1.5h`, `2d`: numbers, each with its unit, largest unit first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    let mut last_unit = f64::INFINITY;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let number = plain_number(rest[..unit_at].trim())?;
        let unit = match rest.as_bytes()[unit_at] {
            b'd' => 86_400.0,
            b'h' => 3_600.0,
            b'm' => 60.0,
            b's' => 1.0,
            _ => return None,
        };
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        seconds += number * unit;
        rest = rest[unit_at + 1..].trim_start();
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// The shortest exact form that [`parse_duration`] reads back: `1h30m`, `90s` as `1m30s`.
pub fn format_duration(duration: Duration) -> String {
    let whole = duration.as_secs();
    let nanos = duration.subsec_nanos();
    let mut text = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        let count = match unit {
            "d" => whole / size,
            "h" => whole % 86_400 / size,
            _ => whole % 3_600 / size,
        };
        if count > 0 {
            text += &format!("{count}{unit}");
        }
    }
    let seconds = whole % 60;
    if nanos > 0 {
        text += format!("{seconds}.{nanos:09}").trim_end_matches('0');
        text.push('s');
    } else if seconds > 0 || text.is_empty() {
        text += &format!("{seconds}s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(text: &str) -> Budget {
        text.parse().unwrap()
    }

    #[test]
    fn the_forms_of_a_recipe() {
        let seconds = |s| Budget::Time(Duration::from_secs(s));
        for (text, expected) in [
            ("30m", seconds(1800)),
            ("1h30m", seconds(5400)),
            ("1h 30m", seconds(5400)),
            ("90s", seconds(90)),
            ("1.5h", seconds(5400)),
            ("2d", seconds(172_800)),
            ("0.5s", Budget::Time(Duration::from_millis(500))),
            ("1 step", Budget::Steps(1)),
            ("10_000 steps", Budget::Steps(10_000)),
            ("10k steps", Budget::Steps(10_000)),
            ("20M tokens", Budget::Tokens(20_000_000)),
            ("1.5B tokens", Budget::Tokens(1_500_000_000)),
            (" 3 epochs ", Budget::Epochs(3.0)),
            ("0.25 epoch", Budget::Epochs(0.25)),
        ] {
            assert_eq!(budget(text), expected, "{text}");
            assert_eq!(budget(&expected.to_string()), expected, "{expected} read back");
        }
    }

    #[test]
    fn what_is_not_a_budget_says_how_to_write_one() {
        for text in [
            "",
            "30",
            "m",
            "30 m m",
            "30m1h",
            "30x",
            "-3 steps",
            "1e3 steps",
            "inf s",
            "nan epochs",
            "1.5 steps",
            "steps",
            "3 weeks",
            "١ steps",
            "1m1m",
            "99999999999999999999d",
        ] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(matches!(&error, ScheduleError::Budget { found } if found == text), "{text}");
            assert!(error.to_string().contains("\"20M tokens\""));
        }
        for text in ["0 steps", "0m", "0 epochs", "0.0s"] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(matches!(error, ScheduleError::EmptyBudget { .. }), "{text}");
        }
    }

    #[test]
    fn serde_keeps_the_text() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Run {
            budget: Budget,
        }
        let run: Run = toml::from_str("budget = \"1h30m\"").unwrap();
        assert_eq!(run, Run { budget: budget("90m") });
        assert_eq!(toml::to_string(&run).unwrap(), "budget = \"1h30m\"\n");
        let error = toml::from_str::<Run>("budget = 30").unwrap_err().to_string();
        assert!(error.contains("20M tokens"), "{error}");
    }

    #[test]
    fn progress_and_what_remains() {
        let spent = Spent { steps: 25, tokens: 1000, epochs: 0.5, time: Duration::from_secs(60) };
        assert_eq!(budget("100 steps").progress(&spent), 0.25);
        assert_eq!(budget("4k tokens").progress(&spent), 0.25);
        assert_eq!(budget("2 epochs").progress(&spent), 0.25);
        assert_eq!(budget("4m").progress(&spent), 0.25);
        assert_eq!(budget("30s").progress(&spent), 1.0);
        assert!(budget("30s").is_spent(&spent) && !budget("61s").is_spent(&spent));
        assert_eq!(budget("100 steps").remaining(&spent), Some(Duration::from_secs(180)));
        assert_eq!(budget("4m").remaining(&spent), Some(Duration::from_secs(180)));
        assert_eq!(budget("30s").remaining(&spent), Some(Duration::ZERO));
        assert_eq!(budget("9 epochs").remaining(&Spent::default()), None);
        assert_eq!(budget("4m").total_steps(&spent), Some(100));
        assert_eq!(budget("7 steps").total_steps(&Spent::default()), Some(7));
    }
}
