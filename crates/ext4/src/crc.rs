//! CRC-32C as ext4 uses it: reflected, polynomial 0x1EDC6F41, no final inversion, and chained by
//! passing one result as the next seed.
//!
//! All metadata is summed, each inode and each directory block; processors have an instruction for it, which safe code reaches
//! through a crate.

/// Continues `seed` over `bytes`. A fresh sum starts at `!0`.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // There it is inverted before and after.
    !::crc32c::crc32c_append(!seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// The check value of CRC-32C in RFC 3720, appendix B.4, and in the CRC catalogue.
    #[test]
    fn matches_the_published_check_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn chains() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 7, 8, 9, 500, 1000] {
            assert_eq!(
                crc32c(crc32c(!0, &bytes[..cut]), &bytes[cut..]),
                crc32c(!0, &bytes)
            );
        }
    }
}
