//! A checker: what is wrong with a file system, and where.
//!
//! Like e2fsck's five passes, without mending anything: superblock and descriptors; every inode with its blocks and
//! extended attributes; directories; connectivity and link counts; bitmaps and counters. It trusts nothing, and goes on
//! behind what is wrong as far as that makes sense, so that one damage may be found in several ways.
//!
//! Memory: one bit per block in use, some 32 bytes per inode in use, and the findings, of which a bounded number is kept.
//! A journal is not replayed: one that waits is a note, and what is found then may be what it would mend.

mod bitmaps;
mod bits;
mod blocks;
mod directories;
mod finding;
mod geometry;
mod groups;
mod htree;
mod inodes;
mod journal;
mod links;
mod state;
mod xattrs;

use crate::read::{self, Source};
use crate::superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};

pub use finding::{Finding, Place};
use geometry::Geometry;
use state::Checker;

/// How many findings a report keeps; it counts all.
const MOST_FINDINGS: usize = 1000;

/// What [`check`] found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, in the order of the passes; the first thousand.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub errors: u64,
    /// What is not wrong but worth knowing: a journal that waits, a file system that was not unmounted.
    pub notes: Vec<String>,
    /// A journal waits to be replayed: what is found may be what it would mend.
    pub needs_recovery: bool,
    /// The label.
    pub label: Vec<u8>,
    /// Bytes of a block.
    pub block_size: u32,
    /// All blocks, and those in use.
    pub blocks: u64,
    /// Blocks that files and metadata own.
    pub used_blocks: u64,
    /// All inodes.
    pub inodes: u32,
    /// Inodes in use, reserved ones included.
    pub used_inodes: u64,
    /// Directories among them.
    pub directories: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    fn add(&mut self, place: Place, problem: String) {
        self.errors += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { place, problem });
        }
    }
}

/// Checks a file system.
///
/// # Errors
/// It is no ext4 file system, has features that are not known here, or cannot be read.
pub fn check<S: Source>(source: &S) -> read::Result<Report> {
    let mut raw = [0; SUPERBLOCK_SIZE];
    read::read_exact(source, &mut raw, SUPERBLOCK_OFFSET)?;
    let mut report = Report::default();
    let superblock = match Superblock::parse(&raw) {
        Ok(superblock) => superblock,
        Err((field @ "s_magic", value)) => return Err(read::Error::Superblock { field, value }),
        Err((field, value)) => {
            report.add(Place::Superblock, format!("{field} is {value:#x}"));
            return Ok(report);
        }
    };
    let Some(geometry) = Geometry::new(source, &raw, superblock, &mut report)? else {
        return Ok(report);
    };
    let mut checker = Checker::new(source, geometry, report);
    checker.groups()?;
    checker.orphans()?;
    checker.inodes()?;
    checker.directories()?;
    checker.links();
    checker.bitmaps()?;
    checker.journal()?;
    Ok(checker.finish())
}
