//! Where a registry is, and where a redirect leads.

use http::Uri;

use crate::error::Error;

/// The name of Docker's registry in references, and where it is.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A registry or a mirror of one, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As references and Docker's configuration name it: whose credentials are good here.
    pub(crate) registry: String,
    /// Host, and port if one is given.
    pub(crate) authority: String,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) is_mirror: bool,
}

/// A repository in one place.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) endpoint: Endpoint,
    pub(crate) repository: String,
    /// What is asked for there is the right to push, too.
    pub(crate) writes: bool,
}

impl Endpoint {
    /// A registry itself, named as in references.
    pub(crate) fn of_registry(registry: &str, scheme: &'static str) -> Self {
        Self {
            registry: registry.to_owned(),
            authority: host_of_registry(registry).to_owned(),
            scheme,
            is_mirror: false,
        }
    }

    /// `scheme://host/path`; the path begins with a slash.
    pub(crate) fn url(&self, path: &str) -> Result<Uri, Error> {
        let uri = Uri::builder()
            .scheme(self.scheme)
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build();
        uri.map_err(|error| Error::Protocol {
            host: self.authority.clone(),
            what: error.to_string(),
        })
    }
}

impl Site {
    /// `scheme://host/v2/repository/kind/what`.
    pub(crate) fn url(&self, kind: &str, what: &str) -> Result<Uri, Error> {
        self.endpoint
            .url(&format!("/v2/{}/{kind}/{what}", self.repository))
    }

    /// For errors.
    pub(crate) fn host(&self) -> String {
        self.endpoint.authority.clone()
    }
}

/// The host, and port if one is given, of a registry as references name it.
pub(crate) fn host_of_registry(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => DOCKER_HUB_HOST,
        other => other,
    }
}

/// A host, without its brackets if it is an IPv6 address, and the port if there is one.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    if let Some((address, rest)) = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return (address, rest.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match authority.split_once(':') {
        // More than one colon: an address without brackets.
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Whether a host, with or without a port, is this machine: the only kind that is spoken to without TLS unasked.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let (host, _) = split_port(authority);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and port: what credentials are good for.
pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        uri.port_u16().unwrap_or(default)
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// A `Location`, which may be relative, seen from `base` (RFC 3986, section 5.2, without `..`).
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let path = base.path();
        let dir = &path[..=path.rfind('/')?];
        format!("{scheme}://{authority}{dir}{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    uri.host().filter(|host| !host.is_empty())?;
    Some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        for (authority, expect) in [
            ("localhost:5000", true),
            ("LOCALHOST", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("::1", true),
            ("[::2]:5000", false),
            ("128.0.0.1:5000", false),
            ("localhost.example", false),
            ("registry-1.docker.io", false),
        ] {
            assert_eq!(is_loopback(authority), expect, "{authority}");
        }
        let check = |text, expect| assert_eq!(split_port(text), expect);
        check("a.example:5000", ("a.example", Some(5000)));
        check("a.example", ("a.example", None));
        check("[fd00::1]:5000", ("fd00::1", Some(5000)));
        check("[fd00::1]", ("fd00::1", None));
        check("fd00::1", ("fd00::1", None));
    }

    #[test]
    fn addresses_of_documents() {
        let reference: oci::Reference = "debian".parse().unwrap();
        let site = Site {
            endpoint: Endpoint::of_registry(reference.registry(), "https"),
            repository: reference.repository().to_owned(),
            writes: false,
        };
        let expect = "https://registry-1.docker.io/v2/library/debian/manifests/1";
        assert_eq!(site.url("manifests", "1").unwrap(), *expect);
    }

    #[test]
    fn locations_join() {
        let base: Uri = "https://a.example:8443/v2/x/blobs/y".parse().unwrap();
        let check = |location: &str, expect: Option<&str>| {
            let got = join(&base, location).map(|u| u.to_string());
            assert_eq!(got.as_deref(), expect, "{location}");
        };
        check("https://b.example/c?d#e", Some("https://b.example/c?d"));
        check("//b.example/c", Some("https://b.example/c"));
        check(
            "/c?d=https://x/",
            Some("https://a.example:8443/c?d=https://x/"),
        );
        check("c", Some("https://a.example:8443/v2/x/blobs/c"));
        check("https://", None);
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("http://a/x", "http://a:81/x"));
    }
}
