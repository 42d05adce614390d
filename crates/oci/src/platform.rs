//! Platforms, and which manifest of an index fits one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Descriptor, Index};

/// An operating system and processor, named as Go names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system: `linux`.
    pub os: String,
    /// The processor: `amd64`, `arm64`, …
    pub architecture: String,
    /// The processor's variant: `v2` of `amd64`, `v7` of `arm`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system's version (Windows).
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
}

/// A string that is not `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not of the form os/architecture[/variant], such as linux/amd64")]
pub struct PlatformError(pub String);

/// An index has nothing for the platform that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no image for {wanted}; offered: {}", list(.offered))]
pub struct NoMatchingPlatform {
    /// What was asked for.
    pub wanted: Platform,
    /// What there is, in the index's order.
    pub offered: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "nothing".to_owned();
    }
    let names: Vec<_> = platforms.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl Platform {
    /// `os/architecture` without a variant.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
            os_version: None,
        }
    }

    /// What a guest on this host runs: Linux on this program's own architecture.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self::new("linux", architecture)
    }

    /// How well something `offered` suits what is wanted (`self`): higher is better, `None` is
    /// not at all.
    ///
    /// A missing variant means the baseline: `v1` of `amd64`, `v8` of `arm64`, `v7` of `arm`. An
    /// offer above what is wanted would meet missing instructions, so it does not match. Programs
    /// of `386` run on `amd64`, and are taken where there are no others, as containerd has it.
    fn suitability(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == "amd64" && offered.architecture == "386" {
            return Some(0);
        }
        if self.architecture != offered.architecture {
            return None;
        }
        let wanted = self.variant_number();
        let have = offered.variant_number();
        match (wanted, have) {
            (Some(wanted), Some(have)) => (have <= wanted).then_some(have),
            _ => (self.named_variant() == offered.named_variant()).then_some(0),
        }
    }

    fn named_variant(&self) -> Option<&str> {
        self.variant.as_deref().filter(|v| !v.is_empty())
    }

    /// The variant as a number in tenths (`v8.1` is 81), baseline if there is none.
    fn variant_number(&self) -> Option<u32> {
        let Some(variant) = self.named_variant() else {
            return match self.architecture.as_str() {
                "amd64" => Some(10),
                "arm64" => Some(80),
                "arm" => Some(70),
                _ => None,
            };
        };
        let digits = variant.strip_prefix('v')?;
        let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
        let major: u8 = major.parse().ok()?;
        let minor: u8 = minor.parse().ok().filter(|m| *m < 10)?;
        Some(u32::from(major) * 10 + u32::from(minor))
    }

    /// Whether something built for `offered` runs where `self` is wanted.
    pub fn accepts(&self, offered: &Platform) -> bool {
        self.suitability(offered).is_some()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/').map(str::to_owned);
        let (Some(os), Some(architecture), variant, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PlatformError(text.to_owned()));
        };
        let word =
            |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
        if !word(&os) || !word(&architecture) || variant.as_deref().is_some_and(|v| !word(v)) {
            return Err(PlatformError(text.to_owned()));
        }
        Ok(Self {
            os,
            architecture,
            variant,
            os_version: None,
        })
    }
}

impl Index {
    /// The manifest (or nested index) for `wanted`: the best variant that runs there, the first of
    /// equals. Entries that name no platform are taken only if no other fits, as single-platform
    /// layouts leave it out; check the image configuration then.
    ///
    /// # Errors
    /// [`NoMatchingPlatform`], which lists what the index offers.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, NoMatchingPlatform> {
        let mut best: Option<(u32, &Descriptor)> = None;
        let mut unnamed = None;
        let mut offered = Vec::new();
        for entry in &self.manifests {
            if !(entry.media_type.is_manifest() || entry.media_type.is_index()) {
                continue;
            }
            let Some(platform) = &entry.platform else {
                unnamed = unnamed.or(Some(entry));
                continue;
            };
            // Build attestations are listed as manifests for "unknown/unknown".
            if platform.os == "unknown" || platform.architecture == "unknown" {
                continue;
            }
            if !offered.contains(platform) {
                offered.push(platform.clone());
            }
            if let Some(score) = wanted.suitability(platform)
                && best.is_none_or(|(previous, _)| score > previous)
            {
                best = Some((score, entry));
            }
        }
        best.map(|(_, entry)| entry)
            .or(unnamed)
            .ok_or_else(|| NoMatchingPlatform {
                wanted: wanted.clone(),
                offered,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, MediaType};

    fn index(offers: &[&str]) -> Index {
        let entry = |text: &&str| {
            let mut d = Descriptor::new(MediaType::OciManifest, Digest::of(text.as_bytes()), 1);
            d.platform = text.parse().ok();
            d
        };
        Index::new(offers.iter().map(entry).collect())
    }

    fn check(offers: &[&str], wanted: &str, expect: Option<&str>) {
        let index = index(offers);
        let got = index.select(&wanted.parse().unwrap()).ok();
        assert_eq!(
            got.map(|d| d.digest),
            expect.map(|e| Digest::of(e.as_bytes())),
            "{offers:?}"
        );
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        check(
            &["linux/arm64", "linux/amd64"],
            "linux/amd64",
            Some("linux/amd64"),
        );
        check(
            &["linux/amd64/v3", "linux/amd64"],
            "linux/amd64",
            Some("linux/amd64"),
        );
        check(
            &["linux/amd64", "linux/amd64/v2"],
            "linux/amd64/v3",
            Some("linux/amd64/v2"),
        );
        check(&["linux/amd64/v2"], "linux/amd64", None);
        check(
            &["linux/arm/v5", "linux/arm/v6"],
            "linux/arm",
            Some("linux/arm/v6"),
        );
        check(&["linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8"));
        check(&["windows/amd64", ""], "linux/amd64", Some(""));
        let both = ["linux/386", "linux/amd64"];
        check(&both, "linux/amd64", Some("linux/amd64"));
        check(&both[..1], "linux/amd64", Some("linux/386"));
        check(&both[1..], "linux/386", None);
        check(&["windows/386"], "linux/amd64", None);
        check(&["linux/s390x"], "linux/s390x", Some("linux/s390x"));
    }

    #[test]
    fn the_error_lists_what_is_offered() {
        let error = index(&["linux/arm64", "linux/arm/v7", "unknown/unknown"])
            .select(&Platform::new("linux", "amd64"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for linux/amd64; offered: linux/arm64, linux/arm/v7"
        );
    }

    #[test]
    fn platforms_parse() {
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/amd64/",
            "a/b/c/d",
            "linux/am d64",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "linux/arm/v7".parse::<Platform>().unwrap().to_string(),
            "linux/arm/v7"
        );
    }
}
