//! Tokens and passwords (distribution's token authentication specification).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Uri};
use oci::Reference;
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::{Credential, load_credential};
use crate::endpoint;
use crate::error::Error;
use crate::transport::{Call, Transport};

/// The largest token answer that is read.
const MAX_TOKEN: usize = 256 << 10;

/// What worked last, by registry and repository. A token that has expired is answered with a new
/// challenge, so that nobody watches the clock.
#[derive(Debug)]
pub(crate) struct Sessions {
    docker_config: Option<PathBuf>,
    known: Mutex<HashMap<(String, String), Session>>,
}

#[derive(Debug, Clone)]
struct Session {
    /// Marked as sensitive, so that `Debug` does not show it.
    authorization: Option<HeaderValue>,
    had_credentials: bool,
}

/// Older servers say `token`, OAuth 2 says `access_token`.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Sessions {
    pub(crate) fn new(docker_config: Option<PathBuf>) -> Self {
        Self {
            docker_config,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, String), Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, reference: &Reference) -> Option<Session> {
        self.known().get(&key(reference)).cloned()
    }

    /// What to send without being asked.
    pub(crate) fn authorization(&self, reference: &Reference) -> Option<HeaderValue> {
        self.session(reference)?.authorization
    }

    /// Whether there were credentials for the last challenge.
    pub(crate) fn had_credentials(&self, reference: &Reference) -> bool {
        self.session(reference).is_some_and(|s| s.had_credentials)
    }

    /// Answers a challenge. `None` if there is nothing to answer it with.
    pub(crate) async fn authorize(
        &self,
        transport: &Transport,
        reference: &Reference,
        challenge: Challenge,
    ) -> Result<Option<HeaderValue>, Error> {
        let credential = match &self.docker_config {
            None => None,
            Some(directory) => load_credential(directory, reference.registry())
                .await
                .map_err(|source| Error::Credentials {
                    host: reference.registry().to_owned(),
                    source,
                })?,
        };
        let had_credentials = credential.is_some();
        let remember = |authorization: Option<HeaderValue>| {
            let session = Session {
                authorization,
                had_credentials,
            };
            self.known().insert(key(reference), session);
        };
        remember(None);
        let value = match challenge {
            Challenge::Basic => credential.as_ref().and_then(Credential::basic),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope =
                    scope.unwrap_or_else(|| format!("repository:{}:pull", reference.repository()));
                let wish = Wish {
                    realm: &realm,
                    service: service.as_deref(),
                    scope: Some(&scope),
                    host: endpoint::host(reference),
                    repository: reference.repository(),
                };
                let token = wish.token(transport, credential.as_ref()).await?;
                Some(format!("Bearer {token}"))
            }
        };
        let value = value
            .map(|value| sensitive(&value, endpoint::host(reference)))
            .transpose()?;
        remember(value.clone());
        Ok(value)
    }
}

fn key(reference: &Reference) -> (String, String) {
    (
        reference.registry().to_owned(),
        reference.repository().to_owned(),
    )
}

/// A header's value that `Debug` does not show.
pub(crate) fn sensitive(value: &str, host: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(value).map_err(|_| Error::Protocol {
        host: host.to_owned(),
        what: "the token or password has characters that no header can hold".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What token to ask for, and where.
pub(crate) struct Wish<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    /// What for; nothing to see whether a credential is known.
    pub(crate) scope: Option<&'a str>,
    /// Who asked for it, for errors.
    pub(crate) host: &'a str,
    pub(crate) repository: &'a str,
}

impl Wish<'_> {
    pub(crate) async fn token(
        &self,
        transport: &Transport,
        credential: Option<&Credential>,
    ) -> Result<String, Error> {
        let call = self.call(credential)?;
        let answer = transport.send(&call).await?;
        let host = answer.host.clone();
        match answer.status() {
            200 => {}
            status => {
                let detail = answer.detail(&transport.timeouts).await;
                return Err(match status {
                    400 | 401 | 403 | 404 => Error::Unauthorized {
                        host: self.host.to_owned(),
                        repository: self.repository.to_owned(),
                        had_credentials: credential.is_some(),
                        detail,
                    },
                    status => Error::Status {
                        host,
                        status,
                        detail,
                    },
                });
            }
        }
        let body = answer.body(MAX_TOKEN, &transport.timeouts).await?;
        let parsed = body.and_then(|body| serde_json::from_slice::<TokenAnswer>(&body).ok());
        let token = parsed.map(|t| match t.token.is_empty() {
            true => t.access_token,
            false => t.token,
        });
        token
            .filter(|t| !t.is_empty())
            .ok_or_else(|| Error::Protocol {
                host,
                what: "the token server's answer has no token".to_owned(),
            })
    }

    fn call(&self, credential: Option<&Credential>) -> Result<Call, Error> {
        let mut query: Vec<String> = Vec::new();
        for (name, value) in [("service", self.service), ("scope", self.scope)] {
            query.extend(value.map(|value| format!("{name}={}", encode(value))));
        }
        let query = query.join("&");
        if let Some(Credential::IdentityToken(token)) = credential {
            let mut call = Call::get(self.uri(self.realm)?);
            let token = encode(token);
            call.form = Some(format!(
                "grant_type=refresh_token&client_id=gourd&{query}&refresh_token={token}"
            ));
            return Ok(call);
        }
        let separator = if self.realm.contains('?') { '&' } else { '?' };
        let mut call = Call::get(self.uri(&format!("{}{separator}{query}", self.realm))?);
        if let Some(value) = credential.and_then(Credential::basic) {
            call.headers
                .insert(AUTHORIZATION, sensitive(&value, self.host)?);
        }
        Ok(call)
    }

    fn uri(&self, text: &str) -> Result<Uri, Error> {
        let refuse = |why| Error::Redirect {
            host: self.host.to_owned(),
            target: self.realm.to_owned(),
            why,
        };
        let uri: Uri = text
            .parse()
            .map_err(|_| refuse("that is not an address of a token server"))?;
        if !endpoint::is_private(&uri) {
            return Err(refuse(
                "a token server must be reached over TLS or on this machine",
            ));
        }
        Ok(uri)
    }
}

/// Percent-encodes for a query or form.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
