//! The files of a volume, as a tar archive, both ways.
//!
//! They go through a guest, as a container's do (`docs/design/0004`): a VM whose root is the volume. A supervisor takes it for
//! a container that is stopped; its folder is hidden, and nobody else sees it.

use std::io::Read;

use bytes::Bytes;
use proto::supervisor::StartedRequest;
use store::container::{self, Container, RootfsMode, SCHEMA, Spec, Vm, VolumeMount};
use store::lock::{Lock, Mode};
use store::volume::{self, Volume};
use store::{file, kernels, locate, now_ns};
use tokio::sync::{mpsc, oneshot};

use super::attach::{Attached, lease};
use super::emit;
use crate::container::{Files, TarStream, UnpackOptions, new_id};
use crate::image::unpack;
use crate::supervisor::{self, Client, How};
use crate::{Engine, Error};

/// What a guest needs to pack and unpack.
const MEMORY: u64 = 256 << 20;

/// Bytes of a message.
const PIECE: usize = 256 << 10;

/// Pieces of an archive that wait for the guest.
const QUEUE: usize = 4;

/// A VM with a volume as its root.
#[derive(Debug)]
struct VolumeVm {
    files: Files,
    folder: Container,
    gone: oneshot::Receiver<()>,
}

/// The files of a volume, as a tar archive.
#[derive(Debug)]
pub struct VolumeArchive {
    stream: TarStream,
    vm: VolumeVm,
}

impl Engine {
    /// All files of a volume, as a tar archive. Nobody may write to it meanwhile.
    ///
    /// # Errors
    /// There is no such volume, somebody writes to it, or a VM can't be started.
    pub async fn volume_export(&self, name: &str) -> Result<VolumeArchive, Error> {
        let volume = volume::open(&self.root, name)?;
        let shared = lease(self, &volume, Mode::Shared)?;
        let dirty = volume.needs_recovery()?;
        let held = match dirty {
            false => shared,
            // Only a writer can replay its journal.
            true => {
                drop(shared);
                lease(self, &volume, Mode::Exclusive)?
            }
        };
        let vm = VolumeVm::start(self, &volume, !dirty, held).await?;
        match vm.files.archive_of_root().await {
            Ok(stream) => Ok(VolumeArchive { stream, vm }),
            Err(error) => {
                vm.end().await;
                Err(error)
            }
        }
    }

    /// Unpacks a tar archive (plain, or packed by gzip, zstd, xz or bzip2) in a volume, over what is there; it is made when it
    /// does not exist, and its root directory is `owner`'s then (user and group): archives say whose the files are, not whose
    /// the volume is. Nobody else may have it meanwhile.
    ///
    /// # Errors
    /// Somebody has it, an owner for one that exists, a VM can't be started, or what comes can't be unpacked.
    pub async fn volume_import(
        &self,
        name: &str,
        owner: Option<(u32, u32)>,
        source: impl Read + Send + 'static,
    ) -> Result<(), Error> {
        let mut volume = match volume::open(&self.root, name) {
            Err(volume::Error::NotFound(_)) => {
                let request = super::VolumeRequest {
                    name: Some(name.to_owned()),
                    owner,
                    ..super::VolumeRequest::default()
                };
                self.volume_create(request).await?;
                volume::open(&self.root, name)?
            }
            Ok(_) if owner.is_some() => {
                let reason = format!("volume {name} exists: whose it is stays as it is");
                return Err(Error::invalid("owner", reason));
            }
            other => other?,
        };
        let held = lease(self, &volume, Mode::Exclusive)?;
        let vm = VolumeVm::start(self, &volume, false, held).await?;
        // Now that something of it may be written. The VM has the lease.
        let result = match volume.mark_used() {
            Ok(()) => send(&vm.files, source).await,
            Err(error) => Err(error.into()),
        };
        vm.end().await;
        result?;
        emit(&self.root, "import", name, &[]);
        Ok(())
    }
}

/// Reads where that may take its time, and sends it on.
async fn send(files: &Files, source: impl Read + Send + 'static) -> Result<(), Error> {
    let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(QUEUE);
    // A thread of its own, which may wait for a source for ever, and must not hold up the runtime's end.
    std::thread::Builder::new()
        .name("archive".to_owned())
        .spawn(move || {
            let read = unpack(source).and_then(|mut source| {
                loop {
                    let mut piece = vec![0; PIECE];
                    let length = source.read(&mut piece)?;
                    piece.truncate(length);
                    // Nobody may want more.
                    if length == 0 || sender.blocking_send(Ok(piece.into())).is_err() {
                        return Ok(());
                    }
                }
            });
            if let Err(error) = read {
                let _ = sender.blocking_send(Err(error));
            }
        })
        .map_err(|source| Error::Spawn {
            operation: "start",
            program: "a thread".to_owned(),
            source,
        })?;
    let options = UnpackOptions {
        keep_owner: true,
        ..UnpackOptions::default()
    };
    let mut unpacking = files.unpack("/", options);
    while let Some(piece) = receiver.recv().await {
        let piece = piece.map_err(|error| Error::Archive(crate::ArchiveError::Read(error)))?;
        unpacking.send(piece).await?;
    }
    unpacking.finish().await
}

impl VolumeArchive {
    /// The next bytes; `None` when all came.
    ///
    /// # Errors
    /// What the guest could not read; or the archive broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.stream.next().await
    }

    /// Returns when its VM is gone and the volume free. When it is dropped instead, that happens a moment later.
    pub async fn end(self) {
        drop(self.stream);
        self.vm.end().await;
    }
}

impl VolumeVm {
    async fn start(
        engine: &Engine,
        volume: &Volume,
        read_only: bool,
        lease: Lock,
    ) -> Result<Self, Error> {
        kernels::resolve(&engine.root, "")?;
        for program in [locate::VMM, locate::INIT] {
            engine.programs.find(program)?;
        }
        let spec = spec(volume, read_only)?;
        let (folder, lock) = container::create_hidden(&engine.root, &spec)?;
        let started = Self::begin(engine, &folder, &lock, volume, read_only, lease).await;
        match started {
            Ok((client, gone)) => Ok(Self {
                files: Files::of(folder.clone(), client),
                folder,
                gone,
            }),
            Err(error) => {
                clear(&folder);
                Err(error)
            }
        }
    }

    async fn begin(
        engine: &Engine,
        folder: &Container,
        lock: &Lock,
        volume: &Volume,
        read_only: bool,
        lease: Lock,
    ) -> Result<(Client, oneshot::Receiver<()>), Error> {
        let attached = [Attached {
            name: volume.name().to_owned(),
            read_only,
            lease,
        }];
        let how = How {
            attached: false,
            maintenance: true,
            started: engine.started,
        };
        let spawned = supervisor::spawn(folder, &engine.programs, lock, None, &attached, how)?;
        drop(attached);
        let Some(client) = Client::connect(folder).await? else {
            return Err(supervisor::never_ran(folder));
        };
        let mut rpc = client.rpc.clone();
        let reply = client.call("started", rpc.started(StartedRequest {})).await;
        let failure = match reply {
            Ok(reply) => match reply.failure {
                None => return Ok((client, spawned.gone)),
                Some(failure) => supervisor::failure(&folder.spec().name, failure),
            },
            Err(error @ Error::Version { .. }) => error,
            Err(_) => supervisor::never_ran(folder),
        };
        drop((rpc, client));
        let _ = spawned.gone.await;
        Err(failure)
    }

    /// Returns when it is gone.
    async fn end(self) {
        drop(self.files);
        let _ = self.gone.await;
        clear(&self.folder);
    }
}

/// What is left behind is cleared away by the next container's creation.
fn clear(folder: &Container) {
    let removed =
        file::remove(&folder.supervisor_socket()).and_then(|_| file::remove_tree(folder.dir()));
    if let Err(error) = removed {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot remove the folder of a volume's VM");
    }
}

fn spec(volume: &Volume, read_only: bool) -> Result<Spec, Error> {
    Ok(Spec {
        schema: SCHEMA,
        id: new_id()?,
        name: format!("of volume {}", volume.name()),
        created_ns: now_ns(),
        vm: Vm {
            memory: MEMORY,
            cpus: 1,
            driver: "auto".to_owned(),
            rootfs: RootfsMode::Volume,
            ..Vm::default()
        },
        mounts: vec![VolumeMount {
            volume: volume.name().to_owned(),
            target: "/".to_owned(),
            read_only,
            ..VolumeMount::default()
        }],
        ..Spec::default()
    })
}
