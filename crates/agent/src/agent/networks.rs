//! Networks that come and go while the container runs.
//!
//! ```text
//!                      ┌── a device of the VM's, with its driver ──┐
//!   gone, or not yet ──┤                                           ├──► prepared, routes, /etc/hosts, /etc/resolv.conf
//!                      └── a TAP device ◄─ frames ─► a stream ─────┘
//! ```
//!
//! A device of the VM's whose network is gone loses its driver, and so is no device any more for anybody in here; it gets it back for
//! the next network. When there is none to spare, a TAP device is made whose frames go over a stream to the supervisor: no bus of a VM
//! needs to take new devices, and one that never joins a second network has nothing of it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use proto::agent::{BootRequest, Network, NetworksRequest};
use proto::frames;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::container::{State, lock};
use super::network::{Ways, find, prepare};
use super::stdio::{Dialling, nonblocking};
use super::stream::{Dial, Stream};
use crate::failure::{Failed, Step};
use crate::sys::Interfaces;

/// Where `boot` keeps the files that it binds over the container's.
const ETC: &str = "/run/gourd/etc";

/// Drivers of virtio-net.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

/// The container's network devices.
#[derive(Default)]
pub(super) struct Devices {
    networks: Vec<Network>,
    ways: Ways,
    /// Devices of the VM's without a driver, by Ethernet address: their names on the virtio bus.
    idle: HashMap<Vec<u8>, String>,
    /// TAP devices, by Ethernet address: who carries their frames, and holds them.
    taps: HashMap<Vec<u8>, JoinHandle<()>>,
    /// What was written last.
    hosts: Vec<u8>,
    resolv_conf: Vec<u8>,
}

/// Makes the container's networks those of a request.
pub(super) async fn change<D: Dial>(
    dial: &D,
    state: &Mutex<State>,
    request: NetworksRequest,
) -> Result<(), Failed> {
    lock(state).container(&request.container)?;
    let mut streams = HashMap::new();
    for network in &request.networks {
        if let Some(dialling) = Dialling::begin(dial, &network.stream)? {
            streams.insert(network.mac.to_vec(), dialling.finish().await?);
        }
    }
    let mut ended = Vec::new();
    let changed = lock(state).devices.change(&request, streams, &mut ended);
    for carrier in ended {
        // A device is gone when nobody holds it any more.
        let _ = carrier.await;
    }
    changed
}

impl Devices {
    /// As they are after a boot.
    pub(super) fn booted(request: &BootRequest) -> Result<Devices, Failed> {
        Ok(Devices {
            networks: request.networks.clone(),
            ways: Ways::of(&request.networks)?,
            hosts: request.hosts.to_vec(),
            resolv_conf: request.resolv_conf.to_vec(),
            ..Devices::default()
        })
    }

    /// What could not be done is told of after everything else was.
    fn change(
        &mut self,
        request: &NetworksRequest,
        mut streams: HashMap<Vec<u8>, Stream>,
        ended: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Failed> {
        let interfaces = Interfaces::get().step("open", "a socket for interfaces")?;
        let wanted = &request.networks;
        let stays = |known: &Network| {
            let same = |other: &Network| other.mac == known.mac && other.address == known.address;
            wanted.iter().any(same)
        };
        let mut result = Ok(());
        let (stay, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.networks)
            .into_iter()
            .partition(stays);
        self.networks = stay;
        for network in gone {
            result = result.and(self.remove(interfaces, &network.mac, ended));
        }
        for network in wanted {
            if self.networks.iter().any(|known| known.mac == network.mac) {
                continue;
            }
            let stream = streams.remove(&network.mac[..]);
            let added = self.add(interfaces, network, stream);
            match added {
                Ok(()) => self.networks.push(network.clone()),
                Err(_) => drop(self.remove(interfaces, &network.mac, ended)),
            }
            result = result.and(added);
        }
        let there = |network: &&Network| self.networks.iter().any(|it| it.mac == network.mac);
        let there: Vec<Network> = wanted.iter().filter(there).cloned().collect();
        let ways = Ways::of(&there)?;
        let led = self.ways.turn_into(interfaces, &ways);
        self.ways = ways;
        let files = rewrite("hosts", &mut self.hosts, &request.hosts)
            .and_then(|()| rewrite("resolv.conf", &mut self.resolv_conf, &request.resolv_conf));
        result.and(led).and(files)
    }

    /// A device for a network, with all that it is told.
    fn add(
        &mut self,
        interfaces: &Interfaces,
        network: &Network,
        stream: Option<Stream>,
    ) -> Result<(), Failed> {
        let name = match stream {
            Some(stream) => self.make_tap(interfaces, &network.mac, stream)?,
            None => {
                if let Some(device) = self.idle.remove(&network.mac[..]) {
                    let bind = Path::new(DRIVER).join("bind");
                    std::fs::write(&bind, &device).step("give its driver to", &device)?;
                }
                find(interfaces, &network.mac)?
            }
        };
        prepare(interfaces, &name, network)
    }

    fn make_tap(
        &mut self,
        interfaces: &Interfaces,
        mac: &[u8],
        stream: Stream,
    ) -> Result<String, Failed> {
        let address = <[u8; 6]>::try_from(mac)
            .map_err(|_| Failed::invalid("read the address of", "a device", "not 6 bytes"))?;
        let (tap, name) = Interfaces::make_tap().step("make", "a TAP device")?;
        interfaces
            .set_mac(&name, address)
            .step("give an Ethernet address to", &name)?;
        let tap = nonblocking(tap).step("watch", &name)?;
        self.taps
            .insert(mac.to_vec(), tokio::spawn(carry(tap, stream)));
        Ok(name)
    }

    /// Takes a device away: from now on nobody in here sees it.
    fn remove(
        &mut self,
        interfaces: &Interfaces,
        mac: &[u8],
        ended: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Failed> {
        if let Some(carrier) = self.taps.remove(mac) {
            carrier.abort();
            ended.push(carrier);
            return Ok(());
        }
        let name = find(interfaces, mac)?;
        let device = Path::new("/sys/class/net").join(&name).join("device");
        let link = std::fs::read_link(&device).step("look at", device.display())?;
        let device = link.file_name().unwrap_or_default().to_string_lossy();
        let unbind = Path::new(DRIVER).join("unbind");
        std::fs::write(&unbind, &*device).step("take its driver from", &device)?;
        self.idle.insert(mac.to_vec(), device.into_owned());
        Ok(())
    }
}

/// Writes one of the files that are bound over the container's, in place: those who have it open see it, too.
fn rewrite(name: &str, written: &mut Vec<u8>, contents: &[u8]) -> Result<(), Failed> {
    let file = Path::new(ETC).join(name);
    if *written == contents || contents.is_empty() {
        return Ok(());
    }
    match std::fs::read(&file) {
        Ok(found) if found == *written => {}
        // The container wrote to it, or had none from the beginning: what it has is its own.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failed::os("read", file.display(), error)),
    }
    std::fs::write(&file, contents).step("write", file.display())?;
    *written = contents.to_vec();
    Ok(())
}

/// Carries frames between a TAP device and a stream until either has ended.
async fn carry(tap: AsyncFd<OwnedFd>, stream: Stream) {
    tokio::select! {
        _ = carry_out(&tap, &stream) => {}
        _ = carry_in(&tap, &stream) => {}
    }
}

async fn carry_out(tap: &AsyncFd<OwnedFd>, stream: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; frames::HEADER + frames::MAX_FRAME];
    loop {
        let mut ready = tap.readable().await?;
        let room = &mut buffer[frames::HEADER..];
        match ready.try_io(|tap| Ok(rustix::io::read(tap, room)?)) {
            Ok(Ok(count)) => {
                buffer[..frames::HEADER].copy_from_slice(&frames::header(count));
                stream.send(&buffer[..frames::HEADER + count]).await?;
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

async fn carry_in(tap: &AsyncFd<OwnedFd>, stream: &Stream) -> io::Result<()> {
    let mut reader = frames::Reader::default();
    loop {
        let count = stream.receive(reader.room()).await?;
        if count == 0 {
            return Ok(());
        }
        reader.filled(count);
        while let Some(frame) = reader.next().map_err(io::Error::other)? {
            send(tap, frame).await?;
        }
    }
}

/// Gives a frame to the device. One that it does not take (it is down, the frame is none) is lost.
async fn send(tap: &AsyncFd<OwnedFd>, frame: &[u8]) -> io::Result<()> {
    loop {
        match rustix::io::write(tap.get_ref(), frame) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = tap.writable().await?;
                ready.clear_ready();
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        // Nothing is bound here: there is no container.
        let mut written = b"before".to_vec();
        rewrite("no-such-file", &mut written, b"after").unwrap();
        assert_eq!(written, b"before");
    }
}
