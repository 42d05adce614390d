//! Address ranges, `10.0.0.0/8` or `fd00::/8` (RFC 4632, RFC 4291), as lists of exceptions name them.

use std::net::IpAddr;

/// An address, or all that begin as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    /// Leading bits that count.
    prefix: u8,
}

impl Network {
    /// An address alone, or with `/` and the number of bits that count.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(all), |prefix| prefix.parse().ok())?;
        (prefix <= all).then_some(Self { address, prefix })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
            IpAddr::V6(address) => (address.to_bits(), false),
        };
        let ((own, own_v4), (other, other_v4)) = (bits(self.address), bits(address));
        // A shift by all 128 bits is none at all.
        let differing = (own ^ other).checked_shr(128 - u32::from(self.prefix));
        own_v4 == other_v4 && differing.unwrap_or(0) == 0
    }
}

/// The address that a host is, brackets or not; `None` for a name.
pub(crate) fn address(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_begins_alike() {
        let check = |range: &str, host: &str, expect: bool| {
            let range = Network::parse(range).unwrap();
            assert_eq!(
                range.contains(address(host).unwrap()),
                expect,
                "{range:?} {host}"
            );
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.4", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("fd00::/8", "[fdff::1]", true);
        check("::/0", "fe80::1", true);
        check("::1", "::2", false);
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/8", "1.2.3.4/"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
