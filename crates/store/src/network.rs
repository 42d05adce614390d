//! `networks/<name>/`: `lock`, `network.json`, `sock`, `net.log`.
//!
//! The lock is held by the network's process (`gourd-net`) while it lives, by whoever starts it until it has it, and by whoever removes the
//! network. `sock` is that process's socket; a dead one's stays until the next one takes its place. It is reached through
//! `/proc/self/fd`, so that no path is too long for `sun_path`.
//!
//! The network `default` need not be made: it is there when it is first looked for.

mod allow;
mod subnet;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

pub use allow::{Allow, What};
use serde::{Deserialize, Serialize};
pub use subnet::{Subnet, Subnet6};

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
    /// Not what an allow-list holds.
    #[error("{text:?} can't be allowed: {reason}")]
    InvalidAllow {
        /// As it was given.
        text: String,
        /// What would be right.
        reason: String,
    },
    /// Nothing outside can be reached, and something can.
    #[error("an internal network reaches nothing outside, so that there is nothing to allow")]
    InternalAllows,
    /// Two networks may not share addresses.
    #[error("the subnet {subnet} overlaps with that of the network {other}, {theirs}")]
    Overlaps {
        /// What was asked for.
        subnet: String,
        /// Whose it is.
        other: String,
        /// Which that has.
        theirs: String,
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
    /// Its addresses of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Subnet6>,
    /// Nothing outside can be reached.
    #[serde(default)]
    pub internal: bool,
    /// What can be reached outside; empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
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
    /// It has IPv6.
    pub ipv6: bool,
    /// Its addresses of IPv6, if it has any; one that nobody has when absent.
    pub subnet6: Option<Subnet6>,
    /// Nothing outside can be reached.
    pub internal: bool,
    /// What can be reached outside; empty: everything.
    pub allow: Vec<Allow>,
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
    if request.internal && !request.allow.is_empty() {
        return Err(Error::InternalAllows);
    }
    let taken = list(root)?;
    let subnet = match request.subnet {
        Some(subnet) => {
            let overlaps = |spec: &Spec| spec.subnet.overlaps(subnet).then_some(spec.subnet);
            free(&taken, subnet, overlaps)?;
            subnet
        }
        None => free_subnet(&request.name, &taken).ok_or(Error::NoSubnet)?,
    };
    let subnet6 = match request.subnet6 {
        Some(subnet) => {
            let overlaps = |spec: &Spec| spec.subnet6.filter(|other| other.overlaps(subnet));
            free(&taken, subnet, overlaps)?;
            Some(subnet)
        }
        None => request.ipv6.then(|| Subnet6::of_id(&request.id)),
    };
    let spec = Spec {
        schema: SCHEMA,
        name: request.name,
        id: request.id,
        created_ns: crate::now_ns(),
        subnet,
        subnet6,
        internal: request.internal,
        allow: request.allow,
        labels: request.labels,
    };
    file::make_dir(&dir)?;
    // What somebody wrote who died at it.
    file::sweep(&dir)?;
    json::write(&dir.join("network.json"), &spec, Durability::Synced)?;
    Ok(Network { dir, spec })
}

/// Whether no network has addresses of a subnet; `overlaps` says which of another one's subnets does.
fn free<T: std::fmt::Display>(
    taken: &[Network],
    subnet: T,
    overlaps: impl Fn(&Spec) -> Option<T>,
) -> Result<(), Error> {
    for other in taken {
        if let Some(theirs) = overlaps(&other.spec) {
            return Err(Error::Overlaps {
                subnet: subnet.to_string(),
                other: other.spec.name.clone(),
                theirs: theirs.to_string(),
            });
        }
    }
    Ok(())
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

    /// What its process has written.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn read_log(&self) -> Result<Vec<u8>, Error> {
        let path = self.log();
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => Ok(read.map_err(file::Error::at("read", &path))?),
        }
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
        file::sweep_condemned(&networks)?;
        Ok(file::remove_locked(&self.dir)?)
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
        let six = Request {
            ipv6: true,
            id: "0123456789abcdef".repeat(4),
            ..request("six", None)
        };
        let six = create(&root, six).unwrap();
        let subnet = six.spec().subnet6.unwrap();
        assert_eq!(subnet.to_string(), "fd01:2345:6789:abcd::/64");
        let again = Request {
            subnet6: Some("fd01:2345::/32".parse().unwrap()),
            ..request("again", None)
        };
        let error = create(&root, again).unwrap_err().to_string();
        assert!(
            error.contains("overlaps with that of the network six, fd01:"),
            "{error}"
        );
        let shut = Request {
            internal: true,
            allow: vec!["a.test".parse().unwrap()],
            ..request("shut", None)
        };
        assert!(matches!(create(&root, shut), Err(Error::InternalAllows)));
        six.remove(&root).unwrap();
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
