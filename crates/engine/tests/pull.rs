//! Pulling from Debian's docker-registry, which skopeo filled.

mod support;

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{CreateRequest, ErrorKind, Pull, PullEvent};
use support::{Setup, cat, image, quiet, request, setup, text};
use testkit::image::{Entry, Image, Layer};
use testkit::registry::{Faulty, Registry};

fn push(setup: &Setup, registry: &Registry, name: &str) -> Image {
    let (path, image) = setup.archive(&image(), "latest");
    let source = format!("oci-archive:{}:latest", path.display());
    registry.push(&source, name).unwrap();
    image
}

#[tokio::test]
async fn pulls_once_and_then_only_what_is_new() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    let pushed = push(&setup, &registry, "team/app:1");
    let name = registry.reference("team/app:1");
    let events = RefCell::new(Vec::new());
    let pull = async |name: &str| {
        events.borrow_mut().clear();
        let note = |event| events.borrow_mut().push(event);
        setup.engine.pull(name, None, &note).await.unwrap()
    };
    let count =
        |wanted: fn(&PullEvent) -> bool| events.borrow().iter().filter(|e| wanted(e)).count();
    let summary = pull(&name).await;
    assert_eq!(summary.id, pushed.config.digest.to_string());
    assert_eq!(summary.references, std::slice::from_ref(&name));
    let inspected = setup.engine.image_inspect(&name).unwrap();
    let (repository, _) = name.rsplit_once(':').unwrap();
    let digest = &summary.digests[&name];
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(
        inspected["RepoDigests"],
        serde_json::json!([format!("{repository}@{digest}")])
    );
    assert_eq!(
        count(|event| matches!(event, PullEvent::LayerDone { .. })),
        2
    );
    assert_eq!(
        count(|event| matches!(event, PullEvent::Merging { layers: 2 })),
        1
    );
    assert!(matches!(
        events.borrow().last(),
        Some(PullEvent::Done {
            unchanged: false,
            ..
        })
    ));
    pull(&name).await;
    assert_eq!(
        count(|event| matches!(event, PullEvent::LayerExists { .. })),
        2
    );
    assert_eq!(
        count(|event| matches!(event, PullEvent::LayerDone { .. })),
        0
    );
    assert!(matches!(
        events.borrow().last(),
        Some(PullEvent::Done {
            unchanged: true,
            ..
        })
    ));
    let by_digest = format!(
        "{}@{}",
        registry.reference("team/app"),
        pushed.manifest.digest
    );
    let inspected = setup.engine.image_inspect(&by_digest).unwrap();
    assert_eq!(inspected["RepoDigests"], serde_json::json!([by_digest]));
    assert_eq!(
        cat(inspected["RootfsImage"].as_str().unwrap(), "/etc/motd"),
        "upper"
    );
    pull(&by_digest).await;
    assert_eq!(setup.engine.images().unwrap()[0].references.len(), 2);
    // By id it has two references now.
    let error = setup.engine.image_remove(&summary.id, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    setup.engine.image_remove(&summary.id, true).unwrap();
    assert!(setup.engine.images().unwrap().is_empty());
}

#[tokio::test]
async fn creating_pulls_what_is_missing() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    push(&setup, &registry, "app:1");
    let name = registry.reference("app:1");
    let with = |pull: Pull, container: &str| CreateRequest {
        pull,
        ..request(&name, container)
    };
    let never = setup.engine.create(with(Pull::Never, "a1"), &quiet).await;
    assert_eq!(never.unwrap_err().kind(), ErrorKind::NotFound);
    setup
        .engine
        .create(with(Pull::Missing, "a2"), &quiet)
        .await
        .unwrap();
    setup
        .engine
        .create(with(Pull::Never, "a3"), &quiet)
        .await
        .unwrap();
    drop(registry);
    setup
        .engine
        .create(with(Pull::Missing, "a4"), &quiet)
        .await
        .unwrap();
    let always = setup.engine.create(with(Pull::Always, "a5"), &quiet).await;
    assert_eq!(always.unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    push(&setup, &registry, "app:1");
    let check = async |name: &str, kind: ErrorKind, expect: &str| {
        let error = setup.engine.pull(name, None, &quiet).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", text(&error));
        assert!(text(&error).contains(expect), "{}", text(&error));
    };
    check(&registry.reference("app:2"), ErrorKind::NotFound, "app").await;
    check(&registry.reference("none:1"), ErrorKind::NotFound, "none").await;
    check("127.0.0.1:1/app:1", ErrorKind::Unreachable, "127.0.0.1:1").await;
    check("UPPER/Case", ErrorKind::Invalid, "Case").await;
    check("", ErrorKind::Invalid, "").await;
    check(&"a".repeat(64), ErrorKind::NotFound, "no such image").await;
    let other = if cfg!(target_arch = "x86_64") {
        "arm64"
    } else {
        "amd64"
    };
    let name = registry.reference("app:1");
    let platform = format!("linux/{other}");
    let error = setup
        .engine
        .pull(&name, Some(&platform), &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Platform, "{}", text(&error));
    let said = text(&error);
    assert!(
        said.contains(&platform) && said.contains(&oci::Platform::host().to_string()),
        "{said}"
    );
    let error = setup
        .engine
        .pull(&name, Some("nonsense"), &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// The registry's own files are damaged: it serves what they hold now.
#[tokio::test]
async fn damaged_layers_are_refused_and_nothing_is_kept() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    let pushed = push(&setup, &registry, "app:1");
    let name = registry.reference("app:1");
    let layer = pushed.layers[0].digest;
    let path = find(&registry.data(), &layer.hex()).expect("the registry has the layer");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bad in [flipped, whole[..whole.len() / 2].to_vec()] {
        std::fs::write(&path, bad).unwrap();
        let error = setup.engine.pull(&name, None, &quiet).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", text(&error));
        assert!(
            text(&error).contains(&layer.to_string()),
            "{}",
            text(&error)
        );
        assert!(setup.engine.images().unwrap().is_empty());
    }
    std::fs::write(&path, whole).unwrap();
    setup.engine.pull(&name, None, &quiet).await.unwrap();
}

/// The registry keeps a blob as `…/sha256/ab/<hex>/data`.
fn find(dir: &Path, hex: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let data = path.join("data");
        if path.ends_with(format!("blobs/sha256/{}/{hex}", &hex[..2])) && data.is_file() {
            return Some(data);
        }
        if path.is_dir()
            && let Some(found) = find(&path, hex)
        {
            return Some(found);
        }
    }
    None
}

#[tokio::test]
async fn a_tag_that_moved_leaves_the_old_image_without_a_name() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    let old = push(&setup, &registry, "app:1");
    let name = registry.reference("app:1");
    setup.engine.pull(&name, None, &quiet).await.unwrap();
    let (path, new) = setup.archive(&image().layer(Layer::new().file("new", b"")), "latest");
    let source = format!("oci-archive:{}:latest", path.display());
    registry.push(&source, "app:1").unwrap();
    setup.engine.pull(&name, None, &quiet).await.unwrap();
    let id = |image: &Image| image.config.digest.to_string();
    assert_eq!(
        setup.engine.image_inspect(&name).unwrap()["Id"],
        id(&new).as_str()
    );
    let tags = &setup.engine.image_inspect(&id(&old)).unwrap()["RepoTags"];
    assert_eq!(*tags, serde_json::json!([]));
}

/// Each layer comes once, whoever is first: so say those who pull, and so does the registry.
#[tokio::test]
async fn pulls_at_once_share_what_comes() {
    let (setup, registry) = (setup(), Registry::start().unwrap());
    let pushed = push(&setup, &registry, "app:1");
    registry_again(&setup, &registry);
    let pull = |name: String| {
        let engine = setup.engine.clone();
        tokio::task::spawn_blocking(move || {
            let came = RefCell::new(0);
            let note = |event| {
                if matches!(event, PullEvent::LayerDone { .. }) {
                    *came.borrow_mut() += 1;
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let pulled = runtime.block_on(engine.pull(&name, None, &note));
            (pulled.map(|summary| summary.id), came.into_inner())
        })
    };
    let mut tasks = Vec::new();
    for name in ["app:1", "app:1", "team/other:1", "app:1"] {
        tasks.push(pull(registry.reference(name)));
    }
    let mut came = 0;
    for task in tasks {
        let (pulled, layers) = task.await.unwrap();
        assert_eq!(pulled.unwrap(), pushed.config.digest.to_string());
        came += layers;
    }
    assert_eq!(came, pushed.layers.len());
    let ingest = setup.engine.root().join("content/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
    let gets = registry.finish().unwrap();
    for layer in &pushed.layers {
        let blob = format!("/blobs/{}", layer.digest);
        let of_it = gets.iter().filter(|(path, _)| path.ends_with(&blob));
        assert_eq!(of_it.map(|(_, times)| times).sum::<usize>(), 1, "{gets:?}");
    }
}

/// The same image under a second name.
fn registry_again(setup: &Setup, registry: &Registry) {
    let source = format!("oci-archive:{}:latest", setup.path("image.tar").display());
    registry.push(&source, "team/other:1").unwrap();
}

/// Waits until the rootfs image that is being made has as many bytes on the disk.
fn unpacked(rootfs: &Path, bytes: u64) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let dirs = std::fs::read_dir(rootfs).into_iter().flatten().flatten();
        let files = dirs.map(|dir| dir.path().join("rootfs.ext4.new"));
        let most = files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512));
        if most.max() >= Some(bytes) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The registry has the upper layer for whoever has unpacked the lower one.
#[tokio::test]
async fn layers_are_unpacked_while_others_come() {
    let setup = setup();
    let long: Vec<u8> = (0..6_000_000_u32).map(|n| (n >> 3) as u8).collect();
    let lower = Layer::new().file("long", &long);
    let both = image()
        .layer(lower)
        .layer(Layer::new().file("late", b"late"));
    let both = both.build().unwrap();
    let late = both.layers.last().unwrap().digest.to_string();
    let rootfs = setup.engine.root().join("rootfs");
    let registry = Faulty::with_image(&both, move |request, reply| {
        if request.path.ends_with(&late) && !unpacked(&rootfs, 5_000_000) {
            return reply.cut(0);
        }
        reply.whole()
    })
    .unwrap();
    let name = format!("{}/app:1", registry.addr);
    let pulled = setup.engine.pull(&name, None, &quiet).await.unwrap();
    assert_eq!(pulled.id, both.config.digest.to_string());
    let inspected = setup.engine.image_inspect(&name).unwrap();
    let rootfs = inspected["RootfsImage"].as_str().unwrap();
    assert_eq!(cat(rootfs, "/late"), "late");
}

/// The upper layer never comes.
#[tokio::test]
async fn a_bad_layer_ends_the_pull_of_the_others() {
    let setup = setup();
    let bad = Layer::new().entry(Entry::hard_link("a", "nowhere"));
    let both = image().layer(bad).layer(Layer::new().file("late", b"late"));
    let both = both.build().unwrap();
    let late = both.layers.last().unwrap().digest.to_string();
    let registry = Faulty::with_image(&both, move |request, reply| {
        match request.path.ends_with(&late) {
            true => reply.cut(40).stall(),
            false => reply.whole(),
        }
    })
    .unwrap();
    let name = format!("{}/app:1", registry.addr);
    let error = setup.engine.pull(&name, None, &quiet).await.unwrap_err();
    assert!(text(&error).contains("nowhere"), "{}", text(&error));
    let left = std::fs::read_dir(setup.engine.root().join("rootfs")).unwrap();
    assert_eq!(left.count(), 0);
}
