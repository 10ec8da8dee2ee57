//! Settings are read here from a table, as flags: a process's environment cannot be set safely in a test.

use clap::FromArgMatches;

use super::*;

fn read(settings: &[(&str, &str)]) -> Result<Config, clap::Error> {
    // Not from the environment that the tests happen to run in.
    let command = Config::augment_args(Command::new("textgen")).mut_args(|arg| arg.env(Resettable::Reset));
    let flags = settings.iter().map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
    let matches = command.try_get_matches_from(["textgen".to_owned()].into_iter().chain(flags))?;
    Config::from_arg_matches(&matches)
}

fn problem(name: &str, value: &str) -> String {
    read(&[(name, value)]).unwrap_err().to_string()
}

#[test]
fn defaults() {
    let config = read(&[]).unwrap();
    assert_eq!(config.web_addr.to_string(), "127.0.0.1:8083");
    assert_eq!((config.listen_url(), config.direct_url()), (&*config.database_url, &*config.database_url));
    assert_eq!((config.workers, config.max_connections, config.auth_grace.as_secs()), (None, None, 300));
    assert!(config.trusted_proxies.is_empty() && config.cors_origins.is_empty() && !config.is_https());
}

#[test]
fn some_settings_default_to_others() {
    let config = read(&[("DATABASE_URL", "postgresql://h/d"), ("PASSWORD_PEPPER", " p ")]).unwrap();
    assert_eq!((config.listen_url(), config.log_in.bcrypt_pepper()), ("postgresql://h/d", " p "));
    let direct = [("DATABASE_LISTEN_URL", "postgresql://direct/d"), ("BCRYPT_PEPPER", "b")];
    let config = read(&direct).unwrap();
    assert_eq!((config.listen_url(), config.log_in.bcrypt_pepper()), ("postgresql://direct/d", "b"));
    assert_eq!(config.direct_url(), config.database_url);
    let config = read(&[direct[0], ("DATABASE_POOLER", "transaction")]).unwrap();
    assert_eq!(config.direct_url(), "postgresql://direct/d");
}

#[test]
fn every_flag_is_named_like_its_variable() {
    let command = Config::augment_args(Command::new("textgen"));
    command.clone().debug_assert();
    for arg in command.get_arguments() {
        let variable = arg.get_env().unwrap().to_str().unwrap();
        assert_eq!(arg.get_long().unwrap().replace('-', "_").to_uppercase(), variable);
        assert_eq!(arg.get_id().as_str().to_uppercase(), variable);
        assert!(arg.get_help().is_some() && arg.get_help_heading().is_some(), "{variable}");
    }
}

#[test]
fn secrets_are_hidden_in_help() {
    let command = Config::augment_args(Command::new("textgen"));
    for arg in command.get_arguments() {
        let name = arg.get_id().as_str();
        let is_secret = name.ends_with("_pepper")
            || name.ends_with("_api_key")
            || name == "encryption_key"
            || name == "smtp_url"
            || name == "stripe_secret_key"
            || name == "stripe_webhook_secret"
            || name == "backend_validation_secret"
            || name.starts_with("database_") && name.ends_with("_url");
        assert_eq!(arg.is_hide_env_values_set(), is_secret, "{name}");
    }
}

#[test]
fn a_wrong_value_is_one_clear_line() {
    for (name, value) in [
        ("USE_POSTGRES", "False"),
        ("WEB_ADDR", "everywhere"),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "many"),
        ("JOURNAL_MAX_BYTES", "1000"),
        ("USAGE_RETENTION_MONTHS", "-1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, nonsense"),
        ("PUBLIC_URL", "ftp://x"),
        ("PUBLIC_URL", "https://x/path"),
        ("INFERENCE_URL", "localhost:8000"),
        ("INFERENCE_URL", "http://a, ftp://b"),
        ("SPEECH_URL", "http://user:pass@host"),
        ("UPSTREAM_TIMEOUT", "0"),
        ("AUDIO_URL_ALLOW", "loopback"),
        ("REUSE_PORT", "perhaps"),
        ("DATABASE_POOLER", "session"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ] {
        let text = problem(name, value);
        assert!(text.starts_with(&format!("error: {name}={value}: ")) && text.trim().lines().count() == 1, "{text}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for name in ["DATABASE_URL", "DATABASE_LISTEN_URL"] {
        let text = problem(name, "postgresql://u:hunter2@h:x/");
        assert!(text.starts_with(&format!("error: {name}: ")) && !text.contains("hunter2"), "{text}");
    }
    let text = problem("SPEECH_API_KEY", "hunter 2");
    assert!(text.starts_with("error: SPEECH_API_KEY: ") && !text.contains("hunter"), "{text}");
    let text = problem("ENCRYPTION_KEY", "hunter2");
    assert!(text.starts_with("error: ENCRYPTION_KEY: ") && !text.contains("hunter2"), "{text}");
    let config = read(&[("DATABASE_URL", "postgresql://u:hunter2@h/d"), ("PASSWORD_PEPPER", "hunter2")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn there_may_be_several_model_servers() {
    let config = read(&[("INFERENCE_URL", "http://a:1/v1/, https://b/x"), ("INFERENCE_API_KEY", "hunter2\n")]).unwrap();
    let inference = &config.engines.inference;
    assert_eq!(inference.urls, ["http://a:1", "https://b/x"]);
    assert_eq!((inference.variable, inference.api_key.as_deref()), ("INFERENCE_URL", Some("hunter2")));
    assert!(config.engines.speech.urls.is_empty() && !format!("{inference:?}").contains("hunter2"));
}

#[test]
fn addresses_may_be_short() {
    for (text, meant) in [
        (":0", "127.0.0.1:0"),
        ("9000", "127.0.0.1:9000"),
        ("localhost:1", "127.0.0.1:1"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:80", "[::1]:80"),
    ] {
        assert_eq!(read(&[("WEB_ADDR", text)]).unwrap().web_addr.to_string(), meant);
    }
}

#[test]
fn metrics_have_an_address_a_usual_one_or_none() {
    let read = |text| read(&[("METRICS_ADDR", text)]).unwrap().metrics_addr;
    assert_eq!((read(""), read("none")), (MetricsAddress::Usual, MetricsAddress::Nowhere));
    assert_eq!(read("9464"), MetricsAddress::At(MetricsAddress::USUAL));
    assert!(problem("METRICS_ADDR", "nowhere").ends_with(", or none\n"), "{}", problem("METRICS_ADDR", "nowhere"));
}

/// `BLESS=1 cargo test --lib readme` rewrites the tables.
#[test]
fn the_readme_shows_the_settings_as_declared() {
    const BEGIN: &str = "<!-- settings: written by `BLESS=1 cargo test --lib readme` -->\n";
    const END: &str = "\n<!-- end of settings -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has no settings");
    let (shown, after) = rest.split_once(END).expect("the README's settings have no end");
    let declared = markdown(&Config::augment_args(Command::new("textgen")));
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(path, format!("{before}{BEGIN}{declared}{END}{after}")).unwrap();
    }
    assert!(
        shown == declared,
        "the README's tables of settings are out of date: run `BLESS=1 cargo test --lib readme`"
    );
}

#[test]
fn a_mail_server_is_a_url() {
    let parsed = |value: &str| read(&[("SMTP_URL", value)]).map(|config| config.mail.smtp_url.unwrap());
    let server = parsed("smtps://ann%40x:p%3Aq%2F@smtp.example.com").unwrap();
    assert_eq!(server.login, Some(("ann@x".to_owned(), "p:q/".to_owned())));
    assert_eq!((server.host.as_str(), server.port, server.tls), ("smtp.example.com", 465, SmtpTls::Always));
    assert!(!format!("{server:?}").contains("p:q/"), "{server:?}");
    for (url, host, port, tls) in [
        ("smtp://smtp.example.com", "smtp.example.com", 587, SmtpTls::StartTls),
        ("smtp://a:b@smtp.example.com:25?tls=optional", "smtp.example.com", 25, SmtpTls::IfOffered),
        ("smtp://127.0.0.1:2525/", "127.0.0.1", 2525, SmtpTls::IfOffered),
        ("smtp://localhost?tls=required", "localhost", 587, SmtpTls::StartTls),
        ("smtp://[::1]:25", "::1", 25, SmtpTls::IfOffered),
    ] {
        let server = parsed(url).unwrap();
        assert_eq!((server.host.as_str(), server.port, server.tls), (host, port, tls), "{url}");
    }
    for bad in [
        "smtp.example.com",
        "smtp://",
        "smtp://user@host",
        "smtp://h:0",
        "smtp://h:x",
        "smtps://h?tls=optional",
        "smtp://a b",
    ] {
        let problem = problem("SMTP_URL", &format!("{bad}#hunter2"));
        assert!(problem.contains("SMTP_URL: ") && !problem.contains("hunter2"), "{problem}");
    }
    assert!(problem("MAIL_FROM", "nobody").contains("MAIL_FROM=nobody: expected an address"));
    let config = read(&[("MAIL_FROM", "Example <no-reply@example.com>")]).unwrap();
    assert_eq!(config.mail.mail_from.unwrap().email.domain(), "example.com");
}
