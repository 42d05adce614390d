//! `login`, `logout`: credentials for registries, kept where Docker keeps them.

use std::path::PathBuf;

use registry::{Client, ClientOptions, Kept, Login, Server};

use crate::{Engine, Error};

/// What a login has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// Who.
    pub user: String,
    /// The file in which the password stands for everybody who can read it; a helper keeps it otherwise.
    pub file: Option<PathBuf>,
}

/// What a logout has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedOut {
    /// As Docker's configuration names it.
    pub server: String,
    /// Somebody was logged in.
    pub found: bool,
}

impl Engine {
    /// Checks a user's password against a registry (`""`: Docker's) and keeps it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unauthorized`] when the registry does not know them; then nothing is kept.
    pub async fn login(&self, server: &str, user: &str, secret: &str) -> Result<LoggedIn, Error> {
        let (server, login) = (Server::new(server), Login::new(user, secret));
        let directory = directory(&server)?;
        Client::new(ClientOptions::default())
            .check_login(&server, &login)
            .await?;
        let kept = registry::keep_login(&directory, &server, &login)
            .await
            .map_err(|source| credentials(&server, source))?;
        Ok(LoggedIn {
            user: user.to_owned(),
            file: match kept {
                Kept::File(path) => Some(path),
                Kept::Helper(_) => None,
            },
        })
    }

    /// Checks what is kept for a registry; the user. `None` when nothing is kept.
    ///
    /// # Errors
    /// As [`Engine::login`].
    pub async fn login_again(&self, server: &str) -> Result<Option<String>, Error> {
        let server = Server::new(server);
        let known = registry::load_login(&directory(&server)?, &server)
            .await
            .map_err(|source| credentials(&server, source))?;
        let Some(login) = known else {
            return Ok(None);
        };
        Client::new(ClientOptions::default())
            .check_login(&server, &login)
            .await?;
        Ok(Some(login.user))
    }

    /// Forgets what is kept for a registry.
    ///
    /// # Errors
    /// The configuration cannot be read or written; the helper fails.
    pub async fn logout(&self, server: &str) -> Result<LoggedOut, Error> {
        let server = Server::new(server);
        let found = registry::erase_login(&directory(&server)?, &server)
            .await
            .map_err(|source| credentials(&server, source))?;
        Ok(LoggedOut {
            server: server.key().to_owned(),
            found,
        })
    }
}

fn directory(server: &Server) -> Result<PathBuf, Error> {
    ClientOptions::default().docker_config.ok_or_else(|| {
        let reason = format!(
            "neither DOCKER_CONFIG nor HOME is set, so there is no place for the credentials for {}",
            server.registry()
        );
        Error::invalid("environment", reason)
    })
}

fn credentials(server: &Server, source: registry::CredentialsError) -> Error {
    registry::Error::Credentials {
        host: server.registry().to_owned(),
        source,
    }
    .into()
}
