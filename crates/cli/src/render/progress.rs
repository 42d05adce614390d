//! How far a pull, a push or a load is: bars on a terminal, lines elsewhere. On stderr.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use engine::{PullEvent, PushEvent};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{human, out};
use crate::terminal;

/// How often a spinner turns while nothing else is to be told.
const SPIN: Duration = Duration::from_millis(100);

/// Shows the events of a pull. `show` takes `&self`: the engine calls it from a closure.
pub struct Progress {
    how: How,
}

enum How {
    Silent,
    Lines,
    Bars(RefCell<Bars>),
}

impl Progress {
    /// `quiet`: nothing is shown.
    pub fn new(quiet: bool) -> Progress {
        let how = match quiet {
            true => How::Silent,
            false
                if terminal::stderr_is_terminal()
                    && std::env::var_os("TERM").is_some_and(|term| term != "dumb") =>
            {
                How::Bars(RefCell::new(Bars::new()))
            }
            false => How::Lines,
        };
        Progress { how }
    }

    /// Shows an event.
    pub fn show(&self, event: PullEvent) {
        match &self.how {
            How::Silent => {}
            How::Lines => {
                if let Some(line) = line(&event) {
                    // Progress that cannot be shown stops nothing.
                    let _ = out::stderr(&format!("{line}\n"));
                }
            }
            How::Bars(bars) => bars.borrow_mut().show(&event),
        }
    }

    /// Shows an event of a push.
    pub fn show_push(&self, event: PushEvent) {
        match &self.how {
            How::Silent => {}
            How::Lines => {
                if let Some(line) = push_line(&event) {
                    // As in `show`.
                    let _ = out::stderr(&format!("{line}\n"));
                }
            }
            How::Bars(bars) => bars.borrow_mut().show_push(&event),
        }
    }

    /// Leaves a clean line behind.
    pub fn end(&self) {
        if let How::Bars(bars) = &self.how {
            bars.borrow_mut().end();
        }
    }
}

/// What an event is in a log. Progress inside a layer is none.
fn line(event: &PullEvent) -> Option<String> {
    match event {
        PullEvent::Resolved { reference, digest } => Some(format!("{reference}: {digest}")),
        PullEvent::LayerExists { digest } => {
            Some(format!("{}: already here", human::short_id(digest)))
        }
        PullEvent::LayerResumes {
            digest,
            done,
            total,
        } => Some(format!(
            "{}: going on after {} of {}",
            human::short_id(digest),
            human::size(*done),
            human::size(*total)
        )),
        PullEvent::LayerProgress { .. } | PullEvent::Importing { .. } => None,
        PullEvent::LayerDone { digest } => Some(format!("{}: done", human::short_id(digest))),
        PullEvent::Merging { layers: 1 } => {
            Some("making the root file system of 1 layer".to_owned())
        }
        PullEvent::Merging { layers } => {
            Some(format!("making the root file system of {layers} layers"))
        }
        PullEvent::Done {
            unchanged: true, ..
        } => Some("the image is up to date".to_owned()),
        PullEvent::Done { id, .. } => Some(format!("image {}", human::short_id(id))),
    }
}

/// The same for a push, in Docker's words where it has some.
fn push_line(event: &PushEvent) -> Option<String> {
    let layer = |digest: &str, what: &str| Some(format!("{}: {what}", human::short_id(digest)));
    match event {
        PushEvent::Repository { name } => Some(format!("The push refers to repository [{name}]")),
        PushEvent::OnePlatform { index, manifest } => Some(format!(
            "not all platforms of the image are here: {} is pushed without its index {}",
            human::short_id(manifest),
            human::short_id(index)
        )),
        PushEvent::LayerExists { digest } => layer(digest, "layer already exists"),
        PushEvent::LayerMounted { digest, from } => layer(digest, &format!("mounted from {from}")),
        PushEvent::LayerSkipped { digest } => layer(digest, "skipped foreign layer"),
        PushEvent::LayerDone { digest } => layer(digest, "pushed"),
        PushEvent::LayerProgress { .. } | PushEvent::Done(_) => None,
    }
}

struct Bars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
    spinner: Option<ProgressBar>,
}

impl Bars {
    fn new() -> Bars {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Bars {
            all,
            layers: HashMap::new(),
            spinner: None,
        }
    }

    fn progress(&mut self, digest: &str, done: u64, total: u64) {
        let bar = self.layer(digest);
        bar.set_length(total);
        bar.set_position(done);
    }

    fn show_push(&mut self, event: &PushEvent) {
        match event {
            PushEvent::LayerProgress {
                digest,
                done,
                total,
            } => self.progress(digest, *done, *total),
            PushEvent::LayerDone { digest } => self.layer(digest).finish_with_message("pushed"),
            PushEvent::LayerExists { digest } => {
                self.layer(digest).abandon_with_message("already exists");
            }
            PushEvent::LayerMounted { digest, .. } => {
                self.layer(digest).abandon_with_message("mounted");
            }
            PushEvent::Repository { .. }
            | PushEvent::OnePlatform { .. }
            | PushEvent::LayerSkipped { .. } => {
                // As for a pull.
                let _ = self.all.println(push_line(event).unwrap_or_default());
            }
            PushEvent::Done(_) => self.end(),
        }
    }

    fn show(&mut self, event: &PullEvent) {
        match event {
            PullEvent::LayerProgress {
                digest,
                done,
                total,
            }
            | PullEvent::LayerResumes {
                digest,
                done,
                total,
            } => self.progress(digest, *done, *total),
            PullEvent::Importing { done } => {
                let bar = self
                    .spinner
                    .get_or_insert_with(|| self.all.add(ProgressBar::new_spinner()));
                bar.set_message(format!("{} came", human::size(*done)));
                bar.tick();
            }
            PullEvent::LayerDone { digest } => self.layer(digest).finish_with_message("done"),
            PullEvent::LayerExists { digest } => {
                self.layer(digest).abandon_with_message("already here")
            }
            PullEvent::Merging { .. } => {
                let bar = self
                    .spinner
                    .get_or_insert_with(|| self.all.add(ProgressBar::new_spinner()));
                bar.set_message(line(event).unwrap_or_default());
                bar.enable_steady_tick(SPIN);
            }
            PullEvent::Resolved { .. } => {
                // A terminal that is gone shows nothing; the pull goes on.
                let _ = self.all.println(line(event).unwrap_or_default());
            }
            PullEvent::Done { .. } => self.end(),
        }
    }

    fn layer(&mut self, digest: &str) -> &ProgressBar {
        let all = &self.all;
        self.layers.entry(digest.to_owned()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix} {wide_bar} {decimal_bytes:>10}/{decimal_total_bytes:10} {msg}",
            ) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(human::short_id(digest).to_owned());
            bar
        })
    }

    fn end(&mut self) {
        if let Some(bar) = self.spinner.take() {
            bar.finish_and_clear();
        }
        for (_, bar) in self.layers.drain() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check =
            |event: PullEvent, expect: Option<&str>| assert_eq!(line(&event).as_deref(), expect);
        let digest = || format!("sha256:{}", "0123456789abcdef".repeat(4));
        check(
            PullEvent::LayerExists { digest: digest() },
            Some("0123456789ab: already here"),
        );
        check(
            PullEvent::LayerDone { digest: digest() },
            Some("0123456789ab: done"),
        );
        check(
            PullEvent::LayerProgress {
                digest: digest(),
                done: 1,
                total: 2,
            },
            None,
        );
        check(
            PullEvent::LayerResumes {
                digest: digest(),
                done: 12_000_000,
                total: 48_000_000,
            },
            Some("0123456789ab: going on after 12MB of 48MB"),
        );
        check(
            PullEvent::Merging { layers: 3 },
            Some("making the root file system of 3 layers"),
        );
        check(
            PullEvent::Done {
                id: digest(),
                unchanged: false,
            },
            Some("image 0123456789ab"),
        );
    }

    /// Oracle: `docker push` into a file.
    #[test]
    fn lines_of_a_push() {
        let check = |event: PushEvent, expect: Option<&str>| {
            assert_eq!(push_line(&event).as_deref(), expect);
        };
        let digest = || format!("sha256:{}", "0123456789abcdef".repeat(4));
        check(
            PushEvent::Repository {
                name: "docker.io/me/app".to_owned(),
            },
            Some("The push refers to repository [docker.io/me/app]"),
        );
        check(
            PushEvent::LayerMounted {
                digest: digest(),
                from: "me/base".to_owned(),
            },
            Some("0123456789ab: mounted from me/base"),
        );
        check(
            PushEvent::LayerDone { digest: digest() },
            Some("0123456789ab: pushed"),
        );
        check(
            PushEvent::LayerProgress {
                digest: digest(),
                done: 1,
                total: 2,
            },
            None,
        );
    }
}
