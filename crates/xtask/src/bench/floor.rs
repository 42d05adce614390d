//! The least that a VM can do: an initramfs whose `/init` is one system call.

/// How the machine ends: a command of reboot(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// `LINUX_REBOOT_CMD_POWER_OFF`, as gourd-init ends.
    PowerOff = 0x4321_fedc,
    /// `LINUX_REBOOT_CMD_RESTART`, for machines that can't be powered off.
    Restart = 0x0123_4567,
}

/// `reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, end)`. Should it fail, the program dies of `ud2` and the kernel panics,
/// which the bench sees as another end.
fn code(end: End) -> Vec<u8> {
    let mut code = vec![
        0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
        0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 0x28121969
        0xba, // mov edx, …
    ];
    code.extend((end as u32).to_le_bytes());
    code.extend([
        0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
        0x0f, 0x05, // syscall
        0x0f, 0x0b, // ud2
    ]);
    code
}

const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// A cpio archive ("newc": Documentation/driver-api/early-userspace/buffer-format.rst) with `/init` and the console that
/// the kernel opens for it.
pub fn initramfs(end: End) -> Vec<u8> {
    let mut cpio = Vec::new();
    entry(&mut cpio, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut cpio, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut cpio, "init", 0o100_755, (0, 0), &program(end));
    entry(&mut cpio, "TRAILER!!!", 0, (0, 0), &[]);
    cpio
}

/// A static ELF file for x86-64 (System V ABI, AMD64 supplement): file header, one program header, the code.
fn program(end: End) -> Vec<u8> {
    let code = code(end);
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let size = HEADERS + code.len() as u64;
    elf.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(1u32.to_le_bytes());
    elf.extend(
        [BASE + HEADERS, 64, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    elf.extend(0u32.to_le_bytes());
    elf.extend(
        [64u16, 56, 1, 0, 0, 0]
            .iter()
            .flat_map(|half| half.to_le_bytes()),
    );
    // PT_LOAD, readable and executable.
    elf.extend([1u32, 5].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(
        [0, BASE, BASE, size, size, 0x1000]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    elf.extend(code);
    elf
}

fn entry(cpio: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        bytes.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    cpio.extend(b"070701");
    for field in fields {
        cpio.extend(format!("{field:08x}").bytes());
    }
    cpio.extend(name.bytes());
    cpio.push(0);
    pad(cpio);
    cpio.extend(bytes);
    pad(cpio);
}

fn pad(cpio: &mut Vec<u8>) {
    cpio.resize(cpio.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Oracle: cpio(1) lists what is in the archive.
    #[test]
    fn cpio_reads_the_archive() {
        let mut child = Command::new("cpio")
            .args(["--quiet", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the package cpio");
        child
            .stdin
            .take()
            .expect("stdin")
            .write_all(&initramfs(End::PowerOff))
            .expect("write");
        let out = child.wait_with_output().expect("cpio ends");
        assert!(out.status.success());
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "dev\ndev/console\ninit\n"
        );
    }

    /// Oracle: readelf(1) names every header that it finds wrong on stderr.
    #[test]
    fn readelf_finds_nothing_wrong() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("init");
        std::fs::write(&path, program(End::Restart)).expect("write");
        let out = Command::new("readelf")
            .args(["-hlW"])
            .arg(&path)
            .output()
            .expect("binutils");
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("0x400078") && text.contains("R E"), "{text}");
    }
}
