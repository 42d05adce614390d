//! Whether a registry knows a user: the check before credentials are kept.

use http::header::AUTHORIZATION;

use crate::Client;
use crate::auth::{Wish, sensitive};
use crate::challenge::{Challenge, parse_challenges};
use crate::credentials::{Credential, DOCKER_HUB_KEY, Login};
use crate::error::Error;
use crate::transport::{Answer, Call};

/// Where somebody logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    registry: String,
}

impl Server {
    /// From what people write: `docker.io`, `localhost:5000`, `https://registry.example/v2/`. Nothing is Docker's registry.
    pub fn new(text: &str) -> Self {
        let rest = text.trim();
        let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        let registry = match host.to_ascii_lowercase().as_str() {
            "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            other => other.to_owned(),
        };
        Self { registry }
    }

    /// As references name it.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// As Docker's configuration names it.
    pub fn key(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" => DOCKER_HUB_KEY,
            other => other,
        }
    }
}

impl Client {
    /// Asks the registry whether it knows a user. One that wants no credentials knows everybody, as for Docker.
    ///
    /// # Errors
    /// [`Error::Login`] when it does not; [`Error`] says what else.
    pub async fn check_login(&self, server: &Server, login: &Login) -> Result<(), Error> {
        let endpoint = self.endpoint(server.registry()).await?;
        let host = endpoint.authority.as_str();
        let call = Call::get(endpoint.url("/v2/")?);
        let answer = self.transport().send(&call).await?;
        if answer.status() != 401 || answer.host != host {
            return self.judge(answer).await;
        }
        let credential = login.credential();
        let value = match parse_challenges(answer.response.headers()) {
            None => return self.judge(answer).await,
            Some(Challenge::Basic) => credential.basic(),
            Some(Challenge::Bearer { realm, service, .. }) => {
                Some(self.token(host, &realm, service, &credential).await?)
            }
        };
        let Some(value) = value else {
            return self.judge(answer).await;
        };
        let mut call = call;
        call.headers.insert(AUTHORIZATION, sensitive(&value, host)?);
        self.judge(self.transport().send(&call).await?).await
    }

    async fn token(
        &self,
        host: &str,
        realm: &str,
        service: Option<String>,
        credential: &Credential,
    ) -> Result<String, Error> {
        let wish = Wish {
            realm,
            service: service.as_deref(),
            scope: None,
            host,
            repository: "",
        };
        match wish.token(self.transport(), Some(credential)).await {
            Ok(token) => Ok(format!("Bearer {token}")),
            Err(Error::Unauthorized { host, detail, .. }) => Err(Error::Login { host, detail }),
            Err(error) => Err(error),
        }
    }

    async fn judge(&self, answer: Answer) -> Result<(), Error> {
        let (host, status) = (answer.host.clone(), answer.status());
        if status == 200 {
            return Ok(());
        }
        let detail = answer.detail(self.timeouts()).await;
        Err(match status {
            401 | 403 => Error::Login { host, detail },
            404 => Error::Protocol {
                host,
                what: "it has no /v2/: it is no registry".to_owned(),
            },
            status => Error::Status {
                host,
                status,
                detail,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: Docker's registry.ConvertToHostname, and what `docker login` writes.
    #[test]
    fn servers_are_named_as_docker_names_them() {
        let check = |text: &str, registry: &str, key: &str| {
            let server = Server::new(text);
            assert_eq!((server.registry(), server.key()), (registry, key), "{text}");
        };
        check("", "docker.io", DOCKER_HUB_KEY);
        check("docker.io", "docker.io", DOCKER_HUB_KEY);
        check("https://index.docker.io/v1/", "docker.io", DOCKER_HUB_KEY);
        check("localhost:5000", "localhost:5000", "localhost:5000");
        check(
            "https://Registry.example/v2/",
            "registry.example",
            "registry.example",
        );
        check("http://127.0.0.1:5000", "127.0.0.1:5000", "127.0.0.1:5000");
        check("[::1]:5000", "[::1]:5000", "[::1]:5000");
    }
}
