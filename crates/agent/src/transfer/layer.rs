//! The changes of a container as an OCI layer, and as a list of records.

use rustix::fs::FileType;

use super::changes::{Change, Object, Sink};
use super::pack::{Packer, shown};
use super::pipe::Output;
use crate::failure::Failed;

/// What the name of a whiteout begins with (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Writes a layer.
pub(super) struct Layer(pub(super) Packer);

impl Sink for Layer {
    fn put(&mut self, _: Change, path: &[u8], object: Object<'_>) -> Result<(), Failed> {
        if split(path).1.starts_with(WHITEOUT) {
            let why = "a name that begins with \".wh.\" means a removed file in a layer";
            return Err(Failed::invalid("pack", shown(path), why));
        }
        let path = path.strip_prefix(b"/").unwrap_or(path);
        match object {
            Object::Directory(directory, stat) => self.0.directory(directory, stat, path),
            Object::Other(directory, name) => self
                .0
                .object(directory, name, FileType::Unknown, path)
                .map(drop),
        }
    }

    fn deleted(&mut self, path: &[u8]) -> Result<(), Failed> {
        let (parent, name) = split(path);
        let marked = [parent, b"/", WHITEOUT, name].concat();
        self.0
            .mark(marked.strip_prefix(b"/").unwrap_or(&marked).to_vec())
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Writes records: a letter, the path, a zero byte.
pub(super) struct List(pub(super) Output);

impl List {
    fn record(&mut self, letter: u8, path: &[u8]) -> Result<(), Failed> {
        self.0.put(&[letter])?;
        self.0.put(path)?;
        self.0.put(&[0])
    }
}

impl Sink for List {
    fn put(&mut self, change: Change, path: &[u8], _: Object<'_>) -> Result<(), Failed> {
        let letter = match change {
            Change::Added => b'A',
            Change::Changed => b'C',
        };
        self.record(letter, path)
    }

    fn deleted(&mut self, path: &[u8]) -> Result<(), Failed> {
        self.record(b'D', path)
    }
}
