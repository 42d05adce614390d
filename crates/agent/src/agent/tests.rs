//! Streams and exits of real child processes, on the host: no root, no VM.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use super::process::{Process, everybody_else_first};
use super::service::ends_within;
use super::stdio::{Direction, Ends, copy_in, copy_out};
use super::stream::Stream;
use crate::cgroup::Cgroup;

/// How long anything here may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    ended.expect("it hangs");
}

/// A shell that runs `script`.
#[expect(clippy::zombie_processes, reason = "the process's own task reaps it")]
fn shell(script: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Process {
    let child = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(stdin)
        .stdout(stdout)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    Process::adopt(child.id(), pidfd, None, &Cgroup::default()).unwrap()
}

/// The agent's end of a connection, and the host's.
async fn connection() -> (Stream, UnixStream) {
    let (ours, host) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Stream::connected(OwnedFd::from(ours)).await.unwrap(), host)
}

async fn read_all(mut host: UnixStream) -> Vec<u8> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
        bytes
    });
    read.await.unwrap()
}

#[test]
fn everything_written_before_the_exit_arrives() {
    run(async {
        let out = Ends::make(Direction::Out, true).unwrap();
        let (stream, host) = connection().await;
        let script = "head -c 3000000 /dev/zero; exit 3";
        let process = shell(script, Stdio::null(), out.child);
        let reading = tokio::spawn(read_all(host));
        copy_out(out.ours.unwrap(), Some(stream), process.exit()).await;
        assert_eq!(reading.await.unwrap().len(), 3_000_000);
        assert_eq!(process.exit().exit().await.unwrap().code, 3);
    });
}

#[test]
fn a_child_that_keeps_the_pipe_does_not_keep_the_stream() {
    run(async {
        let out = Ends::make(Direction::Out, true).unwrap();
        let (stream, host) = connection().await;
        let process = shell("sleep 30 & echo $!", Stdio::null(), out.child);
        let reading = tokio::spawn(read_all(host));
        copy_out(out.ours.unwrap(), Some(stream), process.exit()).await;
        let child = String::from_utf8(reading.await.unwrap()).unwrap();
        let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it runs still");
    });
}

#[test]
fn the_hosts_half_close_is_the_process_end_of_file() {
    run(async {
        let input = Ends::make(Direction::In, true).unwrap();
        let output = Ends::make(Direction::Out, true).unwrap();
        let (in_stream, mut in_host) = connection().await;
        let (out_stream, out_host) = connection().await;
        let process = shell("cat; echo after", input.child, output.child);
        tokio::spawn(copy_in(in_stream, input.ours.unwrap(), process.exit()));
        let copying = copy_out(output.ours.unwrap(), Some(out_stream), process.exit());
        tokio::spawn(copying);
        in_host.write_all(b"before\n").unwrap();
        in_host.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read_all(out_host).await, b"before\nafter\n");
    });
}

#[test]
fn a_process_that_closes_its_stdin_closes_the_stream() {
    run(async {
        let input = Ends::make(Direction::In, true).unwrap();
        let (stream, host) = connection().await;
        let process = shell("exec 0<&-; exec sleep 30", input.child, Stdio::null());
        copy_in(stream, input.ours.unwrap(), process.exit()).await;
        assert_eq!(read_all(host).await, b"");
        process.signal(9).unwrap();
        process.exit().wait().await;
    });
}

#[test]
fn a_host_that_hangs_up_stops_the_writer() {
    run(async {
        let out = Ends::make(Direction::Out, true).unwrap();
        let (stream, host) = connection().await;
        drop(host);
        let process = shell("exec cat /dev/zero", Stdio::null(), out.child);
        copy_out(out.ours.unwrap(), Some(stream), process.exit()).await;
        // SIGPIPE.
        assert_eq!(process.exit().exit().await.unwrap().signal, 13);
    });
}

#[test]
fn every_waiter_hears_the_same_and_nothing_is_left_open() {
    run(async {
        let process = Arc::new(shell("kill -TERM $$", Stdio::null(), Stdio::null()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let mut exit = process.exit();
                tokio::spawn(async move { exit.exit().await.unwrap() })
            })
            .collect();
        let late = process.exit().exit().await.unwrap();
        assert_eq!((late.code, late.signal, late.oom_killed), (143, 15, false));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), late);
        }
        assert_eq!(
            process.signal(9).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        // After the news: the kernel's own entry, and the descriptor.
        while process.pidfd().is_some() {
            everybody_else_first().await;
        }
        let pid = rustix::process::Pid::from_raw(process.pid as i32).unwrap();
        let gone = rustix::process::test_kill_process(pid);
        assert_eq!(gone, Err(rustix::io::Errno::SRCH));
    });
}

/// Of `stop -t 0` and `stop -t -1`.
#[test]
fn time_that_a_process_has_to_end() {
    run(async {
        assert!(!ends_within(0, std::future::pending::<()>()).await);
        assert!(ends_within(u64::MAX, std::future::ready(())).await);
        let mut end = std::pin::pin!(ends_within(u64::MAX, std::future::pending::<()>()));
        let waits =
            std::future::poll_fn(|context| Poll::Ready(end.as_mut().poll(context).is_pending()));
        assert!(waits.await);
    });
}
