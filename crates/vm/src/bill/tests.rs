use super::*;
use proto::agent::Process;
use proto::network::Joined;
use store::container::{Journal, Process as Main, Tmpfs, Ulimit, Vm, VolumeMount};

fn spec(process: Main) -> Spec {
    Spec {
        id: "c".repeat(64),
        hostname: "box".to_owned(),
        process,
        ..Spec::default()
    }
}

fn asked(privileged: bool) -> proto::supervisor::Process {
    proto::supervisor::Process {
        args: vec!["ps".to_owned()],
        privileged,
        ..proto::supervisor::Process::default()
    }
}

fn limit(name: &str, soft: u64, hard: u64) -> Ulimit {
    Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    }
}

/// Each row: a change to the first process's specification, and what the agent is told of it and of an exec.
#[test]
fn rights_of_processes() {
    let check = |change: fn(&mut Main), expect: fn(&Process) -> bool, what: &str| {
        let mut process = Main::default();
        change(&mut process);
        let spec = spec(process);
        assert!(expect(&main_process(&spec).unwrap()), "main: {what}");
        let exec = exec_process(&spec, asked(false)).unwrap();
        assert!(expect(&exec), "exec: {what}");
    };
    check(
        |_| {},
        |told| {
            let limit = &told.rlimits[0];
            told.capabilities.len() == 14
                && told.rlimits.len() == 1
                && (limit.name.as_str(), limit.soft, limit.hard) == ("RLIMIT_NOFILE", 1024, 524_288)
                && !told.privileged
                && !told.no_new_privileges
                && !told.unmasked
        },
        "nothing asked for",
    );
    check(
        |main| main.cap_drop = vec!["all".to_owned()],
        |told| told.capabilities.is_empty() && !told.privileged,
        "all dropped",
    );
    check(
        |main| {
            main.privileged = true;
            main.cap_drop = vec!["ALL".to_owned()];
        },
        |told| told.privileged,
        "privileged",
    );
    check(
        |main| main.ulimits = vec![limit("nofile", 5, 6), limit("core", 0, u64::MAX)],
        |told| {
            let names: Vec<_> = told.rlimits.iter().map(|limit| &*limit.name).collect();
            names == ["RLIMIT_NOFILE", "RLIMIT_CORE"]
                && told.rlimits[0].soft == 5
                && told.rlimits[1].hard == u64::MAX
        },
        "limits",
    );
    check(
        |main| {
            main.no_new_privileges = true;
            main.unmasked = true;
            main.groups = vec!["video".to_owned()];
            main.oom_score_adj = -5;
        },
        |told| {
            told.no_new_privileges
                && told.unmasked
                && told.groups == ["video"]
                && told.oom_score_adj == -5
        },
        "the rest",
    );
}

#[test]
fn a_privileged_exec_in_a_container_that_is_not() {
    let spec = spec(Main {
        init: true,
        ..Main::default()
    });
    assert!(exec_process(&spec, asked(true)).unwrap().privileged);
    assert!(!exec_process(&spec, asked(true)).unwrap().init);
    assert!(main_process(&spec).unwrap().init);
}

/// Oracle: `docker exec -e NAME` with a NAME that is not set here.
#[test]
fn an_exec_has_the_environment_that_was_asked_for() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let spec = spec(Main {
        env: words(&["PATH=/bin", "A=1", "B=2"]),
        ..Main::default()
    });
    let asked = proto::supervisor::Process {
        env: words(&["B=3", "A", "C=4", "D"]),
        ..asked(false)
    };
    let told = exec_process(&spec, asked).unwrap();
    assert_eq!(told.env, ["PATH=/bin", "B=3", "C=4"]);
}

#[test]
fn a_capability_that_is_none_is_named() {
    let spec = spec(Main {
        cap_add: vec!["FLY".to_owned()],
        ..Main::default()
    });
    assert_eq!(main_process(&spec).unwrap_err().object, "FLY");
}

#[test]
fn what_the_guest_is_told_at_its_boot() {
    let mut spec = spec(Main::default());
    spec.vm = Vm {
        memory: 7,
        pids_limit: 9,
        nano_cpus: 1_500_000_000,
        journal: Journal::Writeback,
        ..Vm::default()
    };
    spec.shm_size = 11;
    spec.read_only = true;
    spec.tmpfs = vec![Tmpfs {
        target: "/run".to_owned(),
        options: "size=1m".to_owned(),
    }];
    spec.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
    let told = boot_request(&spec, &[], &Seats::default());
    assert_eq!(
        (told.memory_limit, told.pids_limit, told.nano_cpus),
        (7, 9, 1_500_000_000)
    );
    assert_eq!((told.shm_size, told.read_only_rootfs), (11, true));
    assert_eq!(told.mounts[0].target, "/run");
    assert_eq!(told.mounts[0].kind(), mount::Kind::Tmpfs);
    assert_eq!(told.sysctls[0].name, "net.ipv4.ip_forward");
    let rootfs = told.rootfs.unwrap();
    assert_eq!(
        (&*rootfs.image_disk, &*rootfs.upper_options),
        ("rootfs", "data=writeback")
    );
    let bare = maintenance_request(&spec, &[]);
    assert!(bare.mounts.is_empty() && bare.sysctls.is_empty() && bare.hosts.is_empty());
    assert!(!bare.read_only_rootfs);
}

#[test]
fn a_clone_is_one_disk() {
    let mut spec = spec(Main::default());
    spec.vm.rootfs = RootfsMode::Clone;
    spec.vm.journal = Journal::None;
    let rootfs = boot_request(&spec, &[], &Seats::default()).rootfs.unwrap();
    assert_eq!(
        (
            &*rootfs.image_disk,
            &*rootfs.upper_disk,
            &*rootfs.upper_options
        ),
        ("", "upper", "")
    );
}

#[test]
fn the_memory_of_a_vm() {
    assert_eq!(memory(0), 96 * MIB);
    // The least that `-m` takes.
    assert_eq!(memory(6 * MIB), (6 + 1 + 96) * MIB);
    for (own, expect) in [(6, 128), (128, 128), (200, 200), (4096, 512)] {
        assert_eq!(maintenance_memory(own * MIB), memory(expect * MIB), "{own}");
    }
    assert_eq!(memory(64 * MIB), (64 + 1 + 96) * MIB);
    assert_eq!(memory(64 * MIB + 1), (64 + 1 + 96 + 1) * MIB);
}

/// Each row: what is asked for, where the container is, and the lines that the guest gets.
#[test]
fn names_and_resolvers() {
    let joined = Joined {
        address: "10.219.0.5".parse().unwrap(),
        prefix: 16,
        gateway: "10.219.0.1".parse().unwrap(),
        mtu: 65520,
        ipv6: None,
        published: Vec::new(),
    };
    let mut spec = spec(Main::default());
    spec.resolution.servers = vec!["192.0.2.1".parse().unwrap()];
    spec.resolution.search = vec!["lan".to_owned(), "example".to_owned()];
    spec.resolution.hosts = vec![
        ("db".to_owned(), "192.0.2.7".to_owned()),
        ("me".to_owned(), "host-gateway".to_owned()),
    ];
    let told = boot_request(&spec, &[], &seats(std::slice::from_ref(&joined), 0));
    let hosts = String::from_utf8(told.hosts.to_vec()).unwrap();
    assert!(
        hosts.ends_with("192.0.2.7\tdb\n10.219.0.1\tme\n10.219.0.5\tbox\n"),
        "{hosts}"
    );
    assert_eq!(
        told.resolv_conf,
        "nameserver 10.219.0.1\nsearch lan example\n"
    );
    assert_eq!(told.networks[0].address, "10.219.0.5");
    assert_eq!(told.networks[0].address6, "");
    let both = Joined {
        ipv6: Some(proto::network::Ipv6 {
            address: "fd00::adb:5".parse().unwrap(),
            prefix: 64,
            gateway: "fd00::1".parse().unwrap(),
        }),
        ..joined.clone()
    };
    let told = boot_request(&spec, &[], &seats(std::slice::from_ref(&both), 0));
    let hosts = String::from_utf8(told.hosts.to_vec()).unwrap();
    assert!(
        hosts.ends_with("10.219.0.5\tbox\nfd00::adb:5\tbox\n"),
        "{hosts}"
    );
    let network = &told.networks[0];
    let given = (&*network.address6, network.prefix6, &*network.gateway6);
    assert_eq!(given, ("fd00::adb:5", 64, "fd00::1"));
    // Of two, one leads out by IPv4 and the other by IPv6, which the first has not.
    let apart = Joined {
        address: "10.220.0.7".parse().unwrap(),
        gateway: "10.220.0.1".parse().unwrap(),
        ..joined
    };
    let told = networks_request(&spec, &seats(&[both, apart], 1));
    let ways: Vec<_> = told
        .networks
        .iter()
        .map(|it| (&*it.gateway, &*it.gateway6))
        .collect();
    assert_eq!(ways, [("", "fd00::1"), ("10.220.0.1", "")]);
    assert!(told.resolv_conf.starts_with(b"nameserver 10.220.0.1\n"));
    assert!(told.hosts.ends_with(b"\n10.220.0.7\tbox\n"));
    let alone = boot_request(&spec, &[], &Seats::default());
    assert_eq!(
        alone.resolv_conf,
        "nameserver 192.0.2.1\nsearch lan example\n"
    );
    let hosts = String::from_utf8(alone.hosts.to_vec()).unwrap();
    assert!(
        hosts.ends_with("127.0.0.1\tme\n127.0.1.1\tbox\n"),
        "{hosts}"
    );
    spec.resolution = store::container::Resolution::default();
    assert!(
        boot_request(&spec, &[], &Seats::default())
            .resolv_conf
            .is_empty()
    );
}

fn seats(joined: &[Joined], out: usize) -> Seats {
    let seat = |(joined, card): (&Joined, u8)| Seat {
        mac: network::mac("", card),
        joined: joined.clone(),
        stream: Vec::new(),
    };
    Seats {
        all: joined.iter().zip(0..).map(seat).collect(),
        out,
    }
}

/// Which disk is where, in what order, and what of it the guest may do.
#[test]
fn volumes_are_disks() {
    let mut spec = spec(Main::default());
    let mount = |volume: &str, target: &str, read_only| VolumeMount {
        volume: volume.to_owned(),
        target: target.to_owned(),
        read_only,
        no_copy: read_only,
        ..VolumeMount::default()
    };
    spec.mounts = vec![
        mount("data", "/a/b/c", false),
        mount("lib", "/usr/lib", true),
        mount("data", "/a", true),
        mount("lib", "/b", true),
    ];
    spec.tmpfs = vec![Tmpfs {
        target: "/a/b".to_owned(),
        options: String::new(),
    }];
    let volumes = all_volumes(&spec);
    let shown: Vec<_> = volumes
        .iter()
        .map(|volume| (volume.name.as_str(), volume.read_only))
        .collect();
    assert_eq!(shown, [("data", false), ("lib", true)]);
    let told = boot_request(&spec, &volumes, &Seats::default());
    let shown: Vec<_> = told
        .mounts
        .iter()
        .map(|mount| (&*mount.source, &*mount.target, mount.read_only, mount.fill))
        .collect();
    assert_eq!(
        shown,
        [
            ("volume-0", "/a", true, false),
            ("volume-1", "/b", true, false),
            ("", "/a/b", false, false),
            ("volume-1", "/usr/lib", true, false),
            ("volume-0", "/a/b/c", false, true),
        ]
    );
    assert!(!told.maintenance);
    // Those that nobody has a lease for are left out.
    let kept = maintenance_request(&spec, &volumes[1..]);
    let targets: Vec<_> = kept.mounts.iter().map(|mount| &*mount.target).collect();
    assert_eq!(targets, ["/b", "/usr/lib"]);
    assert!(kept.maintenance && kept.mounts[0].source == "volume-0");
}

/// One device for all of them, by place; mounted among the others, outer ones first; none where nobody runs.
#[test]
fn folders_of_the_host_are_one_share() {
    let mut spec = spec(Main::default());
    assert_eq!(
        (
            shares(&spec),
            boot_request(&spec, &[], &Seats::default()).shares
        ),
        (vec![], String::new())
    );
    let bind = |source: &str, target: &str, read_only| store::container::BindMount {
        source: source.into(),
        target: target.to_owned(),
        read_only,
        bind: None,
    };
    spec.binds = vec![
        bind("/home/me/x", "/work/x", true),
        bind("/home/me", "/work", false),
    ];
    spec.process.user = "me".to_owned();
    let shared = shares(&spec);
    assert_eq!(shared.len(), 1);
    let folders: Vec<_> = shared[0]
        .folders
        .iter()
        .map(|folder| {
            (
                folder.name.as_str(),
                folder.path.to_str().unwrap(),
                folder.read_only,
            )
        })
        .collect();
    assert_eq!(
        folders,
        [("0", "/home/me/x", true), ("1", "/home/me", false)]
    );
    let told = boot_request(&spec, &[], &Seats::default());
    assert_eq!(
        (told.shares, told.user),
        (shared[0].tag.clone(), "me".to_owned())
    );
    let mounts: Vec<_> = told
        .mounts
        .iter()
        .map(|mount| {
            (
                mount.kind(),
                &*mount.source,
                &*mount.target,
                mount.read_only,
            )
        })
        .collect();
    let kind = mount::Kind::Share;
    assert_eq!(
        mounts,
        [(kind, "1", "/work", false), (kind, "0", "/work/x", true)]
    );
    let bare = maintenance_request(&spec, &[]);
    assert!(bare.shares.is_empty() && bare.mounts.is_empty());
}

#[test]
fn a_volume_alone_is_the_root() {
    let mut spec = spec(Main::default());
    spec.vm.rootfs = RootfsMode::Volume;
    spec.mounts = vec![VolumeMount {
        volume: "data".to_owned(),
        ..VolumeMount::default()
    }];
    let told = maintenance_request(&spec, &all_volumes(&spec));
    assert!(told.bare && told.mounts.is_empty());
    assert_eq!(told.rootfs.unwrap().upper_disk, "volume-0");
}
