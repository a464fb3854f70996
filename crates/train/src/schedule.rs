//! The learning rate over a run: a [`Schedule`] is a pure function of what is spent of the [`Budget`], so a
//! resumed run asks the same question and gets the same answer.
//!
//! ```
//! use cloze_train::budget::{Budget, Spent};
//! use cloze_train::schedule::Schedule;
//! let budget: Budget = "1000 steps".parse().unwrap();
//! let spent = Spent { steps: 500, ..Spent::default() };
//! let schedule = Schedule::default(); // linear: 6 % warm-up, then down to zero
//! let factor = schedule.factor(budget.progress(&spent), spent.steps);
//! assert!((factor - 0.5 / 0.94).abs() < 1e-12);
//! ```

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::budget::{Budget, Spent};

/// A value of a recipe that does not say how long, how much or when.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a number of steps, tokens or epochs, nor a time.
    #[error(
        "budget {found:?} is not understood; write a time such as \"30m\", \"1h30m\" or \"90s\", \
         or \"10000 steps\", \"20M tokens\", \"3 epochs\""
    )]
    Budget {
        /// The text as it stands in the recipe.
        found: String,
    },
    /// A budget of nothing.
    #[error("budget {found:?} is zero: the run would end before its first step")]
    EmptyBudget {
        /// The text as it stands in the recipe.
        found: String,
    },
    /// A share outside its range.
    #[error("{key} = {found} is out of range: expected {expected}")]
    Range {
        /// The key of the recipe.
        key: &'static str,
        /// The value found.
        found: String,
        /// The values that are allowed.
        expected: &'static str,
    },
    /// Points of a ramp that do not go forward.
    #[error("point {index} of the ramp is at progress {found}, not after the point before it ({previous})")]
    RampOrder {
        /// Place of the point in the list, from zero.
        index: usize,
        /// Its progress.
        found: f64,
        /// The progress of the point before.
        previous: f64,
    },
    /// A list of points with nothing at the start.
    #[error("a ramp needs a first point at progress 0, such as [[0.0, 2048], [0.5, 8192]]")]
    RampStart,
}

pub(crate) fn out_of_range(key: &'static str, found: impl fmt::Display, expected: &'static str) -> ScheduleError {
    ScheduleError::Range { key, found: found.to_string(), expected }
}

/// How long the learning rate rises: in a recipe an integer is steps, a number below one a share of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Warmup {
    /// A number of optimizer steps.
    Steps(u64),
    /// A share of the budget, in 0 … 1.
    Share(f64),
}

impl<'de> Deserialize<'de> for Warmup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Warmup;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("warm-up as a share below 1 (0.06) or as a number of steps (500)")
            }
            fn visit_u64<E: serde::de::Error>(self, steps: u64) -> Result<Warmup, E> {
                Ok(if steps == 0 { Warmup::Share(0.0) } else { Warmup::Steps(steps) })
            }
            fn visit_i64<E: serde::de::Error>(self, steps: i64) -> Result<Warmup, E> {
                let steps = u64::try_from(steps).map_err(|_| E::custom(out_of_range("warmup", steps, "0 or more")))?;
                self.visit_u64(steps)
            }
            fn visit_f64<E: serde::de::Error>(self, share: f64) -> Result<Warmup, E> {
                if (0.0..1.0).contains(&share) {
                    Ok(Warmup::Share(share))
                } else {
                    let expected = "a share below 1 (0.06), or a whole number of steps (500)";
                    Err(E::custom(out_of_range("warmup", share, expected)))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(serde::de::Error::custom(out_of_range("share", value, "0 to 1"))) }
}

fn divisor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value >= 1.0 && value.is_finite() { Ok(value) } else { Err(serde::de::Error::custom(out_of_range("divisor", value, "1 or more"))) }
}

fn default_warmup() -> Warmup {
    Warmup::Share(0.06)
}

/// The learning rate over a run, as a factor of its peak. `floor` is the factor at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Warm-up, then the peak to the end.
    Constant {
        /// Linear rise from zero.
        #[serde(default = "default_warmup")]
        warmup: Warmup,
    },
    /// Warm-up, then a straight line to the floor (Devlin et al. 2019, §A.2).
    Linear {
        /// Linear rise from zero.
        #[serde(default = "default_warmup")]
        warmup: Warmup,
        /// The factor at the end, 0 … 1.
        #[serde(default, deserialize_with = "share")]
        floor: f64,
    },
    /// Warm-up, then half a cosine to the floor (Loshchilov & Hutter 2017).
    Cosine {
        /// Linear rise from zero.
        #[serde(default = "default_warmup")]
        warmup: Warmup,
        /// The factor at the end, 0 … 1.
        #[serde(default, deserialize_with = "share")]
        floor: f64,
    },
    /// Half a cosine up from `1/start_divisor`, half a cosine down to `1/(start_divisor · end_divisor)`
    /// (Smith & Topin 2018, in the two-phase form of PyTorch's `OneCycleLR`).
    OneCycle {
        /// The rise.
        #[serde(default = "OneCycle::warmup")]
        warmup: Warmup,
        /// Peak ÷ first rate.
        #[serde(default = "OneCycle::start_divisor", deserialize_with = "divisor")]
        start_divisor: f64,
        /// First rate ÷ last rate.
        #[serde(default = "OneCycle::end_divisor", deserialize_with = "divisor")]
        end_divisor: f64,
    },
    /// Warm-up, the peak, then `1 − sqrt` of the decay's progress to the floor (Hägele et al. 2024, §4).
    WarmupStableDecay {
        /// Linear rise from zero.
        #[serde(default = "default_warmup")]
        warmup: Warmup,
        /// The share of the run, at its end, in which the rate falls.
        #[serde(default = "default_decay", deserialize_with = "share")]
        decay: f64,
        /// The factor at the end, 0 … 1.
        #[serde(default, deserialize_with = "share")]
        floor: f64,
    },
}

struct OneCycle;

impl OneCycle {
    fn warmup() -> Warmup {
        Warmup::Share(0.3)
    }
    fn start_divisor() -> f64 {
        25.0
    }
    fn end_divisor() -> f64 {
        1e4
    }
}

fn default_decay() -> f64 {
    0.2
}

impl Default for Schedule {
    /// Linear with 6 % warm-up, down to zero.
    fn default() -> Self {
        Self::Linear { warmup: default_warmup(), floor: 0.0 }
    }
}

impl Schedule {
    /// The learning rate's factor at `progress` (0 … 1, see [`Budget::progress`]) before step `step`.
    ///
    /// Only a warm-up that is given in steps looks at `step`. To waste neither the first step nor the last on
    /// a rate of zero, ask in the middle of the step, as [`Schedule::factor_of_step`] does.
    pub fn factor(&self, progress: f64, step: u64) -> f64 {
        self.at(progress, step as f64)
    }

    /// The factor for a step, taken in the middle of it: between what was spent before it and what will be after it. How long it takes is not
    /// known before, so where time is the budget, half a step at the average pace is added to what was spent.
    pub fn factor_of_step(&self, budget: &Budget, before: &Spent, after: &Spent) -> f64 {
        let progress = match budget {
            Budget::Time(_) if before.steps == 0 => 0.0,
            Budget::Time(_) => budget.progress(before) * (1.0 + 0.5 / before.steps as f64),
            _ => (budget.progress(before) + budget.progress(after)) / 2.0,
        };
        self.at(progress, before.steps as f64 + 0.5)
    }

    fn at(&self, progress: f64, step: f64) -> f64 {
        let p = progress.clamp(0.0, 1.0);
        let lerp = |from: f64, to: f64, t: f64| from + (to - from) * t.clamp(0.0, 1.0);
        let cosine = |from: f64, to: f64, t: f64| to + (from - to) * 0.5 * (1.0 + (PI * t.clamp(0.0, 1.0)).cos());
        let rise = Rise::of(self.warmup(), p, step);
        match *self {
            Self::Constant { .. } => rise.done,
            Self::Linear { floor, .. } => {
                if rise.done < 1.0 {
                    return rise.done;
                }
                lerp(1.0, floor, rise.after(p))
            }
            Self::Cosine { floor, .. } => {
                if rise.done < 1.0 {
                    return rise.done;
                }
                cosine(1.0, floor, rise.after(p))
            }
            Self::OneCycle { start_divisor, end_divisor, .. } => {
                let start = 1.0 / start_divisor;
                if rise.done < 1.0 {
                    return cosine(start, 1.0, rise.done);
                }
                cosine(1.0, start / end_divisor, rise.after(p))
            }
            Self::WarmupStableDecay { decay, floor, .. } => {
                if rise.done < 1.0 {
                    return rise.done;
                }
                let start = (1.0 - decay).max(rise.share);
                if p <= start || start >= 1.0 {
                    return 1.0;
                }
                let t = (p - start) / (1.0 - start);
                floor + (1.0 - floor) * (1.0 - t.sqrt())
            }
        }
    }

    /// How long the rate rises.
    pub fn warmup(&self) -> Warmup {
        match *self {
            Self::Constant { warmup }
            | Self::Linear { warmup, .. }
            | Self::Cosine { warmup, .. }
            | Self::OneCycle { warmup, .. }
            | Self::WarmupStableDecay { warmup, .. } => warmup,
        }
    }
}

/// Where the warm-up stands: the part of it that is done, and the share of the run that it takes.
struct Rise {
    done: f64,
    share: f64,
}

impl Rise {
    fn of(warmup: Warmup, progress: f64, step: f64) -> Self {
        match warmup {
            Warmup::Share(share) if share <= 0.0 => Self { done: 1.0, share: 0.0 },
            Warmup::Share(share) => Self { done: (progress / share).min(1.0), share },
            Warmup::Steps(steps) => {
                let steps = steps as f64;
                // The run's length by the pace so far, `step / progress`: exact for a budget in steps, and it
                // settles quickly for a time.
                let share = if step > 0.0 { (progress * steps / step).min(1.0) } else { 1.0 };
                Self { done: (step / steps).min(1.0), share }
            }
        }
    }

    /// The progress from the end of the warm-up, 0, to the end of the run, 1.
    fn after(&self, progress: f64) -> f64 {
        if self.share >= 1.0 { 1.0 } else { (progress - self.share) / (1.0 - self.share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    fn read(text: &str) -> Schedule {
        toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn formulas_at_known_points() {
        let table: &[(&str, &[(f64, f64)])] = &[
            ("kind = 'constant'\nwarmup = 0.1", &[(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (1.0, 1.0)]),
            ("kind = 'constant'\nwarmup = 0.0", &[(0.0, 1.0), (1.0, 1.0)]),
            ("kind = 'linear'\nwarmup = 0.1\nfloor = 0.1", &[(0.0, 0.0), (0.1, 1.0), (0.55, 0.55), (1.0, 0.1)]),
            ("kind = 'cosine'\nwarmup = 0.2\nfloor = 0.1", &[(0.1, 0.5), (0.2, 1.0), (0.6, 0.55), (1.0, 0.1)]),
            ("kind = 'warmup-stable-decay'\nwarmup = 0.1\ndecay = 0.4", &[(0.05, 0.5), (0.1, 1.0), (0.6, 1.0), (0.7, 0.5), (1.0, 0.0)]),
            // a decay that reaches into the warm-up starts at its end
            ("kind = 'warmup-stable-decay'\nwarmup = 0.5\ndecay = 1.0", &[(0.25, 0.5), (0.5, 1.0), (0.625, 0.5)]),
        ];
        for (text, points) in table {
            let schedule = read(text);
            for &(progress, expected) in *points {
                close(schedule.factor(progress, 0), expected);
            }
        }
    }

    #[test]
    fn one_cycle_is_pytorchs() {
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=101, pct_start=0.3): its phases end at
        // steps 0.3·101 − 1 = 29.3 and 100; steps 0, 10, 20 of the rise and 50, 75, 100 of the fall.
        let schedule = read("kind = 'one-cycle'");
        for (step, torch) in [
            (0.0, 0.04),
            (10.0, 0.290_473_963_213_077_6),
            (20.0, 0.780_490_826_820_368_1),
            (50.0, 0.802_984_187_525_672_5),
            (75.0, 0.278_070_127_339_110_24),
            (100.0, 4e-6),
        ] {
            let end = 29.3;
            let progress = if step <= end { 0.3 * step / end } else { 0.3 + 0.7 * (step - end) / (100.0 - end) };
            close(schedule.factor(progress, 0), torch);
        }
    }

    #[test]
    fn warm_up_in_steps_equals_its_share() {
        let by_steps = read("kind = 'cosine'\nwarmup = 50");
        let by_share = read("kind = 'cosine'\nwarmup = 0.05");
        assert_eq!(by_steps.warmup(), Warmup::Steps(50));
        for step in 0..=1000 {
            let progress = step as f64 / 1000.0;
            close(by_steps.factor(progress, step), by_share.factor(progress, step));
        }
    }

    #[test]
    fn no_step_is_wasted_and_every_factor_is_in_range() {
        let budgets = [Budget::Steps(40), Budget::Tokens(40 * 512), Budget::Epochs(2.0)];
        let spent = |steps| Spent { steps, tokens: 512 * steps, epochs: 0.05 * steps as f64, ..Spent::default() };
        for text in [
            "kind = 'constant'",
            "kind = 'linear'",
            "kind = 'cosine'\nwarmup = 7",
            "kind = 'cosine'\nwarmup = 400",
            "kind = 'one-cycle'",
            "kind = 'warmup-stable-decay'\ndecay = 0.5",
            "kind = 'warmup-stable-decay'\nwarmup = 39",
        ] {
            let schedule = read(text);
            for steps in 0..40 {
                let factors = budgets.map(|budget| schedule.factor_of_step(&budget, &spent(steps), &spent(steps + 1)));
                assert!(factors[0] > 0.0 && factors[0] <= 1.0, "{text}: step {steps} has factor {}", factors[0]);
                close(factors[1], factors[0]);
                close(factors[2], factors[0]);
            }
        }
    }

    #[test]
    fn a_time_budget_follows_the_clock() {
        let budget: Budget = "100s".parse().unwrap();
        let schedule = read("kind = 'linear'\nwarmup = 10");
        let at = |steps, seconds| {
            let time = std::time::Duration::from_secs(seconds);
            let spent = Spent { steps, time, ..Spent::default() };
            schedule.factor_of_step(&budget, &spent, &spent)
        };
        close(at(0, 0), 0.05);
        assert!(at(5, 5) < 1.0);
        // 1,000 steps at 10 a second: the warm-up was 1 % of the run, half the time is left
        close(at(500, 50), (1.0 - 0.5005) / (1.0 - 0.01));
        assert_eq!(at(2000, 100), 0.0);
    }

    #[test]
    fn another_kind_is_set_without_the_keys_of_the_default() {
        #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Run {
            schedule: Schedule,
        }
        let set = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            crate::run::from_defaults(&Run::default(), &changes).unwrap().schedule
        };
        for changes in [["schedule.kind=constant", "schedule.warmup=0"], ["schedule.warmup=0", "schedule.kind=constant"]] {
            assert_eq!(set(&changes), read("kind = 'constant'\nwarmup = 0"), "in any order");
        }
        assert_eq!(set(&["schedule.kind=one-cycle"]), read("kind = 'one-cycle'"));
        assert_eq!(set(&["schedule.kind=linear", "schedule.floor=0.1"]), read("kind = 'linear'\nfloor = 0.1"));
    }

    #[test]
    fn recipes_round_trip_and_mistakes_are_named() {
        for schedule in
            [Schedule::default(), read("kind = 'one-cycle'\nwarmup = 100\nend_divisor = 100.0"), read("kind = 'warmup-stable-decay'")]
        {
            assert_eq!(read(&toml::to_string(&schedule).unwrap()), schedule);
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        }
        for (text, says) in [
            ("kind = 'linera'", "linera"),
            ("warmup = 0.1", "kind"),
            ("kind = 'linear'\nflor = 0.1", "flor"),
            ("kind = 'linear'\nfloor = 1.5", "out of range"),
            ("kind = 'linear'\nwarmup = 1.5", "whole number of steps"),
            ("kind = 'linear'\nwarmup = -1", "out of range"),
            ("kind = 'linear'\nwarmup = 'x'", "0.06"),
            ("kind = 'constant'\nfloor = 0.5", "floor"),
            ("kind = 'one-cycle'\nstart_divisor = 0.5", "1 or more"),
        ] {
            let error = toml::from_str::<Schedule>(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
