//! ps(1)'s options and columns, as far as there are.

use engine::ProcessInfo;

use crate::render::human;

const SECOND: u64 = 1_000_000_000;

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Pid,
    Parent,
    User,
    Uid,
    Gid,
    /// Whole per cent of a processor since the start.
    C,
    CpuPercent,
    MemoryPercent,
    VirtualKib,
    ResidentKib,
    Terminal,
    State,
    /// The hour today, the day before that.
    Started,
    /// Weekday, day, time, year.
    LongStarted,
    /// `hh:mm:ss`
    Time,
    /// `m:ss`
    BsdTime,
    /// `[[dd-]hh:]mm:ss` since the start.
    Elapsed,
    ElapsedSeconds,
    Name,
    Command,
    Threads,
}

/// Names that `-o` takes, with their headings.
const FIELDS: [(&[&str], &str, Field); 21] = [
    (&["pid", "tgid"], "PID", Field::Pid),
    (&["ppid"], "PPID", Field::Parent),
    (&["user", "euser", "ruser", "uname"], "USER", Field::User),
    (&["uid", "euid", "ruid"], "UID", Field::Uid),
    (&["gid", "egid", "rgid"], "GID", Field::Gid),
    (&["c"], "C", Field::C),
    (&["%cpu", "pcpu"], "%CPU", Field::CpuPercent),
    (&["%mem", "pmem"], "%MEM", Field::MemoryPercent),
    (&["vsz", "vsize"], "VSZ", Field::VirtualKib),
    (&["rss", "rssize", "rsz"], "RSS", Field::ResidentKib),
    (&["tty", "tt", "tname"], "TTY", Field::Terminal),
    (&["stat", "s", "state"], "STAT", Field::State),
    (
        &["stime", "start", "start_time", "bsdstart"],
        "STIME",
        Field::Started,
    ),
    (&["lstart"], "STARTED", Field::LongStarted),
    (&["time", "cputime"], "TIME", Field::Time),
    (&["bsdtime"], "TIME", Field::BsdTime),
    (&["etime"], "ELAPSED", Field::Elapsed),
    (&["etimes"], "ELAPSED", Field::ElapsedSeconds),
    (&["comm", "ucmd", "ucomm"], "COMMAND", Field::Name),
    (&["args", "cmd", "command"], "COMMAND", Field::Command),
    (&["nlwp", "thcount"], "NLWP", Field::Threads),
];

/// `ps -ef`
const FULL: [(&str, Field); 8] = [
    ("UID", Field::User),
    ("PID", Field::Pid),
    ("PPID", Field::Parent),
    ("C", Field::C),
    ("STIME", Field::Started),
    ("TTY", Field::Terminal),
    ("TIME", Field::Time),
    ("CMD", Field::Command),
];

/// `ps aux`
const USERS: [(&str, Field); 11] = [
    ("USER", Field::User),
    ("PID", Field::Pid),
    ("%CPU", Field::CpuPercent),
    ("%MEM", Field::MemoryPercent),
    ("VSZ", Field::VirtualKib),
    ("RSS", Field::ResidentKib),
    ("TTY", Field::Terminal),
    ("STAT", Field::State),
    ("START", Field::Started),
    ("TIME", Field::BsdTime),
    ("COMMAND", Field::Command),
];

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub heading: String,
    field: Field,
}

/// What cells depend on beside the process.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// Nanoseconds since 1970.
    pub now_ns: u64,
    /// Bytes that the container may use; 0 is not known.
    pub memory: u64,
}

/// Reads ps's options: letters that choose processes mean nothing here, as all of the container's are shown.
pub fn parse(options: &[String]) -> Result<Vec<Column>, String> {
    let mut chosen = Vec::new();
    let mut style = &FULL[..];
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if let Some(list) = option.strip_prefix("--format") {
            let list = match list.strip_prefix('=') {
                Some(list) => list,
                None => options.next().ok_or("--format needs names of columns")?,
            };
            add(&mut chosen, list)?;
            continue;
        }
        let (dashed, letters) = match option.strip_prefix('-') {
            Some(letters) => (true, letters),
            None => (false, option.as_str()),
        };
        for (at, letter) in letters.char_indices() {
            match (letter, dashed) {
                ('o', _) | ('O', true) => {
                    let rest = &letters[at + 1..];
                    let list = match rest.is_empty() {
                        false => rest,
                        true => options.next().ok_or("-o needs names of columns")?,
                    };
                    add(&mut chosen, list)?;
                    break;
                }
                ('u', _) => style = &USERS,
                ('f', true) => style = &FULL,
                // All processes, wide lines, no limits: so it is.
                ('e' | 'a' | 'A' | 'x' | 'd' | 'w' | 'f', _) => {}
                (other, _) => {
                    return Err(format!(
                        "ps's option {other:?} of {option:?} is not known here; there are -e -f -A -a -x -w, u as in aux, and -o"
                    ));
                }
            }
        }
    }
    if chosen.is_empty() {
        let column = |(heading, field): &(&str, Field)| Column {
            heading: (*heading).to_owned(),
            field: *field,
        };
        chosen = style.iter().map(column).collect();
    }
    Ok(chosen)
}

/// `pid,user=WHO,args`: what stands behind `=` is the heading, to the end.
fn add(columns: &mut Vec<Column>, list: &str) -> Result<(), String> {
    let mut rest = list;
    while !rest.is_empty() {
        let end = rest.find([',', ' ', '=']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let known = FIELDS.iter().find(|(names, ..)| names.contains(&name));
        let Some((_, heading, field)) = known else {
            let names: Vec<&str> = FIELDS.iter().map(|(names, ..)| names[0]).collect();
            return Err(format!(
                "there is no column {name:?}; there are {}",
                names.join(" ")
            ));
        };
        let (heading, tail) = match tail.strip_prefix('=') {
            Some(heading) => (heading, ""),
            None => (*heading, tail.get(1..).unwrap_or("")),
        };
        columns.push(Column {
            heading: heading.to_owned(),
            field: *field,
        });
        rest = tail;
    }
    Ok(())
}

impl Column {
    /// Whether it shows a part of the memory.
    pub fn wants_memory(&self) -> bool {
        self.field == Field::MemoryPercent
    }

    /// What it says of a process.
    pub fn cell(&self, process: &ProcessInfo, when: When) -> String {
        let age_ns = when.now_ns.saturating_sub(process.started_ns);
        let cpu = |factor: u64| process.cpu_ns.saturating_mul(factor) / age_ns.max(1);
        match self.field {
            Field::Pid => process.pid.to_string(),
            Field::Parent => process.parent.to_string(),
            Field::User => process.user.clone(),
            Field::Uid => process.uid.to_string(),
            Field::Gid => process.gid.to_string(),
            Field::C => cpu(100).min(99).to_string(),
            Field::CpuPercent => tenths(cpu(1000)),
            Field::MemoryPercent => {
                tenths(process.resident.saturating_mul(1000) / when.memory.max(1))
            }
            Field::VirtualKib => (process.virtual_size >> 10).to_string(),
            Field::ResidentKib => (process.resident >> 10).to_string(),
            Field::Terminal => process.terminal.clone(),
            Field::State => process.state.clone(),
            Field::Started => started(process.started_ns, age_ns),
            Field::LongStarted => human::created_at(process.started_ns),
            Field::Time => {
                let (hours, minutes, seconds) = clock(process.cpu_ns / SECOND);
                format!("{hours:02}:{minutes:02}:{seconds:02}")
            }
            Field::BsdTime => {
                let seconds = process.cpu_ns / SECOND;
                format!("{}:{:02}", seconds / 60, seconds % 60)
            }
            Field::Elapsed => elapsed(age_ns / SECOND),
            Field::ElapsedSeconds => (age_ns / SECOND).to_string(),
            Field::Name => process.name.clone(),
            Field::Command => process.command.clone(),
            Field::Threads => process.threads.to_string(),
        }
    }
}

fn tenths(value: u64) -> String {
    format!("{}.{}", value / 10, value % 10)
}

fn clock(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn elapsed(seconds: u64) -> String {
    let (hours, minutes, rest) = clock(seconds);
    match (hours / 24, hours % 24) {
        (0, 0) => format!("{minutes:02}:{rest:02}"),
        (0, hours) => format!("{hours:02}:{minutes:02}:{rest:02}"),
        (days, hours) => format!("{days}-{hours:02}:{minutes:02}:{rest:02}"),
    }
}

/// `04:05` within a day, `Nov23` before that. UTC, as every time that gourd prints.
fn started(started_ns: u64, age_ns: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = human::created_at(started_ns);
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("?");
    if age_ns < 86_400 * SECOND {
        return part(11..16).to_owned();
    }
    let month = part(5..7).parse::<usize>().unwrap_or(1);
    let month = MONTHS.get(month.wrapping_sub(1)).unwrap_or(&"?");
    format!("{month}{}", part(8..10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> ProcessInfo {
        ProcessInfo {
            pid: 7,
            parent: 1,
            uid: 33,
            gid: 34,
            user: "www".to_owned(),
            started_ns: 951_782_400 * SECOND,
            cpu_ns: 125 * SECOND,
            resident: 3 << 20,
            virtual_size: 10 << 20,
            terminal: "pts/0".to_owned(),
            state: "S".to_owned(),
            name: "httpd".to_owned(),
            command: "httpd -f".to_owned(),
            threads: 2,
        }
    }

    fn check(options: &[&str], expect: &[(&str, &str)]) {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let columns = parse(&options).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let when = When {
            now_ns: (951_782_400 + 1000) * SECOND,
            memory: 30 << 20,
        };
        let cells: Vec<(String, String)> = columns
            .iter()
            .map(|column| (column.heading.clone(), column.cell(&process(), when)))
            .collect();
        let cells: Vec<(&str, &str)> = cells.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        assert_eq!(cells, expect, "{options:?}");
    }

    /// Oracle: ps of procps-ng 4.
    #[test]
    fn options() {
        let full = [
            ("UID", "www"),
            ("PID", "7"),
            ("PPID", "1"),
            ("C", "12"),
            ("STIME", "00:00"),
            ("TTY", "pts/0"),
            ("TIME", "00:02:05"),
            ("CMD", "httpd -f"),
        ];
        check(&[], &full);
        check(&["-ef"], &full);
        let users = [
            ("USER", "www"),
            ("PID", "7"),
            ("%CPU", "12.5"),
            ("%MEM", "10.0"),
            ("VSZ", "10240"),
            ("RSS", "3072"),
            ("TTY", "pts/0"),
            ("STAT", "S"),
            ("START", "00:00"),
            ("TIME", "2:05"),
            ("COMMAND", "httpd -f"),
        ];
        check(&["aux"], &users);
        check(&["-aux"], &users);
        let few = [("PID", "7"), ("COMMAND", "httpd"), ("ELAPSED", "16:40")];
        check(&["-o", "pid,comm,etime"], &few);
        check(&["-eo", "pid,comm,etime"], &few);
        check(&["-o", "pid", "-o", "comm", "--format=etime"], &few);
        check(&["-opid", "-ocomm,etime"], &few);
        check(
            &["axo", "pid,user=WHO, IS"],
            &[("PID", "7"), ("WHO, IS", "www")],
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (options, expect) in [
            (&["-Z"][..], "'Z'"),
            (&["-o", "pid,colour"], "\"colour\""),
            (&["-o"], "-o needs"),
            (&["--forest"], "'-'"),
        ] {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            let error = parse(&options).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(elapsed(5), "00:05");
        assert_eq!(elapsed(3600), "01:00:00");
        assert_eq!(elapsed(90_061), "1-01:01:01");
        assert_eq!(started(951_782_400 * SECOND, 90_000 * SECOND), "Feb29");
    }
}
