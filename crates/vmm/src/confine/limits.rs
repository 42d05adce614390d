//! Resource limits of a process, hard ones: nothing that runs in it gets them back.

use std::io;

/// No core file, which would hold what the guest had in its memory, and at most `data` bytes of private writable memory.
///
/// Not of address space: what the C library and a sanitizer only reserve counts there, and what a guest can make grow is
/// what is written. Only system calls; safe between fork and exec.
pub fn set(data: Option<u64>) -> io::Result<()> {
    lower(libc::RLIMIT_CORE, 0)?;
    match data {
        Some(bytes) => lower(libc::RLIMIT_DATA, bytes),
        None => Ok(()),
    }
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure lives for the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_cur.min(most);
    limit.rlim_max = limit.rlim_max.min(most);
    // SAFETY: as above.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
