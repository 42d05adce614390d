//! Formats that are recognised so as not to be taken for raw disks.

/// `offset`, what stands there, and the format's name.
const MAGIC: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
];

/// The name of the format that a file's first bytes are of.
pub(crate) fn detect(start: &[u8]) -> Option<&'static str> {
    let found = MAGIC
        .iter()
        .find(|(at, magic, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    found.map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_their_first_bytes() {
        assert_eq!(detect(b"KDMV\x01\0\0\0"), Some("VMDK"));
        let mut vdi = vec![0; 0x44];
        vdi[0x40..].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(detect(&vdi), Some("VDI"));
        assert_eq!(detect(b"QFI\xfb\0\0\0\x03"), None);
        assert_eq!(detect(b""), None);
    }
}
