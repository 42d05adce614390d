//! Tokens and passwords (distribution's token authentication specification).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Uri};
use serde::Deserialize;

use crate::body::Payload;
use crate::challenge::Challenge;
use crate::credentials::{Credential, load_credential};
use crate::endpoint::Site;
use crate::error::Error;
use crate::transport::{Call, Transport};

/// The largest token answer that is read.
const MAX_TOKEN: usize = 256 << 10;

/// What worked last, by host and repository. A token that has expired is answered with a new
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

    fn session(&self, site: &Site) -> Option<Session> {
        self.known().get(&key(site)).cloned()
    }

    /// What to send without being asked.
    pub(crate) fn authorization(&self, site: &Site) -> Option<HeaderValue> {
        self.session(site)?.authorization
    }

    /// Whether there were credentials for the last challenge.
    pub(crate) fn had_credentials(&self, site: &Site) -> bool {
        self.session(site).is_some_and(|s| s.had_credentials)
    }

    /// Answers a challenge. `None` if there is nothing to answer it with.
    pub(crate) async fn authorize(
        &self,
        transport: &Transport,
        site: &Site,
        challenge: Challenge,
    ) -> Result<Option<HeaderValue>, Error> {
        let credential = match &self.docker_config {
            None => None,
            Some(directory) => load_credential(directory, &site.endpoint.registry)
                .await
                .map_err(|source| Error::Credentials {
                    host: site.endpoint.registry.clone(),
                    source,
                })?,
        };
        let had_credentials = credential.is_some();
        let remember = |authorization: Option<HeaderValue>| {
            let session = Session {
                authorization,
                had_credentials,
            };
            self.known().insert(key(site), session);
        };
        remember(None);
        let value = match challenge {
            Challenge::Basic => credential.as_ref().and_then(Credential::basic),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope = scopes(site, scope.as_deref());
                let wish = Wish {
                    realm: &realm,
                    service: service.as_deref(),
                    scope: Some(&scope),
                    host: &site.endpoint.authority,
                    repository: &site.repository,
                };
                let token = wish.token(transport, credential.as_ref()).await?;
                Some(format!("Bearer {token}"))
            }
        };
        let value = value
            .map(|value| sensitive(&value, &site.endpoint.authority))
            .transpose()?;
        remember(value.clone());
        Ok(value)
    }
}

/// What to ask for: what the registry says, and to push if that is what comes.
fn scopes(site: &Site, asked: Option<&str>) -> String {
    let own = format!("repository:{}:", site.repository);
    let rights = if site.writes { "pull,push" } else { "pull" };
    let mut scopes: Vec<&str> = asked.unwrap_or_default().split_whitespace().collect();
    let whole = format!("{own}{rights}");
    if asked.is_none() || site.writes {
        scopes.retain(|scope| !scope.starts_with(&own));
        scopes.insert(0, &whole);
    }
    scopes.join(" ")
}

fn key(site: &Site) -> (String, String) {
    (site.endpoint.authority.clone(), site.repository.clone())
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
    /// What for, with spaces between; nothing to see whether a credential is known.
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
        let call = self.call(transport, credential)?;
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

    fn call(&self, transport: &Transport, credential: Option<&Credential>) -> Result<Call, Error> {
        let scopes = self.scope.unwrap_or_default().split_whitespace();
        let scopes = scopes.map(|scope| ("scope", scope));
        let query: Vec<String> = self
            .service
            .map(|service| ("service", service))
            .into_iter()
            .chain(scopes)
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        let query = query.join("&");
        if let Some(Credential::IdentityToken(token)) = credential {
            let mut call = Call::new(Method::POST, self.uri(transport, self.realm)?);
            let token = encode(token);
            let form =
                format!("grant_type=refresh_token&client_id=gourd&{query}&refresh_token={token}");
            call.payload = Payload::Bytes(form.into());
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            call.headers.insert(CONTENT_TYPE, form);
            // The token is for the server that was named.
            call.follows = false;
            return Ok(call);
        }
        let separator = if self.realm.contains('?') { '&' } else { '?' };
        let mut call =
            Call::get(self.uri(transport, &format!("{}{separator}{query}", self.realm))?);
        if let Some(value) = credential.and_then(Credential::basic) {
            call.headers
                .insert(AUTHORIZATION, sensitive(&value, self.host)?);
        }
        Ok(call)
    }

    fn uri(&self, transport: &Transport, text: &str) -> Result<Uri, Error> {
        let refuse = |why| Error::Redirect {
            host: self.host.to_owned(),
            target: self.realm.to_owned(),
            why,
        };
        let uri: Uri = text
            .parse()
            .map_err(|_| refuse("that is not an address of a token server"))?;
        if !transport.settings()?.allows(&uri) {
            return Err(refuse(
                "a token server must be reached over TLS or on this machine",
            ));
        }
        Ok(uri)
    }
}

/// Percent-encodes for a query or form.
pub(crate) fn encode(text: &str) -> String {
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
