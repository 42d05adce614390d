//! What answers a processor's I/O that KVM does not: serial ports, power registers, virtio slots.
//!
//! Shared by the processors' threads; immutable, what it leads to has locks of its own. Whatever nobody answers reads as
//! ones, as on a PC's empty bus, and is written to nowhere.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::memory::VIRTIO;
use super::serial::Port;
use crate::virtio::mmio::{self, Registers};
use crate::vsock::Memory;

/// First register and interrupt line of each serial port.
pub const SERIAL_PORTS: [(u16, u32); 2] = [(0x3f8, 4), (0x2f8, 3)];
/// ACPI's sleep control register.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI's sleep status register: always says "awake".
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI's reset register.
pub const RESET_PORT: u16 = 0x602;
/// What is written to it.
pub const RESET_VALUE: u8 = 1;

/// The keyboard controller's command register, which resets a PC.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest powered off.
    PoweredOff,
    /// The guest asked for a reset, or its processor gave up (a triple fault).
    Reset,
    /// The machine broke, in words.
    Broken(String),
}

/// Where the first end is written down.
pub struct End {
    how: Mutex<Option<Ended>>,
    /// Readable when there is one.
    pub event: EventFd,
}

impl End {
    /// No end yet.
    pub fn new() -> io::Result<End> {
        Ok(End {
            how: Mutex::new(None),
            event: EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?,
        })
    }

    /// The machine has ended. The first word counts.
    pub fn come(&self, how: Ended) {
        let mut slot = self.how.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(how);
        let _ = self.event.write(1);
    }

    /// How, if it has.
    pub fn how(&self) -> Option<Ended> {
        let slot = self.how.lock().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }
}

/// The bus.
pub struct Bus {
    /// Guest memory, for queues that are set up.
    pub mem: Memory,
    /// Serial ports.
    pub serials: Vec<Arc<Port>>,
    /// Virtio slots.
    pub slots: Vec<Arc<dyn Registers>>,
    /// The end.
    pub end: Arc<End>,
}

impl Bus {
    fn serial(&self, port: u16) -> Option<(&Port, u8)> {
        let places = self.serials.iter().zip(SERIAL_PORTS);
        places
            .filter(|(_, (base, _))| (*base..*base + 8).contains(&port))
            .map(|(serial, (base, _))| (&**serial, (port - base) as u8))
            .next()
    }

    fn slot(&self, address: u64) -> Option<(&dyn Registers, u64)> {
        let offset = address.checked_sub(VIRTIO)?;
        let slot = self.slots.get((offset / mmio::SIZE) as usize)?;
        Some((&**slot, offset % mmio::SIZE))
    }

    /// `IN`: also a string of them, from the same port.
    pub fn port_in(&self, port: u16, bytes: &mut [u8]) {
        bytes.fill(0xff);
        if let Some((serial, offset)) = self.serial(port) {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = serial.read(offset));
        } else if matches!(
            port,
            I8042_COMMAND | SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT | RESET_PORT
        ) {
            bytes.fill(0);
        }
    }

    /// `OUT`. True: the processor has nothing more to do.
    pub fn port_out(&self, port: u16, bytes: &[u8]) -> bool {
        if let Some((serial, offset)) = self.serial(port) {
            bytes.iter().for_each(|&byte| serial.write(offset, byte));
            return false;
        }
        let ended = match (port, bytes) {
            (SLEEP_CONTROL_PORT, &[value]) if goes_to_sleep(value) => Ended::PoweredOff,
            (RESET_PORT, &[RESET_VALUE]) | (I8042_COMMAND, &[I8042_RESET]) => Ended::Reset,
            _ => return false,
        };
        self.end.come(ended);
        true
    }

    /// A read of memory that is not there.
    pub fn memory_read(&self, address: u64, bytes: &mut [u8]) {
        match self.slot(address) {
            Some((slot, offset)) => slot.read(offset, bytes),
            None => bytes.fill(0xff),
        }
    }

    /// A write to memory that is not there.
    pub fn memory_write(&self, address: u64, bytes: &[u8]) {
        if let Some((slot, offset)) = self.slot(address) {
            slot.write(offset, bytes, &self.mem);
        }
    }
}

/// The sleep control register's "enable" with the sleep type of `_S5` (ACPI 6.5, section 4.8.3.7).
fn goes_to_sleep(value: u8) -> bool {
    const ENABLE: u8 = 1 << 5;
    value & ENABLE != 0 && value >> 2 & 7 == 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        Bus {
            mem: super::super::memory::make(1 << 20).unwrap(),
            serials: Vec::new(),
            slots: Vec::new(),
            end: Arc::new(End::new().unwrap()),
        }
    }

    fn check(port: u16, bytes: &[u8], want: Option<Ended>) {
        let bus = bus();
        assert_eq!(bus.port_out(port, bytes), want.is_some());
        assert_eq!(bus.end.how(), want);
    }

    #[test]
    fn ends() {
        check(SLEEP_CONTROL_PORT, &[0x34], Some(Ended::PoweredOff));
        check(SLEEP_CONTROL_PORT, &[0x14], None);
        check(SLEEP_CONTROL_PORT, &[0x20], None);
        check(RESET_PORT, &[1], Some(Ended::Reset));
        check(RESET_PORT, &[1, 1], None);
        check(I8042_COMMAND, &[0xfe], Some(Ended::Reset));
        check(0x80, &[1], None);
    }

    #[test]
    fn an_empty_bus_reads_as_ones() {
        let bus = bus();
        let mut bytes = [0; 8];
        bus.memory_read(VIRTIO, &mut bytes);
        assert_eq!(bytes, [0xff; 8]);
        bus.memory_write(u64::MAX, &bytes);
        bus.port_in(0xcf8, &mut bytes[..4]);
        assert_eq!(bytes, [0xff; 8]);
    }
}
