//! Times and sizes in words, as Docker's go-units prints them.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// A length of time: `About a minute`, `3 weeks`.
pub fn duration(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 730 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago, both in nanoseconds since 1970.
pub fn ago(then_ns: u64, now_ns: u64) -> String {
    format!(
        "{} ago",
        duration(now_ns.saturating_sub(then_ns) / 1_000_000_000)
    )
}

/// Bytes with three digits and a decimal unit: `4.26MB`.
pub fn size(bytes: u64) -> String {
    digits(bytes, 3)
}

/// Bytes with four digits: `16.43MB`.
pub fn size_long(bytes: u64) -> String {
    digits(bytes, 4)
}

fn digits(bytes: u64, significant: usize) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    // No trailing zeros: Go's %.3g or %.4g for this range.
    let before = if value < 10.0 {
        1
    } else if value < 100.0 {
        2
    } else {
        3
    };
    let decimals = significant - before;
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", units[unit])
}

/// Bytes with four digits and a binary unit: `1.523MiB`.
pub fn binary_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    // Go's %.4g for this range.
    let decimals = match value {
        value if value < 10.0 => 3,
        value if value < 100.0 => 2,
        value if value < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", units[unit])
}

/// Docker's `CreatedAt`, in the zone of the host: `2026-11-23 05:35:00 +0100 CET`.
pub fn created_at(time_ns: u64) -> String {
    let time = in_zone(time_ns, zone());
    time.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// RFC 3339 with nanoseconds in UTC, as `docker logs -t` prints it.
pub fn timestamp(time_ns: u64) -> String {
    let time = in_zone(time_ns, TimeZone::UTC);
    time.strftime("%Y-%m-%dT%H:%M:%S.%9NZ").to_string()
}

/// RFC 3339 in the zone of the host: `2026-11-23T05:35:00+01:00`, `2026-11-23T04:35:00Z`.
pub fn local(time_ns: u64) -> String {
    zoned(&in_zone(time_ns, zone()), "%Y-%m-%dT%H:%M:%S")
}

/// The same with nanoseconds, as `docker events` prints it.
pub fn local_with_nanoseconds(time_ns: u64) -> String {
    zoned(&in_zone(time_ns, zone()), "%Y-%m-%dT%H:%M:%S.%9N")
}

fn zoned(time: &ZonedDateTime, format: &str) -> String {
    match time.offset().is_zero() {
        true => time.strftime(&format!("{format}Z")).to_string(),
        false => time.strftime(&format!("{format}%:z")).to_string(),
    }
}

fn in_zone(time_ns: u64, zone: TimeZone) -> ZonedDateTime {
    // What 64 bits of nanoseconds can say ends in 2554.
    let time = Timestamp::from_nanosecond(time_ns.into()).unwrap_or(Timestamp::MAX);
    time.to_zoned_datetime(zone)
}

/// `TZ`, or the host's zone; UTC where neither says anything.
pub fn zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// A text in double quotes as Go's `strconv.Quote`, after cutting it to `limit` characters.
pub fn quote(text: &str, limit: Option<usize>) -> String {
    let cut = match limit {
        Some(limit) if text.chars().count() > limit => {
            let mut cut: String = text.chars().take(limit.saturating_sub(1)).collect();
            cut.push('…');
            cut
        }
        _ => text.to_owned(),
    };
    let mut quoted = String::from("\"");
    for c in cut.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", c as u32))
            }
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The twelve digits of an id that people see; `sha256:` is left out.
pub fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the cases of go-units' TestHumanDuration.
    #[test]
    fn durations() {
        let check = |seconds: u64, expect: &str| assert_eq!(duration(seconds), expect, "{seconds}");
        let (minute, hour, day) = (60, 3600, 86_400);
        check(0, "Less than a second");
        check(1, "1 second");
        check(45, "45 seconds");
        check(minute, "About a minute");
        check(minute + 59, "About a minute");
        check(35 * minute, "35 minutes");
        check(35 * minute + 40, "35 minutes");
        check(hour, "About an hour");
        check(hour + 45 * minute, "2 hours");
        check(3 * hour + 40 * minute, "4 hours");
        check(24 * hour, "24 hours");
        check(2 * day, "2 days");
        check(7 * day, "7 days");
        check(13 * day + 5 * hour, "13 days");
        check(14 * day, "2 weeks");
        check(31 * day, "4 weeks");
        check(3 * 30 * day, "3 months");
        check(23 * 30 * day, "23 months");
        check(24 * 30 * day, "24 months");
        check(730 * day, "2 years");
    }

    /// Oracle: go-units' HumanSizeWithPrecision(size, 3).
    #[test]
    fn sizes() {
        let check = |bytes: u64, expect: &str| assert_eq!(size(bytes), expect, "{bytes}");
        check(0, "0B");
        check(999, "999B");
        check(1000, "1kB");
        check(4_261_574, "4.26MB");
        check(72_800_000, "72.8MB");
        check(140_400_000, "140MB");
        check(1_200_000_000, "1.2GB");
        check(100_000, "100kB");
        check(u64::MAX, "18.4EB");
        let check = |bytes: u64, expect: &str| assert_eq!(size_long(bytes), expect, "{bytes}");
        check(999, "999B");
        check(16_430_000, "16.43MB");
        check(123_456_789, "123.5MB");
        check(4_000_000, "4MB");
    }

    /// Oracle: go-units' BytesSize.
    #[test]
    fn binary_sizes() {
        let check = |bytes: u64, expect: &str| assert_eq!(binary_size(bytes), expect, "{bytes}");
        check(0, "0B");
        check(1024, "1KiB");
        check(1_048_576, "1MiB");
        check(3_565_158, "3.4MiB");
        check(1_597_830, "1.524MiB");
        check(u64::MAX, "16EiB");
        check(1_048_575, "1024KiB");
    }

    /// Oracle: `date -u -d @SECONDS`.
    #[test]
    fn dates() {
        let check =
            |seconds: u64, expect: &str| assert_eq!(created_at(seconds * 1_000_000_000), expect);
        check(0, "1970-01-01 00:00:00 +0000 UTC");
        check(951_782_400, "2000-02-29 00:00:00 +0000 UTC");
        check(1_709_251_199, "2024-02-29 23:59:59 +0000 UTC");
        check(1_735_689_599, "2024-12-31 23:59:59 +0000 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 +0000 UTC");
        let berlin = in_zone(
            1_500_000_000_000_000_042,
            TimeZone::fixed(jiff::tz::offset(2)),
        );
        assert_eq!(zoned(&berlin, "%H:%M:%S.%9N"), "04:40:00.000000042+02:00");
        assert_eq!(
            timestamp(1_500_000_000_000_000_042),
            "2017-07-14T02:40:00.000000042Z"
        );
    }

    /// Oracle: `docker ps`.
    #[test]
    fn commands_are_quoted() {
        let check = |text: &str, expect: &str| assert_eq!(quote(text, Some(20)), expect);
        check("sh", "\"sh\"");
        check("docker-entrypoint.sh redis", "\"docker-entrypoint.s…\"");
        check("sh -c 'exit 7'", "\"sh -c 'exit 7'\"");
        check("a\"b\\c\n\x1b[0m", r#""a\"b\\c\n\x1b[0m""#);
    }
}
