//! Unix sockets between host and container, without a network.
//!
//! The other ends are OpenSSH's `ssh-agent` and `ssh-add`, OpenBSD's `nc`, Debian's perl in the container, and this test's own sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Home, eventually, kill};

/// Connections at once.
const MANY: usize = 200;

/// In the container: connections one after the other, each read to its end and then sent back. The backlog is one, so that many
/// clients have to wait for their turn.
const SERVER: &str = r#"
use Socket; $| = 1; my $l; unlink "/tmp/app.sock";
socket($l, AF_UNIX, SOCK_STREAM, 0) && bind($l, pack_sockaddr_un("/tmp/app.sock")) && listen($l, 1) || die $!;
print "ready\n";
while (accept(my $c, $l)) { local $/; my $all = <$c>; print $c $all; close $c }
"#;

/// In the container: as many connections as it is told stand at once before the first says anything; each ends its half and then reads.
const CLIENT: &str = r#"
use Socket; $SIG{PIPE} = "IGNORE"; my ($path, $count, $length) = @ARGV; my @all;
for (1 .. $count) {
    my $s; socket($s, AF_UNIX, SOCK_STREAM, 0) && connect($s, pack_sockaddr_un($path)) || die $!;
    push @all, $s;
}
my $wrong = 0;
for my $i (0 .. $#all) {
    my ($s, $text) = ($all[$i], "$i." x $length);
    for (my $at = 0; $at < length $text;) { $at += syswrite($s, $text, length($text) - $at, $at) // last }
    shutdown($s, 1);
    local $/; $wrong += (<$s> // "") ne $text;
}
print "$wrong of $count wrong\n";
"#;

/// A program that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent with a key of its own, and what `ssh-add -l` says about it.
fn agent(home: &Home, socket: &Path) -> (Ended, String) {
    let agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("ssh-agent, of openssh-client");
    let agent = Ended(agent);
    eventually("the agent listens", || UnixStream::connect(socket).is_ok());
    let key = home.path("key");
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .env("SSH_AUTH_SOCK", socket)
            .output()
            .expect("a program of openssh-client");
        assert!(out.status.success(), "{program}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let key = key.display().to_string();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    run("ssh-add", &["-q", &key]);
    let listed = run("ssh-add", &["-l"]);
    (agent, listed)
}

/// `ssh-add` and what of its libraries Debian's essential packages lack, as a tar archive.
fn ssh_add() -> Vec<u8> {
    let out = Command::new("sh")
        .args([
            "-c",
            "tar -chP --transform 's,.*/,,' /usr/bin/ssh-add $(ldd /usr/bin/ssh-add | grep -o '/[^ ]*/libcrypto[^ ]*')",
        ])
        .output()
        .expect("tar");
    assert!(out.status.success(), "{out:?}");
    out.stdout
}

/// A server of the host's that answers each connection with what it said, when its half has ended.
struct Echo<'a> {
    path: &'a Path,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Echo<'_> {
    fn begin(path: &Path) -> Echo<'_> {
        let listener = UnixListener::bind(path).expect("a socket");
        let ending = Arc::new(AtomicBool::new(false));
        let told = ending.clone();
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept()
                && !told.load(Ordering::SeqCst)
            {
                // A thread each: they come in any order.
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    let heard = stream.read_to_end(&mut all);
                    heard.and_then(|_| stream.write_all(&all))
                });
            }
        });
        Echo {
            path,
            ending,
            thread,
        }
    }

    fn end(self) {
        self.ending.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(self.path).expect("connects"));
        self.thread.join().expect("the server ends");
    }
}

fn exchange(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("connects");
    let patience = Some(Duration::from_secs(120));
    stream.set_read_timeout(patience).expect("a time-out");
    stream.write_all(bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("ended");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    answer
}

#[test]
fn sockets_lead_both_ways_and_the_ssh_agent_comes_along() {
    let home = Home::new();
    let (agents, hosts, published) = (
        home.path("agent.sock"),
        home.path("host.sock"),
        home.path("app.sock"),
    );
    let (agent, listed) = agent(&home, &agents);
    let server = Echo::begin(&hosts);
    let mount = format!("{}:/run/host.sock", hosts.display());
    let publish = format!("{}:/tmp/app.sock", published.display());
    let line = [
        &["run", "-d", "--name", "box", "--network", "none", "--ssh"][..],
        &["-u", "daemon", "-v", &mount, "--publish-socket", &publish],
        &["debian", "perl", "-e", SERVER],
    ];
    let with_agent = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("SSH_AUTH_SOCK", &agents).stdin(Stdio::null());
        let out = command.output().expect("gourd starts");
        assert!(out.status.success(), "{out:?}");
    };
    with_agent(&line.concat());
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&published), 0o600);
    eventually("the server listens", || {
        home.gourd(&["logs", "box"]).ok().text() == "ready"
    });

    // The agent, for the container's user alone.
    let script = "tar -xC /tmp && stat -c '%U %a' $SSH_AUTH_SOCK /run/host.sock && LD_LIBRARY_PATH=/tmp /tmp/ssh-add -l";
    let said = home.gourd_with(&["exec", "-i", "box", "sh", "-c", script], &ssh_add());
    assert_eq!(
        said.ok().text() + "\n",
        format!("daemon 600\ndaemon 600\n{listed}")
    );

    // In: whole, with the end of one half before the answer; by somebody else's program, and many at once.
    let bytes: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = home.path("whole");
    fs::write(&whole, &bytes[..3_000_000]).expect("a file");
    let nc = format!(
        "nc.openbsd -N -U '{}' <'{}'",
        published.display(),
        whole.display()
    );
    let out = Command::new("sh").args(["-c", &nc]).output().expect("nc");
    assert!(
        out.stdout == bytes[..3_000_000],
        "{} bytes: {:?}",
        out.stdout.len(),
        out.stderr
    );
    std::thread::scope(|scope| {
        for index in 0..MANY {
            let (published, bytes) = (&published, &bytes);
            scope.spawn(move || {
                let own = &bytes[4 * index..4 * index + 5000];
                assert!(exchange(published, own) == own, "connection {index}");
            });
        }
    });

    // Out: the same.
    let client = |count: usize, length: usize| {
        let (count, length) = (count.to_string(), length.to_string());
        let line = [
            "exec",
            "box",
            "perl",
            "-e",
            CLIENT,
            "/run/host.sock",
            &count,
            &length,
        ];
        home.gourd(&line).ok().text()
    };
    assert_eq!(client(1, 1_000_000), "0 of 1 wrong");
    assert_eq!(client(MANY, 1000), format!("0 of {MANY} wrong"));

    // The host's server ends: an end inside, a line in the log, and all is well again when it is back.
    server.end();
    assert_eq!(client(1, 1), "1 of 1 wrong");
    let id = home.inspect("box", "{{.Id}}");
    let log = fs::read_to_string(home.container(&id).join("logs/supervisor.log")).expect("a log");
    assert!(log.contains("the host's socket can't be reached"), "{log}");
    fs::remove_file(&hosts).expect("removed");
    let server = Echo::begin(&hosts);
    assert_eq!(client(1, 1), "0 of 1 wrong");

    // A crash leaves the file; whoever meets the container next removes it.
    kill(home.processes(&id).supervisor, "-9");
    eventually("the container is found dead", || {
        home.gourd(&["ps", "-q"]).ok().text().is_empty()
    });
    assert!(!published.exists(), "the socket outlived its container");
    // Stopped, and started again: as new.
    with_agent(&["start", "box"]);
    eventually("the server listens again", || {
        home.gourd(&["logs", "box"]).ok().text() == "ready\nready"
    });
    assert_eq!(exchange(&published, b"again"), b"again");
    home.gourd(&["rm", "-f", "box"]).ok();
    assert!(!published.exists(), "the socket outlived its container");
    server.end();
    drop(agent);
    home.assert_nothing_left();
}

#[test]
fn sockets_that_can_not_be_are_named() {
    let home = Home::new();
    let run = |flags: &[&str], words: &[&str]| {
        let line = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
        home.gourd(&line).exits(125).says(words);
    };
    run(
        &["--ssh"],
        &[
            "forward the SSH agent: SSH_AUTH_SOCK is not set",
            "hint: start one",
        ],
    );
    let path = home.path("a.sock");
    let publish = format!("{}:/a", path.display());
    let _holder = UnixListener::bind(&path).expect("a socket");
    run(
        &["--publish-socket", &publish],
        &[
            &path.display().to_string(),
            "it exists already",
            "hint: choose another path",
        ],
    );
    let long = format!("/tmp/{}:/a", "x".repeat(120));
    run(
        &["--publish-socket", &long],
        &["125 bytes", "more than 107"],
    );
    let dead = home.path("dead.sock");
    drop(UnixListener::bind(&dead).expect("a socket"));
    let mount = format!("{}:/a", dead.display());
    run(
        &["-v", &mount],
        &[&dead.display().to_string(), "nobody listens on it"],
    );
    let elsewhere = format!("{}:/a", home.path("none/a.sock").display());
    run(
        &["--publish-socket", &elsewhere],
        &["its folder does not exist"],
    );
    home.assert_nothing_left();
}
