//! An HTTP server that answers whatever a test wants, broken answers included.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path and query; a proxy is asked for whole addresses.
    pub path: String,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, if a length was given, as text.
    pub body: String,
    /// The same as it came.
    pub bytes: Vec<u8>,
    /// How many requests for this path came before.
    pub earlier: usize,
}

impl Request {
    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }

    /// The first and, if it is named, the last byte that is asked for.
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// What to send, byte for byte, and what to do then.
#[derive(Debug, Clone)]
pub struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Close,
    Reset,
    Stall,
    Trickle(Duration),
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            then: Then::Close,
        }
    }
}

impl Answer {
    /// The connection is reset after it.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.then = Then::Reset;
        self
    }

    /// The connection stays open after it, and nothing more comes.
    #[must_use]
    pub fn stall(mut self) -> Self {
        self.then = Then::Stall;
        self
    }

    /// A byte comes now and then, for as long as there is somebody.
    #[must_use]
    pub fn trickle(mut self, every: Duration) -> Self {
        self.then = Then::Trickle(every);
        self
    }
}

/// An answer as it should be, for a test to bend.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Without the length.
    pub headers: Vec<(&'static str, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first line and the headers, with the body's length.
    pub fn head(&self) -> Vec<u8> {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut head = reply(self.status, &headers, &self.body);
        head.truncate(head.len() - self.body.len());
        head
    }

    /// As it should be.
    pub fn whole(&self) -> Answer {
        [self.head(), self.body.clone()].concat().into()
    }

    /// So many bytes of the body of which all were announced.
    pub fn cut(&self, bytes: usize) -> Answer {
        let bytes = bytes.min(self.body.len());
        [&self.head()[..], &self.body[..bytes]].concat().into()
    }
}

/// A server on a free loopback port. Dropping it ends it.
#[derive(Debug)]
pub struct Faulty {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    /// Starts one that sends what `answer` returns, and closes the connection. Requests are answered side by side.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start<A: Into<Answer>>(
        answer: impl Fn(&Request) -> A + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let answer = Arc::new(answer);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(again) = stream.try_clone() {
                    lock(&own.open).push(again);
                }
                let (shared, answer) = (own.clone(), answer.clone());
                std::thread::spawn(move || {
                    let answer = |request: &Request| answer(request).into();
                    // A client that goes away is part of some tests.
                    let _ = serve(stream, &shared, &answer);
                });
            }
        });
        Ok(Self {
            addr,
            shared,
            thread: Some(thread),
        })
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.log).clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread up.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(
    mut stream: TcpStream,
    shared: &Shared,
    answer: &dyn Fn(&Request) -> Answer,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes)?;
    let request = {
        let mut log = lock(&shared.log);
        let earlier = log.iter().filter(|r| r.path == path).count();
        let request = Request {
            method,
            path,
            headers,
            body: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            earlier,
        };
        log.push(request.clone());
        request
    };
    let answer = answer(&request);
    stream.write_all(&answer.bytes)?;
    stream.flush()?;
    finish(stream, answer.then)
}

/// The connection's end, which nobody else may have a hand in.
fn finish(mut stream: TcpStream, then: Then) -> io::Result<()> {
    match then {
        Then::Close => stream.shutdown(Shutdown::Write)?,
        // SO_LINGER of nothing: what is left is thrown away, and the other side is told so.
        Then::Reset => {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            rustix::net::connect_unspec(&stream)?;
        }
        Then::Stall => {
            io::copy(&mut stream, &mut io::sink())?;
        }
        Then::Trickle(every) => loop {
            stream.write_all(b"x")?;
            std::thread::sleep(every);
        },
    }
    Ok(())
}

/// An answer with the right length; cut it off for a truncated one.
pub fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut reply = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        reply.push_str(&format!("{name}: {value}\r\n"));
    }
    reply.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut reply = reply.into_bytes();
    reply.extend_from_slice(body);
    reply
}
