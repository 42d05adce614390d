//! Stdio connections: the guest dials one per stream and names it by its first 16 bytes. A door's connections name the door, as often
//! as the guest likes.
//!
//! The guest is not trusted. Ids are random, so that a process in the guest that dials by itself can't take the place of a
//! stream; a connection that doesn't say its id in time is dropped; only so many may be undecided at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hypervisor::Listener;
use proto::STREAM_ID_LEN;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A stream's id.
pub type StreamId = [u8; STREAM_ID_LEN];

/// Connections that may be waiting for their id at once.
const UNDECIDED: usize = 256;

/// How long a connection may take to say its id. A guest under translation may be slow; nothing waits for this.
const DECIDE: Duration = Duration::from_secs(30);

/// Connections of a door that may wait to be taken.
const WAITING: usize = 64;

fn random() -> std::io::Result<StreamId> {
    let mut id = StreamId::default();
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(id)
}

/// Streams that are expected and not there yet.
#[derive(Debug, Default)]
pub struct Streams {
    expected: Mutex<HashMap<StreamId, oneshot::Sender<UnixStream>>>,
    doors: Mutex<HashMap<StreamId, mpsc::Sender<UnixStream>>>,
}

/// A stream that the guest was told to dial. Dropping it takes the expectation back.
pub struct Expected {
    id: StreamId,
    arrival: oneshot::Receiver<UnixStream>,
    streams: Arc<Streams>,
}

impl Streams {
    /// A new id, and the promise of its connection.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub fn expect(self: &Arc<Self>) -> std::io::Result<Expected> {
        let id = random()?;
        let (sender, arrival) = oneshot::channel();
        self.table().insert(id, sender);
        Ok(Expected {
            id,
            arrival,
            streams: self.clone(),
        })
    }

    /// A new id for as many connections as the guest makes, and where they come out.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub fn door(&self) -> std::io::Result<(StreamId, mpsc::Receiver<UnixStream>)> {
        let id = random()?;
        let (sender, arrivals) = mpsc::channel(WAITING);
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.insert(id, sender);
        Ok((id, arrivals))
    }

    /// Takes the guest's connections until the VM is gone.
    pub async fn serve(self: Arc<Self>, mut listener: Listener) {
        let undecided = Arc::new(Semaphore::new(UNDECIDED));
        while let Some((connection, _)) = listener.accept().await {
            let Ok(permit) = undecided.clone().try_acquire_owned() else {
                continue;
            };
            let streams = self.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(DECIDE, streams.place(connection)).await;
                drop(permit);
            });
        }
    }

    async fn place(&self, mut connection: UnixStream) {
        let mut id = StreamId::default();
        if connection.read_exact(&mut id).await.is_err() {
            return;
        }
        let expected = self.table().remove(&id);
        if let Some(sender) = expected {
            // Whoever expected it may have given up: then the connection is dropped, and the guest sees its end.
            let _ = sender.send(connection);
            return;
        }
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(&id) {
            // One that nobody takes is dropped as well.
            let _ = door.try_send(connection);
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<StreamId, oneshot::Sender<UnixStream>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// The id for the guest.
    pub fn id(&self) -> Vec<u8> {
        self.id.to_vec()
    }

    /// The connection; `None` when it will not come.
    pub async fn arrived(mut self) -> Option<UnixStream> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.streams.table().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn connections_go_where_their_id_says() {
        let streams = Arc::new(Streams::default());
        let expected = streams.expect().unwrap();
        let (door, mut arrivals) = streams.door().unwrap();
        let mut guests = Vec::new();
        let id = expected.id();
        let ids = [&id[..], &door, &door, &[0; 16], &[0; 3]];
        for (number, id) in ids.into_iter().enumerate() {
            let (mut guest, host) = UnixStream::pair().unwrap();
            guest.write_all(id).await.unwrap();
            guest.write_all(&[number as u8]).await.unwrap();
            guest.shutdown().await.unwrap();
            streams.place(host).await;
            guests.push(guest);
        }
        let number = async |mut stream: UnixStream| stream.read_u8().await.unwrap();
        assert_eq!(number(expected.arrived().await.unwrap()).await, 0);
        assert_eq!(number(arrivals.recv().await.unwrap()).await, 1);
        assert_eq!(number(arrivals.recv().await.unwrap()).await, 2);
        // The others are nobody's, and so is a door that is closed.
        assert!(arrivals.try_recv().is_err());
        for guest in &mut guests[3..] {
            assert_eq!(guest.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
        drop(arrivals);
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&door).await.unwrap();
        streams.place(host).await;
        assert_eq!(guest.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
