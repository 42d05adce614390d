//! A guest that attacks its devices: a kernel that is none. It has no memory management, no interrupts and no drivers; it does what a
//! list says (stores, loads, port accesses, waits), word by word, until the list ends, and resets the machine.
//!
//! ```text
//!   0x100_0000  what devices are shown: rings, descriptors, packets          written by the list
//!   0x200_0000  page tables, the code, the list                              this ELF file
//! ```
//!
//! The file is entered by the 64-bit boot protocol (`gourd-vmm machine`) or by PVH's 32-bit one (QEMU), and the code is both kinds at
//! once: no instruction in it means two things. Devices are found where the monitor of that way has them: virtio-mmio
//! slots, or PCI functions whose registers the list puts somewhere first. What is sent is in [`acts`].

mod acts;

use std::io;
use std::path::Path;

/// How the devices are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The slots of `gourd-vmm machine`.
    Mmio,
    /// Functions of QEMU's q35.
    Pci,
}

/// The serial console says this when the list was gone through.
pub const DONE: &str = "the attack is over";

const BASE: u32 = 0x200_0000;
pub(crate) const TABLES: u32 = BASE;
/// A root, a table, and four directories of 2 MiB pages: the first 4 GiB as they are.
const TABLES_LEN: u32 = 6 * 0x1000;
const CODE: u32 = TABLES + TABLES_LEN;
const LIST: u32 = CODE + 0x1000;
/// Where the file's own headers would be.
const HEADERS: usize = 0x1000;

/// One thing that the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Store32(u32, u32),
    Store16(u32, u16),
    Store8(u32, u8),
    Load32(u32),
    Out32(u16, u32),
    Out8(u16, u8),
    In32(u16),
    /// Until the half word at an address is this one, or for a while.
    Wait(u32, u16),
    /// What is at an address, but for bits that a mask takes away, to another address.
    Copy(u32, u32, u32),
    End,
}

impl Op {
    fn words(self) -> Vec<u32> {
        match self {
            Op::Store32(at, word) => vec![0, at, word],
            Op::Store16(at, half) => vec![1, at, half.into()],
            Op::Store8(at, byte) => vec![2, at, byte.into()],
            Op::Load32(at) => vec![3, at, 0],
            Op::Out32(port, word) => vec![4, port.into(), word],
            Op::Out8(port, byte) => vec![5, port.into(), byte.into()],
            Op::In32(port) => vec![6, port.into(), 0],
            Op::Wait(at, half) => vec![7, at, half.into()],
            Op::Copy(from, mask, to) => vec![8, from, mask, to],
            Op::End => vec![9, 0, 0],
        }
    }
}

/// What reads the list: `esi` goes along it; each turn takes an operation, an address and a value.
fn code() -> Vec<u8> {
    /// Looks at memory that [`Op::Wait`] takes at most.
    const PATIENCE: u32 = 1000;
    let mut code = vec![0xb8]; // mov eax, TABLES
    code.extend(TABLES.to_le_bytes());
    code.extend([0x0f, 0x22, 0xd8]); // mov cr3, eax
    code.push(0xbe); // mov esi, LIST
    code.extend(LIST.to_le_bytes());
    code.push(0xfc); // cld
    let next = code.len();
    // lodsd; mov ecx, eax; lodsd; mov edx, eax; lodsd
    code.extend([0xad, 0x89, 0xc1, 0xad, 0x89, 0xc2, 0xad]);
    let mut wait = vec![0xb9]; // mov ecx, PATIENCE
    wait.extend(PATIENCE.to_le_bytes());
    wait.extend([
        0x66, 0x39, 0x02, // again: cmp [edx], ax
        0x74, 0x04, // je done
        0xf3, 0x90, // pause
        0xe2, 0xf7, // loop again; done:
    ]);
    let does: [&[u8]; 10] = [
        &[0x89, 0x02],       // mov [edx], eax
        &[0x66, 0x89, 0x02], // mov [edx], ax
        &[0x88, 0x02],       // mov [edx], al
        &[0x8b, 0x02],       // mov eax, [edx]
        &[0xef],             // out dx, eax
        &[0xee],             // out dx, al
        &[0xed],             // in eax, dx
        &wait,
        // and eax, [edx]; mov ecx, eax; lodsd; mov edx, eax; mov [edx], ecx
        &[0x23, 0x02, 0x89, 0xc1, 0xad, 0x89, 0xc2, 0x89, 0x0a],
        &[0xf4, 0xeb, 0xfd], // hlt; jmp hlt
    ];
    for (number, does) in (0..).zip(does) {
        // cmp ecx, number; jne past; does; jmp next
        code.extend([0x83, 0xf9, number, 0x75, does.len() as u8 + 5]);
        code.extend(does);
        let back = next as i32 - (code.len() as i32 + 5);
        code.push(0xe9);
        code.extend(back.to_le_bytes());
    }
    code
}

fn tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let mut pages = vec![0u64; TABLES_LEN as usize / 8];
    let page = |number: u64| (u64::from(TABLES) + number * 0x1000) | PRESENT_WRITABLE;
    pages[0] = page(1);
    for directory in 0..4 {
        pages[512 + directory] = page(2 + directory as u64);
    }
    for (number, entry) in (0..).zip(&mut pages[1024..]) {
        *entry = number << 21 | LARGE | PRESENT_WRITABLE;
    }
    pages.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// The ELF file (System V ABI; the note is that of Linux's Documentation/arch/x86/boot.rst and Xen's `elfnote.h`).
pub(crate) fn file(code: &[u8], list: &[u32]) -> Vec<u8> {
    const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
    let mut image = tables();
    image.extend(code);
    image.resize((LIST - BASE) as usize, 0);
    image.extend(list.iter().flat_map(|word| word.to_le_bytes()));

    let mut note = Vec::new();
    for word in [4, 4, XEN_ELFNOTE_PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(CODE.to_le_bytes());

    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |elf: &mut Vec<u8>, halves: &[u16]| {
        elf.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, words: &[u64]| {
        elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    halves(&mut elf, &[2, 62, 1, 0]);
    words(&mut elf, &[CODE.into(), 64, 0]);
    halves(&mut elf, &[0, 0, 64, 56, 2, 64, 0, 0]);
    let size = image.len() as u64;
    let at = HEADERS as u64;
    let base = u64::from(BASE);
    halves(&mut elf, &[1, 0, 7, 0]);
    words(&mut elf, &[at, base, base, size, size, 0x1000]);
    let note_at = elf.len() as u64 + 56;
    let len = note.len() as u64;
    halves(&mut elf, &[4, 0, 4, 0]);
    words(&mut elf, &[note_at, 0, 0, len, len, 4]);
    elf.extend(note);
    elf.resize(HEADERS, 0);
    elf.extend(image);
    elf
}

/// Writes the guest for this way of having devices.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, bus: Bus) -> io::Result<()> {
    let list: Vec<u32> = acts::list(bus).iter().flat_map(|op| op.words()).collect();
    std::fs::write(path, file(&code(), &list))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// binutils' disassembler reads code as 32-bit and as 64-bit: the same instructions, but for the width of addresses. Says which.
    pub(crate) fn disassembled(code: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        std::fs::write(&path, code).unwrap();
        let read = |machine: &str| {
            let words = ["-D", "-b", "binary", "-m", machine, "-M", "intel"];
            let out = std::process::Command::new("objdump")
                .args(words)
                .arg(&path)
                .output()
                .expect("objdump, of the package binutils");
            let text = String::from_utf8(out.stdout).unwrap();
            let lines = text
                .lines()
                .skip(7)
                .filter_map(|line| line.split('\t').nth(2));
            // A register that is an address has the name of its width.
            let names = [
                ("rdx", "edx"),
                ("rsi", "esi"),
                ("rax", "eax"),
                ("rbx", "ebx"),
            ];
            let narrow = |line: &str| {
                let line = line.trim_end().to_owned();
                let name = |line: String, (wide, narrow): (&str, &str)| line.replace(wide, narrow);
                names.into_iter().fold(line, name)
            };
            lines.map(narrow).collect::<Vec<_>>()
        };
        let (narrow, wide) = (read("i386"), read("i386:x86-64"));
        assert_eq!(narrow, wide);
        assert!(
            !narrow.iter().any(|line| line.contains("(bad)")),
            "{narrow:?}"
        );
        narrow
    }

    #[test]
    fn both_processors_read_the_same_code() {
        assert!(disassembled(&code()).len() > 50);
    }

    #[test]
    fn lists_are_long_and_end() {
        for bus in [Bus::Mmio, Bus::Pci] {
            let list = acts::list(bus);
            assert!(list.len() > 10_000, "{}", list.len());
            assert_eq!(list.last(), Some(&Op::End));
            let inside = |op: &Op| match *op {
                // Neither the list nor the tables are written over.
                Op::Store32(at, _) | Op::Store16(at, _) | Op::Store8(at, _) => {
                    !(BASE..BASE + (16 << 20)).contains(&at)
                }
                _ => true,
            };
            assert!(list.iter().all(inside));
            assert!(list.len() * 12 < 15 << 20);
        }
    }
}
