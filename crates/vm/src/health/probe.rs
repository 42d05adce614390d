//! One health check: the process, its time, and the first of what it wrote.

use std::time::Duration;

use bytes::BytesMut;
use proto::supervisor::{Failure, Process};
use store::container::{HealthCheck, HealthResult};
use tokio::net::UnixStream;

use crate::guest::Guest;
use crate::life::Shared;
use crate::{bill, failure, process};

/// Bytes of output that are kept.
const OUTPUT: usize = 4096;

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

/// What it wrote so far, on both streams.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    more: bool,
}

/// Runs it to its end, or for as long as it may take.
pub async fn run(run: &Shared, guest: &Guest, name: &str, check: &HealthCheck) -> HealthResult {
    let started_ns = store::now_ns();
    let timeout = Duration::from_nanos(check.timeout_ns);
    let output = std::sync::Mutex::new(Output::default());
    let deadline = tokio::time::Instant::now() + timeout;
    let (exit_code, words) = match execute(run, guest, name, check, &output, deadline).await {
        Ok(Some(exit_code)) => (exit_code.cast_signed(), text(&output)),
        Err(failure) => (-1, failure::describe(&failure)),
        Ok(None) => {
            let words = format!("Health check exceeded timeout ({timeout:?})");
            let output = text(&output);
            if output.is_empty() {
                (-1, words)
            } else {
                (-1, format!("{words}: {output}"))
            }
        }
    };
    HealthResult {
        started_ns,
        ended_ns: store::now_ns(),
        exit_code,
        output: words,
    }
}

/// Its exit code; `None`: it took too long, and is dead. None is left behind: its start is always waited for.
async fn execute(
    run: &Shared,
    guest: &Guest,
    name: &str,
    check: &HealthCheck,
    output: &std::sync::Mutex<Output>,
    deadline: tokio::time::Instant,
) -> Result<Option<u32>, Failure> {
    let asked = Process {
        args: check.args.clone(),
        ..Process::default()
    };
    let spec = bill::exec_process(&run.spec, asked)?;
    let running = process::start(guest, &run.streams, name, spec, false).await?;
    let end = async {
        tokio::join!(
            guest.wait(name),
            collect(Some(running.stdout), output),
            collect(running.stderr, output),
        )
    };
    let Ok((reply, (), ())) = tokio::time::timeout_at(deadline, end).await else {
        if guest.signal(name, KILL).await.is_ok() {
            guest.wait(name).await?;
        }
        return Ok(None);
    };
    Ok(Some(reply?.exit_code & 0xff))
}

/// Takes all of a stream, and keeps its beginning.
async fn collect(stream: Option<UnixStream>, output: &std::sync::Mutex<Output>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::new();
    while let Some(bytes) = process::next(&mut stream, &mut buffer).await {
        let mut output = lock(output);
        let room = OUTPUT - output.bytes.len();
        output.bytes.extend(bytes.iter().take(room));
        output.more |= bytes.len() > room;
    }
}

/// As Docker cuts it.
fn text(output: &std::sync::Mutex<Output>) -> String {
    let output = lock(output);
    let mut text = String::from_utf8_lossy(&output.bytes).into_owned();
    if output.more {
        text.push_str("...");
    }
    text
}

fn lock(output: &std::sync::Mutex<Output>) -> std::sync::MutexGuard<'_, Output> {
    output
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
