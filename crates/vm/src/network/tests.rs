//! Joining, with a test in the place of `gourd-net`.

use super::*;

/// A network's process lives until its listener is dropped; each connection is one life.
fn next(listener: &OwnedFd) -> (OwnedFd, Join) {
    let socket = rustix::net::accept(listener).unwrap();
    match network::expect::<Request>(&socket).unwrap().0 {
        Request::Join(join) => (socket, join),
        other => panic!("{other:?}"),
    }
}

fn say(socket: &OwnedFd, reply: &Reply) {
    network::send(socket.as_fd(), reply, None).unwrap();
}

fn refuse(step: &str) -> Reply {
    Reply::Refused(network::Refused {
        step: step.to_owned(),
        object: "127.0.0.1:8080/tcp".to_owned(),
        errno: 98,
        message: "taken".to_owned(),
    })
}

type Orders = (mpsc::Sender<Command>, mpsc::Receiver<Command>);

/// A container with a port, and where its network's process would listen.
fn alone(root: Root) -> (OwnedFd, Plan, Orders) {
    let request = store::network::Request {
        name: "mine".to_owned(),
        ..Default::default()
    };
    let network = store::network::create(&root, request).unwrap();
    let (_dir, path) = network.socket().unwrap();
    let listener = process::listen(&network.dir().join("sock"), &path).unwrap();
    let port = network::Publish {
        protocol: network::Protocol::Tcp,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        host_port: 8080,
        guest_port: 80,
        proxy: None,
    };
    let (commands, orders) = mpsc::channel(COMMANDS);
    let plan = Plan {
        root,
        network: "mine".to_owned(),
        join: Join {
            protocol: network::PROTOCOL,
            container: "box".to_owned(),
            names: Vec::new(),
            mac: mac("00", 0),
            wish: None,
            insists: false,
            host: false,
            resolvers: Vec::new(),
            publish: vec![port],
            elsewhere: false,
            framing: network::Framing::Plain,
        },
        wanted: Vec::new(),
        directory: Arc::default(),
        own: commands.downgrade(),
        missing: Vec::new(),
    };
    (listener, plan, (commands, orders))
}

/// What was in the way when the network's process died once is gone a while later: so is the container's loss.
#[tokio::test]
async fn a_place_that_was_lost_is_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let (listener, plan, (_commands, orders)) = alone(root);
    let port = plan.join.publish[0];
    let joined = Joined {
        address: Ipv4Addr::new(10, 219, 0, 5),
        prefix: 16,
        gateway: Ipv4Addr::new(10, 219, 0, 1),
        mtu: MTU,
        ipv6: None,
        published: vec![port],
    };
    let bare = Joined {
        published: Vec::new(),
        ..joined.clone()
    };
    let (told, _joined) = watch::channel(None);
    let (_leave, leaving) = oneshot::channel();
    let (_guest, theirs) = link().unwrap();
    let kept = tokio::spawn(keep(plan, theirs, told, orders, leaving));
    let process = tokio::task::spawn_blocking(move || {
        let (life, _) = next(&listener);
        say(&life, &Reply::Joined(joined));
        drop(life);
        for step in ["address", PUBLISH] {
            let (life, join) = next(&listener);
            assert_eq!(join.publish, [port]);
            say(&life, &refuse(step));
        }
        let (life, join) = next(&listener);
        assert!(join.publish.is_empty() && join.insists);
        say(&life, &Reply::Joined(bare));
        // The port is asked for until it is there.
        for reply in [refuse(PUBLISH), Reply::Published(vec![port])] {
            let asked = network::expect::<Request>(&life).unwrap().0;
            assert_eq!(asked, Request::Publish(vec![port]));
            say(&life, &reply);
        }
        drop(life);
        let (_life, join) = next(&listener);
        assert_eq!(join.publish, [port]);
    });
    tokio::select! {
        done = process => done.unwrap(),
        _ = kept => panic!("it gave up"),
    }
}

/// A port that somebody has is not asked for again, and the next of its range is; on the same connection.
#[tokio::test]
async fn the_next_port_of_a_range_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let (listener, mut plan, _commands) = alone(root);
    let publish = plan.join.publish.remove(0);
    plan.wanted = vec![Wanted {
        publish,
        last: publish.host_port + 2,
    }];
    let (_guest, link) = link().unwrap();
    let process = tokio::task::spawn_blocking(move || {
        let (life, join) = next(&listener);
        assert_eq!(join.publish, [publish]);
        say(&life, &refuse(PUBLISH));
        let (asked, link) = network::expect::<Request>(&life).unwrap();
        let second = network::Publish {
            host_port: publish.host_port + 1,
            ..publish
        };
        assert!(link.is_some() && matches!(asked, Request::Join(join) if join.publish == [second]));
        say(&life, &refuse("address"));
    });
    let refused = try_join(&plan, &link).await.err().unwrap();
    assert_eq!(refused.step, "address");
    process.await.unwrap();
}

#[test]
fn addresses_come_from_ids() {
    assert_eq!(mac("0123456789abcdef", 0), [2, 1, 0x23, 0x45, 0x67, 0x89]);
    assert_eq!(mac("0123456789abcdef", 3)[..2], [14, 1]);
    assert_eq!(mac("xyz", 0), [2, 0, 0, 0, 0, 0]);
}
