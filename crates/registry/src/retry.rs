//! When to try again, and after how long.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// How often and how patiently failed requests are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. For a blob: without a byte of progress.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub base: Duration,
    /// The longest pause. A registry that asks for a longer one is not asked again.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(250),
            max: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The pause after failure number `failures` (from 1), or `None` if that was the last attempt.
    pub(crate) fn pause(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts || asked.is_some_and(|asked| asked > self.max) {
            return None;
        }
        let doubled = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let own = self.base.saturating_mul(doubled.max(1));
        // Up to a quarter more, so that clients that failed together don't come back together.
        let jitter = own.mul_f64(f64::from(subsecond_noise()) / 4000.0);
        Some(asked.unwrap_or(own + jitter).min(self.max))
    }
}

/// 0 to 999, from the clock: good enough to spread clients.
fn subsecond_noise() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |t| t.subsec_micros() % 1000)
}

/// Whether a status means "later".
pub(crate) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long the answer asks to wait: seconds, or a moment (RFC 9110, sections 10.2.3 and 5.6.7).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(secs) = text.parse() {
        return Some(Duration::from_secs(secs));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    Some(Duration::from_secs(parse_date(text)?.saturating_sub(now)))
}

/// Seconds since 1970 of an IMF-fixdate, `Sun, 06 Nov 1994 08:49:37 GMT`: the form that servers must send.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let time: Vec<u64> = time
        .split(':')
        .map_while(|part| part.parse().ok())
        .collect();
    let [hours, minutes, seconds] = time[..] else {
        return None;
    };
    if !(1970..=9999).contains(&year)
        || !(1..=31).contains(&day)
        || hours > 23
        || minutes > 59
        || seconds > 60
    {
        return None;
    }
    // Howard Hinnant's days_from_civil: years begin in March, so that the leap day is their last.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some((days - 719_468) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let policy = RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(100),
            max: Duration::from_millis(350),
        };
        let ms = |failures| policy.pause(failures, None).map(|p| p.as_millis());
        assert!((100..=125).contains(&ms(1).unwrap()));
        assert!((200..=250).contains(&ms(2).unwrap()));
        assert_eq!(ms(3), Some(350));
        assert_eq!(ms(4), None);
        let asked = Some(Duration::from_secs(1000));
        assert_eq!(policy.pause(1, asked), None);
        assert_eq!(policy.pause(1, Some(policy.max)), Some(policy.max));
    }

    /// Oracle: `date -u -d "Sun, 06 Nov 1994 08:49:37 GMT" +%s` and so on.
    #[test]
    fn dates() {
        let check = |text, expect| assert_eq!(parse_date(text), expect, "{text}");
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
        check("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199));
        check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799));
        for text in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 0000 08:49:37 GMT",
        ] {
            check(text, None);
        }
        let mut headers = HeaderMap::new();
        for (text, expect) in [
            ("7", Some(Duration::from_secs(7))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(Duration::ZERO)),
            ("soon", None),
        ] {
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers), expect, "{text}");
        }
    }
}
