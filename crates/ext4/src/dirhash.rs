//! The half-MD4 hash that orders an indexed directory.
//!
//! Source: `Documentation/filesystems/ext4/directory.rst`, "Hash Tree Directories"; the rounds
//! are those of MD4 (RFC 1320) with eight words of input instead of sixteen.

/// `half_md4` with bytes taken as unsigned; the superblock's flags say so.
pub(crate) const DX_HASH_HALF_MD4: u8 = 1;

const EOF_HASH: u32 = 0x7fff_ffff << 1;

/// The hash of a name, its lowest bit clear, and the minor hash that orders equal ones.
pub(crate) fn half_md4(name: &[u8], seed: &[u32; 4]) -> (u32, u32) {
    let mut state = if *seed == [0; 4] {
        [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]
    } else {
        *seed
    };
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &input(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    let hash = state[1] & !1;
    // the largest value marks the end of a directory
    let hash = if hash == EOF_HASH { hash - 2 } else { hash };
    (hash, state[2])
}

/// Eight big-endian words of the name's next 32 bytes, filled up with its remaining length.
fn input(rest: &[u8]) -> [u32; 8] {
    let pad = u32::from_ne_bytes([rest.len() as u8; 4]);
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |value, byte| {
            (value << 8).wrapping_add(u32::from(*byte))
        });
    }
    words
}

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    const ROUND_2: u32 = 0x5a82_7999;
    const ROUND_3: u32 = 0x6ed9_eba1;
    let select = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let parity = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let before = *state;
    round(
        state,
        words,
        [0, 1, 2, 3, 4, 5, 6, 7],
        [3, 7, 11, 19],
        0,
        select,
    );
    round(
        state,
        words,
        [1, 3, 5, 7, 0, 2, 4, 6],
        [3, 5, 9, 13],
        ROUND_2,
        majority,
    );
    round(
        state,
        words,
        [3, 7, 2, 6, 1, 5, 0, 4],
        [3, 9, 11, 15],
        ROUND_3,
        parity,
    );
    for (word, old) in state.iter_mut().zip(before) {
        *word = word.wrapping_add(old);
    }
}

/// One round: each step mixes one word of input into one word of state, then the roles rotate.
fn round(
    state: &mut [u32; 4],
    words: &[u32; 8],
    order: [usize; 8],
    shifts: [u32; 4],
    constant: u32,
    mix: impl Fn(u32, u32, u32) -> u32,
) {
    for (step, word) in order.into_iter().enumerate() {
        let at = |role: usize| (role + 4 - step % 4) % 4;
        let mixed = mix(state[at(1)], state[at(2)], state[at(3)]);
        state[at(0)] = state[at(0)]
            .wrapping_add(mixed)
            .wrapping_add(words[word])
            .wrapping_add(constant)
            .rotate_left(shifts[step % 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::half_md4;

    /// Values of `debugfs -R 'dx_hash -h half_md4 -s SEED NAME'`, e2fsprogs 1.47.0.
    #[test]
    fn matches_debugfs() {
        let seed = [0x3322_1100, 0x7766_5544, 0xbbaa_9988, 0xffee_ddcc];
        assert_eq!(half_md4(b"hello", &seed), (0x344c_a36e, 0x2ef1_6de2));
    }
}
