//! What the command says when it can't do what it was asked for: the whole text, kind by kind, as committed in
//! `tests/errors/`. `UPDATE=1` writes them anew; what is in that folder and in no case fails.
//!
//! No VM is started here: images are made by hand, the kernel is a header, registries answer what a case wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::image::{ImageBuilder, Layer, write_layout};
use testkit::registry::{Faulty, reply};

/// A state directory with an image, a kernel and some containers.
struct Bench {
    dir: TempDir,
    /// What is written in the texts for what differs from run to run.
    words: Vec<(String, &'static str)>,
    said: Vec<(&'static str, String)>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let words = vec![(dir.path().display().to_string(), "$DIR")];
        let bench = Bench {
            dir,
            words,
            said: Vec::new(),
        };
        let kernel = bench.path("kernel");
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        // As long as the set-up header of a bzImage, which is looked for first.
        bytes.resize(0x210, 0);
        // e_machine (elf(5)): x86-64.
        bytes[18] = 62;
        bytes.extend_from_slice(b"Linux version 6.12.0-test (nobody@nowhere)\0");
        fs::write(&kernel, bytes).expect("a file");
        bench.ok(&["system", "kernel", "add", "test", &text(&kernel)]);
        let archive = bench.path("image.tar");
        image().write_archive(&archive, "img").expect("an archive");
        bench.ok(&["load", "-q", "-i", &text(&archive)]);
        bench.ok(&["create", "--name", "idle", "img", "/hello"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("root")
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gourd"));
        command
            .args(line)
            .env("GOURD_ROOT", self.root())
            .env("HOME", self.dir.path())
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("COLUMNS", "100")
            .env_remove("GOURD_LOG")
            .env_remove("GOURD_LIBEXEC")
            .stdin(Stdio::null());
        command
    }

    /// Set-up.
    fn ok(&self, line: &[&str]) -> String {
        let out = self.command(line).output().expect("gourd runs");
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{line:?}: {errors}");
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    fn case(&mut self, name: &'static str, line: &[&str]) {
        let command = self.command(line);
        self.case_of(name, line, command);
    }

    /// The line, its code, and all that it said, without what differs from run to run.
    fn case_of(&mut self, name: &'static str, line: &[&str], mut command: Command) {
        let out = command.output().expect("gourd runs");
        let mut said = format!(
            "$ gourd {}\n[{}]\n{}{}",
            line.join(" "),
            out.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        for (word, sign) in &self.words {
            said = said.replace(word, sign);
        }
        self.said.push((name, without_hex(&said)));
    }

    fn word(&mut self, word: impl Into<String>, sign: &'static str) {
        self.words.push((word.into(), sign));
    }

    /// Compares with what is committed, or writes it.
    fn check(self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
        let update = std::env::var_os("UPDATE").is_some();
        let mut wrong = Vec::new();
        // No success, nor killed: it is the command that refuses.
        for (name, said) in &self.said {
            if ["\n[0]\n", "\n[-1]\n"]
                .iter()
                .any(|code| said.contains(code))
            {
                wrong.push(format!("--- {name} is no refusal\n{said}"));
            }
        }
        for (name, said) in &self.said {
            let path = folder.join(format!("{name}.txt"));
            if update {
                fs::create_dir_all(&folder).expect("a folder");
                fs::write(&path, said).expect("written");
                continue;
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            if committed != *said {
                wrong.push(format!("--- {name}, committed\n{committed}--- now\n{said}"));
            }
        }
        for entry in fs::read_dir(&folder).expect("the folder").flatten() {
            let name = entry.file_name().to_string_lossy().replace(".txt", "");
            if self.said.iter().all(|(known, _)| *known != name) {
                wrong.push(format!("--- {name} is nobody's: remove it"));
            }
        }
        assert!(
            wrong.is_empty(),
            "UPDATE=1 accepts these:\n{}",
            wrong.join("\n")
        );
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn image() -> ImageBuilder {
    ImageBuilder::new().layer(Layer::new().file("hello", b"hello"))
}

/// Ids and digests differ with what they are of.
fn without_hex(said: &str) -> String {
    let mut clean = String::new();
    let mut run = String::new();
    for c in said.chars().chain(std::iter::once('\0')) {
        if c.is_ascii_digit() || ('a'..='f').contains(&c) {
            run.push(c);
            continue;
        }
        let hex = run.len() == 12 || run.len() == 64;
        clean.push_str(if hex { "$HEX" } else { &run });
        run.clear();
        if c != '\0' {
            clean.push(c);
        }
    }
    clean
}

#[test]
fn every_kind_of_failure_has_its_text() {
    let mut bench = Bench::new();
    lines(&mut bench);
    containers(&mut bench);
    volumes(&mut bench);
    images(&mut bench);
    archives(&mut bench);
    registries(&mut bench);
    hosts(&mut bench);
    files_of_state(&mut bench);
    bench.check();
}

/// Lines that can't be read.
fn lines(bench: &mut Bench) {
    bench.case("usage-flag", &["run", "--nope", "img"]);
    bench.case("usage-missing", &["run"]);
    bench.case("usage-verb", &["rnu"]);
    bench.case("usage-size", &["run", "-m", "lots", "img"]);
    bench.case("usage-cpus", &["run", "--cpus", "many", "img"]);
    bench.case("usage-signal", &["kill", "-s", "NOPE", "idle"]);
    bench.case("usage-ulimit", &["run", "--ulimit", "nofile=9:1", "img"]);
    bench.case("usage-restart", &["run", "--restart", "often", "img"]);
    bench.case("usage-capability", &["run", "--cap-add", "FLY", "img"]);
    bench.case(
        "usage-storage",
        &["run", "--storage-opt", "colour=red", "img"],
    );
    bench.case("usage-tmpfs", &["run", "--tmpfs", "relative", "img"]);
    bench.case("usage-since", &["logs", "--since", "whenever", "idle"]);
    bench.case(
        "usage-detach-keys",
        &["attach", "--detach-keys", "ctrl-?", "idle"],
    );
    bench.case("template", &["images", "--format", "{{.Nope}}"]);
    bench.case("filter", &["ps", "--filter", "colour=red"]);
    bench.case(
        "rm-and-restart",
        &["create", "--rm", "--restart", "always", "img"],
    );
    bench.case("no-tty", &["run", "-it", "img"]);
}

fn containers(bench: &mut Bench) {
    bench.case("no-such-container", &["start", "nonesuch"]);
    bench.case("no-such-container-rm", &["rm", "nonesuch", "nonesuch2"]);
    bench.case("no-such-object", &["inspect", "nonesuch"]);
    bench.case("name-in-use", &["create", "--name", "idle", "img", "/x"]);
    bench.case("name-invalid", &["create", "--name=-x", "img", "/x"]);
    bench.ok(&["create", "--name", "other", "img", "/x"]);
    bench.case("rename-in-use", &["rename", "other", "idle"]);
    bench.ok(&["rm", "other"]);
    bench.case("not-running-exec", &["exec", "idle", "true"]);
    bench.case("not-running-attach", &["attach", "idle"]);
    bench.case("not-running-kill", &["kill", "idle"]);
    bench.case("not-running-pause", &["pause", "idle"]);
    bench.case("not-running-top", &["top", "idle"]);
    bench.case("attach-to-many", &["start", "-a", "idle", "idle"]);
    bench.case("nothing-to-update", &["update", "idle"]);
    bench.case("memory-too-small", &["create", "-m", "4m", "img", "/x"]);
    bench.case(
        "hostname-invalid",
        &["create", "--hostname=-x", "img", "/x"],
    );
    bench.case(
        "driver-unknown",
        &["create", "--driver", "abacus", "img", "/x"],
    );
    bench.case("command-missing", &["create", "img"]);
    let file = bench.path("cid");
    fs::write(&file, "x").expect("a file");
    bench.case(
        "cidfile-exists",
        &["create", "--cidfile", &text(&file), "img", "/x"],
    );
    let missing = text(&bench.path("missing"));
    bench.case(
        "env-file-missing",
        &["create", "--env-file", &missing, "img", "/x"],
    );
    bench.case(
        "label-file-missing",
        &["create", "--label-file", &missing, "img", "/x"],
    );
    let odd = bench.path("odd.env");
    fs::write(&odd, "GOOD=1\nno good name=2\n").expect("a file");
    bench.case(
        "env-file-line",
        &["create", "--env-file", &text(&odd), "img", "/x"],
    );
    bench.case("cp-between", &["cp", "idle:/x", "other:/y"]);
    bench.case("cp-no-container", &["cp", "/x", "/y"]);
    bench.case(
        "cp-no-such-container",
        &["cp", "/etc/passwd", "nonesuch:/y"],
    );
    bench.case("cp-no-such-file", &["cp", &missing, "idle:/y"]);
}

fn volumes(bench: &mut Bench) {
    bench.case("usage-volume", &["create", "-v", "data", "img"]);
    bench.case(
        "usage-volume-bind",
        &["create", "-v", "/home:x", "img", "/x"],
    );
    bench.case("usage-volume-option", &["create", "-v", "data:/x:z", "img"]);
    bench.case(
        "usage-mount",
        &[
            "create",
            "--mount",
            "type=bind,source=/no/such/folder,target=/x",
            "img",
            "/x",
        ],
    );
    bench.case(
        "usage-owner",
        &["volume", "create", "--owner", "me", "data"],
    );
    bench.case(
        "mount-twice",
        &["create", "-v", "a1:/x", "-v", "b1:/x", "img", "/x"],
    );
    bench.case("mount-root", &["create", "-v", "data:/", "img", "/x"]);
    bench.case("volume-name", &["volume", "create", "a/b"]);
    bench.case("volume-size", &["volume", "create", "--size", "1m", "data"]);
    bench.case("no-such-volume", &["volume", "rm", "nonesuch"]);
    bench.case(
        "no-such-volume-export",
        &["volume", "export", "-o", "/dev/null", "nonesuch"],
    );
    bench.ok(&["volume", "create", "--size", "1g", "data"]);
    bench.case(
        "volume-other-size",
        &["volume", "create", "--size", "2g", "data"],
    );
    bench.case(
        "volume-other-label",
        &["volume", "create", "--label", "tier=db", "data"],
    );
    bench.case(
        "volume-other-owner",
        &["volume", "create", "--owner", "1000", "data"],
    );
    bench.case("volume-shrink", &["volume", "resize", "data", "64m"]);
    bench.case("volume-exists", &["volume", "clone", "data", "data"]);
    bench.ok(&["create", "--name", "user", "-v", "data:/x", "img", "/x"]);
    bench.case("volume-used", &["volume", "rm", "data"]);
    bench.ok(&["rm", "user"]);
}

fn images(bench: &mut Bench) {
    bench.case("reference-invalid", &["create", "Not/Valid::x"]);
    bench.case("no-such-image", &["create", "--pull", "never", "nonesuch"]);
    bench.case("no-such-image-rmi", &["rmi", "nonesuch"]);
    bench.case("no-such-image-tag", &["tag", "nonesuch", "other"]);
    bench.case(
        "no-such-image-save",
        &["save", "-o", "/dev/null", "nonesuch"],
    );
    bench.case("no-such-image-history", &["history", "nonesuch"]);
    bench.case("image-in-use", &["rmi", "img"]);
    bench.case(
        "platform-unknown",
        &["create", "--platform", "toaster", "img", "/x"],
    );
    bench.ok(&["tag", "img", "img:second"]);
    let id = bench.ok(&["image", "inspect", "-f", "{{.Id}}", "img"]);
    bench.case("several-references", &["rmi", &id]);
    bench.case("commit-no-such-container", &["commit", "nonesuch", "made"]);
    bench.case(
        "commit-instruction",
        &["commit", "-c", "FLY away", "idle", "made"],
    );
    let folder = text(&bench.path(""));
    bench.case("save-to-folder", &["save", "-o", &folder, "img"]);
    bench.case("disk-full", &["save", "-o", "/dev/full", "img"]);
}

fn archives(bench: &mut Bench) {
    let missing = text(&bench.path("missing.tar"));
    bench.case("archive-missing", &["load", "-i", &missing]);
    bench.case("import-missing", &["import", &missing]);
    let noise = bench.path("noise.tar");
    fs::write(&noise, vec![7; 4096]).expect("a file");
    bench.case("archive-is-none", &["load", "-i", &text(&noise)]);
    bench.case("import-is-none", &["import", &text(&noise)]);
    // A layer that is not what its digest says.
    let mut lying = image().build().expect("an image");
    let digest = lying.layers[0].digest;
    let layer = lying.blobs.get_mut(&digest).expect("the layer");
    let middle = layer.len() / 2;
    layer[middle] ^= 1;
    let layout = bench.path("lying");
    write_layout(&layout, &[("lying", &lying)]).expect("a layout");
    bench.case("archive-lies", &["load", "-i", &text(&layout)]);
    let foreign = bench.path("foreign.tar");
    image()
        .architecture("s390x")
        .write_archive(&foreign, "foreign")
        .expect("an archive");
    let load = bench
        .command(&["load", "-q", "-i", &text(&foreign)])
        .status();
    assert!(load.expect("gourd runs").success());
    bench.case("image-foreign", &["create", "foreign"]);
}

fn registries(bench: &mut Bench) {
    // Port 9 of loopback: nobody listens.
    bench.case("registry-unreachable", &["pull", "127.0.0.1:9/some/image"]);
    let mut faulty = |name,
                      status: u16,
                      headers: &'static [(&'static str, &'static str)],
                      body: &'static [u8]| {
        let server = Faulty::start(move |_| reply(status, headers, body)).expect("it listens");
        let reference = format!("{}/some/image:1", server.addr);
        bench.word(server.addr.to_string(), "$REGISTRY");
        bench.case(name, &["pull", &reference]);
    };
    faulty(
        "registry-not-found",
        404,
        &[],
        b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}",
    );
    faulty(
        "registry-unauthorized",
        401,
        &[("WWW-Authenticate", "Basic realm=\"secret\"")],
        b"",
    );
    faulty(
        "registry-forbidden",
        403,
        &[],
        b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"not for you\"}]}",
    );
    faulty(
        "registry-no-manifest",
        200,
        &[("Content-Type", "text/html")],
        b"<html>hello</html>",
    );
    bench.case("login-no-password", &["login", "-u", "me", "127.0.0.1:9"]);
}

fn hosts(bench: &mut Bench) {
    let line = ["ps"];
    let mut command = bench.command(&line);
    command.env("GOURD_ROOT", "/proc/nope");
    bench.case_of("root-unusable", &line, command);
    let line = ["start", "idle"];
    let mut command = bench.command(&line);
    command.env("GOURD_LIBEXEC", "/nonesuch");
    bench.case_of("program-missing", &line, command);
    bench.case(
        "kernel-unknown",
        &["create", "--kernel", "nonesuch", "img", "/x"],
    );
    bench.case(
        "kernel-is-none",
        &["system", "kernel", "add", "odd", "/etc/passwd"],
    );
    let kernel = text(&bench.path("kernel"));
    bench.case(
        "kernel-exists",
        &["system", "kernel", "add", "test", &kernel],
    );
    bench.case("kernel-rm-unknown", &["system", "kernel", "rm", "nonesuch"]);
    bench.ok(&["system", "kernel", "rm", "test"]);
    bench.case("no-kernel", &["create", "img", "/x"]);
}

fn files_of_state(bench: &mut Bench) {
    let id = bench.ok(&["inspect", "-f", "{{.Id}}", "idle"]);
    let state = bench.root().join("containers").join(id).join("state.json");
    fs::write(&state, "{\"schema\": 1, \"sta").expect("written");
    bench.case("state-corrupt", &["start", "idle"]);
    fs::write(&state, "{\"schema\": 99}").expect("written");
    bench.case("state-newer", &["start", "idle"]);
}
