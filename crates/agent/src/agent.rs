//! The agent: dials the host, and serves it on that connection until the VM ends.
//!
//! ```text
//! dial ─► serve ─┬─ Shutdown answered ─► end of file ─► wait for the host to close ─► exit 0
//!                └─ connection lost ───► end what runs, unmount ──────────────────► exit 0
//! ```
//!
//! PID 1 takes the power away when this process ends. So that the answer to `Shutdown` is not lost with it, the agent
//! ends its half of the connection and waits until the host has closed the other: the host has read everything then. A
//! host that is dead resets the connection; one that hangs delays the end by [`FAREWELL`] at most.
//!
//! One thread: all the work is waiting, and the calls that block (mounts) have nobody to keep waiting.

mod boot;
mod container;
mod control;
mod disks;
mod mounts;
mod network;
mod networks;
mod process;
mod service;
mod shares;
mod sockets;
mod spawn;
mod stats;
mod stdio;
mod stream;
mod terminal;
#[cfg(test)]
mod tests;
mod top;
mod transfer;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use proto::agent::AgentServer;
use proto::ttrpc;

use crate::clock;
use crate::failure::{Failed, Step};
use service::Service;
use stream::{Dial, Stream, Vsock};

/// How long a host that hangs may delay the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The guest's port of the agent's connection. Below 1024: only root of the VM could have dialled from it.
const SOURCE_PORT: u32 = 1023;

/// Moments of the start, in nanoseconds of CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    init_started_ns: u64,
    agent_started_ns: u64,
    dialled_ns: u64,
}

/// The role: PID 1 started at `init_started_ns` (CLOCK_BOOTTIME), and `init_failure` is the first thing that it could not do.
pub(crate) fn main(init_started_ns: u64, init_failure: Option<String>) -> u8 {
    // Names are for people; a kernel that refuses one is fine.
    let _ = rustix::thread::set_name(c"gourd-agent");
    match run(init_started_ns, init_failure) {
        Ok(()) => crate::SUCCESS,
        Err(failed) => {
            eprintln!("gourd-agent: {failed}");
            crate::FAILURE
        }
    }
}

fn run(init_started_ns: u64, init_failure: Option<String>) -> Result<(), Failed> {
    crate::sys::keep_freed_memory();
    let mut moments = Moments {
        init_started_ns,
        agent_started_ns: clock::boottime_ns(),
        dialled_ns: 0,
    };
    // The request is on its way while the runtime is made.
    let socket =
        crate::sys::vsock_connect(proto::AGENT_PORT, Some(SOURCE_PORT)).step("dial", "the host")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .step("make", "the runtime")?;
    runtime.block_on(async {
        let connection = Stream::connected(socket).await.step("dial", "the host")?;
        moments.dialled_ns = clock::boottime_ns();
        let service = Arc::new(Service::new(moments, init_failure, Vsock));
        serve(connection, service).await;
        Ok(())
    })
}

/// Serves `service` on `connection`; returns when the VM is to end, whatever the reason.
async fn serve<D: Dial>(connection: Stream, service: Arc<Service<D>>) {
    let server = Arc::new(AgentServer(Arc::clone(&service)));
    let (reader, writer) = (connection.clone(), connection.clone());
    let answers = match ttrpc::serve(reader, writer, server, service.shut_down()).await {
        Ok(Some(answers)) => answers,
        ended => {
            let why = ended
                .err()
                .map_or_else(|| "closed".to_owned(), |error| error.to_string());
            eprintln!("gourd-agent: the connection to the host is lost: {why}");
            // Nobody is there to tell, and the console has the connection's end already.
            let _ = service.end().await;
            return;
        }
    };
    let farewell = async {
        let _ = answers.await;
        connection.finish().await;
    };
    // Either the host has everything, or it hangs: the power goes in both cases.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}
