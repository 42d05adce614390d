//! Values of the flags of `run`, `create` and `update`. Pure. Each says what is wrong, and what would be right.

use std::time::Duration;

use engine::{Journal, Restart, RestartPolicy, Tmpfs, Ulimit};

use crate::args::moment::ago;
use crate::args::value::size;

/// Billionths.
const NANO: u64 = 1_000_000_000;

/// Processors in billionths: `2`, `1.5`, `.5`; 0 is no limit. Docker's rule: nine digits after the point.
pub fn cpus(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of processors: write for example 2, 1.5 or 0.25");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(format!(
            "{text:?} is too precise: nine digits after the point at most"
        ));
    }
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse::<u64>().map_err(|_| wrong()),
    };
    number(whole)?
        .checked_mul(NANO)
        .and_then(|nano| nano.checked_add(number(&format!("{fraction:0<9}")).ok()?))
        .ok_or_else(wrong)
}

/// A number; -1 and 0 are no limit.
pub fn pids_limit(text: &str) -> Result<u32, String> {
    if text == "-1" {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no number of processes: write one, or -1 for no limit"))
}

/// setrlimit(2)'s names, in Docker's spelling.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `nofile=1024:2048`; one number is both; -1 is no limit.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong =
        || format!("{text:?} is no limit: write NAME=SOFT[:HARD], for example nofile=1024:2048");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    if !ULIMITS.contains(&name) {
        return Err(format!(
            "there is no limit {name:?}; there are {}",
            ULIMITS.join(", ")
        ));
    }
    let limit = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| wrong()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if soft > hard {
        return Err(format!(
            "the soft limit of {text:?} is above the hard one: write the smaller one first"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// A capability with or without `CAP_`; whether Linux has it is the engine's to say.
pub fn capability(text: &str) -> Result<String, String> {
    let upper = text.trim().to_ascii_uppercase();
    let known = engine::capability(&upper);
    known.ok_or_else(|| {
        format!("there is no capability {text:?}; names are as in capabilities(7), for example NET_ADMIN, or ALL")
    })
}

/// What `--security-opt` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityOption {
    /// Programs can't gain rights.
    NoNewPrivileges(bool),
    /// Nothing of /proc and /sys is hidden.
    Unmasked,
}

/// Docker's words; those that a VM has no use for are refused by name.
pub fn security_option(text: &str) -> Result<SecurityOption, String> {
    let (key, value) = text
        .split_once(['=', ':'])
        .map_or((text, None), |(key, value)| (key, Some(value)));
    match (key, value) {
        ("no-new-privileges", None | Some("true")) => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", Some("false")) => Ok(SecurityOption::NoNewPrivileges(false)),
        ("no-new-privileges", Some(other)) => {
            Err(format!("no-new-privileges is true or false, not {other:?}"))
        }
        ("systempaths", Some("unconfined")) => Ok(SecurityOption::Unmasked),
        ("systempaths", _) => Err("systempaths can only be unconfined".to_owned()),
        ("seccomp" | "apparmor" | "label", _) => Err(format!(
            "{key} confines processes that share the host's kernel; here each container has a kernel of its own: leave it out"
        )),
        _ => Err(format!(
            "there is no option {text:?}; there are no-new-privileges[:true|false] and systempaths=unconfined"
        )),
    }
}

/// `PATH[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(format!(
            "{target:?} is not an absolute path: write for example /run:size=64m"
        ));
    }
    Ok(Tmpfs {
        target: target.to_owned(),
        options: options.to_owned(),
    })
}

/// `NAME=VALUE`.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "{text:?} is no kernel parameter: write NAME=VALUE, for example net.core.somaxconn=1024"
        )),
    }
}

/// A group's name or number.
pub fn group(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains([':', '\n']) {
        return Err(format!("{text:?} is no group: write its name or number"));
    }
    Ok(text.to_owned())
}

/// Part of a kernel's command line.
pub fn kernel_arg(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_control()) {
        return Err(format!(
            "{text:?} is no argument of a kernel: write for example loglevel=7"
        ));
    }
    Ok(text.to_owned())
}

/// `no`, `on-failure[:MAX]`, `always`, `unless-stopped`.
pub fn restart(text: &str) -> Result<Restart, String> {
    let (policy, maximum) = text
        .split_once(':')
        .map_or((text, None), |(policy, maximum)| (policy, Some(maximum)));
    let policy = match policy {
        // Docker's: an empty one is none.
        "" | "no" => RestartPolicy::No,
        "on-failure" => RestartPolicy::OnFailure,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        _ => {
            return Err(format!(
                "there is no restart policy {text:?}; there are no, on-failure[:MAX], always, unless-stopped"
            ));
        }
    };
    let maximum = match maximum {
        None => 0,
        Some(_) if policy != RestartPolicy::OnFailure => {
            return Err(format!("{text:?}: only on-failure has a limit of restarts"));
        }
        Some(maximum) => maximum.parse().map_err(|_| {
            format!("{maximum:?} is no number of restarts: write for example on-failure:3")
        })?,
    };
    Ok(Restart { policy, maximum })
}

/// How much output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOption {
    /// Bytes of a file.
    Size(u64),
    /// Files.
    Files(u32),
}

/// Less would be all record heads.
const LEAST_LOG: u64 = 1 << 10;

/// `max-size=10m`, `max-file=3`.
pub fn log_option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=') {
        Some(("max-size", value)) => {
            let bytes = size(value)?;
            if bytes < LEAST_LOG {
                return Err(format!(
                    "max-size of {value:?} is too small: 1k is the least"
                ));
            }
            Ok(LogOption::Size(bytes))
        }
        Some(("max-file", value)) => match value.parse() {
            Ok(files) if files > 0 => Ok(LogOption::Files(files)),
            _ => Err(format!(
                "max-file of {value:?} is no number of files: write 1 or more"
            )),
        },
        _ => Err(format!(
            "there is no option {text:?} of logs; there are max-size=SIZE and max-file=N"
        )),
    }
}

/// What a container's disk is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageOption {
    /// Bytes that it may grow to.
    Size(u64),
    /// ext4's journal.
    Journal(Journal),
}

/// `size=20g`, `journal=none`.
pub fn storage_option(text: &str) -> Result<StorageOption, String> {
    match text.split_once('=') {
        Some(("size", value)) => size(value).map(StorageOption::Size),
        Some(("journal", "ordered")) => Ok(StorageOption::Journal(Journal::Ordered)),
        Some(("journal", "writeback")) => Ok(StorageOption::Journal(Journal::Writeback)),
        Some(("journal", "journal")) => Ok(StorageOption::Journal(Journal::Journal)),
        Some(("journal", "none")) => Ok(StorageOption::Journal(Journal::None)),
        Some(("journal", other)) => Err(format!(
            "there is no journal {other:?}; there are ordered, writeback, journal, none"
        )),
        _ => Err(format!(
            "there is no option {text:?} of storage; there are size=SIZE and journal=ordered|writeback|journal|none"
        )),
    }
}

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// 0
    Stdin,
    /// 1
    Stdout,
    /// 2
    Stderr,
}

/// `STDIN`, `stdout`, …
pub fn stream(text: &str) -> Result<Stream, String> {
    match text.to_ascii_lowercase().as_str() {
        "stdin" => Ok(Stream::Stdin),
        "stdout" => Ok(Stream::Stdout),
        "stderr" => Ok(Stream::Stderr),
        _ => Err(format!(
            "there is no stream {text:?}; there are STDIN, STDOUT and STDERR"
        )),
    }
}

/// A time of a health check: 0, which is the default, or a millisecond at least, as Docker.
pub fn health_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write for example 500ms, 30s or 1m30s");
    let time = match text {
        "0" => Duration::ZERO,
        text if text.starts_with('-') => return Err(wrong()),
        text => ago(text).map(Duration::from_nanos).ok_or_else(wrong)?,
    };
    if !time.is_zero() && time < Duration::from_millis(1) {
        return Err(format!("{text:?} is too short: 1ms is the least"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<T: std::fmt::Debug + PartialEq>(
        parse: fn(&str) -> Result<T, String>,
        rows: &[(&str, Option<T>)],
    ) {
        for (text, expect) in rows {
            assert_eq!(parse(text).ok().as_ref(), expect.as_ref(), "{text:?}");
        }
    }

    /// Oracle: what Docker 28's CLI puts into NanoCpus.
    #[test]
    fn processors() {
        table(
            cpus,
            &[
                ("1", Some(NANO)),
                ("2.0", Some(2 * NANO)),
                ("1.5", Some(1_500_000_000)),
                (".25", Some(250_000_000)),
                ("0.000000001", Some(1)),
                ("0.0000000001", None),
                ("1.", Some(NANO)),
                ("0", Some(0)),
                ("0.0", Some(0)),
                ("-1", None),
                ("many", None),
                ("", None),
                (".", None),
                ("1.2.3", None),
                ("99999999999999", None),
            ],
        );
    }

    /// Oracle: what Docker 28's CLI says to each.
    #[test]
    fn ulimits() {
        let limit = |name: &str, soft, hard| {
            Some(Ulimit {
                name: name.to_owned(),
                soft,
                hard,
            })
        };
        table(
            ulimit,
            &[
                ("nofile=1024:2048", limit("nofile", 1024, 2048)),
                ("nproc=5", limit("nproc", 5, 5)),
                ("core=-1", limit("core", u64::MAX, u64::MAX)),
                ("nofile=5:-1", limit("nofile", 5, u64::MAX)),
                ("nofile=-1:5", None),
                ("nofile=3:2", None),
                ("nofile", None),
                ("foo=1", None),
                ("nofile=a", None),
                ("nofile=-2", None),
                ("nofile=1:2:3", None),
            ],
        );
    }

    #[test]
    fn security_options() {
        use SecurityOption::{NoNewPrivileges, Unmasked};
        table(
            security_option,
            &[
                ("no-new-privileges", Some(NoNewPrivileges(true))),
                ("no-new-privileges:true", Some(NoNewPrivileges(true))),
                ("no-new-privileges=false", Some(NoNewPrivileges(false))),
                ("no-new-privileges:maybe", None),
                ("systempaths=unconfined", Some(Unmasked)),
                ("systempaths=x", None),
                ("seccomp=unconfined", None),
                ("nope", None),
            ],
        );
        let refusal = security_option("seccomp=unconfined").expect_err("a refusal");
        assert!(refusal.starts_with("seccomp confines"), "{refusal}");
    }

    #[test]
    fn capabilities() {
        table(
            capability,
            &[
                ("net_admin", Some("CAP_NET_ADMIN".to_owned())),
                ("CAP_SYS_ADMIN", Some("CAP_SYS_ADMIN".to_owned())),
                ("all", Some("ALL".to_owned())),
                ("CAP_ALL", None),
                ("FOO", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn restarts() {
        let of = |policy, maximum| Some(Restart { policy, maximum });
        table(
            restart,
            &[
                ("no", of(RestartPolicy::No, 0)),
                ("on-failure", of(RestartPolicy::OnFailure, 0)),
                ("on-failure:3", of(RestartPolicy::OnFailure, 3)),
                ("always", of(RestartPolicy::Always, 0)),
                ("unless-stopped", of(RestartPolicy::UnlessStopped, 0)),
                ("always:3", None),
                ("on-failure:x", None),
                ("on-failure:-1", None),
                ("maybe", None),
            ],
        );
    }

    #[test]
    fn logs_and_storage() {
        table(
            log_option,
            &[
                ("max-size=10m", Some(LogOption::Size(10 << 20))),
                ("max-size=1", None),
                ("max-file=3", Some(LogOption::Files(3))),
                ("max-file=0", None),
                ("compress=true", None),
                ("foo", None),
            ],
        );
        table(
            storage_option,
            &[
                ("size=20g", Some(StorageOption::Size(20 << 30))),
                ("journal=none", Some(StorageOption::Journal(Journal::None))),
                ("journal=fast", None),
                ("size", None),
                ("size=x", None),
            ],
        );
    }

    #[test]
    fn file_systems_and_parameters() {
        let of = |target: &str, options: &str| {
            Some(Tmpfs {
                target: target.to_owned(),
                options: options.to_owned(),
            })
        };
        table(
            tmpfs,
            &[
                ("/run", of("/run", "")),
                ("/run:size=64m,mode=1777", of("/run", "size=64m,mode=1777")),
                ("run", None),
                ("", None),
            ],
        );
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        table(
            sysctl,
            &[
                ("net.ipv4.ip_forward=1", pair("net.ipv4.ip_forward", "1")),
                ("kernel.sem=1 2 3 4", pair("kernel.sem", "1 2 3 4")),
                ("net.x", None),
                ("=1", None),
                ("a=", None),
            ],
        );
    }

    /// Oracle: Go's documentation of time.ParseDuration.
    #[test]
    fn times() {
        let ms = |ms| Some(Duration::from_millis(ms));
        table(
            health_time,
            &[
                ("1m30s", ms(90_000)),
                ("1.5h", ms(5_400_000)),
                ("500ms", ms(500)),
                ("0", ms(0)),
                ("1ms", ms(1)),
                ("10us", None),
                ("0s", ms(0)),
                ("1h15m30.918s", ms(4_530_918)),
                ("30", None),
                ("", None),
                ("s", None),
                ("-1s", None),
                ("1d", None),
                (".s", None),
                ("1..5s", None),
                ("99999999999h", None),
            ],
        );
    }

    #[test]
    fn streams_and_processes() {
        table(
            stream,
            &[
                ("STDIN", Some(Stream::Stdin)),
                ("stderr", Some(Stream::Stderr)),
                ("x", None),
            ],
        );
        table(
            pids_limit,
            &[
                ("100", Some(100)),
                ("-1", Some(0)),
                ("-2", None),
                ("x", None),
            ],
        );
    }
}
