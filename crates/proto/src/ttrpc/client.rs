//! The caller's side of a connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, LONGEST, REQUEST, RESPONSE};
use super::{Code, Request, Response, Status};

/// Calls on one connection. Clones share it; it closes with the last one.
///
/// The peer is not trusted: what breaks the format ends the connection, and every call on it with [`Code::Unavailable`].
#[derive(Debug, Clone)]
pub struct Client {
    calls: Arc<Mutex<Calls>>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Calls {
    /// How many there were.
    count: u32,
    waiting: HashMap<u32, Waiting>,
    /// Why there will be no more answers.
    ended: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Response, Status>>,
    /// Bytes of the longest answer that is taken.
    limit: usize,
}

impl Client {
    /// Calls over `stream`, whose answers have `limit` bytes at most. Needs a tokio runtime.
    pub fn new<S>(stream: S, limit: usize) -> Client
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let calls = Arc::<Mutex<Calls>>::default();
        let client = Client {
            calls: Arc::clone(&calls),
            frames,
            limit,
        };
        let (reader, writer) = tokio::io::split(stream);
        tokio::spawn(async move {
            let writing = async {
                if frame::write_all(writer, outgoing).await.is_err() {
                    // The peer reads no more. What it has answered is still to be read.
                    std::future::pending::<()>().await;
                }
            };
            // The writer ends with the last clone: nobody waits for an answer then.
            let ended = tokio::select! {
                ended = read_answers(reader, &calls) => ended,
                () = writing => Ok(()),
            };
            let why = ended
                .err()
                .map_or_else(|| "closed".to_owned(), |error| error.to_string());
            let mut calls = lock(&calls);
            calls.ended = Some(why);
            // Whoever waits finds the sender gone.
            calls.waiting.clear();
        });
        client
    }

    /// The same connection with another limit for answers.
    #[must_use]
    pub fn with_limit(&self, limit: usize) -> Client {
        Client {
            limit,
            ..self.clone()
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// What the server answers; a request of more than 4 MiB; a connection that ended.
    pub async fn call<Q, A>(&self, service: &str, method: &str, request: &Q) -> Result<A, Status>
    where
        Q: Message,
        A: Message + Default,
    {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec().into(),
        };
        let (answer, answered) = oneshot::channel();
        let stream = lock(&self.calls).begin(Waiting {
            answer,
            limit: self.limit,
        })?;
        let Some(frame) = frame::encode(stream, REQUEST, &request) else {
            lock(&self.calls).waiting.remove(&stream);
            let why = format!("a request of more than {LONGEST} bytes");
            return Err(Status::new(Code::ResourceExhausted, why));
        };
        let gone = || {
            let calls = lock(&self.calls);
            Status::new(
                Code::Unavailable,
                calls.ended.as_deref().unwrap_or("the connection ended"),
            )
        };
        self.frames.send(frame).map_err(|_| gone())?;
        let response = answered.await.map_err(|_| gone())??;
        match response.status {
            Some(status) if status.code != Code::Ok as i32 => Err(status),
            _ => Ok(A::decode(response.payload)?),
        }
    }
}

impl Calls {
    /// The stream of a new call.
    fn begin(&mut self, waiting: Waiting) -> Result<u32, Status> {
        if let Some(why) = &self.ended {
            return Err(Status::new(Code::Unavailable, why));
        }
        // Odd ones are the caller's.
        let stream = self
            .count
            .checked_mul(2)
            .and_then(|twice| twice.checked_add(1));
        let stream =
            stream.ok_or_else(|| Status::new(Code::ResourceExhausted, "no stream is left"))?;
        self.count += 1;
        self.waiting.insert(stream, waiting);
        Ok(stream)
    }
}

/// Hands answers to whom they belong, until the stream ends.
async fn read_answers(mut stream: impl AsyncRead + Unpin, calls: &Mutex<Calls>) -> io::Result<()> {
    let broken = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    while let Some(head) = frame::head(&mut stream).await? {
        if head.kind != RESPONSE {
            return broken(format!("a frame of type {}", head.kind));
        }
        let waiting = lock(calls).waiting.remove(&head.stream);
        let Some(Waiting { answer, limit }) = waiting else {
            return broken(format!("an answer to no call ({})", head.stream));
        };
        if head.length > limit {
            let why = format!(
                "an answer of {} bytes, where {limit} is the most",
                head.length
            );
            // The caller may have given up.
            let _ = answer.send(Err(Status::new(Code::ResourceExhausted, &why)));
            return broken(why);
        }
        let message = frame::body(&mut stream, head.length).await?;
        let response = Response::decode(Bytes::from(message)).map_err(Status::from);
        let _ = answer.send(response);
    }
    Ok(())
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}
