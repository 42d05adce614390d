//! Fetches what is missing of a blob, a large one in parts side by side.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Reference};
use tokio::sync::mpsc;

use crate::Client;
use crate::error::Error;
use crate::transfer::Transfer;

/// Some bytes of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the blob they belong.
    pub offset: u64,
    /// What they are.
    pub bytes: Bytes,
}

impl Client {
    /// Fetches the `missing` ranges of a blob, which are in order and don't overlap, and sends them as they come: those of
    /// different parts in any order. From a registry that serves no ranges comes more than is missing.
    ///
    /// Sizes are checked; the digest is the receiver's to check ([`Client::distrust_mirrors`] is for when it is wrong). When
    /// the receiver hangs up, that is the end, and no error of ours.
    ///
    /// # Errors
    /// See [`Error`]. What came before it may have been received.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        missing: &[Range<u64>],
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), Error> {
        let mut parts = split(missing, self.part_size()).into_iter();
        let Some(first) = parts.next() else {
            return Ok(());
        };
        let sites = self.sites(reference).await?;
        let mut transfer = Transfer::part(self, sites.clone(), descriptor, first);
        // Its answer says whether there is more than one way to go on.
        transfer.open().await?;
        if parts.len() > 0 && !transfer.is_ranged() {
            transfer.go_on_to_the_end();
            return pass_on(transfer, pieces).await;
        }
        let rest = parts.map(|part| {
            let sites = sites.clone();
            pass_on(Transfer::part(self, sites, descriptor, part), pieces).boxed()
        });
        let first = pass_on(transfer, pieces).boxed();
        stream::iter(std::iter::once(first).chain(rest))
            .buffer_unordered(self.parts_at_once())
            .try_collect()
            .await
    }
}

async fn pass_on(mut transfer: Transfer, pieces: &mpsc::Sender<Piece>) -> Result<(), Error> {
    loop {
        let offset = transfer.position();
        let Some(bytes) = transfer.next().await? else {
            return Ok(());
        };
        if pieces.send(Piece { offset, bytes }).await.is_err() {
            return Ok(());
        }
    }
}

/// Cuts ranges at multiples of `size`; those that together have less than two parts' bytes are left alone.
fn split(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if total < size.saturating_mul(2) {
        return ranges.to_vec();
    }
    let mut parts = Vec::new();
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            let next = (start / size + 1).saturating_mul(size);
            // No crumbs at the end.
            let end = match range.end.saturating_sub(next) < size / 2 {
                true => range.end,
                false => next,
            };
            parts.push(start..end);
            start = end;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ranges_are_cut() {
        let check = |ranges: &[(u64, u64)], expect: &[(u64, u64)]| {
            let given: Vec<Range<u64>> = ranges.iter().map(|(start, end)| *start..*end).collect();
            let parts = split(&given, 10);
            let parts: Vec<(u64, u64)> = parts.iter().map(|part| (part.start, part.end)).collect();
            assert_eq!(parts, expect, "{ranges:?}");
        };
        check(&[], &[]);
        check(&[(0, 19)], &[(0, 19)]);
        check(&[(0, 20)], &[(0, 10), (10, 20)]);
        check(&[(0, 34)], &[(0, 10), (10, 20), (20, 34)]);
        check(&[(0, 35)], &[(0, 10), (10, 20), (20, 30), (30, 35)]);
        check(&[(3, 5), (8, 30)], &[(3, 5), (8, 10), (10, 20), (20, 30)]);
        check(&[(3, 5), (8, 12)], &[(3, 5), (8, 12)]);
    }
}
