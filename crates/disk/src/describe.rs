//! What a file is, without converting it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::chain::{self, Format, OpenOptions, START};
use crate::image_error::ImageError;
use crate::qcow2::{self, Compression};
use crate::wrapper::Wrapper;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The image.
    pub format: Format,
    /// What is around it.
    pub wrapper: Option<Wrapper>,
    /// Length of the disk in bytes; not known of a compressed raw disk.
    pub size: Option<u64>,
    /// Length of the file in bytes.
    pub file_size: u64,
    /// Bytes that the file takes on its disk.
    pub allocated: u64,
    /// Of a qcow2 image.
    pub qcow2: Option<Qcow2Description>,
}

/// What a qcow2 image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Description {
    /// 2 or 3.
    pub version: u32,
    /// In bytes.
    pub cluster_size: u64,
    /// How clusters are compressed, if any is.
    pub compression: Compression,
    /// Clusters are allocated by 32nds.
    pub extended_l2: bool,
    /// How many snapshots there are; they are not read.
    pub snapshots: u32,
    /// The backing file's name as it stands there.
    pub backing: Option<String>,
    /// The backing file's format as it stands there.
    pub backing_format: Option<String>,
    /// Why it cannot be read, and what makes it readable.
    pub refusal: Option<(String, &'static str)>,
}

/// Looks at a file; of its contents only the first bytes. Images that cannot be read are described as well.
///
/// # Errors
/// The file cannot be read; its header is damaged; it is an image of another format.
pub fn describe(path: &Path, options: &OpenOptions) -> Result<Description, ImageError> {
    let file = File::open(path).map_err(ImageError::at("open", path))?;
    let metadata = file.metadata().map_err(ImageError::at("stat", path))?;
    let read = |most| chain::read_start(&file, most).map_err(ImageError::at("read", path));
    let start = read(START)?;
    let wrapper = match options.format {
        None => Wrapper::detect(&start),
        Some(_) => None,
    };
    let start = match wrapper {
        None => start,
        Some(wrapper) => unwrap_start(&file, wrapper).map_err(|source| ImageError::Unwrap {
            path: path.to_owned(),
            wrapper,
            source,
        })?,
    };
    let format = match options.format {
        Some(format) => format,
        None => chain::detect(&start, path)?,
    };
    let qcow2 = match (format, wrapper) {
        (Format::Raw, _) => None,
        (Format::Qcow2, None) => Some(chain::read_header(&file, path)?),
        (Format::Qcow2, Some(_)) => Some(chain::parse_header(&start, path)?),
    };
    let size = match (&qcow2, wrapper) {
        (Some(header), _) => Some(header.size),
        (None, None) => Some(metadata.len()),
        (None, Some(_)) => None,
    };
    Ok(Description {
        format,
        wrapper,
        size,
        file_size: metadata.len(),
        allocated: metadata.blocks() * 512,
        qcow2: qcow2.map(describe_qcow2),
    })
}

fn unwrap_start(mut file: &File, wrapper: Wrapper) -> std::io::Result<Vec<u8>> {
    std::io::Seek::rewind(&mut file)?;
    let mut start = Vec::new();
    let stream = wrapper.reader(BufReader::new(file))?;
    stream.take(qcow2::MOST as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn describe_qcow2(header: qcow2::Header) -> Qcow2Description {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Qcow2Description {
        version: header.version,
        cluster_size: header.cluster_size(),
        compression: header.compression,
        extended_l2: header.extended_l2,
        snapshots: header.snapshots,
        refusal: header
            .refusal
            .map(|refusal| (refusal.what(), refusal.remedy())),
        backing: header.backing.map(text),
        backing_format: header.backing_format.map(text),
    }
}
