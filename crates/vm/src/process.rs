//! One process in the guest and its streams, seen from the host.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::agent::{Process, Stdio};
use proto::supervisor::Failure;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use crate::failure;
use crate::guest::Guest;
use crate::streams::{Expected, Streams};

/// One read of a stream at most.
const CHUNK: usize = 64 * 1024;

/// A process that runs, with the host's ends of its streams.
pub struct Running {
    /// Absent when the process has no stdin. Dropping it is end of file.
    pub stdin: Option<OwnedWriteHalf>,
    /// Ends when everything that was written has been read.
    pub stdout: UnixStream,
    /// Absent with a terminal.
    pub stderr: Option<UnixStream>,
}

/// Starts `name` in the guest and gathers its streams.
///
/// # Errors
/// The step that failed in the guest; or that the guest is lost.
pub async fn start(
    guest: &Guest,
    streams: &Arc<Streams>,
    name: &str,
    spec: Process,
    with_stdin: bool,
) -> Result<Running, Failure> {
    let expect = || {
        streams
            .expect()
            .map_err(|error| failure::from_error("make a stream's id", "", &error))
    };
    let stdin = if with_stdin { Some(expect()?) } else { None };
    let stdout = expect()?;
    let stderr = if spec.tty { None } else { Some(expect()?) };
    let id = |stream: &Option<Expected>| stream.as_ref().map(Expected::id).unwrap_or_default();
    let stdio = Stdio {
        stdin: id(&stdin).into(),
        stdout: stdout.id().into(),
        stderr: id(&stderr).into(),
    };
    guest.start(name, spec, stdio).await?;
    let stdin = match stdin {
        // The read half goes at once: nothing comes from there.
        Some(stream) => Some(arrived(stream, "stdin").await?.into_split().1),
        None => None,
    };
    let stdout = arrived(stdout, "stdout").await?;
    let stderr = match stderr {
        Some(stream) => Some(arrived(stream, "stderr").await?),
        None => None,
    };
    Ok(Running {
        stdin,
        stdout,
        stderr,
    })
}

async fn arrived(stream: Expected, name: &str) -> Result<UnixStream, Failure> {
    stream
        .arrived()
        .await
        .ok_or_else(|| failure::lost(format!("the guest never connected {name}")))
}

/// The next bytes of a stream; `None` at its end. The end of a broken stream is an end too: the VM's own death is
/// reported elsewhere.
pub async fn next(stream: &mut UnixStream, buffer: &mut BytesMut) -> Option<Bytes> {
    buffer.reserve(CHUNK);
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.split().freeze()),
    }
}
