//! `networks/<name>/`: `lock`, `network.json`, `sock`, `net.log`.
//!
//! The lock is held by the network's process (`gourd-net`) while it lives, by whoever starts it until it has it, and by whoever removes the
//! network. `sock` is that process's socket; a dead one's stays until the next one takes its place. It is reached through
//! `/proc/self/fd`, so that no path is too long for `sun_path`.
//!
//! The network `default` need not be made: it is there when it is first looked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::{self, Durability};
use crate::lock::{self, LOCK, Lock, Mode};
use crate::{Root, json};

/// The version of `network.json` that this build writes.
pub const SCHEMA: u32 = 1;

/// The network that containers join when nobody says otherwise.
pub const DEFAULT: &str = "default";

/// The names that mean something else.
const RESERVED: [&str; 5] = ["none", "host", "bridge", "container", LOCK];

/// The second byte of the subnet of [`DEFAULT`], and those that others get: 10.219.0.0/16 and up.
const FIRST_SUBNET: u8 = 219;

/// Bits of a subnet that nobody asked for otherwise.
const PREFIX: u8 = 16;

/// What can go wrong with networks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None is called so.
    #[error("no such network: {0}")]
    NotFound(String),
    /// There is one already.
    #[error("there is a network {0} already")]
    Exists(String),
    /// Not a name.
    #[error(
        "{0:?} is not a network's name: it begins with a letter or digit, goes on with these or any of _ . -, has 2 to 64 of \
         them, and is none of none, host, bridge, container, lock"
    )]
    InvalidName(String),
    /// Containers are on it.
    #[error("the network {0} is in use by containers that run")]
    InUse(String),
    /// Not a subnet.
    #[error("{text:?} is not a subnet: {reason}")]
    InvalidSubnet {
        /// As it was given.
        text: String,
        /// What would be right.
        reason: String,
    },
    /// Two networks may not share addresses.
    #[error("the subnet {subnet} overlaps with that of the network {other}, {theirs}")]
    Overlaps {
        /// What was asked for.
        subnet: Subnet,
        /// Whose it is.
        other: String,
        /// Which that has.
        theirs: Subnet,
    },
    /// All that are given out by themselves are taken.
    #[error("there is no subnet left to give out")]
    NoSubnet,
    /// A file that is corrupt, newer, or cannot be read or written.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// Locking failed.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
}

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

/// `network.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Unique among networks.
    pub name: String,
    /// 64 hexadecimal digits, for Docker's shape of things.
    pub id: String,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// Its addresses.
    pub subnet: Subnet,
    /// Nothing outside can be reached.
    #[serde(default)]
    pub internal: bool,
    /// The user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What to make a network of.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits that nobody has.
    pub id: String,
    /// One that is free when absent.
    pub subnet: Option<Subnet>,
    /// Nothing outside can be reached.
    pub internal: bool,
    /// The user's.
    pub labels: BTreeMap<String, String>,
}

/// A network's directory, and what its spec says.
#[derive(Debug, Clone)]
pub struct Network {
    dir: PathBuf,
    spec: Spec,
}

/// Whether a network may be called so.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if first
        && (2..=64).contains(&name.len())
        && name.bytes().all(fine)
        && !RESERVED.contains(&name)
    {
        Ok(())
    } else {
        Err(Error::InvalidName(name.to_owned()))
    }
}

/// The network of this name.
///
/// # Errors
/// [`Error::NotFound`], [`Error::InvalidName`], or a file that cannot be read.
pub fn open(root: &Root, name: &str) -> Result<Network, Error> {
    check_name(name)?;
    let dir = root.networks().join(name);
    match json::read(&dir.join("network.json"), SCHEMA) {
        Ok(spec) => Ok(Network { dir, spec }),
        Err(error) if error.is_not_found() && name == DEFAULT => make_default(root),
        Err(error) if error.is_not_found() => Err(Error::NotFound(name.to_owned())),
        Err(error) => Err(error.into()),
    }
}

fn make_default(root: &Root) -> Result<Network, Error> {
    let id = crate::root::hex(&<sha2::Sha256 as sha2::Digest>::digest(DEFAULT.as_bytes()));
    let request = Request {
        name: DEFAULT.to_owned(),
        id,
        ..Request::default()
    };
    match create(root, request) {
        // Somebody else was as quick.
        Err(Error::Exists(_)) => {
            let dir = root.networks().join(DEFAULT);
            let spec = json::read(&dir.join("network.json"), SCHEMA)?;
            Ok(Network { dir, spec })
        }
        other => other,
    }
}

/// Makes a network.
///
/// # Errors
/// [`Error::Exists`], [`Error::InvalidName`], [`Error::Overlaps`], [`Error::NoSubnet`], or what failed; there is no network then.
pub fn create(root: &Root, request: Request) -> Result<Network, Error> {
    check_name(&request.name)?;
    let networks = root.networks();
    file::make_dir(&networks)?;
    let _lock = Lock::acquire(&networks, Mode::Exclusive)?;
    let dir = networks.join(&request.name);
    if dir.join("network.json").exists() {
        return Err(Error::Exists(request.name));
    }
    let taken = list(root)?;
    let subnet = match request.subnet {
        Some(subnet) => {
            let other = taken
                .iter()
                .find(|other| other.spec.subnet.overlaps(subnet));
            if let Some(other) = other {
                return Err(Error::Overlaps {
                    subnet,
                    other: other.spec.name.clone(),
                    theirs: other.spec.subnet,
                });
            }
            subnet
        }
        None => free_subnet(&request.name, &taken).ok_or(Error::NoSubnet)?,
    };
    let spec = Spec {
        schema: SCHEMA,
        name: request.name,
        id: request.id,
        created_ns: crate::now_ns(),
        subnet,
        internal: request.internal,
        labels: request.labels,
    };
    file::make_dir(&dir)?;
    // What somebody wrote who died at it.
    file::sweep(&dir)?;
    json::write(&dir.join("network.json"), &spec, Durability::Synced)?;
    Ok(Network { dir, spec })
}

fn free_subnet(name: &str, taken: &[Network]) -> Option<Subnet> {
    // The first one waits for `default`.
    let first = FIRST_SUBNET + u8::from(name != DEFAULT);
    let all = (first..=u8::MAX).map(|byte| Subnet {
        address: Ipv4Addr::new(10, byte, 0, 0),
        prefix: PREFIX,
    });
    let free = |subnet: &Subnet| {
        !taken
            .iter()
            .any(|other| other.spec.subnet.overlaps(*subnet))
    };
    all.into_iter().find(free)
}

/// All networks, by name; `default` only when it was used.
///
/// # Errors
/// The directory, or one of them, cannot be read.
pub fn list(root: &Root) -> Result<Vec<Network>, Error> {
    let mut networks = Vec::new();
    for name in file::names(&root.networks())? {
        let dir = root.networks().join(&name);
        match json::read(&dir.join("network.json"), SCHEMA) {
            Ok(spec) => networks.push(Network { dir, spec }),
            // The lock of the directory, or one that is just being removed.
            Err(json::Error::File(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(networks)
}

impl Network {
    /// `network.json`.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// `networks/<name>`
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its process writes what it has to say.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("net.log")
    }

    /// Whether its process lives, as far as the lock tells.
    ///
    /// # Errors
    /// The lock cannot be looked at.
    pub fn is_used(&self) -> Result<bool, Error> {
        Ok(self.try_lock()?.is_none())
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the network was removed.
    pub fn try_lock(&self) -> Result<Option<Lock>, Error> {
        Lock::try_acquire(&self.dir, Mode::Exclusive).map_err(|error| self.gone(error))
    }

    /// Waits for the lock: until its process is gone.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the network was removed.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::acquire(&self.dir, Mode::Exclusive).map_err(|error| self.gone(error))
    }

    fn gone(&self, error: lock::Error) -> Error {
        match error {
            lock::Error::Gone(_) => Error::NotFound(self.spec.name.clone()),
            other @ lock::Error::File(_) => other.into(),
        }
    }

    /// A path of the socket that is short enough, good while the file lives.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn socket(&self) -> Result<(File, PathBuf), Error> {
        let dir = File::open(&self.dir).map_err(file::Error::at("open", &self.dir))?;
        let path = format!("/proc/self/fd/{}/sock", dir.as_raw_fd());
        Ok((dir, path.into()))
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Error::InUse`] when containers that run are on it.
    pub fn remove(self, root: &Root) -> Result<(), Error> {
        let networks = root.networks();
        let _all = Lock::acquire(&networks, Mode::Exclusive)?;
        let Some(_lock) = self.try_lock()? else {
            return Err(Error::InUse(self.spec.name));
        };
        // First what makes it one, then the rest; the lock last.
        file::remove(&self.dir.join("network.json"))?;
        for name in ["sock", "net.log", LOCK] {
            file::remove(&self.dir.join(name))?;
        }
        file::remove_tree(&self.dir)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn request(name: &str, subnet: Option<&str>) -> Request {
        Request {
            name: name.to_owned(),
            subnet: subnet.map(|text| text.parse().unwrap()),
            ..Request::default()
        }
    }

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
        let (a, b): (Subnet, Subnet) = (
            "10.1.0.0/16".parse().unwrap(),
            "10.1.3.0/24".parse().unwrap(),
        );
        assert!(a.overlaps(b) && b.overlaps(a));
        assert!(!a.overlaps("10.2.0.0/16".parse().unwrap()));
    }

    #[test]
    fn networks_come_and_go() {
        let (_dir, root) = root();
        let default = open(&root, DEFAULT).unwrap();
        assert_eq!(default.spec().subnet.to_string(), "10.219.0.0/16");
        let one = create(&root, request("one", None)).unwrap();
        assert_eq!(one.spec().subnet.to_string(), "10.220.0.0/16");
        assert!(matches!(
            create(&root, request("one", None)),
            Err(Error::Exists(_))
        ));
        let overlapping = create(&root, request("two", Some("10.220.4.0/24")));
        assert!(matches!(overlapping, Err(Error::Overlaps { .. })));
        let names: Vec<String> = list(&root)
            .unwrap()
            .iter()
            .map(|n| n.spec().name.clone())
            .collect();
        assert_eq!(names, ["default", "one"]);
        let held = one.lock().unwrap();
        assert!(matches!(one.clone().remove(&root), Err(Error::InUse(_))));
        drop(held);
        one.clone().remove(&root).unwrap();
        assert!(matches!(open(&root, "one"), Err(Error::NotFound(_))));
        assert!(matches!(one.lock(), Err(Error::NotFound(_))));
        for name in ["none", "a/b", ".a", "x", ""] {
            assert!(
                matches!(open(&root, name), Err(Error::InvalidName(_))),
                "{name}"
            );
        }
    }
}
