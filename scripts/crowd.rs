//! Opens a crowd of connections to a server and keeps them: `crowd ADDRESS COUNT SECONDS KIND`.
//!
//! The kinds: `idle` sends one request, reads the reply and then stays silent; `head` sends a byte of a head a second;
//! `body` likewise a byte of a body; `deaf` asks for PATH (a fifth argument) again and again and never reads. Prints
//! `ready` when all are open and, at the end, how many the server has closed.

#![allow(clippy::print_stderr)]

use std::env;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, address, count, seconds, kind, more @ ..] = arguments.as_slice() else {
        return Err("usage: crowd ADDRESS COUNT SECONDS idle|head|body|deaf [PATH]".into());
    };
    let path = more.first().map_or("/liveness_check", String::as_str);
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut crowd = (0..count.parse()?).map(|_| join(address, kind, path)).collect::<Result<Vec<_>, _>>()?;
    println!("ready");
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    while Instant::now() < end {
        if kind != "idle" {
            crowd.retain_mut(|connection| dawdle(connection, kind, path));
        }
        thread::sleep(Duration::from_secs(1));
    }
    crowd.retain_mut(is_open);
    println!("closed by the server: {} of {count}", count.parse::<usize>()? - crowd.len());
    Ok(())
}

/// A connection that has begun as its kind does.
fn join(address: &str, kind: &str, path: &str) -> Result<TcpStream, Box<dyn Error>> {
    let mut connection = TcpStream::connect(address)?;
    match kind {
        "idle" => {
            connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())?;
            let mut reply = [0; 4096];
            if connection.read(&mut reply)? == 0 {
                return Err("closed before it answered".into());
            }
        }
        "head" => connection.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")?,
        "body" => connection.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")?,
        "deaf" => {}
        _ => return Err("the kinds are idle, head, body and deaf".into()),
    }
    connection.set_nonblocking(true)?;
    Ok(connection)
}

/// Does a second's worth of little; whether the server still listens.
fn dawdle(connection: &mut TcpStream, kind: &str, path: &str) -> bool {
    let sent = match kind {
        "deaf" => connection.write(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(100).as_bytes()),
        _ => connection.write(b"x"),
    };
    match sent {
        Ok(_) => kind == "deaf" || is_open(connection),
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}

fn is_open(connection: &mut TcpStream) -> bool {
    match connection.read(&mut [0; 4096]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}
