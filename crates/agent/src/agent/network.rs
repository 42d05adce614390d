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
    let mut routed = false;
    for network in networks {
        let name = find(interfaces, &network.mac)?;
        let address: Ipv4Addr = parse("address", &network.address)?;
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(network.prefix));
        let mask = Ipv4Addr::from_bits(mask.unwrap_or(0));
        if network.mtu != 0 {
            interfaces
                .set_mtu(&name, network.mtu)
                .step("set the MTU of", &name)?;
        }
        interfaces
            .set_address(&name, address, mask)
            .step("give an address to", &name)?;
        // Before it comes up, when the kernel gives it an address of its own.
        if network.address6.is_empty() {
            without_ipv6(&name).step("switch off IPv6 of", &name)?;
        } else {
            at_once(&name).step("switch off address detection of", &name)?;
        }
        interfaces.up(&name).step("bring up", &name)?;
        set_up_ipv6(interfaces, &name, network)?;
        if !network.gateway.is_empty() && !routed {
            let gateway: Ipv4Addr = parse("gateway", &network.gateway)?;
            interfaces
                .set_default_route(gateway)
                .step("set the default route to", gateway)?;
            routed = true;
        }
    }
    Ok(())
}

/// The same for IPv6: its address, and the way out.
fn set_up_ipv6(interfaces: &Interfaces, name: &str, network: &Network) -> Result<(), Failed> {
    if network.address6.is_empty() {
        return Ok(());
    }
    let address: Ipv6Addr = parse("address", &network.address6)?;
    let sockets = Interfaces::open_ipv6().step("open", "a socket for interfaces of IPv6")?;
    let index = interfaces.index(name).step("look at", name)?;
    sockets
        .add_address6(index, address, network.prefix6)
        .step("give an address to", name)?;
    if !network.gateway6.is_empty() {
        let gateway: Ipv6Addr = parse("gateway", &network.gateway6)?;
        sockets
            .add_default_route6(index, gateway)
            .step("set the default route to", gateway)?;
    }
    Ok(())
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
fn find(interfaces: &Interfaces, mac: &[u8]) -> Result<String, Failed> {
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
