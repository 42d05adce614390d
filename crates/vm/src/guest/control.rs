//! The calls on a container that runs, and on its files.

use proto::agent::read_request::What;
use proto::agent::{
    AgentClient, ConnectRequest, NetworksRequest, PathStat, PauseRequest, ReadRequest,
    SetClockRequest, StatPathRequest, StatsReply, StatsRequest, TopReply, TopRequest,
    TransferReply, UpdateRequest, WriteRequest,
};
use proto::supervisor::Failure;

use super::{Guest, call_failed, refuse};
use crate::failure;

/// A list of processes may be longer than other messages; the agent cuts it.
const TOP_LIMIT: usize = 4 * 1024 * 1024;

impl Guest {
    /// Freezes every process, or lets them go on; it is so when this returns.
    pub async fn pause(&self, paused: bool) -> Result<(), Failure> {
        let request = PauseRequest {
            container: self.container.clone(),
            paused,
        };
        let step = if paused {
            "freeze the container"
        } else {
            "thaw the container"
        };
        let reply = self.client.pause(request).await;
        let reply = reply.map_err(|status| call_failed(step, &status))?;
        refuse(reply.failure)
    }

    /// The guest's wall clock is to be the host's, in nanoseconds since 1970.
    pub async fn set_clock(&self, wall_clock_ns: u64) -> Result<(), Failure> {
        let request = SetClockRequest { wall_clock_ns };
        let reply = self.client.set_clock(request).await;
        let reply = reply.map_err(|status| call_failed("set the guest's clock", &status))?;
        refuse(reply.failure)
    }

    /// What the container uses.
    pub async fn stats(&self) -> Result<StatsReply, Failure> {
        let request = StatsRequest {
            container: self.container.clone(),
        };
        let reply = self.client.stats(request).await;
        let mut reply = reply.map_err(|status| call_failed("read the statistics", &status))?;
        refuse(reply.failure.take())?;
        Ok(reply)
    }

    /// The container's processes.
    pub async fn top(&self) -> Result<TopReply, Failure> {
        let request = TopRequest {
            container: self.container.clone(),
        };
        let client = AgentClient(self.client.0.with_limit(TOP_LIMIT));
        let reply = client.top(request).await;
        let mut reply = reply.map_err(|status| call_failed("list the processes", &status))?;
        refuse(reply.failure.take())?;
        Ok(reply)
    }

    /// New limits; what is absent stays.
    pub async fn update(
        &self,
        memory_limit: Option<u64>,
        nano_cpus: Option<u64>,
        pids_limit: Option<u32>,
    ) -> Result<(), Failure> {
        let request = UpdateRequest {
            container: self.container.clone(),
            memory_limit,
            nano_cpus,
            pids_limit,
        };
        let reply = self.client.update(request).await;
        let reply = reply.map_err(|status| call_failed("set the limits", &status))?;
        refuse(reply.failure)
    }

    /// The container's networks are these from now on.
    pub async fn networks(&self, request: NetworksRequest) -> Result<(), Failure> {
        let reply = self.client.networks(request).await;
        let reply = reply.map_err(|status| call_failed("set the networks up", &status))?;
        refuse(reply.failure)
    }

    /// Has a connection made to a socket of the container, over the stream `stream`.
    pub async fn connect(&self, path: String, stream: Vec<u8>) -> Result<(), Failure> {
        let request = ConnectRequest {
            container: self.container.clone(),
            path,
            stream: stream.into(),
        };
        let reply = self.client.connect(request).await;
        let reply = reply.map_err(|status| call_failed("connect to the socket", &status))?;
        refuse(reply.failure)
    }

    /// What lies at a path.
    pub async fn stat_path(&self, path: String) -> Result<PathStat, Failure> {
        let request = StatPathRequest {
            container: self.container.clone(),
            path,
        };
        let reply = self.client.stat_path(request).await;
        let reply = reply.map_err(|status| call_failed("look at the path", &status))?;
        refuse(reply.failure)?;
        reply.stat.ok_or_else(|| {
            failure::own(
                "look at the path",
                "the agent",
                "it answered without an answer",
            )
        })
    }

    /// Has files written into the stream `stream`. Returns when all is in it: its bytes.
    pub async fn read(
        &self,
        what: What,
        path: String,
        follow: bool,
        stream: Vec<u8>,
    ) -> Result<u64, Failure> {
        let request = ReadRequest {
            container: self.container.clone(),
            what: what.into(),
            path,
            stream: stream.into(),
            follow,
        };
        let reply = self.client.read(request).await;
        transferred(reply.map_err(|status| call_failed("read the files", &status))?)
    }

    /// Has the archive that comes over a stream unpacked. Returns when it is, and on the disk: its bytes.
    pub async fn write(&self, target: WriteRequest) -> Result<u64, Failure> {
        let request = WriteRequest {
            container: self.container.clone(),
            ..target
        };
        let reply = self.client.write(request).await;
        transferred(reply.map_err(|status| call_failed("write the files", &status))?)
    }
}

fn transferred(reply: TransferReply) -> Result<u64, Failure> {
    refuse(reply.failure)?;
    Ok(reply.bytes)
}
