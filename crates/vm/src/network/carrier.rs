//! Frames of a device that the VM was not made with: between the stream that the guest dialled for it and its link.
//!
//! The guest is not trusted: a length that no frame has ends the stream, and the device with it. What the frames say is the network's
//! affair.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;

use proto::frames;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixDatagram, UnixStream};

/// The monitor's end of a link, for a device that no monitor has.
///
/// # Errors
/// The system can't watch it.
pub fn end(link: OwnedFd) -> io::Result<UnixDatagram> {
    let link = StdDatagram::from(link);
    link.set_nonblocking(true)?;
    UnixDatagram::from_std(link)
}

/// Carries frames until the stream ends.
pub async fn carry(stream: UnixStream, link: UnixDatagram) {
    let (reader, writer) = stream.into_split();
    let ended = tokio::select! {
        ended = inward(&link, writer) => ended,
        ended = outward(reader, &link) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "frames of a device");
    }
}

/// For the guest.
async fn inward(link: &UnixDatagram, mut stream: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; frames::HEADER + frames::MAX_FRAME];
    loop {
        let count = link.recv(&mut buffer[frames::HEADER..]).await?;
        buffer[..frames::HEADER].copy_from_slice(&frames::header(count));
        let bytes = &buffer[..frames::HEADER + count];
        stream.write_all(bytes).await?;
    }
}

/// Of the guest.
async fn outward(mut stream: OwnedReadHalf, link: &UnixDatagram) -> io::Result<()> {
    let mut reader = frames::Reader::default();
    loop {
        let count = stream.read(reader.room()).await?;
        if count == 0 {
            return Ok(());
        }
        reader.filled(count);
        while let Some(frame) = reader.next().map_err(io::Error::other)? {
            // One that the link does not take is lost; one that finds no room waits, and the guest with it.
            if let Err(error) = link.send(frame).await {
                tracing::trace!(%error, "a frame is lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_both_ways_until_nonsense_comes() {
        let (guest, ours) = UnixStream::pair().unwrap();
        let (device, network) = crate::network::link().unwrap();
        let network = end(network).unwrap();
        let carrier = tokio::spawn(carry(ours, end(device).unwrap()));
        let (mut reader, mut writer) = guest.into_split();
        for frame in [&b"one"[..], &[7; 60_000]] {
            let bytes = [&frames::header(frame.len())[..], frame].concat();
            writer.write_all(&bytes).await.unwrap();
            let mut got = vec![0; 70_000];
            let count = network.recv(&mut got).await.unwrap();
            assert!(got[..count] == *frame);
            network.send(frame).await.unwrap();
            let mut back = vec![0; bytes.len()];
            reader.read_exact(&mut back).await.unwrap();
            assert!(back == bytes);
        }
        writer.write_all(&[0xff; 8]).await.unwrap();
        carrier.await.unwrap();
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
    }
}
