//! Values of `-v` and `--mount`. Pure. Each says what is wrong, and what would be right.

use engine::{MountRequest, Tmpfs};

use crate::args::value::{label, size};

/// What `--mount` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// `type=volume`
    Volume(MountRequest),
    /// `type=tmpfs`
    Tmpfs(Tmpfs),
}

/// What to do instead of sharing a folder of the host.
const BIND: &str = "folders of this host can't be mounted in a container yet: name a volume (-v NAME:/path), and bring files in \
     with `gourd volume import NAME FILE.tar` or `gourd cp PATH CONTAINER:/path`";

/// `[NAME:]PATH[:OPTIONS]`, Docker's `-v`.
pub fn volume(text: &str) -> Result<MountRequest, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(wrong(text)),
    };
    if let Some(source) = source {
        check_source(source).map_err(|why| format!("{text:?}: {why}"))?;
    }
    if !target.starts_with('/') {
        return Err(wrong(text));
    }
    let mut mount = MountRequest {
        source: source.map(str::to_owned),
        target: target.to_owned(),
        bind: source.map(|_| text.to_owned()),
        ..MountRequest::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "nocopy" => mount.no_copy = true,
            "z" | "Z" => {
                return Err(format!(
                    "{text:?}: {option} labels files for the host's SELinux, which a volume with a file system of its own \
                     has no use for: leave it out"
                ));
            }
            _ => {
                return Err(format!(
                    "{text:?}: there is no option {option:?} of a volume; there are ro, rw, nocopy"
                ));
            }
        }
    }
    Ok(mount)
}

fn wrong(text: &str) -> String {
    format!(
        "{text:?} is no volume: write NAME:/path[:ro], or /path for one without a name; the path is absolute"
    )
}

/// A volume's name; the engine says which are good. A path is a folder of the host.
fn check_source(source: &str) -> Result<(), String> {
    let is_path = source.starts_with(['/', '.', '~']);
    match source {
        "" => Err("the volume's name is empty".to_owned()),
        _ if is_path => Err(BIND.to_owned()),
        _ => Ok(()),
    }
}

/// `type=volume,source=NAME,target=PATH[,readonly]…`, Docker's `--mount`.
pub fn mount(text: &str) -> Result<Mounted, String> {
    let mut pairs = Vec::new();
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        pairs.push((key.trim().to_ascii_lowercase(), value));
    }
    let kind = pairs.iter().find(|(key, _)| key == "type");
    match kind.map_or(Some("volume"), |(_, value)| *value) {
        Some("volume") => volume_mount(&pairs).map(Mounted::Volume),
        Some("tmpfs") => tmpfs_mount(&pairs).map(Mounted::Tmpfs),
        Some("bind") => Err(BIND.to_owned()),
        other => Err(format!(
            "there is no type {:?} of mounts; there are volume and tmpfs",
            other.unwrap_or_default()
        )),
    }
}

type Pair<'t> = (String, Option<&'t str>);

fn volume_mount(pairs: &[Pair<'_>]) -> Result<MountRequest, String> {
    let mut mount = MountRequest::default();
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "source" | "src" => {
                let source = needed(key, *value)?;
                check_source(source)?;
                mount.source = Some(source.to_owned());
            }
            "target" | "destination" | "dst" => mount.target = target(key, *value)?,
            "readonly" | "ro" => mount.read_only = flag(key, *value)?,
            "volume-nocopy" => mount.no_copy = flag(key, *value)?,
            "volume-label" => {
                let (name, value) = label(needed(key, *value)?)?;
                mount.labels.insert(name, value);
            }
            "volume-driver" => driver(needed(key, *value)?).map(drop)?,
            "volume-opt" => match needed(key, *value)?.split_once('=') {
                Some(("size", value)) => mount.size = Some(size(value)?),
                _ => return Err("there is one volume-opt: size=SIZE".to_owned()),
            },
            _ => {
                return Err(unknown(
                    key,
                    "source, target, readonly, volume-nocopy, volume-label, volume-driver, volume-opt",
                ));
            }
        }
    }
    if mount.target.is_empty() {
        return Err(
            "target is missing: write for example type=volume,source=data,target=/data".to_owned(),
        );
    }
    Ok(mount)
}

fn tmpfs_mount(pairs: &[Pair<'_>]) -> Result<Tmpfs, String> {
    let (mut target_path, mut options) = (String::new(), Vec::new());
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "target" | "destination" | "dst" => target_path = target(key, *value)?,
            "readonly" | "ro" => {
                if flag(key, *value)? {
                    options.push("ro".to_owned());
                }
            }
            "tmpfs-size" => options.push(format!("size={}", size(needed(key, *value)?)?)),
            "tmpfs-mode" => {
                let mode = needed(key, *value)?;
                u32::from_str_radix(mode, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| format!("{mode:?} is no mode: write for example 1777"))?;
                options.push(format!("mode={mode}"));
            }
            _ => return Err(unknown(key, "target, readonly, tmpfs-size, tmpfs-mode")),
        }
    }
    if target_path.is_empty() {
        return Err("target is missing: write for example type=tmpfs,target=/run".to_owned());
    }
    Ok(Tmpfs {
        target: target_path,
        options: options.join(","),
    })
}

fn unknown(key: &str, known: &str) -> String {
    format!("there is no field {key:?} of such a mount; there are {known}")
}

fn needed<'t>(key: &str, value: Option<&'t str>) -> Result<&'t str, String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("{key} needs a value: write {key}=…"))
}

fn target(key: &str, value: Option<&str>) -> Result<String, String> {
    let value = needed(key, value)?;
    match value.starts_with('/') {
        true => Ok(value.to_owned()),
        false => Err(format!("{key} of {value:?} is no absolute path")),
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key} is true or false, not {other:?}")),
    }
}

/// A volume's driver: there is one.
pub fn driver(text: &str) -> Result<String, String> {
    match text {
        "local" => Ok(text.to_owned()),
        _ => Err(format!(
            "there is no driver {text:?} of volumes; there is local"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(source: &str, target: &str) -> MountRequest {
        MountRequest {
            source: Some(source.to_owned()).filter(|source| !source.is_empty()),
            target: target.to_owned(),
            ..MountRequest::default()
        }
    }

    /// Oracle: what Docker 28 takes, and does with it.
    #[test]
    fn volumes() {
        let check = |text: &str, expect: MountRequest| {
            let bind = expect.source.as_ref().map(|_| text.to_owned());
            assert_eq!(volume(text), Ok(MountRequest { bind, ..expect }), "{text}");
        };
        check("data:/data", plain("data", "/data"));
        check("/data", plain("", "/data"));
        let read_only = MountRequest {
            read_only: true,
            no_copy: true,
            ..plain("data", "/data")
        };
        check("data:/data:ro,nocopy", read_only);
        check("data:/data:rw", plain("data", "/data"));
        for (text, words) in [
            ("data", "the path is absolute"),
            ("/data:ro", "can't be mounted in a container yet"),
            ("data:ro", "the path is absolute"),
            ("a:b:c:d", "the path is absolute"),
            (":/data", "name is empty"),
            ("/home:/data", "`gourd cp PATH CONTAINER:/path`"),
            (".:/work", "can't be mounted in a container yet"),
            ("~/x:/work", "can't be mounted in a container yet"),
            ("data:/data:z", "leave it out"),
            ("data:/data:rshared", "there are ro, rw, nocopy"),
        ] {
            let said = volume(text).expect_err("a refusal");
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn mounts() {
        let of = |text: &str| mount(text);
        let nocopy = MountRequest {
            read_only: true,
            no_copy: true,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            size: Some(1 << 30),
            ..plain("data", "/data")
        };
        assert_eq!(
            of(
                "type=volume,src=data,dst=/data,readonly,volume-nocopy=true,volume-label=a=b,volume-opt=size=1g"
            ),
            Ok(Mounted::Volume(nocopy))
        );
        let anonymous = Mounted::Volume(plain("", "/data"));
        assert_eq!(of("target=/data,ro=false"), Ok(anonymous));
        let tmpfs = Tmpfs {
            target: "/run".to_owned(),
            options: "size=65536,mode=1777,ro".to_owned(),
        };
        assert_eq!(
            of("type=tmpfs,destination=/run,tmpfs-size=64k,tmpfs-mode=1777,ro"),
            Ok(Mounted::Tmpfs(tmpfs))
        );
        for (text, words) in [
            ("type=bind,source=/home,target=/x", "can't be mounted"),
            ("type=npipe,target=/x", "there are volume and tmpfs"),
            ("source=data", "target is missing"),
            ("source=data,target=x", "no absolute path"),
            ("source=/x,target=/x", "can't be mounted"),
            ("source=,target=/x", "needs a value"),
            ("target=/x,readonly=perhaps", "true or false"),
            ("target=/x,colour=red", "no field \"colour\""),
            ("target=/x,volume-driver=nfs", "there is local"),
            ("type=tmpfs,target=/x,tmpfs-mode=9", "no mode"),
            ("type=tmpfs,target=/x,source=y", "no field \"source\""),
            ("", "no field"),
        ] {
            let said = mount(text).expect_err("a refusal");
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
