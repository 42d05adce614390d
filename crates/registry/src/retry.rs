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
    let moment = httpdate::parse_http_date(text).ok()?;
    Some(moment.duration_since(SystemTime::now()).unwrap_or_default())
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

    #[test]
    fn seconds_and_dates() {
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
