//! A guest that does what is typed: a kernel that is none, as in [`crate::attack`], of a few instructions that look at the first serial port
//! and at the power button in turns, without interrupts.
//!
//! It says [`READY`], then each letter that is typed. For [`BALLOON`] it says in its stead how many MiB the host wants of the balloon, as a
//! byte: of the first virtio device, which the balloon has to be. When the button is pressed it says [`OFF`] and powers off.

use std::io;
use std::path::Path;

use crate::attack::{self, Bus};

/// What it says first.
pub const READY: &str = "ready\n";
/// What it says last.
pub const OFF: &str = "off\n";
/// Not said back, where the balloon is on [`Bus::Mmio`].
pub const BALLOON: u8 = b'b';

/// `mov dx, port`.
fn port(code: &mut Vec<u8>, port: u16) {
    code.extend([0x66, 0xba]);
    code.extend(port.to_le_bytes());
}

/// `mov ebx, address`.
fn address(code: &mut Vec<u8>, address: u32) {
    code.push(0xbb);
    code.extend(address.to_le_bytes());
}

/// `mov eax, word; mov [ebx], eax`, at an address.
fn store(code: &mut Vec<u8>, at: u32, word: u32) {
    address(code, at);
    code.push(0xb8);
    code.extend(word.to_le_bytes());
    code.extend([0x89, 0x03]);
}

/// `mov al, letter; out dx, al` for each.
fn say(code: &mut Vec<u8>, words: &str) {
    port(code, SERIAL);
    for letter in words.bytes() {
        code.extend([0xb0, letter, 0xee]);
    }
}

const SERIAL: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;

/// The button of `gourd-vmm machine` is line 9 of the I/O APIC (Intel 82093AA), which makes it an interrupt of the local one (Intel SDM volume
/// 3, 11.8.4): taken by nobody, it stays in the request register.
mod mmio {
    pub const IO_APIC_SELECT: u32 = 0xfec0_0000;
    pub const IO_APIC_WINDOW: u32 = 0xfec0_0010;
    /// The low half of line 9's entry.
    pub const ENTRY: u32 = 0x10 + 2 * 9;
    pub const SPURIOUS: u32 = 0xfee0_00f0;
    pub const ENABLED: u32 = 0x1ff;
    pub const VECTOR: u32 = 0x50;
    pub const REQUESTS: u32 = 0xfee0_0200 + 0x10 * (VECTOR / 32);
    /// The second byte of the first device's configuration space: a balloon counts in pages.
    pub const BALLOON: u32 = 0xd000_0101;
    /// ACPI's sleep control register: sleep type 5, and the bit that does it.
    pub const SLEEP_PORT: u16 = 0x600;
    pub const SLEEP: u8 = 0x34;
}

/// The button of QEMU's q35 is a bit of ACPI's fixed hardware (ACPI 6.5, section 4.8.3), where its firmware puts it.
mod pci {
    pub const STATUS: u16 = 0x600;
    pub const ENABLE: u16 = 0x602;
    pub const CONTROL: u16 = 0x604;
    pub const SLEEP: u16 = 0x2000;
}

fn code(bus: Bus) -> Vec<u8> {
    // mov eax, tables; mov cr3, eax
    let mut code = vec![0xb8];
    code.extend(attack::TABLES.to_le_bytes());
    code.extend([0x0f, 0x22, 0xd8]);
    match bus {
        Bus::Mmio => {
            store(&mut code, mmio::SPURIOUS, mmio::ENABLED);
            for (register, word) in [(mmio::ENTRY + 1, 0), (mmio::ENTRY, mmio::VECTOR)] {
                store(&mut code, mmio::IO_APIC_SELECT, register);
                store(&mut code, mmio::IO_APIC_WINDOW, word);
            }
        }
        Bus::Pci => {
            port(&mut code, pci::ENABLE);
            // mov ax, 0x100; out dx, ax
            code.extend([0x66, 0xb8, 0x00, 0x01, 0x66, 0xef]);
        }
    }
    say(&mut code, READY);
    let again = code.len();
    let mut echo = Vec::new();
    port(&mut echo, SERIAL);
    // in al, dx
    echo.push(0xec);
    if bus == Bus::Mmio {
        // cmp al, letter; jne past; mov ebx, address; mov al, [ebx]; past:
        echo.extend([0x3c, BALLOON, 0x75, 7]);
        address(&mut echo, mmio::BALLOON);
        echo.extend([0x8a, 0x03]);
    }
    // out dx, al
    echo.push(0xee);
    port(&mut code, LINE_STATUS);
    // pause; in al, dx; test al, 1; jz past; echo; past:
    code.extend([0xf3, 0x90, 0xec, 0xa8, 0x01, 0x74, echo.len() as u8]);
    code.extend(echo);
    match bus {
        Bus::Mmio => {
            address(&mut code, mmio::REQUESTS);
            // mov eax, [ebx]; test eax, bit
            code.extend([0x8b, 0x03, 0xa9]);
            code.extend((1u32 << (mmio::VECTOR % 32)).to_le_bytes());
        }
        Bus::Pci => {
            port(&mut code, pci::STATUS);
            // in ax, dx; test ax, 0x100
            code.extend([0x66, 0xed, 0x66, 0xa9, 0x00, 0x01]);
        }
    }
    // jz again
    let back = again as i32 - (code.len() as i32 + 6);
    code.extend([0x0f, 0x84]);
    code.extend(back.to_le_bytes());
    say(&mut code, OFF);
    match bus {
        Bus::Mmio => {
            port(&mut code, mmio::SLEEP_PORT);
            // mov al, sleep; out dx, al
            code.extend([0xb0, mmio::SLEEP, 0xee]);
        }
        Bus::Pci => {
            port(&mut code, pci::CONTROL);
            // mov ax, sleep; out dx, ax
            code.extend([0x66, 0xb8]);
            code.extend(pci::SLEEP.to_le_bytes());
            code.extend([0x66, 0xef]);
        }
    }
    // hlt; jmp hlt
    code.extend([0xf4, 0xeb, 0xfd]);
    code
}

/// Writes the guest for this way of having devices.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, bus: Bus) -> io::Result<()> {
    std::fs::write(path, attack::file(&code(bus), &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_processors_read_the_same_code() {
        for bus in [Bus::Mmio, Bus::Pci] {
            let read = attack::tests::disassembled(&code(bus));
            let jumps: Vec<_> = read.iter().filter(|line| line.starts_with('j')).collect();
            // Past the echo, past the balloon, to the beginning, and for ever.
            assert_eq!(jumps.len(), 3 + usize::from(bus == Bus::Mmio), "{read:?}");
            assert!(read.iter().any(|line| line == "hlt"), "{read:?}");
        }
    }
}
