//! Layers become the file system that they should: what umoci unpacks as root, and what the OCI image specification
//! says where umoci is wrong. Each case of the design's torture set is a test.
//!
//! The kernel shows both sides: the rootfs image is mounted. So these tests need root, loop devices, umoci and e2fsprogs,
//! and fail without. To leave them out by name: `cargo nextest run -E 'not binary(layers)'`.

mod hostile;
mod large;
mod oracle;
mod torture;
