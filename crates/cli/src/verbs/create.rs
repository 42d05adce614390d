//! `gourd create`, and the part that it shares with `gourd run`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::{
    BindRequest, Container, CreateRequest, Engine, HealthRequest, Pull as EnginePull, RootfsMode,
};

use crate::app::App;
use crate::args::container::mount::{Bind, Mounted};
use crate::args::container::value::{LogOption, SecurityOption, StorageOption};
use crate::args::container::{Create, Health, Process, Pull, Rootfs};
use crate::args::{lines, value};
use crate::failure::Failure;
use crate::render::{out, progress::Progress};

/// Creates a container and prints its id.
pub async fn create(app: &App, args: Create) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let container = make(&engine, args.process).await?;
    out::line(&container.id)?;
    Ok(0)
}

/// Creates a container, pulling its image when that is asked for or needed.
pub async fn make(engine: &Engine, args: Process) -> Result<Container, Failure> {
    let cidfile = args.cidfile.clone().map(IdFile::make).transpose()?;
    let progress = Progress::new(args.quiet);
    let made = engine
        .create(request(args)?, &|event| progress.show(event))
        .await;
    progress.end();
    let made = made?;
    if let Some(cidfile) = cidfile {
        cidfile.write(&made.id)?;
    }
    Ok(made)
}

/// The file of `--cidfile`: made before the container, so that two don't write to one; gone when there is no container.
struct IdFile {
    path: PathBuf,
    file: Option<File>,
}

impl IdFile {
    fn make(path: PathBuf) -> Result<IdFile, Failure> {
        match File::create_new(&path) {
            Ok(file) => Ok(IdFile {
                path,
                file: Some(file),
            }),
            Err(source) => Err(Failure::IdFile { path, source }),
        }
    }

    fn write(mut self, id: &str) -> Result<(), Failure> {
        let written = match self.file.take() {
            Some(mut file) => file.write_all(id.as_bytes()),
            None => Ok(()),
        };
        written.map_err(|source| Failure::IdFile {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Best effort: there is a failure to report already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The variables of files, then those of the line, with those of ours that are passed on.
pub fn environment(files: &[PathBuf], own: &[String]) -> Result<Vec<String>, Failure> {
    let look_up = |key: &str| std::env::var(key).ok();
    let mut variables = Vec::new();
    for path in files {
        variables.extend(key_values(path, look_up)?);
    }
    variables.extend(value::pass_on(own, look_up));
    Ok(variables)
}

/// With the name of our terminal for a process that gets one of its own: what draws on it is drawn here.
pub fn with_terminal(mut env: Vec<String>, tty: bool) -> Vec<String> {
    let given = env.iter().any(|variable| variable.starts_with("TERM="));
    let ours = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    if let (true, false, Some(term)) = (tty, given, ours) {
        env.push(format!("TERM={term}"));
    }
    env
}

fn key_values(
    path: &Path,
    look_up: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, Failure> {
    let bytes = std::fs::read(path).map_err(|source| Failure::Open {
        path: path.to_owned(),
        source,
    })?;
    lines::parse(&bytes, look_up).map_err(|source| Failure::Lines {
        path: path.to_owned(),
        source,
    })
}

/// Those of files first.
fn labels(
    files: &[PathBuf],
    own: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for path in files {
        // A line without a value is no label, as with Docker.
        for line in key_values(path, |_| None)? {
            let (key, value) = line.split_once('=').unwrap_or((&line, ""));
            labels.insert(key.to_owned(), value.to_owned());
        }
    }
    labels.extend(own);
    Ok(labels)
}

fn request(args: Process) -> Result<CreateRequest, Failure> {
    let env = with_terminal(environment(&args.env_file, &args.env)?, args.tty);
    let labels = labels(&args.label_file, args.labels.clone())?;
    let attach = args.attached();
    let networks = args.connections.networks().map_err(Failure::Flags)?;
    let Process {
        limits,
        rights,
        health,
        machine,
        connections,
        volumes,
        ..
    } = args;
    let mut words = args.words.into_iter();
    let mut request = CreateRequest {
        // The parser asks for one word at least.
        image: words.next().unwrap_or_default(),
        args: words.collect(),
        name: args.name,
        // An empty one takes the image's away, as with Docker.
        entrypoint: args.entrypoint.map(|program| {
            if program.is_empty() {
                Vec::new()
            } else {
                vec![program]
            }
        }),
        env,
        user: args.user,
        groups: args.group_add,
        workdir: args.workdir,
        tty: args.tty,
        stdin: args.interactive,
        attach,
        init: args.init,
        hostname: args.hostname,
        labels,
        // 0 is Docker's word for no limit of one's own.
        memory: limits.memory.filter(|bytes| *bytes != 0),
        nano_cpus: limits.nano_cpus.filter(|nano| *nano != 0),
        pids_limit: limits.pids_limit,
        ulimits: limits.ulimits,
        oom_score_adj: limits.oom_score_adj.unwrap_or(0),
        shm_size: limits.shm_size,
        cap_add: rights.cap_add,
        cap_drop: rights.cap_drop,
        privileged: rights.privileged,
        read_only: rights.read_only,
        tmpfs: rights.tmpfs,
        sysctls: rights.sysctls.into_iter().collect(),
        networks,
        ports: connections.ports(),
        resolution: connections.resolution(),
        publish_all: connections.publish_all,
        expose: connections.expose,
        sockets: connections.publish_socket,
        ssh: connections.ssh,
        driver: machine.driver,
        kernel: machine.kernel,
        kernel_args: machine.kernel_args,
        rootfs: match machine.rootfs {
            Rootfs::Overlay => RootfsMode::Overlay,
            Rootfs::Clone => RootfsMode::Clone,
        },
        virtualization: machine.virtualization,
        remove: args.rm,
        restart: args.restart.unwrap_or_default(),
        health: health_request(health),
        pull: match args.pull {
            Pull::Always => EnginePull::Always,
            Pull::Missing => EnginePull::Missing,
            Pull::Never => EnginePull::Never,
        },
        platform: args.platform,
        stop_signal: args.stop_signal.map(|number| number.to_string()),
        stop_timeout: args.stop_timeout,
        ..CreateRequest::default()
    };
    for mount in volumes.volumes.into_iter().chain(volumes.mounts) {
        match mount {
            Mounted::Volume(mount) => request.mounts.push(mount),
            Mounted::Bind(bind) => request.binds.push(bind_request(bind)?),
            Mounted::Tmpfs(tmpfs) => request.tmpfs.push(tmpfs),
        }
    }
    for option in rights.security_opt {
        match option {
            SecurityOption::NoNewPrivileges(on) => request.no_new_privileges = on,
            SecurityOption::Unmasked => request.unmasked = true,
        }
    }
    for option in limits.storage_opt {
        match option {
            StorageOption::Size(bytes) => request.storage_size = Some(bytes),
            StorageOption::Journal(journal) => request.journal = journal,
        }
    }
    for option in args.log_opt {
        match option {
            LogOption::Size(bytes) => request.log_size = Some(bytes),
            LogOption::Files(files) => request.log_files = Some(files),
        }
    }
    Ok(request)
}

/// Seen from the working directory of this command: the supervisor's is another.
fn bind_request(bind: Bind) -> Result<BindRequest, Failure> {
    let source = std::path::absolute(&bind.source).map_err(|source| Failure::Open {
        path: bind.source.clone().into(),
        source,
    })?;
    // "." and what follows it are gone, ".." is the file system's to say.
    let shown = source.display();
    Ok(BindRequest {
        create: bind.rest.is_some(),
        bind: bind.rest.map(|rest| format!("{shown}{rest}")),
        source,
        target: bind.target,
        read_only: bind.read_only,
    })
}

fn health_request(health: Health) -> HealthRequest {
    HealthRequest {
        disabled: health.no_healthcheck,
        command: health.health_cmd,
        interval: health.health_interval,
        timeout: health.health_timeout,
        start_period: health.health_start_period,
        start_interval: health.health_start_interval,
        retries: health.health_retries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Gourd;
    use clap::Parser;

    fn made(flags: &[&str]) -> CreateRequest {
        let words = ["gourd", "create"]
            .iter()
            .chain(flags)
            .chain(&["img", "sh"]);
        match Gourd::try_parse_from(words).expect("a line").verb {
            crate::args::Verb::Containers(crate::args::container::Verb::Create(create)) => {
                request(create.process).expect("a request")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_options_win() {
        let request = made(&[
            "--security-opt=no-new-privileges",
            "--security-opt",
            "systempaths=unconfined",
            "--storage-opt=size=1g",
            "--storage-opt=size=2g",
            "--log-opt=max-size=1m",
            "--log-opt=max-file=2",
            "--cpus=1.5",
            "--pids-limit=-1",
            "--oom-score-adj=-5",
            "--kernel-arg=-x",
        ]);
        assert!(request.no_new_privileges && request.unmasked);
        assert_eq!(request.storage_size, Some(2 << 30));
        assert_eq!(
            (request.log_size, request.log_files),
            (Some(1 << 20), Some(2))
        );
        assert_eq!(request.nano_cpus, Some(1_500_000_000));
        assert_eq!((request.pids_limit, request.oom_score_adj), (Some(0), -5));
        assert_eq!(request.kernel_args, ["-x"]);
        assert_eq!(request.args, ["sh"]);
    }

    /// Oracle: what Docker makes of a 0.
    #[test]
    fn no_limit_of_its_own() {
        let request = made(&["-m", "0", "--cpus", "0"]);
        assert_eq!((request.memory, request.nano_cpus), (None, None));
        let request = made(&["-m", "6m", "--cpus", "0.5", "--stop-timeout", "-1"]);
        assert_eq!(
            (request.memory, request.nano_cpus),
            (Some(6 << 20), Some(500_000_000))
        );
        assert_eq!(request.stop_timeout, Some(std::time::Duration::MAX));
    }

    /// Oracle: docker-run(1).
    #[test]
    fn a_variable_that_is_not_set_here_is_unset_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("env");
        std::fs::write(&path, "GOURD_NOT_SET\nA=1\n").expect("a file");
        let flag = format!("--env-file={}", path.display());
        let request = made(&[&flag, "-e", "GOURD_NOT_SET_EITHER", "-e", "B="]);
        assert_eq!(request.env, ["A=1", "GOURD_NOT_SET_EITHER", "B="]);
    }

    /// Oracle: what Docker 28's CLI sends.
    #[test]
    fn attached_streams() {
        let check = |flags: &[&str], expect: (bool, bool, bool)| {
            let attach = made(flags).attach;
            assert_eq!(
                (attach.stdin, attach.stdout, attach.stderr),
                expect,
                "{flags:?}"
            );
        };
        check(&[], (false, true, true));
        check(&["-i"], (true, true, true));
        check(&["-a", "stdout"], (false, true, false));
        check(&["-a", "STDIN", "-a", "stderr"], (true, false, true));
        check(&["-i", "-a", "stdout"], (true, true, false));
    }

    #[test]
    fn files_come_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("labels");
        std::fs::write(&path, "a=1\nb\n c= 3 \n").expect("a file");
        let flag = format!("--label-file={}", path.display());
        let request = made(&[&flag, "-l", "a=2"]);
        let labels: Vec<_> = request.labels.into_iter().collect();
        let expect = [("a", "2"), ("c", " 3 ")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(labels, expect);
        std::fs::write(&path, "A=1\n").expect("a file");
        let flag = format!("--env-file={}", path.display());
        assert_eq!(made(&[&flag, "-eA=2"]).env, ["A=1", "A=2"]);
    }
}
