//! Times as Docker writes and images carry them: RFC 3339, in UTC.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Docker's "never".
pub(crate) const ZERO: &str = "0001-01-01T00:00:00Z";

/// `2026-11-23T04:05:06.007008009Z`
pub(crate) fn format(ns: u64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(9));
    // There is no such time before the year 9999, and none of this type after 2554.
    Timestamp::from_nanosecond(ns.into()).map_or_else(
        |_| ZERO.to_owned(),
        |time| PRINTER.timestamp_to_string(&time),
    )
}

/// As [`format`], or Docker's "never".
pub(crate) fn format_or_zero(ns: Option<u64>) -> String {
    ns.map_or_else(|| ZERO.to_owned(), format)
}

/// Nanoseconds since 1970; `None` for what is no time, or before that.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
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
