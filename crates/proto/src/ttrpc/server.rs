//! The called side of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::frame::{self, REQUEST, RESPONSE};
use super::{Code, Request, Response, Status};

/// What can be called. Generated from a `.proto` file.
pub trait Service: Send + Sync + 'static {
    /// The full name, as `gourd.agent.v1.Agent`.
    const NAME: &'static str;

    /// Does what `method` says with the request in `payload`; the encoded answer.
    fn call(
        &self,
        method: &str,
        payload: Bytes,
    ) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// The answers of the calls that had begun.
pub type Rest = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Serves one connection until the peer closes it (`None`) or `stop` is over: then no further call is taken, and what comes
/// back ends when every call that had begun has its answer. Needs a tokio runtime. Each call is a task of its own, which
/// goes on when the connection ends.
///
/// # Errors
/// A broken connection, a broken format.
pub async fn serve<S: Service>(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    service: Arc<S>,
    stop: impl Future<Output = ()>,
) -> io::Result<Option<Rest>> {
    let (answers, outgoing) = mpsc::unbounded_channel();
    let mut writing: Rest = Box::pin(frame::write_all(writer, outgoing));
    tokio::select! {
        ended = read_requests(reader, &service, &answers) => ended.map(|()| None),
        ended = &mut writing => ended.map(|()| None),
        () = stop => Ok(Some(writing)),
    }
}

async fn read_requests<S: Service>(
    mut stream: impl AsyncRead + Unpin,
    service: &Arc<S>,
    answers: &mpsc::UnboundedSender<Vec<u8>>,
) -> io::Result<()> {
    while let Some(head) = frame::head(&mut stream).await? {
        if head.kind != REQUEST {
            let why = format!("a frame of type {}", head.kind);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let message = frame::body(&mut stream, head.length).await?;
        let (service, answers) = (Arc::clone(service), answers.clone());
        tokio::spawn(async move {
            let answer = answer(&*service, message.into()).await;
            // Without a receiver the peer is gone.
            let _ = answers.send(response(head.stream, answer));
        });
    }
    Ok(())
}

async fn answer<S: Service>(service: &S, message: Bytes) -> Result<Vec<u8>, Status> {
    let request = Request::decode(message)?;
    if request.service != S::NAME {
        let why = format!("no service {}", request.service);
        return Err(Status::new(Code::Unimplemented, why));
    }
    service.call(&request.method, request.payload).await
}

/// The frame of an answer; one that is too long is told as such.
fn response(stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
    let refused = |status| Response {
        status: Some(status),
        payload: Bytes::new(),
    };
    let response = match answer {
        Ok(payload) => Response {
            status: None,
            payload: payload.into(),
        },
        Err(status) => refused(status),
    };
    frame::encode(stream, RESPONSE, &response)
        .or_else(|| {
            let status = Status::new(Code::ResourceExhausted, "the answer is too long");
            frame::encode(stream, RESPONSE, &refused(status))
        })
        .unwrap_or_default()
}
