//! Logging in: against Debian's docker-registry with htpasswd, and a token server.

mod support;

use registry::{Client, Error, Login, Server, erase_login, keep_login};
use support::{amd64, client, options, reference};
use testkit::image::ImageBuilder;
use testkit::registry::{Faulty, PASSWORD, Registry, USER, reply};

#[tokio::test]
async fn a_real_registry_is_asked() {
    let registry = Registry::start_closed().unwrap();
    let server = Server::new(&registry.addr.to_string());
    let check = async |user: &str, password: &str| {
        client()
            .check_login(&server, &Login::new(user, password))
            .await
    };
    check(USER, PASSWORD).await.unwrap();
    for (user, password) in [(USER, "wrong"), ("bob", PASSWORD), (USER, "")] {
        let error = check(user, password).await.unwrap_err();
        assert!(matches!(error, Error::Login { .. }), "{error}");
        assert!(!format!("{error:?}").contains(PASSWORD));
    }
    let open = Registry::start().unwrap();
    let server = Server::new(&format!("http://{}/v2/", open.addr));
    client()
        .check_login(&server, &Login::new("any", "body"))
        .await
        .unwrap();
    let nobody = Server::new("127.0.0.1:1");
    let error = client()
        .check_login(&nobody, &Login::new("a", "b"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn what_was_kept_opens_the_registry() {
    let registry = Registry::start_closed().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    ImageBuilder::new()
        .architecture("amd64")
        .cmd(["sh"])
        .write_layout(&layout, "1")
        .unwrap();
    // Oracle: skopeo reads the file that we write.
    let config = dir.path().join("docker");
    let server = Server::new(&registry.addr.to_string());
    keep_login(&config, &server, &Login::new(USER, PASSWORD))
        .await
        .unwrap();
    let target = format!("docker://{}", registry.reference("a:1"));
    let copy = std::process::Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            "--authfile",
        ])
        .arg(config.join("config.json"))
        .arg(format!("oci:{}:1", layout.display()))
        .arg(target)
        .status();
    assert!(copy.expect("this test needs skopeo").success());
    let pull = async || {
        let client = Client::new(options(Some(&config)));
        client
            .resolve(&reference(&registry.reference("a:1")), &amd64())
            .await
    };
    pull().await.unwrap();
    erase_login(&config, &server).await.unwrap();
    let error = pull().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unauthorized {
                had_credentials: false,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_server_is_asked() {
    let tokens = Faulty::start(|request| {
        // Oracle: `printf alice:right | base64`.
        match request.header("authorization") {
            "Basic YWxpY2U6cmlnaHQ=" => reply(200, &[], br#"{"token": "t"}"#),
            _ => reply(
                401,
                &[],
                br#"{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}"#,
            ),
        }
    })
    .unwrap();
    let realm = tokens.addr;
    let registry = Faulty::start(move |request| match request.header("authorization") {
        "Bearer t" => reply(200, &[], b"{}"),
        _ => {
            let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"s\"");
            reply(401, &[("WWW-Authenticate", &challenge)], b"")
        }
    })
    .unwrap();
    let server = Server::new(&registry.addr.to_string());
    client()
        .check_login(&server, &Login::new("alice", "right"))
        .await
        .unwrap();
    let error = client()
        .check_login(&server, &Login::new("alice", "wrong"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error}");
    assert!(error.to_string().ends_with("who are you"), "{error}");
    let asked = &tokens.requests()[0].path;
    assert_eq!(asked, "/token?service=s");
}
