//! gRPC for every client that connects to the supervisor's socket.

use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::supervisor::supervisor_server::SupervisorServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::service::Service;
use crate::supervision::Supervision;
use crate::sys;

/// Bytes that a client may send on one stream before they are taken, and on all.
const WINDOWS: (u32, u32) = (256 * 1024, 512 * 1024);

/// Bytes that may wait for one stream of a client.
const SEND_BUFFER: usize = 128 * 1024;

/// Serves until `over` is true; then takes no further client, and returns when every client has its last answer. A
/// supervisor that is there for its clients only lets nobody in once the last one has left.
pub async fn serve(
    listener: UnixListener,
    supervision: Arc<Supervision>,
    mut over: watch::Receiver<bool>,
) {
    let mut listener = Some(listener);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            // In this order: one that has connected is let in before the others are believed to be the last ones.
            biased;
            () = ended(&mut over) => break,
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(stream) => {
                    clients.spawn(client(stream, Service::new(&supervision), over.clone()));
                }
                // Out of descriptors, most likely: the clients that are there go on.
                Err(error) => tracing::warn!(%error, "a client can't be accepted"),
            },
            () = supervision.presence.deserted(), if supervision.maintenance && listener.is_some() => {
                listener = None;
                supervision.closed.send_replace(true);
            }
            // Ended clients are forgotten as they end.
            Some(_) = clients.join_next() => sys::give_memory_back(),
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

async fn accept(listener: Option<&UnixListener>) -> std::io::Result<UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn client(stream: UnixStream, service: Service, mut over: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(SupervisorServer::new(service));
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A client that goes away in the middle is its own affair: errors are not told.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = ended(&mut over) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn ended(over: &mut watch::Receiver<bool>) {
    // A sender that is gone is an end, too. The guard that comes back must not live across an await.
    let _ = over.wait_for(|over| *over).await;
}
