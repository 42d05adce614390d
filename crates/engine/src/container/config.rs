//! The image's defaults and the request, merged as Docker merges them.

use std::collections::BTreeMap;

use oci::ContainerConfig;
use store::container::Process;

use super::{CreateRequest, rights, sockets};
use crate::Error;

/// What the first process is to be.
pub(super) fn process(image: &ContainerConfig, request: &CreateRequest) -> Result<Process, Error> {
    let (entrypoint, cmd) = arguments(image, request);
    let args: Vec<String> = entrypoint.iter().chain(&cmd).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        let reason = format!(
            "image {} names no program to run, and none was given",
            request.image
        );
        return Err(Error::invalid("command", reason));
    }
    for (what, words) in [("argument", &args), ("environment", &request.env)] {
        if let Some(word) = words.iter().find(|word| word.contains('\0')) {
            return Err(Error::invalid(what, format!("{word:?} contains a NUL")));
        }
    }
    let cwd = request.workdir.as_ref().unwrap_or(&image.working_dir);
    if !cwd.is_empty() && !cwd.starts_with('/') {
        let reason = format!("{cwd:?} is not an absolute path");
        return Err(Error::invalid("working directory", reason));
    }
    let mut env = environment(&image.env, &request.env)?;
    sockets::environment(request.ssh, &mut env);
    Ok(Process {
        args,
        entrypoint,
        cmd,
        env,
        user: request.user.as_ref().unwrap_or(&image.user).clone(),
        cwd: cwd.clone(),
        tty: request.tty,
        stdin: request.stdin,
        attach: request.attach,
        cap_add: rights::capabilities("capability to add", &request.cap_add)?,
        cap_drop: rights::capabilities("capability to drop", &request.cap_drop)?,
        privileged: request.privileged,
        no_new_privileges: request.no_new_privileges,
        unmasked: request.unmasked,
        ulimits: rights::ulimits(&request.ulimits)?,
        groups: request.groups.clone(),
        init: request.init,
        oom_score_adj: request.oom_score_adj,
    })
}

/// Entry point and command. An entry point of the request's own clears the image's command, which was meant for another
/// program.
fn arguments(image: &ContainerConfig, request: &CreateRequest) -> (Vec<String>, Vec<String>) {
    let (entrypoint, cmd): (&[String], &[String]) = match &request.entrypoint {
        Some(own) => (own, &[]),
        None => (&image.entrypoint, &image.cmd),
    };
    let rest = if request.args.is_empty() {
        cmd
    } else {
        &request.args
    };
    (entrypoint.to_vec(), rest.to_vec())
}

/// The request's variables in the place of the image's; one without `=` is taken out.
fn environment(image: &[String], request: &[String]) -> Result<Vec<String>, Error> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = image
        .iter()
        .filter(|entry| entry.contains('='))
        .cloned()
        .collect();
    for entry in request {
        let key = name(entry);
        if key.is_empty() {
            let reason = format!("{entry:?} has no name before the =");
            return Err(Error::invalid("environment", reason));
        }
        let place = env.iter().position(|old| name(old) == key);
        match (place, entry.contains('=')) {
            (Some(place), true) => env[place].clone_from(entry),
            (Some(place), false) => drop(env.remove(place)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
    Ok(env)
}

/// The image's labels, then the request's.
pub(super) fn labels(image: &ContainerConfig, request: &CreateRequest) -> BTreeMap<String, String> {
    let mut labels = image.labels.clone();
    labels.extend(request.labels.clone());
    labels
}

/// signal(7), from 1 on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal's name, with SIG; real-time ones count from `SIGRTMIN`.
pub(super) fn signal_name(number: u32) -> String {
    let index = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    match index.and_then(|index| SIGNALS.get(index)) {
        Some(name) => format!("SIG{name}"),
        None if number == 34 => "SIGRTMIN".to_owned(),
        None if (35..=64).contains(&number) => format!("SIGRTMIN+{}", number - 34),
        None => number.to_string(),
    }
}

/// A signal of Linux by name, with or without SIG, or by number.
pub(super) fn signal(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Real-time signals count from 34, since the C library keeps two.
    let offset = |rest: &str| rest.parse::<u32>().ok();
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let up = if rest.is_empty() {
            Some(0)
        } else {
            offset(rest.strip_prefix('+')?)
        };
        return up.filter(|up| *up <= 30).map(|up| 34 + up);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let down = if rest.is_empty() {
            Some(0)
        } else {
            offset(rest.strip_prefix('-')?)
        };
        return down.filter(|down| *down <= 30).map(|down| 64 - down);
    }
    let index = SIGNALS.iter().position(|known| *known == name)?;
    u32::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Docker's table: ENTRYPOINT and CMD of the image, `--entrypoint` and arguments of the line.
    #[test]
    fn entry_point_and_command() {
        let check = |entrypoint: &str, cmd: &str, own: Option<&str>, args: &str, expect: &str| {
            let image = ContainerConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..ContainerConfig::default()
            };
            let request = CreateRequest {
                image: "i".to_owned(),
                entrypoint: own.map(words),
                args: words(args),
                ..CreateRequest::default()
            };
            let result = process(&image, &request).map(|process| process.args.join(" "));
            assert_eq!(result.unwrap_or_else(|error| error.to_string()), expect);
        };
        check("", "sh", None, "", "sh");
        check("", "sh", None, "ls -l", "ls -l");
        check("nginx", "-g off", None, "", "nginx -g off");
        check("nginx", "-g off", None, "-v", "nginx -v");
        check("nginx", "-g off", Some("sh"), "", "sh");
        check("nginx", "-g off", Some("sh"), "-c x", "sh -c x");
        check("nginx", "-g off", Some(""), "ls", "ls");
        let none = "invalid command: image i names no program to run, and none was given";
        check("", "", None, "", none);
        check("nginx", "-g off", Some(""), "", none);
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let image = ContainerConfig {
            user: "nobody".to_owned(),
            working_dir: "/srv".to_owned(),
            cmd: words("sh"),
            env: words("PATH=/bin A=1 B=2"),
            ..ContainerConfig::default()
        };
        let mut request = CreateRequest {
            env: words("A=9 C=3 B D"),
            ..CreateRequest::default()
        };
        let merged = process(&image, &request).unwrap();
        assert_eq!(merged.env, words("PATH=/bin A=9 C=3"));
        assert_eq!(
            (merged.user.as_str(), merged.cwd.as_str()),
            ("nobody", "/srv")
        );
        request.user = Some("0".to_owned());
        request.workdir = Some("tmp".to_owned());
        let error = process(&image, &request).unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid working directory: \"tmp\" is not an absolute path"
        );
        request.workdir = Some("/".to_owned());
        assert_eq!(process(&image, &request).unwrap().user, "0");
        request.env = words("=x");
        assert!(process(&image, &request).is_err());
    }

    /// Oracle: kill -l of a Linux shell.
    #[test]
    fn signals() {
        let expect = [
            ("TERM", Some(15)),
            ("SIGQUIT", Some(3)),
            ("sigsys", Some(31)),
            ("9", Some(9)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("NOPE", None),
            ("RTMIN+31", None),
            ("", None),
            ("SIG", None),
        ];
        for (text, number) in expect {
            assert_eq!(signal(text), number, "{text}");
        }
        for number in 1..=64 {
            assert!(number == 32 || number == 33 || signal(&signal_name(number)) == Some(number));
        }
    }
}
