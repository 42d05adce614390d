//! A blob, or a part of one, on its way: over as many connections as it takes, each going on where the last one stopped.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use oci::{Descriptor, DigestCheck, VerifyError};

use crate::Client;
use crate::client::is_worth_retrying;
use crate::endpoint::Site;
use crate::error::Error;
use crate::transport::Answer;

/// How often a blob may be gone on with, whatever progress was made.
const MAX_RECONNECTS: u32 = 100;

/// Bytes that are progress: whoever sends fewer in the time that a transfer may stand still has stopped.
const PROGRESS: usize = 1 << 10;

/// See the module.
pub(crate) struct Transfer {
    client: Client,
    /// Where to ask, the registry itself last.
    sites: Vec<Site>,
    site: usize,
    descriptor: Descriptor,
    /// For the digest of the whole; not for parts.
    check: Option<DigestCheck>,
    position: u64,
    end: u64,
    /// Somebody refused to send a part: all is asked for, and what is there already is skipped.
    no_ranges: bool,
    /// The open connection, if there is one.
    body: Option<Incoming>,
    /// It brings the part that was asked for, not the whole.
    is_ranged: bool,
    host: String,
    /// Bytes at the start of the answer that are there already, when a server ignores ranges.
    skip: u64,
    failures: u32,
    reconnects: u32,
    /// For how long fewer bytes than are progress have been waited for, and how many came.
    waited: Duration,
    trickle: usize,
}

impl Transfer {
    /// All that `check`, which was made for `descriptor`, has not seen.
    pub(crate) fn whole(
        client: &Client,
        sites: Vec<Site>,
        descriptor: &Descriptor,
        check: DigestCheck,
    ) -> Self {
        let range = check.received()..descriptor.size;
        Self {
            check: Some(check),
            ..Self::part(client, sites, descriptor, range)
        }
    }

    /// A range of the blob; its digest is not checked.
    pub(crate) fn part(
        client: &Client,
        sites: Vec<Site>,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Self {
        Self {
            client: client.clone(),
            host: sites.first().map(Site::host).unwrap_or_default(),
            sites,
            site: 0,
            descriptor: descriptor.clone(),
            check: None,
            position: range.start,
            end: range.end.min(descriptor.size),
            no_ranges: false,
            body: None,
            is_ranged: false,
            skip: 0,
            failures: 0,
            reconnects: 0,
            waited: Duration::ZERO,
            trickle: 0,
        }
    }

    /// Nothing is left to ask for.
    pub(crate) fn is_done(&self) -> bool {
        self.position >= self.end
    }

    /// The blob has no bytes at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.descriptor.size == 0
    }

    /// Where the next bytes belong.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The open connection brings only what was asked for.
    pub(crate) fn is_ranged(&self) -> bool {
        self.is_ranged
    }

    /// Goes on to the blob's end.
    pub(crate) fn go_on_to_the_end(&mut self) {
        self.end = self.descriptor.size;
    }

    fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    fn verify_error(&self, source: VerifyError) -> Error {
        Error::Verify {
            host: self.host.clone(),
            repository: self.sites[self.site].repository.clone(),
            source,
        }
    }

    /// The blob ends or would end after `got` bytes, and should not.
    fn wrong_size(&self, got: u64) -> Error {
        let (digest, expected) = (self.descriptor.digest, self.descriptor.size);
        self.verify_error(match got < expected {
            true => VerifyError::Truncated {
                digest,
                expected,
                got,
            },
            false => VerifyError::TooLong { digest, expected },
        })
    }

    /// Asks for what is missing, at one place after the other.
    pub(crate) async fn open(&mut self) -> Result<(), Error> {
        loop {
            let error = match self.open_here().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if site_is_mirror(&self.sites, self.site) {
                self.client.mirror_failed(&self.sites[self.site], &error);
                self.site += 1;
                continue;
            }
            match error {
                Error::Range {
                    size: Some(got), ..
                } if got != self.descriptor.size => {
                    return Err(self.wrong_size(got));
                }
                // Some refuse in other words.
                Error::Range { .. }
                | Error::Status {
                    status: 400 | 405 | 501,
                    ..
                } if self.wants_range() => {
                    tracing::debug!(%error, "no parts here, asking for the whole");
                    self.no_ranges = true;
                }
                error => return Err(error),
            }
        }
    }

    fn wants_range(&self) -> bool {
        !self.no_ranges && (self.position > 0 || self.end < self.descriptor.size)
    }

    async fn open_here(&mut self) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.wants_range() {
            let last = match self.end < self.descriptor.size {
                true => (self.end - 1).to_string(),
                false => String::new(),
            };
            let range = HeaderValue::from_str(&format!("bytes={}-{last}", self.position));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let digest = self.descriptor.digest.to_string();
        let path = ("blobs", digest.as_str());
        let label = format!("blob {digest}");
        let site = &self.sites[self.site];
        let answer = self.client.get(site, path, &label, headers).await?;
        self.host.clone_from(&answer.host);
        self.check_length(&answer)?;
        self.is_ranged = answer.status() == 206;
        self.skip = if self.is_ranged { 0 } else { self.position };
        (self.waited, self.trickle) = (Duration::ZERO, 0);
        self.body = Some(answer.response.into_body());
        Ok(())
    }

    /// An answer that promises something else than what was asked for need not be read.
    fn check_length(&self, answer: &Answer) -> Result<(), Error> {
        if answer.status() == 206 {
            let range = answer.header(CONTENT_RANGE.as_str()).unwrap_or_default();
            let (start, size) = parse_range(range);
            if start != Some(self.position) {
                return Err(Error::Protocol {
                    host: self.host.clone(),
                    what: format!(
                        "asked for bytes from {} on, it sent {range:?}",
                        self.position
                    ),
                });
            }
            return match size.filter(|size| *size != self.descriptor.size) {
                Some(size) => Err(self.wrong_size(size)),
                None => Ok(()),
            };
        }
        let length = answer.header(CONTENT_LENGTH.as_str());
        let length = length.and_then(|length| length.parse().ok());
        match length.filter(|length| *length != self.descriptor.size) {
            Some(length) => Err(self.wrong_size(length)),
            None => Ok(()),
        }
    }

    /// The next bytes; `None` when all came and are right.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.is_done() {
                return self.finish().await.map(|()| None);
            }
            let Some(body) = &mut self.body else {
                if let Err(error) = self.open().await {
                    self.give_up_or_pause(error).await?;
                }
                continue;
            };
            let stall = self.client.timeouts().stall;
            let begin = Instant::now();
            let patience = stall.saturating_sub(self.waited);
            let frame = tokio::time::timeout(patience, body.frame()).await;
            self.waited += begin.elapsed();
            let error = match frame {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    match self.accept(data)? {
                        Some(data) => return Ok(Some(data)),
                        None => continue,
                    }
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, blob = %self.descriptor.digest, "a transfer broke");
                    self.wrong_size(self.position)
                }
                Ok(None) => self.wrong_size(self.position),
                Err(_) => Error::Stalled {
                    host: self.host.clone(),
                    secs: stall.as_secs(),
                },
            };
            self.body = None;
            self.give_up_or_pause(error).await?;
        }
    }

    /// Takes in a piece, less what was there already.
    fn accept(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Error> {
        self.trickle = self.trickle.saturating_add(data.len());
        if self.trickle >= PROGRESS {
            (self.waited, self.trickle) = (Duration::ZERO, 0);
        }
        let skipped = self.skip.min(data.len() as u64);
        self.skip -= skipped;
        // The minimum of a length is a length.
        let mut data = data.split_off(skipped as usize);
        if data.is_empty() {
            return Ok(None);
        }
        if data.len() as u64 > self.remaining() {
            if self.is_ranged || self.end == self.descriptor.size {
                return Err(self.wrong_size(u64::MAX));
            }
            // The whole comes, and only a part is wanted.
            data.truncate(self.remaining() as usize);
        }
        if let Some(check) = &mut self.check {
            let updated = check.update(&data);
            updated.map_err(|e| self.verify_error(e))?;
        }
        self.position += data.len() as u64;
        self.failures = 0;
        Ok(Some(data))
    }

    /// All bytes are there: nothing may follow, and the digest must be right.
    async fn finish(&mut self) -> Result<(), Error> {
        let ends_here = self.is_ranged || self.end == self.descriptor.size;
        if let Some(mut body) = self.body.take().filter(|_| ends_here) {
            let stall = self.client.timeouts().stall;
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(stall, body.frame()).await {
                if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                    return Err(self.wrong_size(u64::MAX));
                }
            }
        }
        match &self.check {
            Some(check) => check.clone().finish().map_err(|e| self.verify_error(e)),
            None => Ok(()),
        }
    }

    /// Waits before the next try, or returns the error if there shall be none.
    async fn give_up_or_pause(&mut self, error: Error) -> Result<(), Error> {
        self.failures += 1;
        self.reconnects += 1;
        let is_truncated = matches!(
            error,
            Error::Verify {
                source: VerifyError::Truncated { .. },
                ..
            }
        );
        if self.reconnects > MAX_RECONNECTS || !(is_truncated || is_worth_retrying(&error)) {
            return Err(error);
        }
        if site_is_mirror(&self.sites, self.site) {
            self.site += 1;
            return Ok(());
        }
        match self.client.retry().pause(self.failures, None) {
            None => Err(error),
            Some(pause) => {
                tracing::debug!(%error, ?pause, "going on with a blob");
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

fn site_is_mirror(sites: &[Site], at: usize) -> bool {
    sites[at].endpoint.is_mirror && at + 1 < sites.len()
}

/// The first byte and the whole's size in `bytes first-last/size`; the size may be `*`.
pub(crate) fn parse_range(range: &str) -> (Option<u64>, Option<u64>) {
    let parse = || {
        let (range, size) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split('-').next()?.trim(), size.trim()))
    };
    let (start, size) = parse().unwrap_or_default();
    (start.parse().ok(), size.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text, expect| assert_eq!(parse_range(text), expect, "{text}");
        check("bytes 5-9/10", (Some(5), Some(10)));
        check("bytes 5-9/*", (Some(5), None));
        check("bytes */10", (None, Some(10)));
        check("bytes 5-9", (None, None));
        check("lines 5-9/10", (None, None));
        check("", (None, None));
    }
}
