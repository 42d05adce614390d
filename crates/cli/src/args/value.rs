//! Values of flags: sizes, durations, truths, variables, labels, filters. Pure, but for `-e KEY`, which reads the environment.

use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::{BoolValueParser, PossibleValue, TypedValueParser};

use super::moment::moment;

/// Bytes: a number with an optional b, k, m, g or t, binary multiples as Docker's `-m` (`k`, `kb` and `kib` are 1024).
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("{text:?} is no size: write bytes, or a number with k, m or g, for example 512m")
    };
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let multiple = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(multiple).ok_or_else(wrong);
    }
    let fraction: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = fraction * multiple as f64;
    // 2^63: beyond it the conversion would clip.
    if bytes.is_finite() && bytes < 9.2e18 {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// Seconds, or a number with ms, s, m or h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write seconds, or for example 500ms, 10s, 2m");
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// A [`duration`], or a negative number of seconds: all the time there is, [`Duration::MAX`].
pub fn patience(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-').map(str::parse::<u64>) {
        Some(Ok(1..)) => Ok(Duration::MAX),
        _ => duration(text),
    }
}

/// Yes or no, in the words of Go's strconv.ParseBool, which are those of Docker's flags. `true` and `false` are the ones that
/// are shown.
#[derive(Debug, Clone, Copy)]
pub struct Truth;

impl TypedValueParser for Truth {
    type Value = bool;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<bool, clap::Error> {
        match value.to_str() {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            _ => BoolValueParser::new().parse_ref(command, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            ["true", "false"].into_iter().map(PossibleValue::new),
        ))
    }
}

/// `KEY=VALUE`, or `KEY` to pass on one's own, which [`pass_on`] looks up.
pub fn environment(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("{text:?} names no variable: write KEY=VALUE"));
    }
    Ok(text.to_owned())
}

/// Gives the variables without a value the ones that `look_up` knows. Those that it doesn't stay bare: as with Docker, they are
/// taken out of what the process would have.
pub fn pass_on(variables: &[String], look_up: impl Fn(&str) -> Option<String>) -> Vec<String> {
    variables
        .iter()
        .map(|text| match text.contains('=') {
            true => text.clone(),
            false => look_up(text).map_or_else(|| text.clone(), |value| format!("{text}={value}")),
        })
        .collect()
}

/// `KEY[=VALUE]`; the value may be empty.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} is no label: write KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// What `ps --filter` knows.
pub const FILTERS: [&str; 13] = [
    "ancestor", "before", "exited", "expose", "health", "id", "label", "name", "network",
    "publish", "since", "status", "volume",
];
const STATUSES: [&str; 6] = [
    "created",
    "running",
    "paused",
    "restarting",
    "exited",
    "dead",
];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// `KEY=VALUE` with one of the keys that `ps` filters by.
pub fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = key_value(text, &FILTERS)?;
    let among = |what: &str, known: &[&str]| match known.contains(&value) {
        true => Ok(()),
        false => Err(format!(
            "there is no {what} {value:?}; there are {}",
            known.join(", ")
        )),
    };
    match key {
        "exited" if value.parse::<u32>().is_err() => Err(format!("{value:?} is no exit code")),
        "expose" | "publish" if engine::port_numbers(value).is_none() => Err(format!(
            "{value:?} is neither PORT[/PROTOCOL] nor FIRST-LAST[/PROTOCOL]"
        )),
        "status" => among("status", &STATUSES),
        "health" => among("health", &HEALTHS),
        "name" => match regex_lite::Regex::new(value) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{value:?} is no regular expression: {error}")),
        },
        _ => Ok(()),
    }?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE` with one of the keys that `container prune` filters by.
pub fn prune_filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = key_value(text, &["until", "label", "label!"])?;
    if key == "until" {
        moment(value)?;
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn key_value<'a>(text: &'a str, known: &[&str]) -> Result<(&'a str, &'a str), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        format!(
            "{text:?} is no filter: write KEY=VALUE with one of {}",
            known.join(", ")
        )
    })?;
    if !known.contains(&key) {
        return Err(format!(
            "there is no filter {key:?}; there are {}",
            known.join(", ")
        ));
    }
    if value.is_empty() {
        return Err(format!("the filter {key} is empty"));
    }
    Ok((key, value))
}

/// How many of a log's last lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(
    /// `None`: all.
    pub Option<usize>,
);

/// A number, or `all`; a negative one is all, too.
pub fn tail(text: &str) -> Result<Tail, String> {
    let negative = text.strip_prefix('-').map(str::parse::<u64>);
    if text == "all" || matches!(negative, Some(Ok(1..))) {
        return Ok(Tail(None));
    }
    text.parse()
        .map(|lines| Tail(Some(lines)))
        .map_err(|_| format!("{text:?} is no number of lines: write one, or all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the table in go-units' tests of RAMInBytes.
    #[test]
    fn sizes() {
        let check =
            |text: &str, expect: Option<u64>| assert_eq!(size(text).ok(), expect, "{text:?}");
        check("32", Some(32));
        check("32b", Some(32));
        check("32B", Some(32));
        check("32k", Some(32 << 10));
        check("32KB", Some(32 << 10));
        check("32kib", Some(32 << 10));
        check("32Mb", Some(32 << 20));
        check("32.5m", Some(34_078_720));
        check("0.5g", Some(512 << 20));
        check("1 g", Some(1 << 30));
        check("2T", Some(2 << 40));
        check("", None);
        check("hello", None);
        check("-32", None);
        check("32x", None);
        check("1.2.3m", None);
        check(".", None);
        check("99999999999999999999", None);
        check("99999999999t", None);
    }

    #[test]
    fn durations() {
        let check = |text: &str, expect_ms: Option<u128>| {
            assert_eq!(
                duration(text).ok().map(|d| d.as_millis()),
                expect_ms,
                "{text:?}"
            );
        };
        check("10", Some(10_000));
        check("0", Some(0));
        check("500ms", Some(500));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("", None);
        check("s", None);
        check("-1", None);
        check("1d", None);
        check("99999999999999999999", None);
        check("18446744073709551615h", None);
    }

    /// Oracle: docker-run(1): "-1: no timeout is applied", as any negative number.
    #[test]
    fn waiting_without_end() {
        let check = |text: &str, expect: Option<Duration>| {
            assert_eq!(patience(text).ok(), expect, "{text:?}");
        };
        check("-1", Some(Duration::MAX));
        check("-30", Some(Duration::MAX));
        check("0", Some(Duration::ZERO));
        check("2m", Some(Duration::from_secs(120)));
        for text in ["", "-", "--1", "-0", "-1s", "-soon"] {
            check(text, None);
        }
    }

    /// Oracle: docker-container-logs(1): "a negative number … is invalid and the value is set to all".
    #[test]
    fn last_lines() {
        let check =
            |text: &str, expect: Option<Tail>| assert_eq!(tail(text).ok(), expect, "{text:?}");
        check("0", Some(Tail(Some(0))));
        check("5", Some(Tail(Some(5))));
        for text in ["all", "-1", "-100"] {
            check(text, Some(Tail(None)));
        }
        for text in ["", "-", "-0", "some", "--1", "1.5"] {
            check(text, None);
        }
    }

    /// Oracle: docker-run(1): "that variable is unset in the container".
    #[test]
    fn variables_without_a_value_are_passed_on() {
        let given = ["A=1", "B", "C", "D=x=y", "E="].map(str::to_owned);
        let passed = pass_on(&given, |key| (key == "B").then(|| "two".to_owned()));
        assert_eq!(passed, ["A=1", "B=two", "C", "D=x=y", "E="]);
    }

    #[test]
    fn filters() {
        assert!(filter("status=running").is_ok());
        assert!(filter("label=a=b").is_ok());
        assert!(filter("exited=7").is_ok());
        assert!(filter("name=^web-[0-9]+$").is_ok());
        assert!(filter("health=none").is_ok());
        assert!(prune_filter("label!=a").is_ok());
        assert!(prune_filter("until=24h").is_ok());
        assert!(prune_filter("status=exited").is_err());
        assert!(prune_filter("until=soon").is_err());
        for text in [
            "status",
            "status=dying",
            "colour=red",
            "exited=x",
            "name=[",
            "health=fine",
            "id=",
            "",
        ] {
            assert!(filter(text).is_err(), "{text:?}");
        }
    }
}
