//! The files of a container, running or not: what lies at a path, reading and writing as tar archives, what has changed.
//!
//! A [`Files`] keeps one connection. To a container that does not run this is a VM that was started for it, and ends with
//! it. Bytes pass through in pieces; each side waits for the other, so nothing piles up.

use bytes::Bytes;
use proto::supervisor::read_request::What;
use proto::supervisor::{
    ReadOutput, ReadRequest, StatPathRequest, WriteInput, WriteReply, WriteTarget, failure::Kind,
    read_output, write_input,
};
use store::container::Container;
use store::events::{self, Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::supervisor::{self, Client, Volumes};
use crate::{Engine, Error};

/// Pieces that wait for the connection.
const QUEUE: usize = 4;

/// One message's worth of bytes.
const PIECE: usize = 256 << 10;

/// The files of a container.
#[derive(Debug, Clone)]
pub struct Files {
    container: Container,
    client: Client,
}

/// What lies at a path of a container. The last link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `st_mode`, with the type.
    pub mode: u32,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// Where a symbolic link leads in the end, as an absolute path of the container; empty when it leads nowhere.
    pub link_target: String,
}

impl PathStat {
    /// S_IFMT and what is under it (inode(7)).
    const fn is(&self, kind: u32) -> bool {
        self.mode & 0o170_000 == kind
    }

    /// A directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        self.is(0o040_000)
    }

    /// A symbolic link.
    #[must_use]
    pub const fn is_symlink(&self) -> bool {
        self.is(0o120_000)
    }

    /// A regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.is(0o100_000)
    }
}

/// How an archive is unpacked in a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Refuse to put a directory over something else, and something else over a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// Files belong to the archive's numeric owners; otherwise to root.
    pub keep_owner: bool,
}

/// How a path of a container differs from its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which way.
    pub kind: ChangeKind,
    /// Absolute.
    pub path: Vec<u8>,
}

/// In which way a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is not as it was.
    Changed,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// Docker's letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

impl Engine {
    /// The files of a container, running or not.
    ///
    /// # Errors
    /// No such container; its VM can't be started.
    pub async fn files(&self, id: &str) -> Result<Files, Error> {
        let container = self.container(id)?;
        let client = supervisor::reach(self, &container, Volumes::Needed).await?;
        Ok(Files { container, client })
    }

    /// Its files without those of its volumes, which somebody else may have.
    pub(crate) async fn own_files(&self, id: &str) -> Result<Files, Error> {
        let container = self.container(id)?;
        let client = supervisor::reach(self, &container, Volumes::Unneeded).await?;
        Ok(Files { container, client })
    }

    /// What lies at a path of a container; `None`: nothing.
    ///
    /// # Errors
    /// No such container; the guest can't look.
    pub async fn stat_path(&self, id: &str, path: &str) -> Result<Option<PathStat>, Error> {
        self.files(id).await?.stat(path).await
    }

    /// A file or directory of a container, as a tar archive.
    ///
    /// # Errors
    /// No such container; what the guest can't read is said at the end.
    pub async fn copy_from(&self, id: &str, path: &str, follow: bool) -> Result<TarStream, Error> {
        self.files(id).await?.read(path, follow).await
    }

    /// Unpacks a tar archive in a directory of a container.
    ///
    /// # Errors
    /// No such container; what the guest can't write is said at the end.
    pub async fn copy_to(
        &self,
        id: &str,
        path: &str,
        options: UnpackOptions,
    ) -> Result<Unpacking, Error> {
        Ok(self.files(id).await?.write(path, options))
    }

    /// All files of a container, as a tar archive.
    ///
    /// # Errors
    /// No such container; what the guest can't read is said at the end.
    pub async fn export(&self, id: &str) -> Result<TarStream, Error> {
        self.own_files(id).await?.export().await
    }

    /// How the files of a container differ from its image, sorted by path.
    ///
    /// # Errors
    /// No such container; the guest can't look.
    pub async fn diff(&self, id: &str) -> Result<Vec<Change>, Error> {
        self.own_files(id).await?.changes().await
    }
}

impl Files {
    /// Those that a supervisor has in hand.
    pub(crate) fn of(container: Container, client: Client) -> Self {
        Self { container, client }
    }

    /// All files below the root, without an event.
    pub(crate) async fn archive_of_root(&self) -> Result<TarStream, Error> {
        self.archive(What::Root, "/", false, false).await
    }

    /// The container's name.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container.spec().name
    }

    /// What lies at a path; `None`: nothing.
    ///
    /// # Errors
    /// The guest can't look.
    pub async fn stat(&self, path: &str) -> Result<Option<PathStat>, Error> {
        let path = path.to_owned();
        let mut rpc = self.client.rpc.clone();
        let call = rpc.stat_path(StatPathRequest { path });
        let reply = self.client.call("stat", call).await?;
        match (reply.failure, reply.stat) {
            (Some(failure), _) if failure.kind() == Kind::NotFound => Ok(None),
            (Some(failure), _) => Err(supervisor::refusal(failure)),
            (None, stat) => Ok(stat.map(|stat| PathStat {
                name: stat.name,
                size: stat.size,
                mode: stat.mode,
                modified: (stat.modified_s, stat.modified_ns),
                link_target: stat.link_target,
            })),
        }
    }

    /// A file or directory, as a tar archive whose entries begin with the path's last name.
    ///
    /// # Errors
    /// The supervisor does not answer. What the guest can't read is said at the end.
    pub async fn read(&self, path: &str, follow: bool) -> Result<TarStream, Error> {
        let event = Event::container(self.container.spec(), "archive-path");
        events::emit(self.container.root(), &event);
        self.archive(What::Path, path, follow, false).await
    }

    /// All files, without those of what is mounted in the container.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub async fn export(&self) -> Result<TarStream, Error> {
        let event = Event::container(self.container.spec(), "export");
        events::emit(self.container.root(), &event);
        self.archive(What::Root, "/", false, false).await
    }

    /// The changes against the image, as a layer of an OCI image; `pause` freezes the container's processes meanwhile.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub async fn layer(&self, pause: bool) -> Result<TarStream, Error> {
        self.archive(What::Layer, "/", false, pause).await
    }

    /// The changes against the image, sorted by path.
    ///
    /// # Errors
    /// The guest can't look.
    pub async fn changes(&self) -> Result<Vec<Change>, Error> {
        let mut records = self.archive(What::Changes, "/", false, false).await?;
        let mut changes = Vec::new();
        let mut begun = Vec::new();
        while let Some(bytes) = records.next().await? {
            for piece in bytes.split_inclusive(|byte| *byte == 0) {
                begun.extend_from_slice(piece);
                if begun.last() == Some(&0) {
                    begun.pop();
                    changes.push(change(&begun).ok_or_else(|| self.senseless("changes"))?);
                    begun.clear();
                }
            }
        }
        if begun.is_empty() {
            Ok(changes)
        } else {
            Err(self.senseless("changes"))
        }
    }

    fn senseless(&self, call: &'static str) -> Error {
        let status = tonic::Status::data_loss("the guest's answer makes no sense");
        self.client.failed(call, status)
    }

    async fn archive(
        &self,
        what: What,
        path: &str,
        follow: bool,
        pause: bool,
    ) -> Result<TarStream, Error> {
        let request = ReadRequest {
            what: what.into(),
            path: path.to_owned(),
            follow,
            pause,
        };
        let mut rpc = self.client.rpc.clone();
        let stream = self.client.call("read", rpc.read(request)).await?;
        Ok(TarStream {
            client: self.client.clone(),
            stream: Some(stream),
        })
    }

    /// Unpacks a tar archive in a directory.
    #[must_use]
    pub fn write(&self, path: &str, options: UnpackOptions) -> Unpacking {
        let event = Event::container(self.container.spec(), "extract-to-dir");
        events::emit(self.container.root(), &event);
        self.unpack(path, options)
    }

    /// As [`Files::write`], without an event.
    pub(crate) fn unpack(&self, path: &str, options: UnpackOptions) -> Unpacking {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let target = WriteTarget {
            path: path.to_owned(),
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            keep_owner: options.keep_owner,
        };
        let first = sender.try_send(write_message(write_input::Input::Target(target)));
        debug_assert!(first.is_ok(), "the queue is new");
        let client = self.client.clone();
        let call = tokio::spawn(async move {
            let mut rpc = client.rpc.clone();
            let call = rpc.write(ReceiverStream::new(receiver));
            client.call("write", call).await
        });
        Unpacking {
            sender,
            call: Some(call),
        }
    }
}

fn change(record: &[u8]) -> Option<Change> {
    let (kind, path) = record.split_first()?;
    let kind = match kind {
        b'A' => ChangeKind::Added,
        b'C' => ChangeKind::Changed,
        b'D' => ChangeKind::Deleted,
        _ => return None,
    };
    path.starts_with(b"/").then(|| Change {
        kind,
        path: path.to_vec(),
    })
}

fn write_message(input: write_input::Input) -> WriteInput {
    WriteInput { input: Some(input) }
}

/// A tar archive that comes out of a container.
#[derive(Debug)]
pub struct TarStream {
    client: Client,
    /// `None` after the end.
    stream: Option<Streaming<ReadOutput>>,
}

impl TarStream {
    /// The next bytes; `None` when all came. May be cancelled and called again.
    ///
    /// # Errors
    /// What the guest could not read; or the archive broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(stream) = &mut self.stream {
            let output = match stream.message().await {
                Ok(Some(message)) => message.output,
                Ok(None) => {
                    self.stream = None;
                    let status = tonic::Status::data_loss("the archive broke off");
                    return Err(self.client.failed("read", status));
                }
                Err(status) => {
                    self.stream = None;
                    return Err(self.client.failed("read", status));
                }
            };
            match output {
                Some(read_output::Output::Bytes(bytes)) if !bytes.is_empty() => {
                    return Ok(Some(bytes));
                }
                Some(read_output::Output::Failed(failure)) => {
                    self.stream = None;
                    return Err(supervisor::refusal(failure));
                }
                Some(read_output::Output::Done(_)) => self.stream = None,
                Some(read_output::Output::Bytes(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// A tar archive that goes into a container. Dropping it before the end breaks it off.
#[derive(Debug)]
pub struct Unpacking {
    sender: mpsc::Sender<WriteInput>,
    /// `None` after the end.
    call: Option<JoinHandle<Result<WriteReply, Error>>>,
}

impl Unpacking {
    /// Sends bytes; waits while the guest is slow.
    ///
    /// # Errors
    /// What the guest could not write; nothing more is taken then.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            let Some(call) = &mut self.call else {
                return Err(Error::Interrupted);
            };
            let sent = self
                .sender
                .send(write_message(write_input::Input::Bytes(piece)));
            tokio::select! {
                biased;
                ended = call => {
                    self.call = None;
                    outcome(ended)?;
                    // The guest has all that it wants: an archive may have more behind its end.
                    return Ok(());
                }
                sent = sent => if sent.is_err() {
                    return self.outcome().await;
                },
            }
        }
        Ok(())
    }

    /// The archive is whole; returns when the guest has unpacked it and it is on the disk.
    ///
    /// # Errors
    /// What the guest could not write.
    pub async fn finish(mut self) -> Result<(), Error> {
        let done = write_message(write_input::Input::Done(true));
        // If nobody takes it, the call says why.
        let _ = self.sender.send(done).await;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<(), Error> {
        match self.call.take() {
            Some(call) => outcome(call.await),
            None => Ok(()),
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // The stream ends without its last message: the guest knows that it was broken off.
        if let Some(call) = self.call.take() {
            call.abort();
        }
    }
}

fn outcome(ended: Result<Result<WriteReply, Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match ended {
        Ok(reply) => match reply?.failure {
            None => Ok(()),
            Some(failure) => Err(supervisor::refusal(failure)),
        },
        Err(_) => Err(Error::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_records() {
        let check = |record: &[u8], expect: Option<(char, &[u8])>| {
            let change = change(record);
            let found = change
                .as_ref()
                .map(|change| (change.kind.letter(), &change.path[..]));
            assert_eq!(found, expect);
        };
        check(b"A/new", Some(('A', b"/new")));
        check(b"C/etc", Some(('C', b"/etc")));
        check(b"D/old\xff", Some(('D', b"/old\xff")));
        check(b"X/etc", None);
        check(b"Arelative", None);
        check(b"", None);
    }
}
