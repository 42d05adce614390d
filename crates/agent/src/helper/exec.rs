//! Working directory, environment, the search in PATH, and `execve`.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;

use proto::agent::Process;
use proto::agent::failure::Kind;
use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Failed, Step};
use crate::{inroot, sys};

/// Docker's PATH where the image has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enters `cwd`, making it when it is missing.
pub(super) fn enter_directory(cwd: &str) -> Result<(), Failed> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !cwd.starts_with('/') {
        return Err(Failed::invalid(
            "enter directory",
            cwd,
            "not an absolute path",
        ));
    }
    let entered = match rustix::process::chdir(cwd) {
        Err(Errno::NOENT) => make_and_enter(cwd),
        result => result,
    };
    entered
        .step("enter directory", cwd)
        .map_err(|failed| failed.of_kind(Kind::Invalid))
}

fn make_and_enter(cwd: &str) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let made = inroot::directory(std::os::fd::AsFd::as_fd(&root), cwd.as_ref())?;
    rustix::process::fchdir(made)
}

/// The environment: what was asked for, and PATH, HOSTNAME, TERM (with a terminal) and HOME where it lacks them.
pub(super) fn environment(process: &Process, home: &[u8]) -> Vec<Vec<u8>> {
    let mut environment: Vec<Vec<u8>> = process
        .env
        .iter()
        .map(|entry| entry.as_bytes().to_vec())
        .collect();
    let mut add = |name: &str, value: &[u8]| {
        let mut entry = format!("{name}=").into_bytes();
        if !environment.iter().any(|known| known.starts_with(&entry)) {
            entry.extend_from_slice(value);
            environment.push(entry);
        }
    };
    add("PATH", PATH.as_bytes());
    add("HOSTNAME", rustix::system::uname().nodename().to_bytes());
    if process.tty {
        add("TERM", b"xterm");
    }
    add("HOME", home);
    environment
}

/// Becomes `program`, searched for in the environment's PATH when it has no slash. Calls `ready` once, before the
/// first `execve`.
pub(super) fn become_program(
    program: &str,
    arguments: &[CString],
    environment: &[CString],
    ready: impl FnOnce() -> Result<(), Failed>,
) -> Result<Infallible, Failed> {
    let path = find(program, environment)?;
    ready()?;
    let error = sys::execve(&path, arguments, environment);
    Err(refused(program, error))
}

/// Where `program` is: itself when it has a slash, otherwise the first one in the environment's PATH.
pub(super) fn find(program: &str, environment: &[CString]) -> Result<CString, Failed> {
    if program.is_empty() {
        return Err(Failed::invalid("execve", program, "no program is named"));
    }
    if program.contains('/') {
        check(program).map_err(|errno| refused(program, errno.into()))?;
        return Ok(c_string(program));
    }
    let path = environment
        .iter()
        .find_map(|entry| entry.to_str().ok()?.strip_prefix("PATH="))
        .unwrap_or(PATH);
    let mut denied = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{program}");
        match check(&candidate) {
            Ok(()) => return Ok(c_string(&candidate)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => denied = Some(errno),
        }
    }
    match denied {
        Some(errno) => Err(refused(program, errno.into())),
        None => {
            Err(refused(program, Errno::NOENT.into()).saying("executable file not found in $PATH"))
        }
    }
}

/// Whether `execve` would look into the file at all, by the rights that this process has by now.
fn check(path: &str) -> Result<(), Errno> {
    let mode = rustix::fs::stat(path)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    rustix::fs::access(path, Access::EXEC_OK)
}

fn c_string(path: &str) -> CString {
    // A NUL was refused with the arguments and the environment, which the path is made of.
    CString::new(path).unwrap_or_default()
}

/// The shells' 127 and 126.
fn refused(program: &str, error: io::Error) -> Failed {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Kind::NotFound,
        Some(
            Errno::ACCESS
            | Errno::PERM
            | Errno::NOEXEC
            | Errno::ISDIR
            | Errno::LIBBAD
            | Errno::INVAL
            | Errno::TXTBSY
            | Errno::LOOP
            | Errno::NAMETOOLONG,
        ) => Kind::NotExecutable,
        _ => Kind::Other,
    };
    Failed::os("execve", program, error).of_kind(kind)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proto::agent::Failure;

    use super::*;

    #[test]
    fn the_environment_is_completed_where_it_lacks() {
        let process = Process {
            env: vec!["HOME=/x".into(), "A=1".into(), "PATHS=2".into()],
            tty: true,
            ..Process::default()
        };
        let texts: Vec<_> = environment(&process, b"/root")
            .into_iter()
            .map(|entry| String::from_utf8(entry).unwrap())
            .collect();
        assert_eq!(texts[..3], ["HOME=/x", "A=1", "PATHS=2"]);
        assert_eq!(texts[3], format!("PATH={PATH}"));
        assert!(texts[4].starts_with("HOSTNAME="));
        assert_eq!(texts[5..], ["TERM=xterm"]);
    }

    fn look_for(program: &str, path: &str) -> Result<String, (Kind, String)> {
        let environment = [CString::new(format!("PATH={path}")).unwrap()];
        find(program, &environment)
            .map(|path| path.into_string().unwrap())
            .map_err(|failed| {
                let failure = Failure::from(failed);
                (failure.kind(), failure.message)
            })
    }

    #[test]
    fn programs_are_found_as_shells_find_them() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        for place in [&one, &two] {
            std::fs::create_dir(place).unwrap();
        }
        let file = |path: &std::path::Path, mode| {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        file(&two.join("tool"), 0o755);
        file(&one.join("plain"), 0o644);
        file(&one.join("shadowed"), 0o644);
        file(&two.join("shadowed"), 0o755);
        std::fs::create_dir(one.join("tool")).unwrap();
        let path = format!("/nonexistent:{}:{}", one.display(), two.display());
        let found = |name: &str| Ok(two.join(name).to_str().unwrap().to_owned());
        assert_eq!(look_for("tool", &path), found("tool"));
        assert_eq!(look_for("shadowed", &path), found("shadowed"));
        let denied = Err((Kind::NotExecutable, "Permission denied".to_owned()));
        assert_eq!(look_for("plain", &path), denied);
        assert_eq!(look_for("/", &path), denied);
        let missing = "executable file not found in $PATH".to_owned();
        assert_eq!(look_for("nope", &path), Err((Kind::NotFound, missing)));
        let missing = "No such file or directory".to_owned();
        assert_eq!(look_for("/nope", &path), Err((Kind::NotFound, missing)));
    }
}
