//! HTTP: one request, answered with headers in time, redirects followed.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::endpoint;
use crate::error::Error;

const MAX_REDIRECTS: usize = 5;
/// As much of an error's body as is read.
const MAX_ERROR_BODY: usize = 16 << 10;
const AGENT: &str = concat!("gourd/", env!("CARGO_PKG_VERSION"));

type Https = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;
type Http = legacy::Client<HttpConnector, Full<Bytes>>;

/// Times allowed for the parts of a request.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) stall: Duration,
}

#[derive(Debug)]
pub(crate) struct Transport {
    http: Http,
    /// Made when first needed: it reads all of the system's certificates.
    https: OnceLock<Https>,
    ca_file: Option<PathBuf>,
    pub(crate) timeouts: Timeouts,
}

/// An answer, and who gave it after redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) host: String,
    pub(crate) response: Response<Incoming>,
}

/// A request that can be sent more than once.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// A form to post; without one it is a `GET`.
    pub(crate) form: Option<String>,
}

impl Call {
    pub(crate) fn get(uri: Uri) -> Self {
        Self {
            uri,
            headers: HeaderMap::new(),
            form: None,
        }
    }
}

impl Transport {
    pub(crate) fn new(ca_file: Option<PathBuf>, timeouts: Timeouts) -> Self {
        let http = builder().build(tcp(&timeouts));
        Self {
            http,
            https: OnceLock::new(),
            ca_file,
            timeouts,
        }
    }

    fn https(&self) -> Result<&Https, Error> {
        if let Some(client) = self.https.get() {
            return Ok(client);
        }
        let roots = load_roots(self.ca_file.as_deref())?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Roots(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = tcp(&self.timeouts);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(self.https.get_or_init(|| builder().build(connector)))
    }

    /// Sends a request and follows redirects. Any final status is an answer, not an error.
    ///
    /// # Errors
    /// `Unreachable`, `Broken`, `Timeout`, `Redirect`, `Roots`.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Error> {
        let mut call = call.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send_once(&call).await?;
            let status = answer.response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) || call.form.is_some() {
                return Ok(answer);
            }
            let location = answer.response.headers().get(LOCATION);
            let location = location.map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
            let location = location.unwrap_or_default();
            let refuse = |why| Error::Redirect {
                host: answer.host.clone(),
                target: without_query(&location),
                why,
            };
            let target = endpoint::join(&call.uri, &location)
                .ok_or_else(|| refuse("that is not an address"))?;
            if !endpoint::is_private(&target) {
                return Err(refuse("only TLS and this machine are allowed"));
            }
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

    async fn send_once(&self, call: &Call) -> Result<Answer, Error> {
        let host = host_of(&call.uri);
        let is_https = call.uri.scheme_str() == Some("https");
        let request = request(call, &host)?;
        let sent = async {
            if is_https {
                Ok::<_, Error>(self.https()?.request(request).await)
            } else {
                Ok(self.http.request(request).await)
            }
        };
        let within = self.timeouts.response;
        let response = match tokio::time::timeout(within, sent).await {
            Ok(response) => response?,
            Err(_) => {
                let secs = within.as_secs();
                return Err(Error::Timeout { host, secs });
            }
        };
        match response {
            Ok(response) => Ok(Answer { host, response }),
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

fn request(call: &Call, host: &str) -> Result<Request<Full<Bytes>>, Error> {
    let protocol = |e: http::Error| Error::Protocol {
        host: host.to_owned(),
        what: e.to_string(),
    };
    let method = if call.form.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let body = call.form.clone().unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(call.uri.clone())
        .body(Full::new(Bytes::from(body)))
        .map_err(protocol)?;
    *request.headers_mut() = call.headers.clone();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.remove(HOST);
    if call.form.is_some() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
    }
    Ok(request)
}

fn builder() -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30));
    builder
}

fn tcp(timeouts: &Timeouts) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(timeouts.connect));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp
}

fn load_roots(ca_file: Option<&std::path::Path>) -> Result<rustls::RootCertStore, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = ca_file {
        let unreadable =
            |e: &dyn std::fmt::Display| Error::Roots(format!("{}: {e}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|e| unreadable(&e))?;
            roots.add(certificate).map_err(|e| unreadable(&e))?;
        }
    }
    if roots.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(Error::Roots(why.unwrap_or_else(|| {
            "the system has none, install ca-certificates or set SSL_CERT_FILE".to_owned()
        })));
    }
    Ok(roots)
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

    /// The body, if it has at most `limit` bytes; otherwise `None`.
    pub(crate) async fn body(
        self,
        limit: usize,
        timeouts: &Timeouts,
    ) -> Result<Option<Bytes>, Error> {
        let mut body = self.response.into_body();
        let mut bytes = Vec::new();
        loop {
            let frame = tokio::time::timeout(timeouts.stall, body.frame()).await;
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => {
                    return Err(Error::Broken {
                        host: self.host,
                        source: Box::new(e),
                    });
                }
                Ok(None) => return Ok(Some(bytes.into())),
                Err(_) => {
                    let secs = timeouts.stall.as_secs();
                    return Err(Error::Timeout {
                        host: self.host,
                        secs,
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
