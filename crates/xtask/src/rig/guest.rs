//! What runs in the rig's machine: PID 1 and the caller's command, as two shell scripts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Where a stream is on the machine's serial bus: the guest sees `/dev/vport*pN`, or `/dev/hvc0` for the terminal.
pub fn port_number(name: &str) -> u32 {
    match name {
        "terminal" => 0,
        "status" => 1,
        "stdin" => 2,
        "stdout" => 3,
        "stderr" => 4,
        _ => 5,
    }
}

/// The first script: file systems, devices, then the command's streams around the second.
pub fn init(folder: &Path, terminal: bool, size: Option<(u16, u16)>) -> Vec<u8> {
    let mut script = INIT.as_bytes().to_vec();
    script.extend(b"command=");
    script.extend(quote(folder.join("command").as_os_str()));
    script.extend(b"\n");
    if let Some((rows, columns)) = size {
        script.extend(format!("size='rows {rows} cols {columns}'\n").bytes());
    }
    script.extend(if terminal { ON_TERMINAL } else { ON_PIPES }.bytes());
    script.extend(END.bytes());
    script
}

/// Everything that a person's command needs of a machine. The new root has the host's files, changes to them in memory,
/// and file systems of the machine's own.
const INIT: &str = r#"#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t tmpfs -o size=90%,mode=755 tmpfs /run
mkdir /run/upper /run/work /run/root
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root
cd /run/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
exec >dev/console 2>&1
mkdir -p dev/pts dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir -m 1777 run/lock
mount -t cgroup2 cgroup2 sys/fs/cgroup
[ -e dev/fd ] || ln -s /proc/self/fd dev/fd
ip link set lo up 2>/dev/null || busybox ip link set lo up
chmod 666 dev/kvm dev/null 2>/dev/null
hostname rig
# Where the root is not the mount namespace's own, nobody gets a user namespace.
mount --move . /
size=
port() {
    # The device's number depends on what else is on the bus; nodes come when the driver has asked.
    until set -- "$1" dev/vport*p"$1" && [ -e "$2" ]; do sleep 0.01; done
    port=$2
}
port 1
exec 5>"$port"
port 5
cat <"$port" >dev/null 5>&- &
"#;

/// Pipes, not the ports themselves: a port can be opened once only, and `/dev/stderr` opens again.
const ON_PIPES: &str = r#"port 2
exec 6<>"$port"
echo ready >&6
mkdir run/rig
mkfifo run/rig/in run/rig/out run/rig/err
cat <&6 >run/rig/in 5>&- &
in=$!
port 3
cat <run/rig/out >"$port" 5>&- 6<&- &
out=$!
port 4
cat <run/rig/err >"$port" 5>&- 6<&- &
err=$!
chroot . /bin/sh "$command" <run/rig/in >run/rig/out 2>run/rig/err 5>&- 6<&-
code=$?
kill $in 2>/dev/null
# Whatever stays behind may hold the pipes open.
turns=50
while [ $turns -gt 0 ] && { kill -0 $out || kill -0 $err; } 2>/dev/null; do
    sleep 0.02
    turns=$((turns - 1))
done
"#;

const ON_TERMINAL: &str = r#"until [ -e dev/hvc0 ]; do sleep 0.01; done
[ -z "$size" ] || stty $size <dev/hvc0
stty sane <dev/hvc0
setsid --ctty --wait chroot . /bin/sh "$command" <>dev/hvc0 >&0 2>&0 5>&-
code=$?
"#;

const END: &str = r#"echo $code >&5
exec 5>&-
echo o >proc/sysrq-trigger 2>/dev/null
chroot . /bin/sh -c 'exec busybox poweroff -f || exec poweroff -f'
"#;

/// The second script: the caller's environment, directory and user around the command.
pub fn command(words: &[OsString]) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    for (name, value) in std::env::vars_os() {
        if is_name(name.as_bytes()) {
            script.extend(b"export ");
            script.extend(name.as_bytes());
            script.extend(b"=");
            script.extend(quote(&value));
            script.extend(b"\n");
        }
    }
    let folder = std::env::current_dir().context("the current directory")?;
    script.extend(b"cd ");
    script.extend(quote(folder.as_os_str()));
    script.extend(b" || exit 125\nexec ");
    script.extend(become_caller().into_bytes());
    for word in words {
        script.extend(b" ");
        script.extend(quote(word));
    }
    script.extend(b"\n");
    Ok(script)
}

/// The words that take root's rights away, if the caller has not got them either.
fn become_caller() -> String {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    if user.is_root() {
        return "env".to_owned();
    }
    let groups = rustix::process::getgroups().unwrap_or_default();
    let groups: Vec<String> = groups.iter().map(|group| group.to_string()).collect();
    let groups = match groups.is_empty() {
        true => "--clear-groups".to_owned(),
        false => format!("--groups {}", groups.join(",")),
    };
    format!("setpriv --reuid {user} --regid {group} {groups} --")
}

fn is_name(name: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(letter)
        && name
            .iter()
            .all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// One word for the shell, whatever is in it.
fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted).into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Oracle: the shell.
    #[test]
    fn the_command_arrives_as_it_was() {
        let words = ["printf", "%s|", "it's", "$HOME `x` \\ \"", "a\nb", ""].map(OsString::from);
        let script = command(&words).unwrap();
        let script = OsString::from_vec(script);
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(script);
        let out = shell.output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "it's|$HOME `x` \\ \"|a\nb||"
        );
    }

    /// Oracle: the shell parses it.
    #[test]
    fn scripts_are_whole() {
        for terminal in [false, true] {
            let script = init(Path::new("/tmp/it's here"), terminal, Some((24, 80)));
            let mut shell = Command::new("/bin/sh");
            shell.arg("-nc").arg(OsString::from_vec(script));
            assert!(shell.status().unwrap().success());
        }
    }
}
