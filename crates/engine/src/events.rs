//! `events`: what happened, and what happens.
//!
//! Everybody who does something writes it down ([`store::events`]); here it is read, as it comes when that is asked for:
//! inotify(7) says when to look.

use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use store::TimeRange;
use store::events::{Event, Events, Follow, Kind};
use tokio::io::unix::AsyncFd;

use crate::{Engine, Error, sys};

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventsOptions {
    /// Without a beginning, and with `follow`: those from now on.
    pub range: TimeRange,
    /// Wait for more.
    pub follow: bool,
    /// Only those.
    pub filter: EventFilter,
}

/// Words of a filter that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// There is no such key.
    #[error(
        "there is no filter {0:?}; there are container, event, image, label, network, type, volume"
    )]
    Key(String),
    /// There is no such type.
    #[error("there is no type {0:?}; there are container, image, network, volume")]
    Type(String),
}

/// Conditions on events: of those on one key, one must hold (of `label`, all), and this for each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    conditions: Vec<(String, String)>,
}

impl EventFilter {
    /// What conditions can be about.
    pub const KEYS: [&str; 7] = [
        "container",
        "event",
        "image",
        "label",
        "network",
        "type",
        "volume",
    ];

    /// One more condition, in Docker's words: `type=container`, `event=die`, `container=NAME`, `image=NAME`,
    /// `label=KEY[=VALUE]`, `volume=NAME`, `network=NAME`.
    ///
    /// # Errors
    /// No such key or type.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), InvalidFilter> {
        if !Self::KEYS.contains(&key) {
            return Err(InvalidFilter::Key(key.to_owned()));
        }
        if key == "type" && !["container", "image", "network", "volume"].contains(&value) {
            return Err(InvalidFilter::Type(value.to_owned()));
        }
        self.conditions.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether an event meets all of it.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.conditions.iter().all(|(key, value)| {
            if key == "label" {
                return meets(event, key, value);
            }
            let same = self.conditions.iter().filter(|(other, _)| other == key);
            same.into_iter().any(|(_, value)| meets(event, key, value))
        })
    }
}

/// One condition. Ids may be cut short.
fn meets(event: &Event, key: &str, value: &str) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    let is_called = |kind: Kind| {
        event.kind == kind && (event.id.starts_with(value) || attribute("name") == Some(value))
    };
    match key {
        "type" => event.kind.name() == value,
        // `exec_start` stands for `exec_start: sh`, whatever follows.
        "event" => {
            event.action == value
                || event
                    .action
                    .split_once(": ")
                    .is_some_and(|(action, _)| action == value)
        }
        "container" => is_called(Kind::Container),
        "image" => {
            let image = match event.kind {
                Kind::Image => attribute("name").unwrap_or(&event.id),
                _ => attribute("image").unwrap_or_default(),
            };
            let untagged = image.rsplit_once(':').map_or(image, |(name, _)| name);
            image == value
                || untagged == value
                || (event.kind == Kind::Image && event.id.starts_with(value))
        }
        "volume" => event.kind == Kind::Volume && event.id == value,
        "network" => is_called(Kind::Network),
        "label" => match value.split_once('=') {
            Some((label, value)) => attribute(label) == Some(value),
            None => attribute(value).is_some(),
        },
        _ => false,
    }
}

/// Events, oldest first.
pub struct EventStream {
    filter: EventFilter,
    source: Source,
}

enum Source {
    There(Events),
    Coming(Box<Coming>),
}

struct Coming {
    follow: Follow,
    /// A copy of the descriptor that `follow` owns.
    watch: AsyncFd<OwnedFd>,
    late: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// What happened to containers, images, volumes and networks, and what happens.
    ///
    /// # Errors
    /// The files of the events can't be read.
    pub fn events(&self, options: EventsOptions) -> Result<EventStream, Error> {
        let EventsOptions {
            range,
            follow,
            filter,
        } = options;
        let source = if follow {
            let only_new = range.since_ns.is_none();
            let follow = Follow::open(&self.root, range, only_new)?;
            let failed = |error| store::file::Error::new("watch", &self.root.events(), error);
            let watch = follow.as_fd().try_clone_to_owned().map_err(failed)?;
            let watch = sys::readable(watch).map_err(failed)?;
            Source::Coming(Box::new(Coming {
                follow,
                watch,
                late: Box::pin(late(range.until_ns)),
                over: false,
            }))
        } else {
            Source::There(Events::open(&self.root, range)?)
        };
        Ok(EventStream { filter, source })
    }
}

impl EventStream {
    /// The next event; `None` at the end, or at the end of the range. May be cancelled and called again.
    ///
    /// # Errors
    /// The files of the events can't be read.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let event = match &mut self.source {
                Source::There(events) => events.next_event()?,
                Source::Coming(coming) => coming.next().await?,
            };
            match event {
                Some(event) if !self.filter.matches(&event) => {}
                other => return Ok(other),
            }
        }
    }
}

impl Coming {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.follow.next_event()? {
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            tokio::select! {
                () = &mut self.late => self.over = true,
                ready = self.watch.readable() => {
                    let mut guard = ready
                        .map_err(|error| store::file::Error::new("watch", "events".as_ref(), error))?;
                    // What comes between the two makes it ready again.
                    guard.clear_ready();
                    self.follow.drain()?;
                }
            }
        }
    }
}

/// Returns at a moment in nanoseconds since 1970, or never.
pub(crate) async fn late(until_ns: Option<u64>) {
    match until_ns {
        Some(until) => {
            let left = Duration::from_nanos(until.saturating_sub(store::now_ns()));
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the filters of docker-events(1).
    #[test]
    fn filters() {
        let event = Event {
            time_ns: 1,
            kind: Kind::Container,
            action: "exec_start: sh -c true".to_owned(),
            id: "0123456789abcdef".repeat(4),
            attributes: [
                ("name", "box"),
                ("image", "busybox:latest"),
                ("tier", "web"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        };
        let check = |conditions: &[(&str, &str)], expect: bool| {
            let mut filter = EventFilter::default();
            for (key, value) in conditions {
                filter.add(key, value).unwrap();
            }
            assert_eq!(filter.matches(&event), expect, "{conditions:?}");
        };
        check(&[], true);
        check(&[("type", "container")], true);
        check(&[("type", "image")], false);
        check(&[("type", "image"), ("type", "container")], true);
        check(&[("event", "exec_start")], true);
        check(&[("event", "exec_start: sh -c true")], true);
        check(&[("event", "start")], false);
        check(&[("container", "box"), ("event", "die")], false);
        check(&[("container", "box"), ("event", "exec_start")], true);
        check(&[("container", "01234567")], true);
        check(&[("container", "bo")], false);
        check(&[("image", "busybox")], true);
        check(&[("image", "busybox:latest")], true);
        check(&[("image", "busybox:1")], false);
        check(&[("label", "tier")], true);
        check(&[("label", "tier=web")], true);
        check(&[("label", "tier=web"), ("label", "more")], false);
        check(&[("volume", "box")], false);
        let mut filter = EventFilter::default();
        let unknown = filter.add("colour", "red").unwrap_err();
        assert!(
            unknown
                .to_string()
                .starts_with("there is no filter \"colour\"")
        );
        assert!(filter.add("type", "starship").is_err());
    }
}
