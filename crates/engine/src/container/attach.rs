//! A stream to and from a process in a guest.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::supervisor::{Input, Output, SignalRequest, input, output};
use store::events;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::life::LAST_STEPS;
use super::{Event, TerminalSize};
use crate::Error;
use crate::supervisor::{self, Aftermath, Client};

/// Messages that wait for the connection.
const QUEUE: usize = 4;

/// A stream to and from a process.
#[derive(Debug)]
pub struct Attachment {
    input: AttachInput,
    output: AttachOutput,
}

impl Attachment {
    /// Its two directions, to be used at the same time.
    #[must_use]
    pub fn split(self) -> (AttachInput, AttachOutput) {
        (self.input, self.output)
    }

    /// To the container's first process. `gone` says when a supervisor that we started is gone.
    pub(super) fn main(
        container: store::container::Container,
        client: Client,
        options: proto::supervisor::AttachOptions,
        size: Option<TerminalSize>,
        gone: Option<oneshot::Receiver<()>>,
    ) -> Self {
        let event = events::Event::container(container.spec(), "attach");
        events::emit(container.root(), &event);
        let (sender, receiver) = mpsc::channel(QUEUE);
        queue(&sender, input::Input::Attach(options));
        if let Some(size) = size {
            queue(&sender, input::Input::Size(size.into()));
        }
        let calling = client.clone();
        let answer = async move {
            let mut rpc = calling.rpc.clone();
            let call = rpc.attach(ReceiverStream::new(receiver));
            calling.call("attach", call).await
        };
        Self::new(container, sender, client, Box::pin(answer), gone)
    }

    /// To a further process.
    pub(super) fn exec(
        container: store::container::Container,
        client: Client,
        process: proto::supervisor::Process,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let exec = ExecEvents::new(&container, &process.args);
        queue(&sender, input::Input::Exec(process));
        exec.emit(&container, &exec.create, None);
        let calling = client.clone();
        let answer = async move {
            let mut rpc = calling.rpc.clone();
            let call = rpc.exec(ReceiverStream::new(receiver));
            calling.call("exec", call).await
        };
        let mut attachment = Self::new(container, sender, client, Box::pin(answer), None);
        attachment.input.main = false;
        attachment.output.main = false;
        attachment.output.exec = Some(exec);
        attachment
    }

    fn new(
        container: store::container::Container,
        sender: mpsc::Sender<Input>,
        client: Client,
        answer: Answer,
        gone: Option<oneshot::Receiver<()>>,
    ) -> Self {
        Self {
            input: AttachInput {
                container: container.clone(),
                sender: sender.clone(),
                client,
                main: true,
            },
            output: AttachOutput {
                container,
                main: true,
                exec: None,
                source: Source::Calling(answer),
                _sender: sender,
                gone,
            },
        }
    }
}

/// For the first messages, which the queue always has room for.
fn queue(sender: &mpsc::Sender<Input>, input: input::Input) {
    let sent = sender.try_send(Input { input: Some(input) });
    debug_assert!(sent.is_ok(), "the queue is new");
}

impl From<TerminalSize> for proto::supervisor::TerminalSize {
    fn from(size: TerminalSize) -> Self {
        Self {
            rows: size.rows.into(),
            columns: size.columns.into(),
        }
    }
}

/// Towards the process. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct AttachInput {
    container: store::container::Container,
    sender: mpsc::Sender<Input>,
    client: Client,
    /// The first process has a call of its own for signals, which passes input by.
    main: bool,
}

impl AttachInput {
    /// Sends input; waits while the process does not read.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn stdin(&self, bytes: Bytes) -> Result<(), Error> {
        self.send(input::Input::Stdin(bytes)).await
    }

    /// The process reads end of file.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.send(input::Input::StdinClosed(true)).await
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.send(input::Input::Size(size.into())).await
    }

    /// Sends a signal to the process. To a container's first process it does not queue behind input.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn signal(&self, signal: u32) -> Result<(), Error> {
        if !self.main {
            return self.send(input::Input::Signal(signal)).await;
        }
        let reply = self
            .client
            .rpc
            .clone()
            .signal(SignalRequest { signal })
            .await
            .map_err(|_| self.ended())?;
        match reply.into_inner().failure {
            None => Ok(()),
            Some(failure) => Err(supervisor::failure(&self.container.spec().name, failure)),
        }
    }

    /// Says that we leave on purpose: what we are attached to goes on without us, also with `--rm`. Drop both directions
    /// after it.
    ///
    /// # Errors
    /// The attachment has ended.
    pub async fn detach(&self) -> Result<(), Error> {
        self.send(input::Input::Detach(true)).await?;
        // Ending the call could overtake the message: until it is on its way, and what was sent after it is answered.
        let sent = self.sender.reserve_many(QUEUE).await;
        drop(sent.map_err(|_| self.ended())?);
        self.client.greet().await;
        let action = if self.main { "detach" } else { "exec_detach" };
        let event = events::Event::container(self.container.spec(), action);
        events::emit(self.container.root(), &event);
        Ok(())
    }

    async fn send(&self, input: input::Input) -> Result<(), Error> {
        let input = Input { input: Some(input) };
        self.sender.send(input).await.map_err(|_| self.ended())
    }

    fn ended(&self) -> Error {
        Error::NotRunning {
            name: self.container.spec().name.clone(),
        }
    }
}

/// What is told of a further process, in Docker's words.
struct ExecEvents {
    id: String,
    create: String,
    start: String,
}

impl ExecEvents {
    fn new(container: &store::container::Container, args: &[String]) -> Self {
        // Nobody asks for it later; it tells one process's events from another's.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let short = container.id().get(..12).unwrap_or_default();
        let command = args.join(" ");
        Self {
            id: format!("{short}-{}-{number}", std::process::id()),
            create: format!("exec_create: {command}"),
            start: format!("exec_start: {command}"),
        }
    }

    fn emit(&self, container: &store::container::Container, action: &str, code: Option<u32>) {
        let mut event = events::Event::container(container.spec(), action).with("execID", &self.id);
        if let Some(code) = code {
            event = event.with("exitCode", code);
        }
        events::emit(container.root(), &event);
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Streaming<Output>, Error>> + Send>>;

enum Source {
    /// The call is under way; the answer may take until the supervisor is up.
    Calling(Answer),
    Streaming(Box<Streaming<Output>>),
    /// It broke off without a last event.
    Broken,
    Ended,
}

/// From the process.
pub struct AttachOutput {
    container: store::container::Container,
    /// To the container's first process, not to a further one.
    main: bool,
    /// Of a further process.
    exec: Option<ExecEvents>,
    source: Source,
    /// Keeps the call's other direction open: its end would tell the supervisor that we are gone.
    _sender: mpsc::Sender<Input>,
    gone: Option<oneshot::Receiver<()>>,
}

impl fmt::Debug for AttachOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachOutput")
            .field("container", &self.container.id())
            .finish_non_exhaustive()
    }
}

impl AttachOutput {
    /// The next event. [`Event::Exited`] or [`Event::Failed`] is the last. May be cancelled and called again.
    ///
    /// # Errors
    /// The supervisor is gone without having said how the process ended.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match &mut self.source {
                Source::Calling(answer) => {
                    self.source = match answer.await {
                        Ok(stream) => Source::Streaming(Box::new(stream)),
                        Err(error @ Error::Version { .. }) => {
                            self.source = Source::Ended;
                            return Err(error);
                        }
                        Err(error) => {
                            tracing::debug!(%error, "the call failed");
                            Source::Broken
                        }
                    };
                }
                Source::Streaming(stream) => match stream.message().await {
                    Ok(Some(message)) => {
                        if let Some(output) = message.output {
                            return Ok(self.event(output));
                        }
                    }
                    Ok(None) => self.source = Source::Broken,
                    Err(status) => {
                        tracing::debug!(%status, "the stream broke");
                        self.source = Source::Broken;
                    }
                },
                Source::Broken => {
                    let after = supervisor::aftermath(&self.container).await;
                    self.source = Source::Ended;
                    return match after {
                        Aftermath::Exited(exit) if self.main => Ok(Event::Exited(exit)),
                        Aftermath::Exited(_) => Err(self.not_running()),
                        Aftermath::Lost(error) => Err(error),
                    };
                }
                Source::Ended => return Err(self.not_running()),
            }
        }
    }

    fn not_running(&self) -> Error {
        Error::NotRunning {
            name: self.container.spec().name.clone(),
        }
    }

    fn event(&mut self, output: output::Output) -> Event {
        match output {
            output::Output::Started(_) => {
                if let Some(exec) = &self.exec {
                    exec.emit(&self.container, &exec.start, None);
                }
                Event::Started
            }
            output::Output::Stdout(bytes) => Event::Stdout(bytes),
            output::Output::Stderr(bytes) => Event::Stderr(bytes),
            output::Output::Exited(exited) => {
                self.source = Source::Ended;
                if exited.restarting {
                    // The supervisor goes on; nobody waits for its end.
                    self.gone = None;
                }
                if let Some(exec) = &self.exec {
                    exec.emit(&self.container, "exec_die", Some(exited.exit_code));
                }
                Event::Exited(supervisor::exit(exited))
            }
            output::Output::Failed(failure) => {
                self.source = Source::Ended;
                let name = &self.container.spec().name;
                Event::Failed(supervisor::failure(name, failure))
            }
        }
    }

    /// After the last event: waits until the supervisor's process is gone, if we started it. Nothing of the container is left
    /// before; so one that others keep, who have not read all of the output, is not waited for.
    ///
    /// # Errors
    /// Waiting failed.
    pub async fn finish(self) -> Result<(), Error> {
        // It may wait for our end of the connection.
        drop((self.source, self._sender));
        match self.gone {
            Some(gone) => match tokio::time::timeout(LAST_STEPS, gone).await {
                Ok(gone) => gone.map_err(|_| Error::Interrupted),
                Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }
}
