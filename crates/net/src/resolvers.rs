//! The host's resolvers, as resolv.conf(5) has them now.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The port of DNS.
pub const PORT: u16 = 53;

/// glibc's MAXNS.
const MOST: usize = 3;

/// What stat says about a file that stays the same.
type Stamp = (u64, i64, i64, u64);

/// The host's resolvers.
#[derive(Debug)]
pub struct Resolvers {
    path: PathBuf,
    stamp: Option<Stamp>,
    known: Vec<SocketAddr>,
    /// It was said that this one can't be read.
    told: Option<Stamp>,
}

impl Resolvers {
    /// Those of a file, mostly `/etc/resolv.conf`.
    pub fn new(path: PathBuf) -> Resolvers {
        Resolvers {
            path,
            stamp: None,
            known: parse(""),
            told: None,
        }
    }

    /// Whom to ask, in this order. The file is read again when it is another one.
    pub fn now(&mut self) -> &[SocketAddr] {
        let stamp = std::fs::metadata(&self.path).ok().map(|found| {
            let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
            (found.ino(), seconds, nanoseconds, found.size())
        });
        // One that is gone for a moment, because it is being replaced, leaves those that were known.
        if stamp.is_none() || stamp == self.stamp {
            return &self.known;
        }
        match std::fs::read(&self.path) {
            Ok(text) => {
                self.known = parse(&String::from_utf8_lossy(&text));
                self.stamp = stamp;
            }
            // A link leads to where we may not read: there were other folders when we were confined.
            Err(error) if self.told != stamp => {
                self.told = stamp;
                eprintln!(
                    "gourd-net: {}: {error}: the resolvers that it named before are asked until all containers of the network \
                     have been stopped and started again",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
        &self.known
    }
}

/// The `nameserver` lines. Without any, the C library asks the host itself.
fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let named = words.next() == Some("nameserver");
        // An address with a zone (`fe80::1%eth0`) is of use to nobody who has no number for the zone.
        let address: IpAddr = words.next().filter(|_| named)?.parse().ok()?;
        Some(SocketAddr::new(address, PORT))
    };
    let mut servers: Vec<SocketAddr> = text.lines().filter_map(server).take(MOST).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |text: &str, expect: &[&str]| {
            let found: Vec<String> = parse(text).iter().map(SocketAddr::to_string).collect();
            assert_eq!(found, expect, "{text}");
        };
        check("", &["127.0.0.1:53"]);
        check(
            "# nameserver 9.9.9.9\nsearch lan\n nameserver 192.0.2.1 # x\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\n",
            &["192.0.2.1:53", "[2001:db8::1]:53"],
        );
        check(
            "nameserver 1.1.1.1\n".repeat(5).as_str(),
            &["1.1.1.1:53"; 3],
        );
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut resolvers = Resolvers::new(path.clone());
        assert_eq!(resolvers.now(), parse(""));
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(resolvers.now(), parse("nameserver 192.0.2.1"));
        let new = dir.path().join("new");
        std::fs::write(&new, "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(resolvers.now(), parse("nameserver 192.0.2.2"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(resolvers.now(), parse("nameserver 192.0.2.2"));
    }
}
