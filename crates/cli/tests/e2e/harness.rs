//! A `GOURD_ROOT` of a test's own, the `gourd` command in it, and the proof that nothing is left behind.

mod namespaces;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than anything takes here; a test that meets it has found a hang.
const PATIENCE: Duration = Duration::from_secs(240);

/// Longer than it takes to see what has happened; with two VMs and a compiler beside it, too.
const SOON: Duration = Duration::from_secs(60);

/// Files larger than this are linked, not copied: images, kernels, blobs. None of them is ever written again.
const LINKED: u64 = 64 * 1024;

/// A folder that `./dev test` made, by the name of its variable.
fn folder(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("{variable} is not set: run the end-to-end tests with ./dev test")
        })
}

/// The built programs.
pub fn programs() -> PathBuf {
    folder("GOURD_BIN_DIR")
}

/// The driver that this suite is about, when `./dev test` names one. Otherwise it is the one that `auto` chooses, which is `qemu`:
/// where `auto` would choose `kvm`, `./dev test` names it.
pub fn driver() -> Option<String> {
    std::env::var("GOURD_E2E_DRIVER").ok()
}

/// How many processors a VM may have here, up to two: the rig has one.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |number| number.get().min(2))
}

/// Kernels and images that set-up made.
pub fn cache() -> PathBuf {
    folder("GOURD_TEST_CACHE")
}

/// A root of a test's own.
pub struct Home {
    dir: tempfile::TempDir,
    programs: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    /// Holds the file system of the root.
    holder: Option<Child>,
}

/// What a command left.
#[derive(Debug)]
pub struct Out {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Out {
    /// Stdout as text, without the last line break.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// It must have gone well.
    #[track_caller]
    pub fn ok(self) -> Out {
        assert_eq!(
            self.code,
            0,
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// It must have ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Out {
        assert_eq!(
            self.code,
            code,
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// Its stderr must hold each of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Out {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
        self
    }
}

impl Home {
    /// With both kernels and the `busybox` and `debian` images.
    pub fn new() -> Home {
        let home = Home::empty();
        copy_tree(&template(), &home.root());
        home
    }

    /// With nothing at all.
    pub fn empty() -> Home {
        let dir = tempfile::Builder::new().prefix("gourd-e2e-").tempdir();
        let home = Home {
            dir: dir.expect("a temporary folder"),
            programs: programs(),
            environment: Vec::new(),
            holder: None,
        };
        fs::create_dir(home.root()).expect("a root");
        home
    }

    /// As [`Home::new`], with the programs that have fault points. They are traced in `trace`, and one that is written to
    /// `fault` strikes: see `store::fault`.
    pub fn with_faults() -> Home {
        let mut home = Home::new();
        home.programs = programs().with_file_name("bin-faults");
        let program = home.programs.join("gourd");
        assert!(
            program.is_file(),
            "{} is missing: ./dev test builds it",
            program.display()
        );
        home.environment = vec![
            ("GOURD_FAULT", home.path("fault")),
            ("GOURD_FAULT_TRACE", home.path("trace")),
        ];
        home
    }

    /// `GOURD_ROOT`.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A path beside the root, for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `gourd ARGS`, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.programs, &self.root(), args);
        for (name, path) in &self.environment {
            command.env(name, path);
        }
        command
    }

    /// `gourd ARGS`, with nothing on stdin.
    pub fn gourd(&self, args: &[&str]) -> Out {
        self.gourd_with(args, &[])
    }

    /// `gourd ARGS`, with these bytes on stdin, then its end.
    pub fn gourd_with(&self, args: &[&str], stdin: &[u8]) -> Out {
        finish(self.start(args), stdin)
    }

    /// `gourd ARGS`, running, all three streams piped.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gourd starts")
    }

    /// Starts a detached container that sleeps; its id.
    pub fn sleeper(&self, args: &[&str]) -> String {
        let mut line = vec!["run", "-d"];
        line.extend(args);
        line.extend(["busybox", "sleep", "1000"]);
        self.gourd(&line).ok().text()
    }

    /// A field of `gourd inspect`, as a Go template.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.gourd(&["inspect", "-f", template, container])
            .ok()
            .text()
    }

    /// The container's folder.
    pub fn container(&self, id: &str) -> PathBuf {
        self.root().join("containers").join(id)
    }

    /// The supervisor of a running container, and its monitors by program name.
    pub fn processes(&self, id: &str) -> Processes {
        let text = fs::read_to_string(self.container(id).join("state.json")).expect("state.json");
        let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let supervisor = state["pid"].as_u64().expect("a running supervisor") as u32;
        let found = Processes::of(supervisor);
        assert!(
            found.vmm != 0 && found.qemu != 0,
            "monitors of {supervisor}: {found:?}"
        );
        found
    }

    /// Processes that have to do with this root: by environment, by open file, by working directory.
    pub fn leftovers(&self) -> Vec<String> {
        leftovers(&self.root())
    }

    /// Nothing runs, no socket, no container is left.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new(), "processes are left");
        assert_eq!(
            names(&self.root().join("run")),
            Vec::<String>::new(),
            "sockets are left"
        );
        let containers = names(&self.root().join("containers"));
        let own = ["lock", ".names"];
        let containers: Vec<_> = containers
            .iter()
            .filter(|name| !own.contains(&name.as_str()))
            .collect();
        assert!(containers.is_empty(), "containers are left: {containers:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Points must not strike any more.
        self.environment.clear();
        // The logs go with the containers.
        let diagnosis = std::thread::panicking().then(|| self.diagnosis());
        let ids = self.gourd(&["ps", "-aq", "--no-trunc"]).text();
        for id in ids.lines() {
            self.gourd(&["rm", "-f", id]);
        }
        // One whose container went with `rm -f` is on its last steps; tests that want nothing left at once look by themselves.
        let begin = Instant::now();
        while !self.leftovers().is_empty() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.leftovers();
        for process in &left {
            if let Some(pid) = process.split(' ').next() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
        }
        match diagnosis {
            None => assert_eq!(
                left,
                Vec::<String>::new(),
                "processes outlived their containers"
            ),
            Some(diagnosis) => eprintln!("{diagnosis}"),
        }
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl Home {
    fn diagnosis(&self) -> String {
        let mut text = String::new();
        for id in names(&self.root().join("containers")) {
            for log in ["logs/supervisor.log", "logs/console.log", "state.json"] {
                let path = self.container(&id).join(log);
                if let Ok(bytes) = fs::read(&path) {
                    let tail = &bytes[bytes.len().saturating_sub(3000)..];
                    text.push_str(&format!("--- {log}\n{}\n", String::from_utf8_lossy(tail)));
                }
            }
        }
        text
    }
}

/// Processes that have to do with a root, each as its id and its name.
pub fn leftovers(root: &Path) -> Vec<String> {
    all_processes()
        .into_iter()
        .filter(|process| process.pid != std::process::id() && process.belongs_to(root))
        .map(|process| format!("{} {}", process.pid, process.name))
        .collect()
}

/// A container's processes on the host.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    pub supervisor: u32,
    pub vmm: u32,
    /// Runs the guest's code: QEMU, or `gourd-vmm` under the driver kvm.
    pub qemu: u32,
}

impl Processes {
    /// A supervisor and the monitors that it has now; 0 where it has none.
    pub fn of(supervisor: u32) -> Processes {
        let mut found = Processes {
            supervisor,
            vmm: 0,
            qemu: 0,
        };
        let alone = driver().is_some_and(|driver| driver == "kvm");
        let all = all_processes().into_iter();
        for child in all.filter(|process| process.parent == supervisor) {
            if child.name.starts_with("gourd-vmm") {
                found.vmm = child.pid;
                if alone {
                    found.qemu = child.pid;
                }
            } else if child.name.starts_with("qemu-system") {
                found.qemu = child.pid;
            }
        }
        found
    }
}

/// Whether a process was stopped by a signal and not continued.
pub fn stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// `kill -SIGNAL PID`, of a process that this test started.
pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success(), "kill {signal} {pid}");
}

/// Whether a process has ended; a zombie has.
pub fn dead(pid: u32) -> bool {
    all_processes().iter().all(|process| process.pid != pid)
}

/// Waits for a condition that the kernel brings about soon (a killed process's end).
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn command(programs: &Path, root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(programs.join("gourd"));
    let (verb, rest) = args.split_at(args.len().min(1));
    command.args(verb);
    if let Some(driver) = driver()
        && matches!(verb, ["run" | "create"])
    {
        command.args(["--driver", &driver]);
    }
    command
        .args(rest)
        .env("GOURD_ROOT", root)
        .env_remove("DOCKER_CONFIG");
    command
}

/// Feeds a child, reads both its streams at once, and waits for it; a child that hangs is killed and fails the test.
pub fn finish(mut child: Child, stdin: &[u8]) -> Out {
    let pid = child.id();
    let mut input = child.stdin.take().expect("piped");
    let mut output = child.stdout.take().expect("piped");
    let mut errors = child.stderr.take().expect("piped");
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A child that does not read to the end is its own affair.
            let _ = input.write_all(stdin);
        });
        let reader = scope.spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).expect("stdout is read");
            bytes
        });
        let errors = scope.spawn(move || {
            let mut bytes = Vec::new();
            errors.read_to_end(&mut bytes).expect("stderr is read");
            String::from_utf8_lossy(&bytes).into_owned()
        });
        scope.spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a command hangs: killing {pid}\n{}", standing(pid));
                kill(pid, "-9");
            }
        });
        let status = child.wait().expect("it ends");
        let out = Out {
            code: status.code().unwrap_or(-1),
            stdout: reader.join().expect("stdout"),
            stderr: errors.join().expect("stderr"),
        };
        drop(done);
        out
    })
}

/// Where the threads of a command and of all that has to do with its root stand: name, state, what they wait for in the kernel.
fn standing(pid: u32) -> String {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut entries = environment.split(|byte| *byte == 0);
    let root = entries.find_map(|entry| entry.strip_prefix(b"GOURD_ROOT="));
    let root = PathBuf::from(OsStr::from_bytes(root.unwrap_or_default()));
    let mut text = String::new();
    for process in all_processes() {
        if process.pid != pid && !process.belongs_to(&root) {
            continue;
        }
        let tasks = PathBuf::from(format!("/proc/{}/task", process.pid));
        for task in names(&tasks) {
            let read = |name: &str| fs::read_to_string(tasks.join(&task).join(name));
            let read = |name: &str| read(name).unwrap_or_default().trim().to_owned();
            let stat = read("stat");
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            text.push_str(&format!(
                "  {} {task} {}: {:.1} in {} ({})\n",
                process.pid,
                read("comm"),
                state,
                read("wchan"),
                read("syscall"),
            ));
        }
    }
    text
}

/// A tool that a test needs; the suite's set-up installs all of them.
pub fn tool(program: &str, args: &[&dyn AsRef<OsStr>]) -> Out {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let out = Command::new(program)
        .args(args)
        .env("PATH", path)
        // tmux starts its commands by the user's shell, and this user has none.
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} does not start ({error}); ./dev test installs it")
        });
    Out {
        code: out.status.code().unwrap_or(-1),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Names in a folder, sorted; none when it isn't there.
pub fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The ext4 oracle: `e2fsck -fn` on a copy on which the journal was replayed, as the kernel would.
#[track_caller]
pub fn assert_ext4_clean(image: &Path) {
    let copy = image.with_extension("oracle");
    tool("cp", &[&"--sparse=always", &image, &copy]).ok();
    // Replays the journal; 1 = something was done.
    let replay = tool("e2fsck", &[&"-fp", &"-E", &"journal_only", &copy]);
    assert!(
        replay.code <= 1,
        "journal: {} {}",
        replay.text(),
        replay.stderr
    );
    tool("e2fsck", &[&"-fn", &copy]).ok();
    fs::remove_file(copy).expect("the copy goes");
}

struct Process {
    pid: u32,
    parent: u32,
    name: String,
}

fn all_processes() -> Vec<Process> {
    let pids = names(Path::new("/proc"));
    pids.iter()
        .filter_map(|name| name.parse().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // pid (name) state parent …; the name may hold anything.
            let (head, tail) = stat.rsplit_once(')')?;
            let name = head.split_once('(')?.1.to_owned();
            let mut fields = tail.split_whitespace();
            // A zombie is dead; its parent has yet to look.
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some(Process { pid, parent, name })
        })
        .collect()
}

impl Process {
    fn belongs_to(&self, root: &Path) -> bool {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        let wanted = format!("GOURD_ROOT={}", root.display());
        let environ = fs::read(proc.join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted.as_bytes())
        {
            return true;
        }
        let Ok(descriptors) = fs::read_dir(proc.join("fd")) else {
            return false;
        };
        descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| target.starts_with(root))
    }
}

/// A root with everything in it, made by the first test that wants it and only read after.
fn template() -> PathBuf {
    let stage = folder("TMPDIR");
    let path = stage.join("template");
    let lock = fs::File::create(stage.join("template.lock")).expect("a lock");
    lock.lock().expect("the lock");
    if !path.exists() {
        let making = stage.join("template.new");
        let _ = fs::remove_dir_all(&making);
        fs::create_dir(&making).expect("a folder");
        let gourd = |args: &[&str]| {
            let child = command(&programs(), &making, args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("gourd starts");
            finish(child, &[]).ok()
        };
        let cached = |name: &str| cache().join(name).display().to_string();
        gourd(&[
            "system",
            "kernel",
            "add",
            "gourd",
            &cached("kernels/gourd/vmlinux"),
        ]);
        let (file, modules) = (
            cached("kernels/debian/vmlinux"),
            cached("kernels/debian/modules"),
        );
        gourd(&[
            "system",
            "kernel",
            "add",
            "debian",
            &file,
            "--modules",
            &modules,
        ]);
        gourd(&["load", "-i", &cached("images/busybox.tar")]);
        gourd(&["load", "-i", &cached("images/debian.tar")]);
        fs::rename(&making, &path).expect("the template");
    }
    path
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    let mode = fs::metadata(from).expect("metadata").permissions();
    fs::set_permissions(to, mode).expect("mode");
    for entry in fs::read_dir(from).expect("a listing").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&from).expect("metadata");
        if meta.is_dir() {
            copy_tree(&from, &to);
        } else if meta.is_symlink() {
            let target = fs::read_link(&from).expect("a link");
            std::os::unix::fs::symlink(target, &to).expect("a link");
        } else if meta.size() > LINKED {
            fs::hard_link(&from, &to).expect("a link");
        } else {
            fs::copy(&from, &to).expect("a copy");
        }
    }
}
