//! The root directory: where everything is, and that it is the user's own.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::file;

/// The guest's architecture, in OCI's words. Guests are of the host's architecture.
pub const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "unknown"
};

/// Bytes of `sockaddr_un.sun_path`, less its terminating zero.
const SUN_PATH: usize = 107;

/// Bytes that the longest name in `run/` may have: 12 hexadecimal digits, a dot, what it is, `.sock`.
const SOCKET_NAME: usize = 40;

/// What can be wrong with a root directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory cannot be made, listed or written.
    #[error("the state directory {} cannot be used", root.display())]
    Unusable {
        /// The root.
        root: PathBuf,
        /// Which path, which operation.
        #[source]
        source: file::Error,
    },
    /// Neither `GOURD_ROOT`, `XDG_DATA_HOME` nor `HOME` is set.
    #[error("no state directory: none of GOURD_ROOT, XDG_DATA_HOME and HOME is set")]
    NoHome,
    /// `GOURD_ROOT` or `XDG_DATA_HOME` is not an absolute path.
    #[error("the state directory {} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// The fall-back for sockets exists and is not the user's own 0700 directory.
    #[error("the socket directory {} is not a private directory of user {uid}: {found}", path.display())]
    Sockets {
        /// Which.
        path: PathBuf,
        /// Ours.
        uid: u32,
        /// What it is instead.
        found: String,
    },
}

/// An opened root directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    inner: Arc<Inner>,
    max_unpacked: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    run: PathBuf,
}

impl Root {
    /// `$GOURD_ROOT`, or else `$XDG_DATA_HOME/gourd`, or else `~/.local/share/gourd`.
    ///
    /// # Errors
    /// [`Error::NoHome`], [`Error::Relative`].
    pub fn default_path() -> Result<PathBuf, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = if let Some(root) = set("GOURD_ROOT") {
            PathBuf::from(root)
        } else if let Some(data) = set("XDG_DATA_HOME") {
            Path::new(&data).join("gourd")
        } else if let Some(home) = set("HOME") {
            Path::new(&home).join(".local/share/gourd")
        } else {
            return Err(Error::NoHome);
        };
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(Error::Relative(path))
        }
    }

    /// Opens a root, making what is missing of it.
    ///
    /// # Errors
    /// [`Error::Unusable`] names the path and the errno; [`Error::Sockets`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable {
            root: path.to_owned(),
            source,
        };
        file::make_dir(path).map_err(unusable)?;
        let path = path
            .canonicalize()
            .map_err(|source| unusable(file::Error::new("resolve", path, source)))?;
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&path, access)
            .map_err(|source| unusable(file::Error::new("write in", &path, source)))?;
        for dir in [
            "content/blobs/sha256",
            "content/ingest",
            "images",
            "refs",
            "rootfs",
            "containers",
            "run",
        ] {
            file::make_dir(&path.join(dir)).map_err(unusable)?;
        }
        file::make_dir(&path.join("kernels").join(ARCH)).map_err(unusable)?;
        let run = run_dir(&path)?;
        Ok(Self {
            inner: Arc::new(Inner { path, run }),
            max_unpacked: None,
        })
    }

    /// The same with a limit of the user's own for what an image may unpack to, in bytes.
    #[must_use]
    pub fn allow_unpacked(self, max_unpacked: Option<u64>) -> Self {
        Self {
            max_unpacked,
            ..self
        }
    }

    /// The user's own limit for what an image may unpack to, in bytes.
    #[must_use]
    pub fn max_unpacked(&self) -> Option<u64> {
        self.max_unpacked
    }

    /// The root itself: absolute, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// `content/`
    #[must_use]
    pub fn content(&self) -> PathBuf {
        self.inner.path.join("content")
    }

    /// `images/`
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.inner.path.join("images")
    }

    /// `refs/`
    #[must_use]
    pub fn refs(&self) -> PathBuf {
        self.inner.path.join("refs")
    }

    /// `rootfs/`
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.inner.path.join("rootfs")
    }

    /// `containers/`
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.inner.path.join("containers")
    }

    /// `networks/`. Made by the first network.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.inner.path.join("networks")
    }

    /// `volumes/`. Made by the first volume.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.inner.path.join("volumes")
    }

    /// `kernels/<arch>/`
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.inner.path.join("kernels").join(ARCH)
    }

    /// `events/`. Made by the first event.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.inner.path.join("events")
    }

    /// `run/`, or the private directory under `/tmp` that stands in for it when the path is too long for sockets.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.inner.run
    }

    /// The socket of a container's or machine's `what` (at most 20 letters): `run/<12 hex>.<what>.sock`.
    #[must_use]
    pub fn socket(&self, id: &str, what: &str) -> PathBuf {
        let short = id.get(..12).unwrap_or(id);
        self.inner.run.join(format!("{short}.{what}.sock"))
    }
}

fn run_dir(root: &Path) -> Result<PathBuf, Error> {
    let run = root.join("run");
    if run.as_os_str().len() + 1 + SOCKET_NAME <= SUN_PATH {
        return Ok(run);
    }
    let uid = rustix::process::getuid().as_raw();
    let hash = hex(&Sha256::digest(root.as_os_str().as_bytes())[..6]);
    let path = PathBuf::from(format!("/tmp/gourd-{uid}-{hash}"));
    private_dir(path, uid)
}

/// Makes a directory in a place where others write too, or checks that the one there is ours alone.
fn private_dir(path: PathBuf, uid: u32) -> Result<PathBuf, Error> {
    let wrong = |found: String| Error::Sockets {
        path: path.clone(),
        uid,
        found,
    };
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(wrong(error.to_string()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&path).map_err(|error| wrong(error.to_string()))?;
    if !found.is_dir() {
        return Err(wrong("not a directory".to_owned()));
    }
    if found.uid() != uid {
        return Err(wrong(format!("it belongs to user {}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong(format!("its mode is {:04o}", found.mode() & 0o7777)));
    }
    Ok(path)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_private_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(&dir.path().join("a/b")).unwrap();
        for path in [root.path(), root.run(), &root.content(), &root.kernels()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
        let id = "0123456789abcdef".repeat(4);
        assert!(
            root.socket(&id, "sup")
                .ends_with("run/0123456789ab.sup.sock")
        );
    }

    #[test]
    fn sockets_of_a_deep_root_lie_in_a_short_place() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100));
        let root = Root::open(&deep).unwrap();
        let again = Root::open(&deep).unwrap();
        assert_eq!(root.run(), again.run());
        let socket = root.socket(&"f".repeat(64), "twenty-letters-of-it");
        assert!(socket.as_os_str().len() <= SUN_PATH);
        std::os::unix::net::UnixListener::bind(&socket).unwrap();
        fs::remove_dir_all(root.run()).unwrap();
    }

    #[test]
    fn a_fallback_that_others_could_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let error = private_dir(open.clone(), uid).unwrap_err();
        assert!(error.to_string().ends_with("its mode is 0755"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        let error = private_dir(link, uid).unwrap_err();
        assert!(error.to_string().ends_with("not a directory"), "{error}");
        let error = private_dir(open, uid + 1).unwrap_err();
        assert!(error.to_string().contains("belongs to"), "{error}");
    }

    #[test]
    fn an_unusable_root_is_named_with_its_cause() {
        let error = Root::open(Path::new("/proc/gourd")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the state directory /proc/gourd cannot be used"
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "cannot create /proc/gourd");
    }
}
