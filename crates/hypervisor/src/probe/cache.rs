//! What the probe remembers. A cache: what can't be read or written costs time, not success.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const SCHEMA: u32 = 1;

/// The file's content, and whether it has to be written.
#[derive(Debug, Default)]
pub(super) struct Cache {
    path: Option<PathBuf>,
    content: Content,
    changed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    schema: u32,
    kvm: Option<KvmEntry>,
    qemu: Option<QemuEntry>,
}

/// Good for one boot of the host.
#[derive(Debug, Serialize, Deserialize)]
struct KvmEntry {
    boot_id: String,
    fault: Option<String>,
}

/// Good as long as the file is the same.
#[derive(Debug, Serialize, Deserialize)]
struct QemuEntry {
    file: FileKey,
    facts: QemuFacts,
}

/// Which file a program is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileKey {
    path: PathBuf,
    size: u64,
    mtime: i64,
    mtime_nsec: i64,
}

impl FileKey {
    pub(super) fn of(path: &Path) -> std::io::Result<FileKey> {
        let found = std::fs::metadata(path)?;
        Ok(FileKey {
            path: path.to_owned(),
            size: found.size(),
            mtime: found.mtime(),
            mtime_nsec: found.mtime_nsec(),
        })
    }
}

/// What a QEMU says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QemuFacts {
    /// Its first line.
    pub banner: String,
    /// The devices that gourd needs and that it has not got.
    pub missing: Vec<String>,
}

impl Cache {
    /// Reads the file; an unreadable or foreign one counts as empty.
    pub(super) fn load(path: Option<&Path>) -> Cache {
        let content = path
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Content>(&bytes).ok())
            .filter(|content| content.schema == SCHEMA)
            .unwrap_or_default();
        Cache {
            path: path.map(Path::to_owned),
            content,
            changed: false,
        }
    }

    /// What `find` answered in this boot of the host, or answers now.
    pub(super) fn kvm(&mut self, find: impl FnOnce() -> Option<String>) -> Option<String> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot_id = boot_id.unwrap_or_default().trim().to_owned();
        match &self.content.kvm {
            Some(entry) if !boot_id.is_empty() && entry.boot_id == boot_id => entry.fault.clone(),
            _ => {
                let fault = find();
                self.changed = true;
                self.content.kvm = Some(KvmEntry {
                    boot_id,
                    fault: fault.clone(),
                });
                fault
            }
        }
    }

    /// What `find` answered about this file, or answers now. Failures are not kept.
    pub(super) fn qemu<E>(
        &mut self,
        file: &FileKey,
        find: impl FnOnce() -> Result<QemuFacts, E>,
    ) -> Result<QemuFacts, E> {
        if let Some(entry) = &self.content.qemu
            && entry.file == *file
        {
            return Ok(entry.facts.clone());
        }
        let facts = find()?;
        self.changed = true;
        self.content.qemu = Some(QemuEntry {
            file: file.clone(),
            facts: facts.clone(),
        });
        Ok(facts)
    }

    /// Writes what changed: a whole new file in place of the old one, so that a reader never sees half of one.
    pub(super) fn store(mut self) {
        let Some(path) = self.path.take().filter(|_| self.changed) else {
            return;
        };
        self.content.schema = SCHEMA;
        if let Err(error) = write(&path, &self.content) {
            tracing::debug!(?path, %error, "the probe's answers are not kept");
        }
    }
}

fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let mut file = std::fs::File::create(&temporary)?;
    let written = serde_json::to_vec(content)
        .map_err(std::io::Error::from)
        .and_then(|bytes| file.write_all(&bytes))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(banner: &str) -> Result<QemuFacts, ()> {
        Ok(QemuFacts {
            banner: banner.into(),
            missing: Vec::new(),
        })
    }

    #[test]
    fn answers_are_kept_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        let path = folder.path().join("probe.json");
        std::fs::write(&program, "one").unwrap();
        let key = FileKey::of(&program).unwrap();

        let mut cache = Cache::load(Some(&path));
        assert_eq!(cache.kvm(|| Some("no".into())), Some("no".into()));
        assert_eq!(cache.qemu(&key, || facts("a")), facts("a"));
        assert_eq!(cache.qemu::<()>(&key, || panic!("asked again")), facts("a"));
        cache.store();

        let mut cache = Cache::load(Some(&path));
        assert_eq!(cache.kvm(|| panic!("asked again")), Some("no".into()));
        assert_eq!(cache.qemu::<()>(&key, || panic!("asked again")), facts("a"));
        std::fs::write(&program, "three").unwrap();
        let key = FileKey::of(&program).unwrap();
        assert_eq!(cache.qemu(&key, || Err(())), Err(()));
        assert_eq!(cache.qemu(&key, || facts("b")), facts("b"));
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "no temporary file is left");
    }

    #[test]
    fn another_boot_asks_again() {
        let mut cache = Cache::load(None);
        cache.content.kvm = Some(KvmEntry {
            boot_id: "an earlier one".into(),
            fault: None,
        });
        assert_eq!(cache.kvm(|| Some("now".into())), Some("now".into()));
    }

    #[test]
    fn foreign_bytes_count_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.json");
        for bytes in ["", "{", "[]", r#"{"schema":2}"#, r#"{"schema":1,"kvm":3}"#] {
            std::fs::write(&path, bytes).unwrap();
            let cache = Cache::load(Some(&path));
            assert!(cache.content.kvm.is_none() && cache.content.qemu.is_none());
        }
    }
}
