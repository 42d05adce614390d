//! The health check of a container: the request's, over the image's, over Docker's defaults.

use oci::ContainerConfig;
use store::container::HealthCheck;

use super::HealthRequest;
use crate::Error;

const SECOND: u64 = 1_000_000_000;
const INTERVAL: u64 = 30 * SECOND;
const TIMEOUT: u64 = 30 * SECOND;
const START_INTERVAL: u64 = 5 * SECOND;
const RETRIES: u32 = 3;
/// What a shell's command line goes to when the image names no other shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// `None`: there is no check.
pub(super) fn check(
    image: &ContainerConfig,
    request: &HealthRequest,
) -> Result<Option<HealthCheck>, Error> {
    if request.disabled {
        return Ok(None);
    }
    let from_image = image.healthcheck.clone().unwrap_or_default();
    // An empty command line is none, as with Docker.
    let own = request.command.as_ref().filter(|line| !line.is_empty());
    let test = match own {
        Some(line) if line.contains('\0') => {
            return Err(Error::invalid(
                "health check",
                format!("{line:?} contains a NUL"),
            ));
        }
        Some(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        None => from_image.test.clone(),
    };
    let args = match test.split_first() {
        None => return Ok(None),
        Some((kind, rest)) => match (kind.as_str(), rest) {
            ("CMD", [_, ..]) => rest.to_vec(),
            ("CMD-SHELL", [line, ..]) => shell(image).into_iter().chain([line.clone()]).collect(),
            ("NONE", _) => return Ok(None),
            _ => {
                // An image's own mistake does not keep it from running.
                tracing::warn!(?test, "the image has a health check that is none");
                return Ok(None);
            }
        },
    };
    let time = |own: Option<std::time::Duration>, image: i64, default: u64| {
        let own = own.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        [own.unwrap_or(0), u64::try_from(image).unwrap_or(0)]
            .into_iter()
            .find(|time| *time != 0)
            .unwrap_or(default)
    };
    let retries = [
        request.retries.unwrap_or(0),
        u32::try_from(from_image.retries).unwrap_or(0),
    ];
    Ok(Some(HealthCheck {
        args,
        test,
        interval_ns: time(request.interval, from_image.interval, INTERVAL),
        timeout_ns: time(request.timeout, from_image.timeout, TIMEOUT),
        start_period_ns: time(request.start_period, from_image.start_period, 0),
        start_interval_ns: time(
            request.start_interval,
            from_image.start_interval,
            START_INTERVAL,
        ),
        retries: retries
            .into_iter()
            .find(|count| *count != 0)
            .unwrap_or(RETRIES),
    }))
}

fn shell(image: &ContainerConfig) -> Vec<String> {
    // Docker's, no part of the specification.
    let own = image
        .other
        .get("Shell")
        .and_then(serde_json::Value::as_array);
    let own = own.map(|words| {
        let words = words.iter().filter_map(serde_json::Value::as_str);
        words.map(str::to_owned).collect::<Vec<_>>()
    });
    own.filter(|words| !words.is_empty())
        .unwrap_or_else(|| SHELL.map(str::to_owned).to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn image(test: &[&str], interval: i64, retries: i64) -> ContainerConfig {
        ContainerConfig {
            healthcheck: Some(oci::Healthcheck {
                test: test.iter().map(|word| (*word).to_owned()).collect(),
                interval,
                retries,
                ..oci::Healthcheck::default()
            }),
            ..ContainerConfig::default()
        }
    }

    /// Docker's merge (daemon/commit.go) and defaults (daemon/health.go).
    #[test]
    fn merged() {
        let check =
            |image: &ContainerConfig, request: &HealthRequest, expect: Option<(&str, u64, u32)>| {
                let merged = check(image, request).unwrap();
                let merged = merged.map(|check| {
                    (
                        check.args.join(" "),
                        check.interval_ns / SECOND,
                        check.retries,
                    )
                });
                assert_eq!(
                    merged,
                    expect.map(|(args, interval, retries)| (args.to_owned(), interval, retries)),
                    "{request:?}"
                );
            };
        let none = HealthRequest::default();
        let own = HealthRequest {
            command: Some("test -e x".to_owned()),
            ..none.clone()
        };
        let often = HealthRequest {
            interval: Some(Duration::from_secs(2)),
            ..none.clone()
        };
        let off = HealthRequest {
            disabled: true,
            ..none.clone()
        };
        let bare = ContainerConfig::default();
        check(&bare, &none, None);
        check(&bare, &often, None);
        check(&bare, &own, Some(("/bin/sh -c test -e x", 30, 3)));
        let with = image(&["CMD", "probe", "-q"], 7_000_000_000, 9);
        check(&with, &none, Some(("probe -q", 7, 9)));
        check(&with, &often, Some(("probe -q", 2, 9)));
        check(&with, &own, Some(("/bin/sh -c test -e x", 7, 9)));
        check(&with, &off, None);
        check(&image(&["NONE"], 0, 0), &none, None);
        check(&image(&["CMD"], 0, 0), &none, None);
        check(&image(&["PING", "x"], 0, 0), &none, None);
        check(&image(&[], 5, -1), &none, None);
        let line = image(&["CMD-SHELL", "a | b"], -4, -1);
        check(&line, &none, Some(("/bin/sh -c a | b", 30, 3)));
        let mut own_shell = line;
        let words = serde_json::json!(["/bin/bash", "-ec"]);
        own_shell.other.insert("Shell".to_owned(), words);
        check(&own_shell, &none, Some(("/bin/bash -ec a | b", 30, 3)));
    }
}
