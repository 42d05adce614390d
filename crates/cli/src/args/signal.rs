//! Signals by name and number, as `kill -l` has them on Linux (signal(7), x86 and ARM).

const NAMES: [(&str, u32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The first and last real-time signals that programs may use.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+1`.
pub fn parse(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("there is no signal {text:?}; names are as in `kill -l`, numbers 1 to {RTMAX}");
    if let Ok(number) = text.parse::<u32>() {
        return (1..=RTMAX)
            .contains(&number)
            .then_some(number)
            .ok_or_else(wrong);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(number);
    }
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+').ok_or_else(wrong)?)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        RTMAX.checked_sub(offset(rest, '-').ok_or_else(wrong)?)
    } else {
        None
    };
    number
        .filter(|number| (RTMIN..=RTMAX).contains(number))
        .ok_or_else(wrong)
}

fn offset(rest: &str, sign: char) -> Option<u32> {
    if rest.is_empty() {
        Some(0)
    } else {
        rest.strip_prefix(sign)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: bash's `kill -l`.
    #[test]
    fn names_and_numbers() {
        let check =
            |text: &str, expect: Option<u32>| assert_eq!(parse(text).ok(), expect, "{text:?}");
        check("TERM", Some(15));
        check("SIGTERM", Some(15));
        check("sigusr2", Some(12));
        check("9", Some(9));
        check("RTMIN", Some(34));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        check("RTMIN+31", None);
        check("RTMAX-99", None);
        check("RTMIN-1", None);
        check("0", None);
        check("65", None);
        check("", None);
        check("-9", None);
        check("TERMINATE", None);
    }
}
