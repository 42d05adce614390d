//! Shared folders for a guest without manners: one that may be written, one that may not, and something beside them that is
//! none of its business.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::fs::{Folder, Server};

const SECRET: &str = "nobody's business";

/// A folder of this thread's own. What a guest left in it is gone when the next one comes.
pub struct Ground {
    path: PathBuf,
}

impl Ground {
    /// As every guest finds it.
    pub fn new() -> Ground {
        thread_local! {
            static PATH: PathBuf = {
                let name = format!("gourd-hostile-{}-{:?}", std::process::id(), std::thread::current().id());
                std::env::temp_dir().join(name.replace(['(', ')'], ""))
            };
        }
        let ground = Ground {
            path: PATH.with(PathBuf::clone),
        };
        for folder in ["rw/d", "ro/d"] {
            fs::create_dir_all(ground.path.join(folder)).expect("a folder");
        }
        for (file, text) in [("rw/a", "text"), ("ro/a", "text"), ("key", SECRET)] {
            fs::write(ground.path.join(file), text).expect("a file");
        }
        ground
    }

    /// Its two folders, served.
    pub fn server(&self) -> Server {
        let folder = |name: &str, read_only| Folder {
            name: CString::new(name).expect("a name"),
            fd: File::open(self.path.join(name)).expect("a folder").into(),
            read_only,
        };
        Server::new(vec![folder("rw", false), folder("ro", true)], 64).expect("a server")
    }
}

/// The end: what the guest was not given is as it was.
impl Drop for Ground {
    fn drop(&mut self) {
        let found = Found::at(&self.path);
        empty(&self.path);
        let _ = fs::remove_dir(&self.path);
        if !std::thread::panicking() {
            let fine = Found {
                outside: ["key", "ro", "rw"].map(str::to_owned).into(),
                read_only: ["a", "d"].map(str::to_owned).into(),
                texts: vec![SECRET.to_owned(), "text".to_owned()],
            };
            assert_eq!(found, fine);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    outside: Vec<String>,
    read_only: Vec<String>,
    texts: Vec<String>,
}

impl Found {
    fn at(path: &Path) -> Found {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).expect("a folder").flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        let text = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        Found {
            outside: names(path),
            read_only: names(&path.join("ro")),
            texts: vec![text("key"), text("ro/a")],
        }
    }
}

/// Removes all in a folder, whatever rights the guest gave it.
fn empty(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => {
                empty(&path);
                let _ = fs::remove_dir(&path);
            }
            false => {
                let _ = fs::remove_file(&path);
            }
        }
    }
}
