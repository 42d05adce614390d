//! Moments, as `--since`, `--until` and `--filter until=` take them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::clock;
use crate::render::human;

/// A moment in nanoseconds since 1970: RFC 3339 (`2026-11-23T04:05:06Z`, also without the zone, the seconds or the whole
/// time of day: in the zone of the host then), seconds since 1970 (`1700000000.5`), or how long ago, as Go writes durations (`1h30m`).
pub fn moment(text: &str) -> Result<u64, String> {
    from(text, clock::wall_ns(), human::zone())
}

fn from(text: &str, now_ns: u64, zone: TimeZone) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is no moment: write 2026-11-23T04:05:06Z, seconds since 1970, or how long ago, for example 10m or 1h30m"
        )
    };
    seconds(text)
        .or_else(|| ago(text).map(|ago| now_ns.saturating_sub(ago)))
        .or_else(|| date(text, zone))
        .ok_or_else(wrong)
}

/// `seconds[.nanoseconds]`
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    number(whole)?
        .checked_mul(1_000_000_000)?
        .checked_add(nanoseconds(fraction)?)
}

/// Numbers with units: `1h2m3.5s`, `100ms`.
pub fn ago(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let mut sum = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000_u64,
            _ => return None,
        };
        let (whole, fraction) = count.split_once('.').unwrap_or((count, "0"));
        let part = u128::from(nanoseconds(fraction)?) * u128::from(unit) / 1_000_000_000;
        sum = number(whole)?
            .checked_mul(unit)?
            .checked_add(u64::try_from(part).ok()?)?
            .checked_add(sum)?;
        rest = tail;
    }
    Some(sum)
}

fn date(text: &str, zone: TimeZone) -> Option<u64> {
    let moment = text.parse::<Timestamp>().or_else(|_| {
        let local: DateTime = text.parse()?;
        Ok::<_, jiff::Error>(local.to_zoned_datetime(zone)?.timestamp())
    });
    u64::try_from(moment.ok()?.as_nanosecond()).ok()
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.len() <= 18;
    (is_number && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A fraction of a second; digits beyond the ninth are cut.
fn nanoseconds(fraction: &str) -> Option<u64> {
    let digits = fraction.get(..fraction.len().min(9))?;
    let scale = 10_u64.pow(u32::try_from(9 - digits.len()).ok()?);
    number(digits).map(|value| value * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `date -u -d TEXT +%s`, Go's time.ParseDuration.
    #[test]
    fn moments() {
        const S: u64 = 1_000_000_000;
        let now = 2_000_000_000 * S;
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(from(text, now, TimeZone::UTC).ok(), expect, "{text:?}");
        };
        check("1136073845", Some(1_136_073_845 * S));
        check("1136073845.000000001", Some(1_136_073_845 * S + 1));
        check("2006-01-02T15:04:05Z", Some(1_136_214_245 * S));
        check("2006-01-02T15:04:05.5Z", Some(1_136_214_245 * S + S / 2));
        check("2006-01-02T15:04:05-07:00", Some(1_136_239_445 * S));
        check("2006-01-02T15:04", Some(1_136_214_240 * S));
        check("2006-01-02", Some(1_136_160_000 * S));
        check("1970-01-01", Some(0));
        check("2000-02-29T00:00:00Z", Some(951_782_400 * S));
        check("10m", Some(now - 600 * S));
        check("1h30m", Some(now - 5400 * S));
        check("1.5s", Some(now - 3 * S / 2));
        check("300ms", Some(now - 3 * S / 10));
        check("-10s", Some(now - 10 * S));
        for text in [
            "",
            "-",
            "soon",
            "10",
            "1d",
            "2006-13-01",
            "2006-01-02T25:00:00Z",
            "1.5",
            "h",
            "1h2",
            "99999999999999999999",
            "2006-01-02T15:04:05+99:00",
        ] {
            let seconds = ["10", "1.5"].contains(&text);
            assert_eq!(from(text, now, TimeZone::UTC).is_ok(), seconds, "{text:?}");
        }
    }
}
