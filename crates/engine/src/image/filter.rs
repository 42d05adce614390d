//! Which images are meant: Docker's `--filter`.

use std::collections::BTreeMap;

use serde::Deserialize;
use store::Root;

use super::{ImageSummary, find, list};
use crate::{Engine, Error};

/// Which images are meant. What says nothing leaves nothing out; what says several things wants all of them, but of
/// `references` one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageFilter {
    /// Only those without a reference, or only those with one.
    pub dangling: Option<bool>,
    /// With these labels; a value of `None` is any.
    pub labels: Vec<(String, Option<String>)>,
    /// Without these labels.
    pub without_labels: Vec<(String, Option<String>)>,
    /// Built before this image.
    pub before: Option<String>,
    /// Built after this image.
    pub since: Option<String>,
    /// Built before this time, in nanoseconds since 1970.
    pub until_ns: Option<u64>,
    /// Patterns of familiar references, with or without the tag; `*` stands for all but a slash.
    pub references: Vec<String>,
}

impl Engine {
    /// Images that a filter lets through, newest first. With `references`, only those that match are listed of each.
    ///
    /// # Errors
    /// A record that cannot be read; no such image as the filter names.
    pub fn images_filtered(&self, filter: &ImageFilter) -> Result<Vec<ImageSummary>, Error> {
        let bounds = Bounds::new(&self.root, filter)?;
        let mut images = self.images()?;
        images.retain(|image| matches(image, filter, bounds));
        if !filter.references.is_empty() {
            for image in &mut images {
                image
                    .references
                    .retain(|reference| is_called(reference, &filter.references));
            }
        }
        Ok(images)
    }
}

/// `before` and `since` as times.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    before_ns: Option<u64>,
    since_ns: Option<u64>,
}

impl Bounds {
    pub(super) fn new(root: &Root, filter: &ImageFilter) -> Result<Self, Error> {
        let built = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let (record, _) = find::find(root, name)?;
            let summary = list::summary(root, &record)?;
            Ok::<_, Error>(Some(summary.created_ns.unwrap_or(0)))
        };
        Ok(Self {
            before_ns: built(&filter.before)?,
            since_ns: built(&filter.since)?,
        })
    }
}

/// Whether a filter lets an image through.
pub(super) fn matches(image: &ImageSummary, filter: &ImageFilter, bounds: Bounds) -> bool {
    let created = image.created_ns.unwrap_or(0);
    let older = |limit: Option<u64>| limit.is_none_or(|limit| created < limit);
    filter
        .dangling
        .is_none_or(|dangling| dangling == image.references.is_empty())
        && filter
            .labels
            .iter()
            .all(|label| has_label(&image.labels, label))
        && !filter
            .without_labels
            .iter()
            .any(|label| has_label(&image.labels, label))
        && older(filter.until_ns)
        && older(bounds.before_ns)
        && bounds.since_ns.is_none_or(|limit| created > limit)
        && (filter.references.is_empty()
            || image
                .references
                .iter()
                .any(|reference| is_called(reference, &filter.references)))
}

fn has_label(labels: &BTreeMap<String, String>, (name, value): &(String, Option<String>)) -> bool {
    labels
        .get(name)
        .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
}

/// Whether a reference, or its name alone, matches one of the patterns.
fn is_called(reference: &str, patterns: &[String]) -> bool {
    let untagged = reference.split('@').next().unwrap_or_default();
    let path = untagged.rfind('/').map_or(0, |slash| slash + 1);
    let colon = untagged[path..].find(':');
    let name = colon.map_or(untagged, |colon| &untagged[..path + colon]);
    patterns.iter().any(|pattern| {
        let pattern = pattern.as_bytes();
        glob(pattern, reference.as_bytes())
            || glob(pattern, untagged.as_bytes())
            || glob(pattern, name.as_bytes())
    })
}

/// Go's `path.Match`: `*` and `?` do not match a slash; `[a-z]`, `[^a]`, `\\x`. A pattern that is none matches nothing.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => {
            let reach = text.iter().position(|byte| *byte == b'/');
            (0..=reach.unwrap_or(text.len())).any(|skip| glob(rest, &text[skip..]))
        }
        [b'[', rest @ ..] => match text {
            [byte, text @ ..] if *byte != b'/' => match class(rest, *byte) {
                Some((true, rest)) => glob(rest, text),
                _ => false,
            },
            _ => false,
        },
        [first, rest @ ..] => {
            let (wanted, rest) = match (first, rest) {
                (b'\\', [escaped, rest @ ..]) => (Some(*escaped), rest),
                (b'?', rest) => (None, rest),
                (byte, rest) => (Some(*byte), rest),
            };
            match text {
                [byte, text @ ..] => {
                    wanted.map_or(*byte != b'/', |wanted| wanted == *byte) && glob(rest, text)
                }
                [] => false,
            }
        }
    }
}

/// Whether a byte is in a class, and what follows the class; `None` when it does not end.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    let mut first = true;
    loop {
        pattern = match pattern {
            [b']', rest @ ..] if !first => return Some((found != negated, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
            [] => return None,
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: Go's path.Match, the cases of its documentation.
    #[test]
    fn patterns() {
        let check = |pattern: &str, text: &str, expect: bool| {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                expect,
                "{pattern} {text}"
            );
        };
        check("abc", "abc", true);
        check("*", "abc", true);
        check("*c", "abc", true);
        check("a*", "ab/c", false);
        check("a*/b", "abc/b", true);
        check("a*b*c*d*e*/f", "axbxcxdxe/f", true);
        check("a?b", "a/b", false);
        check("ab[c]", "abc", true);
        check("ab[b-d]", "abc", true);
        check("ab[e-g]", "abc", false);
        check("ab[^c]", "abc", false);
        check("ab[^e-g]", "abc", true);
        check("a\\*b", "a*b", true);
        check("a\\*b", "ab", false);
        check("[", "a", false);
        check("", "", true);
    }

    #[test]
    fn references_match_with_and_without_their_tag() {
        let check = |reference: &str, pattern: &str, expect: bool| {
            let patterns = [pattern.to_owned()];
            assert_eq!(
                is_called(reference, &patterns),
                expect,
                "{reference} {pattern}"
            );
        };
        check("busybox:latest", "busybox", true);
        check("busybox:latest", "busy*:lat*", true);
        check("busybox:latest", "*:stable", false);
        check("localhost:5000/a/b:1", "localhost:5000/a/b", true);
        check("localhost:5000/a/b:1", "localhost:5000/*", false);
        check("localhost:5000/a/b:1", "localhost:5000/*/*", true);
        check("debian@sha256:00", "debian", true);
    }

    #[test]
    fn every_condition_counts() {
        let image = ImageSummary {
            id: String::new(),
            references: vec!["a:1".to_owned()],
            digests: BTreeMap::new(),
            created_ns: Some(100),
            size: 0,
            platform: String::new(),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let check = |filter: ImageFilter, expect: bool| {
            let got = matches(&image, &filter, Bounds::default());
            assert_eq!(got, expect, "{filter:?}");
        };
        let label = |value: Option<&str>| vec![("k".to_owned(), value.map(str::to_owned))];
        let all = ImageFilter::default;
        check(all(), true);
        check(
            ImageFilter {
                dangling: Some(true),
                ..all()
            },
            false,
        );
        check(
            ImageFilter {
                dangling: Some(false),
                ..all()
            },
            true,
        );
        check(
            ImageFilter {
                labels: label(None),
                ..all()
            },
            true,
        );
        check(
            ImageFilter {
                labels: label(Some("v")),
                ..all()
            },
            true,
        );
        check(
            ImageFilter {
                labels: label(Some("w")),
                ..all()
            },
            false,
        );
        check(
            ImageFilter {
                without_labels: label(None),
                ..all()
            },
            false,
        );
        check(
            ImageFilter {
                without_labels: label(Some("w")),
                ..all()
            },
            true,
        );
        check(
            ImageFilter {
                until_ns: Some(100),
                ..all()
            },
            false,
        );
        check(
            ImageFilter {
                until_ns: Some(101),
                ..all()
            },
            true,
        );
        let bounds = |before_ns, since_ns| Bounds {
            before_ns,
            since_ns,
        };
        assert!(!matches(&image, &all(), bounds(Some(100), None)));
        assert!(matches(&image, &all(), bounds(None, Some(99))));
        assert!(!matches(&image, &all(), bounds(None, Some(100))));
    }
}
