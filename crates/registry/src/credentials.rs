//! Docker's `config.json` and credential helpers.
//!
//! Read anew for each registry that asks for credentials, so that a `docker login` in between
//! counts. Secrets never reach a log or an error.

mod helper;
mod keep;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

pub use keep::{Kept, Login, erase_login, keep_login, load_login};

/// What Docker's registry is called in `config.json`.
pub(crate) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that stands for an identity token.
pub(crate) const TOKEN_USER: &str = "<token>";

/// What to show a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// User name and password.
    Basic { user: String, password: String },
    /// An OAuth 2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

impl Credential {
    pub(crate) fn new(user: String, secret: String) -> Self {
        match user.as_str() {
            TOKEN_USER => Self::IdentityToken(secret),
            _ => Self::Basic {
                user,
                password: secret,
            },
        }
    }

    /// The value of an `Authorization` header, if it is of that kind.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Basic { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{password}"))
            )),
            Self::IdentityToken(_) => None,
        }
    }
}

/// Why Docker's credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file is there but cannot be read.
    #[error("{path} cannot be read", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be replaced.
    #[error("{path} cannot be written", path = .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what Docker writes.
    #[error("{path} is not a valid Docker configuration", path = .path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` value is not base64 of `user:password`.
    #[error("the auth entry for {registry:?} in {path} is not base64 of user:password", path = .path.display())]
    Auth {
        /// Whose.
        registry: String,
        /// In which file.
        path: PathBuf,
    },
    /// A helper's name that is no file name.
    #[error("credential helper {0:?} has an invalid name")]
    HelperName(String),
    /// A helper could not be started.
    #[error("credential helper {helper} cannot be run")]
    HelperStart {
        /// Its program name.
        helper: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A helper failed.
    #[error("credential helper {helper} failed: {message}")]
    Helper {
        /// Its program name.
        helper: String,
        /// What it said, or how it ended.
        message: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Auth>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// `$DOCKER_CONFIG`, or `.docker` in the home directory.
pub(crate) fn default_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    match set("DOCKER_CONFIG") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(Path::new(&set("HOME")?).join(".docker")),
    }
}

/// The credential for a registry, named as in a reference, if there is one.
pub(crate) async fn load_credential(
    directory: &Path,
    registry: &str,
) -> Result<Option<Credential>, CredentialsError> {
    let path = directory.join("config.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path, source }),
    };
    let config: Config = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(source) => return Err(CredentialsError::Parse { path, source }),
    };
    let key = match registry {
        "docker.io" => DOCKER_HUB_KEY,
        other => other,
    };
    if let Some(helper) = by_host(&config.cred_helpers, registry) {
        return helper::ask(helper, key).await;
    }
    if !config.creds_store.is_empty()
        && let Some(credential) = helper::ask(&config.creds_store, key).await?
    {
        return Ok(Some(credential));
    }
    let auth = config
        .auths
        .get(key)
        .or_else(|| by_host(&config.auths, registry));
    auth.map_or(Ok(None), |auth| {
        from_auth(auth).ok_or_else(|| CredentialsError::Auth {
            registry: registry.to_owned(),
            path,
        })
    })
}

/// Keys are hosts or, from older versions, URLs.
fn by_host<'a, T>(map: &'a HashMap<String, T>, registry: &str) -> Option<&'a T> {
    map.get(registry).or_else(|| {
        map.iter()
            .find(|(key, _)| host_of(key) == registry)
            .map(|(_, v)| v)
    })
}

fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// `None` if it is malformed, `Some(None)` if it is empty, as it is beside a helper.
fn from_auth(auth: &Auth) -> Option<Option<Credential>> {
    if !auth.identitytoken.is_empty() {
        return Some(Some(Credential::IdentityToken(auth.identitytoken.clone())));
    }
    if !auth.auth.is_empty() {
        let decoded = STANDARD.decode(auth.auth.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        let password = password.trim_end_matches('\0');
        return Some(Some(Credential::new(user.to_owned(), password.to_owned())));
    }
    if !auth.username.is_empty() {
        let (user, password) = (auth.username.clone(), auth.password.clone());
        return Some(Some(Credential::new(user, password)));
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(config: &str, registry: &str, expect: Option<(&str, &str)>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let got = load_credential(dir.path(), registry).await.unwrap();
        let expect = expect.map(|(user, secret)| Credential::new(user.into(), secret.into()));
        assert_eq!(got, expect, "{config} {registry}");
    }

    #[tokio::test]
    async fn auths_are_found_by_host_and_url() {
        // "dTpwOng=" is u:p:x
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOng="},
            "https://old.example/v1/": {"username": "a", "password": "b"},
            "localhost:5000": {"identitytoken": "t"}, "empty.example": {}}}"#;
        check(config, "docker.io", Some(("u", "p:x"))).await;
        check(config, "old.example", Some(("a", "b"))).await;
        check(config, "localhost:5000", Some((TOKEN_USER, "t"))).await;
        check(config, "localhost:5001", None).await;
        check(config, "empty.example", None).await;
        check("{}", "docker.io", None).await;
    }

    #[tokio::test]
    async fn errors_name_the_file_and_hide_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_credential(dir.path(), "x").await.unwrap().is_none());
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        let error = load_credential(dir.path(), "x").await.unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        std::fs::write(&path, r#"{"auths":{"x":{"auth":"c2VjcmV0"}}}"#).unwrap();
        let error = load_credential(dir.path(), "x").await.unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        std::fs::write(&path, r#"{"credHelpers":{"x":"../evil"}}"#).unwrap();
        let error = load_credential(dir.path(), "x").await.unwrap_err();
        assert!(
            matches!(error, CredentialsError::HelperName(_)),
            "{error:?}"
        );
        let credential = Credential::new("u".into(), "hunter2".into());
        assert!(!format!("{credential:?}").contains("hunter2"));
    }
}
