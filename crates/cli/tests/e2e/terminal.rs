//! `-t`: a terminal in the guest, and the caller's own one raw while it lasts. tmux is the terminal that nobody here wrote.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{Home, eventually, leftovers, programs, tool};

/// A terminal, and a shell in it.
pub struct Tmux {
    socket: String,
    root: PathBuf,
}

impl Tmux {
    /// With a prompt of its own.
    pub fn start(home: &Home) -> Self {
        let socket = home.path("tmux").display().to_string();
        let tmux = Tmux {
            socket,
            root: home.root(),
        };
        let root = format!("GOURD_ROOT={}", tmux.root.display());
        tmux.tell(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "t",
            "-x",
            "100",
            "-y",
            "30",
            "-e",
            &root,
            "sh",
        ]);
        tmux.type_line("PS1='host> '");
        tmux
    }

    /// A command of tmux.
    pub fn tell(&self, args: &[&str]) -> String {
        let mut line: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-S", &self.socket];
        line.extend(args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        tool("tmux", &line).ok().text()
    }

    /// Types a line at a shell's prompt, as a person does who looks at what comes of it before he presses Enter.
    ///
    /// busybox asks the terminal where the cursor is at each prompt, and throws away what it reads together with the
    /// answer (libbb/read_key.c of 1.35): on a slow machine that is what was typed meanwhile.
    #[track_caller]
    pub fn type_line(&self, line: &str) {
        eventually(&format!("{line:?} is typed"), || {
            self.tell(&["send-keys", "-t", "t", "C-u"]);
            self.tell(&["send-keys", "-t", "t", "-l", line]);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(2) {
                let screen = self.tell(&["capture-pane", "-J", "-p", "-t", "t"]);
                if screen.trim_end().ends_with(line) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            false
        });
        self.tell(&["send-keys", "-t", "t", "Enter"]);
    }

    /// What is to be seen.
    pub fn screen(&self) -> String {
        self.tell(&["capture-pane", "-p", "-t", "t"])
    }

    #[track_caller]
    /// Waits until it is to be seen.
    pub fn shows(&self, text: &str) {
        eventually(
            &format!("{text:?} on the screen:\n{}", self.screen()),
            || self.screen().contains(text),
        );
    }

    /// Types a line that begins with gourd.
    pub fn gourd(&self, line: &str) {
        self.type_line(&format!("{}/gourd {line}", programs().display()));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // Whether it still runs is no matter.
        let _ = std::process::Command::new("tmux")
            .args(["-S", &self.socket, "kill-server"])
            .output();
        // Its shells are hung up, which takes them a moment; what is left of gourd is the home's to say.
        let begin = Instant::now();
        let shell = |process: &String| process.ends_with(" sh");
        while leftovers(&self.root).iter().any(shell) && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_shell_in_the_guest_under_tmux() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    tmux.gourd("run -it --rm --name box busybox sh");
    tmux.shows("/ #");
    tmux.type_line("tty; stty size; echo term=$TERM");
    tmux.shows("/dev/pts/0");
    tmux.shows("30 100");
    // Line editing: the guest's echo and its own erase key.
    tmux.tell(&["send-keys", "-t", "t", "-l", "echo wrongX"]);
    tmux.tell(&["send-keys", "-t", "t", "BSpace"]);
    tmux.tell(&["send-keys", "-t", "t", "Enter"]);
    tmux.shows("\nwrong\n");
    // Resize follows.
    tmux.tell(&["resize-window", "-t", "t", "-x", "80", "-y", "24"]);
    eventually("the new size", || {
        tmux.type_line("clear; stty size");
        std::thread::sleep(std::time::Duration::from_millis(300));
        tmux.screen().contains("24 80")
    });
    // ctrl-c ends the guest's process, not the shell.
    tmux.type_line("clear; sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(500));
    tmux.tell(&["send-keys", "-t", "t", "C-c"]);
    tmux.type_line("echo still=$((40+2))");
    tmux.shows("still=42");
    tmux.type_line("exit 4");
    tmux.shows("host>");
    tmux.type_line("echo code=$?; stty -a | tr ' ' '\\n' | grep -cE '^(icanon|echo|isig)$'");
    tmux.shows("code=4");
    tmux.shows("\n3\n");
    drop(tmux);
    eventually("tmux's shells are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn exec_with_a_terminal_in_a_running_container() {
    let home = Home::new();
    home.sleeper(&["--name", "box"]);
    let tmux = Tmux::start(&home);
    tmux.gourd("exec -it box sh");
    tmux.shows("/ #");
    tmux.type_line("stty size; exit");
    tmux.shows("30 100");
    tmux.shows("host>");
}

#[test]
fn a_terminal_is_asked_for_where_there_is_none() {
    let home = Home::new();
    home.gourd(&["run", "--rm", "-it", "busybox", "true"])
        .exits(125)
        .says(&["not a TTY"]);
    // Without -i only the guest has one.
    let out = home
        .gourd(&[
            "run",
            "--rm",
            "-t",
            "busybox",
            "sh",
            "-c",
            "test -t 1 && echo terminal",
        ])
        .ok();
    assert_eq!(out.stdout, b"terminal\r\n");
}
