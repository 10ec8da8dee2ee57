//! Mutated requests, the same in every run, through the parsers and over sockets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use textgen::http::{Head, Parsed, Response};
use textgen::server::Chunked;

use super::client::{serve, settings};

/// Marsaglia's xorshift generator: the same pseudo-random numbers in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }
}

const SEEDS: [&[u8]; 8] = [
    b"GET /a?b=c HTTP/1.1\r\nHost: h:80\r\nSecret: tg_x\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\nhello, world",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"PUT http://h/p HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: [::1]\r\nCookie: a=b; c=\"d\"\r\nX: \xff\xfe\r\n\r\n",
    b"A\r\nBC\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    b"5\r\nhello\r\n5;x=\"y z\"\r\nworld\r\n000\r\nTrailer: x\r\n\r\n",
];

const PIECES: [&[u8]; 14] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\r\n\r\n",
    b"0",
    b"f",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    b"\xff",
];

/// The cases to try; `GARBAGE=n` in the environment makes it n times as many.
fn cases(few: usize) -> std::ops::Range<usize> {
    let times = std::env::var("GARBAGE").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    0..few * times
}

fn mutated(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = SEEDS[rng.below(SEEDS.len())].to_vec();
    for _ in 0..rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(5) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => drop(bytes.splice(at..at, PIECES[rng.below(PIECES.len())].iter().copied())),
            3 => bytes.truncate(at),
            _ => bytes.extend_from_slice(SEEDS[rng.below(SEEDS.len())]),
        }
    }
    bytes
}

#[test]
fn the_head_parser_survives_anything() {
    let (mut rng, mut head, mut complete) = (Rng(0x9E37_79B9_7F4A_7C15), Head::default(), 0);
    for _ in cases(150_000) {
        let bytes = mutated(&mut rng);
        if let Ok(Parsed::Complete(n)) = head.parse(&bytes) {
            complete += 1;
            assert!(n <= bytes.len() && head.path().starts_with(['/', '*']));
            assert!(head.headers().all(|(name, _)| !name.is_empty()));
            // The head alone gives the same result; one byte less is incomplete.
            let framing = head.framing();
            assert_eq!(head.parse(&bytes[..n]), Ok(Parsed::Complete(n)));
            assert_eq!(head.framing(), framing);
            assert_eq!(head.parse(&bytes[..n - 1]), Ok(Parsed::Partial));
        }
    }
    assert!(complete > 10_000, "{complete}");
}

#[test]
fn the_chunked_decoder_gives_the_same_for_pieces_of_any_size() {
    let (mut rng, mut complete) = (Rng(0xD1B5_4A32_D192_ED03), 0);
    for _ in cases(100_000) {
        let bytes = mutated(&mut rng);
        let (mut at_once, mut body) = (Chunked::default(), Vec::new());
        let expected = at_once.decode(&bytes, &mut body, 1 << 20);
        let (mut in_pieces, mut other, mut used) = (Chunked::default(), Vec::new(), Ok(0));
        for part in bytes.chunks(1 + rng.below(7)) {
            let step = in_pieces.decode(part, &mut other, 1 << 20);
            let total = used.unwrap_or(0);
            used = step.map(|n| total + n);
            if used.is_err() || in_pieces.is_finished() {
                break;
            }
        }
        assert_eq!(expected, used, "{:?}", String::from_utf8_lossy(&bytes));
        if expected.is_ok() {
            assert_eq!((at_once, body), (in_pieces, other));
            complete += usize::from(at_once.is_finished());
        }
    }
    assert!(complete > 1000, "{complete}");
}

#[test]
fn the_server_survives_anything() {
    let server = serve(settings(), |request| {
        let _ = request.body.into_bytes(10_000);
        Response::new(200)
    });
    let mut rng = Rng(0xA076_1D64_78BD_642F);
    for _ in cases(3000) {
        let mut client = server.connect();
        for _ in 0..=rng.below(3) {
            let _ = client.socket.write_all(&mutated(&mut rng));
        }
        match rng.below(4) {
            // Leaves without reading the answer.
            0 => continue,
            1 => drop(client.socket.shutdown(Shutdown::Both)),
            _ => drop(client.socket.shutdown(Shutdown::Write)),
        }
        client.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut sink = Vec::new();
        let end = client.socket.read_to_end(&mut sink).map_err(|e| e.kind());
        assert!(
            !matches!(end, Err(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)),
            "the connection hangs"
        );
    }
    server.until("all are gone", |stats| stats.open_connections == 0);
    assert_eq!(server.connect().get("/").status, 200);
}
