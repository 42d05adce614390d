//! Keeping and forgetting credentials: in Docker's `config.json`, or with the helper that it names.
//!
//! The file is replaced whole, readable by its owner only; what gourd does not know of it stays.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use super::{Config, CredentialsError, by_host, helper, host_of, load_credential};
use crate::Server;
use crate::credentials::{Credential, TOKEN_USER};

/// A user and the password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: String,
    /// Never shown.
    secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({:?}, ..)", self.user)
    }
}

impl Login {
    /// A user and a password; the user `<token>` has an identity token.
    pub fn new(user: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            secret: secret.into(),
        }
    }

    pub(crate) fn credential(&self) -> Credential {
        Credential::new(self.user.clone(), self.secret.clone())
    }
}

/// Where credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, for everybody to read who can read the file.
    File(PathBuf),
    /// With this helper program.
    Helper(String),
}

/// What is kept for a server.
///
/// # Errors
/// As [`CredentialsError`] says.
pub async fn load_login(
    directory: &Path,
    server: &Server,
) -> Result<Option<Login>, CredentialsError> {
    let found = load_credential(directory, server.registry()).await?;
    Ok(found.map(|credential| match credential {
        Credential::Basic { user, password } => Login::new(user, password),
        Credential::IdentityToken(token) => Login::new(TOKEN_USER, token),
    }))
}

/// Keeps credentials, in the place of those from before.
///
/// # Errors
/// As [`CredentialsError`] says.
pub async fn keep_login(
    directory: &Path,
    server: &Server,
    login: &Login,
) -> Result<Kept, CredentialsError> {
    let mut document = Document::load(directory)?;
    let helper = document.helper(server);
    // Beside a helper an empty entry says that somebody is logged in, as Docker writes it.
    let entry = match &helper {
        Some(_) => json!({}),
        None if login.user == TOKEN_USER => {
            json!({ "auth": encode(&login.user, ""), "identitytoken": login.secret })
        }
        None => json!({ "auth": encode(&login.user, &login.secret) }),
    };
    if let Some(name) = &helper {
        let request = json!({
            "ServerURL": server.key(),
            "Username": login.user,
            "Secret": login.secret,
        });
        helper::run(name, "store", &request.to_string()).await?;
    }
    let auths = &mut document.auths;
    let key = server.key().to_owned();
    // Docker finds an old key by its host: none may be left beside the new one.
    auths.retain(|known, _| host_of(known) != server.registry());
    auths.insert(key, entry);
    document.save()?;
    Ok(match helper {
        Some(name) => Kept::Helper(name),
        None => Kept::File(document.path),
    })
}

fn encode(user: &str, secret: &str) -> String {
    STANDARD.encode(format!("{user}:{secret}"))
}

/// Forgets the credentials for a server; false when there were none.
///
/// # Errors
/// As [`CredentialsError`] says.
pub async fn erase_login(directory: &Path, server: &Server) -> Result<bool, CredentialsError> {
    let mut document = Document::load(directory)?;
    let mut found = false;
    if let Some(name) = document.helper(server) {
        found = helper::ask(&name, server.key()).await?.is_some();
        if found {
            helper::run(&name, "erase", server.key()).await?;
        }
    }
    let auths = &mut document.auths;
    let before = auths.len();
    auths.retain(|known, _| host_of(known) != server.registry());
    if auths.len() != before {
        found = true;
        document.save()?;
    }
    Ok(found)
}

/// `config.json` with all that it holds.
struct Document {
    path: PathBuf,
    /// What concerns us.
    config: Config,
    /// Entries by server.
    auths: Map<String, Value>,
    /// Everything else.
    rest: Map<String, Value>,
}

impl Document {
    fn load(directory: &Path) -> Result<Self, CredentialsError> {
        let path = directory.join("config.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(CredentialsError::Read { path, source }),
        };
        let text = match text.trim_ascii() {
            b"" => b"{}",
            text => text,
        };
        // What cannot be understood is not written over.
        let understood = serde_json::from_slice(text).and_then(|config| {
            let rest: Map<String, Value> = serde_json::from_slice(text)?;
            Ok((config, rest))
        });
        let (config, mut rest) = match understood {
            Ok(understood) => understood,
            Err(source) => return Err(CredentialsError::Parse { path, source }),
        };
        let auths = match rest.remove("auths") {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        };
        Ok(Self {
            path,
            config,
            auths,
            rest,
        })
    }

    /// The helper for a server, if one is set.
    fn helper(&self, server: &Server) -> Option<String> {
        by_host(&self.config.cred_helpers, server.registry())
            .or(Some(&self.config.creds_store))
            .filter(|name| !name.is_empty())
            .cloned()
    }

    fn save(&self) -> Result<(), CredentialsError> {
        // A link, as of people who keep their settings elsewhere, stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |source| CredentialsError::Write {
            path: path.clone(),
            source,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let temporary = directory.join(format!(".config.json.{}", std::process::id()));
        let written = self.write(&temporary).and_then(|()| {
            fs::rename(&temporary, &path)?;
            fs::File::open(directory)?.sync_all()
        });
        if written.is_err() {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
        let mut value = self.rest.clone();
        value.insert("auths".to_owned(), Value::Object(self.auths.clone()));
        value.serialize(&mut serializer)?;
        text.push(b'\n');
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(dir: &Path) -> Value {
        serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("deep/docker");
        let hub = Server::new("");
        let login = Login::new("alice", "wonder:land 1");
        let kept = keep_login(&config, &hub, &login).await.unwrap();
        assert_eq!(kept, Kept::File(config.join("config.json")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&config), mode(&config.join("config.json"))),
            (0o700, 0o600)
        );
        // Oracle: `printf 'alice:wonder:land 1' | base64`, as docker login writes it.
        let expect = json!({"auths": {"https://index.docker.io/v1/": {"auth": "YWxpY2U6d29uZGVyOmxhbmQgMQ=="}}});
        assert_eq!(read(&config), expect);
        assert_eq!(load_login(&config, &hub).await.unwrap(), Some(login));

        let text = r#"{"auths": {"http://old.example/v1/": {"auth": "eDp5"}, "other": {"auth": "eDp5", "email": "e"}}, "HttpHeaders": {"X": "y"}, "psFormat": "table"}"#;
        fs::write(config.join("config.json"), text).unwrap();
        keep_login(
            &config,
            &Server::new("old.example"),
            &Login::new("<token>", "t"),
        )
        .await
        .unwrap();
        let found = read(&config);
        assert_eq!(found["HttpHeaders"]["X"], "y");
        assert_eq!(found["psFormat"], "table");
        assert_eq!(found["auths"]["other"]["email"], "e");
        assert_eq!(found["auths"]["old.example"]["identitytoken"], "t");
        assert!(found["auths"].get("http://old.example/v1/").is_none());
        assert!(
            erase_login(&config, &Server::new("old.example"))
                .await
                .unwrap()
        );
        assert!(
            !erase_login(&config, &Server::new("old.example"))
                .await
                .unwrap()
        );
        assert_eq!(
            read(&config)["auths"],
            json!({"other": {"auth": "eDp5", "email": "e"}})
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for text in ["{\"auths\": ", "[]", "{\"credsStore\": 7}"] {
            fs::write(&path, text).unwrap();
            let error = keep_login(dir.path(), &Server::new("x"), &Login::new("u", "hidden"))
                .await
                .unwrap_err();
            assert!(matches!(error, CredentialsError::Parse { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(!format!("{:?}", Login::new("u", "hidden")).contains("hidden"));
    }

    #[tokio::test]
    async fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real.json");
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("config.json")).unwrap();
        keep_login(dir.path(), &Server::new("x"), &Login::new("u", "p"))
            .await
            .unwrap();
        assert!(dir.path().join("config.json").is_symlink());
        assert!(fs::read_to_string(real).unwrap().contains("dTpw"));
    }
}
