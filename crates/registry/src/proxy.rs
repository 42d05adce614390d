//! Proxies, as the environment names them: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, or the same in lower
//! case. The rules are those of Go's `golang.org/x/net/http/httpproxy`, which Docker follows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};

use crate::endpoint::{is_loopback, split_port};
use crate::network::{Network, address};

/// Which proxies to use for what. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy, and how to convince it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `http://host:port/`, or `https:` where the proxy itself is spoken to over TLS. Otherwise as it was written.
    uri: Result<Uri, String>,
    /// Marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
}

/// No proxy for those.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Addresses(Network, Option<u16>),
    /// A name and what is below it; or, without the first, below it only.
    Domain {
        itself: bool,
        name: String,
        port: Option<u16>,
    },
}

/// Why a proxy is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the proxy {0:?} is not an address such as http://proxy.example:3128")]
    Address(String),
    #[error(
        "the proxy {0} speaks SOCKS, and gourd speaks HTTP to proxies: set HTTPS_PROXY and HTTP_PROXY to one such as \
         http://proxy.example:3128, or NO_PROXY to what needs none"
    )]
    Socks(String),
    #[error("proxy {proxy} cannot be reached: {cause}")]
    Unreachable { proxy: String, cause: String },
    #[error(
        "proxy {proxy} wants a user and a password: write them into its address, http://USER:PASSWORD@HOST:PORT"
    )]
    Unauthorized { proxy: String },
    #[error("proxy {proxy} answered {status} when it was asked for {target}")]
    Refused {
        proxy: String,
        status: u16,
        target: String,
    },
    #[error("proxy {proxy} does not speak HTTP")]
    Protocol { proxy: String },
    #[error("the connection to proxy {proxy} broke")]
    Broken { proxy: String },
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.uri {
            Ok(uri) => write!(f, "Proxy({uri})"),
            Err(_) => f.write_str("Proxy(unusable)"),
        }
    }
}

impl Proxies {
    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// What an environment says; `variable` gives a variable's value.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            let found = variable(name).filter(|value| !value.is_empty());
            found.or_else(|| variable(&name.to_ascii_lowercase()))
        };
        let proxy = |name: &str| get(name).as_deref().and_then(Proxy::parse);
        let all = proxy("ALL_PROXY");
        // A CGI program's HTTP_PROXY is the client's `Proxy` header (CVE-2016-5385).
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let http = if is_cgi { None } else { proxy("HTTP_PROXY") };
        Self {
            http: http.or_else(|| all.clone()),
            https: proxy("HTTPS_PROXY").or(all),
            exceptions: exceptions(&get("NO_PROXY").unwrap_or_default()),
        }
    }

    /// Whether one of them is spoken to over TLS.
    pub(crate) fn want_tls(&self) -> bool {
        let is_tls = |proxy: &Proxy| {
            proxy
                .uri()
                .is_ok_and(|uri| uri.scheme_str() == Some("https"))
        };
        self.http.iter().chain(&self.https).any(is_tls)
    }

    /// The proxy for an address. There is never one for this machine.
    pub(crate) fn of(&self, target: &Uri) -> Option<&Proxy> {
        let is_tls = target.scheme_str() == Some("https");
        let proxy = match is_tls {
            true => self.https.as_ref(),
            false => self.http.as_ref(),
        }?;
        let host = target.host()?.to_ascii_lowercase();
        if is_loopback(&host) {
            return None;
        }
        let port = target.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let excepted = self.exceptions.iter().any(|one| one.matches(&host, port));
        (!excepted).then_some(proxy)
    }
}

impl Proxy {
    /// `None` when nothing is named.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let whole = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        // A password is nobody's to see.
        let shown = || {
            let (scheme, rest) = whole.split_once("://").unwrap_or(("", &whole));
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        };
        let unusable = |shown: String| {
            Some(Self {
                uri: Err(shown),
                authorization: None,
            })
        };
        let Ok(uri) = whole.parse::<Uri>() else {
            return unusable(shown());
        };
        let (Some(scheme @ ("http" | "https")), Some(authority)) =
            (uri.scheme_str(), uri.authority())
        else {
            return unusable(shown());
        };
        let authority = authority.as_str();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let authorization = user.and_then(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let plain = [decode(name), b":".to_vec(), decode(password)].concat();
            let mut value =
                HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let uri = format!("{scheme}://{host}/").parse().map_err(|_| shown());
        Some(Self { uri, authorization })
    }

    /// Where it is.
    pub(crate) fn uri(&self) -> Result<&Uri, ProxyError> {
        self.uri.as_ref().map_err(|text| {
            let is_socks = text
                .get(..5)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("socks"));
            match is_socks {
                true => ProxyError::Socks(text.clone()),
                false => ProxyError::Address(text.clone()),
            }
        })
    }
}

/// Percent-decodes; what is no escape stays.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = text
            .get(at + 1..at + 3)
            .filter(|_| *byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    decoded
}

fn exceptions(text: &str) -> Vec<Exception> {
    let mut exceptions = Vec::new();
    for entry in text.split(',') {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return vec![Exception::All];
        }
        if let Some(network) = Network::parse(&entry) {
            exceptions.push(Exception::Addresses(network, None));
            continue;
        }
        let (host, port) = split_port(&entry);
        if let Some(network) = address(host).and_then(|one| Network::parse(&one.to_string())) {
            exceptions.push(Exception::Addresses(network, port));
            continue;
        }
        let below = host.strip_prefix('*').unwrap_or(host).strip_prefix('.');
        let name = below.unwrap_or(host);
        if !name.is_empty() {
            exceptions.push(Exception::Domain {
                itself: below.is_none(),
                name: name.to_owned(),
                port,
            });
        }
    }
    exceptions
}

impl Exception {
    fn matches(&self, host: &str, port: u16) -> bool {
        let same_port = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::All => true,
            Self::Addresses(network, wanted) => {
                same_port(wanted) && address(host).is_some_and(|one| network.contains(one))
            }
            Self::Domain {
                itself,
                name,
                port: wanted,
            } => {
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                same_port(wanted) && (below || *itself && host == name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            let found = variables.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// Oracle: the documentation of Go's httpproxy.Config, and its tests.
    #[test]
    fn exceptions_are_go_s() {
        let check = |no: &str, target: &str, proxied: bool| {
            let proxies = proxies(&[("HTTPS_PROXY", "proxy:3128"), ("NO_PROXY", no)]);
            let target: Uri = target.parse().unwrap();
            assert_eq!(proxies.of(&target).is_some(), proxied, "{no:?} {target}");
        };
        check("", "https://r.example/", true);
        check("*", "https://r.example/", false);
        check("example.com", "https://example.com/", false);
        check("example.com", "https://www.EXAMPLE.com/", false);
        check("example.com", "https://notexample.com/", true);
        check(".example.com", "https://example.com/", true);
        check(".example.com", "https://a.example.com/", false);
        check("*.example.com", "https://a.b.example.com/", false);
        check("a, example.com:8443 ,b", "https://example.com:8443/", false);
        check("example.com:8443", "https://example.com/", true);
        check("10.0.0.0/8", "https://10.1.2.3:5000/", false);
        check("10.1.2.3:5000", "https://10.1.2.3:5000/", false);
        check("10.1.2.3:5001", "https://10.1.2.3:5000/", true);
        check("[fd00::1]:5000", "https://[fd00::1]:5000/", false);
        check("fd00::/8", "https://[fd00::1]/", false);
        check("", "https://localhost:5000/", false);
        check("", "https://127.0.0.9/", false);
        check("", "https://[::1]:5000/", false);
    }

    #[test]
    fn proxies_are_chosen_by_scheme() {
        let check = |variables: &[(&str, &str)], target: &str, expect: Option<&str>| {
            let target = target.parse().unwrap();
            let proxies = proxies(variables);
            let found = proxies
                .of(&target)
                .map(|proxy| proxy.uri().unwrap().to_string());
            assert_eq!(found.as_deref(), expect, "{variables:?}");
        };
        let both = [("HTTP_PROXY", "one:1"), ("https_proxy", "https://two:2/x")];
        check(&both, "http://r.example/", Some("http://one:1/"));
        check(&both, "https://r.example/", Some("https://two:2/"));
        let all = [("ALL_PROXY", "u:p%40@all:3")];
        check(&all, "http://r.example/", Some("http://all:3/"));
        check(&[], "http://r.example/", None);
        let cgi = [("HTTP_PROXY", "evil:1"), ("REQUEST_METHOD", "GET")];
        check(&cgi, "http://r.example/", None);
        let target = "http://r.example/".parse().unwrap();
        let with_password = proxies(&all);
        let proxy = with_password.of(&target).unwrap();
        // Oracle: `printf u:p@ | base64`.
        assert_eq!(proxy.authorization.as_ref().unwrap(), "Basic dTpwQA==");
        assert!(!format!("{with_password:?}").contains("dTp"));
        let refused = |proxy: &str, expect: &str| {
            let proxies = proxies(&[("ALL_PROXY", proxy)]);
            let error = proxies.of(&target).unwrap().uri().unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert!(!error.contains("secret"), "{error}");
        };
        for scheme in ["socks5", "socks5h", "socks4", "SOCKS"] {
            let proxy = format!("{scheme}://me:secret@proxy:1080");
            refused(
                &proxy,
                &format!("the proxy {scheme}://proxy:1080 speaks SOCKS"),
            );
        }
        refused("ftp://me:secret@proxy", "is not an address");
    }
}
