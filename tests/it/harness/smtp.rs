//! A mail server, which takes mails or does what mail servers do when they do not.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::process::wait_until;
use super::{Server, TestDb};

/// The user name and the password that it asks for.
pub const LOGIN: (&str, &str) = ("mailer", "pass word/1");

/// Commands, and the text after `DATA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Auth,
    Mail,
    Rcpt,
    Data,
    Text,
}

/// What it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Accept,
    /// Answers a command with this.
    Refuse(Stage, String),
    /// Never answers a command.
    Hang(Stage),
    /// Closes the connection in the middle of the text.
    DropText,
    /// Takes a mail and closes the connection without saying so.
    DropReply,
}

/// A mail that it took.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    pub from: String,
    pub to: String,
    /// Headers and parts, as they came.
    pub data: String,
}

struct State {
    behaviour: Mutex<Behaviour>,
    mails: Mutex<Vec<ReceivedMail>>,
    /// How often each stage was reached.
    reached: Mutex<Vec<Stage>>,
}

/// A running mail server.
pub struct Smtp {
    address: SocketAddr,
    state: Arc<State>,
}

impl Smtp {
    /// Starts one that accepts mails.
    pub fn start() -> Smtp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            behaviour: Mutex::new(Behaviour::Accept),
            mails: Mutex::default(),
            reached: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that goes away is no failure of the server.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Smtp { address, state }
    }

    /// Settings that send mails to it.
    pub fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("SMTP_URL", format!("smtp://mailer:pass%20word%2F1@{}", self.address)),
            ("MAIL_FROM", "Text Example <no-reply@text.example>".to_owned()),
            ("PUBLIC_URL", "http://text.example".to_owned()),
        ]
    }

    /// A server that sends mails to it, with additional settings.
    pub fn server(&self, db: &TestDb, settings: &[(&str, &str)]) -> Server {
        let own = self.settings();
        let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Server::start_with(db, &[&own, settings].concat())
    }

    pub fn set(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// How often a stage was reached.
    pub fn reached(&self, stage: Stage) -> usize {
        self.state.reached.lock().unwrap().iter().filter(|reached| **reached == stage).count()
    }

    /// All mails that it took.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.state.mails.lock().unwrap().clone()
    }

    /// The mails to an address with this subject.
    pub fn about(&self, to: &str, subject: &str) -> Vec<ReceivedMail> {
        self.mails().into_iter().filter(|mail| mail.to == to && mail.header("Subject") == subject).collect()
    }

    /// Waits for the newest of `count` mails to an address with this subject.
    #[track_caller]
    pub fn wait_for(&self, count: usize, to: &str, subject: &str) -> ReceivedMail {
        wait_until(&format!("{count} mails to {to}: {subject}"), || self.about(to, subject).len() >= count);
        self.about(to, subject).remove(count - 1)
    }
}

fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut say = |text: &str| output.write_all(format!("{text}\r\n").as_bytes());
    // What is to be said, unless it behaves otherwise.
    let answer = |stage: Stage, usual: &str| -> Option<String> {
        state.reached.lock().unwrap().push(stage);
        match state.behaviour.lock().unwrap().clone() {
            Behaviour::Refuse(at, reply) if at == stage => Some(reply),
            Behaviour::Hang(at) if at == stage => None,
            _ => Some(usual.to_owned()),
        }
    };
    let hang = || loop {
        thread::sleep(Duration::from_secs(1));
    };
    let mut answered = |stage: Stage, usual: &str| match answer(stage, usual) {
        Some(reply) => say(&reply),
        None => hang(),
    };
    answered(Stage::Greeting, "220 test ESMTP")?;
    let (mut from, mut to, mut is_known) = (String::new(), String::new(), false);
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_owned();
        let address = || command.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        match command.to_ascii_uppercase().split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => answered(Stage::Greeting, "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN")?,
            "AUTH" => {
                let expected = BASE64_STANDARD.encode(format!("\0{}\0{}", LOGIN.0, LOGIN.1));
                is_known = command.ends_with(&expected);
                answered(Stage::Auth, if is_known { "235 welcome" } else { "535 5.7.8 who is that?" })?;
            }
            "MAIL" if !is_known => answered(Stage::Mail, "530 5.7.0 log in first")?,
            "MAIL" => {
                from = address();
                answered(Stage::Mail, "250 ok")?;
            }
            "RCPT" => {
                to = address();
                answered(Stage::Rcpt, "250 ok")?;
            }
            "DATA" => {
                answered(Stage::Data, "354 go on")?;
                if *state.behaviour.lock().unwrap() == Behaviour::DropText {
                    input.read_line(&mut line)?;
                    return input.get_ref().shutdown(std::net::Shutdown::Both);
                }
                if matches!(&*state.behaviour.lock().unwrap(), Behaviour::Refuse(Stage::Data, _)) {
                    continue;
                }
                let data = read_text(&mut input)?;
                let behaviour = state.behaviour.lock().unwrap().clone();
                if !matches!(behaviour, Behaviour::Refuse(Stage::Text, _) | Behaviour::Hang(Stage::Text)) {
                    let mail = ReceivedMail { from: from.clone(), to: to.clone(), data };
                    state.mails.lock().unwrap().push(mail);
                }
                if behaviour == Behaviour::DropReply {
                    return input.get_ref().shutdown(std::net::Shutdown::Both);
                }
                answered(Stage::Text, "250 taken")?;
            }
            "QUIT" => return Ok(()),
            _ => answered(Stage::Greeting, "250 ok")?,
        }
    }
}

fn read_text(input: &mut impl BufRead) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.as_str() {
            ".\r\n" => return Ok(text),
            _ => text += line.strip_prefix('.').unwrap_or(&line),
        }
    }
}

impl ReceivedMail {
    /// A header, unfolded. Empty if there is none.
    pub fn header(&self, name: &str) -> String {
        let head = self.data.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        let found = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_default().to_owned()
    }

    /// The decoded part of this type.
    #[track_caller]
    pub fn part(&self, media_type: &str) -> String {
        let (_, rest) = self.data.split_once(&format!("Content-Type: {media_type}")).expect("no such part");
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        let body = body.split("\r\n--").next().unwrap();
        let encoding =
            head.split("Content-Transfer-Encoding: ").nth(1).map_or("7bit", |rest| rest.lines().next().unwrap());
        match encoding {
            "7bit" => body.replace("\r\n", "\n"),
            "quoted-printable" => quoted_printable(body),
            "base64" => {
                let bytes = BASE64_STANDARD.decode(body.replace("\r\n", "")).unwrap();
                String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
            }
            other => panic!("{other}"),
        }
    }

    /// The token of its link.
    #[track_caller]
    pub fn token(&self) -> String {
        let text = self.part("text/plain");
        let (_, rest) = text.split_once("?token=").unwrap_or_else(|| panic!("no link in {text}"));
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    }
}

fn quoted_printable(text: &str) -> String {
    let text = text.replace("=\r\n", "").replace("\r\n", "\n");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if let (b'=', [high, low, after @ ..]) = (first, after) {
            let code = String::from_utf8(vec![*high, *low]).unwrap();
            bytes.push(u8::from_str_radix(&code, 16).unwrap());
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}
