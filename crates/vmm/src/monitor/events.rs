//! The main thread's loop: the control socket, and every device but the disks.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{Timespec, epoll};
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, Ended};
use super::vcpu::Gate;
use super::{Devices, MonitorError, system};
use crate::confine::Level;
use crate::control::{self, Control, ControlError, HowEnded, Msg};
use crate::virtio::Device;
use crate::virtio::mmio::{Registers, Slot};
use crate::vsock::{self, Memory};

const CONTROL: u64 = 1;
const END: u64 = 2;
const GATE: u64 = 3;
const VSOCK: u64 = 4;
const ENTROPY: u64 = 5;
const BALLOON: u64 = 6;
/// A device met what makes no sense.
const TROUBLE: u64 = 7;
/// One for each network device.
const NETWORK: u64 = 8;
/// The most network devices: tokens that are theirs.
pub const MAX_NETWORKS: usize = 8;
const STREAM: u64 = 16;
/// The guest has read all that it was given of the stream of the same number.
const EMPTIED: u64 = 24;
/// The stream of the same number may have room again.
const ROOM: u64 = 32;

/// What woke the loop, a bit for each token.
type Woken = u64;

/// The loop.
pub struct Events {
    epoll: OwnedFd,
    control: Control,
    devices: Devices,
    bus: Arc<Bus>,
    gate: Arc<Gate>,
    /// Who waits for the processors to stand still.
    pausing: Vec<u32>,
    /// Slots whose first trouble the supervisor has been told of, a bit for each.
    troubled: u32,
    /// The guest has ended; only what it had sent is left to do.
    over: bool,
}

/// Anything that has a descriptor.
fn borrow(fd: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as its owner is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

impl Events {
    /// Prepares the loop.
    pub fn new(
        control: Control,
        devices: Devices,
        bus: Arc<Bus>,
        gate: Arc<Gate>,
    ) -> Result<Events, MonitorError> {
        control
            .set_nonblocking(true)
            .map_err(system("control socket"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll instance"))?;
        let level = epoll::EventFlags::IN;
        // Never read: each write to an eventfd is an edge of its own.
        let edge = level | epoll::EventFlags::ET;
        let add = |fd: BorrowedFd<'_>, token, flags| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), flags)
                .map_err(system("epoll instance"))
        };
        let kicks = |kicks: &[EventFd], token| {
            kicks
                .iter()
                .try_for_each(|kick| add(borrow(kick), token, edge))
        };
        add(control.as_fd(), CONTROL, edge | epoll::EventFlags::OUT)?;
        add(borrow(&bus.end.event), END, edge)?;
        add(borrow(&gate.closed), GATE, edge)?;
        if let Some(slot) = &devices.vsock {
            kicks(slot.kicks(), VSOCK)?;
            add(slot.lock().device.device.muxer.as_fd(), VSOCK, level)?;
        }
        if let Some(slot) = &devices.entropy {
            kicks(slot.kicks(), ENTROPY)?;
        }
        if let Some(slot) = &devices.balloon {
            kicks(slot.kicks(), BALLOON)?;
        }
        for (index, slot) in devices.networks.iter().enumerate() {
            let token = NETWORK + index as u64;
            kicks(slot.kicks(), token)?;
            // Room for a frame wakes as well as a frame.
            let either = edge | epoll::EventFlags::OUT;
            add(slot.lock().device.link(), token, either)?;
        }
        for slot in &bus.slots {
            add(borrow(slot.trouble()), TROUBLE, edge)?;
        }
        for (index, (port, stream, output)) in devices.streams.iter().enumerate() {
            // One look at a time: while the guest has no room, the rest waits in the socket.
            let once = level | epoll::EventFlags::ONESHOT;
            add(stream.as_fd(), STREAM + index as u64, once)?;
            add(borrow(&port.emptied), EMPTIED + index as u64, edge)?;
            let room = epoll::EventFlags::OUT | epoll::EventFlags::ET;
            add(output.as_fd(), ROOM + index as u64, room)?;
        }
        Ok(Events {
            epoll,
            control,
            devices,
            bus,
            gate,
            pausing: Vec::new(),
            troubled: 0,
            over: false,
        })
    }

    /// Runs it until the machine has ended and what the guest had sent has been taken, or the supervisor is gone.
    pub fn run(mut self, level: Level) -> Result<(), MonitorError> {
        let ready = Msg::Ready {
            version: control::VERSION,
            landlock_abi: level.landlock_abi,
            seccomp: level.seccomp,
        };
        if !self.send(ready, None)? {
            return Ok(());
        }
        let mut again: Woken = 0;
        loop {
            let woken = self.wait(again != 0)? | again;
            again = self.serve(woken);
            if woken & 1 << CONTROL != 0 && !self.on_control()? {
                return Ok(());
            }
            if woken & 1 << GATE != 0 && !self.on_gate()? {
                return Ok(());
            }
            for index in 0..self.devices.streams.len() {
                let tokens = 1 << (STREAM + index as u64) | 1 << (EMPTIED + index as u64);
                if woken & tokens != 0 {
                    self.on_stream(index);
                }
                if woken & 1 << (ROOM + index as u64) != 0 {
                    self.devices.streams[index].0.finish();
                }
            }
            if woken & 1 << TROUBLE != 0 && !self.on_trouble()? {
                return Ok(());
            }
            if woken & 1 << END != 0
                && let Some(how) = self.bus.end.how()
                && !self.on_end(how)?
            {
                return Ok(());
            }
            if !self.tell()? || self.over && self.connections() == 0 && self.is_silent() {
                return Ok(());
            }
        }
    }

    /// Waits for something to do; with `again`, only looks.
    fn wait(&self, again: bool) -> Result<Woken, MonitorError> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut buffer = [const { MaybeUninit::uninit() }; 32];
        let mut woken = 0;
        match epoll::wait(&self.epoll, &mut buffer[..], again.then_some(&zero)) {
            Ok((events, _)) => {
                for event in events.iter() {
                    woken |= 1 << (event.data.u64() & 63);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(MonitorError::System("waiting for events", error.into())),
        }
        Ok(woken)
    }

    /// Serves the devices that have something to do; says which have more.
    fn serve(&self, woken: Woken) -> Woken {
        fn turn<D: Device>(
            slot: &Option<Arc<Slot<D>>>,
            mem: &Memory,
            woken: Woken,
            token: u64,
        ) -> Woken {
            match slot {
                Some(slot) if woken & 1 << token != 0 && slot.serve(mem) => 1 << token,
                _ => 0,
            }
        }
        let mem = &self.bus.mem;
        let mut again = 0;
        for (index, slot) in self.devices.networks.iter().enumerate() {
            let token = 1 << (NETWORK + index as u64);
            if woken & token != 0 && slot.serve(mem) {
                again |= token;
            }
        }
        again
            | turn(&self.devices.vsock, mem, woken, VSOCK)
            | turn(&self.devices.entropy, mem, woken, ENTROPY)
            | turn(&self.devices.balloon, mem, woken, BALLOON)
    }

    /// The machine has ended. False: there is nobody to tell.
    fn on_end(&mut self, how: Ended) -> Result<bool, MonitorError> {
        if self.over {
            return Ok(true);
        }
        self.over = true;
        for port in &self.bus.serials {
            port.finish();
        }
        if let Some(slot) = &self.devices.vsock {
            /// What the guest handed over counts, kick or no kick: its last words may be among it.
            const TURNS: usize = 64;
            for _ in 0..TURNS {
                if !slot.serve(&self.bus.mem) {
                    break;
                }
            }
            let muxer = &mut slot.lock().device.device.muxer;
            muxer.reset();
            muxer.give_up_dials();
        }
        let how = match how {
            Ended::PoweredOff => HowEnded::PoweredOff,
            Ended::Reset => HowEnded::Reset,
            Ended::Broken(what) => return Err(MonitorError::Broken(what)),
        };
        self.troubled = 0;
        if !self.on_trouble()? {
            return Ok(false);
        }
        self.send(Msg::Ended { how }, None)
    }

    fn connections(&self) -> usize {
        let slot = self.devices.vsock.as_ref();
        slot.map_or(0, |slot| slot.lock().device.device.muxer.connections())
    }

    /// Consoles have passed on what the guest said. Whoever reads gets all of it; the supervisor bounds how long it takes.
    fn is_silent(&self) -> bool {
        self.bus.serials.iter().all(|port| port.is_silent())
    }

    /// Does what the supervisor asks. False: it is gone.
    fn on_control(&mut self) -> Result<bool, MonitorError> {
        loop {
            match self.control.recv() {
                Ok((msg, fd)) => {
                    if !self.obey(msg, fd)? {
                        return Ok(false);
                    }
                }
                // A message of a later version: not for us.
                Err(ControlError::Parse(_)) => {}
                // The descriptor did not arrive: this process has too many.
                Err(ControlError::Descriptor { msg, .. }) => {
                    if let (Msg::Connect { id, .. }, Some(slot)) = (msg, &self.devices.vsock) {
                        slot.lock().device.device.muxer.refuse_connect(id);
                    }
                }
                Err(ControlError::WouldBlock) => return Ok(true),
                Err(ControlError::Closed) => return Ok(false),
                Err(error) => return Err(MonitorError::Control(error)),
            }
        }
    }

    fn obey(&mut self, msg: Msg, fd: Option<OwnedFd>) -> Result<bool, MonitorError> {
        match msg {
            Msg::PowerButton => {
                if let Some(button) = &self.devices.power_button {
                    let _ = button.write(1);
                }
            }
            Msg::Balloon { mib } => {
                if let Some(slot) = &self.devices.balloon {
                    slot.config_changed(|balloon| balloon.set_target(u64::from(mib) << 20));
                }
            }
            Msg::Pause { id } => {
                self.pausing.push(id);
                self.gate.shut();
            }
            Msg::Resume { id } => {
                self.gate.open();
                return self.send(Msg::Done { id }, None);
            }
            _ => {
                if let Some(slot) = &self.devices.vsock {
                    let muxer = &mut slot.lock().device.device.muxer;
                    match (msg, fd) {
                        (Msg::Listen { port }, _) => muxer.listen(port),
                        (Msg::Unlisten { port }, _) => muxer.unlisten(port),
                        (Msg::Connect { id, port }, Some(fd)) => muxer.connect(id, port, fd),
                        _ => {}
                    }
                }
                if let Some(slot) = &self.devices.vsock {
                    slot.serve(&self.bus.mem);
                }
            }
        }
        Ok(true)
    }

    /// Tells of devices that met what makes no sense: of each once, and once more at the end.
    fn on_trouble(&mut self) -> Result<bool, MonitorError> {
        let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        for (index, slot) in self.bus.slots.iter().enumerate() {
            let counters = slot.counters();
            if counters.violations + counters.failures == 0 || self.troubled & 1 << index != 0 {
                continue;
            }
            self.troubled |= 1 << index;
            let counters = Msg::Counters {
                slot: index as u16,
                device: slot.device_id() as u16,
                violations: few(counters.violations),
                failures: few(counters.failures),
            };
            if !self.send(counters, None)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All processors stand still.
    fn on_gate(&mut self) -> Result<bool, MonitorError> {
        for id in std::mem::take(&mut self.pausing) {
            if !self.send(Msg::Done { id }, None)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes what was typed on to the guest, as far as it has room: the rest waits in the socket.
    fn on_stream(&mut self, index: usize) {
        let (port, stream, _) = &mut self.devices.streams[index];
        let mut buffer = [0; 64];
        let room = port.room().min(buffer.len());
        if room == 0 {
            // `emptied` brings us back.
            return;
        }
        let flags = rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&*stream, &mut buffer[..room], flags) {
            // Nobody types any more.
            Ok((0, _)) => return,
            Ok((count, _)) => {
                port.input(&buffer[..count]);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let token = epoll::EventData::new_u64(STREAM + index as u64);
        let _ = epoll::modify(&self.epoll, stream, token, flags);
    }

    /// Tells the supervisor what happened on vsock. False: it is gone.
    fn tell(&mut self) -> Result<bool, MonitorError> {
        let Some(slot) = self.devices.vsock.clone() else {
            return Ok(true);
        };
        let muxer = &mut slot.lock().device.device.muxer;
        vsock::tell(muxer, &self.control).map_err(MonitorError::Control)
    }

    /// Sends an answer. False: nobody is left to hear it.
    fn send(&self, msg: Msg, fd: Option<BorrowedFd<'_>>) -> Result<bool, MonitorError> {
        match self.control.send(msg, fd) {
            // A supervisor that does not read its answers does not get them.
            Ok(()) | Err(ControlError::WouldBlock) => Ok(true),
            Err(ControlError::Closed) => Ok(false),
            Err(error) => Err(MonitorError::Control(error)),
        }
    }
}
