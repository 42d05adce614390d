//! What a network is: addresses, and what may be reached outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::allow::Rule;
use crate::wire::{Mac, ipv6};

/// A network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gateway's address, one of the subnet's.
    pub gateway: Ipv4Addr,
    /// Bits of the subnet, 8 to 30.
    pub prefix: u8,
    /// The gateway's address of IPv6 and the bits of that subnet, 8 to 96; absent: there is no IPv6 beyond the link.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// The gateway's Ethernet address.
    pub mac: Mac,
    /// Bytes of the largest IP packet: 1280 to 65535.
    pub mtu: u16,
    /// Nothing outside of the subnet can be reached.
    pub internal: bool,
    /// What can be reached outside; empty: everything.
    pub allow: Vec<Rule>,
    /// Random, so that nobody guesses sequence numbers.
    pub seed: [u8; 16],
}

impl Config {
    /// The subnet's mask.
    pub fn mask(&self) -> Ipv4Addr {
        let bits = u32::MAX.checked_shl(32 - u32::from(self.prefix));
        Ipv4Addr::from_bits(bits.unwrap_or(0))
    }

    /// Whether an address is one of the subnets'.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                (address.to_bits() ^ self.gateway.to_bits()) & self.mask().to_bits() == 0
            }
            IpAddr::V6(address) => self.ipv6.is_some_and(|(gateway, prefix)| {
                (address.to_bits() ^ gateway.to_bits()) & ipv6::mask(prefix) == 0
            }),
        }
    }

    /// The address of IPv6 that belongs to one of IPv4: its bits are the last ones of it, so that who has one has the other.
    pub fn twin(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let (gateway, prefix) = self.ipv6?;
        let network = ipv6::network(gateway, prefix);
        Some(Ipv6Addr::from_bits(
            network.to_bits() | u128::from(address.to_bits()),
        ))
    }

    /// Whether an address is the gateway's own.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway,
            IpAddr::V6(address) => {
                address == ipv6::link_local(self.mac)
                    || self.ipv6.is_some_and(|(gateway, _)| gateway == address)
            }
        }
    }

    /// The gateway's address of the version that another address has.
    pub(crate) fn gateway_for(&self, other: IpAddr) -> IpAddr {
        match (other, self.ipv6) {
            (IpAddr::V6(_), Some((gateway, _))) => gateway.into(),
            (IpAddr::V6(_), None) => ipv6::link_local(self.mac).into(),
            (IpAddr::V4(_), _) => self.gateway.into(),
        }
    }

    /// The subnet's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.gateway.to_bits() | !self.mask().to_bits())
    }
}
