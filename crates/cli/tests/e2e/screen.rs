//! A session at a terminal, as a person has one: line editing, job control, full-screen programs, colours and wide letters.
//!
//! tmux is the terminal; what `capture-pane` shows is the oracle. Attaching and detaching is in `attach.rs`.

use std::time::Duration;

use crate::harness::{Home, dead, eventually, kill};
use crate::terminal::Tmux;

fn keys(tmux: &Tmux, keys: &[&str]) {
    let mut line = vec!["send-keys", "-t", "t"];
    line.extend(keys);
    tmux.tell(&line);
}

fn text(tmux: &Tmux, text: &str) {
    tmux.tell(&["send-keys", "-t", "t", "-l", text]);
}

#[test]
fn a_person_at_work() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    keep_settings(&home, &tmux);
    tmux.gourd("run -it --rm --name box busybox sh");
    tmux.shows("/ #");
    // Line editing: the shell's own, by cursor keys, and what it remembers.
    text(&tmux, "echo wrong-ight");
    keys(&tmux, &["Left", "Left", "Left", "Left"]);
    text(&tmux, "r");
    keys(
        &tmux,
        &["Home", "Right", "Right", "Right", "Right", "Right"],
    );
    for _ in 0..6 {
        keys(&tmux, &["DC"]);
    }
    keys(&tmux, &["Enter"]);
    tmux.shows("\nright\n");
    tmux.type_line("clear; echo again=$((6*7))");
    tmux.shows("again=42");
    keys(&tmux, &["Up", "C-a"]);
    text(&tmux, "true; ");
    keys(&tmux, &["Enter"]);
    tmux.shows("again=42");

    // Job control.
    tmux.type_line("clear; sleep 1234");
    eventually("it sleeps", || {
        home.gourd(&["exec", "box", "ps"])
            .text()
            .contains("sleep 1234")
    });
    keys(&tmux, &["C-z"]);
    tmux.shows("Stopped");
    tmux.type_line("clear; jobs");
    tmux.shows("[1]+  Stopped");
    tmux.type_line("bg; jobs");
    tmux.shows("[1]+  Running");
    tmux.type_line("clear; fg");
    eventually("fg says what it continues", || {
        tmux.screen().starts_with("sleep 1234")
    });
    keys(&tmux, &["C-c"]);
    tmux.type_line("clear; jobs; echo code=$?");
    tmux.shows("code=0");
    assert!(!tmux.screen().contains("sleep"), "{}", tmux.screen());

    // Full screen: what vi writes is what was typed, and its screen is as large as the terminal.
    tmux.type_line("clear; vi /notes");
    tmux.shows("/notes");
    eventually("vi fills the screen", || {
        tmux.screen().matches("\n~").count() >= 27
    });
    keys(&tmux, &["i"]);
    text(&tmux, "first line");
    keys(&tmux, &["Enter"]);
    text(&tmux, "second line");
    keys(&tmux, &["Escape"]);
    // A key that comes at once would make a sequence of it.
    std::thread::sleep(Duration::from_millis(700));
    text(&tmux, ":wq");
    keys(&tmux, &["Enter"]);
    // The shell is back: what is typed before would be vi's.
    tmux.shows("/ #");
    tmux.type_line("clear; cat /notes; echo end=$((40+2))");
    tmux.shows("first line\nsecond line\nend=42");

    // And top, which draws by itself and takes a key.
    tmux.type_line("clear; top -d 1");
    tmux.shows("Load average");
    tmux.shows("PID");
    keys(&tmux, &["q"]);
    tmux.shows("/ #");
    tmux.type_line("clear; echo quit=$((40+2))");
    tmux.shows("quit=42");

    // 256 colours, true colours and letters that are two columns wide come through.
    tmux.type_line(
        r"clear; printf '\033[38;5;208mcolour\033[0m \033[48;2;1;2;3mtrue\033[0m\n漢字é🙂|end\n'",
    );
    // Not the echo of what was typed, in which the letters are as well.
    eventually("it is drawn", || {
        let drawn = tmux.tell(&["capture-pane", "-p", "-e", "-t", "t"]);
        let [colour, rgb] = ["\u{1b}[38;5;208mcolour", "48;2;1;2;3mtrue"];
        drawn.contains(colour) && drawn.contains(rgb) && drawn.contains("漢字é🙂|end")
    });
    tmux.type_line("clear; echo '漢字é🙂' > /wide; wc -c < /wide");
    // 3 + 3 + 2 + 4, and a newline.
    eventually("the bytes are counted", || {
        tmux.screen().starts_with("13\n")
    });

    // Resize while a program has the screen.
    tmux.type_line("clear; vi /notes");
    tmux.shows("first line");
    tmux.tell(&["resize-window", "-t", "t", "-x", "90", "-y", "20"]);
    eventually("vi has noticed", || {
        let lines = tmux.screen().matches("\n~").count();
        (10..=18).contains(&lines)
    });
    text(&tmux, ":q!");
    keys(&tmux, &["Enter"]);
    tmux.shows("/ #");
    tmux.type_line("clear; stty size");
    tmux.shows("20 90");

    tmux.type_line("exit");
    tmux.shows("host>");
    settings_are_back(&home, &tmux);
}

fn keep_settings(home: &Home, tmux: &Tmux) {
    let file = home.path("settings");
    tmux.type_line(&format!("stty -g > {}; clear", file.display()));
}

/// As `stty -g` had them before.
fn settings_are_back(home: &Home, tmux: &Tmux) {
    let file = home.path("settings");
    tmux.type_line(&format!(
        "clear; stty -g | diff - {}; echo checked=$((40+2))",
        file.display()
    ));
    tmux.shows("checked=42");
    let screen = tmux.screen();
    assert!(screen.starts_with("checked=42"), "{screen}");
}

#[test]
fn every_setting_is_back_whoever_dies() {
    let home = Home::new();
    let tmux = Tmux::start(&home);
    keep_settings(&home, &tmux);
    for victim in ["gourd-vm", "gourd-vmm", "qemu"] {
        tmux.type_line("clear");
        tmux.gourd("run -it --name box busybox sh; echo code=$?");
        tmux.shows("/ #");
        let processes = home.processes(&home.inspect("box", "{{.Id}}"));
        let pid = match victim {
            "gourd-vm" => processes.supervisor,
            "gourd-vmm" => processes.vmm,
            _ => processes.qemu,
        };
        kill(pid, "-9");
        eventually("it is dead", || dead(pid));
        // What is typed before the host's shell is back would be lost; the line as typed has `code=$`.
        eventually("the command has ended", || {
            let screen = tmux.screen();
            ["code=125", "code=255"]
                .iter()
                .any(|code| screen.contains(code))
        });
        settings_are_back(&home, &tmux);
        home.gourd(&["rm", "box"]).ok();
    }
}
