//! Posts to an address that an operator has chosen, on the public internet or in a network that the settings allow: a name is
//! resolved once, what it resolves to is looked at, and the connection goes to that very address. Redirects are not followed.

use std::time::Duration;

use ipnet::IpNet;
use ureq::Agent;
use ureq::http::{HeaderValue, header};

use super::buffers;
use super::fetch::PublicResolver;
use super::transport::connector;
use crate::version;

/// How long it may take, the reply's head included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Posts JSON to addresses that an operator has chosen.
pub struct Poster(Agent);

impl Poster {
    /// One that reaches the public internet, and `allowed` networks beside it.
    pub fn new(allowed: &[IpNet]) -> Poster {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy would connect to what it resolves itself.
            .proxy(None)
            .max_idle_connections(0)
            .input_buffer_size(buffers::MOST)
            .output_buffer_size(buffers::MOST)
            .user_agent(version::USER_AGENT)
            .build();
        Poster(Agent::with_parts(config, connector(TIMEOUT), PublicResolver::new(allowed)))
    }

    /// Posts a body with these headers. Returns the status of the answer, whose body is not read.
    ///
    /// # Errors
    /// What went wrong, in words for the operator.
    pub fn post(&self, url: &str, headers: &[(&str, String)], body: &str) -> Result<u16, String> {
        let mut request = self.0.post(url).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|_| format!("the header {name} cannot be sent"))?;
            request = request.header(*name, value);
        }
        match request.send(body) {
            Ok(response) => Ok(response.status().as_u16()),
            Err(e) => Err(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_inner_network_is_called() {
        let poster = Poster::new(&[]);
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://10.0.0.1/",
        ] {
            let problem = poster.post(url, &[], "{}").unwrap_err();
            assert!(problem.contains("not a public address") || problem.contains("host not found"), "{url}: {problem}");
        }
        let allowed = Poster::new(&["127.0.0.0/8".parse().unwrap()]);
        assert!(!allowed.post("http://127.0.0.1:1/", &[], "{}").unwrap_err().contains("public"));
    }
}
