//! What happens when descriptors run out. A listener whose connections can't be taken stays ready, and the loop would turn for nothing:
//! so nobody hears of it until there are descriptors again.

use std::os::fd::AsFd;
use std::time::Duration;

use netstack::PortId;
use rustix::io::Errno;

use super::Server;
use crate::descriptors::Share;
use crate::poll::Token;

/// How long a listener waits at most: others on this host may have what we lack, and nobody tells when they give it back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Listeners that wait for descriptors.
#[derive(Debug, Default)]
pub(super) struct Starved {
    listeners: Vec<Token>,
    /// When they are tried again.
    until: Duration,
    /// With fewer descriptors than so many they are tried at once.
    taken: usize,
}

impl Starved {
    /// When [`Server::feed`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Duration> {
        (!self.listeners.is_empty()).then_some(self.until)
    }
}

/// Whether the system had no room for a connection, which waits.
pub(super) fn is_shortage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
    )
}

impl Server {
    /// Descriptors that are no flow's: two for each connection, one of which is the link that comes, and the ports'.
    pub(super) fn others(&self) -> usize {
        2 * self.clients.len() + self.ports.len()
    }

    /// A descriptor for a flow of a guest's; `None`: it has its share.
    pub(super) fn share(&mut self, port: PortId) -> Option<Share> {
        let others = self.others();
        let guest = self.clients.guest(port)?;
        let share = self.descriptors.share(&guest.account, others);
        if share.is_none() && !std::mem::replace(&mut guest.told, true) {
            let name = self.clients.name(port);
            eprintln!(
                "gourd-net: {name} has its share of the descriptors, and gets no further connections until some end: raise the hard \
                 limit of open files (`ulimit -Hn`) of whoever starts containers"
            );
        }
        share
    }

    /// A listener waits until there are descriptors.
    pub(super) fn starve(&mut self, token: Token, now: Duration) {
        let paused = match token {
            Token::Published(id) => self.ports.get(id).map(|it| self.poll.pause(&it.fd, token)),
            _ => Some(self.poll.pause(self.listener.as_fd(), token)),
        };
        if let Some(Ok(())) = paused {
            self.starved.listeners.push(token);
            self.starved.until = now + PATIENCE;
            self.starved.taken = self.descriptors.taken(self.others());
        }
    }

    /// Tries listeners again when there may be descriptors for them.
    pub(super) fn feed(&mut self, now: Duration) {
        let starved = &self.starved;
        if starved.listeners.is_empty()
            || now < starved.until && self.descriptors.taken(self.others()) >= starved.taken
        {
            return;
        }
        for token in std::mem::take(&mut self.starved.listeners) {
            let _ = match token {
                // One that was withdrawn meanwhile is no more.
                Token::Published(id) => match self.ports.get(id) {
                    Some(published) => self.poll.rewatch(&published.fd, token, false),
                    None => Ok(()),
                },
                _ => self.poll.rewatch(self.listener.as_fd(), token, false),
            };
        }
    }
}
