//! The command line, which only supervisors type. The listening socket is standard input, the network's lock is
//! standard output.

use std::net::{IpAddr, Ipv4Addr};

use netstack::{Config, Mac, Rule, What};

/// How it is typed.
pub const USAGE: &str = "usage: gourd-net --gateway ADDRESS --prefix BITS --mtu BYTES [--ipv6 ADDRESS/BITS] [--internal] \
     [--allow name|below|prefix VALUE PORT|any]…  \
     (standard input: a listening SOCK_SEQPACKET socket, output: the network's lock)";

/// The gateway's Ethernet address: locally administered, and the same on every network, so that a guest may keep it.
const GATEWAY_MAC: Mac = Mac([0x02, b'g', b'o', b'u', b'r', b'd']);

/// Reads the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Config, String> {
    let (mut gateway, mut prefix, mut mtu, mut internal) = (None, None, None, false);
    let (mut ipv6, mut allow) = (None, Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let wrong = |value: &str| format!("{word} can't be {value:?}");
        match word.as_str() {
            "--internal" => internal = true,
            "--allow" => {
                let three = [value()?, value()?, value()?];
                allow.push(rule(&three).ok_or_else(|| wrong(&three.join(" ")))?);
            }
            "--ipv6" => {
                let value = value()?;
                let parsed = prefix_of(&value).and_then(|(address, bits)| match address {
                    IpAddr::V6(address) if (8..=96).contains(&bits) => Some((address, bits)),
                    _ => None,
                });
                ipv6 = Some(parsed.ok_or_else(|| wrong(&value))?);
            }
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
        ipv6,
        mac: GATEWAY_MAC,
        mtu: mtu.ok_or("--mtu is missing")?,
        internal,
        allow,
        seed,
    })
}

/// `ADDRESS/BITS`
fn prefix_of(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    Some((address, bits.parse().ok().filter(|bits| *bits <= most)?))
}

/// `name example.org 443`, `below example.org any`, `prefix 192.0.2.0/24 any`
fn rule([kind, value, port]: &[String; 3]) -> Option<Rule> {
    let what = match kind.as_str() {
        "name" => What::Name(value.clone()),
        "below" => What::Below(value.clone()),
        "prefix" => prefix_of(value).map(|(address, bits)| What::Prefix(address, bits))?,
        _ => return None,
    };
    let port = match port.as_str() {
        "any" => None,
        port => Some(port.parse().ok().filter(|port| *port > 0)?),
    };
    Some(Rule { what, port })
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
        check(
            "--gateway 10.0.0.1 --prefix 24 --mtu 1500 --ipv6 fd00::1/64 --allow name a.b 80 --allow below a.b any \
             --allow prefix ::/0 any",
            Ok(()),
        );
        check("--ipv6 fd00::1/97", Err("--ipv6 can't be \"fd00::1/97\""));
        check(
            "--allow prefix 10.0.0.0/33 any",
            Err("--allow can't be \"prefix 10.0.0.0/33 any\""),
        );
        check("--allow name a.b 0", Err("--allow can't be \"name a.b 0\""));
        check("--allow name a.b", Err("--allow needs a value"));
        check("--gateway 10.0.0.1 --prefix 24", Err("--mtu is missing"));
        check("--prefix 31", Err("--prefix can't be \"31\""));
        check("--mtu 600", Err("--mtu can't be \"600\""));
        check("--mtu", Err("--mtu needs a value"));
        check("--fast", Err("unknown option \"--fast\""));
    }
}
