//! Volumes: file systems that outlive containers. One writer, or many readers.

mod attach;
mod change;
mod files;
mod list;
mod plan;
mod remove;

use std::collections::BTreeMap;

use serde::Serialize;
use store::events::{self, Event, Kind};
use store::file::Durability;
use store::lock::Mode;
use store::volume::{self, Owner};
use store::{Root, now_ns};

pub(crate) use attach::{Attached, attach, lease};
pub use files::VolumeArchive;
pub use list::VolumeFilter;
pub(crate) use plan::{Planned, plan, take};
pub use remove::PrunedVolumes;

use crate::container::new_id;
use crate::{Engine, Error, blocking};

/// Docker's mark of a volume that nobody gave a name.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Made up when absent.
    pub name: Option<String>,
    /// Bytes that it may grow to; 64 GiB when absent.
    pub size: Option<u64>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// User and group of its root directory. Without: root's, until it is filled from an image.
    pub owner: Option<(u32, u32)>,
}

/// What a container is to have mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountRequest {
    /// The volume's name; one is made for the container when absent, and goes with it.
    pub source: Option<String>,
    /// Absolute path in the container.
    pub target: String,
    /// It can't be written.
    pub read_only: bool,
    /// An empty volume is not filled from the image.
    pub no_copy: bool,
    /// For a volume that is made by this.
    pub labels: BTreeMap<String, String>,
    /// Bytes, for a volume that is made by this.
    pub size: Option<u64>,
    /// As `-v` had it, for `inspect`.
    pub bind: Option<String>,
}

/// A row of `volume ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeSummary {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// Bytes that it may grow to.
    pub size: u64,
    /// Bytes that it occupies here.
    pub occupied: u64,
    /// It was made for a container, or without a name.
    pub anonymous: bool,
    /// The names of the containers that use it, running or not.
    pub users: Vec<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

impl Engine {
    /// Makes a volume; its name. One that is there already is left as it is, as by Docker.
    ///
    /// # Errors
    /// No name, or one whose size, labels or owner are others than asked for.
    pub async fn volume_create(&self, request: VolumeRequest) -> Result<String, Error> {
        let root = self.root.clone();
        blocking(move || create(&root, &request)).await
    }
}

fn create(root: &Root, request: &VolumeRequest) -> Result<String, Error> {
    volume::sweep(root)?;
    let index = volume::hold(root, Mode::Shared)?;
    let spec = spec(request)?;
    match volume::create(root, &spec, &index, Durability::Synced) {
        Ok(made) => {
            emit(root, "create", made.name(), &[]);
            Ok(spec.name)
        }
        Err(volume::Error::Exists(name)) => {
            let there = volume::open(root, &name)?;
            match difference(request, there.spec()) {
                Some((option, there)) => Err(Error::VolumeDiffers {
                    name,
                    option,
                    there,
                }),
                None => Ok(name),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What of a request a volume does not have, and how it is instead. What nobody asked for may be as it likes.
fn difference(request: &VolumeRequest, there: &volume::Spec) -> Option<(&'static str, String)> {
    if request.size.is_some_and(|size| size != there.size) {
        return Some(("size", format!("with {} bytes", there.size)));
    }
    let mut labels = request.labels.iter();
    let other = labels.find(|(key, value)| there.labels.get(*key) != Some(value));
    if let Some((key, _)) = other {
        let there = match there.labels.get(key) {
            Some(value) => format!("with label {key}={value}"),
            None => format!("without label {key}"),
        };
        return Some(("label", there));
    }
    let owner = there.owner.map(|owner| (owner.uid, owner.gid));
    if request.owner.is_some() && request.owner != owner {
        let there = match owner {
            Some((uid, gid)) => format!("with owner {uid}:{gid}"),
            None => "without an owner of its own".to_owned(),
        };
        return Some(("owner", there));
    }
    None
}

fn spec(request: &VolumeRequest) -> Result<volume::Spec, Error> {
    let mut labels = request.labels.clone();
    let name = match &request.name {
        Some(name) => {
            volume::check_name(name)?;
            name.clone()
        }
        None => {
            labels.insert(ANONYMOUS.to_owned(), String::new());
            new_id()?
        }
    };
    Ok(volume::Spec {
        name,
        created_ns: now_ns(),
        labels,
        size: request.size.unwrap_or(volume::SIZE),
        owner: request.owner.map(|(uid, gid)| Owner { uid, gid }),
        anonymous: request.name.is_none(),
        ..volume::Spec::default()
    })
}

/// Notes an event, with the attributes that Docker gives those of volumes.
fn emit(root: &Root, action: &str, name: &str, attributes: &[(&str, &dyn ToString)]) {
    let mut event = Event::now(Kind::Volume, action, name).with("driver", "local");
    for (key, value) in attributes {
        event = event.with(key, value.to_string());
    }
    events::emit(root, &event);
}
