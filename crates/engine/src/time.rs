//! Times as Docker writes and images carry them: RFC 3339, in UTC.

const DAY: i64 = 86_400;

/// Docker's "never".
pub(crate) const ZERO: &str = "0001-01-01T00:00:00Z";

/// `2026-11-23T04:05:06.007008009Z`
pub(crate) fn format(ns: u64) -> String {
    let seconds = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let rest = seconds.rem_euclid(DAY);
    let fraction = ns % 1_000_000_000;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// As [`format`], or Docker's "never".
pub(crate) fn format_or_zero(ns: Option<u64>) -> String {
    ns.map_or_else(|| ZERO.to_owned(), format)
}

/// Nanoseconds since 1970; `None` for what is no time, or before that.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = split_offset(time)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(i64::from(year), i64::from(month), i64::from(day));
    let clock = i64::from(hour * 3600 + minute * 60 + second);
    let seconds = u64::try_from(days * DAY + clock - offset).ok()?;
    let nanoseconds = if fraction.is_empty() {
        0
    } else {
        let digits = fraction.get(..fraction.len().min(9))?;
        let scale = 10_u64.pow(u32::try_from(9 - digits.len()).ok()?);
        u64::from(number(digits)?) * scale
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Seconds east of Greenwich.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (clock, offset) = time.split_at(at);
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let seconds = i64::from(number(hours)?) * 3600 + i64::from(number(minutes)?) * 60;
    (seconds < DAY).then_some((clock, sign * seconds))
}

fn number(digits: &str) -> Option<u32> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Days since 1970 of a date in the Gregorian calendar, counted from March, so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let day = of_year - (153 * march + 2) / 5 + 1;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: date -u +%s -d TEXT.
    #[test]
    fn parses_what_date_parses() {
        for (text, expect) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:34:56Z", Some(951_827_696_000_000_000)),
            (
                "2024-02-29T23:59:59.5+01:00",
                Some(1_709_247_599_500_000_000),
            ),
            (
                "2026-11-23T04:05:06.123456789-05:30",
                Some(1_795_426_506_123_456_789),
            ),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400_000_000_000)),
            ("0001-01-01T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T25:00:00Z", None),
            ("ä", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(format(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            format(951_827_696_000_000_001),
            "2000-02-29T12:34:56.000000001Z"
        );
        for day in 0..60_000 {
            let ns = day * 86_400_000_000_000 + 1;
            assert_eq!(parse(&format(ns)), Some(ns));
        }
    }
}
