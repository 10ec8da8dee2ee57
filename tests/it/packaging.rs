//! What comes with the binary: its version, completions, manual pages, and the units of systemd.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{done, run};

fn help() -> String {
    done(run(&["--help"], &[], ""))
}

/// The names of all settings.
fn settings() -> BTreeSet<String> {
    // Lines are broken anywhere.
    let help = help().split_whitespace().collect::<Vec<_>>().join(" ");
    let names = help.match_indices("[env: ").map(|(at, start)| &help[at + start.len()..]);
    names.map(|rest| rest.split(['=', ']']).next().unwrap_or_default().to_owned()).collect()
}

fn commands() -> Vec<String> {
    let help = help();
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|rest| rest.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn the_version_has_the_commit() {
    let version = done(run(&["--version"], &[], ""));
    let (name, commit) = version.trim_end().split_once(" (").unwrap();
    assert_eq!(name, concat!("textgen ", env!("CARGO_PKG_VERSION")));
    assert!(commit.len() > 5 && commit.ends_with(')'), "{version}");
}

#[test]
fn a_shell_completes_commands_and_settings() {
    let folder = tempdir("completions");
    let script = format!("{folder}/textgen.bash");
    fs::write(&script, done(run(&["completions", "bash"], &[], ""))).unwrap();
    let complete = |words: &str| {
        // What bash does when the tabulator is pressed after these words.
        let ask = format!(
            "source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _textgen textgen \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("textgen ser"), "serve");
    assert_eq!(complete("textgen user prom"), "promote");
    assert_eq!(complete("textgen --metrics-"), "--metrics-addr");
    for shell in ["zsh", "fish"] {
        let script = done(run(&["completions", shell], &[], ""));
        assert!(commands().iter().all(|command| script.contains(command)), "{shell}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn manual_pages_have_every_command_and_setting() {
    let folder = tempdir("man");
    done(run(&["man", &folder], &[], ""));
    let page = |name: &str| {
        let text = fs::read_to_string(format!("{folder}/{name}.1")).unwrap_or_else(|e| panic!("{name}: {e}"));
        text.replace("\\-", "-")
    };
    let main = page("textgen");
    assert!(settings().len() > 40 && main.contains("environment variable"));
    for setting in settings() {
        assert!(main.contains(&format!("<{setting}>")), "{setting} is missing");
    }
    for command in commands().into_iter().filter(|command| command != "help") {
        assert!(main.contains(&format!("textgen-{command}(1)")), "{command} is missing");
        assert!(page(&format!("textgen-{command}")).contains(".SH NAME"));
    }
    assert!(page("textgen-user-promote").contains("textgen-user-promote"));
    let missing = run(&["man", "/nowhere/at/all"], &[], "");
    assert!(missing.code == 1 && missing.err.contains("/nowhere/at/all"), "{}", missing.err);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn units_and_images_have_settings_that_there_are() {
    let known = settings();
    let of_unit = |line: &str| line.strip_prefix("Environment=").map(str::to_owned);
    let mut named = BTreeSet::new();
    for line in fs::read_to_string("packaging/textgen.service").unwrap().lines().filter_map(of_unit) {
        named.insert(line.split('=').next().unwrap().to_owned());
    }
    for line in fs::read_to_string("packaging/textgen.env").unwrap().lines() {
        let line = line.trim_start_matches('#');
        if let Some((name, _)) = line.split_once('=').filter(|(name, _)| !name.contains(' ')) {
            named.insert(name.to_owned());
        }
    }
    let image = fs::read_to_string("packaging/Dockerfile").unwrap().replace("\\\n", " ");
    for line in image.lines().filter_map(|line| line.strip_prefix("ENV ")) {
        named.extend(line.split_whitespace().map(|pair| pair.split('=').next().unwrap().to_owned()));
    }
    assert!(named.len() >= 9 && named.is_subset(&known), "{:?}", named.difference(&known));
    // The addresses of the socket are those that the servers have by default, in their order.
    let socket = fs::read_to_string("packaging/textgen.socket").unwrap();
    let listens: Vec<_> = socket.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    assert_eq!(listens, ["127.0.0.1:8083", "127.0.0.1:9909", "127.0.0.1:9910"]);
    assert!(listens.iter().all(|address| help().contains(&format!("[default: {address}]"))));
}

fn tempdir(name: &str) -> String {
    let folder = std::env::temp_dir().join(format!("textgen-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder.display().to_string()
}
