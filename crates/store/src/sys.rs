//! What needs `unsafe`: a system call that nobody wraps.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Asks the kernel to bring to the disk what of the file is not on its way yet, and does not wait until it is there
/// (sync_file_range(2)). It promises nothing, and takes no error of an earlier write away from the sync that follows:
/// whatever goes wrong, that one tells.
pub(crate) fn start_writing(file: &File) {
    // SAFETY: the descriptor is open for as long as the file is borrowed, and the call touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
