//! Frames on a stream.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

/// The longest message of the format, in bytes.
pub(super) const LONGEST: usize = 4 << 20;

const HEADER: usize = 10;

/// Types of frames.
pub(super) const REQUEST: u8 = 1;
pub(super) const RESPONSE: u8 = 2;

/// What stands before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the message, [`LONGEST`] at most.
    pub(super) length: usize,
    /// Whose call.
    pub(super) stream: u32,
    /// [`REQUEST`] or [`RESPONSE`], when the peer keeps to the format.
    pub(super) kind: u8,
}

/// A whole frame; `None` when its message is longer than [`LONGEST`].
pub(super) fn encode(stream: u32, kind: u8, message: &impl Message) -> Option<Vec<u8>> {
    let length = message.encoded_len();
    if length > LONGEST {
        return None;
    }
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend(u32::try_from(length).ok()?.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    message.encode(&mut frame).ok()?;
    Some(frame)
}

/// The next frame's head; `None` is the end of the stream between two frames.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Head>> {
    let mut bytes = [0; HEADER];
    let count = stream.read(&mut bytes).await?;
    if count == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[count..]).await?;
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = bytes;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > LONGEST {
        let error = format!("a frame of {length} bytes, where {LONGEST} is the most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(Some(Head {
        length,
        stream: u32::from_be_bytes([s0, s1, s2, s3]),
        kind,
    }))
}

/// The message of a frame. Memory grows with what has come, not with what was announced.
pub(super) async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    length: usize,
) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message).await?;
    if message.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

/// Writes frames as they come; returns when there will be no more.
pub(super) async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        stream.write_all(&frame).await?;
    }
    Ok(())
}
