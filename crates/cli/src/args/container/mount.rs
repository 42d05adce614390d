//! Values of `-v` and `--mount`. Pure. Each says what is wrong, and what would be right.

use engine::{MountRequest, Tmpfs};

use crate::args::value::{label, size};

/// What `--mount` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// `type=volume`
    Volume(MountRequest),
    /// `type=bind`
    Bind(Bind),
    /// `type=tmpfs`
    Tmpfs(Tmpfs),
}

/// A folder or file of this host, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bind {
    /// Absolute, or as seen from the working directory.
    pub source: String,
    /// Absolute.
    pub target: String,
    /// It can't be written there.
    pub read_only: bool,
    /// What `-v` says after the source, for `inspect`; it makes a folder where there is none.
    pub rest: Option<String>,
}

/// `[SOURCE:]PATH[:OPTIONS]`, Docker's `-v`: a source with a slash or a dot in front is a path of this host.
pub fn volume(text: &str) -> Result<Mounted, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(wrong(text)),
    };
    if let Some(source) = source
        && is_path(source)
    {
        return bind_volume(text, source, target, options).map(Mounted::Bind);
    }
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
    Ok(Mounted::Volume(mount))
}

fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.'])
}

fn bind_volume(text: &str, source: &str, target: &str, options: &str) -> Result<Bind, String> {
    if !target.starts_with('/') {
        return Err(wrong(text));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // How late Docker Desktop may be: nothing is late here.
            "consistent" | "cached" | "delegated" => {}
            // What is mounted on either side later is not seen on the other.
            "private" | "rprivate" => {}
            "z" | "Z" => {
                return Err(format!(
                    "{text:?}: {option} labels files for containers of this host's SELinux; a VM's are read by gourd itself: \
                     leave it out"
                ));
            }
            "nocopy" => {
                return Err(format!(
                    "{text:?}: nocopy is for volumes: nothing is copied into a folder of this host"
                ));
            }
            _ => {
                return Err(format!(
                    "{text:?}: there is no option {option:?} of a shared folder; there are ro, rw"
                ));
            }
        }
    }
    let rest = text.get(source.len()..).unwrap_or_default();
    Ok(Bind {
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
        rest: Some(rest.to_owned()),
    })
}

fn wrong(text: &str) -> String {
    format!(
        "{text:?} is no volume: write NAME:/path[:ro], DIR:/path[:ro] for a folder of this host, or /path for a volume without a \
         name; the path is absolute"
    )
}

/// A volume's name; the engine says which are good.
fn check_source(source: &str) -> Result<(), String> {
    match source {
        "" => Err("the volume's name is empty".to_owned()),
        _ if source.starts_with('~') => Err(
            "the shell puts a folder in place of ~ only at the start of a word: write $HOME"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// The fields of a line of comma-separated values (RFC 4180): one in quotes may have commas in it, and quotes twice.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let wrong = || {
        format!(
            "the quotes of {text:?} don't fit: write a field with a comma as \"KEY=VALUE\", with quotes in it twice"
        )
    };
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err(wrong());
                }
                (field.to_owned(), after)
            }
            Some(mut quoted) => {
                let mut field = String::new();
                loop {
                    let (part, after) = quoted.split_once('"').ok_or_else(wrong)?;
                    field.push_str(part);
                    match after.strip_prefix('"') {
                        None => break (field, after),
                        Some(more) => {
                            field.push('"');
                            quoted = more;
                        }
                    }
                }
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err(wrong()),
        }
    }
}

/// `type=volume,source=NAME,target=PATH[,readonly]…`, Docker's `--mount`.
pub fn mount(text: &str) -> Result<Mounted, String> {
    let fields = fields(text)?;
    let mut pairs = Vec::new();
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        pairs.push((key.trim().to_ascii_lowercase(), value));
    }
    let kind = pairs.iter().find(|(key, _)| key == "type");
    match kind.map_or(Some("volume"), |(_, value)| *value) {
        Some("volume") => volume_mount(&pairs).map(Mounted::Volume),
        Some("tmpfs") => tmpfs_mount(&pairs).map(Mounted::Tmpfs),
        Some("bind") => bind_mount(&pairs).map(Mounted::Bind),
        other => Err(format!(
            "there is no type {:?} of mounts; there are bind, volume and tmpfs",
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
                if is_path(source) {
                    return Err(format!(
                        "{source:?} is a path of this host: write type=bind,source={source},target=…"
                    ));
                }
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

fn bind_mount(pairs: &[Pair<'_>]) -> Result<Bind, String> {
    let mut bind = Bind::default();
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "source" | "src" => {
                let source = needed(key, *value)?;
                check_source(source)?;
                bind.source = source.to_owned();
            }
            "target" | "destination" | "dst" => bind.target = target(key, *value)?,
            "readonly" | "ro" => bind.read_only = flag(key, *value)?,
            // As for `-v`.
            "consistency" => match needed(key, *value)? {
                "consistent" | "cached" | "delegated" | "default" => {}
                other => return Err(format!("there is no consistency {other:?}")),
            },
            "bind-propagation" => match needed(key, *value)? {
                "private" | "rprivate" => {}
                other => {
                    return Err(format!(
                        "bind-propagation is rprivate, not {other}: what is mounted later is not seen in a VM"
                    ));
                }
            },
            _ => {
                return Err(unknown(
                    key,
                    "source, target, readonly, bind-propagation, consistency",
                ));
            }
        }
    }
    for (value, name) in [(&bind.source, "source"), (&bind.target, "target")] {
        if value.is_empty() {
            return Err(format!(
                "{name} is missing: write for example type=bind,source=.,target=/work"
            ));
        }
    }
    Ok(bind)
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
            let expect = Mounted::Volume(MountRequest { bind, ..expect });
            assert_eq!(volume(text), Ok(expect), "{text}");
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
            ("/data:ro", "the path is absolute"),
            ("data:ro", "the path is absolute"),
            ("a:b:c:d", "the path is absolute"),
            (":/data", "name is empty"),
            ("~/x:/work", "write $HOME"),
            (".:work", "the path is absolute"),
            (".:/work:Z", "leave it out"),
            (".:/work:nocopy", "nothing is copied"),
            (".:/work:rshared", "there are ro, rw"),
            ("data:/data:z", "leave it out"),
            ("data:/data:rshared", "there are ro, rw, nocopy"),
        ] {
            let said = volume(text).expect_err("a refusal");
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn folders_of_this_host() {
        let bind = |source: &str, read_only, rest: Option<&str>| {
            Ok(Mounted::Bind(Bind {
                source: source.to_owned(),
                target: "/work".to_owned(),
                read_only,
                rest: rest.map(str::to_owned),
            }))
        };
        let check = |text: &str, source: &str, read_only| {
            let rest = text.strip_prefix(source);
            assert_eq!(volume(text), bind(source, read_only, rest), "{text}");
        };
        check(".:/work", ".", false);
        check("../a b:/work:ro", "../a b", true);
        check("/:/work:cached,rprivate", "/", false);
        let typed = "type=bind,src=x,dst=/work,readonly,consistency=cached";
        assert_eq!(mount(typed), bind("x", true, None));
    }

    /// Oracle: Go's encoding/csv, by which Docker reads `--mount`.
    #[test]
    fn fields_in_quotes() {
        let check = |text: &str, expect: Option<&[&str]>| {
            let expect = expect.map(|fields| fields.iter().map(|f| (*f).to_owned()).collect());
            assert_eq!(fields(text).ok(), expect, "{text}");
        };
        check("", Some(&[""]));
        check("a,b", Some(&["a", "b"]));
        check("a,", Some(&["a", ""]));
        check(r#""a,b",c"#, Some(&["a,b", "c"]));
        check(r#"a,"b=""x"",y""#, Some(&["a", "b=\"x\",y"]));
        check(r#""""#, Some(&[""]));
        check(r#""a"#, None);
        check(r#""a"b"#, None);
        check(r#"a"b"#, None);
        check(r#"source="a,b""#, None);
        let typed = r#""type=bind","source=/a,b",target=/work"#;
        let bind = Bind {
            source: "/a,b".to_owned(),
            target: "/work".to_owned(),
            ..Bind::default()
        };
        assert_eq!(mount(typed), Ok(Mounted::Bind(bind)));
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
            ("type=bind,target=/x", "source is missing"),
            ("type=bind,source=/home", "target is missing"),
            ("type=bind,source=~,target=/x", "write $HOME"),
            (
                "type=bind,source=/,target=/x,bind-propagation=shared",
                "is rprivate",
            ),
            ("type=bind,source=/,target=/x,volume-nocopy", "no field"),
            ("type=npipe,target=/x", "there are bind, volume and tmpfs"),
            ("source=data", "target is missing"),
            ("source=data,target=x", "no absolute path"),
            ("source=/x,target=/x", "write type=bind"),
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
