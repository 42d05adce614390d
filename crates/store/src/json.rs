//! Files of JSON that name the version of their schema.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file::{self, Durability};

/// How reading or writing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// The file is not what it should be.
    #[error("{} is corrupt", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Where in it, and what is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A newer gourd wrote it.
    #[error(
        "{} has schema version {found}, this gourd is older and knows versions up to {known}",
        path.display()
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

impl Error {
    /// The file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File(error) if error.is_not_found())
    }
}

#[derive(serde::Deserialize)]
struct Version {
    schema: u32,
}

/// Reads a file whose `schema` is at most `known`.
///
/// # Errors
/// As [`Error`] says.
pub fn read<T: DeserializeOwned>(path: &Path, known: u32) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(file::Error::at("read", path))?;
    parse(&bytes, path, known)
}

/// Parses what stood in the file `path`.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Newer`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path, known: u32) -> Result<T, Error> {
    let corrupt = |source| Error::Corrupt {
        path: path.to_owned(),
        source,
    };
    // The version first: fields of a newer schema may have other shapes.
    let Version { schema } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if schema > known {
        return Err(Error::Newer {
            path: path.to_owned(),
            found: schema,
            known,
        });
    }
    serde_json::from_slice(bytes).map_err(corrupt)
}

/// Replaces a file, whole or not at all.
///
/// # Errors
/// [`Error::File`].
pub fn write<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<(), Error> {
    Ok(file::write(path, &encode(path, value)?, durability)?)
}

/// Writes a file that is not there yet, where nobody looks before it is whole.
///
/// # Errors
/// [`Error::File`]; then it may be there in part.
pub fn write_new<T: Serialize>(
    path: &Path,
    value: &T,
    durability: Durability,
) -> Result<(), Error> {
    Ok(file::write_new(path, &encode(path, value)?, durability)?)
}

fn encode<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| {
        // Only maps with keys that are not text fail, and no schema of ours has one.
        file::Error::new("encode", path, std::io::Error::from(source))
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Thing {
        schema: u32,
        name: String,
    }

    fn check(text: &str, expect: &str) {
        let message = match parse::<Thing>(text.as_bytes(), Path::new("/r/x.json"), 2) {
            Ok(thing) => format!("{thing:?}"),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
            }
        };
        assert_eq!(message, expect);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        check(
            r#"{"schema":1,"name":"a"}"#,
            r#"Thing { schema: 1, name: "a" }"#,
        );
        check(
            r#"{"schema":3,"name":{"first":"a"}}"#,
            "/r/x.json has schema version 3, this gourd is older and knows versions up to 2",
        );
        check(
            "",
            "/r/x.json is corrupt: EOF while parsing a value at line 1 column 0",
        );
        check(
            "{\"schema\":1,\n\"name\":4}",
            "/r/x.json is corrupt: invalid type: integer `4`, expected a string at line 2 column 8",
        );
    }
}
