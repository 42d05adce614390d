//! HTTP: one request, answered with headers in time, redirects followed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::body::{Body, Payload};
use crate::connect::Connector;
use crate::endpoint;
use crate::error::Error;
use crate::proxy::Proxies;
use crate::settings::Settings;
use crate::tls::Tls;

const MAX_REDIRECTS: usize = 5;
/// As much of an error's body as is read.
const MAX_ERROR_BODY: usize = 16 << 10;
/// A document has this many times the time for which a transfer may stand still, in all: whoever sends a byte now and then would
/// otherwise never be done. 4 MiB in five minutes are 14 KB/s.
const WHOLE: u32 = 5;
const AGENT: &str = concat!("gourd/", env!("CARGO_PKG_VERSION"));

type Http = legacy::Client<HttpsConnector<Connector>, Body>;

/// Times allowed for the parts of a request.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) stall: Duration,
}

#[derive(Debug)]
pub(crate) struct Transport {
    /// By the name of whom they trust.
    clients: Mutex<HashMap<String, Http>>,
    tls: Tls,
    proxies: Arc<Proxies>,
    settings_file: Option<PathBuf>,
    settings: OnceLock<Settings>,
    pub(crate) timeouts: Timeouts,
}

/// An answer, and who gave it after redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) host: String,
    pub(crate) uri: Uri,
    pub(crate) response: Response<Incoming>,
}

/// A request that can be sent more than once.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// What it carries may go where the answer points to.
    pub(crate) follows: bool,
}

impl Call {
    pub(crate) fn new(method: Method, uri: Uri) -> Self {
        Self {
            method,
            uri,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            follows: true,
        }
    }

    pub(crate) fn get(uri: Uri) -> Self {
        Self::new(Method::GET, uri)
    }

    /// A redirect of this kind that is to be followed.
    fn follows(&self, status: u16) -> bool {
        let reads = self.method == Method::GET || self.method == Method::HEAD;
        match status {
            301..=303 => reads,
            307 | 308 => self.follows,
            _ => false,
        }
    }
}

impl Transport {
    pub(crate) fn new(
        tls: Tls,
        proxies: Proxies,
        settings_file: Option<PathBuf>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            clients: Mutex::default(),
            tls,
            proxies: Arc::new(proxies),
            settings_file,
            settings: OnceLock::new(),
            timeouts,
        }
    }

    /// What `registries.json` says. It is read once.
    pub(crate) fn settings(&self) -> Result<&Settings, Error> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let loaded = match &self.settings_file {
            Some(path) => Settings::load(path)?,
            None => Settings::default(),
        };
        Ok(self.settings.get_or_init(|| loaded))
    }

    /// Whether there are certificates for a host in particular.
    pub(crate) fn has_certificates(&self, authority: &str) -> bool {
        self.tls.knows(authority)
    }

    fn client(&self, uri: &Uri) -> Result<Http, Error> {
        let authority = host_of(uri);
        let is_tls = uri.scheme_str() == Some("https");
        let (key, config) = if is_tls {
            let insecure = self.settings()?.is_insecure(&authority);
            self.tls.config(&authority, insecure)?
        } else {
            // No host's name has a space.
            ("plain http".to_owned(), Tls::none()?)
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let to_proxy = match self.proxies.want_tls() {
            true => self.tls.config("", false)?.1,
            false => Tls::none()?,
        };
        let connector = Connector::new(self.timeouts.connect, self.proxies.clone(), to_proxy);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.as_ref().clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30));
        let client: Http = builder.build(connector);
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends a request and follows redirects. Any final status is an answer, not an error.
    ///
    /// # Errors
    /// `Unreachable`, `Broken`, `Timeout`, `Redirect`, `Roots`, `Settings`.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Error> {
        let mut call = call.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send_once(&call).await?;
            if !call.follows(answer.status()) {
                return Ok(answer);
            }
            let target = self.location(&answer)?;
            if !endpoint::same_origin(&call.uri, &target) {
                call.headers.remove(AUTHORIZATION);
            }
            call.uri = target;
        }
        Err(Error::Redirect {
            host: host_of(&call.uri),
            target: without_query(&call.uri.to_string()),
            why: "too many redirects",
        })
    }

    /// Where an answer points to, if a request may go there.
    pub(crate) fn location(&self, answer: &Answer) -> Result<Uri, Error> {
        let location = answer.response.headers().get(LOCATION);
        let location = location.map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
        let location = location.unwrap_or_default();
        let refuse = |why| Error::Redirect {
            host: answer.host.clone(),
            target: without_query(&location),
            why,
        };
        let target = endpoint::join(&answer.uri, &location)
            .ok_or_else(|| refuse("that is not an address"))?;
        match self.settings()?.allows(&target) {
            true => Ok(target),
            false => Err(refuse("only TLS and this machine are allowed")),
        }
    }

    /// An address that was noted by an earlier command, if a request may go there.
    pub(crate) fn noted(&self, address: &str) -> Option<Uri> {
        let target: Uri = address.parse().ok()?;
        let is_allowed = self.settings().is_ok_and(|all| all.allows(&target));
        is_allowed.then_some(target)
    }

    async fn send_once(&self, call: &Call) -> Result<Answer, Error> {
        let host = host_of(&call.uri);
        let mut request = request(call, &host)?;
        // A proxy reads requests that are not in TLS; the others tell it when they connect.
        let proxy = self.proxies.of(&call.uri);
        if let Some(proxy) = proxy.filter(|_| call.uri.scheme_str() == Some("http"))
            && let Some(authorization) = &proxy.authorization
        {
            let headers = request.headers_mut();
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let client = self.client(&call.uri)?;
        let sent = self.in_time(&host, call, client.request(request)).await?;
        match sent {
            Ok(response) => Ok(Answer {
                host,
                uri: call.uri.clone(),
                response,
            }),
            Err(e) if e.is_connect() => Err(Error::Unreachable {
                host,
                source: connect_cause(e),
            }),
            Err(e) => Err(Error::Broken {
                host,
                source: Box::new(e),
            }),
        }
    }

    /// Waits for an answer. While a part of a blob goes out, the time begins anew with each piece.
    async fn in_time<T>(
        &self,
        host: &str,
        call: &Call,
        sent: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let within = match call.method {
            // Before it answers, a registry may have to put a large blob together.
            Method::PUT => self.timeouts.response * 5,
            _ => self.timeouts.response,
        };
        let timeout = |within: Duration| Error::Timeout {
            host: host.to_owned(),
            secs: within.as_secs(),
        };
        let Payload::Part(part) = &call.payload else {
            let answered = tokio::time::timeout(within, sent).await;
            return answered.map_err(|_| timeout(within));
        };
        let mut pieces = part.sent.subscribe();
        tokio::pin!(sent);
        loop {
            let moved = async {
                // The sender lives in `call`.
                let _ = pieces.changed().await;
            };
            tokio::select! {
                answered = &mut sent => return Ok(answered),
                () = moved => {}
                () = tokio::time::sleep(within) => return Err(timeout(within)),
            }
        }
    }
}

/// hyper's own "client error (Connect)" says nothing; what it wraps does.
fn connect_cause(error: legacy::Error) -> crate::error::Cause {
    use std::error::Error as _;
    match error.source() {
        Some(source) => {
            let mut text = source.to_string();
            let mut next = source.source();
            while let Some(cause) = next {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                next = cause.source();
            }
            text.into()
        }
        None => Box::new(error),
    }
}

fn request(call: &Call, host: &str) -> Result<Request<Body>, Error> {
    let protocol = |e: http::Error| Error::Protocol {
        host: host.to_owned(),
        what: e.to_string(),
    };
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.uri.clone())
        .body(call.payload.body())
        .map_err(protocol)?;
    *request.headers_mut() = call.headers.clone();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.remove(HOST);
    // Also of nothing: some registries want to be told.
    if call.method != Method::GET && call.method != Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(call.payload.len()));
    }
    Ok(request)
}

/// Host, and port if one is given, without a user name.
pub(crate) fn host_of(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |a| a.as_str());
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    host.to_owned()
}

/// The queries of signed addresses are secrets.
fn without_query(address: &str) -> String {
    address.split('?').next().unwrap_or_default().to_owned()
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header's value, if it is there and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, if it has at most `limit` bytes; otherwise `None`.
    ///
    /// # Errors
    /// `Broken`; `Stalled` when nothing comes for too long, `Timeout` when the whole takes too long.
    pub(crate) async fn body(
        self,
        limit: usize,
        timeouts: &Timeouts,
    ) -> Result<Option<Bytes>, Error> {
        let (whole, host) = (timeouts.stall * WHOLE, self.host);
        let read = read(self.response.into_body(), limit, &host, timeouts.stall);
        match tokio::time::timeout(whole, read).await {
            Ok(read) => read,
            Err(_) => Err(Error::Timeout {
                host,
                secs: whole.as_secs(),
            }),
        }
    }

    /// What a failure's body says: the first error of the protocol's list, or nothing.
    pub(crate) async fn detail(self, timeouts: &Timeouts) -> String {
        #[derive(serde::Deserialize)]
        struct Errors {
            errors: Vec<OneError>,
        }
        #[derive(serde::Deserialize)]
        struct OneError {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let Ok(Some(body)) = self.body(MAX_ERROR_BODY, timeouts).await else {
            return String::new();
        };
        let Ok(Errors { errors }) = serde_json::from_slice(&body) else {
            return String::new();
        };
        let text = errors
            .first()
            .map_or(String::new(), |e| match e.message.as_str() {
                "" => e.code.clone(),
                message => message.to_owned(),
            });
        text.chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

/// Reads a body that is not too large, each piece in time.
async fn read(
    mut body: Incoming,
    limit: usize,
    host: &str,
    stall: Duration,
) -> Result<Option<Bytes>, Error> {
    let host = || host.to_owned();
    let mut bytes = Vec::new();
    loop {
        let frame = match tokio::time::timeout(stall, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => {
                return Err(Error::Broken {
                    host: host(),
                    source: Box::new(e),
                });
            }
            Ok(None) => return Ok(Some(bytes.into())),
            Err(_) => {
                return Err(Error::Stalled {
                    host: host(),
                    secs: stall.as_secs(),
                });
            }
        };
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
    }
}
