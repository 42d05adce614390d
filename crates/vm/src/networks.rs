//! The networks of a run: those that it began with, and those that it is put on and taken off meanwhile.
//!
//! ```text
//!   a card of the VM's ◄──┐                                   ┌──► gourd-net
//!                         ├── link (a pair of sockets) ◄──────┤
//!   a stream of the guest's (carrier) ◄┘                      └ a membership: the supervisor's connection
//! ```
//!
//! A VM is made with a card for each network that its container is on when it starts. A card whose network is left stays with the VM
//! and waits for the next one; beyond these a device comes from the guest's agent, a TAP device whose frames run over a stream. So
//! a bus that takes devices while it runs is not needed, and no card is there in case one is.
//!
//! One network leads out: the first that is not internal, or the first of all. The default route, the resolver and the
//! published ports are there.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::network::{Framing, Joined, Publish};
use proto::supervisor::{Failure, failure::Kind};
use store::Root;
use store::container::{Attached, Endpoint, Spec};
use tokio::net::UnixDatagram;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::guest::Guest;
use crate::network::{self, Directory, Joining, Membership, Seat, carrier};
use crate::streams::{Expected, Streams};
use crate::{bill, failure};

/// How long a guest's stream may take after its agent has said that it dialled.
const ARRIVAL: Duration = Duration::from_secs(10);

/// A container's networks while it runs.
pub struct Networks {
    root: Root,
    spec: Spec,
    directory: Arc<Directory>,
    state: Mutex<State>,
    begun: Vec<Joining>,
}

#[derive(Default)]
struct State {
    places: Vec<Place>,
    /// Cards of the VM's that no network has.
    idle: Vec<Card>,
    /// How many cards the VM was made with.
    cards: u8,
    /// The network to which ports lead, and which.
    published: Option<(String, Vec<Publish>)>,
    over: bool,
}

/// A network device as seen from here.
struct Card {
    number: u8,
    /// The network's end of its link.
    link: OwnedFd,
    /// See [`Seat::framing`].
    framing: Framing,
    /// Of a device of the agent's: who carries its frames.
    carrier: Option<JoinHandle<()>>,
}

/// What the guest is to make: the stream that it dials for it, and the monitor's end of its link.
struct Device {
    stream: Expected,
    end: UnixDatagram,
}

/// A network that the container is on.
struct Place {
    endpoint: Endpoint,
    card: Card,
    membership: Membership,
    joined: Option<Joined>,
}

/// Which network leads out.
fn way_out<'a>(root: &Root, networks: impl ExactSizeIterator<Item = &'a Endpoint>) -> usize {
    // Of one network nobody needs to know more.
    if networks.len() < 2 {
        return 0;
    }
    let leads_out = |endpoint: &Endpoint| {
        let network = store::network::open(root, &endpoint.network);
        network.is_ok_and(|network| !network.spec().internal)
    };
    networks.into_iter().position(leads_out).unwrap_or(0)
}

impl Networks {
    /// Those of a run that is about to begin, and the VM's ends of their links; `framing`: how its monitor wants frames ([`Seat::framing`]).
    ///
    /// # Errors
    /// The system has no more descriptors.
    pub fn new(root: &Root, spec: &Spec, framing: Framing) -> io::Result<(Networks, Vec<OwnedFd>)> {
        let mut state = State::default();
        let mut ends = Vec::new();
        for _ in &spec.networks {
            let (end, link) = network::link()?;
            ends.push(end);
            state.idle.push(Card {
                number: state.cards,
                link,
                framing,
                carrier: None,
            });
            state.cards += 1;
        }
        let networks = Networks {
            root: root.clone(),
            spec: spec.clone(),
            directory: Arc::default(),
            state: Mutex::new(state),
            begun: Vec::new(),
        };
        Ok((networks, ends))
    }

    /// Joins them, in the background. `before`: the address that the container had on one.
    ///
    /// # Errors
    /// The system has no more descriptors.
    pub fn begin(&mut self, before: impl Fn(&str) -> Option<Ipv4Addr>) -> io::Result<()> {
        let endpoints = &self.spec.networks;
        let out = way_out(&self.root, endpoints.iter());
        let state = self.state.get_mut();
        let cards = std::mem::take(&mut state.idle);
        for (index, (endpoint, card)) in endpoints.iter().zip(cards).enumerate() {
            let seat = Seat {
                mac: network::mac(&self.spec.id, card.number),
                wish: before(&endpoint.network),
                publish: match index == out {
                    true => network::wanted(&self.spec),
                    false => Vec::new(),
                },
                directory: self.directory.clone(),
                elsewhere: endpoints.len() > 1,
                framing: card.framing,
            };
            let link = card.link.try_clone()?;
            let membership = Membership::begin(&self.root, &self.spec, endpoint, seat, link);
            self.begun.push(membership.joining());
            state.places.push(Place {
                endpoint: endpoint.clone(),
                card,
                membership,
                joined: None,
            });
        }
        Ok(())
    }

    /// Waits until joining one of the first networks has failed; for ever when it does not.
    pub async fn first_failure(&self) -> Failure {
        network::first_failure(&self.begun).await
    }

    /// Where the container is on the networks that it began with.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn joined(&self) -> Result<bill::Seats, Failure> {
        let mut state = self.state.lock().await;
        for place in &mut state.places {
            place.joined = Some(place.membership.joining().joined().await?);
        }
        let out = self.out(&state);
        let ports = state.places.get(out).and_then(|place| {
            let joined = place.joined.as_ref()?;
            Some((place.endpoint.network.clone(), joined.published.clone()))
        });
        state.published = ports;
        Ok(self.seats(&state, None))
    }

    fn out(&self, state: &State) -> usize {
        let endpoints = state.places.iter().map(|place| &place.endpoint);
        way_out(&self.root, endpoints)
    }

    /// What `state.json` says about them; `None`: all were left, and it keeps what it says.
    pub async fn attached(&self) -> Option<Vec<Attached>> {
        let state = self.state.lock().await;
        if state.over {
            return None;
        }
        let attached = |place: &Place| {
            let mac = network::mac(&self.spec.id, place.card.number);
            let joined = place.joined.as_ref()?;
            Some(network::attached(&place.endpoint.network, mac, joined))
        };
        Some(state.places.iter().filter_map(attached).collect())
    }

    /// What the guest is told; `new`: the card of a device that is to be made, and its stream.
    fn seats(&self, state: &State, new: Option<(u8, Vec<u8>)>) -> bill::Seats {
        let seat = |place: &Place| {
            let number = place.card.number;
            let stream = new.as_ref().filter(|(card, _)| *card == number);
            Some(bill::Seat {
                mac: network::mac(&self.spec.id, number),
                joined: place.joined.clone()?,
                stream: stream.map(|(_, id)| id.clone()).unwrap_or_default(),
            })
        };
        bill::Seats {
            all: state.places.iter().filter_map(seat).collect(),
            out: self.out(state),
        }
    }

    /// Puts the container on a further network; it is there, and the guest knows, when this returns.
    ///
    /// # Errors
    /// The network's or the guest's reason. Then it is not on it.
    pub async fn connect(
        &self,
        endpoint: Endpoint,
        guest: &Guest,
        streams: &Arc<Streams>,
    ) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        if state.over {
            return Err(self.refusal("ended meanwhile"));
        }
        let mut places = state.places.iter();
        if places.any(|place| place.endpoint.network == endpoint.network) {
            // It was started with it while somebody asked.
            return Ok(());
        }
        if state.cards == 0 {
            let what = "was started on no network, so that its programs know no resolver: stop it, connect it, start it again";
            return Err(self.refusal(what));
        }
        let device = self
            .begin_place(&mut state, endpoint, streams)
            .map_err(|error| failure::from_error("make a link", "", &error))?;
        let connected = self.enter(&mut state, device, guest).await;
        if connected.is_err()
            && let Some(place) = state.places.pop()
        {
            // The guest may know of it, and shall not any more.
            let _ = self.tell(guest, self.seats(&state, None)).await;
            self.leave_place(&mut state, place).await;
            let _ = self.move_ports(&mut state).await;
        }
        mark(&state);
        connected
    }

    /// Takes a card for a further network, and has it joined in the background. A device is what the guest has to make for it.
    fn begin_place(
        &self,
        state: &mut State,
        endpoint: Endpoint,
        streams: &Arc<Streams>,
    ) -> io::Result<Option<Device>> {
        let (card, device) = match state.idle.pop() {
            Some(card) => (card, None),
            None => {
                let (end, link) = network::link()?;
                let device = Device {
                    stream: streams.expect()?,
                    end: carrier::end(end)?,
                };
                let card = Card {
                    number: unused(state),
                    link,
                    framing: Framing::Plain,
                    carrier: None,
                };
                (card, Some(device))
            }
        };
        drain(&card);
        let seat = Seat {
            mac: network::mac(&self.spec.id, card.number),
            wish: None,
            publish: Vec::new(),
            directory: self.directory.clone(),
            elsewhere: !state.places.is_empty(),
            framing: card.framing,
        };
        let link = card.link.try_clone()?;
        state.places.push(Place {
            membership: Membership::begin(&self.root, &self.spec, &endpoint, seat, link),
            endpoint,
            card,
            joined: None,
        });
        Ok(device)
    }

    /// The last of the places is joined, and the guest is told.
    async fn enter(
        &self,
        state: &mut State,
        device: Option<Device>,
        guest: &Guest,
    ) -> Result<(), Failure> {
        let Some(place) = state.places.last_mut() else {
            return Ok(());
        };
        place.joined = Some(place.membership.joining().joined().await?);
        let number = place.card.number;
        let new = device.as_ref().map(|device| (number, device.stream.id()));
        self.tell(guest, self.seats(state, new)).await?;
        if let Some(Device { stream, end }) = device {
            let stream = tokio::time::timeout(ARRIVAL, stream.arrived()).await;
            let stream = stream.ok().flatten().ok_or_else(|| {
                let what = "it did not dial";
                failure::own("wait for a device's frames", "the guest", what)
            })?;
            let carrier = tokio::spawn(carrier::carry(stream, end));
            if let Some(place) = state.places.last_mut() {
                place.card.carrier = Some(carrier);
            }
        }
        self.move_ports(state).await
    }

    /// Takes the container off a network. With `force`, even when the guest can't be told.
    ///
    /// # Errors
    /// The guest's reason; or its ports can't be had on the network that leads out now: then it is done, as [`Networks::is_on`] says,
    /// and they are not published any more.
    pub async fn disconnect(&self, name: &str, force: bool, guest: &Guest) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        let mut places = state.places.iter();
        let Some(index) = places.position(|place| place.endpoint.network == name) else {
            // It has ended, or was started without it while somebody asked.
            return Ok(());
        };
        let place = state.places.remove(index);
        if let Err(failure) = self.tell(guest, self.seats(&state, None)).await
            && !force
        {
            state.places.insert(index, place);
            return Err(failure);
        }
        self.leave_place(&mut state, place).await;
        mark(&state);
        self.move_ports(&mut state).await
    }

    /// Whether it is on a network.
    pub async fn is_on(&self, name: &str) -> bool {
        let state = self.state.lock().await;
        let mut places = state.places.iter();
        places.any(|place| place.endpoint.network == name)
    }

    async fn tell(&self, guest: &Guest, seats: bill::Seats) -> Result<(), Failure> {
        guest
            .networks(bill::networks_request(&self.spec, &seats))
            .await
    }

    /// The network's process forgets it, and what is left of the card waits for the next one.
    async fn leave_place(&self, state: &mut State, place: Place) {
        let name = &place.endpoint.network;
        self.directory.leave(name);
        if let Some((at, _)) = &mut state.published
            && at == name
        {
            at.clear();
        }
        place.membership.leave().await;
        match place.card.carrier {
            Some(carrier) => carrier.abort(),
            None if place.card.number < state.cards => state.idle.push(place.card),
            None => {}
        }
    }

    /// Ports lead to the network that leads out.
    async fn move_ports(&self, state: &mut State) -> Result<(), Failure> {
        let out = self.out(state);
        let Some((at, ports)) = state.published.clone() else {
            return Ok(());
        };
        let leads = state.places.get(out);
        if ports.is_empty() || leads.is_none_or(|place| place.endpoint.network == at) {
            return Ok(());
        }
        for place in &mut state.places {
            if place.endpoint.network == at {
                place.membership.publish(Vec::new()).await?;
                if let Some(joined) = &mut place.joined {
                    joined.published.clear();
                }
            }
        }
        // In between they lead nowhere.
        state.published = Some((String::new(), ports.clone()));
        let Some(place) = state.places.get_mut(out) else {
            return Ok(());
        };
        let published = place.membership.publish(ports.clone()).await?;
        if let Some(joined) = &mut place.joined {
            joined.published = published;
        }
        state.published = Some((place.endpoint.network.clone(), ports));
        Ok(())
    }

    /// Leaves all of them, for good.
    pub async fn leave(&self) {
        let mut state = self.state.lock().await;
        state.over = true;
        let places = std::mem::take(&mut state.places);
        let leave = places.into_iter().map(|place| async {
            place.membership.leave().await;
            if let Some(carrier) = place.card.carrier {
                carrier.abort();
            }
        });
        futures_util::future::join_all(leave).await;
    }

    fn refusal(&self, what: &str) -> Failure {
        Failure {
            kind: Kind::Invalid.into(),
            ..failure::own("", "", format!("container {} {what}", self.spec.name))
        }
    }
}

/// Each network's process knows whether there are others to ask.
fn mark(state: &State) {
    for place in &state.places {
        place.membership.set_elsewhere(state.places.len() > 1);
    }
}

/// A number that no card has.
fn unused(state: &State) -> u8 {
    let taken = |number: &u8| {
        state
            .places
            .iter()
            .any(|place| place.card.number == *number)
    };
    (state.cards..u8::MAX)
        .find(|number| !taken(number))
        .unwrap_or(u8::MAX)
}

/// What was under way to or from the last network is not the next one's.
fn drain(card: &Card) {
    let mut frame = [0; 1];
    let flags = rustix::net::RecvFlags::DONTWAIT;
    while rustix::net::recv(&card.link, &mut frame[..], flags).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_not_internal_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (name, internal) in [("in", true), ("within", true), ("out", false)] {
            let request = store::network::Request {
                name: name.to_owned(),
                id: "0".repeat(64),
                internal,
                ..store::network::Request::default()
            };
            store::network::create(&root, request).unwrap();
        }
        let check = |names: &[&str], expect: usize| {
            let endpoints: Vec<Endpoint> = names
                .iter()
                .map(|name| Endpoint {
                    network: (*name).to_owned(),
                    ..Endpoint::default()
                })
                .collect();
            assert_eq!(way_out(&root, endpoints.iter()), expect, "{names:?}");
        };
        check(&[], 0);
        check(&["in"], 0);
        check(&["in", "out"], 1);
        check(&["out", "in"], 0);
        check(&["in", "within"], 0);
        // One that was removed leads nowhere.
        check(&["gone", "in", "out"], 2);
    }

    #[tokio::test]
    async fn cards_are_numbered_and_those_of_the_vm_wait_for_the_next_network() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let spec = Spec {
            networks: vec![Endpoint::default(), Endpoint::default()],
            ..Spec::default()
        };
        let (networks, ends) = Networks::new(&root, &spec, Framing::Plain).unwrap();
        assert_eq!(ends.len(), 2);
        let state = networks.state.lock().await;
        assert_eq!((state.cards, unused(&state)), (2, 2));
        let card = &state.idle[0];
        rustix::net::send(&ends[0], b"late", rustix::net::SendFlags::empty()).unwrap();
        drain(card);
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let nothing = rustix::net::recv(&card.link, &mut [0; 9][..], flags);
        assert_eq!(nothing.unwrap_err(), rustix::io::Errno::AGAIN);
    }
}
