//! Answers to vhost-user requests (QEMU's `docs/interop/vhost-user.rst`).
//!
//! Offered: what a [`Served`] device needs. Not offered, so refused: live migration's log, in-flight tracking, memory
//! slots, shared objects. Rings 0 and 1 are the device's; of a vsock device QEMU keeps the third, the event queue.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::QueueT;

use super::TOKEN_KICK;
use super::regions::Regions;
use super::ring::Ring;
use crate::vsock::Memory;

const VIRTIO_RING_F_INDIRECT_DESC: u64 = 1 << 28;
const VIRTIO_RING_F_EVENT_IDX: u64 = 1 << 29;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// A device of two rings.
pub trait Served {
    /// The largest size of a ring.
    const QUEUE_SIZE: u16;

    /// Moves what can be moved, and signals the guest; whether there is more to do at once. Without memory there is no
    /// guest yet.
    fn run(&mut self, mem: Option<&Memory>, rings: &mut [Ring; 2]) -> bool;

    /// The configuration space; empty where the front-end keeps it.
    fn config(&self) -> Vec<u8>;

    /// The driver starts anew.
    fn reset(&mut self);

    /// The guest is gone for good.
    fn abandon(&mut self);
}

/// The device and its rings.
pub struct Backend<D> {
    /// The device.
    pub device: D,
    regions: Option<Regions>,
    rings: [Ring; 2],
}

impl<D: Served> Backend<D> {
    /// A device that no driver uses yet. Kicks will wake `epoll`.
    pub fn new(device: D, epoll: Arc<OwnedFd>) -> io::Result<Backend<D>> {
        let ring = || Ring::new(D::QUEUE_SIZE, epoll.clone(), TOKEN_KICK).map_err(io::Error::other);
        Ok(Backend {
            device,
            regions: None,
            rings: [ring()?, ring()?],
        })
    }

    /// Moves what can be moved; whether there is more to do at once.
    pub fn run(&mut self) -> bool {
        let mem = self.regions.as_ref().map(|regions| &regions.mem);
        self.device.run(mem, &mut self.rings)
    }

    /// Moves what is there, for a guest that does not run. (One that does is not waited for.)
    pub fn finish(&mut self) {
        const TURNS: usize = 64;
        for _ in 0..TURNS {
            if !self.run() {
                return;
            }
        }
    }

    /// The guest is gone for good.
    pub fn abandon(&mut self) {
        for ring in &mut self.rings {
            ring.stop();
        }
        self.regions = None;
        self.device.abandon();
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        self.rings
            .get_mut(index as usize)
            .ok_or(Error::InvalidParam)
    }
}

impl<D: Served> VhostUserBackendReqHandlerMut for Backend<D> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            ring.stop();
        }
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("reset device"))
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(VIRTIO_F_VERSION_1
            | VIRTIO_RING_F_INDIRECT_DESC
            | VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(Error::InvalidParam);
        }
        for ring in &mut self.rings {
            ring.queue
                .set_event_idx(features & VIRTIO_RING_F_EVENT_IDX != 0);
            // Without protocol features there is no SET_VRING_ENABLE, and rings start enabled.
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                ring.enabled = true;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mapped = Regions::map(regions, files)
            .map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
        self.regions = Some(mapped);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num)
            .ok()
            .filter(|&size| size <= D::QUEUE_SIZE && size.is_power_of_two());
        let ring = self.ring(index)?;
        match size {
            Some(size) => ring.queue.set_size(size),
            // QEMU passes on what the guest says.
            None => ring.broken = true,
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let regions = self.regions.as_ref().ok_or(Error::InvalidParam)?;
        let ring = self
            .rings
            .get_mut(index as usize)
            .ok_or(Error::InvalidParam)?;
        // Where it is the guest has decided: at no ring's place, or where no memory is (QEMU then hands out a buffer of its own).
        let parts = [descriptor, available, used].map(|user_addr| regions.guest_addr(user_addr));
        let placed = match parts {
            [Some(descriptors), Some(available), Some(used)] => ring
                .place(&regions.mem, [descriptors, available, used])
                .is_ok(),
            _ => false,
        };
        ring.broken |= !placed;
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        // A driver that starts both at the beginning is a new one, and knows of no connection.
        if self.rings.iter().all(|ring| ring.queue.next_avail() == 0) {
            self.device.reset();
        }
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        // What the guest handed over before it stopped counts, kick or no kick: its last words may be among it.
        self.finish();
        let base = self.ring(index)?.stop();
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?
            .start(fd)
            .map_err(Error::ReqHandlerError)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        // Nothing here is an error to die of, so there is nothing to say.
        self.ring(u32::from(index)).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let features = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        Ok(match self.device.config().is_empty() {
            true => features,
            false => features | VhostUserProtocolFeatures::CONFIG,
        })
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let config = self.device.config();
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        config
            .get(range)
            .map(<[u8]>::to_vec)
            .ok_or(Error::InvalidParam)
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        Err(Error::InvalidOperation("set config"))
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("gpu socket"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("shared object"))
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("in-flight descriptors"))
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("in-flight descriptors"))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(Error::InvalidOperation("memory slots"))
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        Err(Error::InvalidOperation("memory slots"))
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidOperation("memory slots"))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("device state"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("device state"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("shared memory"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("log"))
    }
}
