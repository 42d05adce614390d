//! Making a container of an image and a request.

use std::path::Path;

use oci::Platform;
use store::container::{self, Image, LogLimits, Restart, RootfsMode, SCHEMA, Spec, Vm};
use store::{kernels, now_ns};

use super::change::emit;
use super::{Container, CreateRequest, config, connections, health, names, rights, sockets};
use crate::image::Resolved;
use crate::{Engine, Error, PullEvent, bind, volume};

/// Memory of a container that is given none.
const MEMORY: u64 = 1 << 30;

/// Docker's least. What a guest needs to boot is not the container's: the supervisor adds it.
pub(super) const LEAST_MEMORY: u64 = 6 << 20;

/// Billionths.
pub(super) const NANO: u64 = 1_000_000_000;

/// Docker's least share of a processor: a hundredth.
const LEAST_NANO_CPUS: u64 = NANO / 100;

/// What an ext4 file system with a journal and some room needs.
const LEAST_STORAGE: u64 = 32 << 20;

/// The largest file on most file systems of hosts.
const MOST_STORAGE: u64 = 15 << 40;

/// Drivers that there are; whether one works here is the supervisor's to say.
const DRIVERS: [&str; 3] = ["auto", "kvm", "qemu"];

/// Made-up names that are tried.
const NAMES: usize = 10;

impl Engine {
    /// Makes a container. Pulls the image as the request says; `progress` hears of it. When the future is dropped
    /// before it is ready, there is no container.
    ///
    /// # Errors
    /// [`crate::ErrorKind`] says what kind.
    pub async fn create(
        &self,
        request: CreateRequest,
        progress: &dyn Fn(PullEvent),
    ) -> Result<Container, Error> {
        if let Some(name) = &request.name {
            container::check_name(name)?;
        }
        let vm = self.vm(&request)?;
        rights::check(&request)?;
        check_restart(request.restart, request.remove)?;
        let platform = platform(request.platform.as_deref())?;
        let image = self
            .resolve(
                &request.image,
                (&platform, request.platform.is_some()),
                request.pull,
                progress,
            )
            .await?;
        let mut spec = spec(&self.root, &image, &request, vm)?;
        let mut taken = spec
            .tmpfs
            .iter()
            .map(|tmpfs| tmpfs.target.clone())
            .collect();
        let planned = bind::plan(&request.binds, &mut taken)?;
        spec.binds = planned.binds;
        spec.sockets = sockets::plan(&request, planned.sockets)?;
        let volumes = volume::plan(&image.config.config.volumes, &request.mounts, taken)?;
        // At once: a few files and one flush are less than a thread costs. The image is held until the container, which names
        // it, is there: nobody removes it before that.
        let made = make(&self.root, spec, request.name.is_none(), &volumes);
        drop(image.held);
        made
    }

    fn vm(&self, request: &CreateRequest) -> Result<Vm, Error> {
        let memory = request.memory.unwrap_or(MEMORY);
        check_memory(memory)?;
        let (cpus, nano_cpus) = match request.nano_cpus {
            Some(nano) => processors(nano)?,
            None => (0, 0),
        };
        let driver = request.driver.as_deref().unwrap_or("auto");
        if !DRIVERS.contains(&driver) {
            let reason = format!("{driver:?} is none of {}", DRIVERS.join(", "));
            return Err(Error::invalid("driver", reason));
        }
        if request.rootfs == RootfsMode::Volume {
            let reason = "volume is for VMs of volumes' files, not for containers";
            return Err(Error::invalid("rootfs", reason));
        }
        let storage_size = request.storage_size.unwrap_or(0);
        if storage_size != 0 && !(LEAST_STORAGE..=MOST_STORAGE).contains(&storage_size) {
            let reason = format!(
                "{storage_size} bytes; it is between {LEAST_STORAGE} (32 MiB) and {MOST_STORAGE} (15 TiB)"
            );
            return Err(Error::invalid("storage size", reason));
        }
        Ok(Vm {
            memory,
            cpus,
            driver: driver.to_owned(),
            kernel: self.kernel_name(request.kernel.as_deref().unwrap_or_default())?,
            kernel_args: request.kernel_args.clone(),
            nano_cpus,
            pids_limit: request.pids_limit.unwrap_or(0),
            virtualization: request.virtualization,
            rootfs: request.rootfs,
            storage_size,
            journal: request.journal,
        })
    }

    /// A kernel's name as it was given, or its path made absolute: the supervisor works elsewhere.
    fn kernel_name(&self, wanted: &str) -> Result<String, Error> {
        let kernel = kernels::resolve(&self.root, wanted)?;
        if wanted.is_empty() || kernel.name == wanted && !Path::new(wanted).is_file() {
            return Ok(wanted.to_owned());
        }
        if kernel.release.is_empty() {
            return Ok(kernel.file.display().to_string());
        }
        Ok(kernel.name)
    }
}

/// The least that programs have.
pub(super) fn check_memory(memory: u64) -> Result<(), Error> {
    if memory >= LEAST_MEMORY {
        return Ok(());
    }
    let reason =
        format!("{memory} bytes are too few: a container needs at least {LEAST_MEMORY} (6 MiB)");
    Err(Error::invalid("memory", reason))
}

/// The VM's processors, and the share of them in billionths that its processes get; 0: all.
pub(super) fn processors(nano: u64) -> Result<(u32, u64), Error> {
    let host = host_processors();
    if !(LEAST_NANO_CPUS..=u64::from(host) * NANO).contains(&nano) {
        let reason = format!(
            "{} is not between 0.01 and the {host} that this host has",
            decimal(nano)
        );
        return Err(Error::invalid("number of cpus", reason));
    }
    let whole = nano.div_ceil(NANO);
    let share = if whole * NANO == nano { 0 } else { nano };
    // Not more than the host has.
    Ok((u32::try_from(whole).unwrap_or(host), share))
}

/// Billionths as people write them: `1.5`.
fn decimal(nano: u64) -> String {
    let (whole, rest) = (nano / NANO, nano % NANO);
    if rest == 0 {
        return whole.to_string();
    }
    let rest = format!("{rest:09}");
    format!("{whole}.{}", rest.trim_end_matches('0'))
}

fn host_processors() -> u32 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|count| u32::try_from(count.get()).ok())
        .unwrap_or(1)
}

/// Rules that no single part of the request breaks.
pub(super) fn check_restart(restart: Restart, remove: bool) -> Result<(), Error> {
    use container::RestartPolicy::{No, OnFailure};
    if remove && restart.policy != No {
        let reason = "a container that is removed at its end is not started again".to_owned();
        return Err(Error::invalid("restart policy", reason));
    }
    if restart.maximum != 0 && restart.policy != OnFailure {
        let reason = "only on-failure has a limit of restarts".to_owned();
        return Err(Error::invalid("restart policy", reason));
    }
    Ok(())
}

fn log_limits(request: &CreateRequest) -> Result<LogLimits, Error> {
    let default = LogLimits::default();
    let limits = LogLimits {
        size: request.log_size.unwrap_or(default.size),
        files: request.log_files.unwrap_or(default.files),
    };
    if limits.size == 0 || limits.files == 0 {
        let reason = "there is one file of one byte at least".to_owned();
        return Err(Error::invalid("limit of logs", reason));
    }
    Ok(limits)
}

/// The platform that was asked for, or the host's. Guests are of the host's architecture.
pub(crate) fn platform(wanted: Option<&str>) -> Result<Platform, Error> {
    let host = Platform::host();
    let Some(wanted) = wanted else {
        return Ok(host);
    };
    let wanted: Platform = wanted
        .parse()
        .map_err(|error: oci::PlatformError| Error::invalid("platform", error.to_string()))?;
    Ok(wanted)
}

fn spec(
    root: &store::Root,
    image: &Resolved,
    request: &CreateRequest,
    vm: Vm,
) -> Result<Spec, Error> {
    let host = Platform::host();
    if !host.accepts(&image.record.platform) {
        return Err(Error::Platform {
            image: image.reference.clone(),
            found: image.record.platform.to_string(),
            wanted: host.to_string(),
        });
    }
    let defaults = &image.config.config;
    let signal = request
        .stop_signal
        .as_ref()
        .or(defaults.stop_signal.as_ref())
        .filter(|signal| !signal.is_empty())
        .map_or("TERM", String::as_str);
    let stop_signal = config::signal(signal).ok_or_else(|| {
        Error::invalid("stop signal", format!("{signal:?} is no signal of Linux"))
    })?;
    let connected = connections::connections(root, request, &defaults.exposed_ports)?;
    let id = new_id()?;
    let hostname = match &request.hostname {
        Some(hostname) => check_hostname(hostname)?,
        None => id[..12].to_owned(),
    };
    let stop_timeout = request.stop_timeout.map_or(10_000, |limit| {
        u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
    });
    Ok(Spec {
        schema: SCHEMA,
        id,
        name: request.name.clone().unwrap_or_default(),
        created_ns: now_ns(),
        image: Image {
            reference: image.reference.clone(),
            id: image.record.id.to_string(),
            rootfs: image.record.rootfs.clone(),
        },
        process: config::process(defaults, request)?,
        vm,
        hostname,
        labels: config::labels(defaults, request),
        remove: request.remove,
        stop_signal,
        stop_timeout_ms: stop_timeout,
        tmpfs: rights::tmpfs(&request.tmpfs)?,
        shm_size: request.shm_size.unwrap_or(0),
        read_only: request.read_only,
        sysctls: request.sysctls.clone(),
        restart: request.restart,
        health: health::check(defaults, &request.health)?,
        logs: log_limits(request)?,
        networks: connected.networks,
        ports: connected.ports,
        exposed: connected.exposed,
        resolution: connected.resolution,
        sockets: Vec::new(),
        ssh: request.ssh,
        mounts: Vec::new(),
        binds: Vec::new(),
    })
}

/// sethostname(2) takes 64 bytes; the rest is RFC 1123's.
fn check_hostname(hostname: &str) -> Result<String, Error> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if hostname.len() <= 64 && hostname.split('.').all(label) {
        Ok(hostname.to_owned())
    } else {
        let reason = format!(
            "{hostname:?} is not up to 64 letters, digits and dashes, with dots between them"
        );
        Err(Error::invalid("host name", reason))
    }
}

fn make(
    root: &store::Root,
    mut spec: Spec,
    unnamed: bool,
    volumes: &volume::Planned,
) -> Result<Container, Error> {
    // Until the container is there nobody sees that they are used: they are held until then.
    let prepared = volumes.prepare(root, &mut spec)?;
    let made = publish(root, spec, unnamed);
    if made.is_err() {
        prepared.undo(root);
    }
    made
}

fn publish(root: &store::Root, mut spec: Spec, unnamed: bool) -> Result<Container, Error> {
    for attempt in 0.. {
        if unnamed {
            spec.name = names::make(random()?, attempt);
        }
        match container::create(root, &spec) {
            Ok((made, lock)) => {
                // Whoever starts it takes the lock anew.
                drop(lock);
                emit(&made, "create", &[]);
                return Ok(Container {
                    id: made.id().to_owned(),
                    name: made.spec().name.clone(),
                });
            }
            Err(container::Error::NameInUse { .. }) if unnamed && attempt < NAMES => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Interrupted)
}

/// 64 hexadecimal digits that nobody has.
pub(crate) fn new_id() -> Result<String, Error> {
    Ok(oci::Digest::from_bytes(random()?).hex())
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                let path = Path::new("/dev/urandom");
                return Err(store::file::Error::new("read", path, errno).into());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in ["a", "web-1", "a.b.c", "0123456789ab", "my_host"] {
            assert_eq!(check_hostname(good).unwrap(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", "-a", "a-", "a..b", "a b", "a/b", "ä", long.as_str()] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
    }

    /// Oracle: "Minimum memory limit allowed is 6MB", Docker's.
    #[test]
    fn memory() {
        assert!(check_memory(6 << 20).is_ok() && check_memory(64 << 20).is_ok());
        let error = check_memory((6 << 20) - 1).unwrap_err().to_string();
        assert!(error.contains("6291455 bytes are too few"), "{error}");
    }

    #[test]
    fn processors_and_shares() {
        assert_eq!(processors(NANO).unwrap(), (1, 0));
        assert_eq!(processors(NANO / 2).unwrap(), (1, NANO / 2));
        let most = u64::from(host_processors()) * NANO;
        assert!(processors(most).is_ok() && processors(most + 1).is_err());
        let error = processors(NANO / 1000).unwrap_err().to_string();
        assert!(error.contains("0.001 is not between 0.01 and"), "{error}");
        assert_eq!(decimal(1_500_000_000), "1.5");
    }

    #[test]
    fn ids_are_ids() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert!(container::is_id(&a));
        assert_ne!(a, b);
    }
}
