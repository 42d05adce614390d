//! `gourd-vmm`: the confined process that touches what a guest controls.
//!
//! Beside QEMU it is the vsock device, and the file system device of shared folders. Its parent hands it everything as descriptors; it opens nothing, and gives up
//! the right to before it looks at the first byte of the guest:
//!
//! - `--vhost-user-fd N`: a connected `AF_UNIX` stream socket, QEMU at the other end;
//! - `--control-fd N`: an `AF_UNIX` seqpacket socket, the supervisor at the other end (`vmm::control`);
//! - `--share-fd N`: another socket to QEMU, for a file system device, and after it `--folder N:ro|rw:NAME` for each folder
//!   that it shares;
//! - any other inherited descriptor is kept open: that is what a lease is.
//!
//! `gourd-vmm machine --control-fd N` is the other mode: a whole machine on KVM (`vmm::monitor`). The first packet on the
//! control socket describes it and names the inherited descriptors that it is made of.
//!
//! It ends with 0 when QEMU or the supervisor is gone, with 1 and a line on standard error when something broke, with
//! 2 when called wrongly.

#[cfg(target_os = "linux")]
#[path = "main/linux.rs"]
mod host;
#[cfg(not(target_os = "linux"))]
#[path = "main/other.rs"]
mod host;

fn main() -> std::process::ExitCode {
    host::main()
}
