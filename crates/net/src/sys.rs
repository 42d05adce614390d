//! Datagrams with the host's address that they are for, which rustix does not speak of (ip(7), `IP_PKTINFO`; RFC 3542, 6).
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// An address of the host's that somebody sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local {
    address: IpAddr,
    /// The interface's index where the address means something there only; else 0.
    interface: u32,
}

/// Room for one of either kind, aligned as the kernel's headers are.
type Control = [u64; 8];

/// Has the kernel say of each datagram what address it is for.
pub fn tell_local(fd: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, name) = match ipv6 {
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the value lives during the call, and its size is right.
    let result = unsafe {
        let value = (&raw const on).cast();
        let len = size_of_val(&on) as libc::socklen_t;
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value, len)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives a datagram: its length, its sender, and what address it is for where the kernel says so ([`tell_local`]).
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<Local>)> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control: Control = [0; 8];
    // SAFETY: plain numbers and null pointers.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: all that the message points to lives during the call, with the lengths that it says.
    let count = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, 0) };
    let Ok(count) = usize::try_from(count) else {
        return Err(io::Error::last_os_error());
    };
    let mut local = None;
    // SAFETY: the kernel has filled `control` and said how far; the macros stay within it. What is read is of the kind that its
    // header names, and is read unaligned.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&raw const message);
        while !head.is_null() {
            let data = libc::CMSG_DATA(head);
            match ((*head).cmsg_level, (*head).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = local_v4(&info);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = local_v6(&info);
                }
                _ => {}
            }
            head = libc::CMSG_NXTHDR(&raw const message, head);
        }
    }
    Ok((count, sender(&name)?, local))
}

/// Of one to many, `ipi_spec_dst` is the host's own address.
fn local_v4(info: &libc::in_pktinfo) -> Option<Local> {
    let address = Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr));
    (!address.is_unspecified()).then_some(Local {
        address: address.into(),
        interface: 0,
    })
}

fn local_v6(info: &libc::in6_pktinfo) -> Option<Local> {
    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
    let interface = match address.is_unicast_link_local() {
        true => info.ipi6_ifindex,
        false => 0,
    };
    // Nothing is sent from an address of many.
    (!address.is_unspecified() && !address.is_multicast()).then_some(Local {
        address: address.into(),
        interface,
    })
}

fn sender(name: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let pointer = &raw const *name;
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: it is one, says its family, and the storage is larger.
            let name = unsafe { pointer.cast::<libc::sockaddr_in>().read() };
            let address = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
            Ok(SocketAddrV4::new(address, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { pointer.cast::<libc::sockaddr_in6>().read() };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Ok(SocketAddrV6::new(address, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a datagram from that address of the host's.
pub fn send(fd: impl AsFd, payload: &[u8], to: SocketAddr, from: Local) -> io::Result<()> {
    // SAFETY: plain numbers and null pointers.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { zeroed() };
    let pointer = &raw mut name;
    let len = match to {
        SocketAddr::V4(to) => {
            // SAFETY: the storage is larger than an address of each family, and aligned for it.
            let name = unsafe { &mut *pointer.cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = to.port().to_be();
            name.sin_addr.s_addr = to.ip().to_bits().to_be();
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(to) => {
            // SAFETY: as above.
            let name = unsafe { &mut *pointer.cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = to.port().to_be();
            name.sin6_addr.s6_addr = to.ip().octets();
            name.sin6_scope_id = to.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    let mut part = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    let mut control: Control = [0; 8];
    message.msg_name = pointer.cast();
    message.msg_namelen = len as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `control` has room for either, and the header is at its start; the payload is only read.
    let sent = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        let data = libc::CMSG_DATA(head);
        let len = match from.address {
            IpAddr::V4(address) => {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = address.to_bits().to_be();
                (*head).cmsg_level = libc::IPPROTO_IP;
                (*head).cmsg_type = libc::IP_PKTINFO;
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
                size_of_val(&info)
            }
            IpAddr::V6(address) => {
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = address.octets();
                info.ipi6_ifindex = from.interface;
                (*head).cmsg_level = libc::IPPROTO_IPV6;
                (*head).cmsg_type = libc::IPV6_PKTINFO;
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
                size_of_val(&info)
            }
        };
        (*head).cmsg_len = libc::CMSG_LEN(len as u32) as _;
        message.msg_controllen = libc::CMSG_SPACE(len as u32) as _;
        let fd = fd.as_fd().as_raw_fd();
        libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL)
    };
    match sent {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
