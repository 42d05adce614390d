//! Where the output of the container's first process goes: the log, and every attached client.
//!
//! Owned by the supervisor's one thread. A client that reads slowly holds the guest back (nothing is lost, nothing piles
//! up); a client that is gone is forgotten.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use proto::supervisor::{Output, output};
use store::container::Container;
use store::logs::{self, Stream};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// The sending end of one client's answers.
pub type Sender = mpsc::Sender<Result<Output, Status>>;

/// Messages that may wait for one client. Each is at most one read of the guest's stream.
pub const QUEUE: usize = 4;

struct Client {
    stdout: bool,
    stderr: bool,
    sender: Sender,
}

/// How long a client may take for a message once the container is to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container's log. It outlives runs.
pub struct Log(Mutex<Option<logs::Writer>>);

impl Log {
    /// The log of `container`.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(container: &Container) -> Result<Log, logs::Error> {
        let limits = container.spec().logs;
        let writer = logs::Writer::open(&container.output_log(), limits)?;
        Ok(Log(Mutex::new(Some(writer))))
    }

    /// Nothing is to be logged.
    pub fn none() -> Log {
        Log(Mutex::new(None))
    }

    fn append(&self, stream: Stream, bytes: &[u8]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = log.as_mut()
            && let Err(error) = writer.append(stream, bytes, store::now_ns())
        {
            // The process goes on: a full disk must not stop it. The log ends here, and the supervisor's own log says why.
            tracing::error!(%error, "the container's log can't be written; it ends here");
            *log = None;
        }
    }
}

/// The log and the clients of one run.
pub struct Hub {
    clients: Mutex<Vec<Client>>,
    log: Arc<Log>,
    /// The container is to end: a client that does not read must not keep it.
    hurried: watch::Sender<bool>,
}

impl Hub {
    /// A hub that writes to `log`.
    pub fn new(log: Arc<Log>) -> Self {
        Hub {
            clients: Mutex::default(),
            log,
            hurried: watch::Sender::default(),
        }
    }

    /// From now on clients that do not read are left behind.
    pub fn hurry(&self) {
        self.hurried.send_replace(true);
    }

    /// One more client.
    pub fn add(&self, sender: Sender, stdout: bool, stderr: bool) {
        self.clients().push(Client {
            stdout,
            stderr,
            sender,
        });
    }

    /// Bytes of the process: to the log, then to every client that wants them. Returns when all have taken them.
    pub async fn write(&self, stream: Stream, bytes: Bytes) {
        self.log.append(stream, &bytes);
        let message = match stream {
            Stream::Stdout => output::Output::Stdout(bytes),
            Stream::Stderr => output::Output::Stderr(bytes),
        };
        self.send(message, |client| match stream {
            Stream::Stdout => client.stdout,
            Stream::Stderr => client.stderr,
        })
        .await;
    }

    /// An event for every client. True when there was one.
    pub async fn tell(&self, message: output::Output) -> bool {
        self.send(message, |_| true).await;
        !self.clients().is_empty()
    }

    /// The last message; then every client's stream ends. True when there was a client.
    pub async fn finish(&self, message: output::Output) -> bool {
        self.send(message, |_| true).await;
        let mut clients = self.clients();
        let told = !clients.is_empty();
        clients.clear();
        told
    }

    async fn send(&self, message: output::Output, wants: impl Fn(&Client) -> bool) {
        let senders: Vec<Sender> = self
            .clients()
            .iter()
            .filter(|client| wants(client))
            .map(|client| client.sender.clone())
            .collect();
        // Side by side: one that does not read keeps nobody else from what there is.
        let sent = senders.into_iter().map(|sender| {
            let message = Output {
                output: Some(message.clone()),
            };
            async move {
                let sent = tokio::select! {
                    biased;
                    sent = sender.send(Ok(message)) => sent.is_ok(),
                    () = self.patience() => false,
                };
                if !sent {
                    self.clients()
                        .retain(|client| !client.sender.same_channel(&sender));
                }
            }
        });
        join_all(sent).await;
    }

    /// Returns once [`Hub::hurry`] was called.
    pub async fn is_hurried(&self) {
        // The sender lives as long as this.
        let _ = self.hurried.subscribe().wait_for(|hurried| *hurried).await;
    }

    async fn patience(&self) {
        self.is_hurried().await;
        tokio::time::sleep(PATIENCE).await;
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
