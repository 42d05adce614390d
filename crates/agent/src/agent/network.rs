//! The VM's network devices: the host says what each is to have, so that nobody waits for DHCP.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use proto::agent::Network;
use rustix::io::Errno;

use crate::failure::{Failed, Step};
use crate::sys::Interfaces;

/// Devices that are looked at: eth0 and so on, as a kernel names them that nobody has told otherwise.
const DEVICES: usize = 16;

/// Gives each device its address, the first gateway the default route.
pub(super) fn set_up(networks: &[Network]) -> Result<(), Failed> {
    if networks.is_empty() {
        return Ok(());
    }
    let interfaces = Interfaces::get().step("open", "a socket for interfaces")?;
    for network in networks {
        let name = find(interfaces, &network.mac)?;
        prepare(interfaces, &name, network)?;
    }
    Ways::default().turn_into(interfaces, &Ways::of(networks)?)
}

/// Gives a device what it is to have, and brings it up.
pub(super) fn prepare(
    interfaces: &Interfaces,
    name: &str,
    network: &Network,
) -> Result<(), Failed> {
    let address: Ipv4Addr = parse("address", &network.address)?;
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(network.prefix));
    let mask = Ipv4Addr::from_bits(mask.unwrap_or(0));
    if network.mtu != 0 {
        interfaces
            .set_mtu(name, network.mtu)
            .step("set the MTU of", name)?;
    }
    interfaces
        .set_address(name, address, mask)
        .step("give an address to", name)?;
    // Before it comes up, when the kernel gives it an address of its own.
    if network.address6.is_empty() {
        without_ipv6(name).step("switch off IPv6 of", name)?;
    } else {
        at_once(name).step("switch off address detection of", name)?;
    }
    interfaces.up(name).step("bring up", name)?;
    if network.address6.is_empty() {
        return Ok(());
    }
    let address: Ipv6Addr = parse("address", &network.address6)?;
    let sockets = Interfaces::open_ipv6().step("open", "a socket for interfaces of IPv6")?;
    let index = interfaces.index(name).step("look at", name)?;
    sockets
        .add_address6(index, address, network.prefix6)
        .step("give an address to", name)
}

/// The default routes: the gateway of each family, and for IPv6 the device that it is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<(Vec<u8>, Ipv6Addr)>,
}

impl Ways {
    /// The first gateway of each family.
    pub(super) fn of(networks: &[Network]) -> Result<Ways, Failed> {
        let mut ways = Ways::default();
        for network in networks {
            if !network.gateway.is_empty() && ways.ipv4.is_none() {
                ways.ipv4 = Some(parse("gateway", &network.gateway)?);
            }
            if !network.gateway6.is_empty() && ways.ipv6.is_none() {
                let gateway = parse("gateway", &network.gateway6)?;
                ways.ipv6 = Some((network.mac.to_vec(), gateway));
            }
        }
        Ok(ways)
    }

    /// Changes the routes from these to `other`. Those of a device that is gone went with it, and what the container has done to
    /// them itself is no failure.
    pub(super) fn turn_into(&self, interfaces: &Interfaces, other: &Ways) -> Result<(), Failed> {
        if self.ipv4 != other.ipv4 {
            if let Some(gateway) = self.ipv4 {
                let _ = interfaces.remove_default_route(gateway);
            }
            if let Some(gateway) = other.ipv4 {
                unless_there(interfaces.add_default_route(gateway))
                    .step("set the default route to", gateway)?;
            }
        }
        if self.ipv6 == other.ipv6 {
            return Ok(());
        }
        let sockets = Interfaces::open_ipv6().step("open", "a socket for interfaces of IPv6")?;
        let index = |mac: &[u8]| {
            let name = find(interfaces, mac)?;
            interfaces.index(&name).step("look at", &name)
        };
        if let Some((mac, gateway)) = &self.ipv6
            && let Ok(index) = index(mac)
        {
            let _ = sockets.remove_default_route6(index, *gateway);
        }
        if let Some((mac, gateway)) = &other.ipv6 {
            unless_there(sockets.add_default_route6(index(mac)?, *gateway))
                .step("set the default route to", gateway)?;
        }
        Ok(())
    }
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// An address can be used as soon as it is there: nobody else has it (the network sees to that), and a program that starts at once
/// must not find it tentative for a second. Routers need not say anything: what they would say is set here.
fn at_once(name: &str) -> io::Result<()> {
    let conf = "/proc/sys/net/ipv6/conf";
    // Both must be off (`addrconf_dad_begin` in net/ipv6/addrconf.c).
    fs::write(format!("{conf}/all/accept_dad"), "0")?;
    fs::write(format!("{conf}/{name}/accept_dad"), "0")?;
    fs::write(format!("{conf}/{name}/accept_ra"), "0")
}

/// As Docker has it where the network has no IPv6: no address of the link, and nobody asked for routers.
fn without_ipv6(name: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel that has none at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Failed> {
    text.parse()
        .map_err(|_| Failed::invalid(&format!("read the {what}"), text, "not an address"))
}

/// The device with this Ethernet address.
pub(super) fn find(interfaces: &Interfaces, mac: &[u8]) -> Result<String, Failed> {
    for index in 0..DEVICES {
        let name = format!("eth{index}");
        match interfaces.mac(&name) {
            Ok(found) if found == mac => return Ok(name),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(error) => return Err(Failed::os("look at", &name, error)),
        }
    }
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let message = "no such device: the guest's kernel has no driver for virtio-net";
    Err(Failed::invalid(
        "find the network device",
        mac.join(":"),
        message,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_addresses() {
        let fine: Result<Ipv6Addr, Failed> = parse("address", "fd00::2");
        assert_eq!(fine.unwrap(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        let wrong: Result<Ipv4Addr, Failed> = parse("gateway", "fd00::2");
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("fd00::2"), "{wrong}");
    }

    #[test]
    fn the_first_gateway_of_each_family_leads_out() {
        let network = |mac: u8, gateway: &str, gateway6: &str| Network {
            mac: vec![mac; 6].into(),
            gateway: gateway.to_owned(),
            gateway6: gateway6.to_owned(),
            ..Network::default()
        };
        let all = [
            network(1, "", ""),
            network(2, "10.1.0.1", ""),
            network(3, "10.2.0.1", "fd00::1"),
        ];
        let expect = Ways {
            ipv4: Some(Ipv4Addr::new(10, 1, 0, 1)),
            ipv6: Some((vec![3; 6], "fd00::1".parse().unwrap())),
        };
        assert_eq!(Ways::of(&all).unwrap(), expect);
        assert!(Ways::of(&[network(1, "x", "")]).is_err());
    }

    /// The machine that runs this has `lo` for sure, and no device with an address of all ones.
    #[test]
    fn a_device_that_is_not_there_is_named() {
        set_up(&[]).unwrap();
        let network = Network {
            mac: vec![0xff; 6].into(),
            ..Network::default()
        };
        let failed = set_up(&[network]).unwrap_err().to_string();
        assert!(failed.contains("ff:ff:ff:ff:ff:ff"), "{failed}");
        assert_eq!(Interfaces::get().unwrap().mac("lo").unwrap(), [0; 6]);
    }
}
