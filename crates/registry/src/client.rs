//! The client: requests with authorization, errors by status, and trying again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_RANGE};
use oci::Reference;

use crate::auth::Sessions;
use crate::challenge::parse_challenges;
use crate::endpoint::{Endpoint, Site, host_of_registry, is_loopback, same_origin};
use crate::error::Error;
use crate::proxy::Proxies;
use crate::retry::{RetryPolicy, is_transient, retry_after};
use crate::tls::Tls;
use crate::transport::{Answer, Call, Timeouts, Transport};
use crate::{credentials, settings};

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The directory of Docker's `config.json`; `None` is no credentials. By default
    /// `$DOCKER_CONFIG` or `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// A PEM file of certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Where folders `HOST[:PORT]` with certificates are. By default `/etc/docker/certs.d`, and `certs.d` beside Docker's
    /// `config.json`.
    pub certificates: Vec<PathBuf>,
    /// Mirrors, and who may be spoken to in the clear. By default `$XDG_CONFIG_HOME/gourd/registries.json` or
    /// `~/.config/gourd/registries.json`; it need not be there.
    pub settings: Option<PathBuf>,
    /// By default those of the environment.
    pub proxies: Proxies,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer's headers may take, connecting included.
    pub response_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// How often failed requests are tried again.
    pub retry: RetryPolicy,
    /// Bytes of the parts in which a large blob is fetched side by side.
    pub part_size: u64,
    /// How many parts of a blob come at once.
    pub parts_at_once: usize,
    /// The most that one request of a push carries, in bytes.
    pub upload_size: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        let docker_config = credentials::default_directory();
        let beside = docker_config.as_ref().map(|dir| dir.join("certs.d"));
        let mut certificates = vec![Path::new("/etc/docker/certs.d").to_owned()];
        certificates.extend(beside);
        Self {
            docker_config,
            ca_file: None,
            certificates,
            settings: settings::default_file(),
            proxies: Proxies::from_env(),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            part_size: 32 << 20,
            parts_at_once: 4,
            upload_size: 64 << 20,
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
    part_size: u64,
    parts_at_once: usize,
    upload_size: u64,
    /// How registries that need not prove who they are turned out to be spoken to, by host.
    schemes: Mutex<HashMap<String, &'static str>>,
    /// Hosts of mirrors that failed: they are not asked again.
    failed_mirrors: Mutex<HashSet<String>>,
}

/// A request that failed.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// How long the registry asks to wait.
    pub(crate) asked: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, asked: None }
    }
}

impl Client {
    /// A client. Nothing is read or connected before the first request.
    pub fn new(options: ClientOptions) -> Self {
        let timeouts = Timeouts {
            connect: options.connect_timeout,
            response: options.response_timeout,
            stall: options.stall_timeout,
        };
        let tls = Tls::new(options.ca_file, options.certificates);
        Self(Arc::new(Inner {
            transport: Transport::new(tls, options.proxies, options.settings, timeouts),
            sessions: Sessions::new(options.docker_config),
            retry: options.retry,
            part_size: options.part_size.max(1),
            parts_at_once: options.parts_at_once.max(1),
            upload_size: options.upload_size.max(1),
            schemes: Mutex::default(),
            failed_mirrors: Mutex::default(),
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

    pub(crate) fn part_size(&self) -> u64 {
        self.0.part_size
    }

    pub(crate) fn parts_at_once(&self) -> usize {
        self.0.parts_at_once
    }

    pub(crate) fn upload_size(&self) -> u64 {
        self.0.upload_size
    }

    /// A registry itself, named as in references.
    pub(crate) async fn endpoint(&self, registry: &str) -> Result<Endpoint, Error> {
        let scheme = self.scheme(host_of_registry(registry)).await?;
        Ok(Endpoint::of_registry(registry, scheme))
    }

    /// The repository of a reference in its registry.
    pub(crate) async fn site(&self, reference: &Reference) -> Result<Site, Error> {
        Ok(Site {
            endpoint: self.endpoint(reference.registry()).await?,
            repository: reference.repository().to_owned(),
            writes: false,
        })
    }

    /// Where a repository may be read: the mirrors, then the registry itself, which is always the last.
    pub(crate) async fn sites(&self, reference: &Reference) -> Result<Vec<Site>, Error> {
        let mut sites: Vec<Site> = self
            .mirrors(reference)?
            .map(|mirror| Site {
                endpoint: mirror.clone(),
                repository: reference.repository().to_owned(),
                writes: false,
            })
            .collect();
        sites.push(self.site(reference).await?);
        Ok(sites)
    }

    fn mirrors(&self, reference: &Reference) -> Result<impl Iterator<Item = &Endpoint>, Error> {
        let mirrors = self.transport().settings()?.mirrors(reference.registry());
        Ok(mirrors.iter().filter(|mirror| {
            let failed = self.0.failed_mirrors.lock();
            let failed = failed.unwrap_or_else(PoisonError::into_inner);
            !failed.contains(&mirror.authority)
        }))
    }

    /// What a mirror failed with: unless it only lacks what was asked for, it is not asked again.
    pub(crate) fn mirror_failed(&self, site: &Site, error: &Error) {
        tracing::debug!(%error, mirror = site.endpoint.authority, "a mirror failed");
        if !matches!(error, Error::NotFound { .. }) {
            self.distrust(&site.endpoint);
        }
    }

    fn distrust(&self, mirror: &Endpoint) {
        let failed = self.0.failed_mirrors.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        failed.insert(mirror.authority.clone());
    }

    /// From now on the registry itself is asked, none of its mirrors; false when that was so before. For whoever finds that
    /// what came is not what it should be.
    ///
    /// # Errors
    /// `registries.json` cannot be read.
    pub fn distrust_mirrors(&self, reference: &Reference) -> Result<bool, Error> {
        let mirrors: Vec<Endpoint> = self.mirrors(reference)?.cloned().collect();
        mirrors.iter().for_each(|mirror| self.distrust(mirror));
        Ok(!mirrors.is_empty())
    }

    /// How a host is spoken to. One that need not prove who it is may speak TLS all the same.
    async fn scheme(&self, authority: &str) -> Result<&'static str, Error> {
        let transport = self.transport();
        if is_loopback(authority) {
            let is_tls = transport.has_certificates(authority);
            return Ok(if is_tls { "https" } else { "http" });
        }
        if !transport.settings()?.is_insecure(authority) {
            return Ok("https");
        }
        let schemes = || {
            let schemes = self.0.schemes.lock();
            schemes.unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(scheme) = schemes().get(authority) {
            return Ok(scheme);
        }
        let probe = Endpoint::of_registry(authority, "https").url("/v2/")?;
        let scheme = match transport.send(&Call::get(probe)).await {
            Err(Error::Unreachable { .. } | Error::Broken { .. } | Error::Timeout { .. }) => "http",
            _ => "https",
        };
        schemes().insert(authority.to_owned(), scheme);
        Ok(scheme)
    }

    /// Gets `/v2/<repository>/<kind>/<what>` with status 200 or 206.
    ///
    /// `label` is what to call it if it is not there.
    pub(crate) async fn get(
        &self,
        site: &Site,
        (kind, what): (&str, &str),
        label: &str,
        headers: HeaderMap,
    ) -> Result<Answer, Error> {
        let call = Call {
            headers,
            ..Call::get(site.url(kind, what)?)
        };
        self.request(site, &call, label, &[200, 206]).await
    }

    /// Sends a request until an answer has one of the `good` statuses, or trying again is of no use.
    pub(crate) async fn request(
        &self,
        site: &Site,
        call: &Call,
        label: &str,
        good: &[u16],
    ) -> Result<Answer, Error> {
        let mut failures = 0;
        loop {
            let failed = match self.attempt(site, call, label, good).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            failures += 1;
            // The next mirror is as good as another try.
            if site.endpoint.is_mirror {
                return Err(failed.error);
            }
            self.pause(failed, failures).await?;
        }
    }

    /// Waits before the next try, or returns the error if there shall be none.
    pub(crate) async fn pause(&self, failed: Failed, failures: u32) -> Result<(), Error> {
        let Failed { error, asked } = failed;
        let pause = match error.is_transient() {
            true => self.0.retry.pause(failures, asked),
            false => None,
        };
        if let Some(pause) = pause {
            tracing::debug!(%error, ?pause, "trying again");
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        let too_long = asked.filter(|asked| *asked > self.0.retry.max);
        Err(match (error, too_long) {
            (
                Error::Status {
                    host,
                    status,
                    detail,
                },
                Some(asked),
            ) => Error::Busy {
                host,
                status,
                secs: asked.as_secs(),
                detail,
            },
            (error, _) => error,
        })
    }

    /// Sends a request once; an answer with another status than the `good` ones is an error.
    pub(crate) async fn attempt(
        &self,
        site: &Site,
        call: &Call,
        label: &str,
        good: &[u16],
    ) -> Result<Answer, Failed> {
        let answer = self.send_authorized(site, call).await?;
        if good.contains(&answer.status()) {
            return Ok(answer);
        }
        let asked = retry_after(answer.response.headers());
        let error = self.failure(site, label, answer).await;
        Err(Failed { error, asked })
    }

    /// The error that an answer means.
    async fn failure(&self, site: &Site, label: &str, answer: Answer) -> Error {
        const RANGE_NOT_SATISFIABLE: u16 = 416;
        let host = answer.host.clone();
        let status = answer.status();
        if status == RANGE_NOT_SATISFIABLE {
            let range = answer.header(CONTENT_RANGE.as_str()).unwrap_or_default();
            let size = range.rsplit('/').next().and_then(|size| size.parse().ok());
            return Error::Range { host, size };
        }
        let detail = answer.detail(self.timeouts()).await;
        let repository = site.repository.clone();
        match status {
            404 => Error::NotFound {
                what: label.to_owned(),
                repository,
                host,
            },
            401 | 403 => Error::Unauthorized {
                had_credentials: self.0.sessions.had_credentials(site),
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
    async fn send_authorized(&self, site: &Site, call: &Call) -> Result<Answer, Error> {
        let transport = &self.0.transport;
        let sessions = &self.0.sessions;
        let mut call = call.clone();
        // An upload may be somewhere else: who is there gets no credentials.
        let is_own = same_origin(&call.uri, &site.endpoint.url("/v2/")?);
        if let Some(authorization) = sessions.authorization(site).filter(|_| is_own) {
            call.headers.insert(AUTHORIZATION, authorization);
        }
        let answer = transport.send(&call).await?;
        // Only the registry itself may ask; nor does whoever it redirects to get any.
        if answer.status() != 401 || !is_own || answer.host != site.endpoint.authority {
            return Ok(answer);
        }
        let Some(challenge) = parse_challenges(answer.response.headers()) else {
            return Ok(answer);
        };
        match sessions.authorize(transport, site, challenge).await? {
            None => Ok(answer),
            Some(authorization) => {
                call.headers.insert(AUTHORIZATION, authorization);
                transport.send(&call).await
            }
        }
    }
}

/// Whether a stream's failure is worth another try.
pub(crate) fn is_worth_retrying(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Status { status, .. } => is_transient(*status),
        other => other.is_transient(),
    }
}
