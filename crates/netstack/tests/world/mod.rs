//! The stack against smoltcp's, which plays the guests, over a link that loses, doubles and reorders when it is told to.
//! Time is virtual: nothing waits.

// Each of the tests that share this uses a part of it.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netstack::{Config, Endpoint, Event, FlowId, Mac, Note, Stack};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const MTU: usize = 9000;

/// The subnet of IPv6: the guests' addresses are twins of their others.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x0a58, 2);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x0a58, 3);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xff]);

#[derive(Default)]
pub struct Link {
    pub to_guest: VecDeque<Vec<u8>>,
    pub from_guest: VecDeque<Vec<u8>>,
}

pub struct Received(Vec<u8>);
pub struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Sent(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

/// What a link does to a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of 256 frames.
    pub lost: u8,
    pub doubled: u8,
    pub swapped: u8,
    pub seed: u64,
}

impl Faults {
    fn roll(&mut self) -> u8 {
        // Knuth's MMIX generator.
        self.seed = self
            .seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.seed >> 56) as u8
    }

    fn pass(&mut self, queue: &mut VecDeque<Vec<u8>>, frame: Vec<u8>) {
        if self.roll() < self.lost {
            return;
        }
        if self.roll() < self.doubled {
            queue.push_back(frame.clone());
        }
        queue.push_back(frame);
        if self.roll() < self.swapped && queue.len() > 1 {
            let last = queue.len() - 1;
            queue.swap(last, last - 1);
        }
    }
}

/// One guest with smoltcp.
pub struct Guest {
    pub interface: Interface,
    pub link: Link,
    pub sockets: SocketSet<'static>,
    pub port: u32,
}

impl Guest {
    pub fn new(stack: &mut Stack, port: u32, address: Ipv4Addr, host: bool) -> Guest {
        let mac = [2, 0, 0, 0, 0, port as u8];
        stack.attach(
            port,
            Endpoint {
                mac: Mac(mac),
                address,
                names: vec![format!("guest{port}")],
                host,
            },
        );
        let mut link = Link::default();
        let hardware = HardwareAddress::Ethernet(EthernetAddress(mac));
        let config = InterfaceConfig::new(hardware);
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let cidr = IpCidr::new(IpAddress::Ipv4(address), 16);
            addresses.push(cidr).unwrap();
            let twin = Ipv6Addr::from_bits(GATEWAY6.to_bits() - 1 + u128::from(address.to_bits()));
            addresses.push(IpCidr::new(twin.into(), 64)).unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(GATEWAY).unwrap();
        routes.add_default_ipv6_route(GATEWAY6).unwrap();
        Guest {
            interface,
            link,
            sockets: SocketSet::new(Vec::new()),
            port,
        }
    }

    pub fn tcp(&mut self, buffer: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn dial(&mut self, handle: SocketHandle, to: (impl Into<IpAddress>, u16), from: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let to = IpEndpoint::new(to.0.into(), to.1);
        socket.connect(self.interface.context(), to, from).unwrap();
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

pub struct World {
    pub stack: Stack,
    pub guests: Vec<Guest>,
    pub now: Duration,
    pub faults: Faults,
    pub events: VecDeque<Event>,
    /// What people are told.
    pub notes: Vec<Note>,
}

pub fn config() -> Config {
    Config {
        gateway: GATEWAY,
        prefix: 16,
        ipv6: Some((GATEWAY6, 64)),
        mac: GATEWAY_MAC,
        mtu: MTU as u16,
        internal: false,
        allow: Vec::new(),
        seed: [7; 16],
    }
}

impl World {
    pub fn new(faults: Faults) -> World {
        World::with(config(), faults)
    }

    pub fn with(config: Config, faults: Faults) -> World {
        let mut stack = Stack::new(config);
        let guests = vec![
            Guest::new(&mut stack, 1, GUEST, false),
            Guest::new(&mut stack, 2, OTHER, true),
        ];
        World {
            stack,
            guests,
            now: Duration::ZERO,
            faults,
            events: VecDeque::new(),
            notes: Vec::new(),
        }
    }

    /// A moment passes.
    pub fn turn(&mut self) {
        self.now += Duration::from_millis(1);
        for guest in &mut self.guests {
            let now = Instant::from_micros(self.now.as_micros() as i64);
            guest
                .interface
                .poll(now, &mut guest.link, &mut guest.sockets);
            let mut frames = VecDeque::new();
            for frame in guest.link.from_guest.drain(..) {
                self.faults.pass(&mut frames, frame);
            }
            for frame in frames {
                self.stack.receive(guest.port, &frame, self.now);
            }
        }
        if self.stack.deadline() <= self.now {
            self.stack.on_time(self.now);
        }
        while let Some(id) = self.stack.ready_port() {
            let mut buffer = Vec::new();
            while self.stack.transmit(id, &mut buffer, self.now) {
                let guest = self.guests.iter_mut().find(|guest| guest.port == id);
                let queue = &mut guest.unwrap().link.to_guest;
                self.faults.pass(queue, buffer.clone());
            }
        }
        while let Some(event) = self.stack.event() {
            match event {
                Event::Note(_, note) => self.notes.push(note),
                event => self.events.push_back(event),
            }
        }
    }

    /// Until the next event.
    pub fn event(&mut self) -> Event {
        for _ in 0..1_000_000 {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.turn();
        }
        panic!("nothing happens any more");
    }

    /// The first guest dials the second, past the gateway; both hold the connection then.
    pub fn connect_neighbours(&mut self, other: impl Into<IpAddress>) {
        let server = self.guests[1].tcp(4096);
        self.guests[1].socket(server).listen(80).unwrap();
        let client = self.guests[0].tcp(4096);
        self.guests[0].dial(client, (other, 80), 40000);
        while !self.guests[0].socket(client).may_send() {
            self.turn();
        }
    }

    pub fn dialled(&mut self) -> (FlowId, SocketAddr) {
        match self.event() {
            Event::Dial { flow, to } => (flow, to),
            other => panic!("{other:?}"),
        }
    }
}
