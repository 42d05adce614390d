//! The command line, which only supervisors type. The listening socket is standard input, the network's lock is
//! standard output.

use std::net::Ipv4Addr;

use netstack::{Config, Mac};

/// How it is typed.
pub const USAGE: &str = "usage: gourd-net --gateway ADDRESS --prefix BITS --mtu BYTES [--internal]  \
     (standard input: a listening SOCK_SEQPACKET socket, output: the network's lock)";

/// The gateway's Ethernet address: locally administered, and the same on every network, so that a guest may keep it.
const GATEWAY_MAC: Mac = Mac([0x02, b'g', b'o', b'u', b'r', b'd']);

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Config, String> {
    let (mut gateway, mut prefix, mut mtu, mut internal) = (None, None, None, false);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let wrong = |value: &str| format!("{word} can't be {value:?}");
        match word.as_str() {
            "--internal" => internal = true,
            "--gateway" => {
                let value = value()?;
                gateway = Some(value.parse::<Ipv4Addr>().map_err(|_| wrong(&value))?);
            }
            "--prefix" => {
                let value = value()?;
                let bits = value.parse().ok().filter(|bits| (8..=30).contains(bits));
                prefix = Some(bits.ok_or_else(|| wrong(&value))?);
            }
            "--mtu" => {
                let value = value()?;
                let bytes = value.parse().ok().filter(|bytes| *bytes >= 1280);
                mtu = Some(bytes.ok_or_else(|| wrong(&value))?);
            }
            _ => return Err(format!("unknown option {word:?}")),
        }
    }
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| format!("no random numbers: {errno}"))?;
    Ok(Config {
        gateway: gateway.ok_or("--gateway is missing")?,
        prefix: prefix.ok_or("--prefix is missing")?,
        mac: GATEWAY_MAC,
        mtu: mtu.ok_or("--mtu is missing")?,
        internal,
        seed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<(), &str>) {
        let words = line.split_whitespace().map(str::to_owned);
        let parsed = parse(words).map(|_| ());
        assert_eq!(parsed, expect.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn words() {
        check(
            "--gateway 10.0.0.1 --prefix 24 --mtu 1500 --internal",
            Ok(()),
        );
        check("--gateway 10.0.0.1 --prefix 24", Err("--mtu is missing"));
        check("--prefix 31", Err("--prefix can't be \"31\""));
        check("--mtu 600", Err("--mtu can't be \"600\""));
        check("--mtu", Err("--mtu needs a value"));
        check("--fast", Err("unknown option \"--fast\""));
    }
}
