//! Pulling and pushing as a person does it, against Debian's docker-registry, and what a kill leaves. Skopeo is the oracle: it
//! filled the registry, and says what is in it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oci::{Descriptor, Index, MediaType};
use testkit::image::{Image, ImageBuilder, Layer, Packing, write_layout};
use testkit::registry::{Faulty, Registry};

/// A state directory and a home of a test's own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gourd"));
        command
            .args(line)
            .env("GOURD_ROOT", self.path("root"))
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .env_remove("GOURD_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self, line: &[&str]) -> Child {
        self.command(line).spawn().expect("gourd starts")
    }

    fn gourd(&self, line: &[&str], code: i32) -> Said {
        Said::of(self.command(line).output().expect("gourd runs"), code)
    }

    fn ok(&self, line: &[&str]) -> Said {
        self.gourd(line, 0)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("root").join(dir)).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

struct Said {
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn of(output: Output, code: i32) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let said = Self {
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}\n{}",
            said.out,
            said.err
        );
        said
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self
    }

    fn count(&self, words: &str) -> usize {
        self.err.lines().filter(|line| line.contains(words)).count()
    }
}

fn image(name: &str) -> ImageBuilder {
    ImageBuilder::new()
        .layer(Layer::new().dir("etc").file("etc/base", "the same in all"))
        .layer(Layer::new().file("name", name))
        .cmd(["sh"])
}

/// What skopeo says the digest of a manifest or index is.
fn digest(name: &str) -> String {
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo is needed: install the package skopeo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    oci::Digest::of(&output.stdout).to_string()
}

fn fill(home: &Home, registry: &Registry, name: &str) -> Image {
    let layout = home.path("layout");
    let image = image(name).write_layout(&layout, "1").expect("a layout");
    let pushed = registry.push(&format!("oci:{}:1", layout.display()), name);
    pushed.expect("skopeo pushes");
    image
}

#[test]
fn what_is_pulled_is_pushed_and_pulled_back() {
    let (home, registry) = (
        Home::new(),
        Registry::start().expect("docker-registry starts"),
    );
    let pushed = fill(&home, &registry, "team/app:1");
    let (from, to) = (
        registry.reference("team/app:1"),
        registry.reference("other/app:2"),
    );
    home.ok(&["pull", "-q", &from]);
    home.ok(&["tag", &from, &to]);
    let said = home.ok(&["push", &to]);
    let digest_there = digest(&to);
    assert_eq!(digest_there, pushed.manifest.digest.to_string());
    let size = pushed.manifest.size;
    assert_eq!(said.out, format!("2: digest: {digest_there} size: {size}"));
    let refers = format!(
        "The push refers to repository [{}]",
        registry.reference("other/app")
    );
    let said = said.says(&[&refers]);
    assert_eq!(said.count(": mounted from team/app"), 2, "{}", said.err);
    let said = home.ok(&["push", &to]);
    assert_eq!(said.count(": layer already exists"), 2, "{}", said.err);
    assert_eq!(home.ok(&["push", "-q", &to]).out, to);

    let blobs = home.names("content/blobs/sha256");
    home.ok(&["rmi", "-f", &from, &to]);
    assert_eq!(home.names("content/blobs/sha256"), Vec::<String>::new());
    home.ok(&["pull", "-q", &to]);
    assert_eq!(home.names("content/blobs/sha256"), blobs);
    let told = home
        .ok(&["image", "inspect", "-f", "{{.RepoDigests}}", &to])
        .out;
    assert!(told.contains(&digest_there), "{told}");

    // From an archive, to a registry that has nothing of it; all tags at once.
    let archive = home.path("image.tar");
    let second = image("second").write_archive(&archive, "second");
    let second = second.expect("an archive");
    home.ok(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]);
    let empty = Registry::start().expect("docker-registry starts");
    for (name, tag) in [("second", "all:b"), (to.as_str(), "all:a")] {
        home.ok(&["tag", name, &empty.reference(tag)]);
    }
    let said = home.ok(&["push", "--all-tags", &empty.reference("all")]);
    let tags = [("a", &pushed), ("b", &second)];
    for (line, (tag, image)) in said.out.lines().zip(tags) {
        let expect = format!(
            "{tag}: digest: {} size: {}",
            image.manifest.digest, image.manifest.size
        );
        assert_eq!(line, expect);
        assert_eq!(
            digest(&empty.reference(&format!("all:{tag}"))),
            image.manifest.digest.to_string()
        );
    }
    assert_eq!(said.out.lines().count(), 2);
    // The base is in both.
    assert_eq!(
        (said.count(": pushed"), said.count("already exists")),
        (3, 1),
        "{}",
        said.err
    );
    let events = home.ok(&[
        "events",
        "--since",
        "0",
        "--until",
        "0s",
        "--filter",
        "event=push",
    ]);
    assert_eq!(events.out.lines().count(), 5, "{}", events.out);
}

/// An index of two platforms, pushed by skopeo; its digest.
fn fill_index(home: &Home, registry: &Registry, name: &str) -> (String, Image) {
    let other = if oci::Platform::host().architecture == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let own = image("own").build().expect("an image");
    let other = image("other")
        .architecture(other)
        .build()
        .expect("an image");
    let layout = home.path("index");
    write_layout(&layout, &[("own", &own), ("other", &other)]).expect("a layout");
    // The layout's index becomes an image itself.
    let inner = std::fs::read(layout.join("index.json")).expect("index.json");
    let mut descriptor = Descriptor::of(MediaType::OciIndex, &inner);
    let digest = descriptor.digest;
    let key = "org.opencontainers.image.ref.name".to_owned();
    descriptor.annotations.insert(key, "both".to_owned());
    let blob = layout.join("blobs/sha256").join(digest.hex());
    std::fs::write(blob, &inner).expect("written");
    let outer = serde_json::to_vec(&Index::new(vec![descriptor])).expect("JSON");
    std::fs::write(layout.join("index.json"), outer).expect("written");
    let pushed = registry.push(&format!("oci:{}:both", layout.display()), name);
    pushed.expect("skopeo pushes");
    (digest.to_string(), own)
}

#[test]
fn an_index_is_pushed_where_all_of_it_is_there() {
    let home = Home::new();
    let registry = Registry::start().expect("docker-registry starts");
    let (index, own) = fill_index(&home, &registry, "both:1");
    let from = registry.reference("both:1");
    home.ok(&["pull", "-q", &from]);
    // The other platform's manifest is in the repository.
    let to = registry.reference("both:2");
    home.ok(&["tag", &from, &to]);
    let said = home.ok(&["push", &to]);
    assert!(
        said.out.starts_with(&format!("2: digest: {index} ")),
        "{}",
        said.out
    );
    assert_eq!(digest(&to), index);
    // It is not in another one.
    let manifest = own.manifest.digest.to_string();
    let alone = registry.reference("alone:1");
    home.ok(&["tag", &from, &alone]);
    let said = home
        .ok(&["push", &alone])
        .says(&["not all platforms", &manifest[7..19]]);
    assert!(said.out.contains(&manifest), "{}", said.out);
    assert_eq!(digest(&alone), manifest);
    // Nor is it wanted.
    let platform = oci::Platform::host().to_string();
    let said = home.ok(&["push", "--platform", &platform, &to]);
    assert_eq!(said.count("not all platforms"), 0, "{}", said.err);
    assert_eq!(digest(&to), manifest);
    let other = ["push", "--platform", "linux/riscv64", &to];
    home.gourd(&other, 125).says(&["linux/riscv64", "hint:"]);
}

#[test]
fn what_cannot_be_pushed_is_told() {
    let home = Home::new();
    let archive = home.path("image.tar");
    image("a")
        .write_archive(&archive, "127.0.0.1:9/a:1")
        .expect("an archive");
    home.ok(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]);
    home.gourd(&["push", "nonesuch"], 125)
        .says(&["no such image: nonesuch", "hint:"]);
    home.gourd(&["push", "127.0.0.1:9/a:2"], 125)
        .says(&["no such image"]);
    home.gourd(&["push", "-a", "127.0.0.1:9/a:1"], 125)
        .says(&["has a tag", "hint:"]);
    let by_digest = format!("127.0.0.1:9/a@sha256:{}", "0".repeat(64));
    home.gourd(&["push", &by_digest], 125)
        .says(&["has a digest", "hint:"]);
    home.gourd(&["push", "127.0.0.1:9/a:1"], 125)
        .says(&["127.0.0.1:9 cannot be reached", "hint:"]);
    let settings = home.path(".config/gourd");
    std::fs::create_dir_all(&settings).expect("a directory");
    std::fs::write(settings.join("registries.json"), "{\"mirror\": 1}").expect("written");
    let said = home.gourd(&["pull", "127.0.0.1:9/a:1"], 125);
    said.says(&[
        "registries.json is not valid",
        "unknown field `mirror`",
        "hint: the keys are",
    ]);
}

/// Waits for what somebody else does.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that a file occupies.
fn occupied(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

#[test]
fn a_killed_pull_is_gone_on_with() {
    const HALF: usize = 1 << 20;
    let home = Home::new();
    let noise: Vec<u8> = (0..2 * HALF as u32)
        .map(|i| (i.wrapping_mul(7919) >> 5) as u8)
        .collect();
    let image = ImageBuilder::new()
        .packing(Packing::Plain)
        .layer(Layer::new().file("noise", noise))
        .build()
        .expect("an image");
    let layer = image.layers[0].clone();
    let well = Arc::new(AtomicBool::new(false));
    let (own, wanted) = (well.clone(), layer.digest.to_string());
    let server = Faulty::with_image(&image, move |request, right| {
        match request.path.ends_with(&wanted) && !own.load(Ordering::SeqCst) {
            true => right.cut(HALF).stall(),
            false => right.whole(),
        }
    })
    .expect("it listens");
    let name = format!("{}/a/b:1", server.addr);
    let part = home
        .path("root/content/ingest")
        .join(format!("{}.part", layer.digest.hex()));
    let stalled = || {
        let child = home.start(&["pull", &name]);
        eventually("half of the layer is here", || {
            occupied(&part) >= HALF as u64
        });
        child
    };
    let kill = |mut child: Child| {
        child.kill().expect("killed");
        child.wait().expect("it has ended");
    };
    kill(stalled());
    // It is no image, and is seen, and stays when something else is removed.
    assert_eq!(home.ok(&["images", "-q"]).out, "");
    let archive = home.path("image.tar");
    self::image("x")
        .write_archive(&archive, "x")
        .expect("an archive");
    home.ok(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]);
    home.ok(&["rmi", "x"]);
    assert!(part.exists());
    // Who prunes wants the space.
    let said = home.ok(&["image", "prune", "-f"]).out;
    assert!(said.contains("Total reclaimed space: 1."), "{said}");
    assert_eq!(home.names("content/ingest"), Vec::<String>::new());

    // A second one waits for the first one, and takes over when that is dead.
    let first = stalled();
    let second = home.start(&["pull", &name]);
    let resolved = || {
        server
            .requests()
            .iter()
            .filter(|one| one.path.ends_with("/manifests/1"))
            .count()
    };
    eventually("the second one knows what it wants", || resolved() == 3);
    well.store(true, Ordering::SeqCst);
    kill(first);
    let output = second.wait_with_output().expect("it ends");
    let said = Said::of(output, 0).says(&[": going on after "]);
    assert_eq!(said.count(": done"), 1, "{}", said.err);
    let last = server.requests().pop().expect("a request");
    let (began, _) = last.range().expect("a range");
    // A quarter of a MiB may be lost with a process.
    assert!((768 << 10..=HALF as u64).contains(&began), "{began}");
    assert_eq!(home.names("content/ingest"), Vec::<String>::new());
    let id = home.ok(&["image", "inspect", "-f", "{{.Id}}", &name]).out;
    assert_eq!(id, image.config.digest.to_string());
}
