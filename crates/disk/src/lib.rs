//! Disk images: raw and qcow2, sparse copies, clones, conversion, growing.
//!
//! A VM's disk is always a raw file. What users bring is something else: [`convert`](fn@convert) makes a raw file of a
//! qcow2 image with its backing files, of a raw image, and of either of them compressed with gzip, bzip2, xz or zstd;
//! [`describe`] says what a file is without converting it. Holes stay holes, and what reads as zeros becomes one.
//!
//! Synchronous, holds no state; the caller owns the files and their durability. Images are foreign bytes: the parser
//! of qcow2 is total, in memory bounded by what it checked against the file's length, and every failure
//! ([`ImageError`]) names the file and what to do.

mod chain;
mod convert;
mod describe;
mod foreign;
mod image_error;
mod qcow2;
mod raw;
mod sparse;
mod wrapper;

pub use chain::{Backing, Format, Image, OpenOptions};
pub use convert::{Converted, Progress, convert};
pub use describe::{Description, Qcow2Description, describe};
pub use image_error::ImageError;
pub use qcow2::Compression;
pub use raw::{Copied, Error, allocated, clear, copy, create_sparse, grow};
pub use wrapper::Wrapper;
