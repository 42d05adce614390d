//! The ways to a registry: mirrors, proxies, authorities of one's own, and those that a person trusts unseen.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use oci::Reference;
use registry::{Client, ClientOptions, Error, Proxies};
use support::{amd64, chain, options, read, reference};
use testkit::image::{Image, ImageBuilder, Layer};
use testkit::registry::{Answer, Faulty, Registry, certificate, reply};

fn image() -> Image {
    let noise: Vec<u8> = (0..300_000_u32).map(|i| ((i * 7919) >> 5) as u8).collect();
    let image = ImageBuilder::new().architecture("amd64").cmd(["sh"]);
    image
        .layer(Layer::new().file("noise", noise))
        .build()
        .unwrap()
}

/// Registries in `registries.json`, and a client that reads it.
fn with_settings(dir: &Path, text: &str) -> ClientOptions {
    let path = dir.join("registries.json");
    std::fs::write(&path, text).unwrap();
    let mut options = options(None);
    options.settings = Some(path);
    options
}

/// All of the image comes, and is right.
async fn pull(client: &Client, r: &Reference, image: &Image) -> Result<(), Error> {
    let resolved = client.resolve(r, &amd64()).await?;
    assert_eq!(resolved.manifest.0.digest, image.manifest.digest);
    let config = client.blob_bytes(r, &resolved.parsed.config).await?;
    assert_eq!(config, image.blobs[&image.config.digest]);
    for layer in &resolved.parsed.layers {
        let bytes = read(client, r, layer).await?;
        assert_eq!(bytes, image.blobs[&layer.digest]);
    }
    Ok(())
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_last() {
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let registry = Faulty::with_image(&image, |_, right| right.whole()).unwrap();
    let r = reference(&format!("{}/a/b:1", registry.addr));
    type Bend = fn(&testkit::registry::Request, testkit::registry::Reply) -> Answer;
    // What the mirror does, how many requests it and the registry get.
    let cases: [(Bend, usize, usize); 6] = [
        (|_, right| right.whole(), 3, 0),
        // It has not all: it is asked again.
        (
            |request, right| match request.path.contains("/blobs/") {
                true => reply(404, &[], b"").into(),
                false => right.whole(),
            },
            3,
            2,
        ),
        // It has the wrong things, or has trouble: it is not.
        (|_, _| reply(503, &[], b"").into(), 1, 3),
        (
            |_, mut right| {
                right.body[0] ^= 1;
                right.whole()
            },
            1,
            3,
        ),
        (
            |_, _| reply(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b"").into(),
            1,
            3,
        ),
        // It breaks off in the middle, and the registry has the rest.
        (
            |request, right| match request.path.contains("/blobs/") {
                true => right.cut(right.body.len() / 2),
                false => right.whole(),
            },
            3,
            2,
        ),
    ];
    for (index, (bend, of_mirror, of_registry)) in cases.into_iter().enumerate() {
        let mirror = Faulty::with_image(&image, bend).unwrap();
        let settings = format!(
            r#"{{"mirrors": {{"{}": ["http://127.0.0.1:1", "http://{}"]}}}}"#,
            registry.addr, mirror.addr
        );
        let before = registry.requests().len();
        let client = Client::new(with_settings(dir.path(), &settings));
        let pulled = pull(&client, &r, &image).await;
        pulled.unwrap_or_else(|error| panic!("case {index}: {}", chain(&error)));
        let asked = (mirror.requests().len(), registry.requests().len() - before);
        assert_eq!(asked, (of_mirror, of_registry), "case {index}");
    }
    // What nobody has is the registry's answer.
    let settings = format!(r#"{{"mirrors": {{"127.0.0.1:2": ["{}"]}}}}"#, registry.addr);
    let client = Client::new(with_settings(dir.path(), &settings));
    let r = reference("127.0.0.1:2/a:1");
    pull(&client, &r, &image).await.unwrap();
    assert!(client.distrust_mirrors(&r).unwrap());
    assert!(!client.distrust_mirrors(&r).unwrap());
    let error = client.resolve(&r, &amd64()).await.unwrap_err();
    assert!(chain(&error).starts_with("registry 127.0.0.1:2 cannot be reached"));
    let client = Client::new(with_settings(dir.path(), "{"));
    let error = client.resolve(&r, &amd64()).await.unwrap_err();
    assert!(
        chain(&error).contains("registries.json is not valid"),
        "{}",
        chain(&error)
    );
}

/// Names of hosts that resolve nowhere, and what they shall lead to.
struct Tunnels {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    /// A proxy that opens tunnels to `target`, whatever it is asked for. It ends with the test's process.
    fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut head = String::new();
                let mut reader = BufReader::with_capacity(1, stream.try_clone().unwrap());
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
                log.lock().unwrap().push(head);
                let onward = TcpStream::connect(target).unwrap();
                (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                for (from, to) in [
                    (stream.try_clone(), onward.try_clone()),
                    (Ok(onward), Ok(stream)),
                ] {
                    let (mut from, mut to) = (from.unwrap(), to.unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { addr, heads }
    }
}

fn proxies(https: &str) -> Proxies {
    Proxies::from_variables(|name| (name == "HTTPS_PROXY").then(|| https.to_owned()))
}

/// A real registry with TLS, behind a proxy, with an authority of its own, for those only that show a certificate.
#[tokio::test]
async fn proxies_and_certificates_of_one_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, key) = certificate(dir.path(), "registry.test").unwrap();
    let open = Registry::start_tls(&pem, &key).unwrap();
    let closed = Registry::start_mutual_tls(&pem, &key).unwrap();
    let r = reference("registry.test:5000/not/here:1");
    let ask = async |registry: &Registry, certificates: &Path, settings: &str| {
        let tunnels = Tunnels::start(registry.addr);
        let mut options = with_settings(dir.path(), settings);
        options.certificates = vec![certificates.to_owned()];
        options.proxies = proxies(&format!("http://me:se%20cret@{}", tunnels.addr));
        let error = Client::new(options)
            .resolve(&r, &amd64())
            .await
            .unwrap_err();
        if matches!(error, Error::Roots(_)) {
            // Before anybody was asked.
            return error;
        }
        let heads = tunnels.heads.lock().unwrap().clone();
        let first = heads[0].lines().next().unwrap_or_default().to_owned();
        assert_eq!(first, "CONNECT registry.test:5000 HTTP/1.1");
        // Oracle: `printf 'me:se cret' | base64`.
        assert!(
            heads[0].contains("Proxy-Authorization: Basic bWU6c2UgY3JldA=="),
            "{heads:?}"
        );
        error
    };
    let none = dir.path().join("none");
    let error = ask(&open, &none, "{}").await;
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    assert!(error.remedy().unwrap().contains("certs.d"));
    let certs = dir.path().join("certs.d");
    let own = certs.join("registry.test:5000");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(&pem, own.join("ca.crt")).unwrap();
    let error = ask(&open, &certs, "{}").await;
    assert!(matches!(error, Error::NotFound { .. }), "{}", chain(&error));
    let error = ask(&closed, &certs, "{}").await;
    assert!(
        !matches!(error, Error::NotFound { .. }),
        "{}",
        chain(&error)
    );
    std::fs::copy(&pem, own.join("client.cert")).unwrap();
    let error = ask(&closed, &certs, "{}").await;
    assert!(chain(&error).contains("client.key"), "{}", chain(&error));
    std::fs::copy(&key, own.join("client.key")).unwrap();
    let error = ask(&closed, &certs, "{}").await;
    assert!(matches!(error, Error::NotFound { .. }), "{}", chain(&error));
    // Whoever is named as insecure need not prove who it is.
    let insecure = r#"{"insecure-registries": ["registry.test:5000"]}"#;
    let error = ask(&open, &none, insecure).await;
    assert!(matches!(error, Error::NotFound { .. }), "{}", chain(&error));
}

/// A proxy is asked for whole addresses where there is no TLS.
#[tokio::test]
async fn plain_http_is_for_those_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let proxy = Faulty::with_image(&image, |request, right| match request.method.as_str() {
        "CONNECT" => reply(502, &[], b"").into(),
        _ => right.whole(),
    })
    .unwrap();
    let proxied = |settings: &str| {
        let mut options = with_settings(dir.path(), settings);
        let all = format!("u:p@{}", proxy.addr);
        options.proxies =
            Proxies::from_variables(|name| (name == "ALL_PROXY").then(|| all.clone()));
        Client::new(options)
    };
    let r = reference("registry.test:5000/a/b:1");
    let error = pull(&proxied("{}"), &r, &image).await.unwrap_err();
    let expect = format!(
        "registry registry.test:5000 cannot be reached: proxy {} answered 502 when it was asked for registry.test:5000",
        proxy.addr
    );
    assert_eq!(chain(&error), expect);
    assert!(error.remedy().unwrap().contains("NO_PROXY"));
    let named = proxied(r#"{"insecure-registries": ["registry.test:5000"]}"#);
    pull(&named, &r, &image)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let requests = proxy.requests();
    let last = requests.last().unwrap();
    assert!(
        last.path
            .starts_with("http://registry.test:5000/v2/a/b/blobs/"),
        "{}",
        last.path
    );
    // Oracle: `printf u:p | base64`.
    assert_eq!(last.header("proxy-authorization"), "Basic dTpw");
    // A mirror with http:// is named, too.
    let settings = r#"{"registry-mirrors": ["http://mirror.test"]}"#;
    pull(&proxied(settings), &reference("debian"), &image)
        .await
        .unwrap();
    // This machine is asked without a proxy.
    let here = Faulty::with_image(&image, |_, right| right.whole()).unwrap();
    let r = reference(&format!("{}/a:1", here.addr));
    let before = proxy.requests().len();
    pull(&proxied("{}"), &r, &image).await.unwrap();
    assert_eq!(proxy.requests().len(), before);
    // A proxy that is of no use is named, without its password.
    let mut options = options(None);
    options.proxies = proxies("socks5://me:secret@127.0.0.1:1");
    let error = Client::new(options)
        .resolve(&reference("a.test/b"), &amd64())
        .await;
    let said = chain(&error.unwrap_err());
    assert!(
        said.contains("socks5://127.0.0.1:1 speaks SOCKS") && !said.contains("secret"),
        "{said}"
    );
}
