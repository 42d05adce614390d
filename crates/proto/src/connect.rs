//! gRPC on a connection that exists already.
//!
//! The engine connects to a supervisor's socket itself. [`once`] makes a channel that hands out that stream on its first connect
//! and fails on every later one: a second HTTP/2 connect means that the supervisor is gone.

use std::io;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// A channel over `stream`, and over nothing else, ever.
///
/// # Errors
/// What the HTTP/2 hand-shake met.
pub async fn once<S>(stream: S) -> Result<Channel, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = slot.lock().ok().and_then(|mut slot| slot.take());
        async move {
            stream.ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "the connection is used up: the peer is gone",
                )
            })
        }
    });
    Endpoint::from_static("http://gourd.invalid")
        .connect_with_connector(connector)
        .await
}
