//! The waterfall of `run --timings`: each phase a bar from the moment before it to its own.
//!
//! Phases are moments of CLOCK_MONOTONIC; a phase lasts from the moment before to its own. The supervisor's come with
//! the exit message, the CLI adds its own around them.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// A moment of the start or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// What was reached.
    pub name: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
}

/// The moments of a run in the order of time.
#[derive(Debug)]
pub struct Waterfall {
    started_ns: u64,
    moments: Vec<Moment>,
}

impl Waterfall {
    /// Sorts the moments; those from before the start count as at it.
    pub fn new(started_ns: u64, mut moments: Vec<Moment>) -> Waterfall {
        for moment in &mut moments {
            moment.at_ns = moment.at_ns.max(started_ns);
        }
        moments.sort_by_key(|moment| moment.at_ns);
        Waterfall {
            started_ns,
            moments,
        }
    }

    fn total_ns(&self) -> u64 {
        self.moments
            .last()
            .map_or(0, |last| last.at_ns - self.started_ns)
    }

    /// Name, milliseconds since the start, milliseconds since the moment before.
    fn rows(&self) -> impl Iterator<Item = (&str, f64, f64)> {
        let mut before = self.started_ns;
        self.moments.iter().map(move |moment| {
            let at = (moment.at_ns - self.started_ns) as f64 / 1e6;
            let took = (moment.at_ns - before) as f64 / 1e6;
            before = moment.at_ns;
            (moment.name.as_str(), at, took)
        })
    }

    /// A picture `width` columns wide; `unicode` draws bars in eighths of a column.
    pub fn picture(&self, width: usize, unicode: bool) -> String {
        let names = self
            .moments
            .iter()
            .map(|m| m.name.chars().count())
            .max()
            .unwrap_or(0)
            .max("phase".len());
        let figures = 2 * 10;
        let bars = width.saturating_sub(names + figures + 3).clamp(10, 120);
        let total = (self.total_ns() as f64 / 1e6).max(f64::MIN_POSITIVE);
        let mut text = format!("{:names$}  {:>9} {:>9}\n", "phase", "at ms", "took ms");
        for (name, at, took) in self.rows() {
            let from = (at - took) / total * bars as f64;
            let to = at / total * bars as f64;
            let bar = if unicode {
                eighths(from, to)
            } else {
                plain(from, to)
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:names$}  {at:>9.1} {took:>9.1}  {bar}");
        }
        text
    }

    /// The same for programs.
    pub fn json(&self, exit_code: u32) -> Value {
        let phases: Vec<Value> = self
            .rows()
            .map(|(name, at, took)| json!({"name": name, "at_ms": micros(at), "took_ms": micros(took)}))
            .collect();
        json!({"phases": phases, "total_ms": micros(self.total_ns() as f64 / 1e6), "exit_code": exit_code})
    }
}

/// Milliseconds with three decimals.
fn micros(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

fn plain(from: f64, to: f64) -> String {
    let start = from.floor() as usize;
    let end = (to.round() as usize).max(start + 1);
    format!("{}{}", " ".repeat(start), "#".repeat(end - start))
}

/// A bar that ends on an eighth of a column; its start is rounded to a whole one.
fn eighths(from: f64, to: f64) -> String {
    const PART: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let start = from.floor() as usize;
    let end = ((to * 8.0).round() as usize).max(start * 8 + 1);
    let length = end - start * 8;
    format!(
        "{}{}{}",
        " ".repeat(start),
        "█".repeat(length / 8),
        PART[length % 8]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Waterfall {
        let moment = |name: &str, ms: u64| Moment {
            name: name.to_owned(),
            at_ns: 1_000_000_000 + ms * 1_000_000,
        };
        let moments = vec![
            moment("supervisor started", 10),
            moment("arguments read", 1),
            moment("agent dialled", 700),
            moment("first byte", 800),
            moment("gone", 1000),
        ];
        Waterfall::new(1_000_000_000, moments)
    }

    #[test]
    fn picture() {
        assert_eq!(
            example().picture(60, false),
            "phase                   at ms   took ms\n\
             arguments read            1.0       1.0  #\n\
             supervisor started       10.0       9.0  #\n\
             agent dialled           700.0     690.0  #############\n\
             first byte              800.0     100.0               ##\n\
             gone                   1000.0     200.0                 ####\n"
        );
        let unicode = example().picture(60, true);
        assert!(unicode.contains("690.0  █████████████▎\n"), "{unicode}");
    }

    #[test]
    fn json_adds_up() {
        let json = example().json(7);
        assert_eq!(json["total_ms"], 1000.0);
        assert_eq!(json["exit_code"], 7);
        assert_eq!(json["phases"][0]["name"], "arguments read");
        let sum: f64 = json["phases"].as_array().map_or(0.0, |phases| {
            phases
                .iter()
                .filter_map(|phase| phase["took_ms"].as_f64())
                .sum()
        });
        assert!((sum - 1000.0).abs() < 0.01, "{sum}");
    }

    #[test]
    fn nothing_is_no_panic() {
        assert_eq!(
            Waterfall::new(5, Vec::new())
                .picture(0, true)
                .lines()
                .count(),
            1
        );
        let early = vec![Moment {
            name: "early".to_owned(),
            at_ns: 1,
        }];
        assert!(Waterfall::new(5, early).picture(20, true).contains("early"));
    }
}
