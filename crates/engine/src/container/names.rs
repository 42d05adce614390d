//! Names for containers that are given none: an adjective and a scientist.

const ADJECTIVES: [&str; 48] = [
    "able", "amber", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "clever",
    "cosy", "crisp", "curious", "daring", "deft", "eager", "early", "fair", "fond", "frank",
    "gentle", "glad", "golden", "hardy", "honest", "keen", "kind", "lively", "lucid", "mellow",
    "merry", "modest", "neat", "nimble", "noble", "patient", "plucky", "proud", "quick", "quiet",
    "ready", "rustic", "serene", "steady", "sunny", "tidy", "vivid", "witty",
];

const SURNAMES: [&str; 48] = [
    "abel",
    "ampere",
    "avogadro",
    "bassi",
    "bernoulli",
    "boole",
    "bose",
    "cannon",
    "cantor",
    "chandra",
    "cori",
    "curie",
    "dalton",
    "darwin",
    "dirac",
    "elion",
    "erdos",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "franklin",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "hamilton",
    "hertz",
    "hilbert",
    "hopper",
    "hypatia",
    "joule",
    "kepler",
    "lamarr",
    "lovelace",
    "meitner",
    "mendel",
    "mirzakhani",
    "nash",
    "noether",
    "planck",
    "ramanujan",
    "raman",
    "somerville",
    "tesla",
    "turing",
    "volta",
    "wu",
];

/// A name made of random bytes. `attempt` counts from 0; later ones carry a digit, so that they don't run out.
pub(super) fn make(random: [u8; 3], attempt: usize) -> String {
    let pick = |list: &[&'static str; 48], byte: u8| list[usize::from(byte) % list.len()];
    let name = format!(
        "{}_{}",
        pick(&ADJECTIVES, random[0]),
        pick(&SURNAMES, random[1])
    );
    if attempt < 3 {
        name
    } else {
        format!("{name}{}", random[2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        for byte in 0..=255 {
            for attempt in [0, 5] {
                let name = make([byte, byte.wrapping_mul(7), byte], attempt);
                store::container::check_name(&name).unwrap();
            }
        }
        assert_eq!(make([0, 0, 9], 0), "able_abel");
        assert_eq!(make([1, 1, 9], 3), "amber_ampere9");
    }
}
