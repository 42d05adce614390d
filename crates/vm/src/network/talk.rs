//! What a supervisor and a network's process say to each other after a guest has joined; and the names of a container's networks.
//!
//! ```text
//!   guest ── db? ──► gourd-net of A ── Ask ──► A's membership ── Directory ──► B's membership ── Lookup ──► gourd-net of B
//!         ◄─────────────────────── Answer ◄──────────────────────────────────────────── Found ◄──────────────────┘
//! ```
//!
//! Networks know nothing of each other. Who is on two of them has a supervisor with a connection to each: that passes on a question
//! which nobody on the first could answer, and the answer. No network learns more of another than what a container on both asks for.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::network::{self, Lookup, Publish, Reply, Request};
use proto::supervisor::Failure;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Connection, LONGEST_WAIT, Plan, refusal};

/// Questions of a container that may be on their way; more are answered by the network alone.
const QUESTIONS: usize = 128;

/// How long another network may take. A resolver in the guest asks again after as long, at the earliest.
const PATIENCE: Duration = Duration::from_secs(2);

type Message = Option<Vec<u8>>;
type Published = Result<Vec<Publish>, Failure>;

/// What a membership is told to do.
pub enum Command {
    /// Say what the network's names answer.
    Lookup(Vec<u8>, oneshot::Sender<Message>),
    /// Pass an answer on.
    Answer(Lookup),
    /// See [`Request::Elsewhere`].
    Elsewhere(bool),
    /// See [`Request::Publish`].
    Publish(Vec<Publish>, oneshot::Sender<Published>),
}

/// A container's networks, to be asked for names.
pub struct Directory {
    memberships: Mutex<Vec<(String, mpsc::Sender<Command>)>>,
    questions: Arc<Semaphore>,
}

impl Default for Directory {
    fn default() -> Self {
        Directory {
            memberships: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
        }
    }
}

impl Directory {
    /// A network more.
    pub(super) fn enter(&self, network: &str, commands: mpsc::Sender<Command>) {
        self.memberships().push((network.to_owned(), commands));
    }

    /// One less.
    pub fn leave(&self, network: &str) {
        self.memberships().retain(|(name, _)| name != network);
    }

    fn memberships(&self) -> MutexGuard<'_, Vec<(String, mpsc::Sender<Command>)>> {
        let memberships = self.memberships.lock();
        memberships.unwrap_or_else(PoisonError::into_inner)
    }

    /// What the first of the other networks says that knows the name.
    async fn ask(&self, asking: &str, message: &[u8]) -> Message {
        let all = self.memberships().clone();
        for (_, commands) in all.iter().filter(|(name, _)| name != asking) {
            let (answer, found) = oneshot::channel();
            let lookup = Command::Lookup(message.to_vec(), answer);
            if commands.try_send(lookup).is_err() {
                continue;
            }
            if let Ok(Ok(Some(message))) = tokio::time::timeout(PATIENCE, found).await {
                return Some(message);
            }
        }
        None
    }
}

/// Why a conversation is over.
pub(super) enum Ended {
    /// The network's process is gone.
    Died,
    /// We have left.
    Left,
}

/// Talks until either side goes.
pub(super) async fn talk(
    connection: &Connection,
    plan: &mut Plan,
    orders: &mut mpsc::Receiver<Command>,
    leaving: &mut oneshot::Receiver<()>,
) -> Ended {
    let mut pending = Pending::default();
    let mut again = tokio::time::Instant::now() + LONGEST_WAIT;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(again), if !plan.missing.is_empty() => {
                again = tokio::time::Instant::now() + LONGEST_WAIT;
                pending.publish(plan.missing.clone(), None, connection, plan);
            }
            reply = connection.receive() => match reply {
                Some(reply) => pending.on_reply(reply, plan),
                None => {
                    connection.ended().await;
                    return Ended::Died;
                }
            },
            Some(command) = orders.recv() => pending.on_command(command, connection, plan),
            // Told to, or nobody is there who could.
            _ = &mut *leaving => {
                connection.leave();
                connection.ended().await;
                return Ended::Left;
            }
        }
    }
}

/// Waits, on no network. Who wants something of it hears that. False: told to leave.
pub(super) async fn wait(
    time: Duration,
    plan: &mut Plan,
    orders: &mut mpsc::Receiver<Command>,
    leaving: &mut oneshot::Receiver<()>,
) -> bool {
    let over = tokio::time::sleep(time);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            _ = &mut *leaving => return false,
            () = &mut over => return true,
            Some(command) = orders.recv() => match command {
                Command::Elsewhere(elsewhere) => plan.join.elsewhere = elsewhere,
                // It has none then.
                Command::Publish(..) => {
                    plan.join.publish.clear();
                    plan.missing.clear();
                }
                Command::Lookup(..) | Command::Answer(_) => {}
            },
        }
    }
}

/// Who waits for an answer of the network's process. It dies with the conversation, and they hear of that.
#[derive(Default)]
struct Pending {
    last: u64,
    lookups: HashMap<u64, oneshot::Sender<Message>>,
    /// Nobody: we have asked for ports that were missing.
    publishing: VecDeque<Option<oneshot::Sender<Published>>>,
}

impl Pending {
    fn on_command(&mut self, command: Command, connection: &Connection, plan: &mut Plan) {
        let request = match command {
            Command::Lookup(message, answer) => {
                self.last += 1;
                self.lookups.retain(|_, waiting| !waiting.is_closed());
                self.lookups.insert(self.last, answer);
                Request::Lookup(Lookup {
                    id: self.last,
                    message: Some(message),
                })
            }
            Command::Answer(lookup) => Request::Answer(lookup),
            Command::Elsewhere(elsewhere) => {
                plan.join.elsewhere = elsewhere;
                Request::Elsewhere(elsewhere)
            }
            Command::Publish(ports, answer) => {
                plan.missing.clear();
                return self.publish(ports, Some(answer), connection, plan);
            }
        };
        self.send(&request, connection, plan);
    }

    fn publish(
        &mut self,
        ports: Vec<Publish>,
        answer: Option<oneshot::Sender<Published>>,
        connection: &Connection,
        plan: &Plan,
    ) {
        self.publishing.push_back(answer);
        self.send(&Request::Publish(ports), connection, plan);
    }

    fn send(&mut self, request: &Request, connection: &Connection, plan: &Plan) {
        // What does not go through is lost as datagrams are; a process that is gone is noticed by its end.
        if let Err(error) = network::send(connection.stream.as_fd(), request, None) {
            tracing::debug!(%error, network = %plan.network, "a message to the network");
            if let Request::Publish(_) = request {
                self.publishing.pop_back();
            }
        }
    }

    fn on_reply(&mut self, reply: Reply, plan: &mut Plan) {
        match reply {
            Reply::Ask(lookup) => ask(lookup, plan),
            Reply::Found(Lookup { id, message }) => {
                if let Some(waiting) = self.lookups.remove(&id) {
                    let _ = waiting.send(message);
                }
            }
            Reply::Published(ports) => {
                plan.join.publish.clone_from(&ports);
                match self.publishing.pop_front() {
                    Some(Some(waiting)) => drop(waiting.send(Ok(ports))),
                    Some(None) => {
                        plan.missing.clear();
                        tracing::info!(network = %plan.network, "the container has its ports again");
                    }
                    None => {}
                }
            }
            Reply::Refused(refused) => {
                plan.join.publish.clear();
                if let Some(Some(waiting)) = self.publishing.pop_front() {
                    let _ = waiting.send(Err(refusal(refused)));
                }
            }
            Reply::Joined(_) | Reply::Report(_) | Reply::Note(_) => {}
        }
    }
}

/// Has the other networks asked, beside the conversation.
fn ask(lookup: Lookup, plan: &Plan) {
    let Some(own) = plan.own.upgrade() else {
        return;
    };
    let (id, directory) = (lookup.id, plan.directory.clone());
    let permit = directory.questions.clone().try_acquire_owned();
    let (Some(question), Ok(permit)) = (lookup.message, permit) else {
        let _ = own.try_send(Command::Answer(Lookup { id, message: None }));
        return;
    };
    let network = plan.network.clone();
    tokio::spawn(async move {
        let message = directory.ask(&network, &question).await;
        let _ = own.send(Command::Answer(Lookup { id, message })).await;
        drop(permit);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that knows the names `known`.
    fn network(directory: &Directory, name: &str, known: &'static [u8]) {
        let (commands, mut orders) = mpsc::channel(4);
        directory.enter(name, commands);
        tokio::spawn(async move {
            while let Some(command) = orders.recv().await {
                if let Command::Lookup(message, answer) = command {
                    let _ = answer.send((message == known).then(|| b"found".to_vec()));
                }
            }
        });
    }

    #[tokio::test]
    async fn the_other_networks_are_asked_in_turn() {
        let directory = Directory::default();
        for (name, known) in [("a", b"web"), ("b", b"www"), ("c", b"db.")] {
            network(&directory, name, known);
        }
        // One whose process hangs, or is gone.
        let (gone, _) = mpsc::channel(1);
        directory.enter("d", gone);
        assert_eq!(directory.ask("a", b"db.").await.unwrap(), b"found");
        // Its own names are the network's own affair.
        assert_eq!(directory.ask("a", b"web").await, None);
        directory.leave("c");
        assert_eq!(directory.ask("a", b"db.").await, None);
    }
}
