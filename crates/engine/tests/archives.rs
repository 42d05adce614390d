//! Saving, importing, naming and pruning images. Oracles: skopeo reads what is saved, GNU tar and xz make what is
//! imported, debugfs and `du` look at what is on the disk.

mod support;

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use engine::{Engine, ErrorKind, ImageFilter, ImportRequest, OpenOptions, PullEvent, Removed};
use serde_json::{Value, json};
use support::{Setup, cat, image, quiet, setup, text};
use testkit::image::{Image, Layer};

/// `image()` as `name`, in the store.
async fn loaded(setup: &Setup, names: &[&str]) -> Image {
    let (path, image) = setup.archive(&image(), names[0]);
    setup.load(&path).await.unwrap();
    for name in &names[1..] {
        setup.engine.tag(names[0], name).unwrap();
    }
    image
}

async fn save(setup: &Setup, names: &[&str]) -> std::path::PathBuf {
    let path = setup.path("saved.tar");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let file = std::fs::File::create(&path).unwrap();
    setup.engine.save(&names, file, &quiet).await.unwrap();
    path
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn inspect(source: &str) -> Value {
    let out = run(
        "skopeo",
        &["--insecure-policy", "inspect", "--config", source],
    );
    serde_json::from_slice(&out).unwrap()
}

fn names_in(tar: &Path) -> Vec<String> {
    let list = run("tar", &["-tf", &tar.display().to_string()]);
    String::from_utf8(list)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn skopeo_reads_what_is_saved_in_both_layouts() {
    let setup = setup();
    let saved = loaded(&setup, &["app:1", "app:2", "localhost:5000/other:latest"]).await;
    let path = save(&setup, &["app", "localhost:5000/other"]).await;
    let path = path.display();
    let raw = |source: &str| run("skopeo", &["--insecure-policy", "inspect", "--raw", source]);
    for tag in ["1", "2", "latest"] {
        let manifest = raw(&format!("oci-archive:{path}:{tag}"));
        assert_eq!(oci::Digest::of(&manifest), saved.manifest.digest, "{tag}");
    }
    for name in ["app:1", "docker.io/library/app:2", "localhost:5000/other"] {
        let config = inspect(&format!("docker-archive:{path}:{name}"));
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!(saved.diff_ids),
            "{name}"
        );
    }
    // Every layer unpacks to what its diff ID says: skopeo checks while it copies.
    for source in [
        format!("oci-archive:{path}:2"),
        format!("docker-archive:{path}:app:1"),
    ] {
        let target = format!("dir:{}", setup.path(&source[..4]).display());
        run(
            "skopeo",
            &["--insecure-policy", "copy", "-q", &source, &target],
        );
    }
    let list = names_in(&setup.path("saved.tar"));
    let blobs = list
        .iter()
        .filter(|name| name.starts_with("blobs/sha256/") && name.len() > 13);
    assert_eq!(blobs.count(), saved.blobs.len(), "each blob once: {list:?}");
}

#[tokio::test]
async fn what_is_saved_loads_again_with_the_same_ids_and_names() {
    let (from, to) = (setup(), setup());
    loaded(&from, &["app:1", "app:2"]).await;
    let (path, second) = from.archive(&image().layer(Layer::new().file("new", b"new")), "second");
    from.load(&path).await.unwrap();
    let id = second.config.digest.to_string();
    let path = save(&from, &["app", &id[..20]]).await;
    to.load(&path).await.unwrap();
    let state = |setup: &Setup| {
        let mut images = setup.engine.images().unwrap();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images
            .into_iter()
            .map(|image| (image.id, image.references, image.size))
            .collect::<Vec<_>>()
    };
    let mut expect = state(&from);
    // It was saved by its id.
    for (image, references, _) in &mut expect {
        if *image == id {
            references.clear();
        }
    }
    assert_eq!(state(&to), expect);
    // Unpacked, it is a layout in a folder.
    let folder = to.path("layout");
    std::fs::create_dir(&folder).unwrap();
    run(
        "tar",
        &[
            "-C",
            &folder.display().to_string(),
            "-xf",
            &path.display().to_string(),
        ],
    );
    let third = setup();
    third.engine.load_folder(&folder, &quiet).await.unwrap();
    assert_eq!(state(&third), expect);
    let error = third
        .engine
        .load_folder(Path::new("/proc/self"), &quiet)
        .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_rotten_blob_is_not_saved() {
    let setup = setup();
    let saved = loaded(&setup, &["app"]).await;
    let layer = setup
        .engine
        .root()
        .join("content/blobs/sha256")
        .join(saved.layers[1].digest.hex());
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[20] ^= 1;
    std::fs::remove_file(&layer).unwrap();
    std::fs::write(&layer, bytes).unwrap();
    let save = |name: &str| {
        let names = [name.to_owned()];
        let engine = setup.engine.clone();
        async move {
            engine
                .save(&names, std::io::sink(), &quiet)
                .await
                .unwrap_err()
        }
    };
    let error = save("app").await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", text(&error));
    assert_eq!(save("nope").await.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn tags_come_move_and_go() {
    let setup = setup();
    let first = loaded(&setup, &["app:1"]).await;
    let (path, second) = setup.archive(&image().cmd(["other"]), "app:2");
    setup.load(&path).await.unwrap();
    let id = |name: &str| setup.engine.image_inspect(name).unwrap()["Id"].clone();
    setup
        .engine
        .tag("app:1", "localhost:5000/team/app:x")
        .unwrap();
    assert_eq!(
        id("localhost:5000/team/app:x"),
        first.config.digest.to_string()
    );
    setup
        .engine
        .tag(&second.config.digest.to_string(), "app:1")
        .unwrap();
    assert_eq!(id("app:1"), second.config.digest.to_string());
    let check = |source: &str, target: &str, kind: ErrorKind| {
        let error = setup.engine.tag(source, target).unwrap_err();
        assert_eq!(error.kind(), kind, "{source} {target}: {}", text(&error));
    };
    check("nope", "a", ErrorKind::NotFound);
    check("app:1", "A", ErrorKind::Invalid);
    check("app:1", "", ErrorKind::Invalid);
    check(
        "app:1",
        &format!("a@{}", first.manifest.digest),
        ErrorKind::Invalid,
    );
    let actions: Vec<(String, String)> =
        std::fs::read_to_string(setup.engine.root().join("events/events.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|event| {
                (
                    event["action"].as_str().unwrap().to_owned(),
                    event["attributes"]["name"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
    let expect = [
        ("load", "app:1"),
        ("load", "app:2"),
        ("tag", "localhost:5000/team/app:x"),
        ("tag", "app:1"),
    ];
    assert_eq!(
        actions,
        expect.map(|(action, name)| (action.to_owned(), name.to_owned()))
    );
}

#[tokio::test]
async fn an_archive_of_files_becomes_an_image() {
    let setup = setup();
    let files = setup.path("files");
    std::fs::create_dir_all(files.join("etc")).unwrap();
    std::fs::write(files.join("etc/motd"), "hello").unwrap();
    let plain = setup.path("files.tar");
    let (dir, tar) = (files.display().to_string(), plain.display().to_string());
    run("tar", &["-C", &dir, "-cf", &tar, "."]);
    let diff_id = oci::Digest::of(&std::fs::read(&plain).unwrap()).to_string();
    for (program, suffix) in [
        ("gzip", "gz"),
        ("zstd", "zst"),
        ("xz", "xz"),
        ("bzip2", "bz2"),
    ] {
        let packed = run(program, &["-c", &tar]);
        std::fs::write(setup.path(&format!("files.tar.{suffix}")), packed).unwrap();
    }
    let request = ImportRequest {
        reference: Some("made:1".to_owned()),
        changes: vec![
            "CMD [\"cat\", \"/etc/motd\"]".to_owned(),
            "ENV A=1".to_owned(),
        ],
        message: "by hand".to_owned(),
        platform: None,
    };
    for name in [
        "files.tar",
        "files.tar.gz",
        "files.tar.zst",
        "files.tar.xz",
        "files.tar.bz2",
    ] {
        let file = std::fs::File::open(setup.path(name)).unwrap();
        let id = setup
            .engine
            .import(file, &request, &quiet)
            .await
            .unwrap_or_else(|error| panic!("{name}: {}", text(&error)));
        let found = setup.engine.image_inspect("made:1").unwrap();
        assert_eq!(found["Id"], id.as_str(), "{name}");
        assert_eq!(found["RootFS"]["Layers"], json!([diff_id]), "{name}");
        assert_eq!(found["Config"]["Cmd"], json!(["cat", "/etc/motd"]));
        assert_eq!(found["Config"]["Env"], json!(["A=1"]));
        assert_eq!(
            cat(found["RootfsImage"].as_str().unwrap(), "/etc/motd"),
            "hello"
        );
        let history = setup.engine.image_history("made:1").unwrap();
        assert_eq!((history.len(), history[0].comment.as_str()), (1, "by hand"));
    }
    let path = save(&setup, &["made:1"]).await;
    assert_eq!(
        inspect(&format!("oci-archive:{}", path.display()))["config"]["Env"],
        json!(["A=1"])
    );
}

#[tokio::test]
async fn what_cannot_be_imported_leaves_nothing() {
    let setup = setup();
    let check = async |bytes: Vec<u8>, change: &str, reference: &str, expect: ErrorKind| {
        let request = ImportRequest {
            reference: Some(reference.to_owned()),
            changes: vec![change.to_owned()],
            ..ImportRequest::default()
        };
        let source = std::io::Cursor::new(bytes);
        let error = setup
            .engine
            .import(source, &request, &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), expect, "{}", text(&error));
        assert!(setup.engine.images().unwrap().is_empty());
        for dir in ["content/blobs/sha256", "content/ingest"] {
            assert_eq!(
                std::fs::read_dir(setup.engine.root().join(dir))
                    .unwrap()
                    .count(),
                0,
                "{dir}"
            );
        }
    };
    check(
        b"no tar at all, just words".repeat(100),
        "CMD a",
        "x",
        ErrorKind::Corrupt,
    )
    .await;
    check(
        b"\xfd7zXZ\0 damaged".to_vec(),
        "CMD a",
        "x",
        ErrorKind::Corrupt,
    )
    .await;
    check(b"BZh damaged".to_vec(), "CMD a", "x", ErrorKind::Corrupt).await;
    check(Vec::new(), "RUN a", "x", ErrorKind::Invalid).await;
    check(Vec::new(), "CMD a", "X", ErrorKind::Invalid).await;
}

#[tokio::test]
async fn prune_takes_what_nobody_uses_and_counts_its_bytes() {
    let setup = setup();
    let used = loaded(&setup, &["used"]).await;
    setup.create("used", "user").await.unwrap();
    let big = vec![7; 3 << 20];
    let (path, named) = setup.archive(
        &image()
            .layer(Layer::new().file("big", &big))
            .config_field("Labels", json!({"keep": "no"})),
        "named",
    );
    setup.load(&path).await.unwrap();
    let (path, dangling) = setup.archive(&image().cmd(["dangling"]), "latest");
    setup.load(&path).await.unwrap();
    let ids = |images: &[&Image]| {
        let mut ids: Vec<String> = images
            .iter()
            .map(|image| image.config.digest.to_string())
            .collect();
        ids.sort();
        ids
    };
    let here = || {
        let mut ids: Vec<String> = setup
            .engine
            .images()
            .unwrap()
            .into_iter()
            .map(|image| image.id)
            .collect();
        ids.sort();
        ids
    };
    // Removing another image leaves one without a name alone.
    setup.engine.tag("named", "extra").unwrap();
    setup.engine.image_remove("extra", false).unwrap();
    assert_eq!(here(), ids(&[&used, &named, &dangling]));
    let filter = |label: &str| ImageFilter {
        labels: vec![(label.to_owned(), None)],
        ..ImageFilter::default()
    };
    let pruned = setup.engine.prune_images(true, &filter("other")).unwrap();
    assert_eq!((pruned.removed.len(), pruned.bytes), (0, 0));
    let pruned = setup
        .engine
        .prune_images(false, &ImageFilter::default())
        .unwrap();
    assert!(
        pruned
            .removed
            .contains(&Removed::Deleted(dangling.config.digest.to_string()))
    );
    assert_eq!(here(), ids(&[&used, &named]));
    // Oracle: du.
    let occupied = || -> u64 {
        let dirs = ["content/blobs", "rootfs"]
            .map(|dir| setup.engine.root().join(dir).display().to_string());
        let out = run("du", &["--block-size=1", "-sc", &dirs[0], &dirs[1]]);
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .last()
            .unwrap()
            .split('\t')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let before = occupied();
    let pruned = setup.engine.prune_images(true, &filter("keep")).unwrap();
    assert_eq!(
        pruned.removed[0],
        Removed::Untagged("named:latest".to_owned())
    );
    assert_eq!(before - occupied(), pruned.bytes);
    assert!(pruned.bytes > 3 << 20, "{}", pruned.bytes);
    assert_eq!(here(), ids(&[&used]));
    let pruned = setup
        .engine
        .prune_images(true, &ImageFilter::default())
        .unwrap();
    assert_eq!(pruned.removed, []);
}

#[tokio::test]
async fn lists_are_filtered() {
    let setup = setup();
    let labels = |value: &str| image().config_field("Labels", json!({"tier": value}));
    for (name, value) in [("web:1", "front"), ("db:1", "back")] {
        let (path, _) = setup.archive(&labels(value), name);
        setup.load(&path).await.unwrap();
    }
    let check = |filter: ImageFilter, expect: &[&str]| {
        let mut names: Vec<String> = setup
            .engine
            .images_filtered(&filter)
            .unwrap()
            .into_iter()
            .flat_map(|image| image.references)
            .collect();
        names.sort();
        assert_eq!(names, expect, "{filter:?}");
    };
    let all = ImageFilter::default;
    check(all(), &["db:1", "web:1"]);
    check(
        ImageFilter {
            labels: vec![("tier".to_owned(), Some("front".to_owned()))],
            ..all()
        },
        &["web:1"],
    );
    check(
        ImageFilter {
            references: vec!["d*".to_owned()],
            ..all()
        },
        &["db:1"],
    );
    check(
        ImageFilter {
            dangling: Some(true),
            ..all()
        },
        &[],
    );
    let unknown = ImageFilter {
        before: Some("nope".to_owned()),
        ..all()
    };
    assert_eq!(
        setup.engine.images_filtered(&unknown).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn progress_of_large_layers_is_told() {
    let setup = setup();
    let (path, large) = setup.archive(
        &image().layer(Layer::new().file("big", noise(3 << 20))),
        "big",
    );
    let file = std::fs::File::open(&path).unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    let note = |event| {
        if let PullEvent::LayerProgress {
            digest,
            done,
            total,
        } = event
        {
            seen.borrow_mut().push((digest, done, total));
        }
    };
    setup.engine.load(file, &note).await.unwrap();
    let layer = &large.layers[2];
    let last = seen.borrow().last().cloned();
    assert_eq!(
        last,
        Some((layer.digest.to_string(), layer.size, layer.size))
    );
    seen.borrow_mut().clear();
    setup
        .engine
        .save(&["big".to_owned()], std::io::sink(), &note)
        .await
        .unwrap();
    assert!(
        seen.borrow()
            .contains(&(layer.digest.to_string(), layer.size, layer.size))
    );
}

/// Bytes that do not pack, by a linear congruential generator.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Oracle: du.
#[tokio::test]
async fn the_disk_is_accounted_for() {
    let setup = setup();
    let first = loaded(&setup, &["first:1"]).await;
    let (path, _) = setup.archive(
        &image().layer(Layer::new().file("big", noise(1 << 20))),
        "big",
    );
    setup.load(&path).await.unwrap();
    setup.create("first:1", "user").await.unwrap();
    std::fs::write(setup.engine.root().join("content/ingest/.part"), [1; 5000]).unwrap();
    let usage = setup.engine.disk_usage().await.unwrap();
    let du = |path: &str| -> u64 {
        let path = setup.engine.root().join(path).display().to_string();
        let out = String::from_utf8(run("du", &["--block-size=1", "-s", &path])).unwrap();
        out.split('\t').next().unwrap().parse().unwrap()
    };
    // Folders around the files, which belong to nobody.
    let around = |dir: &str| {
        std::os::unix::fs::MetadataExt::blocks(
            &std::fs::metadata(setup.engine.root().join(dir)).unwrap(),
        ) * 512
    };
    let blobs = du("content/blobs/sha256") - around("content/blobs/sha256");
    let rootfs = du("rootfs") - around("rootfs");
    assert_eq!(usage.images_size, blobs + rootfs);
    assert_eq!(usage.remains.files, 1);
    assert!((5000..=8192).contains(&usage.remains.occupied));
    let of = |id: &str| usage.images.iter().find(|one| one.image.id == id).unwrap();
    let used = of(&first.config.digest.to_string());
    let other = usage
        .images
        .iter()
        .find(|one| one.image.id != used.image.id)
        .unwrap();
    assert_eq!((used.containers, other.containers), (1, 0));
    assert!(used.shared > 0 && used.shared == other.shared);
    assert_eq!(used.shared + used.unique + other.unique, usage.images_size);
    assert_eq!(usage.images_reclaimable, other.unique);
    assert_eq!(
        usage.containers[0].occupied,
        du(&format!("containers/{}", usage.containers[0].container.id))
    );
    assert_eq!((usage.kernels.len(), usage.kernels[0].used), (1, true));
}

/// Packed archives are bounded as images are, whoever packed them.
#[tokio::test]
async fn archives_that_unpack_to_far_too_much_are_refused() {
    let setup = setup();
    let engine = Engine::open(OpenOptions {
        root: Some(setup.engine.root().to_owned()),
        max_unpacked: Some(1 << 20),
        ..OpenOptions::default()
    })
    .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(16 << 20);
    header.set_mode(0o644);
    tar.append_data(&mut header, "zeros", std::io::repeat(0).take(16 << 20))
        .unwrap();
    let plain = setup.path("plain.tar");
    std::fs::write(&plain, tar.into_inner().unwrap()).unwrap();
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let packed = setup.path(program);
        let status = std::process::Command::new(program)
            .arg("-c")
            .stdin(std::fs::File::open(&plain).unwrap())
            .stdout(std::fs::File::create(&packed).unwrap())
            .status();
        assert!(
            status
                .unwrap_or_else(|error| panic!("{program} is needed: {error}"))
                .success()
        );
        let open = || std::fs::File::open(&packed).unwrap();
        assert!(open().metadata().unwrap().len() < 100 << 10, "{program}");
        let request = ImportRequest::default();
        let imported = engine.import(open(), &request, &quiet).await.map(drop);
        let loaded = engine.load(open(), &quiet).await.map(drop);
        for refused in [imported, loaded] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnpacksTooLarge, "{program}");
            let said = text(&error);
            assert!(said.contains("more than the 1 MiB allowed"), "{said}");
        }
    }
    for dir in ["content/blobs/sha256", "content/ingest", "rootfs"] {
        let left = std::fs::read_dir(engine.root().join(dir)).unwrap().count();
        assert_eq!(left, 0, "{dir}");
    }
}
