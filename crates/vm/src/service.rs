//! The supervisor's service: what engines ask of a container.
//!
//! Handlers own nothing: they wait for milestones and talk to the agent. Whoever may connect is decided by the socket's mode
//! (0600 in a folder of 0700): it is the same user.

mod attach;
mod control;
mod end;
mod exec;
mod networks;
mod transfer;

use std::pin::Pin;
use std::sync::Arc;

use proto::supervisor::supervisor_server::Supervisor;
use proto::supervisor::{
    ConnectReply, ConnectRequest, DisconnectReply, DisconnectRequest, Exited, Failure, HelloReply,
    HelloRequest, Input, Output, PauseReply, PauseRequest, ReadOutput, ReadRequest, SignalReply,
    SignalRequest, StartedReply, StartedRequest, StatPathReply, StatPathRequest, StatsReply,
    StatsRequest, StopReply, StopRequest, TopReply, TopRequest, UpdateReply, UpdateRequest,
    WaitReply, WaitRequest, WriteInput, WriteReply, failure::Kind, output,
};
use store::container::Status as State;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::failure;
use crate::guest::Guest;
use crate::life::Shared;
use crate::presence::Client;
use crate::supervision::{Now, Supervision};

pub use end::stop;

/// Answers one client.
#[derive(Clone)]
pub struct Service {
    supervision: Arc<Supervision>,
    client: Client,
}

type Outputs<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// A service for one more client.
    pub fn new(supervision: &Arc<Supervision>) -> Self {
        Service {
            supervision: supervision.clone(),
            client: supervision.presence.enter(),
        }
    }

    /// The run that there is.
    fn run(&self) -> Result<Arc<Shared>, Failure> {
        match self.supervision.now() {
            // Its process is over, and the VM about to be.
            _ if self.is_restarting() => Err(self.refusal("is restarting", "wait until it runs")),
            Now::Run(run) if !*run.settled.borrow() => Ok(run),
            Now::Run(_) | Now::Waiting => Err(self.is_not_running()),
            Now::Over => Err(self.is_not_running()),
        }
    }

    /// The run whose process runs, and its agent.
    async fn running(&self) -> Result<(Arc<Shared>, Guest), Failure> {
        if self.supervision.maintenance {
            return Err(self.is_not_running());
        }
        let run = self.run()?;
        let guest = run.guest().await?;
        Ok((run, guest))
    }

    /// Between two runs.
    fn is_restarting(&self) -> bool {
        match self.supervision.now() {
            Now::Run(run) => *run.settled.borrow() && self.supervision.is(State::Restarting),
            Now::Waiting => true,
            Now::Over => false,
        }
    }

    /// Its end is written, and no run follows.
    fn is_leaving(&self) -> bool {
        match self.supervision.now() {
            Now::Run(run) => *run.settled.borrow() && !self.supervision.is(State::Restarting),
            Now::Waiting => false,
            Now::Over => true,
        }
    }

    fn is_not_running(&self) -> Failure {
        self.refusal("is not running", "")
    }

    /// What is asked for does not go with the state of the container.
    fn refusal(&self, what: &str, remedy: &str) -> Failure {
        let name = &self.supervision.container().spec().name.clone();
        Failure {
            kind: Kind::Invalid.into(),
            remedy: remedy.to_owned(),
            ..failure::own("", "", format!("container {name} {what}"))
        }
    }

    /// A call went wrong: because the run was over meanwhile, perhaps.
    fn explain(&self, run: &Shared, failure: Failure) -> Failure {
        if failure.kind() == Kind::VmLost && *run.settled.borrow() {
            self.refusal("ended meanwhile", "")
        } else {
            failure
        }
    }

    /// Waits for the end; whoever asks is told.
    async fn ended(&self) -> Exited {
        let mut ended = self.supervision.ended.subscribe();
        let exited = match ended.wait_for(Option::is_some).await {
            Ok(exited) => exited.clone().unwrap_or_default(),
            Err(_) => Exited::default(),
        };
        self.supervision.told.send_replace(true);
        exited
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
        if let Now::Run(run) = self.supervision.now()
            && !self.supervision.maintenance
        {
            run.settle().await;
        }
        Ok(Response::new(HelloReply {
            protocol: asked,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            maintenance: self.supervision.maintenance,
            leaving: !self.supervision.maintenance && self.is_leaving(),
            without_volumes: self.supervision.lacks_volumes(),
        }))
    }

    async fn started(&self, _: Request<StartedRequest>) -> Result<Response<StartedReply>, Status> {
        let mut started = self.supervision.started.clone();
        let failure = match started.wait_for(Option::is_some).await {
            Ok(started) => started.clone().and_then(Result::err),
            Err(_) => Some(failure::lost("the VM is gone")),
        };
        if failure.is_some() {
            // A container that could not start is told of when it is out of the way: the next start must not collide.
            self.ended().await;
        }
        self.supervision.told.send_replace(true);
        Ok(Response::new(StartedReply { failure }))
    }

    type AttachStream = Outputs<Output>;

    async fn attach(
        &self,
        request: Request<Streaming<Input>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.client.reads();
        let outputs = self.attach_to(request.into_inner()).await?;
        Ok(Response::new(Box::pin(outputs)))
    }

    type ExecStream = Outputs<Output>;

    async fn exec(
        &self,
        request: Request<Streaming<Input>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        self.client.reads();
        let outputs = self.execute(request.into_inner()).await?;
        Ok(Response::new(Box::pin(outputs)))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalReply>, Status> {
        let failure = self.kill(request.into_inner().signal).await.err();
        Ok(Response::new(SignalReply { failure }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        self.end(&request.into_inner()).await;
        Ok(Response::new(StopReply {
            exited: Some(self.ended().await),
        }))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<WaitReply>, Status> {
        // Who waits for the end does not put it off.
        self.client.leave();
        Ok(Response::new(WaitReply {
            exited: Some(self.ended().await),
        }))
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseReply>, Status> {
        let failure = self.set_paused(request.into_inner().paused).await.err();
        Ok(Response::new(PauseReply { failure }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsReply>, Status> {
        let reply = self
            .statistics()
            .await
            .unwrap_or_else(|failure| StatsReply {
                failure: Some(failure),
                ..StatsReply::default()
            });
        Ok(Response::new(reply))
    }

    async fn top(&self, _: Request<TopRequest>) -> Result<Response<TopReply>, Status> {
        let reply = self.processes().await.unwrap_or_else(|failure| TopReply {
            failure: Some(failure),
            ..TopReply::default()
        });
        Ok(Response::new(reply))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateReply>, Status> {
        let failure = self.set_limits(request.into_inner()).await.err();
        Ok(Response::new(UpdateReply { failure }))
    }

    async fn connect(
        &self,
        request: Request<ConnectRequest>,
    ) -> Result<Response<ConnectReply>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        // A task of its own, so that a client that goes away leaves nothing half-done.
        let connecting = tokio::spawn(async move { service.connect_network(asked).await });
        let failure = connecting
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let failure = failure.err();
        Ok(Response::new(ConnectReply { failure }))
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectReply>, Status> {
        let (service, asked) = (self.clone(), request.into_inner());
        let leaving = tokio::spawn(async move { service.disconnect_network(asked).await });
        let reply = leaving.await;
        let reply = reply.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(reply))
    }

    async fn stat_path(
        &self,
        request: Request<StatPathRequest>,
    ) -> Result<Response<StatPathReply>, Status> {
        let reply = match self.look_at(request.into_inner().path).await {
            Ok(stat) => StatPathReply {
                failure: None,
                stat: Some(stat),
            },
            Err(failure) => StatPathReply {
                failure: Some(failure),
                stat: None,
            },
        };
        Ok(Response::new(reply))
    }

    type ReadStream = Outputs<ReadOutput>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.client.reads();
        let outputs = self.read_files(request.into_inner());
        Ok(Response::new(Box::pin(outputs)))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteInput>>,
    ) -> Result<Response<WriteReply>, Status> {
        let failure = self.write_files(request.into_inner()).await?;
        Ok(Response::new(WriteReply { failure }))
    }
}
