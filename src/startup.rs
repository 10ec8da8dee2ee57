//! Starts the servers, and stops them on a signal.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use log::LevelFilter;

use crate::app::App;
use crate::auth::client;
use crate::auth::hasher::QUEUE_PER_THREAD;
use crate::blocking::{Places, Wait};
use crate::call::Role;
use crate::config::{Config, MetricsAddress};
use crate::server::{self, ClientAddress, Server, Settings};
use crate::usage::folder;
use crate::{dispatch, logging, scrape, system_limits};

/// The name of the metrics' address.
const METRICS: &str = "metrics";

/// Threads besides those that run handlers: of the database connections, the meter, the hasher and so on.
const OTHER_THREADS: usize = 100;

/// Runs the servers of these roles until SIGTERM or SIGINT, then finishes the requests in progress. Prints the addresses
/// on standard output, one per line: `web http://127.0.0.1:8083`; that of the metrics comes last.
///
/// # Errors
/// An address cannot be listened on, or a thread cannot be started; one line for the operator.
pub fn run(config: Config, roles: &[Role]) -> Result<(), String> {
    let name = match roles {
        [role] => format!("textgen-{}", role.name()),
        _ => "textgen-all".to_owned(),
    };
    // A directory that cannot be created is a mistake in the settings; one that vanishes later is an outage.
    let journal = config.journal_dir.display().to_string();
    folder::create(&config.journal_dir).map_err(|e| format!("JOURNAL_DIR: {journal}: {e}"))?;
    let app = App::new(config, &name)?;
    let mut server = Server::new(settings(&app.config)).map_err(|e| e.to_string())?;
    let addresses = listen(&mut server, &app, roles)?;
    let metrics = listen_for_scrapes(&mut server, &app)?;
    let _ = app.api_document.set(crate::openapi::document(crate::api::operations()));
    let _ = app.addresses.set(addresses.iter().map(|(role, address)| (role.name(), *address)).collect());
    if let Some((_, web)) = addresses.iter().find(|(role, _)| *role == Role::Web) {
        app.mail.listens_at(*web);
    }
    let handle = server.handle();
    on_signal(app.config.log_level, move || handle.stop())?;
    app.start()?;
    if app.config.is_https() && app.config.trusted_proxies.is_empty() {
        log::warn!(
            "PUBLIC_URL is https, so a proxy is in front of this server, but TRUSTED_PROXIES is not set: all clients count \
             as one, and are throttled together"
        );
    }
    if let Some(folder) = app.mail.folder() {
        log::info!("SMTP_URL is not set: mails are not sent, but written to {}", folder.display());
    }
    announce(&addresses, metrics);
    if app.config.demo_engine {
        announce_demo(&app);
    }
    server.run().map_err(|e| e.to_string())?;
    app.stop();
    log::info!("stopped");
    Ok(())
}

fn settings(config: &Config) -> Settings {
    let defaults = Settings::default();
    let workers = config.workers.unwrap_or(defaults.workers);
    Settings {
        workers,
        places: granted(places(config), workers),
        max_connections: config.max_connections,
        max_memory: config.memory_budget.unwrap_or_else(|| system_limits::memory() / 2),
        client: client_address(config),
        is_https: config.is_https(),
        ..defaults
    }
}

fn client_address(config: &Config) -> ClientAddress {
    let trusted = config.trusted_proxies.clone();
    ClientAddress::new(move |request| client::address(request, &trusted))
}

/// How many requests may wait for what.
fn places(config: &Config) -> Places {
    let hashes = thread::available_parallelism().map_or(1, usize::from) * QUEUE_PER_THREAD;
    Places::new(|wait| match wait {
        Wait::LogIn => config.max_waiting.min(hashes),
        Wait::Database => config.max_waiting,
        Wait::Model => config.max_model_calls,
        Wait::Upload => config.max_uploads,
        Wait::Fetch => config.max_fetches,
    })
}

/// So many of these places as the system has threads and descriptors for; a warning if those are fewer.
fn granted(wanted: Places, workers: usize) -> Places {
    let (calls, threads) = (system_limits::of_calls(), system_limits::of_threads());
    let some =
        Places::new(|wait| if wait == Wait::Model { wanted.of(wait).min(calls.waiting) } else { wanted.of(wait) });
    let granted = some.at_most(threads.waiting.saturating_sub(OTHER_THREADS + workers));
    for (before, after, source) in [(wanted, some, calls.source), (some, granted, threads.source)] {
        for wait in Wait::ALL.into_iter().filter(|wait| after.of(*wait) != before.of(*wait)) {
            let (name, setting) = (wait.name(), wait.setting());
            let (before, after) = (before.of(wait), after.of(wait));
            log::warn!("{source} allows {after} requests that wait for {name}, not {before} ({setting})");
        }
    }
    granted
}

fn listen(server: &mut Server, app: &Arc<App>, roles: &[Role]) -> Result<Vec<(Role, SocketAddr)>, String> {
    let mut inherited = server::inherited().map_err(|e| format!("LISTEN_FDS: {e}"))?.into_iter();
    let mut addresses = Vec::new();
    for role in roles {
        let socket = match inherited.next() {
            Some(socket) => socket,
            None => bind(&app.config, *role)?,
        };
        let address =
            server.listen(role.name(), socket, dispatch::handler(app.clone(), *role)).map_err(|e| e.to_string())?;
        addresses.push((*role, address));
    }
    Ok(addresses)
}

fn bind(config: &Config, role: Role) -> Result<TcpListener, String> {
    let address = match role {
        Role::Web => config.web_addr,
        Role::Inference => config.inference_addr,
        Role::Audio => config.audio_addr,
    };
    let refused = |e| format!("{}: cannot listen on {address}: {e}", role.name());
    server::bind(address, config.reuse_port).map_err(refused)
}

/// Listens for Prometheus, if that is wanted. Returns the address.
fn listen_for_scrapes(server: &mut Server, app: &Arc<App>) -> Result<Option<SocketAddr>, String> {
    let Some(socket) = bind_for_scrapes(&app.config)? else { return Ok(None) };
    let handler = scrape::handler(app.clone(), server.handle());
    server.listen(METRICS, socket, handler).map(Some).map_err(|e| e.to_string())
}

fn bind_for_scrapes(config: &Config) -> Result<Option<TcpListener>, String> {
    let usual = MetricsAddress::USUAL;
    let taken = match config.metrics_addr {
        MetricsAddress::Nowhere => return Ok(None),
        MetricsAddress::At(address) => {
            let refused = |e| format!("METRICS_ADDR: cannot listen on {address}: {e}");
            return server::bind(address, config.reuse_port).map(Some).map_err(refused);
        }
        MetricsAddress::Usual => match server::bind(usual, false) {
            Ok(socket) => return Ok(Some(socket)),
            Err(e) => e,
        },
    };
    // What nobody asked for must not keep a server from starting, such as one of several on a machine.
    let other = server::bind(SocketAddr::new(usual.ip(), 0), false);
    let instead = match other.as_ref().map(TcpListener::local_addr) {
        Ok(Ok(address)) => format!("metrics are at {address}"),
        _ => "there are no metrics".to_owned(),
    };
    log::warn!("{usual} is not free ({taken}), so {instead}; METRICS_ADDR sets an address");
    Ok(other.ok())
}

/// Stops on SIGTERM and SIGINT. SIGHUP sets the log level to `debug`, and the next one back to `level`.
fn on_signal(level: LevelFilter, stop: impl Fn() + Send + 'static) -> Result<(), String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let asked_before = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once. In this order, the first one only sets the flag.
        signal_hook::flag::register_conditional_shutdown(signal, 1, asked_before.clone())
            .and_then(|_| signal_hook::flag::register(signal, asked_before.clone()))
            .map_err(|e| e.to_string())?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| e.to_string())?;
    let wait = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                let is_usual = log::max_level() == level;
                logging::set_level(if is_usual { LevelFilter::Debug.max(level) } else { level });
                continue;
            }
            log::info!("signal {signal}: finishing what is in flight");
            return stop();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(|e| e.to_string())
}

/// Prints the addresses, and commands to try first.
fn announce(addresses: &[(Role, SocketAddr)], metrics: Option<SocketAddr>) {
    use std::io::Write;
    let mut text = String::new();
    let names = addresses.iter().map(|(role, address)| (role.name(), *address));
    for (name, address) in names.chain(metrics.map(|address| (METRICS, address))) {
        text += &format!("{name} http://{address}\n");
    }
    if let [(_, web), (_, inference), (_, audio)] = addresses {
        text += &format!(
            "\nTry it:\n  \
             SECRET=$(curl -s -H 'Accept: application/json' -d email=you$RANDOM@example.com -d password=correct-horse \
             http://{web}/api/signup | sed 's/.*\"secret\":\"\\([^\"]*\\)\".*/\\1/')\n  \
             curl -H \"secret: $SECRET\" http://{inference}/api/current-user\n  \
             curl -H \"secret: $SECRET\" http://{audio}/api/current-user\n\
             or open http://{web}/signup in a browser.\n"
        );
    }
    let mut output = std::io::stdout().lock();
    // Standard output may be closed; the servers run all the same.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Warns that the demo engine answers, so that nobody takes it for a model.
fn announce_demo(app: &App) {
    use std::io::Write;
    let unset = app.config.engines.all().into_iter().filter(|engine| engine.urls.is_empty());
    let missing: Vec<&str> = unset.map(|engine| engine.variable).collect();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(", ");
    log::warn!("THE DEMO ENGINE ANSWERS, there is no model; set {names} to change that");
    let (line, names) = ("*".repeat(78), missing.chunks(4).map(|names| names.join(", ")).collect::<Vec<_>>());
    let names = names.join(",\n*   ");
    let text = format!(
        "\n{line}\n*\n*   D E M O   E N G I N E\n*\n*   There is no model here: answers are made up.\n\
         *   Set {names}\n*   to the addresses of model servers.\n*\n{line}\n"
    );
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
