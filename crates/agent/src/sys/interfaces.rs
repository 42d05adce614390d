//! Network interfaces, by the calls of netdevice(7) and ipv6(7): one small struct each.

use std::ffi::{c_char, c_int};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::check;

/// Brings the network namespace's `lo` up.
pub(crate) fn loopback_up() -> io::Result<()> {
    Interfaces::get()?.up("lo")
}

/// Network interfaces, as netdevice(7) has them.
pub(crate) struct Interfaces(OwnedFd);

impl Interfaces {
    /// Of the network namespace that this process is in: one for its life, because closing a socket is code that nothing else needs
    /// on the way to the first byte.
    pub(crate) fn get() -> io::Result<&'static Interfaces> {
        static ONE: OnceLock<Interfaces> = OnceLock::new();
        match ONE.get() {
            Some(one) => Ok(one),
            None => {
                let new = Interfaces::open(libc::AF_INET)?;
                Ok(ONE.get_or_init(|| new))
            }
        }
    }

    /// For the calls of IPv6.
    pub(crate) fn open_ipv6() -> io::Result<Interfaces> {
        Interfaces::open(libc::AF_INET6)
    }

    fn open(family: c_int) -> io::Result<Interfaces> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; a returned descriptor is new and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?) };
        Ok(Interfaces(fd))
    }

    fn request(name: &str) -> libc::ifreq {
        // SAFETY: ifreq is integers, bytes and a pointer, for which all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        let room = libc::IFNAMSIZ - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
            *to = from as c_char;
        }
        request
    }

    fn call(&self, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the calls of this type read or write one ifreq, which lives for the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), call, &raw mut *request) })?;
        Ok(())
    }

    /// Its Ethernet address.
    pub(crate) fn mac(&self, name: &str) -> io::Result<[u8; 6]> {
        let mut request = Self::request(name);
        self.call(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: the call has written a sockaddr.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(mac)
    }

    /// Its number.
    pub(crate) fn index(&self, name: &str) -> io::Result<c_int> {
        let mut request = Self::request(name);
        self.call(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: the call has written the number.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Gives it a further address, of IPv6: `self` is of [`Interfaces::open_ipv6`].
    pub(crate) fn add_address6(
        &self,
        index: c_int,
        address: Ipv6Addr,
        prefix: u32,
    ) -> io::Result<()> {
        let request = libc::in6_ifreq {
            ifr6_addr: in6_address(address),
            ifr6_prefixlen: prefix,
            ifr6_ifindex: index,
        };
        // SAFETY: on a socket of AF_INET6 the call reads one in6_ifreq, which lives for the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCSIFADDR, &raw const request) })?;
        Ok(())
    }

    /// Sends everything of IPv6 that has no way of its own to `gateway`: `self` is of [`Interfaces::open_ipv6`].
    pub(crate) fn add_default_route6(&self, index: c_int, gateway: Ipv6Addr) -> io::Result<()> {
        self.change_default_route6(libc::SIOCADDRT, index, gateway)
    }

    /// Takes that back.
    pub(crate) fn remove_default_route6(&self, index: c_int, gateway: Ipv6Addr) -> io::Result<()> {
        self.change_default_route6(libc::SIOCDELRT, index, gateway)
    }

    fn change_default_route6(
        &self,
        call: libc::Ioctl,
        index: c_int,
        gateway: Ipv6Addr,
    ) -> io::Result<()> {
        /// What the kernel's own routes have.
        const METRIC: u32 = 1024;
        let route = Route6 {
            destination: in6_address(Ipv6Addr::UNSPECIFIED),
            source: in6_address(Ipv6Addr::UNSPECIFIED),
            gateway: in6_address(gateway),
            kind: 0,
            destination_len: 0,
            source_len: 0,
            metric: METRIC,
            info: 0,
            flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
            index,
        };
        // SAFETY: on a socket of AF_INET6 both calls read one such structure, which lives for the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), call, &raw const route) })?;
        Ok(())
    }

    /// Gives it an address and its subnet's mask.
    pub(crate) fn set_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        mask: Ipv4Addr,
    ) -> io::Result<()> {
        let mut request = Self::request(name);
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.call(libc::SIOCSIFADDR, &mut request)?;
        request.ifr_ifru.ifru_netmask = socket_address(mask);
        self.call(libc::SIOCSIFNETMASK, &mut request)
    }

    /// Makes a TAP device of the next name that is free, which goes with the descriptor: a read is a frame, and a write. Neither
    /// blocks.
    pub(crate) fn make_tap() -> io::Result<(OwnedFd, String)> {
        /// `TUNSETIFF` of `linux/if_tun.h`: takes an ifreq, whatever its number says.
        const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        let mut request = Self::request("eth%d");
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the call reads and writes one ifreq, which lives for the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        let name = request.ifr_name.iter().map(|byte| *byte as u8);
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        Ok((fd, String::from_utf8_lossy(&name).into_owned()))
    }

    /// Gives it an Ethernet address.
    pub(crate) fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let mut request = Self::request(name);
        // SAFETY: sockaddr is integers, for which all zeros is a value.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        self.call(libc::SIOCSIFHWADDR, &mut request)
    }

    /// Bytes of its largest packet.
    pub(crate) fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut request = Self::request(name);
        request.ifr_ifru.ifru_mtu = c_int::try_from(mtu).unwrap_or(c_int::MAX);
        self.call(libc::SIOCSIFMTU, &mut request)
    }

    /// Brings it up.
    pub(crate) fn up(&self, name: &str) -> io::Result<()> {
        let mut request = Self::request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.call(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Sends everything that has no way of its own to `gateway`.
    pub(crate) fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        self.change_default_route(libc::SIOCADDRT, gateway)
    }

    /// Takes that back.
    pub(crate) fn remove_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        self.change_default_route(libc::SIOCDELRT, gateway)
    }

    fn change_default_route(&self, call: libc::Ioctl, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: rtentry is integers and a pointer, for which all zeros is a value.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: both calls read one rtentry, whose device pointer is null; it lives for the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), call, &raw const route) })?;
        Ok(())
    }
}

/// `struct in6_rtmsg` of `linux/ipv6_route.h`; libc's has no fields that anybody could fill in.
#[repr(C)]
struct Route6 {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_len: u16,
    source_len: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: c_int,
}

fn in6_address(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: address.octets(),
    }
}

/// A `sockaddr_in` in the shape of a `sockaddr`: port, then the address in network order.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: sockaddr is integers, for which all zeros is a value.
    let mut socket: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in socket.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = from as c_char;
    }
    socket
}
