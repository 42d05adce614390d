//! `inspect`: all about a container, in Docker's shape.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use store::container::{
    self, BindMount, Health, HealthCheck, HealthStatus, Journal, RestartPolicy, RootfsMode, Socket,
    Spec, State, Status, Ulimit, VolumeMount,
};

use super::create::NANO;
use super::list::current;
use super::{config, connections, sockets};
use crate::{Engine, Error, time};

/// Bytes of /dev/shm when nobody says.
const SHM_SIZE: u64 = 64 << 20;

impl Engine {
    /// All about a container, in Docker's shape.
    ///
    /// # Errors
    /// No such container.
    pub async fn inspect(&self, id: &str) -> Result<Value, Error> {
        let container = self.container(id)?;
        match current(&container).await? {
            Some(state) => Ok(describe(&container, &state)),
            None => Err(container::Error::NotFound(id.to_owned()).into()),
        }
    }
}

fn describe(container: &container::Container, state: &State) -> Value {
    let spec = container.spec();
    let (path, args) = spec
        .process
        .args
        .split_first()
        .map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let rootfs = store::rootfs::path(container.root(), &spec.image.rootfs);
    json!({
        "Id": spec.id,
        "Name": format!("/{}", spec.name),
        "Created": time::format(spec.created_ns),
        "Path": path,
        "Args": args,
        "State": describe_state(state),
        "RestartCount": state.restarts,
        "Image": spec.image.id,
        "LogPath": container.output_log(),
        "Driver": match spec.vm.rootfs {
            RootfsMode::Overlay => "overlay",
            RootfsMode::Clone => "clone",
            RootfsMode::Volume => "volume",
        },
        "Platform": "linux",
        "Mounts": describe_mounts(container),
        "Config": describe_config(spec),
        "HostConfig": describe_host(spec),
        "NetworkSettings": connections::settings(container.root(), spec, state),
        // Beyond Docker's: what the VM is, and where the files are.
        "Vm": {
            "Driver": spec.vm.driver,
            "Kernel": spec.vm.kernel,
            "KernelArgs": spec.vm.kernel_args,
            "Cpus": spec.vm.cpus,
            "Virtualization": spec.vm.virtualization,
            "RanWith": state.driver,
            "ConsoleLog": container.console_log(),
        },
        "GraphDriver": {
            "Name": "ext4",
            "Data": { "RootfsImage": rootfs, "UpperDisk": container.upper() },
        },
    })
}

/// As `docker inspect`: what is where. Source of a volume is its disk here.
fn describe_mounts(container: &container::Container) -> Vec<Value> {
    let mount = |mount: &VolumeMount| {
        json!({
            "Type": "volume",
            "Name": mount.volume,
            "Source": store::volume::disk_path(container.root(), &mount.volume),
            "Destination": mount.target,
            "Driver": "local",
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": "",
        })
    };
    let bind = |bind: &BindMount| {
        json!({
            "Type": "bind",
            "Source": bind.source,
            "Destination": bind.target,
            "Mode": if bind.read_only { "ro" } else { "" },
            "RW": !bind.read_only,
            "Propagation": "rprivate",
        })
    };
    let spec = container.spec();
    let socket = |socket: &Socket| {
        json!({
            "Type": "bind",
            "Source": socket.host,
            "Destination": socket.container,
            "Mode": "",
            "RW": true,
            "Propagation": "rprivate",
        })
    };
    let binds = spec.binds.iter().map(bind);
    let binds = binds.chain(sockets::mounted(spec).map(socket));
    binds.chain(spec.mounts.iter().map(mount)).collect()
}

/// Paths at which the container has a volume that nobody named.
fn config_volumes(spec: &Spec) -> Value {
    let mut volumes = Map::new();
    for mount in spec.mounts.iter().filter(|mount| mount.anonymous) {
        volumes.insert(mount.target.clone(), json!({}));
    }
    match volumes.is_empty() {
        true => Value::Null,
        false => Value::Object(volumes),
    }
}

fn describe_config(spec: &Spec) -> Value {
    let process = &spec.process;
    // A spec of a gourd that did not tell them apart.
    let cmd = if process.cmd.is_empty() && process.entrypoint.is_empty() {
        &process.args
    } else {
        &process.cmd
    };
    let mut config = json!({
        "Hostname": spec.hostname,
        "User": process.user,
        "AttachStdin": process.attach.stdin,
        "AttachStdout": process.attach.stdout,
        "AttachStderr": process.attach.stderr,
        "Tty": process.tty,
        "OpenStdin": process.stdin,
        "StdinOnce": process.stdin && process.attach.stdin,
        "Env": process.env,
        "Volumes": config_volumes(spec),
        "Cmd": or_null(cmd),
        "Entrypoint": or_null(&process.entrypoint),
        "Image": spec.image.reference,
        "WorkingDir": process.cwd,
        "ExposedPorts": exposed(spec),
        "Labels": spec.labels,
        "StopSignal": config::signal_name(spec.stop_signal),
        "StopTimeout": stop_timeout(spec.stop_timeout_ms),
    });
    if let Some(check) = &spec.health {
        config["Healthcheck"] = describe_check(check);
    }
    config
}

/// Seconds; -1: it is never killed.
fn stop_timeout(ms: u64) -> i64 {
    match ms {
        u64::MAX => -1,
        ms => i64::try_from(ms / 1000).unwrap_or(i64::MAX),
    }
}

/// Docker's set: a map to nothing.
fn exposed(spec: &Spec) -> Value {
    let ports = spec.exposed.iter().map(|port| (port.clone(), json!({})));
    Value::Object(ports.collect())
}

fn describe_check(check: &HealthCheck) -> Value {
    json!({
        "Test": check.test,
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    })
}

fn describe_host(spec: &Spec) -> Value {
    let (process, vm) = (&spec.process, &spec.vm);
    let nano_cpus = match vm.nano_cpus {
        0 => u64::from(vm.cpus) * NANO,
        share => share,
    };
    let tmpfs: BTreeMap<&str, &str> = spec
        .tmpfs
        .iter()
        .map(|mount| (mount.target.as_str(), mount.options.as_str()))
        .collect();
    let policy = match spec.restart.policy {
        RestartPolicy::No => "no",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
        RestartPolicy::UnlessStopped => "unless-stopped",
    };
    let binds = spec.binds.iter().map(|mount| &mount.bind);
    let binds = binds.chain(spec.mounts.iter().map(|mount| &mount.bind));
    let binds: Vec<_> = binds.flatten().cloned().collect();
    json!({
        "AutoRemove": spec.remove,
        "Binds": or_null(&binds),
        "CapAdd": or_null(&process.cap_add),
        "CapDrop": or_null(&process.cap_drop),
        "GroupAdd": or_null(&process.groups),
        "Init": process.init,
        "LogConfig": {
            "Type": "local",
            "Config": {
                "max-file": spec.logs.files.to_string(),
                "max-size": spec.logs.size.to_string(),
            },
        },
        "Memory": vm.memory,
        "NanoCpus": nano_cpus,
        "NetworkMode": connections::mode(spec),
        "OomScoreAdj": process.oom_score_adj,
        "PidsLimit": (vm.pids_limit != 0).then_some(vm.pids_limit),
        "PortBindings": connections::bindings(spec),
        // Beyond Docker's.
        "Sockets": sockets::published(spec),
        "SSH": spec.ssh,
        "Dns": spec.resolution.servers,
        "DnsSearch": spec.resolution.search,
        "ExtraHosts": extra_hosts(spec),
        "Privileged": process.privileged,
        "ReadonlyRootfs": spec.read_only,
        "RestartPolicy": { "Name": policy, "MaximumRetryCount": spec.restart.maximum },
        "SecurityOpt": or_null(&security_options(spec)),
        "ShmSize": if spec.shm_size == 0 { SHM_SIZE } else { spec.shm_size },
        "StorageOpt": storage_options(spec),
        "Sysctls": spec.sysctls,
        "Tmpfs": tmpfs,
        "Ulimits": process.ulimits.iter().map(describe_ulimit).collect::<Vec<_>>(),
    })
}

/// As on the command line.
fn extra_hosts(spec: &Spec) -> Vec<String> {
    let lines = spec.resolution.hosts.iter();
    lines
        .map(|(name, address)| format!("{name}:{address}"))
        .collect()
}

/// As on the command line.
fn security_options(spec: &Spec) -> Vec<String> {
    let options = [
        (spec.process.no_new_privileges, "no-new-privileges"),
        (spec.process.unmasked, "systempaths=unconfined"),
    ];
    let chosen = options.into_iter().filter(|(on, _)| *on);
    chosen.map(|(_, option)| option.to_owned()).collect()
}

fn storage_options(spec: &Spec) -> Value {
    let mut options = Map::new();
    if spec.vm.storage_size != 0 {
        options.insert("size".to_owned(), spec.vm.storage_size.to_string().into());
    }
    let journal = match spec.vm.journal {
        Journal::Ordered => None,
        Journal::Writeback => Some("writeback"),
        Journal::Journal => Some("journal"),
        Journal::None => Some("none"),
    };
    if let Some(journal) = journal {
        options.insert("journal".to_owned(), journal.into());
    }
    Value::Object(options)
}

fn describe_ulimit(ulimit: &Ulimit) -> Value {
    // Docker's -1 is no limit.
    let limit = |limit| i64::try_from(limit).unwrap_or(-1);
    json!({ "Name": ulimit.name, "Hard": limit(ulimit.hard), "Soft": limit(ulimit.soft) })
}

fn or_null(list: &[String]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn describe_state(state: &State) -> Value {
    let status = match state.status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
    };
    let runs = matches!(state.status, Status::Running | Status::Paused);
    let mut described = json!({
        "Status": status,
        "Running": state.status.is_alive(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid.unwrap_or(0),
        "ExitCode": if runs { 0 } else { state.exit_code.unwrap_or(0) },
        "Error": state.error.as_deref().unwrap_or_default(),
        "StartedAt": time::format_or_zero(state.started_ns),
        "FinishedAt": time::format_or_zero(state.finished_ns),
    });
    if let Some(health) = &state.health {
        described["Health"] = describe_health(health);
    }
    described
}

fn describe_health(health: &Health) -> Value {
    let results = health.log.iter().map(|result| {
        json!({
            "Start": time::format(result.started_ns),
            "End": time::format(result.ended_ns),
            "ExitCode": result.exit_code,
            "Output": result.output,
        })
    });
    let status = match health.status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    };
    json!({
        "Status": status,
        "FailingStreak": health.failing_streak,
        "Log": results.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::container::{HealthResult, Restart};

    /// Oracle: `docker inspect` of Docker 28, for the names and types.
    #[test]
    fn what_was_asked_for_is_shown() {
        let mut spec = Spec::default();
        spec.process.cmd = vec!["sh".to_owned()];
        spec.process.stdin = true;
        spec.process.attach.stdin = true;
        spec.process.no_new_privileges = true;
        spec.process.ulimits = vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 5,
            hard: u64::MAX,
        }];
        spec.vm.cpus = 2;
        spec.vm.storage_size = 1 << 30;
        spec.restart = Restart {
            policy: RestartPolicy::OnFailure,
            maximum: 3,
        };
        spec.stop_signal = 3;
        spec.stop_timeout_ms = 10_000;
        let host = describe_host(&spec);
        assert_eq!(host["NanoCpus"], 2_000_000_000_u64);
        assert_eq!(
            host["Ulimits"],
            json!([{"Name": "nofile", "Hard": -1, "Soft": 5}])
        );
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["StorageOpt"], json!({"size": "1073741824"}));
        assert_eq!(host["PidsLimit"], Value::Null);
        assert_eq!(host["CapAdd"], Value::Null);
        assert_eq!(
            host["RestartPolicy"],
            json!({"Name": "on-failure", "MaximumRetryCount": 3})
        );
        let config = describe_config(&spec);
        assert_eq!(config["Entrypoint"], Value::Null);
        assert_eq!(config["Cmd"], json!(["sh"]));
        assert_eq!(config["StdinOnce"], true);
        assert_eq!(config["StopSignal"], "SIGQUIT");
        assert_eq!(config["StopTimeout"], 10);
        assert_eq!(config.get("Healthcheck"), None);
        assert_eq!(config["Volumes"], Value::Null);
        spec.mounts = vec![VolumeMount {
            volume: "f".repeat(64),
            target: "/data".to_owned(),
            anonymous: true,
            ..VolumeMount::default()
        }];
        spec.stop_timeout_ms = u64::MAX;
        assert_eq!(describe_config(&spec)["StopTimeout"], -1);
        assert_eq!(describe_config(&spec)["Volumes"], json!({"/data": {}}));
        assert_eq!(describe_host(&spec)["Binds"], Value::Null);
    }

    #[test]
    fn how_it_fares() {
        let state = State {
            status: Status::Running,
            exit_code: Some(7),
            restarts: 2,
            health: Some(Health {
                status: HealthStatus::Unhealthy,
                failing_streak: 3,
                log: vec![HealthResult {
                    started_ns: 0,
                    ended_ns: 1_000_000_000,
                    exit_code: -1,
                    output: "late".to_owned(),
                }],
            }),
            ..State::created()
        };
        let shown = describe_state(&state);
        assert_eq!(shown["ExitCode"], 0);
        assert_eq!(shown["Health"]["Status"], "unhealthy");
        assert_eq!(shown["Health"]["Log"][0]["ExitCode"], -1);
        assert_eq!(
            shown["Health"]["Log"][0]["End"],
            "1970-01-01T00:00:01.000000000Z"
        );
        assert_eq!(describe_state(&State::created()).get("Health"), None);
    }
}
