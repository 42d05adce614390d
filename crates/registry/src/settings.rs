//! What a person says about registries: `registries.json`, with the words of Docker's `daemon.json`.
//!
//! ```json
//! {
//!   "registry-mirrors": ["https://mirror.example"],
//!   "insecure-registries": ["registry.lan:5000", "10.0.0.0/8"],
//!   "mirrors": {"ghcr.io": ["https://mirror.example:8443", "http://cache.lan:5000"]}
//! }
//! ```
//!
//! `registry-mirrors` are for Docker's registry, `mirrors` for any. They are asked first, in order; the registry itself
//! is asked last. A registry of `insecure-registries` is spoken to over TLS without a look at its certificate and, where
//! that fails, over plain HTTP; a mirror with `http://` over plain HTTP. Nothing but these and this machine ever is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use http::Uri;
use serde::Deserialize;

use crate::endpoint::{Endpoint, is_loopback, split_port};
use crate::network::{Network, address};

/// The name of Docker's registry in references.
const DOCKER_HUB: &str = "docker.io";

/// Why `registries.json` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there but cannot be read.
    #[error("{path} cannot be read", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or not what belongs there.
    #[error("{path} is not valid", path = .path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry that makes no sense.
    #[error("{path}: {key} has {entry:?}, which is not {expected}", path = .path.display())]
    Entry {
        /// Which file.
        path: PathBuf,
        /// Which list.
        key: String,
        /// As it was written.
        entry: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// What `registries.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    mirrors: BTreeMap<String, Vec<Endpoint>>,
    insecure: Vec<Insecure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Insecure {
    Addresses(Network),
    Host { name: String, port: Option<u16> },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
    mirrors: BTreeMap<String, Vec<String>>,
}

/// `$XDG_CONFIG_HOME/gourd/registries.json`, or `~/.config/gourd/registries.json`.
pub(crate) fn default_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = match set("XDG_CONFIG_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&set("HOME")?).join(".config"),
    };
    Some(config.join("gourd/registries.json"))
}

impl Settings {
    /// Reads the file; one that is not there says nothing.
    pub(crate) fn load(path: &Path) -> Result<Self, SettingsError> {
        match std::fs::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, SettingsError> {
        let file: File = serde_json::from_slice(text).map_err(|source| SettingsError::Parse {
            path: path.to_owned(),
            source,
        })?;
        let bad = |key: &str, entry: &str, expected| SettingsError::Entry {
            path: path.to_owned(),
            key: key.to_owned(),
            entry: entry.to_owned(),
            expected,
        };
        let mut settings = Self::default();
        let lists = file
            .mirrors
            .iter()
            .map(|(registry, list)| (registry.as_str(), list, "mirrors"));
        let docker = [(DOCKER_HUB, &file.registry_mirrors, "registry-mirrors")];
        for (registry, list, key) in docker.into_iter().chain(lists) {
            for entry in list {
                let mirror = mirror(entry)
                    .ok_or_else(|| bad(key, entry, "an address such as https://mirror.example"))?;
                let mirrors = settings.mirrors.entry(registry.to_owned()).or_default();
                mirrors.push(mirror);
            }
        }
        for entry in &file.insecure_registries {
            let insecure = insecure(entry).ok_or_else(|| {
                let expected = "a registry such as registry.lan:5000, or a range of addresses such as 10.0.0.0/8";
                bad("insecure-registries", entry, expected)
            })?;
            settings.insecure.push(insecure);
        }
        Ok(settings)
    }

    /// Those to ask before the registry, which is named as in references.
    pub(crate) fn mirrors(&self, registry: &str) -> &[Endpoint] {
        self.mirrors.get(registry).map_or(&[], Vec::as_slice)
    }

    /// Whether a registry, `HOST` or `HOST:PORT`, is named as one that need not prove who it is.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let (host, port) = split_port(authority);
        self.insecure.iter().any(|one| match one {
            Insecure::Addresses(network) => address(host).is_some_and(|one| network.contains(one)),
            Insecure::Host { name, port: wanted } => {
                name.eq_ignore_ascii_case(host) && (wanted.is_none() || *wanted == port)
            }
        })
    }

    /// Whether a request may go there: over TLS, to this machine, or to one that is named.
    pub(crate) fn allows(&self, uri: &Uri) -> bool {
        let authority = uri.authority().map_or("", |a| a.as_str());
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let is_named = |mirror: &Endpoint| mirror.scheme == "http" && mirror.authority == host;
        match uri.scheme_str() {
            Some("https") => true,
            Some("http") => {
                is_loopback(host)
                    || self.is_insecure(host)
                    || self.mirrors.values().flatten().any(is_named)
            }
            _ => false,
        }
    }
}

/// `[http[s]://]HOST[:PORT][/]`
fn mirror(text: &str) -> Option<Endpoint> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("https", rest)) => ("https", rest),
        Some(("http", rest)) => ("http", rest),
        Some(_) => return None,
        None if is_loopback(text) => ("http", text),
        None => ("https", text),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    let uri: Uri = format!("{scheme}://{authority}/").parse().ok()?;
    let is_host = uri.path() == "/" && uri.query().is_none() && !authority.contains('@');
    (is_host && uri.host().is_some_and(|host| !host.is_empty())).then(|| Endpoint {
        registry: authority.clone(),
        authority,
        scheme,
        is_mirror: true,
    })
}

fn insecure(text: &str) -> Option<Insecure> {
    if let Some(network) = Network::parse(text) {
        return Some(Insecure::Addresses(network));
    }
    let uri: Uri = format!("http://{text}/").parse().ok()?;
    let is_host = uri.path() == "/" && uri.query().is_none() && !text.contains('@');
    let (name, port) = split_port(text);
    (is_host && !name.is_empty()).then(|| Insecure::Host {
        name: name.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(Path::new("/c/registries.json"), text.as_bytes())
    }

    #[test]
    fn mirrors_are_by_registry() {
        let settings = parse(
            r#"{"registry-mirrors": ["https://Mirror.example/", "localhost:5000"],
                "mirrors": {"docker.io": ["http://last.lan"], "ghcr.io": ["https://g.example:8443"]}}"#,
        )
        .unwrap();
        let check = |registry: &str, expect: &[&str]| {
            let found: Vec<_> = settings
                .mirrors(registry)
                .iter()
                .map(|one| format!("{}://{}", one.scheme, one.authority))
                .collect();
            assert_eq!(found, expect, "{registry}");
        };
        check(
            "docker.io",
            &[
                "https://mirror.example",
                "http://localhost:5000",
                "http://last.lan",
            ],
        );
        check("ghcr.io", &["https://g.example:8443"]);
        check("quay.io", &[]);
        let allows = |uri: &str| settings.allows(&uri.parse().unwrap());
        assert!(allows("http://last.lan/v2/"));
        assert!(!allows("http://last.lan:81/v2/"));
        assert!(!allows("http://g.example:8443/v2/"));
        assert!(allows("https://anything.example/"));
    }

    /// Oracle: dockerd's documentation of --insecure-registry.
    #[test]
    fn insecure_registries_are_named() {
        let settings =
            parse(r#"{"insecure-registries": ["registry.lan:5000", "any.lan", "10.0.0.0/8"]}"#)
                .unwrap();
        for (authority, expect) in [
            ("registry.lan:5000", true),
            ("Registry.LAN:5000", true),
            ("registry.lan", false),
            ("registry.lan:5001", false),
            ("any.lan", true),
            ("any.lan:81", true),
            ("10.1.2.3:5000", true),
            ("11.1.2.3:5000", false),
            ("[::1]:5000", false),
        ] {
            assert_eq!(settings.is_insecure(authority), expect, "{authority}");
            let uri = format!("http://{authority}/").parse().unwrap();
            assert_eq!(
                settings.allows(&uri),
                expect || authority.starts_with("[::1]")
            );
        }
        let settings = Settings::default();
        let allows = |uri: &str| settings.allows(&uri.parse().unwrap());
        assert!(!allows("http://localhost@evil.example/"));
        assert!(allows("http://localhost:1/"));
        assert!(!allows("ftp://localhost/"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str, expect: &str| {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let said = format!("{error} {}", source.unwrap_or_default());
            assert!(
                said.contains(expect) && said.contains("/c/registries.json"),
                "{said}"
            );
        };
        check("{", "EOF");
        check(
            r#"{"registry-mirror": []}"#,
            "unknown field `registry-mirror`",
        );
        check(r#"{"registry-mirrors": ["ftp://x"]}"#, "\"ftp://x\"");
        check(
            r#"{"registry-mirrors": ["https://x/path"]}"#,
            "https://mirror.example",
        );
        check(r#"{"mirrors": {"a": ["https://u:p@x"]}}"#, "mirrors has");
        check(
            r#"{"insecure-registries": ["http://x"]}"#,
            "insecure-registries has",
        );
        check(
            r#"{"insecure-registries": [""]}"#,
            "insecure-registries has",
        );
        assert_eq!(
            Settings::load(Path::new("/no/such")).unwrap(),
            Settings::default()
        );
    }
}
