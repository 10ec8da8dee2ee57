//! Signals to processes, and a list of those that run. No program is called for it where the system has `/proc`: a small
//! system has neither `kill` nor `ps`.

use std::process::Command;

use rustix::process::{Pid, WaitId, WaitIdOptions};

pub use rustix::process::Signal;

/// Sends a signal to a running process.
#[track_caller]
pub fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(id(pid), signal).unwrap();
}

/// Kills a process unless it has ended.
pub fn kill(pid: u32) {
    // It may end at any moment.
    let _ = rustix::process::kill_process(id(pid), Signal::KILL);
}

/// Whether a child of this process has ended. Its exit code can still be waited for.
#[track_caller]
pub fn has_ended(child: u32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(id(child)), options).unwrap().is_some()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// The ids of all running processes of this name that are `parent` or its children.
pub fn family(parent: u32, name: &str) -> Vec<u32> {
    let ours = |(pid, its_parent, its_name): (u32, u32, String)| {
        ((pid == parent || its_parent == parent) && its_name.contains(name)).then_some(pid)
    };
    processes().into_iter().filter_map(ours).collect()
}

/// The process id, parent's id and name of every process that has not ended.
fn processes() -> Vec<(u32, u32, String)> {
    if std::path::Path::new("/proc/self/stat").exists() {
        let stat = |folder: std::fs::DirEntry| std::fs::read_to_string(folder.path().join("stat")).ok();
        let folders = std::fs::read_dir("/proc").unwrap();
        return folders.flatten().filter_map(stat).filter_map(|stat| parse_stat(&stat)).collect();
    }
    // macOS has no /proc, and always has ps.
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid=,state=,comm="]).output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent, state) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
        (!state.starts_with('Z')).then(|| (pid, parent, words.collect::<Vec<_>>().join(" ")))
    };
    listed.lines().filter_map(parse).collect()
}

/// Reads a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name may hold anything (proc(5)).
fn parse_stat(stat: &str) -> Option<(u32, u32, String)> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (pid, name) = head.split_once(" (")?;
    let mut words = tail.split(' ');
    let (state, parent) = (words.next()?, words.next()?);
    (!["Z", "X"].contains(&state)).then_some((pid.parse().ok()?, parent.parse().ok()?, name.to_owned()))
}

fn id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id")
}

#[test]
fn a_child_that_has_ended_is_told_from_one_that_runs() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    assert!(!has_ended(child.id()));
    assert!(family(std::process::id(), "sleep").contains(&child.id()));
    send(child.id(), Signal::KILL);
    super::wait_until("the end of the child", || has_ended(child.id()));
    assert!(
        !family(std::process::id(), "sleep").contains(&child.id()),
        "it has ended, though nobody has waited for it"
    );
    child.wait().unwrap();
    assert_eq!(parse_stat("7 (a) b) S 3 7"), Some((7, 3, "a) b".to_owned())));
}
