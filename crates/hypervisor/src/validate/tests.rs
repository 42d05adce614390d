use std::path::PathBuf;

use super::*;
use crate::config::*;

/// A configuration that is right, in a folder of its own.
struct Right {
    config: VmConfig,
    folder: tempfile::TempDir,
}

impl Right {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn right() -> Right {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("kernel"), "k").unwrap();
    std::fs::write(path("disk"), [0; 1024]).unwrap();
    std::fs::write(path("odd"), [0; 1000]).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    let config = VmConfig {
        id: "abc".into(),
        vcpus: 1,
        memory: 128 << 20,
        boot: BootLoader::Linux {
            kernel: path("kernel"),
            initramfs: None,
            command_line: "quiet".into(),
        },
        disks: vec![Disk {
            id: "rootfs".into(),
            path: path("disk"),
            read_only: true,
            discard: false,
            volatile: false,
        }],
        networks: Vec::new(),
        shares: Vec::new(),
        vsock: Some(Vsock::default()),
        consoles: vec![Console {
            output: ConsoleOutput::Log(path("console.log")),
        }],
        entropy: true,
        balloon: Some(Balloon {
            free_page_reporting: true,
        }),
        power_button: true,
        graphics: None,
        audio: None,
        usb: None,
        translation: None,
        virtualization: false,
    };
    Right { config, folder }
}

/// Changes a right configuration and compares what is then wrong with it for `qemu`. `@` stands for its folder.
fn check(change: impl FnOnce(&Right, &mut VmConfig), expect: &str) {
    let right = right();
    let mut config = right.config.clone();
    change(&right, &mut config);
    let found = match validate(&config, DriverKind::Qemu) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    };
    let folder = right.folder.path().to_str().unwrap();
    assert_eq!(found.replace(folder, "@"), expect);
}

#[test]
fn what_is_right() {
    check(|_, _| {}, "");
    check(
        |_, config| {
            config.vcpus = MAX_VCPUS;
            config.memory = MIN_MEMORY;
            config.disks.clear();
            config.vsock = None;
            config.consoles.clear();
        },
        "",
    );
}

#[test]
fn the_machine() {
    check(
        |_, config| config.id = "a b".into(),
        "id: \"a b\" holds other letters than a-z A-Z 0-9 . _ -; use only those",
    );
    check(
        |_, config| config.id = String::new(),
        "id: \"\" has 0 bytes; use 1 to 64",
    );
    check(
        |_, config| config.vcpus = 0,
        "vcpus: 0 virtual processors; use 1 to 255",
    );
    check(
        |_, config| config.vcpus = 256,
        "vcpus: 256 virtual processors; use 1 to 255",
    );
    check(
        |_, config| config.memory = 64 << 20,
        "memory: 67108864 bytes is less than what boots; use at least 96 MiB",
    );
    check(
        |_, config| config.memory = 1 << 40,
        "memory: 1099511627776 bytes is more than a VM can address; use at most 1044480 MiB",
    );
    check(
        |_, config| config.memory = (128 << 20) + 1,
        "memory: 134217729 bytes are no whole number of MiB; use 129 MiB",
    );
}

#[test]
fn the_boot_loader() {
    let linux = |right: &Right, kernel: &str, command_line: String| BootLoader::Linux {
        kernel: right.path(kernel),
        initramfs: Some(right.path("initramfs")),
        command_line,
    };
    check(
        |right, config| config.boot = linux(right, "no", "a\nb".into()),
        "boot.linux.kernel: @/no: entity not found; name one that exists and can be read\n\
         boot.linux.initramfs: @/initramfs: entity not found; name one that exists and can be read\n\
         boot.linux.command_line: holds a line break or a NUL; use spaces",
    );
    check(
        |right, config| {
            std::fs::write(right.path("initramfs"), "i").unwrap();
            config.boot = linux(right, ".", "a".repeat(2048));
        },
        "boot.linux.kernel: @/. is no file; name a regular file\n\
         boot.linux.command_line: 2048 bytes; use at most 2047",
    );
    check(
        |_, config| {
            config.boot = BootLoader::Efi {
                variables: "v".into(),
            }
        },
        "boot.efi: the driver qemu has no EFI firmware; boot a Linux kernel directly",
    );
}

#[test]
fn disks() {
    let disk = |id: &str, path: PathBuf| Disk {
        id: id.into(),
        path,
        read_only: false,
        discard: true,
        volatile: false,
    };
    check(
        |right, config| {
            config.disks = vec![
                disk("a", right.path("disk")),
                disk("a", right.path("odd")),
                disk("twenty-one-bytes-long", right.path("empty")),
                disk("c,d", right.path(".")),
                disk("e", right.path("no")),
            ]
        },
        "disks[1].id: \"a\" is used twice; give each its own\n\
         disks[1].path: @/odd has 1000 bytes, no whole number of sectors; grow it to a multiple of 512\n\
         disks[2].id: \"twenty-one-bytes-long\" has 21 bytes; use 1 to 20\n\
         disks[2].path: @/empty is empty; give the image its size first\n\
         disks[3].id: \"c,d\" holds other letters than a-z A-Z 0-9 . _ -; use only those\n\
         disks[3].path: @/. is neither a file nor a block device; name a raw disk image\n\
         disks[4].path: @/no: entity not found; name one that exists and can be read",
    );
    check(
        |right, config| {
            let number = 0..=MAX_DISKS;
            let disks = number.map(|number| disk(&number.to_string(), right.path("disk")));
            config.disks = disks.collect();
        },
        "disks: 21 disks; use at most 20",
    );
}

#[test]
fn vsock_and_consoles() {
    check(
        |_, config| config.vsock = Some(Vsock { cid: 2 }),
        "vsock.cid: 2 is reserved; use 3 to 4294967294",
    );
    check(
        |right, config| {
            config.consoles[0].output = ConsoleOutput::Log(right.path("disk/console.log"));
        },
        "consoles[0].output: @/disk is no folder; make it first",
    );
    check(
        |_, config| config.consoles = vec![config.consoles[0].clone(); 5],
        "consoles[4]: a fifth serial port; use at most four",
    );
}

/// Links are followed when a person names a path, not here: this one may be a guest's.
#[test]
fn folders_that_are_links_by_now() {
    check(
        |right, config| {
            let folder = right.path("folder");
            std::fs::create_dir(&folder).unwrap();
            std::os::unix::fs::symlink(&folder, right.path("link")).unwrap();
            std::os::unix::net::UnixListener::bind(right.path("socket")).unwrap();
            let names = ["folder", "link", "socket"];
            config.shares = vec![Share {
                tag: "work".into(),
                folders: names
                    .map(|name| Folder {
                        name: name.to_owned(),
                        path: right.path(name),
                        read_only: false,
                    })
                    .into(),
            }];
        },
        "shares[0].folders[1].path: @/link: it, or a folder above it, was replaced by a link since the container was made; \
         put back what was there, or make the container anew with the path that you mean\n\
         shares[0].folders[2].path: @/socket is neither a folder nor a file; share the folder that holds it",
    );
}

#[test]
fn what_qemu_has_not_got_is_refused_by_name() {
    check(
        |right, config| {
            config.networks = vec![Network {
                id: "net".into(),
                mac: [1, 2, 3, 4, 5, 6],
                mtu: 576,
            }];
            config.shares = vec![Share {
                tag: "work".into(),
                folders: vec![Folder {
                    name: "..".into(),
                    path: right.path("none"),
                    read_only: true,
                }],
            }];
            config.vsock = None;
            config.graphics = Some(Graphics {
                width: 1024,
                height: 768,
            });
            config.audio = Some(Audio::default());
            config.usb = Some(Usb::default());
            config.translation = Some(Translation::QemuUser);
        },
        "networks[0].mac: is a multicast address; clear the lowest bit of the first byte\n\
         networks[0].mtu: 576 bytes; use 1280 to 65535 (IPv6 needs 1280)\n\
         shares[0].folders[0].name: \"..\" means a directory itself; use another name\n\
         shares[0].folders[0].path: @/none: entity not found; name one that exists and can be read\n\
         shares: the driver qemu has shared folders from the process of the vsock device; add a vsock device\n\
         graphics: the driver qemu has no display; leave it out\n\
         audio: the driver qemu has no sound card; leave it out\n\
         usb: the driver qemu has no USB controller; leave it out\n\
         translation: the driver qemu has no translation of foreign programs; leave it out",
    );
}

#[test]
fn drivers_that_this_build_has_not_got() {
    let errors = validate(&right().config, DriverKind::Vz).unwrap_err();
    let expect = "driver: this build has no driver vz; use the driver qemu";
    assert_eq!(errors.to_string(), expect);
}

#[test]
fn what_our_own_monitor_has_no_room_for() {
    let right = right();
    validate(&right.config, DriverKind::Kvm).unwrap();
    let mut config = right.config.clone();
    config.vcpus = 255;
    let console = Console {
        output: ConsoleOutput::Stream,
    };
    config.consoles = vec![console; 3];
    let errors = validate(&config, DriverKind::Kvm).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "vcpus: the driver kvm has no 255 processors; use at most 254\n\
         consoles: the driver kvm has two serial ports; use at most two"
    );
}

#[test]
fn a_configuration_survives_json() {
    let config = right().config;
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
    let least = r#"{"id":"a","vcpus":1,"memory":1,"boot":{"linux":{"kernel":"/k"}}}"#;
    let config: VmConfig = serde_json::from_str(least).unwrap();
    assert!(config.disks.is_empty() && config.vsock.is_none() && !config.power_button);
    let unknown = least.replace("\"vcpus\"", "\"cpus\"");
    assert!(serde_json::from_str::<VmConfig>(&unknown).is_err());
}
