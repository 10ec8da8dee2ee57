//! Joins a server, its routes and the application; logs each request once; turns errors into replies.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use log::Level;

use crate::app::App;
use crate::call::{Call, Endpoint, Role};
use crate::config::Config;
use crate::db;
use crate::error::{Error, Shape};
use crate::http::router::Found;
use crate::http::{Method, Request, Response, Route, Router};
use crate::server::{self, Server, Settings};
use crate::{audio, common, inference, web};

/// What every reply says to browsers: take the media type as given, tell no other site where the visitor came from.
const SECURITY_HEADERS: [(&str, &str); 2] = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin")];

/// What a page may do: load and send to nowhere else, run no inline script, stay in no frame.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What anything else may do, should a browser show it: nothing.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Said under https: come back by https only, for a year.
const STRICT_TRANSPORT: (&str, &str) = ("Strict-Transport-Security", "max-age=31536000");

/// Most characters of a request id that a client or proxy may set.
const LONGEST_REQUEST_ID: usize = 64;

/// Serves these roles until SIGTERM or SIGINT, then finishes what is in flight. Addresses go to standard output, one
/// line each: `web http://127.0.0.1:8083`.
///
/// # Errors
/// An address cannot be listened on, or a thread not be started: one line for the operator.
pub fn run(config: Config, roles: &[Role]) -> Result<(), String> {
    let name = match roles {
        [role] => format!("textgen-{}", role.name()),
        _ => "textgen-all".to_owned(),
    };
    // A folder that cannot be is a mistake to be told of now; one that goes later is an outage.
    let journal = config.journal_dir.display().to_string();
    fs::create_dir_all(&config.journal_dir).map_err(|e| format!("JOURNAL_DIR: {journal}: {e}"))?;
    let app = App::new(config, &name)?;
    let mut server = Server::new(settings(&app.config)).map_err(|e| e.to_string())?;
    let addresses = listen(&mut server, &app, roles)?;
    let _ = app.addresses.set(addresses.iter().map(|(role, address)| (role.name(), *address)).collect());
    let handle = server.handle();
    on_signal(move || handle.stop())?;
    app.start()?;
    announce(&addresses);
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
    Settings {
        workers: config.workers.unwrap_or(defaults.workers),
        max_blocked: config.max_waiting,
        max_connections: config.max_connections,
        ..defaults
    }
}

fn listen(server: &mut Server, app: &Arc<App>, roles: &[Role]) -> Result<Vec<(Role, SocketAddr)>, String> {
    let mut inherited = server::inherited().map_err(|e| format!("LISTEN_FDS: {e}"))?.into_iter();
    let mut addresses = Vec::new();
    for role in roles {
        let socket = match inherited.next() {
            Some(socket) => socket,
            None => bind(&app.config, *role)?,
        };
        let address = server.listen(role.name(), socket, handler(app.clone(), *role)).map_err(|e| e.to_string())?;
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

fn on_signal(stop: impl Fn() + Send + 'static) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let asked_before = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the process at once; this order makes the first one only set the flag.
        signal_hook::flag::register_conditional_shutdown(signal, 1, asked_before.clone())
            .and_then(|_| signal_hook::flag::register(signal, asked_before.clone()))
            .map_err(|e| e.to_string())?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(|e| e.to_string())?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            log::info!("signal {signal}: finishing what is in flight");
            stop();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(|e| e.to_string())
}

/// The addresses, and what to try first.
fn announce(addresses: &[(Role, SocketAddr)]) {
    use std::io::Write;
    let mut text = String::new();
    for (role, address) in addresses {
        text += &format!("{} http://{address}\n", role.name());
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
    // Whoever started it may have closed its standard output; the servers run all the same.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Nobody is to take the demo engine for a model.
fn announce_demo(app: &App) {
    use std::io::Write;
    let config = &app.config.engines;
    let engines = [&config.inference, &config.embeddings, &config.transcribe, &config.speech];
    let missing: Vec<_> =
        engines.iter().filter(|engine| engine.urls.is_empty()).map(|engine| engine.variable).collect();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(", ");
    log::warn!("THE DEMO ENGINE ANSWERS, there is no model; set {names} to change that");
    let line = "*".repeat(78);
    let text = format!(
        "\n{line}\n*\n*   D E M O   E N G I N E\n*\n*   There is no model here: answers are made up.\n\
         *   Set {names}\n*   to the addresses of model servers.\n*\n{line}\n"
    );
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// What answers the requests of one role's server.
pub fn handler(app: Arc<App>, role: Role) -> server::Handler {
    let router = Router::new(routes(role));
    let ids = RequestIds::new();
    Arc::new(move |request| answer(&app, role, &router, &ids, request))
}

fn routes(role: Role) -> Vec<Route<Endpoint>> {
    let own = match role {
        Role::Web => [web::routes(), tried_in_the_browser()].concat(),
        // Clients of the older system look for its audio routes here.
        Role::Inference => [inference::routes(), audio::api_routes()].concat(),
        Role::Audio => audio::routes(),
    };
    common::routes().into_iter().chain(own).collect()
}

/// The models' routes that the web server has too, for its playground: a browser calls no other server, and sends its
/// cookie instead of a secret.
fn tried_in_the_browser() -> Vec<Route<Endpoint>> {
    const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/models", "/v1/audio/transcriptions"];
    let all = inference::routes().into_iter().chain(audio::routes());
    all.filter(|route| PATHS.contains(&route.path)).collect()
}

fn answer(app: &App, role: Role, router: &Router<Endpoint>, ids: &RequestIds, request: &mut Request) -> Response {
    let began = Instant::now();
    let id = ids.of(request);
    let (outcome, shape, user_id) = dispatch(app, role, router, request);
    let mut response = outcome.unwrap_or_else(|e| {
        if e.is_fault() {
            let level = if e.status() == 503 { Level::Warn } else { Level::Error };
            log::log!(level, "{} {} failed: {e} (request {id})", request.method(), request.path());
        }
        let reply = e.reply(shape);
        match role {
            Role::Web => web::as_page(app, request, &e, reply, &id),
            _ => reply,
        }
    });
    finish(app, request, &mut response);
    let access = Access::new(app, role, request, began, &id, user_id);
    response.headers.push(("X-Request-Id", id.into()));
    match (response.deferred.take(), access) {
        (Some(deferred), Some(access)) => {
            response.deferred = Some(deferred.map(move |response| {
                access.log(&response);
                response
            }));
        }
        (deferred, access) => {
            response.deferred = deferred;
            if let Some(access) = access {
                access.log(&response);
            }
        }
    }
    response
}

type Dispatched = (crate::error::Result<Response>, Shape, Option<String>);

fn dispatch(app: &App, role: Role, router: &Router<Endpoint>, request: &mut Request) -> Dispatched {
    // Clients of OpenAI's API look for its errors also where there is no route.
    let shape = match role != Role::Web && request.path().starts_with("/v1/") {
        true => Shape::OpenAi,
        false => Shape::Detail,
    };
    let refusal = |e| (Err(e), shape, None);
    let (endpoint, segments) = match router.find(request.method(), request.path()) {
        Found::Handler(endpoint, segments) => (*endpoint, segments.into_iter().map(str::to_owned).collect()),
        Found::WrongMethod(allow) if *request.method() == Method::OPTIONS => {
            return (Ok(Response::new(204).header("Allow", allow)), Shape::Detail, None);
        }
        Found::WrongMethod(allow) => return refusal(Error::MethodNotAllowed(allow)),
        Found::Nothing if request.path() == "*" => return (Ok(Response::new(204)), Shape::Detail, None),
        Found::Nothing => return refusal(Error::NoRoute),
    };
    if !app.db.is_open() && !endpoint.works_without_database {
        return (
            Err(db::Error::Unavailable("the schema is not up to date yet".to_owned()).into()),
            endpoint.shape,
            None,
        );
    }
    let mut call = Call::new(app, role, endpoint.shape, request, segments);
    let mut outcome = (endpoint.handler)(&mut call);
    if let (Ok(response), Some(cookie)) = (&mut outcome, call.renewed_cookie.take())
        && response.get_header("Set-Cookie").is_none()
    {
        response.headers.push(("Set-Cookie", cookie.into()));
    }
    let user_id = log::log_enabled!(target: "access", Level::Info).then(|| call.user_id()).flatten();
    (outcome, endpoint.shape, user_id)
}

/// The headers that every reply has.
fn finish(app: &App, request: &Request, response: &mut Response) {
    if response.get_header("Cache-Control").is_none() {
        response.headers.push(("Cache-Control", "no-store".into()));
    }
    response.headers.extend(SECURITY_HEADERS.map(|(name, value)| (name, value.into())));
    let is_page = response.get_header("Content-Type").is_some_and(|media_type| media_type.starts_with("text/html"));
    response.headers.push(("Content-Security-Policy", if is_page { PAGE_POLICY } else { DATA_POLICY }.into()));
    if app.config.is_https() {
        response.headers.push((STRICT_TRANSPORT.0, STRICT_TRANSPORT.1.into()));
    }
    if !app.config.cors_origins.is_empty() {
        allow_origin(app, request, response);
    }
}

/// Cross-origin calls, from the pages of configured origins only.
fn allow_origin(app: &App, request: &Request, response: &mut Response) {
    response.headers.push(("Vary", "Origin".into()));
    let Some(origin) = request.header("origin").filter(|o| app.config.cors_origins.iter().any(|allowed| allowed == o))
    else {
        return;
    };
    response.headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
    response.headers.push(("Access-Control-Allow-Credentials", "true".into()));
    if *request.method() == Method::OPTIONS {
        response.headers.push(("Access-Control-Allow-Methods", "GET, POST".into()));
        response.headers.push((
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Idempotency-Key, Secret, X-Requested-With".into(),
        ));
        response.headers.push(("Access-Control-Max-Age", "600".into()));
    }
}

/// What the log says of a request: never the query, a header or a body, which may hold secrets.
struct Access {
    server: &'static str,
    method: Method,
    path: String,
    client: String,
    user: String,
    id: String,
    began: Instant,
}

impl Access {
    /// Of this request, if such lines are logged.
    fn new(app: &App, role: Role, request: &Request, began: Instant, id: &str, user: Option<String>) -> Option<Access> {
        log::log_enabled!(target: "access", Level::Info).then(|| Access {
            server: role.name(),
            method: request.method().clone(),
            path: request.path().to_owned(),
            client: crate::auth::client::address(request, &app.config.trusted_proxies).to_string(),
            user: user.unwrap_or_else(|| "-".to_owned()),
            id: id.to_owned(),
            began,
        })
    }

    fn log(&self, response: &Response) {
        let Access { server, method, path, client, user, id, began } = self;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (method, path, client) = (method.as_str(), path.as_str(), client.as_str());
        let (user, status) = (user.as_str(), response.status.as_u16());
        log::info!(target: "access", server = *server, method, path, status, micros, client, user, request = id.as_str();
            "{server} {method} {path} {status} {micros}us {client} {user} {id}");
    }
}

/// Names for requests: what a proxy gave, or a number nobody else has.
struct RequestIds {
    process: u32,
    next: AtomicU32,
}

impl RequestIds {
    fn new() -> RequestIds {
        let process = getrandom::u32().unwrap_or_else(|_| std::process::id());
        RequestIds { process, next: AtomicU32::new(0) }
    }

    fn of(&self, request: &Request) -> String {
        let sane = |id: &&str| {
            (1..=LONGEST_REQUEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match request.header("x-request-id").filter(sane) {
            Some(id) => id.to_owned(),
            None => format!("{:08x}{:08x}", self.process, self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    /// Whether a route is for programs: pages and static files are not described.
    fn is_for_programs(path: &str) -> bool {
        let beginnings = ["/api/", "/v1/", "/liveness_check", "/readyz", "/openapi.json", "/metrics"];
        beginnings.iter().any(|beginning| path.starts_with(beginning))
    }

    #[test]
    fn every_route_is_described_and_every_description_has_its_route() {
        for role in Role::ALL {
            let mut routed: Vec<(String, &str)> = routes(role)
                .iter()
                .filter(|route| is_for_programs(route.path))
                .map(|route| (route.method.as_str().to_lowercase(), route.path))
                .collect();
            let mut described: Vec<(String, &str)> = openapi::operations()
                .filter(|operation| operation.servers.contains(&role))
                .map(|operation| (operation.method.to_owned(), operation.path))
                .collect();
            routed.sort();
            described.sort();
            assert_eq!(routed, described, "{}", role.name());
        }
    }
}
