//! Little-endian fields of fixed-size structures.
//!
//! The offsets are constants of the format and the buffers have the structure's full size, so an
//! offset out of bounds is a bug in this crate and panics. Lengths that come from the disk are
//! checked before any of these is called.

pub(crate) fn put16(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Splits a 32-bit value over two 16-bit fields.
pub(crate) fn put16_split(buf: &mut [u8], low_at: usize, high_at: usize, value: u32) {
    put16(buf, low_at, value as u16);
    put16(buf, high_at, (value >> 16) as u16);
}

/// Splits a 64-bit value over two 32-bit fields.
pub(crate) fn put32_split(buf: &mut [u8], low_at: usize, high_at: usize, value: u64) {
    put32(buf, low_at, value as u32);
    put32(buf, high_at, (value >> 32) as u32);
}

pub(crate) fn get16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([buf[at], buf[at + 1]])
}

pub(crate) fn get32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}

pub(crate) fn get16_split(buf: &[u8], low_at: usize, high_at: usize) -> u32 {
    u32::from(get16(buf, low_at)) | u32::from(get16(buf, high_at)) << 16
}

pub(crate) fn get32_split(buf: &[u8], low_at: usize, high_at: usize) -> u64 {
    u64::from(get32(buf, low_at)) | u64::from(get32(buf, high_at)) << 32
}
