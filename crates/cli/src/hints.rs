//! What to do about a failure, and what to exit with. Kinds of failures are the engine's; remedies are ours alone.

use engine::{CopyError, CopyRefusal, Error, ErrorKind, StartFailure};

use crate::failure::{FAILED, Failure, NOT_EXECUTABLE, NOT_FOUND};

/// The exit code of an engine's failure.
pub fn code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::StartFailed(StartFailure::NotFound) => NOT_FOUND,
        ErrorKind::StartFailed(StartFailure::NotExecutable) => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

/// What a failure is about: the same kind wants other remedies for other things.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    StateDirectory,
    StateFile,
    Container,
    Volume,
    Kernel,
    Other,
}

fn subject(error: &Error) -> Subject {
    match error {
        Error::Root(_) => Subject::StateDirectory,
        Error::Json(_) => Subject::StateFile,
        Error::Container(_)
            if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerSchema) =>
        {
            Subject::StateFile
        }
        Error::Volume(_) => Subject::Volume,
        Error::Container(_) | Error::Lock(_) => Subject::Container,
        Error::Kernel(_) => Subject::Kernel,
        _ => Subject::Other,
    }
}

/// The remedy for an engine's failure.
pub fn engine(error: &Error) -> Option<String> {
    if let Some(remedy) = error.remedy() {
        return Some(remedy.to_owned());
    }
    let hint = match error {
        Error::Running { name } => {
            format!("`gourd stop {name}` ends it; `gourd rm -f {name}` kills and removes it")
        }
        Error::RemovedAtEnd { name } => {
            format!(
                "it was run with --rm; `gourd stop {name}` ends and removes it, `gourd run` makes another one"
            )
        }
        Error::NotRunning { name } => format!("`gourd start {name}` starts it"),
        Error::Version { name, .. } => {
            format!(
                "stop {name} with the gourd that started it, or end its supervisor (`gourd inspect {name}` has its pid)"
            )
        }
        Error::Lost { name, .. } => format!(
            "unless it was run with --rm, `gourd logs {name}` shows what it wrote and `gourd start {name}` starts it again \
             with its disk"
        ),
        // They say what would be right.
        Error::Network(
            engine::NetworkError::InvalidAllow { .. } | engine::NetworkError::InternalAllows,
        ) => return None,
        Error::Network(error) if error_is_about_a_network(error) => {
            "`gourd network ls` lists the networks and their subnets; `gourd network create` makes one".to_owned()
        }
        Error::NetworkInUse {
            network,
            containers,
        } => format!(
            "`gourd network disconnect {network} {}` takes it off, `gourd stop` ends it",
            containers.first().map_or("CONTAINER", String::as_str)
        ),
        Error::Connected { container, network } => {
            format!("`gourd network disconnect {network} {container}` takes it off first")
        }
        Error::NotConnected { container, .. } => format!(
            "`gourd inspect -f '{{{{json .NetworkSettings.Networks}}}}' {container}` shows its networks"
        ),
        Error::Invalid { what, .. } => return Some(invalid(what).to_owned()),
        Error::Start { failure, step, .. } => start(*failure, step).to_owned(),
        Error::Reference { .. } => REFERENCE.to_owned(),
        Error::SeveralReferences { .. } => {
            "-f removes all of them; or remove one by its name".to_owned()
        }
        Error::ImageInUse { container, .. } => {
            format!("`gourd rm {container}` removes the container first")
        }
        Error::VolumeInUse { .. } => {
            "stop the container, or wait for the command; containers that mount a volume with :ro, all of them, can share it"
                .to_owned()
        }
        Error::VolumeUsed { containers, .. } => format!(
            "`gourd rm {}` removes {} first",
            containers.join(" "),
            if containers.len() == 1 { "the container" } else { "the containers" }
        ),
        Error::VolumeDiffers { name, option, .. } => match *option {
            "size" => format!("leave out --size; `gourd volume resize {name} SIZE` makes it larger"),
            "owner" => format!(
                "leave out --owner, or choose another name; `gourd run --rm -v {name}:/x IMAGE chown UID:GID /x` changes whose it is"
            ),
            option => format!(
                "leave out --{option}, or choose another name; `gourd volume clone --{option} KEY=VALUE {name} NAME` makes a copy"
            ),
        },
        Error::ImagesInUse { .. } => {
            "wait until that has ended, then try again".to_owned()
        }
        Error::Copy(error) => return copy(error).map(str::to_owned),
        Error::Guest { errno, .. } => return errno.and_then(guest).map(str::to_owned),
        Error::Stuck { name } => {
            format!(
                "its supervisor hangs: `gourd inspect {name}` has its pid; end that, then try again"
            )
        }
        _ => {
            return kind(error.kind(), &subject(error)).map(|hint| hint.into_owned());
        }
    };
    Some(hint)
}

/// Not about files.
fn error_is_about_a_network(error: &engine::NetworkError) -> bool {
    use engine::NetworkError as Error;
    !matches!(error, Error::Json(_) | Error::Lock(_) | Error::File(_))
}

/// Why the process did not start; `step` is what the guest or the supervisor was doing.
fn start(failure: StartFailure, step: &str) -> &'static str {
    match failure {
        StartFailure::NotFound => {
            "is it in the image? `gourd image inspect IMAGE` shows its entry point and PATH; a script's #! line names a \
             program too"
        }
        StartFailure::NotExecutable => {
            "it needs execute permission, and must be a program for this machine or a script with a #! line"
        }
        StartFailure::Invalid | StartFailure::Other if step.contains("user") => {
            "-u takes a name of the image's /etc/passwd, or a number, which need not be there"
        }
        StartFailure::Invalid | StartFailure::Other if step.contains("group") => {
            "-u USER:GROUP takes a name of the image's /etc/group, or a number, which need not be there"
        }
        StartFailure::Invalid | StartFailure::Other if step.contains("directory") => {
            "-w takes an absolute path; a directory that is missing is made, but nothing on the way may be a file"
        }
        StartFailure::Invalid => "`gourd run --help` says what each flag takes",
        StartFailure::Other => {
            "`gourd system doctor` checks what containers need here; unless it was run with --rm, \
             `gourd inspect CONTAINER` names its logs"
        }
    }
}

fn copy(error: &CopyError) -> Option<&'static str> {
    Some(match error {
        CopyError::NotFound { .. } => "paths of a container begin at its root; check the spelling",
        CopyError::Rules(CopyRefusal::CannotCopyDirectory) => {
            "a file is there: remove it, or choose another destination"
        }
        CopyError::Rules(CopyRefusal::NoSuchDirectory) => {
            "make the directory first, or leave out the `/` at the end"
        }
        CopyError::NoParent(_) => "make the directory first",
        CopyError::NotADirectory(_) => "leave out what follows the name",
        CopyError::Irregular(_) => "`gourd cp CONTAINER:PATH -` writes a tar archive to stdout",
        CopyError::DirectoryOverOther { .. } | CopyError::OtherOverDirectory { .. } => {
            "remove what is there, or choose another destination"
        }
        CopyError::Escape { .. } => {
            "a program in the container may mean harm: look before you copy"
        }
        CopyError::Host { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull => "free some space here",
            std::io::ErrorKind::PermissionDenied => "check who owns it and who may write there",
            _ => "check the path and its disk",
        },
        _ => return None,
    })
}

/// What the guest says is about what is in it, but for its disks.
fn guest(errno: i32) -> Option<&'static str> {
    match rustix::io::Errno::from_raw_os_error(errno) {
        rustix::io::Errno::IO => Some(
            "a disk of the container failed, as it does when the host's has no room: `df` shows that; free some space there, \
             then `gourd restart` the container",
        ),
        rustix::io::Errno::ROFS => Some(
            "it was started with --read-only, or its disk failed before: `gourd restart` the container when the host's disk has \
             room",
        ),
        _ => None,
    }
}

/// The form of a reference.
const REFERENCE: &str = "a reference is [HOST[:PORT]/]NAME[:TAG][@DIGEST] with the name in lower case, for example debian or \
                         localhost:5000/tools/app:1.2";

fn invalid(what: &str) -> &'static str {
    match what {
        "reference" | "image" | "image reference" => REFERENCE,
        "platform" => "a platform is OS/ARCH, for example linux/amd64",
        "memory" => "give it more with -m, for example -m 64m",
        "capability to add" | "capability to drop" => {
            "names are as in capabilities(7), for example NET_ADMIN; ALL is every one"
        }
        "number of cpus" => "give it fewer with --cpus, for example --cpus 1.5",
        "sysctl" => "write NAME=VALUE, for example --sysctl net.core.somaxconn=1024",
        "tmpfs" => "write PATH[:OPTIONS], for example --tmpfs /run:size=64m,mode=1777,exec",
        "subnet" | "network" => "`gourd network ls` lists the networks and their subnets",
        "address" => "`gourd network ls` shows the subnet of each network",
        "port" => "leave out -p, or join a network",
        "exposed port" => "write for example --expose 80 or --expose 53/udp",
        "mount" => "write -v NAME:/path[:ro], each with a path of its own",
        "bind mount" => {
            "share a folder or a file that exists (-v makes a missing folder, --mount does not), for example -v .:/work:ro"
        }
        "restart policy" => "leave out --rm, or --restart",
        "driver" => "`gourd system doctor` shows the drivers that work here",
        "kernel" => "`gourd system kernel ls` lists the kernels",
        _ => "`gourd run --help` says what each flag takes",
    }
}

type Text = std::borrow::Cow<'static, str>;

fn kind(kind: ErrorKind, subject: &Subject) -> Option<Text> {
    let hint: Text = match (kind, subject) {
        (ErrorKind::NotFound, Subject::Container) => "`gourd ps -a` lists the containers".into(),
        (ErrorKind::NotFound, Subject::Volume) => {
            "`gourd volume ls` lists the volumes; `gourd volume create NAME` makes one".into()
        }
        (ErrorKind::Conflict, Subject::Volume) => {
            "choose another name, or remove the one that has it: `gourd volume rm NAME`".into()
        }
        (ErrorKind::Invalid, Subject::Volume) => {
            "`gourd volume create --help` says what names and sizes are; `gourd volume ls` lists what there is".into()
        }
        (ErrorKind::Corrupt, Subject::Volume) => {
            "the file is damaged: `gourd volume inspect NAME` says where it is, for e2fsck; or remove the volume".into()
        }
        (ErrorKind::InUse, Subject::Volume) => "wait until that has ended, or choose another name".into(),
        (ErrorKind::NotFound, Subject::Other) => {
            "`gourd images` lists the images that are here; check the name, or whether the registry has it".into()
        }
        (ErrorKind::Conflict, Subject::Container) => {
            "`gourd rm NAME` removes the one that has the name; or choose another with --name".into()
        }
        (ErrorKind::Conflict, Subject::Kernel) => "--replace takes its place".into(),
        (ErrorKind::Invalid, Subject::Kernel) => {
            "a kernel is a vmlinux or a bzImage; `gourd system kernel ls` lists those that are installed".into()
        }
        (ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Io, Subject::Kernel) => {
            "check the path, and that you may read it; `gourd system kernel ls` lists the kernels that are installed".into()
        }
        (ErrorKind::Invalid, Subject::Container) => "`gourd ps -a` lists the containers with names and ids".into(),
        (ErrorKind::InUse, _) => "`gourd ps -a` lists the containers; remove those that use it first".into(),
        (ErrorKind::Platform, _) => {
            "choose an image that has this machine's platform, or one of the image's with --platform".into()
        }
        (ErrorKind::Unreachable, _) => {
            "check the address, and that the registry runs and can be reached from here (http is for loopback, and for what \
             insecure-registries in ~/.config/gourd/registries.json names)"
                .into()
        }
        (ErrorKind::Unauthorized, _) => {
            "check the name; `gourd login SERVER` keeps credentials for it (in ~/.docker/config.json, as `docker login` does)".into()
        }
        (ErrorKind::Corrupt, Subject::StateFile) => {
            "the file is damaged: `gourd rm -f CONTAINER` removes a container with all its files; delete any other file".into()
        }
        (ErrorKind::Corrupt, Subject::Other) => {
            "what came is not what it should be: try again; if it stays so, the registry or the archive is damaged".into()
        }
        (ErrorKind::NewerSchema, _) => {
            "a newer gourd wrote it: upgrade this one, or choose another state directory with --root or GOURD_ROOT".into()
        }
        (ErrorKind::TooLarge, _) => {
            "no honest image is so large: look at where it comes from".into()
        }
        (ErrorKind::UnpacksTooLarge, _) => {
            "look at where it comes from: a few bytes that become so many are made to fill disks. If you trust it, --max-unpacked SIZE before the \
             verb (`gourd --max-unpacked 40g pull IMAGE`), or GOURD_MAX_UNPACKED, allows more"
                .into()
        }
        (ErrorKind::Denied, Subject::StateDirectory) | (ErrorKind::Io | ErrorKind::Invalid, Subject::StateDirectory) => {
            "make the directory writable, or choose another one with --root or GOURD_ROOT".into()
        }
        (ErrorKind::Denied, _) => "check who owns it and who may write there".into(),
        (ErrorKind::NoSpace, _) => {
            "free some space: `gourd ps -a` and `gourd images` list what can be removed (`gourd rm`, `gourd rmi`)".into()
        }
        (ErrorKind::MissingProgram(name), _) => missing_program(name),
        (ErrorKind::MissingKernel, _) => {
            "`./dev kernel` builds one and installs it; `gourd system kernel add NAME FILE` installs any; \
             `gourd system kernel ls` lists them"
                .into()
        }
        (ErrorKind::StartFailed(_) | ErrorKind::VmLost, _) => {
            "`gourd system doctor` checks what containers need here".into()
        }
        (ErrorKind::Io | ErrorKind::NotFound, _) => {
            "check the path and its disk; `gourd system doctor` checks what gourd needs here".into()
        }
        (ErrorKind::Corrupt, _) => "the file is damaged: remove what it belongs to and make it anew".into(),
        (ErrorKind::Conflict | ErrorKind::Invalid, _) => {
            "`gourd ps -a` and `gourd images` list what there is; `gourd COMMAND --help` says what each flag takes".into()
        }
        (ErrorKind::Version, _) => {
            "two programs of gourd are of different builds: install all of them together (`./dev build`)".into()
        }
        // Kinds that a newer engine may have.
        _ => return None,
    };
    Some(hint)
}

fn missing_program(name: &str) -> Text {
    format!("{name} belongs beside gourd: `./dev build` builds all programs; `gourd system doctor` checks the rest").into()
}

/// The remedy for a failure of the command itself.
pub fn command(failure: &Failure) -> Option<String> {
    Some(
        match failure {
            Failure::Stdin(_) | Failure::Output(_) | Failure::Terminal(_) => {
                "check where the command's input and output go: a file's disk may be full, a terminal gone"
            }
            Failure::Timings { .. } => "check that the directory is there and that you may write to it",
            Failure::SetUp { .. } => "the limits of processes and open files may be reached: see `ulimit -a`",
            Failure::NoStreams { .. } => "`gourd logs` shows what it wrote",
            Failure::GaveUp { .. } => "`gourd ps` says whether it runs; `gourd rm -f` ends it",

            Failure::NotATty => "leave out -t when input comes from a pipe or a file",
            Failure::NoSuchObject { .. } => {
                "`gourd ps -a` lists the containers, `gourd images` the images, `gourd volume ls` the volumes"
            }
            Failure::NoSuchContainer { .. } => "`gourd ps -a` lists the containers",
            Failure::Flags(_) => "`gourd run --help` says what each flag takes",
            Failure::NotPublished { .. } => "`gourd port CONTAINER` lists those that there are; `gourd run -p` publishes them",
            Failure::NothingToUpdate => "give one of --memory, --cpus, --pids-limit, --restart",
            Failure::Unit { .. } => "check the path, and that you may write there",
            Failure::NoUnitPlace => "set HOME",
            Failure::Lines { .. } => {
                "a line is KEY=VALUE, or a comment that begins with #; quotes belong to the value"
            }
            Failure::IdFile { .. } => {
                "it must be a new file: one that is there may name a container that runs; remove it, or choose another"
            }
            Failure::Open { .. } => "check the path, and that you may read it",
            Failure::Create { .. } => {
                "check that the folder is there, that its disk has room, and that you may write to it"
            }
            Failure::IsFolder { .. } => "name a file in it: -o FOLDER/FILE.tar",
            Failure::NoPassword => {
                "`gourd login -u NAME --password-stdin SERVER < FILE` asks for nothing"
            }
            Failure::ArchiveToTerminal => {
                "name a file with -o FILE, or send it on: `gourd save IMAGE > FILE`"
            }
            Failure::TimingsTarget { .. } => {
                "the picture and `json` go to stderr, FILE.json is written"
            }
            Failure::Template(_) => "fields are as in `--format json`",
            Failure::NoArchive => "name one with -i FILE, or feed it: `gourd load < FILE`",
            Failure::BetweenContainers => {
                "copy through a pipe: `gourd cp FROM:PATH - | gourd cp - TO:PATH`"
            }
            Failure::NoContainer => "one of the two is CONTAINER:PATH, or a name and `-`",
            Failure::PsOptions { .. } => "`gourd top CONTAINER -o pid,user,args` chooses columns",
            Failure::AttachToMany { .. } => "start them without -a and -i, or one by one",
            Failure::NoRelease { .. } => "say it with --release, as `uname -r` would",
            _ => return None,
        }
        .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        let start = |failure| Error::Start {
            failure,
            step: "execve".to_owned(),
            message: "execve /x".to_owned(),
            remedy: None,
        };
        assert_eq!(code(&start(StartFailure::NotFound)), 127);
        assert_eq!(code(&start(StartFailure::NotExecutable)), 126);
        assert_eq!(code(&start(StartFailure::Invalid)), 125);
        assert_eq!(code(&start(StartFailure::Other)), 125);
        assert_eq!(
            code(&Error::Running {
                name: "x".to_owned()
            }),
            125
        );
    }

    /// The whole text of failures, as people see it.
    #[test]
    fn texts() {
        let check = |error: Error, expect: &str| assert_eq!(Failure::from(error).render(), expect);
        check(
            Error::Running {
                name: "box".to_owned(),
            },
            "gourd: container box is running\n  \
             hint: `gourd stop box` ends it; `gourd rm -f box` kills and removes it\n",
        );
        check(
            Error::NotRunning {
                name: "box".to_owned(),
            },
            "gourd: container box is not running\n  hint: `gourd start box` starts it\n",
        );
        check(
            Error::Lost {
                name: "box".to_owned(),
                reason: "the monitor died (signal 9)".to_owned(),
                remedy: None,
            },
            "gourd: container box was lost: the monitor died (signal 9)\n  \
             hint: unless it was run with --rm, `gourd logs box` shows what it wrote and `gourd start box` starts it again \
             with its disk\n",
        );
        check(
            Error::Invalid {
                what: "memory",
                reason: "16777216 bytes; 67108864 is the least that boots".to_owned(),
            },
            "gourd: invalid memory: 16777216 bytes; 67108864 is the least that boots\n  \
             hint: give it more with -m, for example -m 64m\n",
        );
        check(
            Error::Guest {
                not_found: false,
                errno: Some(rustix::io::Errno::IO.raw_os_error()),
                message: "write out /: Input/output error".to_owned(),
            },
            "gourd: write out /: Input/output error\n  \
             hint: a disk of the container failed, as it does when the host's has no room: `df` shows that; free some space \
             there, then `gourd restart` the container\n",
        );
        check(
            Error::Start {
                failure: StartFailure::NotFound,
                step: "execve".to_owned(),
                message: "execve /bin/nope: no such file".to_owned(),
                remedy: None,
            },
            "gourd: execve /bin/nope: no such file\n  \
             hint: is it in the image? `gourd image inspect IMAGE` shows its entry point and PATH; a script's #! line \
             names a program too\n",
        );
        check(
            Error::Start {
                failure: StartFailure::Other,
                step: "choose a driver".to_owned(),
                message: "the driver qemu does not work here: qemu-system-x86_64 is not in PATH"
                    .to_owned(),
                remedy: Some("sudo apt install qemu-system-x86".to_owned()),
            },
            "gourd: the driver qemu does not work here: qemu-system-x86_64 is not in PATH\n  \
             hint: sudo apt install qemu-system-x86\n",
        );
        check(
            Error::Version {
                name: "box".to_owned(),
                theirs: 9,
                ours: 1,
            },
            "gourd: the supervisor of container box speaks protocol version 9, this gourd speaks 1\n  \
             hint: stop box with the gourd that started it, or end its supervisor (`gourd inspect box` has its pid)\n",
        );
    }

    #[test]
    fn starts() {
        use StartFailure as F;
        let check = |failure, step: &str, expect: &str| {
            let hint = start(failure, step);
            assert!(hint.contains(expect), "{failure:?} {step}: {hint}");
        };
        check(F::Invalid, "look up user", "/etc/passwd");
        check(F::Invalid, "look up group", "/etc/group");
        check(F::Invalid, "enter directory", "-w");
        check(F::Invalid, "limit", "--help");
        check(F::Other, "start the VM", "doctor");
        check(F::NotExecutable, "execve", "permission");
    }

    /// Each kind that a user can do something about has a remedy.
    #[test]
    fn kinds() {
        use ErrorKind as K;
        use Subject as S;
        let check = |given: K, subject: S, expect: &str| {
            let hint = kind(given, &subject).unwrap_or_default();
            assert!(hint.contains(expect), "{given:?} {subject:?}: {hint:?}");
        };
        check(K::NotFound, S::Container, "gourd ps -a");
        check(K::NotFound, S::Other, "gourd images");
        check(K::Conflict, S::Container, "--name");
        check(K::Conflict, S::Kernel, "--replace");
        check(K::InUse, S::Other, "gourd ps -a");
        check(K::Invalid, S::Kernel, "vmlinux");
        check(K::NotFound, S::Kernel, "check the path");
        check(K::Invalid, S::Container, "gourd ps -a");
        check(K::Platform, S::Other, "--platform");
        check(K::Unreachable, S::Other, "registry runs");
        check(K::Unauthorized, S::Other, "config.json");
        check(K::Corrupt, S::StateFile, "gourd rm -f");
        check(K::Corrupt, S::Other, "try again");
        check(K::UnpacksTooLarge, S::Other, "--max-unpacked");
        check(K::NewerSchema, S::StateFile, "upgrade");
        check(K::Denied, S::StateDirectory, "GOURD_ROOT");
        check(K::Denied, S::Other, "who owns it");
        check(K::NoSpace, S::Other, "gourd rmi");
        check(K::MissingProgram("gourd-vm"), S::Other, "./dev build");
        check(K::MissingKernel, S::Kernel, "./dev kernel");
        check(K::VmLost, S::Other, "system doctor");
        // Whatever fails in the engine, with whatever it is about, there is something to do.
        let kinds = [
            K::NotFound,
            K::Conflict,
            K::InUse,
            K::Invalid,
            K::Platform,
            K::Unreachable,
            K::Unauthorized,
            K::Corrupt,
            K::TooLarge,
            K::UnpacksTooLarge,
            K::NewerSchema,
            K::Denied,
            K::NoSpace,
            K::MissingProgram("gourd-vm"),
            K::MissingKernel,
            K::StartFailed(StartFailure::Other),
            K::VmLost,
            K::Version,
            K::Io,
        ];
        for given in kinds {
            for subject in [
                S::StateDirectory,
                S::StateFile,
                S::Container,
                S::Volume,
                S::Kernel,
                S::Other,
            ] {
                assert!(kind(given, &subject).is_some(), "{given:?} {subject:?}");
            }
        }
    }
}
