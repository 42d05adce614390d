//! Bytes that programs of hostile acts are read from (tests and fuzzing).

/// Bytes that run out: what they do not say is 0.
pub(crate) struct Bytes<'a, 'b>(pub(crate) &'a mut &'b [u8]);

impl Bytes<'_, '_> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let len = N.min(self.0.len());
        out[..len].copy_from_slice(&self.0[..len]);
        *self.0 = &self.0[len..];
        out
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    /// Little-endian, as all that is longer than a byte.
    pub(crate) fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// A length of at most `most`, and as many bytes of it as there are.
    pub(crate) fn some(&mut self, most: u8) -> Vec<u8> {
        let len = usize::from(self.byte() % (most + 1)).min(self.0.len());
        let bytes = self.0[..len].to_vec();
        *self.0 = &self.0[len..];
        bytes
    }
}
