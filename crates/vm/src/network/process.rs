//! The network's process, found or started.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use hypervisor::confine;
use proto::supervisor::Failure;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use store::Root;
use store::locate::{self, Programs};
use store::network::{Network, What};

use super::MTU;
use crate::{failure, sys};

/// Connections that may wait until `gourd-net` looks.
const BACKLOG: i32 = 128;

/// A connection to the network's process, which is started when there is none. May block, but for moments only.
pub(super) fn connect(root: &Root, name: &str) -> Result<(OwnedFd, Option<Child>), Failure> {
    let step = "start the network";
    let network = store::network::open(root, name)
        .map_err(|error| failure::from_error("join the network", name, &error))?;
    let failed = |error: &dyn std::error::Error| failure::from_error(step, name, error);
    let (dir, path) = network.socket().map_err(|error| failed(&error))?;
    if let Some(socket) = dial(&path).map_err(|error| failed(&error))? {
        return Ok((socket, None));
    }
    // One starts it, the others come after.
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failed(&io::Error::from(error)))?;
    if let Some(socket) = dial(&path).map_err(|error| failed(&error))? {
        return Ok((socket, None));
    }
    // Held by one that does not answer any more, and so for its last moments at most.
    let lock = network.lock().map_err(|error| failed(&error))?;
    let listener = listen(&network.dir().join("sock"), &path).map_err(|error| failed(&error))?;
    let child = start(&network, listener, lock.into_fd())?;
    match dial(&path).map_err(|error| failed(&error))? {
        Some(socket) => Ok((socket, Some(child))),
        None => Err(failure::own(
            step,
            name,
            "it ended at once; its net.log may say why",
        )),
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        flags,
        None,
    )?)
}

/// `None`: nobody listens.
fn dial(path: &Path) -> io::Result<Option<OwnedFd>> {
    let socket = seqpacket()?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// For the lock's holder: what is there is a dead one's.
pub(super) fn listen(real: &Path, short: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(real) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Starts `gourd-net`, confined, with the socket as its standard input and the lock as its output.
fn start(network: &Network, listener: OwnedFd, lock: OwnedFd) -> Result<Child, Failure> {
    let name = &network.spec().name;
    let program = Programs::new(None)
        .find(locate::NET)
        .map_err(|error| failure::from_error("find the network's program", locate::NET, &error))?;
    let failed =
        |error: &dyn std::error::Error| failure::from_error("start the network", name, error);
    let log = log(&network.log()).map_err(|error| failed(&error))?;
    let spec = network.spec();
    let mut command = std::process::Command::new(&program);
    command.env_clear().current_dir("/").process_group(0);
    command
        .arg("--gateway")
        .arg(spec.subnet.gateway().to_string());
    command.arg("--prefix").arg(spec.subnet.prefix.to_string());
    command.arg("--mtu").arg(MTU.to_string());
    command.args(arguments(spec));
    command.stdin(listener).stdout(lock).stderr(log);
    let confinement = confine::for_spawn(&rules(program)).map_err(|error| failed(&error))?;
    sys::spawn_confined(command, confinement).map_err(|error| failed(&error))
}

/// What the network is told beyond its gateway.
fn arguments(spec: &store::network::Spec) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(subnet) = spec.subnet6 {
        words.extend([
            "--ipv6".to_owned(),
            format!("{}/{}", subnet.gateway(), subnet.prefix),
        ]);
    }
    if spec.internal {
        words.push("--internal".to_owned());
    }
    for allow in &spec.allow {
        let (kind, value) = match &allow.what {
            What::Name(name) => ("name", name.clone()),
            What::Below(name) => ("below", name.clone()),
            What::Prefix(address, bits) => ("prefix", format!("{address}/{bits}")),
        };
        let port = allow.port.map_or("any".to_owned(), |port| port.to_string());
        words.extend(["--allow".to_owned(), kind.to_owned(), value, port]);
    }
    words
}

/// Where programs put the file that `/etc/resolv.conf` leads to. One starts after us, or takes over from another, and
/// systemd-resolved's folder may be made anew: so it is the one around it, in which there are no secrets either.
const FOLDERS: [&str; 5] = [
    "run/systemd",
    "run/NetworkManager",
    "run/resolvconf",
    "run/connman",
    "run/netconfig",
];

/// The folders of the file that names the host's resolvers, which is replaced now and then. A rule is about the folder that has the
/// name now, and holds for what comes into it later. `root` is `/`, but in tests.
fn resolver_folders(root: &Path) -> Vec<PathBuf> {
    let resolv_conf = root.join("etc/resolv.conf");
    let real = resolv_conf.canonicalize().ok();
    let files = [Some(&*resolv_conf), real.as_deref()];
    let parents = files.into_iter().flatten().filter_map(Path::parent);
    let folders = FOLDERS.iter().map(|folder| root.join(folder));
    parents.map(Path::to_owned).chain(folders).collect()
}

/// What it may open by name: itself, its libraries, and what names the host's resolvers.
fn rules(program: PathBuf) -> confine::Rules {
    let mut read: Vec<PathBuf> = [
        "/usr/lib",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/nix/store",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    read.push(program);
    read.extend(resolver_folders(Path::new("/")));
    confine::Rules {
        read,
        read_write: Vec::new(),
        devices: Vec::new(),
        network: true,
    }
}

fn log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Read, because its newer half is kept when it is full.
    options.read(true).append(true).create(true);
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    /// The kernel is the oracle. Without Landlock everything can be read, and nothing is proved.
    #[test]
    fn resolvers_are_read_after_their_folder_is_another_one() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), text).unwrap();
        };
        write("run/systemd/resolve/stub-resolv.conf", "old");
        write("run/NetworkManager/resolv.conf", "network manager's");
        write("run/user/1000/secret", "secret");
        std::fs::create_dir(at("etc")).unwrap();
        let link = |to: &str| {
            let _ = std::fs::remove_file(at("etc/resolv.conf"));
            std::os::unix::fs::symlink(to, at("etc/resolv.conf")).unwrap();
        };
        link("../run/systemd/resolve/stub-resolv.conf");
        let system = ["/usr", "/bin", "/lib", "/lib64", "/nix/store"].map(PathBuf::from);
        let rules = confine::Rules {
            read: [&system[..], &resolver_folders(root.path())].concat(),
            ..confine::Rules::default()
        };
        // Confined at once, it reads when its input ends.
        let begin = |path: &str| {
            let mut command = std::process::Command::new("cat");
            command.arg("-").arg(at(path));
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            sys::spawn_confined(command, confine::for_spawn(&rules).unwrap()).unwrap()
        };
        let end = |mut child: Child| {
            drop(child.stdin.take());
            let mut text = String::new();
            let mut output = child.stdout.take().unwrap();
            output.read_to_string(&mut text).unwrap();
            child.wait().unwrap();
            text
        };
        let child = begin("etc/resolv.conf");
        std::fs::remove_dir_all(at("run/systemd/resolve")).unwrap();
        write("run/systemd/resolve/stub-resolv.conf", "new");
        assert_eq!(end(child), "new");
        let child = begin("etc/resolv.conf");
        link("../run/NetworkManager/resolv.conf");
        assert_eq!(end(child), "network manager's");
        if confine::for_spawn(&rules).unwrap().level().landlock_abi > 0 {
            assert_eq!(end(begin("run/user/1000/secret")), "");
        }
    }

    #[test]
    fn what_a_network_is_told() {
        let spec = store::network::Spec {
            schema: store::network::SCHEMA,
            name: "mine".to_owned(),
            id: String::new(),
            created_ns: 0,
            subnet: "10.1.0.0/16".parse().unwrap(),
            subnet6: Some("fd00:1::/64".parse().unwrap()),
            internal: false,
            allow: ["*.example.org:443", "192.0.2.0/24"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            labels: std::collections::BTreeMap::new(),
        };
        let expect =
            "--ipv6 fd00:1::1/64 --allow below example.org 443 --allow prefix 192.0.2.0/24 any";
        assert_eq!(arguments(&spec).join(" "), expect);
    }
}
