//! Against Debian's `docker-registry`, with images that skopeo pushed.

mod support;

use oci::{Descriptor, DigestCheck, MediaType};
use registry::{Client, Error};
use support::{amd64, chain, client, collect, options, read, reference};
use testkit::image::{ImageBuilder, Layer, Packing, write_layout};
use testkit::registry::{Faulty, Registry, certificate, reply};

fn small() -> ImageBuilder {
    ImageBuilder::new().architecture("amd64").cmd(["sh"])
}

#[tokio::test]
async fn a_busybox_image_comes_back_as_it_was_pushed() {
    let registry = Registry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let builder = ImageBuilder::busybox().unwrap().architecture("amd64");
    let builder = builder
        .packing(Packing::Zstd)
        .layer(Layer::new().file("zstd", "z"));
    let image = builder.write_layout(dir.path(), "1").unwrap();
    registry
        .push(&format!("oci:{}:1", dir.path().display()), "test/busybox:1")
        .unwrap();

    let client = client();
    let r = reference(&registry.reference("test/busybox:1"));
    let resolved = client.resolve(&r, &amd64()).await.unwrap();
    assert_eq!(resolved.index, None);
    assert_eq!(resolved.manifest.0.digest, image.manifest.digest);
    assert_eq!(resolved.manifest.1, image.blobs[&image.manifest.digest]);
    assert_eq!(resolved.parsed.config.digest, image.config.digest);
    let config = client
        .blob_bytes(&r, &resolved.parsed.config)
        .await
        .unwrap();
    let config = oci::ImageConfig::parse(&config).unwrap();
    config.check(&resolved.parsed, &amd64()).unwrap();
    assert_eq!(config.rootfs.diff_ids, image.diff_ids);
    for layer in &resolved.parsed.layers {
        let expect = &image.blobs[&layer.digest];
        assert_eq!(read(&client, &r, layer).await.unwrap(), *expect);
    }
    // The rest of a layer, by range; with the digest of the whole, and without.
    let layer = &resolved.parsed.layers[0];
    let expect = &image.blobs[&layer.digest];
    let half = expect.len() / 2;
    let rest = client.blob(&r, layer, half as u64).await.unwrap();
    assert_eq!(collect(rest).await.unwrap(), expect[half..]);
    let mut check = DigestCheck::of(layer);
    check.update(&expect[..half]).unwrap();
    let rest = client.resume_blob(&r, layer, check).await.unwrap();
    assert_eq!(collect(rest).await.unwrap(), expect[half..]);
    let mut check = DigestCheck::of(layer);
    check.update(&vec![0; half]).unwrap();
    let rest = client.resume_blob(&r, layer, check).await.unwrap();
    let error = collect(rest).await.unwrap_err();
    assert!(
        chain(&error).contains("digest mismatch: expected"),
        "{}",
        chain(&error)
    );

    // By digest.
    let by_digest = r.with_digest(image.manifest.digest);
    let again = client.resolve(&by_digest, &amd64()).await.unwrap();
    assert_eq!(again.manifest, resolved.manifest);
}

#[tokio::test]
async fn an_index_offers_platforms() {
    let registry = Registry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let amd = small().build().unwrap();
    let arm = small().architecture("arm64").build().unwrap();
    write_layout(dir.path(), &[("amd", &amd), ("arm", &arm)]).unwrap();
    // The layout's index becomes an image itself: a blob, and an index that names it alone.
    let inner = std::fs::read(dir.path().join("index.json")).unwrap();
    let mut inner_descriptor = Descriptor::of(MediaType::OciIndex, &inner);
    let name = "org.opencontainers.image.ref.name".to_owned();
    inner_descriptor.annotations.insert(name, "both".to_owned());
    let blob = dir
        .path()
        .join("blobs/sha256")
        .join(inner_descriptor.digest.hex());
    std::fs::write(blob, &inner).unwrap();
    let outer = serde_json::to_vec(&oci::Index::new(vec![inner_descriptor.clone()])).unwrap();
    std::fs::write(dir.path().join("index.json"), outer).unwrap();
    registry
        .push(&format!("oci:{}:both", dir.path().display()), "both")
        .unwrap();

    let client = client();
    let r = reference(&registry.reference("both"));
    let resolved = client.resolve(&r, &amd64()).await.unwrap();
    assert_eq!(resolved.manifest.0.digest, amd.manifest.digest);
    let index = resolved.index.unwrap();
    assert_eq!(
        (index.0.digest, &index.1[..]),
        (inner_descriptor.digest, &inner[..])
    );
    let error = client
        .resolve(&r, &"linux/riscv64".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        chain(&error),
        "no image for linux/riscv64; offered: linux/amd64, linux/arm64"
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let registry = Registry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let image = small().write_layout(dir.path(), "1").unwrap();
    registry
        .push(&format!("oci:{}:1", dir.path().display()), "here:1")
        .unwrap();
    let client = client();
    let host = registry.addr;
    for (name, what, repository) in [
        ("here:2", "tag 2", "here"),
        ("not/here", "tag latest", "not/here"),
    ] {
        let r = reference(&registry.reference(name));
        let error = client.resolve(&r, &amd64()).await.unwrap_err();
        let expect = format!("{what} was not found in {repository} on registry {host}");
        assert_eq!(chain(&error), expect);
        assert!(matches!(error, Error::NotFound { .. }));
    }
    let r = reference(&registry.reference("here:1"));
    let gone = Descriptor::of(MediaType::OciLayer, b"gone");
    let error = read(&client, &r, &gone).await.unwrap_err();
    let expect = format!(
        "blob {} was not found in here on registry {host}",
        gone.digest
    );
    assert_eq!(chain(&error), expect);
    assert!(client.blob_bytes(&r, &image.config).await.is_ok());
}

#[tokio::test]
async fn an_unreachable_registry_is_named_with_the_reason() {
    let addr = Registry::start().unwrap().addr;
    let r = reference(&format!("{addr}/x"));
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    let text = chain(&error);
    assert!(
        text.starts_with(&format!("registry {addr} cannot be reached: ")),
        "{text}"
    );
    assert!(text.contains("onnection refused"), "{text}");
    let r = reference("gourd-test.invalid/x");
    let error = client().resolve(&r, &amd64()).await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. } | Error::Timeout { .. }),
        "{error:?}"
    );
}

/// A loopback registry that sends blobs to a TLS server, which is a real registry with a
/// certificate of its own from openssl.
#[tokio::test]
async fn redirects_go_to_tls_and_are_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(dir.path(), "localhost").unwrap();
    let registry = Registry::start_tls(&certificate, &key).unwrap();
    let image = small()
        .layer(Layer::new().file("a", "b"))
        .write_layout(&dir.path().join("l"), "1")
        .unwrap();
    registry
        .push(&format!("oci:{}/l:1", dir.path().display()), "x:1")
        .unwrap();
    let port = registry.addr.port();
    let front = Faulty::start(move |request| {
        let target = format!("https://localhost:{port}{}", request.path);
        reply(307, &[("Location", &target)], b"")
    })
    .unwrap();
    let r = reference(&format!("{}/x", front.addr));
    let mut trusting = options(None);
    trusting.ca_file = Some(certificate);
    let layer = &image.layers[0];
    let bytes = read(&Client::new(trusting), &r, layer).await.unwrap();
    assert_eq!(bytes, image.blobs[&layer.digest]);
    let error = read(&client(), &r, layer).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
}
