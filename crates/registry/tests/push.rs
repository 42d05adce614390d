//! Pushing to Debian's docker-registry, with skopeo as the oracle, and to one that breaks off.

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};

use oci::{Descriptor, Digest, MediaType, Reference};
use registry::{Client, Error, Pushed, Source};
use support::{amd64, chain, options, read, reference};
use testkit::image::{Image, ImageBuilder, Layer};
use testkit::registry::{Answer, Faulty, PASSWORD, Registry, Request, USER, reply};
use tokio::sync::Notify;

fn image() -> Image {
    let noise: Vec<u8> = (0..300_000_u32).map(|i| ((i * 7919) >> 5) as u8).collect();
    let image = ImageBuilder::new().architecture("amd64").cmd(["sh"]);
    image
        .layer(Layer::new().file("noise", noise))
        .build()
        .unwrap()
}

fn source(bytes: &[u8]) -> Source {
    let bytes = bytes.to_vec();
    Arc::new(move |offset, length| {
        let rest = &bytes[offset as usize..];
        Ok(rest[..length.min(rest.len())].to_vec().into())
    })
}

async fn push(client: &Client, r: &Reference, image: &Image) -> Result<(), Error> {
    for blob in image.layers.iter().chain([&image.config]) {
        let source = source(&image.blobs[&blob.digest]);
        client.push_blob(r, blob, &[], source, &|_| {}).await?;
    }
    let manifest = image.blobs[&image.manifest.digest].clone();
    client
        .push_manifest(r, &image.manifest.media_type, manifest.into())
        .await
}

/// Oracle: what skopeo says the digest is.
fn inspected(name: &str) -> String {
    let output = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "-f", "{{.Digest}}"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo is needed: install the package skopeo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_real_registry_has_what_was_pushed() {
    let registry = Registry::start().unwrap();
    let image = image();
    // In one request, and in several.
    for (name, upload_size) in [("whole:1", 64 << 20), ("parts:1", 100_000), ("even:1", 1)] {
        let mut options = options(None);
        // The last part has no more than a byte.
        options.upload_size = match upload_size {
            1 => image.layers[0].size - 1,
            size => size,
        };
        let client = Client::new(options);
        let r = reference(&registry.reference(name));
        let pushed = push(&client, &r, &image).await;
        pushed.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(
            inspected(&registry.reference(name)),
            image.manifest.digest.to_string()
        );
        let resolved = client.resolve(&r, &amd64()).await.unwrap();
        for layer in &resolved.parsed.layers {
            let bytes = read(&client, &r, layer).await.unwrap();
            assert_eq!(bytes, image.blobs[&layer.digest]);
        }
    }
    let client = Client::new(options(None));
    let layer = &image.layers[0];
    let push = async |name: &str, mounts: &[&str], bytes: &[u8]| {
        let mounts: Vec<String> = mounts.iter().map(|&one| one.to_owned()).collect();
        let r = reference(&registry.reference(name));
        client
            .push_blob(&r, layer, &mounts, source(bytes), &|_| {})
            .await
    };
    // Nothing is read where nothing need be sent.
    assert_eq!(push("whole:2", &[], b"").await.unwrap(), Pushed::Exists);
    let mounted = push("other/repository:1", &["whole"], b"").await.unwrap();
    assert_eq!(mounted, Pushed::Mounted("whole".to_owned()));
    let bytes = &image.blobs[&layer.digest];
    let sent = push("third:1", &["not/here"], bytes).await.unwrap();
    assert_eq!(sent, Pushed::Sent);
    // What is not what it says is refused, and what cannot be read is told.
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    let error = push("fourth:1", &[], &wrong).await.unwrap_err();
    assert!(chain(&error).contains("digest"), "{}", chain(&error));
    let error = push("fourth:1", &[], &[]).await.unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{}", chain(&error));
    let r = reference(&registry.reference("fourth:1"));
    assert!(!client.has_blob(&r, layer).await.unwrap());
    // Its blobs are missing.
    let manifest = image.blobs[&image.manifest.digest].clone();
    let error = client.push_manifest(&r, &image.manifest.media_type, manifest.into());
    let said = chain(&error.await.unwrap_err());
    assert!(
        said.contains("answered 400") && said.contains("blob"),
        "{said}"
    );
    let digest = image.manifest.digest;
    let has = async |name: &str| {
        let r = reference(&registry.reference(name));
        client.has_manifest(&r, &digest).await.unwrap()
    };
    assert!(has("whole:1").await && !has("fourth:1").await);
}

#[tokio::test]
async fn passwords_open_what_is_closed() {
    let registry = Registry::start_closed().unwrap();
    let image = image();
    let r = reference(&registry.reference("a:1"));
    let error = push(&Client::new(options(None)), &r, &image).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized { .. }),
        "{}",
        chain(&error)
    );
    let dir = tempfile::tempdir().unwrap();
    let server = registry::Server::new(&registry.addr.to_string());
    let login = registry::Login::new(USER, PASSWORD);
    registry::keep_login(dir.path(), &server, &login)
        .await
        .unwrap();
    let client = Client::new(options(Some(dir.path())));
    push(&client, &r, &image)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    client.resolve(&r, &amd64()).await.unwrap();
}

/// A token is asked for with the right to push, and with that to read where something is mounted from.
#[tokio::test]
async fn tokens_are_for_pushing() {
    let tokens = Faulty::start(|_| reply(200, &[], br#"{"token": "t"}"#)).unwrap();
    let realm = tokens.addr;
    let registry = Faulty::start(move |request| match request.header("authorization") {
        "Bearer t" if request.method == "HEAD" => reply(404, &[], b""),
        "Bearer t" => reply(201, &[("Location", "/v2/a/b/blobs/x")], b""),
        _ => {
            let scope = "repository:a/b:pull repository:other:pull";
            let challenge = format!("Bearer realm=\"http://{realm}/token\",scope=\"{scope}\"");
            reply(401, &[("WWW-Authenticate", &challenge)], b"")
        }
    })
    .unwrap();
    let r = reference(&format!("{}/a/b:1", registry.addr));
    let blob = Descriptor::of(MediaType::OciLayer, b"x");
    let client = Client::new(options(None));
    let mounts = ["other".to_owned()];
    let pushed = client
        .push_blob(&r, &blob, &mounts, source(b"x"), &|_| {})
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Mounted("other".to_owned()));
    let asked = &tokens.requests()[0].path;
    assert_eq!(
        asked,
        "/token?scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aother%3Apull"
    );
    let mount = registry.requests().pop().unwrap();
    let digest = blob.digest.to_string().replace(':', "%3A");
    let expect = format!("/v2/a/b/blobs/uploads/?mount={digest}&from=other");
    assert_eq!((mount.method.as_str(), mount.path), ("POST", expect));
}

/// An upload, as the registry has it.
#[derive(Default)]
struct Upload {
    session: u32,
    bytes: Vec<u8>,
    done: bool,
}

impl Upload {
    /// OCI distribution specification, "Pushing a blob in chunks".
    fn answer(&mut self, request: &Request, kept: usize) -> Vec<u8> {
        let place = format!("/upload/{}?state=x", self.session);
        let here = request
            .path
            .starts_with(&format!("/upload/{}?", self.session));
        let range = format!("0-{}", self.bytes.len().saturating_sub(1));
        match request.method.as_str() {
            "HEAD" if self.done => reply(200, &[], b""),
            "HEAD" => reply(404, &[], b""),
            "POST" => {
                self.session += 1;
                self.bytes.clear();
                let place = format!("/upload/{}?state=x", self.session);
                reply(202, &[("Location", &place)], b"")
            }
            _ if !here => reply(404, &[], b""),
            "GET" => reply(204, &[("Location", &place), ("Range", &range)], b""),
            "PATCH" | "PUT" => {
                let range = request.header("content-range");
                let start = range.split('-').next().unwrap_or_default();
                let start = start.parse().unwrap_or(self.bytes.len());
                if start != self.bytes.len() {
                    return reply(416, &[], b"");
                }
                let kept = kept.min(request.bytes.len());
                self.bytes.extend_from_slice(&request.bytes[..kept]);
                let range = format!("0-{}", self.bytes.len().saturating_sub(1));
                let is_last = request.method == "PUT";
                self.done = is_last && kept == request.bytes.len();
                let status = if is_last { 201 } else { 202 };
                reply(status, &[("Location", &place), ("Range", &range)], b"")
            }
            _ => reply(405, &[], b""),
        }
    }
}

/// What a command notes of its upload; it is killed after so many notes.
#[derive(Default)]
struct Noted {
    address: Mutex<Option<String>>,
    until: Mutex<usize>,
    enough: Notify,
}

impl registry::Upload for Noted {
    fn noted(&self) -> Option<String> {
        self.address.lock().unwrap().clone()
    }

    fn note(&self, address: Option<&str>) {
        *self.address.lock().unwrap() = address.map(str::to_owned);
        let mut until = self.until.lock().unwrap();
        *until = until.saturating_sub(1);
        if *until == 0 {
            self.enough.notify_one();
        }
    }
}

/// Pushes in parts of 300,000 bytes, and is killed at the second; pushes again. The bytes that the second one read.
async fn killed_and_again(r: &Reference, blob: &Descriptor, bytes: &[u8]) -> usize {
    let noted = Noted::default();
    *noted.until.lock().unwrap() = 2;
    let client = || {
        let mut options = options(None);
        options.upload_size = 300_000;
        Client::new(options)
    };
    let first = client();
    tokio::select! {
        pushed = first.push_noted_blob(r, blob, &[], source(bytes), &|_| {}, &noted) => panic!("{pushed:?}"),
        () = noted.enough.notified() => {}
    }
    drop(first);
    let read = Arc::new(Mutex::new(0));
    let (count, all) = (read.clone(), source(bytes));
    let counted: Source = Arc::new(move |offset, length| {
        let piece = all(offset, length)?;
        *count.lock().unwrap() += piece.len();
        Ok(piece)
    });
    *noted.until.lock().unwrap() = usize::MAX;
    let client = client();
    let pushed = client.push_noted_blob(r, blob, &[], counted, &|_| {}, &noted);
    let pushed = pushed
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(pushed, Pushed::Sent);
    assert_eq!(*noted.address.lock().unwrap(), None);
    *read.lock().unwrap()
}

fn million() -> Vec<u8> {
    (0..1_000_000_u32)
        .map(|i| (i.wrapping_mul(7919) >> 5) as u8)
        .collect()
}

/// What a registry has of a killed push's blob is not sent again.
#[tokio::test]
async fn a_killed_push_goes_on_where_it_stopped() {
    let bytes = million();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    let upload = Arc::new(Mutex::new(Upload::default()));
    let own = upload.clone();
    let server =
        Faulty::start(move |request| own.lock().unwrap().answer(request, usize::MAX)).unwrap();
    let r = reference(&format!("{}/a:1", server.addr));
    let read = killed_and_again(&r, &blob, &bytes).await;
    assert!(read <= 700_000, "{read}");
    let upload = upload.lock().unwrap();
    assert!(upload.done);
    assert_eq!(upload.session, 1, "it was begun once");
    assert_eq!(Digest::of(&upload.bytes), blob.digest);
}

/// Debian's docker-registry takes only what it was told the end of: it may have forgotten an upload that broke off within a part.
/// Either way the blob is whole.
#[tokio::test]
async fn a_killed_push_to_a_real_registry_is_whole_at_the_next() {
    let bytes = million();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    let registry = Registry::start().unwrap();
    let r = reference(&registry.reference("a:1"));
    let read = killed_and_again(&r, &blob, &bytes).await;
    println!("the second push sent {read} of {} bytes", bytes.len());
    assert!(read <= bytes.len());
    let client = Client::new(options(None));
    assert_eq!(support::read(&client, &r, &blob).await.unwrap(), bytes);
}

/// An upload that a registry does not know any more, or that is an address of nothing, is begun anew.
#[tokio::test]
async fn an_upload_that_is_lost_is_begun_anew() {
    let bytes = million();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    let registry = Registry::start().unwrap();
    for (tag, lost) in [
        ("1", "/v2/a/blobs/uploads/no-such?x=y"),
        ("2", "\u{0}"),
        ("3", ""),
    ] {
        let repository = format!("a{tag}");
        let r = reference(&registry.reference(&format!("{repository}:1")));
        let noted = Noted::default();
        *noted.until.lock().unwrap() = usize::MAX;
        *noted.address.lock().unwrap() = Some(match lost.starts_with('/') {
            true => format!("http://{}{lost}", registry.addr),
            false => lost.to_owned(),
        });
        let client = Client::new(options(None));
        let pushed = client.push_noted_blob(&r, &blob, &[], source(&bytes), &|_| {}, &noted);
        let pushed = pushed
            .await
            .unwrap_or_else(|error| panic!("{tag}: {}", chain(&error)));
        assert_eq!(pushed, Pushed::Sent, "{tag}");
        assert_eq!(support::read(&client, &r, &blob).await.unwrap(), bytes);
    }
}

/// At each of the requests that carry bytes something goes wrong once; what arrived is not sent again.
#[tokio::test]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|i| (i.wrapping_mul(7919) >> 5) as u8)
        .collect();
    let blob = Descriptor::of(MediaType::OciLayer, &bytes);
    for upload_size in [64 << 20, 300_000] {
        // What of the bytes arrives, whether the upload is forgotten, what is answered.
        type Fault = (usize, bool, fn() -> Answer);
        let faults: [Fault; 5] = [
            (100_000, false, || Answer::from(Vec::new()).reset()),
            (usize::MAX, false, || Answer::from(Vec::new())),
            (0, false, || reply(503, &[("Retry-After", "0")], b"").into()),
            (50_000, true, || Answer::from(Vec::new()).reset()),
            (0, false, || reply(404, &[], b"").into()),
        ];
        for (which, (kept, forgotten, answer)) in faults.into_iter().enumerate() {
            for at in 0..if upload_size < 1 << 20 { 5 } else { 1 } {
                let upload = Arc::new(Mutex::new(Upload::default()));
                let own = upload.clone();
                let carried = Mutex::new(0);
                let server = Faulty::start(move |request| {
                    let mut upload = own.lock().unwrap();
                    if matches!(request.method.as_str(), "PATCH" | "PUT") {
                        let mut carried = carried.lock().unwrap();
                        *carried += 1;
                        if *carried == at + 1 {
                            upload.answer(request, kept);
                            if forgotten {
                                upload.session += 1;
                                upload.bytes.clear();
                                upload.done = false;
                            }
                            return answer();
                        }
                    }
                    upload.answer(request, usize::MAX).into()
                })
                .unwrap();
                let mut options = options(None);
                options.upload_size = upload_size;
                let client = Client::new(options);
                let r = reference(&format!("{}/a:1", server.addr));
                let sent = Mutex::new(0);
                let note = |so_far| *sent.lock().unwrap() = so_far;
                let pushed = client
                    .push_blob(&r, &blob, &[], source(&bytes), &note)
                    .await;
                let case = format!("{upload_size} {which} {at}");
                let pushed = pushed.unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
                assert_eq!(pushed, Pushed::Sent, "{case}");
                let upload = upload.lock().unwrap();
                assert!(upload.done, "{case}");
                assert_eq!(Digest::of(&upload.bytes), blob.digest, "{case}");
                let requests = server.requests();
                let carried: usize = requests.iter().map(|request| request.bytes.len()).sum();
                if !forgotten && which != 4 && kept > 0 {
                    let most = bytes.len() + upload_size.min(1_000_000) as usize;
                    assert!(carried <= most, "{case}: {carried}");
                }
            }
        }
    }
    // For good: the error says so.
    let server = Faulty::start(|request| match request.method.as_str() {
        "POST" => reply(202, &[("Location", "/u")], b""),
        "HEAD" => reply(404, &[], b""),
        _ => reply(500, &[], b""),
    })
    .unwrap();
    let r = reference(&format!("{}/a:1", server.addr));
    let client = Client::new(options(None));
    let error = client
        .push_blob(&r, &blob, &[], source(&bytes), &|_| {})
        .await;
    assert_eq!(
        chain(&error.unwrap_err()),
        format!("{} answered 500", server.addr)
    );
}
