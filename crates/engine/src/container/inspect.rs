//! `inspect`: all about a container, in Docker's shape.

use serde_json::{Value, json};
use store::container::{self, State, Status};

use super::list::current;
use crate::{Engine, Error, time};

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
        "Image": spec.image.id,
        "LogPath": container.output_log(),
        "Driver": "overlay",
        "Platform": "linux",
        "Config": {
            "Hostname": spec.hostname,
            "User": spec.process.user,
            "Tty": spec.process.tty,
            "OpenStdin": spec.process.stdin,
            "Env": spec.process.env,
            "Cmd": spec.process.args,
            "Image": spec.image.reference,
            "WorkingDir": spec.process.cwd,
            "Labels": spec.labels,
            "StopSignal": spec.stop_signal.to_string(),
            "StopTimeout": spec.stop_timeout_ms / 1000,
        },
        "HostConfig": {
            "Memory": spec.vm.memory,
            "NanoCpus": u64::from(spec.vm.cpus) * 1_000_000_000,
            "AutoRemove": spec.remove,
            "NetworkMode": "none",
        },
        // Beyond Docker's: what the VM is, and where the files are.
        "Vm": {
            "Driver": spec.vm.driver,
            "Kernel": spec.vm.kernel,
            "Cpus": spec.vm.cpus,
            "RanWith": state.driver,
            "ConsoleLog": container.console_log(),
        },
        "GraphDriver": {
            "Name": "ext4",
            "Data": { "RootfsImage": rootfs, "UpperDisk": container.upper() },
        },
    })
}

fn describe_state(state: &State) -> Value {
    let status = match state.status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
    };
    json!({
        "Status": status,
        "Running": state.status.is_alive(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid.unwrap_or(0),
        "ExitCode": state.exit_code.unwrap_or(0),
        "Error": state.error.as_deref().unwrap_or_default(),
        "StartedAt": time::format_or_zero(state.started_ns),
        "FinishedAt": time::format_or_zero(state.finished_ns),
    })
}
