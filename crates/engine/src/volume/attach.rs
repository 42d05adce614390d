//! A container's volumes, leased for as long as its VM lives.
//!
//! ```text
//!   writes ──▶ exclusive lease ─────────────────────────────────────────────┐
//!   reads  ──▶ shared lease ── clean, and not to be filled? ──yes───────────┴▶ passed on to the supervisor
//!                                │ no
//!                                ▼
//!              exclusive lease, a VM without the process mounts it for writing, and ends; then the shared lease
//! ```
//!
//! That a volume is not to be filled any more is written by the supervisor whose guest has filled it.

use std::collections::BTreeMap;

use proto::supervisor::StartedRequest;
use store::container::Container;
use store::fault;
use store::lock::{self, Lock, Mode};
use store::volume::{self, Volume};

use crate::supervisor::{self, Client, How};
use crate::{Engine, Error};

/// A volume that nobody else can write to, or at all.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) name: String,
    pub(crate) read_only: bool,
    pub(crate) lease: Lock,
}

/// What the mounts of one volume come to.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    read_only: bool,
    fill: bool,
}

/// Leases on a container's volumes; refused at once, with the holder's name, when one of them is not to be had. `lock` is
/// the container's.
pub(crate) async fn attach(
    engine: &Engine,
    container: &Container,
    lock: &Lock,
) -> Result<Vec<Attached>, Error> {
    let mut wanted: BTreeMap<&str, Wanted> = BTreeMap::new();
    for mount in &container.spec().mounts {
        let known = wanted.entry(&mount.volume).or_insert(Wanted {
            read_only: true,
            fill: false,
        });
        known.read_only &= mount.read_only;
        known.fill |= !mount.no_copy;
    }
    let mut attached = Vec::new();
    let mut unready = Vec::new();
    for (name, wanted) in wanted {
        let volume = volume::open(&engine.root, name)?;
        let mode = match wanted.read_only {
            true => Mode::Shared,
            false => Mode::Exclusive,
        };
        let lease = lease(engine, &volume, mode)?;
        // As its last writer left it, who may have had it until a moment ago.
        let volume = volume::open(&engine.root, name)?;
        let unfilled = wanted.fill && !volume.spec().used;
        if wanted.read_only && (unfilled || volume.needs_recovery()?) {
            drop(lease);
            unready.push(volume);
            continue;
        }
        attached.push(Attached {
            name: name.to_owned(),
            read_only: wanted.read_only,
            lease,
        });
    }
    if !unready.is_empty() {
        attached.extend(make_ready(engine, container, lock, unready).await?);
    }
    if !attached.is_empty() {
        fault::point("volumes.attached");
    }
    Ok(attached)
}

/// The lease on a volume.
pub(crate) fn lease(engine: &Engine, volume: &Volume, mode: Mode) -> Result<Lock, Error> {
    if let Some(lease) = volume.try_lease(mode)? {
        return Ok(lease);
    }
    let lease = match holders(engine, volume).is_empty() {
        true => volume.lease_of_the_dying(mode)?,
        false => None,
    };
    lease.ok_or_else(|| in_use(engine, volume))
}

/// Says who has a volume.
pub(super) fn in_use(engine: &Engine, volume: &Volume) -> Error {
    Error::VolumeInUse {
        volume: volume.name().to_owned(),
        holders: holders(engine, volume),
    }
}

/// Who has a volume: containers, or else other commands. Nobody, when those who had it are dead or dying.
fn holders(engine: &Engine, volume: &Volume) -> Vec<String> {
    let mut holders = Vec::new();
    // Better to name nobody than to fail here.
    let mut users = volume::users(&engine.root).unwrap_or_default();
    for user in users.remove(volume.name()).unwrap_or_default() {
        let runs = store::container::resolve(&engine.root, &user.id).is_ok_and(|container| {
            container.state().is_ok_and(|state| state.status.is_alive())
                || !lock::holders(container.dir()).is_empty()
        });
        if runs {
            let how = if user.read_only { "reads" } else { "writes to" };
            holders.push(format!("container {}, which {how} it", user.name));
        }
    }
    holders.sort();
    if holders.is_empty() {
        let others = lock::holders(volume.dir()).into_iter();
        holders.extend(
            others
                .filter(|holder| !holder.command.is_empty())
                .map(|holder| {
                    let lock::Holder { pid, command } = holder;
                    format!("process {pid} ({command})")
                }),
        );
    }
    holders
}

/// Has volumes mounted once for writing, in a VM without the container's process: a journal is replayed, and an empty volume
/// filled. Then leases to read them.
async fn make_ready(
    engine: &Engine,
    container: &Container,
    lock: &Lock,
    volumes: Vec<Volume>,
) -> Result<Vec<Attached>, Error> {
    let mut writable = Vec::new();
    for volume in &volumes {
        writable.push(Attached {
            name: volume.name().to_owned(),
            read_only: false,
            lease: lease(engine, volume, Mode::Exclusive)?,
        });
    }
    let rootfs = store::rootfs::lease(&engine.root, &container.spec().image.rootfs)?;
    let how = How {
        attached: false,
        maintenance: true,
        started: None,
    };
    let spawned = supervisor::spawn(
        container,
        &engine.programs,
        lock,
        Some(&rootfs),
        &writable,
        how,
    )?;
    fault::point("volumes.readying");
    drop((writable, rootfs));
    let name = &container.spec().name;
    let Some(client) = Client::connect(container).await? else {
        return Err(supervisor::never_ran(container));
    };
    let mut rpc = client.rpc.clone();
    let reply = client.call("started", rpc.started(StartedRequest {})).await;
    // It ends with its last client, and unmounts.
    drop((rpc, client));
    let _ = spawned.gone.await;
    if let Some(failure) = reply?.failure {
        return Err(supervisor::failure(name, failure));
    }
    fault::point("volumes.ready");
    let mut attached = Vec::new();
    for volume in volumes {
        let lease = lease(engine, &volume, Mode::Shared)?;
        attached.push(Attached {
            name: volume.name().to_owned(),
            read_only: true,
            lease,
        });
    }
    Ok(attached)
}
