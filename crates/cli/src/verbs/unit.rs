//! `gourd system enable` and `disable`: a systemd user unit that runs `gourd system boot`, and `gourd system shutdown` at its end.
//!
//! The unit and the link that enables it are files, which are written whether systemd runs or not; a running one is told.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::app::App;
use crate::failure::Failure;
use crate::render::out;

const NAME: &str = "gourd.service";
/// Seconds that containers have to end with the unit. All of a user's session has 120 (user@.service), then it is killed.
const STOP: u32 = 100;

/// Installs and enables the unit.
pub fn enable(app: &App) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let place = Place::find()?;
    let program = std::env::current_exe().map_err(|source| Failure::Unit {
        what: "find",
        path: "/proc/self/exe".into(),
        source,
    })?;
    let path = std::env::var("PATH").unwrap_or_default();
    let text = unit(&program, engine.root(), &path);
    place.install(&text)?;
    out::line(&format!("wrote {}", place.unit.display()))?;
    out::line(
        "containers with the restart policy always or unless-stopped start with your systemd session",
    )?;
    if let Some(missing) = reload() {
        out::line(&missing)?;
    }
    if !lingers() {
        out::line("that is when you log in; to have them started at boot: loginctl enable-linger")?;
    }
    Ok(0)
}

/// Removes the unit.
pub fn disable(_app: &App) -> Result<u8, Failure> {
    let place = Place::find()?;
    if place.remove()? {
        out::line(&format!("removed {}", place.unit.display()))?;
        if let Some(missing) = reload() {
            out::line(&missing)?;
        }
    } else {
        out::line(&format!(
            "nothing to do: there is no {}",
            place.unit.display()
        ))?;
    }
    Ok(0)
}

/// The unit's file, and the link that makes the user's session want it.
struct Place {
    unit: PathBuf,
    wanted: PathBuf,
}

impl Place {
    /// systemd.unit(5): `$XDG_CONFIG_HOME/systemd/user`, or `~/.config/systemd/user`.
    fn find() -> Result<Place, Failure> {
        let set = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let config =
            set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        Ok(Place::within(&config.ok_or(Failure::NoUnitPlace)?))
    }

    fn within(config: &Path) -> Place {
        let dir = config.join("systemd/user");
        Place {
            unit: dir.join(NAME),
            wanted: dir.join("default.target.wants").join(NAME),
        }
    }

    fn install(&self, text: &str) -> Result<(), Failure> {
        for path in [&self.unit, &self.wanted] {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(failed("create", dir))?;
            }
        }
        // Beside it, then renamed: systemd never reads half of it.
        let new = self.unit.with_extension("service.new");
        fs::write(&new, text).map_err(failed("write", &new))?;
        fs::rename(&new, &self.unit).map_err(failed("write", &self.unit))?;
        let target = Path::new("..").join(NAME);
        match symlink(target, &self.wanted) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(failed("link", &self.wanted)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether there was one.
    fn remove(&self) -> Result<bool, Failure> {
        let mut there = false;
        for path in [&self.wanted, &self.unit] {
            match fs::remove_file(path) {
                Ok(()) => there = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", path)(error)),
            }
        }
        Ok(there)
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::Unit { what, path, source }
}

/// The unit's text. Whoever stops the unit stops the containers that it started, each in its own way: the session's end would
/// kill them without a word. Those of other sessions get a signal of their own.
fn unit(program: &Path, root: &Path, path: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", escape(text));
    // Only in commands are there variables.
    let argument = |text: &str| quoted(text).replace('$', "$$");
    let root = argument(&root.display().to_string());
    let program = argument(&program.display().to_string());
    let path = quoted(&format!("PATH={path}"));
    format!(
        "[Unit]\n\
         Description=Containers of gourd that are to run\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         KillMode=process\n\
         Environment={path}\n\
         ExecStart={program} --root {root} system boot\n\
         ExecStop={program} --root {root} system shutdown --cgroup\n\
         TimeoutStopSec={STOP}\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n"
    )
}

/// systemd.syntax(7): quotes and specifiers.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            '%' => escaped.push_str("%%"),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Has systemd read its units again. What is missing when it cannot.
fn reload() -> Option<String> {
    let told = Command::new("systemctl")
        .args(["--user", "daemon-reload"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match told {
        Ok(status) if status.success() => None,
        Ok(_) => Some(
            "systemd does not run for this user here: it reads the unit when it starts".to_owned(),
        ),
        Err(_) => Some(
            "there is no systemctl in PATH: without systemd, have `gourd system boot` run when the host boots"
                .to_owned(),
        ),
    }
}

/// Whether the user's session begins at boot. `loginctl enable-linger` makes this file.
fn lingers() -> bool {
    let names = [std::env::var("USER").ok(), std::env::var("LOGNAME").ok()];
    let linger = Path::new("/var/lib/systemd/linger");
    names
        .into_iter()
        .flatten()
        .any(|name| linger.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: systemd.service(5); e2e asks systemd-analyze.
    #[test]
    fn text() {
        let text = unit(
            Path::new("/opt/a b/gourd"),
            Path::new("/r/50%$\"x\""),
            "/bin:/usr/bin",
        );
        assert_eq!(
            text,
            "[Unit]\nDescription=Containers of gourd that are to run\n\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=process\n\
             Environment=\"PATH=/bin:/usr/bin\"\n\
             ExecStart=\"/opt/a b/gourd\" --root \"/r/50%%$$\\\"x\\\"\" system boot\n\
             ExecStop=\"/opt/a b/gourd\" --root \"/r/50%%$$\\\"x\\\"\" system shutdown --cgroup\n\
             TimeoutStopSec=100\n\n\
             [Install]\nWantedBy=default.target\n"
        );
    }

    #[test]
    fn installed_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::within(dir.path());
        assert!(!place.remove().expect("nothing"));
        for text in ["one", "two"] {
            place.install(text).expect("installed");
            let read = fs::read_to_string(&place.wanted).expect("a link that leads to it");
            assert_eq!(read, text);
        }
        assert!(place.remove().expect("removed"));
        assert!(fs::symlink_metadata(&place.wanted).is_err());
        assert!(!place.remove().expect("nothing"));
    }
}
