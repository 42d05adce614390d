//! Archives of images: those that skopeo writes, and those that a stranger does.

mod support;

use std::process::Command;

use engine::{ErrorKind, ImageFilter, Removed};
use support::{cat, image, setup, text};
use testkit::image::{Entry, ImageBuilder, Layer, write_layout};

#[tokio::test]
async fn an_oci_archive_becomes_an_image_and_goes_again() {
    let setup = setup();
    let (path, image) = setup.archive(&image(), "localhost:5000/team/app:V1");
    let id = image.config.digest.to_string();
    let loaded = setup.load(&path).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        loaded[0].reference.as_deref(),
        Some("localhost:5000/team/app:V1")
    );
    assert_eq!(loaded[0].id, id);
    let images = setup.engine.images().unwrap();
    assert_eq!((images.len(), &images[0].id), (1, &id));
    assert_eq!(images[0].references, ["localhost:5000/team/app:V1"]);
    for name in ["localhost:5000/team/app:V1", &id, &id[7..19]] {
        let inspected = setup.engine.image_inspect(name).unwrap();
        assert_eq!(inspected["Id"], id.as_str());
        assert_eq!(inspected["Config"]["Cmd"][0], "sh");
        assert_eq!(
            cat(inspected["RootfsImage"].as_str().unwrap(), "/etc/motd"),
            "upper"
        );
    }
    let container = setup
        .create("localhost:5000/team/app:V1", "box")
        .await
        .unwrap();
    let error = setup.engine.image_remove(&id, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(
        error.to_string().ends_with("is used by container box"),
        "{error}"
    );
    setup.engine.remove(&container.id, false).await.unwrap();
    let removed = setup.engine.image_remove(&id[7..15], false).unwrap();
    assert_eq!(
        removed[0],
        Removed::Untagged("localhost:5000/team/app:V1".to_owned())
    );
    assert_eq!(removed[1], Removed::Deleted(id.clone()));
    assert_eq!(removed.len(), 4, "the reference, the image, two layers");
    for dir in [
        "content/blobs/sha256",
        "content/ingest",
        "images",
        "refs",
        "rootfs",
    ] {
        let left = std::fs::read_dir(setup.engine.root().join(dir))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{dir}");
    }
    let error = setup.engine.image_inspect(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_rootfs_image_that_is_gone_is_made_again() {
    let setup = setup();
    let (path, _) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    let rootfs = setup.engine.root().join("rootfs");
    std::fs::remove_dir_all(&rootfs).unwrap();
    std::fs::create_dir(&rootfs).unwrap();
    setup.create("app", "box").await.unwrap();
    let inspected = setup.engine.image_inspect("app").unwrap();
    assert_eq!(
        cat(inspected["RootfsImage"].as_str().unwrap(), "/etc/motd"),
        "upper"
    );
}

/// Writer: skopeo.
#[tokio::test]
async fn a_docker_archive_is_the_same_image() {
    let setup = setup();
    let (path, image) = setup.archive(&image(), "app");
    let docker = setup.path("docker.tar");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("oci-archive:{}", path.display()))
        .arg(format!("docker-archive:{}:app:one", docker.display()))
        .output()
        .expect("this test needs skopeo");
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let zipped = Command::new("gzip")
        .arg("-k")
        .arg(&docker)
        .status()
        .unwrap();
    assert!(zipped.success());
    for path in [docker.clone(), docker.with_extension("tar.gz")] {
        let loaded = setup.load(&path).await.unwrap();
        assert_eq!(loaded[0].reference.as_deref(), Some("app:one"));
        let inspected = setup.engine.image_inspect("app:one").unwrap();
        let layers: Vec<String> = image.diff_ids.iter().map(ToString::to_string).collect();
        assert_eq!(inspected["RootFS"]["Layers"], serde_json::json!(layers));
        assert_eq!(
            cat(inspected["RootfsImage"].as_str().unwrap(), "/etc/motd"),
            "upper"
        );
    }
}

#[tokio::test]
async fn strangers_archives_are_errors() {
    let setup = setup();
    let (path, good) = setup.archive(&image(), "app");
    let bytes = std::fs::read(&path).unwrap();
    let check = async |archive: Vec<u8>, kind: ErrorKind, expect: &str| {
        let path = setup.path("bad.tar");
        std::fs::write(&path, archive).unwrap();
        let error = setup.load(&path).await.unwrap_err();
        assert!(text(&error).contains(expect), "{}", text(&error));
        assert_eq!(error.kind(), kind, "{}", text(&error));
        assert!(setup.engine.images().unwrap().is_empty());
    };
    let corrupt = ErrorKind::Corrupt;
    let tar = |entries: &[Entry]| {
        let layer = entries.iter().cloned().fold(Layer::new(), Layer::entry);
        layer.finish()
    };
    check(
        tar(&[Entry::file("../evil", b"x")]),
        corrupt,
        "which leaves it",
    )
    .await;
    check(
        tar(&[Entry::file("/etc/evil", b"x")]),
        corrupt,
        "which leaves it",
    )
    .await;
    check(
        tar(&[Entry::symlink("a/b", "../../evil")]),
        corrupt,
        "which leaves it",
    )
    .await;
    check(tar(&[Entry::file("x", b"x")]), corrupt, "has no images").await;
    check(b"no tar at all".to_vec(), corrupt, "cannot be read").await;
    check(Vec::new(), corrupt, "has no images").await;
    check(vec![0x1f, 0x8b, 8, 0, 0], corrupt, "cannot be read").await;
    check(
        tar(&[Entry::file("index.json", b"{")]),
        corrupt,
        "index.json",
    )
    .await;
    check(
        tar(&[Entry::file(
            "index.json",
            br#"{"schemaVersion":2,"manifests":[]}"#,
        )]),
        corrupt,
        "names no image",
    )
    .await;
    check(
        tar(&[Entry::file(
            "manifest.json",
            br#"[{"Config":"c","Layers":[]}]"#,
        )]),
        corrupt,
        "lacks \"c\"",
    )
    .await;
    let name = format!("blobs/sha256/{}", good.config.digest.hex());
    check(
        tar(&[Entry::file(&name, b"other")]),
        corrupt,
        "the content has the digest",
    )
    .await;
    check(bytes[..bytes.len() / 2].to_vec(), corrupt, "").await;
}

#[tokio::test]
async fn another_processors_image_is_kept_as_it_is() {
    let setup = setup();
    let other = if cfg!(target_arch = "x86_64") {
        "arm64"
    } else {
        "amd64"
    };
    let (path, foreign) = setup.archive(&image().architecture(other), "app");
    setup.load(&path).await.unwrap();
    let here = setup.engine.images().unwrap();
    assert_eq!(here[0].id, foreign.config.digest.to_string());
    assert_eq!(here[0].platform, format!("linux/{other}"));
    let request = engine::CreateRequest {
        image: "app".to_owned(),
        ..Default::default()
    };
    // It is no use here without its processor, and both are named.
    let error = setup.engine.create(request, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Platform);
    let text = text(&error);
    let ours = oci::Platform::host().to_string();
    assert!(
        text.contains(&format!("linux/{other}")) && text.contains(&ours),
        "{text}"
    );
    setup.engine.image_remove("app", false).unwrap();
    // Beside one of ours, only ours is kept. Oracle: what the writer of the layout says that belongs to it.
    let mine = image().build().unwrap();
    let foreign = image()
        .layer(Layer::new().file("foreign", b"foreign"))
        .architecture(other)
        .build()
        .unwrap();
    let (layout, path) = (setup.path("layout"), setup.path("both.tar"));
    write_layout(&layout, &[("mine", &mine), ("foreign", &foreign)]).unwrap();
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&path)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    let loaded = setup.load(&path).await.unwrap();
    assert_eq!(loaded.len(), 1);
    let mut expect: Vec<String> = mine.blobs.keys().map(|digest| digest.hex()).collect();
    expect.sort();
    assert_eq!(blobs(&setup), expect);
    assert!(setup.engine.images().unwrap()[0].digests.is_empty());
}

/// What signs an image lies beside it as a manifest of another kind, as `cosign save` leaves it.
#[tokio::test]
async fn signatures_beside_an_image_are_passed_over() {
    let setup = setup();
    let built = image().build().unwrap();
    let layout = setup.path("layout");
    write_layout(&layout, &[("app", &built)]).unwrap();
    let config = br#"{"kind":"signature"}"#;
    let digest = oci::Digest::of(config);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.dev.cosign.config.v1+json", "digest": digest, "size": config.len()},
        "layers": [],
    })
    .to_string();
    let signature = oci::Digest::of(manifest.as_bytes());
    for (digest, bytes) in [(digest, &config[..]), (signature, manifest.as_bytes())] {
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    }
    let path = layout.join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": signature, "size": manifest.len(),
    });
    let alone = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    index["manifests"].as_array_mut().unwrap().insert(0, entry);
    std::fs::write(&path, index.to_string()).unwrap();
    let loaded = setup.engine.load_folder(&layout, &|_| {}).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].id, built.config.digest.to_string());
    // Alone, it is told what it is.
    std::fs::write(&path, alone.to_string()).unwrap();
    let error = setup
        .engine
        .load_folder(&layout, &|_| {})
        .await
        .unwrap_err();
    assert!(text(&error).contains("cosign"), "{}", text(&error));
}

/// All blobs that are here.
fn blobs(setup: &support::Setup) -> Vec<String> {
    let dir = setup.engine.root().join("content/blobs/sha256");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Oracle: flock(1) of util-linux, which holds the names of images as a creation would.
#[tokio::test]
async fn who_keeps_images_from_being_removed_is_named() {
    let setup = setup();
    let (path, _) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    let mut holder = Command::new("flock")
        .arg("--shared")
        .arg(setup.engine.root().join("content/blobs/lock"))
        .args(["sh", "-c", "echo held; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("this test needs flock (Debian: util-linux)");
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let error = setup.engine.image_remove("app", false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let expect = format!("process {} (flock --shared", holder.id());
    assert!(error.to_string().contains(&expect), "{error}");
    // Its end of file lets it go.
    drop(holder.stdin.take());
    setup.engine.image_remove("app", false).unwrap();
    holder.wait().unwrap();
}

/// The load stands still in its middle, with its lease. What is removed meanwhile goes when it has ended, and not before: it may
/// be what the other one found to be here already.
#[tokio::test]
async fn images_are_removed_while_others_come() {
    let setup = setup();
    let engine = &setup.engine;
    let (path, app) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    let shared = ImageBuilder::new()
        .layer(Layer::new().file("other", [7; 100_000]))
        .cmd(["other"]);
    let (path, other) = setup.archive(&shared, "other");
    let archive = std::fs::read(path).unwrap();
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let root = store::Root::open(engine.root()).unwrap();
    let here = |image: &testkit::image::Image| {
        let here = |digest: &&oci::Digest| store::content::path(&root, digest).exists();
        image.blobs.keys().filter(here).count()
    };
    let meanwhile = async {
        use std::io::Write;
        writer.write_all(&archive[..1000]).unwrap();
        let mode = store::lock::Mode::Exclusive;
        while store::content::try_lease(&root, mode).unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let removed = engine.image_remove("app", false).unwrap();
        let id = app.config.digest.to_string();
        let untagged = Removed::Untagged("app:latest".to_owned());
        assert_eq!(removed, [untagged, Removed::Deleted(id)]);
        let pruned = engine.prune_images(true, &ImageFilter::default()).unwrap();
        assert_eq!((pruned.later, pruned.bytes), (true, 0));
        assert!(engine.images().unwrap().is_empty());
        assert_eq!(here(&app), app.blobs.len(), "they stay for now");
        writer.write_all(&archive[1000..]).unwrap();
        drop(writer);
    };
    let (loaded, ()) = tokio::join!(engine.load(reader, &|_| {}), meanwhile);
    loaded.unwrap();
    assert_eq!((here(&app), here(&other)), (0, other.blobs.len()));
    assert_eq!(std::fs::read_dir(root.rootfs()).unwrap().count(), 1);
    setup.create("other", "box").await.unwrap();
    let pruned = engine.prune_images(true, &ImageFilter::default()).unwrap();
    assert!(!pruned.later);
}

/// A mount keeps a file from being removed, also for root, which this test needs to be.
struct Pinned(std::path::PathBuf);

impl Pinned {
    fn new(path: std::path::PathBuf) -> Self {
        let mount = Command::new("mount")
            .arg("--bind")
            .args([&path, &path])
            .status();
        assert!(mount.unwrap().success(), "this test needs root");
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn what_cannot_be_removed_keeps_its_name() {
    let setup = setup();
    let engine = &setup.engine;
    let (path, image) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    engine.tag("app", "second:1").unwrap();
    let whole = || {
        let images = engine.images().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].references, ["app:latest", "second:1"]);
    };
    let hex = image.config.digest.hex();
    let pinned = Pinned::new(engine.root().join(format!("images/{hex}.json")));
    engine.image_remove(&hex, true).unwrap_err();
    engine
        .prune_images(true, &ImageFilter::default())
        .unwrap_err();
    drop(pinned);
    whole();
    // It may use any image.
    let container = engine.root().join("containers").join("0".repeat(64));
    std::fs::create_dir(&container).unwrap();
    std::fs::write(container.join("spec.json"), "{").unwrap();
    let error = engine.image_remove(&hex, true).unwrap_err();
    assert!(
        text(&error).contains("what it uses is not known"),
        "{error}"
    );
    whole();
    std::fs::remove_dir_all(container).unwrap();
    engine.image_remove(&hex, true).unwrap();
    assert!(engine.images().unwrap().is_empty());
}

#[tokio::test]
async fn a_layer_that_cannot_be_merged_is_named() {
    let setup = setup();
    let bad = Layer::new().entry(Entry::hard_link("a", "nowhere"));
    let (path, image) = setup.archive(&ImageBuilder::new().layer(bad).cmd(["a"]), "app");
    let error = setup.load(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = text(&error);
    assert!(text.contains(&image.layers[0].digest.to_string()), "{text}");
    assert!(text.contains("\"nowhere\" does not exist"), "{text}");
}
