//! A TCP proxy before the database, which can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Passes connections on until it is cut.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    mute: Arc<Mute>,
}

/// Whether answers are swallowed, and what begins it.
#[derive(Default)]
struct Mute {
    is_on: AtomicBool,
    from: Mutex<Option<Vec<u8>>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// Before the database of this URL.
    pub fn new(url: &str) -> (Proxy, String) {
        let config: postgres::Config = url.parse().unwrap();
        let target = format!("127.0.0.1:{}", config.get_ports()[0]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let mute = Arc::<Mute>::default();
        let shared_mute = mute.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                if !state.is_cut
                    && let Ok(server) = TcpStream::connect(&target)
                {
                    state.streams.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                    let (mute, again) = (shared_mute.clone(), shared_mute.clone());
                    let ask = move |piece: &[u8]| mute.hear(piece);
                    let answer = move |_: &[u8]| !again.is_on.load(Ordering::SeqCst);
                    pump(client.try_clone().unwrap(), server.try_clone().unwrap(), ask);
                    pump(server, client, answer);
                }
            }
        });
        let through = url.replace(&format!("127.0.0.1:{}", config.get_ports()[0]), &address.to_string());
        assert_ne!(through, url);
        (Proxy { address, state, mute }, through)
    }

    /// Breaks every connection, in whatever it is doing, and lets none through until [`Proxy::mend`].
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Swallows what the database answers, once it was asked something that holds these bytes.
    pub fn mute_from(&self, question: &str) {
        *self.mute.from.lock().unwrap() = Some(question.as_bytes().to_vec());
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.mute.is_on.store(false, Ordering::SeqCst);
        self.state.lock().unwrap().is_cut = false;
    }
}

impl Mute {
    /// What is asked is always passed on.
    fn hear(&self, piece: &[u8]) -> bool {
        let mut from = self.from.lock().unwrap();
        if from.as_ref().is_some_and(|question| piece.windows(question.len()).any(|part| part == question)) {
            *from = None;
            self.is_on.store(true, Ordering::SeqCst);
        }
        true
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool + Send + 'static) {
    thread::spawn(move || {
        let _ = from.set_nodelay(true);
        let mut piece = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if passes(&piece[..n]) && to.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
