//! Making a container of an image and a request.

use std::path::Path;
use std::sync::mpsc;

use oci::Platform;
use store::container::{self, Image, SCHEMA, Spec, Vm};
use store::{kernels, now_ns};

use super::{Container, CreateRequest, config, names};
use crate::image::Resolved;
use crate::{Engine, Error, PullEvent, blocking};

/// Memory of a container that is given none.
const MEMORY: u64 = 1 << 30;

/// What a guest needs to boot and to run something.
const LEAST_MEMORY: u64 = 128 << 20;

/// Processors of a container that is given none, if the host has them.
const CPUS: u32 = 2;

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
        let platform = platform(request.platform.as_deref())?;
        let image = self
            .resolve(&request.image, &platform, request.pull, progress)
            .await?;
        let spec = spec(&image, &request, vm)?;
        let (root, unnamed) = (self.root.clone(), request.name.is_none());
        let (sender, receiver) = mpsc::sync_channel(1);
        let mut making = Making {
            root: root.clone(),
            made: Some(receiver),
        };
        blocking(move || {
            // Held until the container, which names it, is there: nobody collects the image before that.
            let _lease = image.lease;
            // The other end is there for as long as this runs.
            let _ = sender.send(make(&root, spec, unnamed));
            Ok::<(), Error>(())
        })
        .await?;
        making.take().unwrap_or(Err(Error::Interrupted))
    }

    fn vm(&self, request: &CreateRequest) -> Result<Vm, Error> {
        let memory = request.memory.unwrap_or(MEMORY);
        if memory < LEAST_MEMORY {
            let reason = format!(
                "{memory} bytes are too few: a container needs at least {LEAST_MEMORY} (128 MiB)"
            );
            return Err(Error::invalid("memory", reason));
        }
        let host = std::thread::available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok())
            .unwrap_or(1);
        let cpus = request.cpus.unwrap_or(CPUS.min(host));
        if !(1..=host).contains(&cpus) {
            let reason = format!("{cpus} is not between 1 and the {host} that this host has");
            return Err(Error::invalid("number of cpus", reason));
        }
        let driver = request.driver.as_deref().unwrap_or("auto");
        if !DRIVERS.contains(&driver) {
            let reason = format!("{driver:?} is none of {}", DRIVERS.join(", "));
            return Err(Error::invalid("driver", reason));
        }
        Ok(Vm {
            memory,
            cpus,
            driver: driver.to_owned(),
            kernel: self.kernel_name(request.kernel.as_deref().unwrap_or_default())?,
            ..Vm::default()
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

/// A container in the making. Dropped before it was taken, it is removed: nobody would know of it.
struct Making {
    root: store::Root,
    made: Option<mpsc::Receiver<Result<Container, Error>>>,
}

impl Making {
    /// Waits for it, which takes milliseconds; `None` when it was taken, or when it was never begun.
    fn take(&mut self) -> Option<Result<Container, Error>> {
        self.made.take()?.recv().ok()
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let Some(Ok(made)) = self.take() else {
            return;
        };
        if let Err(error) = unmake(&self.root, &made.id) {
            tracing::warn!(%error, vm_id = made.id, "cannot remove a container that nobody waited for");
        }
    }
}

/// Removes a container that nobody started.
fn unmake(root: &store::Root, id: &str) -> Result<(), container::Error> {
    let container = container::resolve(root, id)?;
    match container.try_lock()? {
        Some(_lock) => container.remove_all(),
        None => Err(container::Error::Running(id.to_owned())),
    }
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

fn spec(image: &Resolved, request: &CreateRequest, vm: Vm) -> Result<Spec, Error> {
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
    let id = id()?;
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
        ..Spec::default()
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

fn make(root: &store::Root, mut spec: Spec, unnamed: bool) -> Result<Container, Error> {
    for attempt in 0.. {
        if unnamed {
            spec.name = names::make(random()?, attempt);
        }
        match container::create(root, &spec) {
            Ok((made, lock)) => {
                // Whoever starts it takes the lock anew.
                drop(lock);
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
fn id() -> Result<String, Error> {
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

    #[test]
    fn ids_are_ids() {
        let (a, b) = (id().unwrap(), id().unwrap());
        assert!(container::is_id(&a));
        assert_ne!(a, b);
    }
}
