//! What a new container's volumes are to be: those that were asked for, and those of its image.

use std::collections::BTreeSet;

use store::Root;
use store::container::{Spec, VolumeMount};
use store::file::Durability;
use store::lock::{Lock, Mode};
use store::volume::{self, Volume};

use super::{MountRequest, VolumeRequest, emit, spec};
use crate::Error;
use crate::container::clean_path;

/// A VM has places for so many disks, less those that are its own.
const MOST: usize = 12;

/// The volumes of a container that is about to be made.
#[derive(Debug, Default)]
pub(crate) struct Planned(Vec<MountRequest>);

/// Volumes that were made or found. Until this is dropped, nobody removes one.
#[derive(Debug)]
pub(crate) struct Prepared {
    _index: Option<Lock>,
    made: Vec<Volume>,
}

/// Checks what was asked for, and adds what the image wants: a volume for each of its paths that has nothing yet. `taken`:
/// where something else is.
pub(crate) fn plan(
    image: &[String],
    wanted: &[MountRequest],
    taken: BTreeSet<String>,
) -> Result<Planned, Error> {
    let mut targets = taken;
    let mut planned = Vec::new();
    for mount in wanted {
        let target = take(&mount.target, &mut targets)?;
        if let Some(name) = &mount.source {
            volume::check_name(name)?;
        }
        planned.push(MountRequest {
            target,
            ..mount.clone()
        });
    }
    for path in image {
        let target = target(path)?;
        if targets.insert(target.clone()) {
            planned.push(MountRequest {
                target,
                ..MountRequest::default()
            });
        }
    }
    let names: BTreeSet<_> = planned
        .iter()
        .filter_map(|mount| mount.source.as_ref())
        .collect();
    let unnamed = planned
        .iter()
        .filter(|mount| mount.source.is_none())
        .count();
    if names.len() + unnamed > MOST {
        let reason = format!(
            "{} volumes; a container can have {MOST}",
            names.len() + unnamed
        );
        return Err(Error::invalid("mount", reason));
    }
    Ok(Planned(planned))
}

/// A place that nothing else has yet.
pub(crate) fn take(path: &str, taken: &mut BTreeSet<String>) -> Result<String, Error> {
    let target = target(path)?;
    match taken.insert(target.clone()) {
        true => Ok(target),
        false => Err(Error::invalid(
            "mount",
            format!("duplicate mount point: {target}"),
        )),
    }
}

fn target(path: &str) -> Result<String, Error> {
    clean_path(path).ok_or_else(|| {
        let reason = format!(
            "{path:?} is no place for a mount: it must be an absolute path below the root, without \"..\""
        );
        Error::invalid("mount", reason)
    })
}

impl Planned {
    /// Makes the volumes that are not there, and writes all of them into the container's spec.
    pub(crate) fn prepare(&self, root: &Root, container: &mut Spec) -> Result<Prepared, Error> {
        let mut prepared = Prepared {
            _index: None,
            made: Vec::new(),
        };
        if self.0.is_empty() {
            return Ok(prepared);
        }
        volume::sweep(root)?;
        let index = volume::hold(root, Mode::Shared)?;
        for mount in &self.0 {
            let volume = match found(root, mount, &index, container.remove, &mut prepared.made) {
                Ok(volume) => volume,
                Err(error) => {
                    prepared.undo(root);
                    return Err(error);
                }
            };
            container.mounts.push(VolumeMount {
                volume: volume.name().to_owned(),
                target: mount.target.clone(),
                read_only: mount.read_only,
                no_copy: mount.no_copy,
                keep_root: volume.spec().owner.is_some(),
                anonymous: mount.source.is_none(),
                bind: mount.bind.clone(),
            });
        }
        prepared._index = Some(index);
        Ok(prepared)
    }
}

/// The mount's volume, made when it is not there.
fn found(
    root: &Root,
    mount: &MountRequest,
    index: &Lock,
    remove: bool,
    anonymous: &mut Vec<Volume>,
) -> Result<Volume, Error> {
    if let Some(name) = &mount.source {
        match volume::open(root, name) {
            Err(volume::Error::NotFound(_)) => {}
            other => return Ok(other?),
        }
    }
    let wanted = spec(&VolumeRequest {
        name: mount.source.clone(),
        size: mount.size,
        labels: mount.labels.clone(),
        owner: None,
    })?;
    // One without a name goes with its container, and that one at its end.
    let durability = match mount.source.is_none() && remove {
        true => Durability::Unsynced,
        false => Durability::Synced,
    };
    let made = match volume::create(root, &wanted, index, durability) {
        Err(volume::Error::Exists(name)) => return Ok(volume::open(root, &name)?),
        other => other?,
    };
    emit(root, "create", made.name(), &[]);
    if mount.source.is_none() {
        anonymous.push(made.clone());
    }
    Ok(made)
}

impl Prepared {
    /// There is no container: the volumes that were made for it alone go.
    pub(crate) fn undo(&self, root: &Root) {
        for volume in &self.made {
            if let Err(error) = volume::discard(root, volume) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, volume = volume.name(), "cannot remove it again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str) -> MountRequest {
        MountRequest {
            source: Some(source.to_owned()).filter(|source| !source.is_empty()),
            target: target.to_owned(),
            ..MountRequest::default()
        }
    }

    /// Oracle: what Docker 28 does with each.
    #[test]
    fn what_was_asked_for_and_what_the_image_wants() {
        let check = |image: &[&str], wanted: &[(&str, &str)], expect: Result<&[&str], &str>| {
            let image: Vec<_> = image.iter().map(|path| (*path).to_owned()).collect();
            let wanted: Vec<_> = wanted.iter().map(|(s, t)| mount(s, t)).collect();
            let taken = BTreeSet::from(["/run".to_owned()]);
            let planned = plan(&image, &wanted, taken).map_err(|error| error.to_string());
            match (planned, expect) {
                (Ok(Planned(mounts)), Ok(expect)) => {
                    let shown: Vec<_> = mounts
                        .iter()
                        .map(|m| format!("{}:{}", m.source.as_deref().unwrap_or(""), m.target))
                        .collect();
                    assert_eq!(shown, expect);
                }
                (Err(said), Err(expect)) => assert!(said.contains(expect), "{said}"),
                (planned, expect) => panic!("{planned:?}, not {expect:?}"),
            }
        };
        check(&[], &[("data", "/data/")], Ok(&["data:/data"]));
        check(
            &["/data", "/log"],
            &[("data", "//data")],
            Ok(&["data:/data", ":/log"]),
        );
        check(&["/run"], &[("", "/x")], Ok(&[":/x"]));
        check(
            &[],
            &[("one", "/a"), ("one", "/b")],
            Ok(&["one:/a", "one:/b"]),
        );
        check(
            &[],
            &[("a1", "/a"), ("b1", "/a/")],
            Err("duplicate mount point: /a"),
        );
        check(&[], &[("a1", "/run")], Err("duplicate mount point: /run"));
        check(&[], &[("a1", "/")], Err("absolute path below the root"));
        check(&[], &[("a1", "data")], Err("absolute path below the root"));
        check(&[], &[("a/b", "/a")], Err("is not a volume's name"));
        check(&["/"], &[], Err("absolute path below the root"));
    }
}
