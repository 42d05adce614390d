//! What the guest is told: its file systems, names, networks and processes.

use proto::agent::{BootRequest, Mount, NetworksRequest, Process, Rlimit, RootFs, Sysctl, mount};
use proto::network::Joined;
use proto::supervisor::Failure;
use store::container::{Journal, RootfsMode, Spec, Ulimit, VolumeMount};

use super::{IMAGE_DISK, SHARE, UPPER_DISK, share_mounts, volume_disk};
use crate::args::Volume;
use crate::capabilities;

/// Docker's word for the host in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// Open files: a soft limit that old programs can bear, a hard one that new ones can raise it to.
const NOFILE: (u64, u64) = (1024, 524_288);

/// A network device of the guest's, and where it is.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Where it is.
    pub joined: Joined,
    /// Of one that the agent is to make: the stream for its frames.
    pub stream: Vec<u8>,
}

/// All of them, and which leads out.
#[derive(Debug, Clone, Default)]
pub struct Seats {
    /// In the order in which the container joined.
    pub all: Vec<Seat>,
    /// The place in `all` of the one that leads out.
    pub out: usize,
}

impl Seats {
    fn way_out(&self) -> Option<&Joined> {
        self.all.get(self.out).map(|seat| &seat.joined)
    }

    /// What the agent is told.
    fn told(&self) -> Vec<proto::agent::Network> {
        let has_ipv6 = |place: usize| self.all[place].joined.ipv6.is_some();
        let mut candidates = std::iter::once(self.out).chain(0..self.all.len());
        let out6 = candidates.find(|place| *place < self.all.len() && has_ipv6(*place));
        let told = |(place, seat): (usize, &Seat)| {
            let joined = &seat.joined;
            let gateway = (place == self.out).then_some(joined.gateway);
            let gateway6 = joined.ipv6.filter(|_| out6 == Some(place));
            proto::agent::Network {
                mac: seat.mac.to_vec().into(),
                address: joined.address.to_string(),
                prefix: joined.prefix.into(),
                gateway: text(gateway),
                mtu: joined.mtu.into(),
                address6: text(joined.ipv6.map(|ipv6| ipv6.address)),
                prefix6: joined.ipv6.map_or(0, |ipv6| ipv6.prefix.into()),
                gateway6: text(gateway6.map(|ipv6| ipv6.gateway)),
                stream: seat.stream.clone().into(),
            }
        };
        self.all.iter().enumerate().map(told).collect()
    }
}

/// What the agent is told when the container's networks have changed.
pub fn networks_request(spec: &Spec, seats: &Seats) -> NetworksRequest {
    NetworksRequest {
        container: spec.id.clone(),
        networks: seats.told(),
        hosts: hosts(spec, seats).into(),
        resolv_conf: resolv_conf(spec, seats).into(),
    }
}

/// What the agent is told once per boot. `seats`: where the container is on its networks.
pub fn boot_request(spec: &Spec, volumes: &[Volume], seats: &Seats) -> BootRequest {
    let bare = maintenance_request(spec, volumes);
    let mut mounts: Vec<Mount> = spec
        .tmpfs
        .iter()
        .map(|tmpfs| Mount {
            kind: mount::Kind::Tmpfs.into(),
            target: tmpfs.target.clone(),
            options: tmpfs.options.clone(),
            ..Mount::default()
        })
        .collect();
    mounts.extend(bare.mounts.iter().cloned());
    mounts.extend(share_mounts(spec));
    outer_first(&mut mounts);
    BootRequest {
        maintenance: false,
        hostname: spec.hostname.clone(),
        hosts: hosts(spec, seats).into(),
        resolv_conf: resolv_conf(spec, seats).into(),
        networks: seats.told(),
        memory_limit: spec.vm.memory,
        pids_limit: spec.vm.pids_limit,
        nano_cpus: spec.vm.nano_cpus,
        shm_size: spec.shm_size,
        read_only_rootfs: spec.read_only,
        mounts,
        shares: match spec.binds.is_empty() {
            true => String::new(),
            false => SHARE.to_owned(),
        },
        user: spec.process.user.clone(),
        sysctls: spec
            .sysctls
            .iter()
            .map(|(name, value)| Sysctl {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        ..bare
    }
}

/// What is mounted in something comes after it.
fn outer_first(mounts: &mut [Mount]) {
    let depth = |mount: &Mount| {
        mount
            .target
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    };
    mounts.sort_by_key(depth);
}

fn volume_mounts(spec: &Spec, volumes: &[Volume]) -> Vec<Mount> {
    let mount = |mount: &VolumeMount| {
        Some(Mount {
            kind: mount::Kind::Disk.into(),
            source: volume_disk(volumes, &mount.volume)?,
            target: mount.target.clone(),
            read_only: mount.read_only,
            fill: !mount.no_copy,
            keep_root: mount.keep_root,
            ..Mount::default()
        })
    };
    let mut mounts: Vec<Mount> = spec.mounts.iter().filter_map(mount).collect();
    outer_first(&mut mounts);
    mounts
}

/// What the agent is told when no process is to run: the root file system as the disks have it, with nothing over it but
/// the volumes that there are.
pub fn maintenance_request(spec: &Spec, volumes: &[Volume]) -> BootRequest {
    if spec.vm.rootfs == RootfsMode::Volume {
        let disk = spec.mounts.first();
        let disk = disk.and_then(|mount| volume_disk(volumes, &mount.volume));
        return BootRequest {
            container: spec.id.clone(),
            rootfs: Some(RootFs {
                upper_disk: disk.unwrap_or_default(),
                ..RootFs::default()
            }),
            wall_clock_ns: store::now_ns(),
            maintenance: true,
            bare: true,
            ..BootRequest::default()
        };
    }
    let image_disk = match spec.vm.rootfs {
        RootfsMode::Overlay => IMAGE_DISK,
        RootfsMode::Clone | RootfsMode::Volume => "",
    };
    let upper_options = match spec.vm.journal {
        // What ext4 does by itself; and without a journal it wants to hear nothing of it.
        Journal::Ordered | Journal::None => "",
        Journal::Writeback => "data=writeback",
        Journal::Journal => "data=journal",
    };
    BootRequest {
        container: spec.id.clone(),
        rootfs: Some(RootFs {
            image_disk: image_disk.to_owned(),
            upper_disk: UPPER_DISK.to_owned(),
            upper_options: upper_options.to_owned(),
        }),
        wall_clock_ns: store::now_ns(),
        mounts: volume_mounts(spec, volumes),
        maintenance: true,
        ..BootRequest::default()
    }
}

/// The container's first process.
///
/// # Errors
/// A capability that there is none of.
pub fn main_process(spec: &Spec) -> Result<Process, Failure> {
    let process = &spec.process;
    Ok(Process {
        args: process.args.clone(),
        env: process.env.clone(),
        user: process.user.clone(),
        cwd: process.cwd.clone(),
        tty: process.tty,
        init: process.init,
        ..rights(spec, false)?
    })
}

/// A further process: it starts from the container's environment, user and directory. A variable without `=` is taken out of
/// the environment.
///
/// # Errors
/// As [`main_process`].
pub fn exec_process(spec: &Spec, asked: proto::supervisor::Process) -> Result<Process, Failure> {
    let own = &spec.process;
    let mut env = own.env.clone();
    for entry in asked.env {
        let name = entry.split('=').next().unwrap_or_default();
        // One of a name, and the one that was asked for: what is looked up in PATH finds the first.
        env.retain(|known| known.split('=').next() != Some(name));
        if entry.contains('=') {
            env.push(entry);
        }
    }
    let or = |asked: String, own: &String| if asked.is_empty() { own.clone() } else { asked };
    Ok(Process {
        args: asked.args,
        env,
        user: or(asked.user, &own.user),
        cwd: or(asked.cwd, &own.cwd),
        tty: asked.tty,
        size: asked.size.map(terminal_size),
        ..rights(spec, asked.privileged)?
    })
}

/// A terminal's size, from the engine's message to the agent's.
pub fn terminal_size(size: proto::supervisor::TerminalSize) -> proto::agent::TerminalSize {
    proto::agent::TerminalSize {
        rows: size.rows,
        columns: size.columns,
    }
}

/// What any process of the container may do, and how much.
fn rights(spec: &Spec, privileged: bool) -> Result<Process, Failure> {
    let own = &spec.process;
    let privileged = privileged || own.privileged;
    let capabilities = if privileged {
        Vec::new()
    } else {
        capabilities::kept(&own.cap_drop, &own.cap_add)?
    };
    Ok(Process {
        capabilities,
        privileged,
        no_new_privileges: own.no_new_privileges,
        rlimits: rlimits(&own.ulimits),
        groups: own.groups.clone(),
        oom_score_adj: own.oom_score_adj,
        unmasked: own.unmasked,
        ..Process::default()
    })
}

fn rlimits(ulimits: &[Ulimit]) -> Vec<Rlimit> {
    let nofile = Ulimit {
        name: "nofile".to_owned(),
        soft: NOFILE.0,
        hard: NOFILE.1,
    };
    let default = ulimits
        .iter()
        .all(|ulimit| ulimit.name != nofile.name)
        .then_some(&nofile);
    default
        .into_iter()
        .chain(ulimits)
        .map(|ulimit| Rlimit {
            name: format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
            soft: ulimit.soft,
            hard: ulimit.hard,
        })
        .collect()
}

/// An address, or nothing.
fn text(address: Option<impl ToString>) -> String {
    address.map_or(String::new(), |address| address.to_string())
}

/// /etc/hosts: what every host has, what was asked for, and the container's own name at its addresses.
fn hosts(spec: &Spec, seats: &Seats) -> String {
    let mut lines =
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned();
    let gateway = seats.way_out().map(|joined| joined.gateway.to_string());
    for (name, address) in &spec.resolution.hosts {
        let address = match address.as_str() {
            HOST_GATEWAY => gateway.as_deref().unwrap_or("127.0.0.1"),
            address => address,
        };
        lines.push_str(&format!("{address}\t{name}\n"));
    }
    let hostname = &spec.hostname;
    if seats.all.is_empty() {
        lines.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    for Seat { joined, .. } in &seats.all {
        lines.push_str(&format!("{}\t{hostname}\n", joined.address));
        if let Some(ipv6) = joined.ipv6 {
            lines.push_str(&format!("{}\t{hostname}\n", ipv6.address));
        }
    }
    lines
}

/// /etc/resolv.conf: the gateway answers for containers' names, and asks others for the rest. Empty, and the image's stays, when
/// there is neither a network nor a wish.
fn resolv_conf(spec: &Spec, seats: &Seats) -> String {
    let mut lines = String::new();
    match seats.way_out() {
        Some(joined) => lines.push_str(&format!("nameserver {}\n", joined.gateway)),
        None => {
            for server in &spec.resolution.servers {
                lines.push_str(&format!("nameserver {server}\n"));
            }
        }
    }
    if !spec.resolution.search.is_empty() {
        lines.push_str(&format!("search {}\n", spec.resolution.search.join(" ")));
    }
    lines
}
