//! Changes to programs.

/// A sequence of numbers that looks random: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled").
pub struct Random(u64);

/// Bytes of the longest program.
const LONGEST: usize = 4096;

/// Values at which sums wrap and comparisons turn.
const EDGES: [u32; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
];

impl Random {
    /// The sequence that belongs to a seed that is not 0.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// One of the pool with a few changes, or two of them together.
    pub fn change(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut program = pool[self.below(pool.len())].clone();
        for _ in 0..=self.below(6) {
            self.once(&mut program, pool);
        }
        program.truncate(LONGEST);
        program
    }

    fn once(&mut self, program: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(program.len() + 1);
        let end = (at + 1 + self.below(32)).min(program.len());
        match self.below(7) {
            0 => program.insert(at, self.next() as u8),
            1 => drop(program.drain(at.min(end)..end)),
            2 => {
                let part = program[at.min(end)..end].to_vec();
                let to = self.below(program.len() + 1);
                program.splice(to..to, part);
            }
            3 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len() + 1);
                program.truncate(at);
                program.extend(&other[from..]);
            }
            4 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                for (to, from) in program.iter_mut().skip(at).zip(edge) {
                    *to = from;
                }
            }
            5 => {
                if let Some(byte) = program.get_mut(at) {
                    *byte ^= 1 << (self.next() & 7);
                }
            }
            _ => {
                if let Some(byte) = program.get_mut(at) {
                    *byte = self.next() as u8;
                }
            }
        }
    }
}
