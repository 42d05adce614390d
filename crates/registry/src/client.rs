//! The client: requests with authorization, errors by status, and trying again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use oci::{DigestCheck, MAX_DOCUMENT_SIZE, MediaType, Reference, VerifyError};

use crate::auth::Sessions;
use crate::challenge::parse_challenges;
use crate::error::Error;
use crate::retry::{RetryPolicy, is_transient, retry_after};
use crate::transport::{Answer, Call, Timeouts, Transport};
use crate::{credentials, endpoint};

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The directory of Docker's `config.json`; `None` is no credentials. By default
    /// `$DOCKER_CONFIG` or `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// A PEM file of certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer's headers may take, connecting included.
    pub response_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// How often failed requests are tried again.
    pub retry: RetryPolicy,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            docker_config: credentials::default_directory(),
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
        }
    }
}

/// A client for any number of registries. Clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    sessions: Sessions,
    retry: RetryPolicy,
}

impl Client {
    /// A client. Nothing is read or connected before the first request.
    pub fn new(options: ClientOptions) -> Self {
        let timeouts = Timeouts {
            connect: options.connect_timeout,
            response: options.response_timeout,
            stall: options.stall_timeout,
        };
        Self(Arc::new(Inner {
            transport: Transport::new(options.ca_file, timeouts),
            sessions: Sessions::new(options.docker_config),
            retry: options.retry,
        }))
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.0.transport.timeouts
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// Gets `/v2/<repository>/<kind>/<what>` with status 200 or 206.
    ///
    /// `label` is what to call it if it is not there.
    pub(crate) async fn get(
        &self,
        reference: &Reference,
        (kind, what): (&str, &str),
        label: &str,
        headers: HeaderMap,
    ) -> Result<Answer, Error> {
        let uri = endpoint::url(reference, kind, what).map_err(|e| Error::Protocol {
            host: endpoint::host(reference).to_owned(),
            what: e.to_string(),
        })?;
        let call = Call {
            headers,
            ..Call::get(uri)
        };
        let mut failures = 0;
        loop {
            let (error, asked) = match self.send_authorized(reference, &call).await {
                Ok(answer) if matches!(answer.status(), 200 | 206) => return Ok(answer),
                Ok(answer) => {
                    let asked = retry_after(answer.response.headers());
                    (self.failure(reference, label, answer).await, asked)
                }
                Err(error) => (error, None),
            };
            failures += 1;
            let pause = match error.is_transient() {
                true => self.0.retry.pause(failures, asked),
                false => None,
            };
            let Some(pause) = pause else {
                return Err(error);
            };
            tracing::debug!(%error, ?pause, %reference, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// The error that an answer means.
    async fn failure(&self, reference: &Reference, label: &str, answer: Answer) -> Error {
        let host = answer.host.clone();
        let status = answer.status();
        let detail = answer.detail(self.timeouts()).await;
        let repository = reference.repository().to_owned();
        match status {
            404 => Error::NotFound {
                what: label.to_owned(),
                repository,
                host,
            },
            401 | 403 => Error::Unauthorized {
                had_credentials: self.0.sessions.had_credentials(reference),
                host,
                repository,
                detail,
            },
            status => Error::Status {
                host,
                status,
                detail,
            },
        }
    }

    /// Sends with the token or password that worked last time, and answers a challenge once.
    async fn send_authorized(&self, reference: &Reference, call: &Call) -> Result<Answer, Error> {
        let transport = &self.0.transport;
        let mut call = call.clone();
        if let Some(authorization) = self.0.sessions.authorization(reference) {
            call.headers.insert(AUTHORIZATION, authorization);
        }
        let answer = transport.send(&call).await?;
        // Only the registry itself may ask; whoever it redirects to gets no credentials.
        if answer.status() != 401 || answer.host != endpoint::host(reference) {
            return Ok(answer);
        }
        let Some(challenge) = parse_challenges(answer.response.headers()) else {
            return Ok(answer);
        };
        let sessions = &self.0.sessions;
        match sessions.authorize(transport, reference, challenge).await? {
            None => Ok(answer),
            Some(authorization) => {
                call.headers.insert(AUTHORIZATION, authorization);
                transport.send(&call).await
            }
        }
    }

    /// Gets a manifest or index as it is, and the media type it was served as.
    pub(crate) async fn get_manifest(
        &self,
        reference: &Reference,
        what: &str,
        check: Option<DigestCheck>,
    ) -> Result<(Option<MediaType>, bytes::Bytes), Error> {
        const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.docker.distribution.manifest.v2+json";
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let label = match what.contains(':') {
            true => format!("manifest {what}"),
            false => format!("tag {what}"),
        };
        let mut failures = 0;
        loop {
            let path = ("manifests", what);
            let answer = self.get(reference, path, &label, headers.clone()).await?;
            let host = answer.host.clone();
            let served_as = answer.response.headers().get(CONTENT_TYPE).map(|value| {
                let value = String::from_utf8_lossy(value.as_bytes());
                MediaType::from(value.split(';').next().unwrap_or_default().trim())
            });
            let promised = answer.response.headers().get("docker-content-digest");
            let promised = promised.and_then(|d| d.to_str().ok()?.parse().ok());
            let body = answer
                .body(MAX_DOCUMENT_SIZE as usize, self.timeouts())
                .await;
            let body = match body {
                Ok(Some(body)) => body,
                Ok(None) => {
                    let what = format!("the manifest has more than {MAX_DOCUMENT_SIZE} bytes");
                    return Err(Error::Protocol { host, what });
                }
                Err(error) => {
                    failures += 1;
                    match self.0.retry.pause(failures, None) {
                        Some(pause) if error.is_transient() => tokio::time::sleep(pause).await,
                        _ => return Err(error),
                    }
                    continue;
                }
            };
            // Without a digest of our own, the registry's is better than none.
            let promised = promised.map(|digest| DigestCheck::new(digest, body.len() as u64));
            let check = check.or(promised).map(|check| verify(check, &body));
            if let Some(Err(source)) = check {
                return Err(Error::Verify {
                    host,
                    repository: reference.repository().to_owned(),
                    source,
                });
            }
            return Ok((served_as, body));
        }
    }
}

fn verify(mut check: DigestCheck, body: &[u8]) -> Result<(), VerifyError> {
    check.update(body)?;
    check.finish()
}

/// Whether a stream's failure is worth another try.
pub(crate) fn is_worth_retrying(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Status { status, .. } => is_transient(*status),
        other => other.is_transient(),
    }
}
