//! Against a server that does what registries do on bad days.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::{Descriptor, Digest, Manifest, MediaType, VerifyError};
use registry::{Client, Error};
use support::{amd64, chain, client, collect, options, read, reference};
use testkit::registry::{Answer, Faulty, Request, reply};

const MANIFEST_TYPE: (&str, &str) = (
    "Content-Type",
    "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
);

fn manifest() -> Vec<u8> {
    let config = Descriptor::of(MediaType::OciConfig, b"{}");
    serde_json::to_vec(&Manifest::new(config, Vec::new())).unwrap()
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn layer() -> Descriptor {
    Descriptor::of(MediaType::OciLayer, &content())
}

fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> (Faulty, oci::Reference) {
    let server = Faulty::start(answer).unwrap();
    let r = reference(&format!("{}/a/b:1", server.addr));
    (server, r)
}

/// Where a range request starts.
fn range_start(request: &Request) -> usize {
    let range = request.header("range");
    range
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap_or(0)
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    for failure in [
        reply(429, &[], b""),
        reply(503, &[], b""),
        reply(500, &[], b""),
        Vec::new(),
        b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(),
        reply(200, &[MANIFEST_TYPE], &manifest())[..200].to_vec(),
    ] {
        let (server, r) = start(move |request| match request.earlier {
            0 | 1 => failure.clone(),
            _ => reply(200, &[MANIFEST_TYPE], &manifest()),
        });
        let resolved = client().resolve(&r, &amd64()).await;
        let resolved = resolved.unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(resolved.manifest.1, manifest());
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn lasting_failures_end_and_say_why() {
    let said = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit\u001b[2J"}]}"#;
    let (server, r) = start(|_| reply(429, &[], said));
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("{} answered 429: pull rate limit[2J", server.addr)
    );
    assert_eq!(server.requests().len(), 3);
    let (server, r) = start(|_| reply(418, &[], b"<html>"));
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    assert_eq!(chain(&error), format!("{} answered 418", server.addr));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn retry_after_is_honoured_and_bounded() {
    let (_server, r) = start(|request| match request.earlier {
        0 => reply(429, &[("Retry-After", "1")], b""),
        1 => reply(
            503,
            &[("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")],
            b"",
        ),
        _ => reply(200, &[MANIFEST_TYPE], &manifest()),
    });
    let begin = Instant::now();
    client().resolve(&r, &amd64()).await.unwrap();
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    // Nobody waits for that; and coming back sooner is not what was asked for.
    let (server, r) = start(|_| reply(429, &[("Retry-After", "3600")], b""));
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    let expect = format!(
        "{} answered 429 and asks to come back in 3600 seconds",
        server.addr
    );
    assert_eq!(chain(&error), expect);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    // Each answer breaks off after 300,000 bytes of what it announced.
    let (server, r) = start(|request| {
        let from = range_start(request);
        let content = content();
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        let status = if from > 0 { 206 } else { 200 };
        let mut answer = reply(status, &[("Content-Range", &range)], &content[from..]);
        answer.truncate(300_000);
        answer
    });
    assert_eq!(read(&client(), &r, &layer()).await.unwrap(), content());
    assert_eq!(server.requests().len(), 3);
    assert!(range_start(&server.requests()[2]) > 500_000);
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let (server, r) = start(|request| {
        let mut answer = reply(200, &[], &content());
        answer.truncate(300_000 * (request.earlier + 1));
        answer
    });
    assert_eq!(read(&client(), &r, &layer()).await.unwrap(), content());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn truncated_too_long_and_wrong_are_told_apart() {
    let digest = layer().digest;
    let expected = layer().size;
    let verify = |error: Error| match error {
        Error::Verify { source, .. } => source,
        other => panic!("{}", chain(&other)),
    };
    let (_server, r) = start(|_| {
        let mut answer = reply(200, &[], &content());
        let headers = answer.len() - content().len();
        answer.truncate(headers + 1000);
        answer
    });
    let error = verify(read(&client(), &r, &layer()).await.unwrap_err());
    assert_eq!(
        error,
        VerifyError::Truncated {
            digest,
            expected,
            got: 1000
        }
    );
    let (_server, r) = start(|_| reply(200, &[], &content()[..1000]));
    let error = verify(read(&client(), &r, &layer()).await.unwrap_err());
    assert_eq!(
        error,
        VerifyError::Truncated {
            digest,
            expected,
            got: 1000
        }
    );
    let (_server, r) = start(|_| reply(200, &[], &[content(), vec![0]].concat()));
    let error = verify(read(&client(), &r, &layer()).await.unwrap_err());
    assert_eq!(error, VerifyError::TooLong { digest, expected });
    let (server, r) = start(|_| reply(200, &[], &[&[9], &content()[1..]].concat()));
    let error = verify(read(&client(), &r, &layer()).await.unwrap_err());
    let got = Digest::of(&[&[9], &content()[1..]].concat());
    assert_eq!(
        error,
        VerifyError::Mismatch {
            expected: digest,
            got
        }
    );
    // With an offset the digest is the caller's.
    drop(server);
    let (_server, r) = start(|_| {
        reply(
            206,
            &[("Content-Range", "bytes 799999-799999/800000")],
            b"x",
        )
    });
    let stream = client().blob(&r, &layer(), 799_999).await.unwrap();
    assert_eq!(collect(stream).await.unwrap(), b"x");
    let (_server, r) = start(|_| reply(206, &[("Content-Range", "bytes 0-5/800000")], b"xxxxx"));
    let error = client().blob(&r, &layer(), 799_999).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let empty = Descriptor::of(MediaType::OciLayer, b"");
    let (_server, r) = start(|_| reply(200, &[], b""));
    assert_eq!(read(&client(), &r, &empty).await.unwrap(), b"");
}

#[tokio::test]
async fn bad_manifests_are_refused() {
    let check = async |answer: Vec<u8>, expect: &str| {
        let (_server, r) = start(move |_| answer.clone());
        let error = client().resolve(&r, &amd64()).await.unwrap_err();
        assert!(chain(&error).contains(expect), "{}", chain(&error));
    };
    let manifest = manifest();
    check(
        reply(200, &[MANIFEST_TYPE], b"<html>"),
        "not a valid manifest: expected value",
    )
    .await;
    check(
        reply(200, &[("Content-Type", "text/html")], b"{}"),
        "media type \"text/html\"",
    )
    .await;
    check(
        reply(200, &[MANIFEST_TYPE], &vec![b' '; 5 << 20]),
        "more than 4194304 bytes",
    )
    .await;
    let other = format!("{}", Digest::of(b"other"));
    let lying = [MANIFEST_TYPE, ("Docker-Content-Digest", other.as_str())];
    check(
        reply(200, &lying, &manifest),
        "digest mismatch: expected sha256:",
    )
    .await;
    let (_server, r) = start(move |_| reply(200, &[MANIFEST_TYPE], &manifest));
    let error = client()
        .resolve(&r.with_digest(Digest::of(b"other")), &amd64())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Verify { .. }), "{error:?}");
}

/// A registry and its token server in one. Gives a token for the right password, and for nobody
/// a token that is good for nothing.
fn with_tokens(basic: &'static str) -> (Arc<Faulty>, oci::Reference) {
    let addr = Arc::new(std::sync::OnceLock::new());
    let own_addr = addr.clone();
    let (server, r) = start(move |request: &Request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token?") {
            let scope = "service=reg&scope=repository%3Aa%2Fb%3Apull";
            assert_eq!(request.path, format!("/token?{scope}"));
            let token: &[u8] = if request.method == "POST" {
                panic!("no refresh token here")
            } else if authorization == basic {
                br#"{"token":"good"}"#
            } else {
                br#"{"access_token":"anonymous"}"#
            };
            return reply(200, &[], token);
        }
        if authorization == "Bearer good" {
            return reply(200, &[MANIFEST_TYPE], &manifest());
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:a/b:pull\"",
            own_addr.get().unwrap()
        );
        let said = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        reply(401, &[("WWW-Authenticate", &challenge)], said)
    });
    addr.set(server.addr).unwrap();
    (Arc::new(server), r)
}

fn docker_config(text: String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    dir
}

#[tokio::test]
async fn tokens_are_got_with_docker_s_credentials_and_kept() {
    // dXNlcjpwYXNz is user:pass
    let (server, r) = with_tokens("Basic dXNlcjpwYXNz");
    let config = docker_config(format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
        server.addr
    ));
    let client = Client::new(options(Some(config.path())));
    client
        .resolve(&r, &amd64())
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(server.requests().len(), 3, "challenge, token, manifest");
    client.resolve(&r, &amd64()).await.unwrap();
    assert_eq!(server.requests().len(), 4, "the token is kept");
    assert!(
        !format!("{client:?}").contains("good"),
        "Debug shows the token"
    );
    assert!(
        !format!("{client:?}").contains("dXNl"),
        "Debug shows the password"
    );
}

#[tokio::test]
async fn without_good_credentials_access_is_refused() {
    let (server, r) = with_tokens("Basic dXNlcjpwYXNz");
    let error = support::client().resolve(&r, &amd64()).await.unwrap_err();
    let expect = format!(
        "registry {} refused access to a/b: authentication required",
        server.addr
    );
    assert_eq!(chain(&error), expect);
    assert!(matches!(
        error,
        Error::Unauthorized {
            had_credentials: false,
            ..
        }
    ));
    assert_eq!(server.requests().len(), 3, "one more try, not more");
    let config = docker_config(format!(
        r#"{{"auths":{{"{}":{{"auth":"dTp4"}}}}}}"#,
        server.addr
    ));
    let error = Client::new(options(Some(config.path())))
        .resolve(&r, &amd64())
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        Error::Unauthorized {
            had_credentials: true,
            ..
        }
    ));
}

#[tokio::test]
async fn basic_authentication_works() {
    let (server, r) = start(|request| match request.header("authorization") {
        "Basic dXNlcjpwYXNz" => reply(200, &[MANIFEST_TYPE], &manifest()),
        _ => reply(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b""),
    });
    let config = docker_config(format!(
        r#"{{"auths":{{"http://{}/v1/":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
        server.addr
    ));
    let client = Client::new(options(Some(config.path())));
    client.resolve(&r, &amd64()).await.unwrap();
    assert!(support::client().resolve(&r, &amd64()).await.is_err());
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_to_other_hosts() {
    let other = Faulty::start(|_| reply(200, &[], &content())).unwrap();
    let target = format!("http://{}/blob?signature=secret", other.addr);
    let (server, r) = start(move |request| match request.header("authorization") {
        "Basic dXNlcjpwYXNz" => reply(307, &[("Location", &target)], b""),
        _ => reply(401, &[("WWW-Authenticate", "Basic")], b""),
    });
    let config = docker_config(format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
        server.addr
    ));
    let client = Client::new(options(Some(config.path())));
    assert_eq!(read(&client, &r, &layer()).await.unwrap(), content());
    assert_eq!(other.requests()[0].header("authorization"), "");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn nothing_goes_over_plain_http_to_other_machines() {
    let (server, r) = start(|_| reply(302, &[("Location", "http://192.0.2.1/x?sig=secret")], b""));
    let error = read(&client(), &r, &layer()).await.unwrap_err();
    let expect = format!(
        "{} points to \"http://192.0.2.1/x\": only TLS and this machine are allowed",
        server.addr
    );
    assert_eq!(chain(&error), expect);
    let (_server, r) = start(|_| {
        let challenge = "Bearer realm=\"http://192.0.2.1/token\"";
        reply(401, &[("WWW-Authenticate", challenge)], b"")
    });
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error:?}");
    let (server, r) = start(|_| reply(302, &[("Location", "/again")], b""));
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    assert!(
        chain(&error).contains("too many redirects"),
        "{}",
        chain(&error)
    );
    assert_eq!(server.requests().len(), 6);
}

/// The registry says how large the blob is that it has: nobody need read it.
#[tokio::test]
async fn wrong_lengths_are_found_out_at_once() {
    let check = async |answer: fn(&Request) -> Vec<u8>, offset: u64, expect: &str| {
        let (server, r) = start(answer);
        let error = match client().blob(&r, &layer(), offset).await {
            Ok(stream) => collect(stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(chain(&error).contains(expect), "{}", chain(&error));
        assert_eq!(server.requests().len(), 1);
    };
    let short = "is truncated: got 1000 of 800000 bytes";
    check(|_| reply(200, &[], &content()[..1000]), 0, short).await;
    check(
        |_| reply(416, &[("Content-Range", "bytes */1000")], b""),
        5000,
        short,
    )
    .await;
    let range = |_: &Request| reply(206, &[("Content-Range", "bytes 5-9/1000")], b"xxxxx");
    check(range, 5, short).await;
    let long = "is longer than its 800000 bytes";
    check(|_| reply(200, &[], &[content(), vec![0]].concat()), 0, long).await;
}

/// Ways in which servers refuse to send parts; each sends the whole when that is asked for.
#[tokio::test]
async fn refused_ranges_are_done_without() {
    for status in [200, 400, 416, 501] {
        let (server, r) = start(move |request| match request.range() {
            Some(_) if status != 200 => reply(status, &[], b""),
            _ => reply(200, &[], &content()),
        });
        let stream = client().blob(&r, &layer(), 500_000).await.unwrap();
        assert_eq!(collect(stream).await.unwrap(), content()[500_000..]);
        let requests = if status == 200 { 1 } else { 2 };
        assert_eq!(server.requests().len(), requests, "{status}");
    }
}

#[tokio::test]
async fn whoever_sends_next_to_nothing_is_given_up() {
    let mut quick = options(None);
    quick.stall_timeout = Duration::from_millis(300);
    quick.retry.attempts = 2;
    for trickles in [false, true] {
        let server = Faulty::start(move |_| {
            let mut bytes = reply(200, &[], &content());
            bytes.truncate(300_000);
            match trickles {
                true => Answer::from(bytes).trickle(Duration::from_millis(20)),
                false => Answer::from(bytes).stall(),
            }
        })
        .unwrap();
        let r = reference(&format!("{}/a", server.addr));
        let error = read(&Client::new(quick.clone()), &r, &layer()).await;
        let said = chain(&error.unwrap_err());
        assert!(
            said.contains("sent next to nothing for 0 seconds"),
            "{said}"
        );
    }
}

/// A manifest that comes by the byte is not waited for to its end, though it never stands still.
#[tokio::test]
async fn a_document_has_a_time_for_the_whole_of_it() {
    let mut quick = options(None);
    quick.stall_timeout = Duration::from_millis(200);
    quick.retry.attempts = 1;
    let server = Faulty::start(|_| {
        let mut bytes = reply(200, &[], &content());
        bytes.truncate(bytes.len() - content().len());
        Answer::from(bytes).trickle(Duration::from_millis(20))
    })
    .unwrap();
    let r = reference(&format!("{}/a", server.addr));
    let client = Client::new(quick);
    let platform = amd64();
    let resolved = tokio::time::timeout(Duration::from_secs(20), client.resolve(&r, &platform));
    let error = resolved.await.expect("an end").unwrap_err();
    assert!(matches!(error, Error::Timeout { secs: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let mut quick = options(None);
    quick.response_timeout = Duration::from_millis(200);
    quick.retry.attempts = 1;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let r = reference(&format!("{}/x", silent.local_addr().unwrap()));
    let error = Client::new(quick).resolve(&r, &amd64()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}
