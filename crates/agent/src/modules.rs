//! Kernel modules of a kernel that has its drivers as modules. Runs in PID 1, before the agent.
//!
//! The initramfs holds `/modules/load`, one file name below `/modules` a line, a module after those that it needs
//! (`modules.dep` says which). A kernel that has everything built in comes without that file.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::failure::{Failed, Step};

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Loads what `directory/load` lists, in that order, and goes on after a failure: what is missing shows where it is
/// needed, and the agent can still say so. Returns the failures.
pub(crate) fn load_all(directory: &Path) -> Vec<Failed> {
    let list = match std::fs::read_to_string(directory.join("load")) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            return vec![Failed::os(
                "read the list of modules",
                directory.join("load").display(),
                error,
            )];
        }
    };
    parse_list(&list)
        .filter_map(|name| load(directory, name).err())
        .collect()
}

/// The file names in a list: one a line; blank lines and `#` lines say nothing.
fn parse_list(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn load(directory: &Path, name: &str) -> Result<(), Failed> {
    let file = File::open(directory.join(name)).step("open module", name)?;
    let flags = if name.ends_with(".ko") {
        0
    } else {
        MODULE_INIT_COMPRESSED_FILE
    };
    match rustix::system::finit_module(&file, c"", flags) {
        // Loaded already, or built in.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(Failed::os("load module", name, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_name_a_line() {
        let names: Vec<_> = parse_list("virtio_ring.ko\n\n# a comment\n virtio.ko \n").collect();
        assert_eq!(names, ["virtio_ring.ko", "virtio.ko"]);
    }

    #[test]
    fn no_list_is_no_module() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load_all(directory.path()).is_empty());
    }

    #[test]
    fn each_failure_names_its_module() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("load"), "missing.ko\n").unwrap();
        let failures = load_all(directory.path());
        assert_eq!(
            failures[0].to_string(),
            "open module missing.ko: No such file or directory"
        );
    }
}
