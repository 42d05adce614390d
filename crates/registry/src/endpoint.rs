//! Where a registry is, and where a redirect leads.

use http::Uri;
use oci::Reference;

/// The name of Docker's registry in references, and where it is.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The host, and port if one is given, that serves the reference.
pub(crate) fn host(reference: &Reference) -> &str {
    host_of_registry(reference.registry())
}

/// The same for a registry's name as it stands in references.
pub(crate) fn host_of_registry(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => DOCKER_HUB_HOST,
        other => other,
    }
}

/// `scheme://host/v2/`: answers whoever may use the registry.
pub(crate) fn base(registry: &str) -> Result<Uri, http::Error> {
    let host = host_of_registry(registry);
    let scheme = if is_loopback(host) { "http" } else { "https" };
    Uri::builder()
        .scheme(scheme)
        .authority(host)
        .path_and_query("/v2/")
        .build()
}

/// `scheme://host/v2/repository/kind/what`.
pub(crate) fn url(reference: &Reference, kind: &str, what: &str) -> Result<Uri, http::Error> {
    let host = host(reference);
    let scheme = if is_loopback(host) { "http" } else { "https" };
    let path = format!("/v2/{}/{kind}/{what}", reference.repository());
    Uri::builder()
        .scheme(scheme)
        .authority(host)
        .path_and_query(path)
        .build()
}

/// Whether a host, with or without a port, is this machine: the only kind that is spoken to without TLS.
pub(crate) fn is_loopback(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address
            .parse::<std::net::Ipv6Addr>()
            .is_ok_and(|a| a.is_loopback());
    }
    let host = authority.split(':').next().unwrap_or_default();
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|a| a.is_loopback())
}

/// Whether a request may go there: TLS, or this machine.
pub(crate) fn is_private(uri: &Uri) -> bool {
    let host = uri.authority().map_or("", |a| a.as_str());
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(host),
        _ => false,
    }
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
    fn plain_http_is_for_loopback_only() {
        let check = |reference: &str, expect: &str| {
            let reference = reference.parse().unwrap();
            assert_eq!(url(&reference, "manifests", "1").unwrap(), *expect);
        };
        check(
            "debian",
            "https://registry-1.docker.io/v2/library/debian/manifests/1",
        );
        check(
            "localhost:5000/a/b",
            "http://localhost:5000/v2/a/b/manifests/1",
        );
        check("127.9.9.9/a", "http://127.9.9.9/v2/a/manifests/1");
        check("[::1]:5000/a", "http://[::1]:5000/v2/a/manifests/1");
        check("[::2]:5000/a", "https://[::2]:5000/v2/a/manifests/1");
        check(
            "128.0.0.1:5000/a",
            "https://128.0.0.1:5000/v2/a/manifests/1",
        );
        check(
            "localhost.example/a",
            "https://localhost.example/v2/a/manifests/1",
        );
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

    #[test]
    fn user_names_do_not_pass_for_loopback() {
        let private = |uri: &str| uri.parse().is_ok_and(|uri| is_private(&uri));
        assert!(!private("http://localhost@evil.example/"));
        assert!(private("http://localhost:1/"));
        assert!(!private("ftp://localhost/"));
    }
}
