//! The VM's network devices: the host says what each is to have, so that nobody waits for DHCP.

use std::net::Ipv4Addr;

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
    let interfaces = Interfaces::open().step("open", "a socket for interfaces")?;
    let mut routed = false;
    for network in networks {
        let name = find(&interfaces, &network.mac)?;
        let address = parse("address", &network.address)?;
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
        interfaces.up(&name).step("bring up", &name)?;
        if !network.gateway.is_empty() && !routed {
            let gateway = parse("gateway", &network.gateway)?;
            interfaces
                .set_default_route(gateway)
                .step("set the default route to", gateway)?;
            routed = true;
        }
    }
    Ok(())
}

fn parse(what: &str, text: &str) -> Result<Ipv4Addr, Failed> {
    text.parse()
        .map_err(|_| Failed::invalid(&format!("read the {what}"), text, "not an IPv4 address"))
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
        assert_eq!(Interfaces::open().unwrap().mac("lo").unwrap(), [0; 6]);
    }
}
