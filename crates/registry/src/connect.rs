//! Connections: straight to the host, or by way of a proxy (RFC 9110, section 9.3.6: CONNECT).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::Cause;
use crate::proxy::{Proxies, Proxy, ProxyError};

/// As much of a proxy's answer as is read.
const MAX_ANSWER: usize = 16 << 10;

/// Makes connections. TLS to the host itself is somebody else's.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    /// A proxy may itself be spoken to over TLS.
    to_proxy: HttpsConnector<HttpConnector>,
    proxies: Arc<Proxies>,
}

/// A connection that is not yet TLS to its target.
#[derive(Debug)]
pub(crate) struct Stream {
    io: MaybeHttpsStream<TokioIo<TcpStream>>,
    /// Requests name the whole address: a proxy reads them.
    is_proxied: bool,
}

impl Connector {
    pub(crate) fn new(
        timeout: Duration,
        proxies: Arc<Proxies>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(timeout));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(tls.as_ref().clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        Self {
            tcp,
            to_proxy,
            proxies,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Cause;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Cause>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.of(&target).cloned() else {
            let connecting = self.tcp.call(target);
            return Box::pin(async move {
                Ok(Stream {
                    io: MaybeHttpsStream::Http(connecting.await?),
                    is_proxied: false,
                })
            });
        };
        let mut to_proxy = self.to_proxy.clone();
        Box::pin(async move {
            let uri = proxy.uri()?.clone();
            let connected = to_proxy.call(uri.clone()).await;
            let io = connected.map_err(|error| ProxyError::Unreachable {
                proxy: name(&uri),
                cause: innermost(error.as_ref()),
            })?;
            let is_tls = target.scheme_str() == Some("https");
            let io = match is_tls {
                true => tunnel(io, &target, &uri, &proxy).await?,
                false => io,
            };
            Ok(Stream {
                io,
                is_proxied: !is_tls,
            })
        })
    }
}

fn name(proxy: &Uri) -> String {
    proxy
        .authority()
        .map_or_else(String::new, ToString::to_string)
}

/// What it comes down to.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Asks the proxy for a tunnel to the target.
async fn tunnel<T>(io: T, target: &Uri, uri: &Uri, proxy: &Proxy) -> Result<T, ProxyError>
where
    T: rt::Read + rt::Write + Unpin,
{
    let host = target.host().unwrap_or_default();
    let target = format!("{host}:{}", target.port_u16().unwrap_or(443));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let broken = |_: io::Error| ProxyError::Broken { proxy: name(uri) };
    let mut io = TokioIo::new(io);
    io.write_all(&request).await.map_err(broken)?;
    io.flush().await.map_err(broken)?;
    // Byte by byte: what follows the answer's head is the target's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_ANSWER {
        head.push(io.read_u8().await.map_err(broken)?);
    }
    match status(&head) {
        Some(200..=299) => Ok(io.into_inner()),
        Some(407) => Err(ProxyError::Unauthorized { proxy: name(uri) }),
        Some(status) => Err(ProxyError::Refused {
            proxy: name(uri),
            status,
            target,
        }),
        None => Err(ProxyError::Protocol { proxy: name(uri) }),
    }
}

/// `HTTP/1.1 200 Connection established`
pub(crate) fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("HTTP/1.")?.split(' ');
    words.nth(1)?.parse().ok()
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.is_proxied)
    }
}

impl rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let check = |text: &str, expect| assert_eq!(status(text.as_bytes()), expect, "{text}");
        check("HTTP/1.1 200 Connection established\r\n\r\n", Some(200));
        check("HTTP/1.0 407\r\n\r\n", Some(407));
        check("SSH-2.0-OpenSSH\r\n", None);
        check("HTTP/1.1", None);
        check("", None);
    }
}
