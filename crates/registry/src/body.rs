//! What requests carry: nothing, something small, or a part of a blob that is read as it goes.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Reads a blob that is pushed: at an offset, at most so many bytes. Called where it may block.
pub type Source = Arc<dyn Fn(u64, usize) -> io::Result<Bytes> + Send + Sync>;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that can be made anew, for a request that is sent again.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes),
    Part(Part),
}

/// A part of a blob.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) source: Source,
    pub(crate) range: Range<u64>,
    /// How far in the blob what was handed to the connection reaches.
    pub(crate) sent: watch::Sender<u64>,
    pub(crate) unread: Unread,
}

/// Why a blob could not be read: what the connection says of it is only that it broke.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unread(Arc<Mutex<Option<io::Error>>>);

impl Unread {
    fn set(&self, error: io::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({:?})", self.range)
    }
}

impl Payload {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part(part) => part.range.end - part.range.start,
        }
    }

    pub(crate) fn body(&self) -> Body {
        let bytes = match self {
            Self::Empty => Bytes::new(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Part(part) => return part.body(),
        };
        Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync()
    }
}

impl Part {
    fn body(&self) -> Body {
        let chunks = stream::try_unfold(self.clone(), |mut part| async move {
            let (at, left) = (part.range.start, part.range.end - part.range.start);
            part.sent.send_replace(at);
            if left == 0 {
                return Ok(None);
            }
            let source = part.source.clone();
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = tokio::task::spawn_blocking(move || source(at, length)).await;
            let read = read.map_err(io::Error::other).flatten();
            let bytes = match read {
                Ok(bytes) if bytes.is_empty() || bytes.len() > length => {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                }
                read => read,
            };
            let bytes = bytes.map_err(|error| {
                let kind = error.kind();
                part.unread.set(error);
                io::Error::from(kind)
            })?;
            part.range.start += bytes.len() as u64;
            Ok(Some((Frame::data(bytes), part)))
        });
        StreamBody::new(chunks).boxed_unsync()
    }
}
