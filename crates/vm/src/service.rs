//! The supervisor's service: what engines ask of one container's run.
//!
//! Handlers own nothing: they wait for the life's milestones and talk to the agent. Whoever may connect is decided by the
//! socket's mode (0600 in a folder of 0700): it is the same user.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use proto::agent::WaitReply;
use proto::supervisor::supervisor_server::Supervisor;
use proto::supervisor::{
    AttachOptions, Exited, Failure, HelloReply, HelloRequest, Input, Output, Process, SignalReply,
    SignalRequest, StartedReply, StartedRequest, StopReply, StopRequest, WaitRequest, input,
    output,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::guest::Guest;
use crate::hub::{QUEUE, Sender};
use crate::life::{MAIN, Shared, last_message};
use crate::{bill, failure, process};

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

/// Answers engines.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
    execs: Arc<AtomicU64>,
}

type Outputs = Pin<Box<dyn Stream<Item = Result<Output, Status>> + Send>>;

impl Service {
    /// A service over a life.
    pub fn new(shared: Arc<Shared>) -> Self {
        Service {
            shared,
            execs: Arc::default(),
        }
    }

    /// The agent, once the container's process runs.
    async fn guest(&self) -> Result<Guest, Failure> {
        self.started().await?;
        let guest = self.shared.guest.borrow().clone();
        guest.ok_or_else(|| failure::lost("the VM is gone"))
    }

    async fn started(&self) -> Result<(), Failure> {
        let mut started = self.shared.started.subscribe();
        match started.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(failure::lost("the VM is gone")),
        }
    }

    /// Waits for the end; whoever asks is told.
    async fn ended(&self) -> Exited {
        let mut ended = self.shared.ended.subscribe();
        let exited = match ended.wait_for(Option::is_some).await {
            Ok(exited) => exited.clone().unwrap_or_default(),
            Err(_) => Exited::default(),
        };
        self.shared.told.send_replace(true);
        exited
    }

    /// Ends the container without grace: its owner is gone.
    async fn abandon(&self) {
        if let Ok(guest) = self.guest().await {
            let _ = guest.signal(MAIN, KILL).await;
        }
    }

    async fn attach_input(self, mut inputs: Streaming<Input>, options: AttachOptions) {
        while let Some(Ok(Input { input: Some(input) })) = inputs.next().await {
            match input {
                input::Input::Stdin(bytes) if options.stdin => {
                    if self.started().await.is_err() {
                        return;
                    }
                    let mut stdin = self.shared.stdin.lock().await;
                    if let Some(writer) = stdin.as_mut()
                        && writer.write_all(&bytes).await.is_err()
                    {
                        // The process closed its end; what still comes is thrown away, as a broken pipe would.
                        *stdin = None;
                    }
                }
                input::Input::StdinClosed(true) if options.stdin => self.close_stdin().await,
                input::Input::Size(size) => self.resize_main(size).await,
                input::Input::Signal(signal) => {
                    if let Ok(guest) = self.guest().await {
                        let _ = guest.signal(MAIN, signal).await;
                    }
                }
                _ => {}
            }
        }
        if options.primary && options.stdin {
            self.close_stdin().await;
        }
    }

    async fn close_stdin(&self) {
        if self.started().await.is_ok() {
            // Dropping the half shuts it down.
            *self.shared.stdin.lock().await = None;
        }
    }

    async fn resize_main(&self, size: proto::supervisor::TerminalSize) {
        let running = self.shared.started.borrow().is_some();
        if !running {
            *self
                .shared
                .size
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(size);
        } else if let Ok(guest) = self.guest().await {
            let _ = guest.resize(MAIN, size.rows, size.columns).await;
        }
    }

    async fn run_exec(
        self,
        asked: Process,
        inputs: Streaming<Input>,
        sender: &Sender,
    ) -> Result<WaitReply, Failure> {
        let guest = self.guest().await?;
        let name = format!("exec-{}", self.execs.fetch_add(1, Ordering::Relaxed));
        let with_stdin = asked.stdin;
        let spec = bill::exec_process(&self.shared.spec, asked);
        let running = process::start(&guest, &self.shared.streams, &name, spec, with_stdin).await?;
        if sender
            .send(Ok(message(output::Output::Started(true))))
            .await
            .is_err()
        {
            // Docker leaves an exec'd process alone when its client goes; so do we.
            tracing::debug!("an exec's client went away at its start");
        }
        let feed = tokio::spawn(exec_input(
            guest.clone(),
            name.clone(),
            inputs,
            running.stdin,
        ));
        let (reply, (), ()) = tokio::join!(
            guest.wait(&name),
            forward(Some(running.stdout), sender, output::Output::Stdout),
            forward(running.stderr, sender, output::Output::Stderr),
        );
        feed.abort();
        reply
    }
}

async fn exec_input(
    guest: Guest,
    name: String,
    mut inputs: Streaming<Input>,
    mut stdin: Option<OwnedWriteHalf>,
) {
    while let Some(Ok(Input { input: Some(input) })) = inputs.next().await {
        match input {
            input::Input::Stdin(bytes) => {
                if let Some(writer) = stdin.as_mut()
                    && writer.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            input::Input::StdinClosed(true) => stdin = None,
            input::Input::Size(size) => {
                let _ = guest.resize(&name, size.rows, size.columns).await;
            }
            input::Input::Signal(signal) => {
                let _ = guest.signal(&name, signal).await;
            }
            _ => {}
        }
    }
}

/// Copies a stream to one client. When the client is gone the bytes are still taken, so that the process is not held back.
async fn forward(
    stream: Option<UnixStream>,
    sender: &Sender,
    wrap: fn(bytes::Bytes) -> output::Output,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::new();
    while let Some(bytes) = process::next(&mut stream, &mut buffer).await {
        let _ = sender.send(Ok(message(wrap(bytes)))).await;
    }
}

fn message(output: output::Output) -> Output {
    Output {
        output: Some(output),
    }
}

#[async_trait::async_trait]
impl Supervisor for Service {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let asked = request.into_inner().protocol;
        if asked > proto::SUPERVISOR_PROTOCOL || asked == 0 {
            return Err(Status::failed_precondition(format!(
                "this supervisor speaks protocol {}, not {asked}",
                proto::SUPERVISOR_PROTOCOL
            )));
        }
        self.shared.settle().await;
        Ok(Response::new(HelloReply {
            protocol: asked,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            maintenance: false,
        }))
    }

    async fn started(&self, _: Request<StartedRequest>) -> Result<Response<StartedReply>, Status> {
        let failure = Service::started(self).await.err();
        if failure.is_some() {
            // A container that could not start is told of when it is out of the way: the next start must not collide.
            self.ended().await;
        }
        self.shared.told.send_replace(true);
        Ok(Response::new(StartedReply { failure }))
    }

    type AttachStream = Outputs;

    async fn attach(
        &self,
        request: Request<Streaming<Input>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(input::Input::Attach(options)) = first else {
            return Err(Status::invalid_argument("the first message must be attach"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let over = self.shared.ended.borrow().clone();
        if let Some(exited) = over {
            self.shared.told.send_replace(true);
            let _ = sender.send(Ok(message(last_message(exited)))).await;
            return Ok(Response::new(Box::pin(ReceiverStream::new(receiver))));
        }
        let watched = sender.clone();
        self.shared.hub.add(sender, options.stdout, options.stderr);
        tokio::spawn(self.clone().attach_input(inputs, options));
        if options.primary {
            self.shared.primary.send_replace(true);
            if self.shared.spec.remove {
                let service = self.clone();
                tokio::spawn(async move {
                    let mut ended = service.shared.ended.subscribe();
                    let gone = tokio::select! {
                        () = watched.closed() => true,
                        _ = ended.wait_for(Option::is_some) => false,
                    };
                    drop(watched);
                    if gone {
                        service.abandon().await;
                    }
                });
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ExecStream = Outputs;

    async fn exec(
        &self,
        request: Request<Streaming<Input>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut inputs = request.into_inner();
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(input::Input::Exec(asked)) = first else {
            return Err(Status::invalid_argument("the first message must be exec"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let service = self.clone();
        let running = self.shared.execs.clone().read_owned().await;
        tokio::spawn(async move {
            let last = match service.run_exec(asked, inputs, &sender).await {
                Ok(reply) => output::Output::Exited(Exited {
                    exit_code: reply.exit_code & 0xff,
                    oom_killed: reply.oom_killed,
                    ..Exited::default()
                }),
                Err(failure) => output::Output::Failed(failure),
            };
            drop(running);
            let _ = sender.send(Ok(message(last))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalReply>, Status> {
        let signal = request.into_inner().signal;
        let result = match self.guest().await {
            Ok(guest) => guest.signal(MAIN, signal).await,
            Err(failure) => Err(failure),
        };
        Ok(Response::new(SignalReply {
            failure: result.err(),
        }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let asked = request.into_inner();
        let spec = &self.shared.spec;
        let signal = if asked.signal == 0 {
            spec.stop_signal
        } else {
            asked.signal
        };
        let timeout_ms = asked.timeout_ms.unwrap_or(spec.stop_timeout_ms);
        if let Ok(guest) = self.guest().await
            && let Err(failure) = guest.stop(signal, timeout_ms).await
        {
            // The container may have ended in this very moment; if not, its end is what counts, and it is on its way.
            tracing::warn!(failure = %failure::describe(&failure), "the agent did not stop the container");
        }
        Ok(Response::new(StopReply {
            exited: Some(self.ended().await),
        }))
    }

    async fn pause(
        &self,
        _: Request<proto::supervisor::PauseRequest>,
    ) -> Result<Response<proto::supervisor::PauseReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stats(
        &self,
        _: Request<proto::supervisor::StatsRequest>,
    ) -> Result<Response<proto::supervisor::StatsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn top(
        &self,
        _: Request<proto::supervisor::TopRequest>,
    ) -> Result<Response<proto::supervisor::TopReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn update(
        &self,
        _: Request<proto::supervisor::UpdateRequest>,
    ) -> Result<Response<proto::supervisor::UpdateReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stat_path(
        &self,
        _: Request<proto::supervisor::StatPathRequest>,
    ) -> Result<Response<proto::supervisor::StatPathReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type ReadStream = Pin<
        Box<dyn tokio_stream::Stream<Item = Result<proto::supervisor::ReadOutput, Status>> + Send>,
    >;

    async fn read(
        &self,
        _: Request<proto::supervisor::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn write(
        &self,
        _: Request<Streaming<proto::supervisor::WriteInput>>,
    ) -> Result<Response<proto::supervisor::WriteReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn wait(
        &self,
        _: Request<WaitRequest>,
    ) -> Result<Response<proto::supervisor::WaitReply>, Status> {
        Ok(Response::new(proto::supervisor::WaitReply {
            exited: Some(self.ended().await),
        }))
    }
}
