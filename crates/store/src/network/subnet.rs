//! Subnets in CIDR notation.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Error;

/// Addresses of one network, in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// The first address.
    pub address: Ipv4Addr,
    /// Bits that all have in common.
    pub prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    /// Whether an address belongs to both.
    #[must_use]
    pub fn overlaps(self, other: Subnet) -> bool {
        let mask = self.mask() & other.mask();
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }

    /// The gateway's address: the first that a machine may have.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() + 1)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address.to_bits()
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Subnet, Error> {
        text.parse()
    }
}

impl std::str::FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Subnet, Error> {
        let wrong = |reason: &str| Error::InvalidSubnet {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            let address: Ipv4Addr = address.parse().ok()?;
            Some((address, prefix.parse::<u8>().ok()?))
        });
        let (address, prefix) = parts.ok_or_else(|| wrong("write it as 10.1.2.0/24"))?;
        if !(8..=30).contains(&prefix) {
            return Err(wrong("between 8 and 30 bits are common to its addresses"));
        }
        let subnet = Subnet { address, prefix };
        let first = Ipv4Addr::from_bits(address.to_bits() & subnet.mask());
        if first != address {
            return Err(wrong(&format!("it begins at {first}")));
        }
        let bytes = address.octets();
        if bytes[0] == 0 || bytes[0] == 127 || bytes[0] >= 224 {
            return Err(wrong("these addresses are no machine's own"));
        }
        Ok(subnet)
    }
}

/// Addresses of IPv6 of one network. Each address of IPv4 has its twin in it, so that there are 32 bits at least to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet6 {
    /// The first address.
    pub address: Ipv6Addr,
    /// Bits that all have in common.
    pub prefix: u8,
}

impl Subnet6 {
    fn mask(prefix: u8) -> u128 {
        let bits = u128::MAX.checked_shl(128 - u32::from(prefix.min(128)));
        bits.unwrap_or(0)
    }

    /// The subnet of a network that nobody has chosen one for: unique local addresses (RFC 4193), whose random part is the
    /// network's id.
    pub(super) fn of_id(id: &str) -> Subnet6 {
        let digits = id
            .get(..14)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let bits = (0xfd << 56) | digits.unwrap_or(0);
        Subnet6 {
            address: Ipv6Addr::from_bits(u128::from(bits) << 64),
            prefix: 64,
        }
    }

    /// Whether an address belongs to both.
    #[must_use]
    pub fn overlaps(self, other: Subnet6) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        (self.address.to_bits() ^ other.address.to_bits()) & mask == 0
    }

    /// The address of IPv4 whose twin this is; `None` for what is no twin: prefix, zeros, and the 32 bits.
    #[must_use]
    pub fn twin_of(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        const LOW: u128 = u32::MAX as u128;
        let low = address.to_bits() & LOW;
        let twin = self.address.to_bits() | low == address.to_bits();
        twin.then(|| Ipv4Addr::from_bits(low as u32))
    }

    /// The twin of an address of IPv4.
    #[must_use]
    pub fn twin(self, address: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() | u128::from(address.to_bits()))
    }

    /// The gateway's address: the first that a machine may have.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() + 1)
    }
}

impl std::fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Subnet6> for String {
    fn from(subnet: Subnet6) -> String {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet6 {
    type Error = Error;

    fn try_from(text: String) -> Result<Subnet6, Error> {
        text.parse()
    }
}

impl std::str::FromStr for Subnet6 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Subnet6, Error> {
        let wrong = |reason: &str| Error::InvalidSubnet {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            let address: Ipv6Addr = address.parse().ok()?;
            Some((address, prefix.parse::<u8>().ok()?))
        });
        let (address, prefix) = parts.ok_or_else(|| wrong("write it as fd12:3456:789a::/64"))?;
        if !(8..=96).contains(&prefix) {
            return Err(wrong("between 8 and 96 bits are common to its addresses"));
        }
        let first = Ipv6Addr::from_bits(address.to_bits() & Self::mask(prefix));
        if first != address {
            return Err(wrong(&format!("it begins at {first}")));
        }
        let segments = address.segments();
        // Loopback, addresses of IPv4 in other clothes; link-local ones; several machines'.
        let low = segments[..4].iter().all(|segment| *segment == 0);
        if low || segments[0] & 0xffc0 == 0xfe80 || address.is_multicast() {
            return Err(wrong("these addresses are no machine's own"));
        }
        Ok(Subnet6 { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        let check = |text: &str, expect: &str| {
            let parsed: Result<Subnet, Error> = text.parse();
            let shown = parsed.map_or_else(|error| error.to_string(), |subnet| subnet.to_string());
            assert!(shown.ends_with(expect), "{shown}");
        };
        check("10.1.2.0/24", "10.1.2.0/24");
        check("10.1.2.3/24", "it begins at 10.1.2.0");
        check(
            "10.1.2.0/31",
            "between 8 and 30 bits are common to its addresses",
        );
        check("127.0.0.0/8", "these addresses are no machine's own");
        check("10.1.2.0", "write it as 10.1.2.0/24");
        check("fd00::/64", "write it as 10.1.2.0/24");
        let check = |text: &str, expect: &str| {
            let parsed: Result<Subnet6, Error> = text.parse();
            let shown = parsed.map_or_else(|error| error.to_string(), |subnet| subnet.to_string());
            assert!(shown.ends_with(expect), "{shown}");
        };
        check("fd00:1::/64", "fd00:1::/64");
        check("2001:db8::1/64", "it begins at 2001:db8::");
        check(
            "fd00::/97",
            "between 8 and 96 bits are common to its addresses",
        );
        check("fe80::/64", "these addresses are no machine's own");
        check("::/64", "these addresses are no machine's own");
        check("ff00::/8", "these addresses are no machine's own");
        check("10.0.0.0/8", "write it as fd12:3456:789a::/64");
        let (a, b): (Subnet, Subnet) = (
            "10.1.0.0/16".parse().unwrap(),
            "10.1.3.0/24".parse().unwrap(),
        );
        assert!(a.overlaps(b) && b.overlaps(a));
        assert!(!a.overlaps("10.2.0.0/16".parse().unwrap()));
    }
}
