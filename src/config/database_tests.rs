use super::*;

fn tls(text: &str) -> TlsSettings {
    parse(text).unwrap().1
}

fn problem(text: &str) -> String {
    parse(text).map(|(_, tls)| tls).unwrap_err()
}

#[test]
fn a_url_and_a_list_say_the_same() {
    let url = "postgresql://ann:p%3Fss@db.example.com:5433/textgen?sslmode=verify-full&connect_timeout=3\
        &sslrootcert=%2Fetc%2Fca.pem&sslcert=/c.pem&sslkey=/k.pem";
    let list = "user=ann password = 'p?ss' host=db.example.com sslmode=verify-full port=5433 connect_timeout=3 \
        sslrootcert='/etc/ca.pem'  dbname=textgen sslcert=/c.pem sslkey = /k.pem";
    for text in [url, list] {
        let (config, tls) = parse(text).unwrap();
        assert_eq!(config.get_user(), Some("ann"));
        assert_eq!(config.get_password(), Some(&b"p?ss"[..]));
        assert_eq!(config.get_hosts(), [Host::Tcp("db.example.com".to_owned())]);
        assert_eq!((config.get_ports(), config.get_dbname()), (&[5433][..], Some("textgen")));
        assert_eq!(config.get_connect_timeout().map(std::time::Duration::as_secs), Some(3));
        assert_eq!(tls.mode, SslMode::VerifyFull);
        assert_eq!(tls.authorities, Some(Authorities::File("/etc/ca.pem".to_owned())));
        let client = ClientCertificate { certificate: "/c.pem".to_owned(), key: "/k.pem".to_owned() };
        assert_eq!(tls.client, Some(client));
    }
}

#[test]
fn modes_mean_what_they_mean_to_libpq() {
    let mode = |settings: &str| tls(&format!("host=h user=u {settings}")).mode;
    assert_eq!(mode(""), SslMode::Prefer);
    // On this machine, wherever that may be.
    for (place, expected) in [
        ("host=localhost", SslMode::Allow),
        ("host=db hostaddr=::1", SslMode::Allow),
        ("host=127.0.0.2", SslMode::Allow),
        ("host=localhost hostaddr=10.0.0.1", SslMode::Prefer),
        ("host=localhost,db", SslMode::Prefer),
        ("host=localhost sslmode=prefer", SslMode::Prefer),
        ("host=localhost channel_binding=require", SslMode::Prefer),
    ] {
        assert_eq!(tls(&format!("user=u {place}")).mode, expected, "{place}");
    }
    assert_eq!(mode("sslmode=disable sslrootcert=/ca.pem"), SslMode::Disable);
    assert_eq!(mode("sslmode=allow"), SslMode::Allow);
    assert_eq!(mode("sslmode=require"), SslMode::Require);
    assert_eq!(mode("sslmode=require sslrootcert=/ca.pem"), SslMode::VerifyCa);
    assert_eq!(mode("sslrootcert=system"), SslMode::VerifyFull);
    assert_eq!(tls("host=h user=u sslrootcert=system").authorities, Some(Authorities::System));
}

#[test]
fn quoted_and_escaped_values_of_a_list_stay_whole() {
    let (config, tls) = parse(r"host=h password='it\'s sslmode=x' user=a\ b sslmode='require'").unwrap();
    assert_eq!(config.get_password(), Some(&b"it's sslmode=x"[..]));
    assert_eq!((config.get_user(), tls.mode), (Some("a b"), SslMode::Require));
}

#[test]
fn errors_name_the_setting_and_show_no_secret() {
    for (settings, words) in [
        ("sslmode=verify", "sslmode: expected"),
        ("sslmode=verify-full", "needs sslrootcert"),
        ("sslmode=verify-ca", "needs sslrootcert"),
        ("sslrootcert=/ca.pem", "set sslmode=verify-full"),
        ("sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("sslcert=/c.pem", "needs sslkey"),
        ("sslkey=/k.pem", "needs sslcert"),
        ("sslcrl=/crl.pem", "sslcrl is not supported"),
        ("channel_binding=maybe", "channel_binding"),
        ("channel_binding=require&sslmode=disable", "channel_binding=require"),
        ("sslnegotiation=direct", "sslnegotiation=direct"),
        ("sslmode=require&host=/tmp", "Unix sockets"),
        ("sslmode=prefer&host=/tmp", "set sslmode=disable"),
        ("sslmode=allow&host=/tmp", "Unix sockets"),
        ("host=/tmp", "Unix sockets"),
        ("nonsense=1", "not supported"),
        ("sslmode", "sslmode: expected"),
        ("user", "not a PostgreSQL URL"),
    ] {
        let said = problem(&format!("postgresql://ann:hunter2@h/db?{settings}"));
        assert!(said.contains(words) && !said.contains("hunter2"), "{settings}: {said}");
    }
    for list in ["password=hunter2 hunter2=1 sslmode", "password='hunter2", "hunter2"] {
        assert!(!problem(list).contains("hunter2"), "{list}");
    }
}

#[test]
fn tls_is_ignored_for_unix_sockets() {
    assert_eq!(tls("host=/tmp user=u sslmode=require").mode, SslMode::Require);
    assert_eq!(tls("host=/tmp user=u channel_binding=require sslmode=disable").mode, SslMode::Disable);
}

#[test]
fn sockets_are_listed_beside_hosts_where_nothing_is_encrypted() {
    for list in ["host=/tmp,db sslmode=disable", "host=/tmp,localhost", "host=127.0.0.1,/tmp sslmode=allow"] {
        assert!(tls(&format!("{list} user=u")).mode <= SslMode::Allow, "{list}");
    }
    for list in ["host=/tmp,db", "host=db,/tmp", "host=/tmp,db sslmode=prefer", "host=/tmp,localhost sslmode=prefer"] {
        assert!(problem(&format!("{list} user=u")).contains("list only the one or the other kind"), "{list}");
    }
}
