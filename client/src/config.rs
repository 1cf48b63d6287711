//! Settings of a client. Those of producers and consumers stand with them.

use std::time::Duration;

use crate::error::ClientError;

/// How a client reaches the cluster.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where to ask first, as `host:port`. One that answers is enough.
    pub bootstrap: Vec<String>,
    /// What the client calls itself, sent as user agent.
    pub client_id: String,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a call may take, with all its retries.
    pub request_timeout: Duration,
    /// The first wait before something is tried again.
    pub reconnect_backoff_min: Duration,
    /// The longest wait before something is tried again.
    pub reconnect_backoff_max: Duration,
    /// How long a connection may be silent before it is probed.
    pub keepalive_interval: Duration,
    /// How long the answer to a probe may take before the connection counts as dead.
    pub keepalive_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            bootstrap: vec!["127.0.0.1:9092".to_owned()],
            client_id: "ottla-client".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            reconnect_backoff_min: Duration::from_millis(20),
            reconnect_backoff_max: Duration::from_millis(500),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
        }
    }
}

impl ClientConfig {
    /// The defaults, with these bootstrap addresses.
    pub fn new(bootstrap: impl IntoIterator<Item = impl Into<String>>) -> ClientConfig {
        ClientConfig {
            bootstrap: bootstrap.into_iter().map(Into::into).collect(),
            ..ClientConfig::default()
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ClientError> {
        if self.bootstrap.is_empty() {
            return Err(ClientError::Config(
                "no bootstrap address is given; name at least one as host:port".to_owned(),
            ));
        }
        for address in &self.bootstrap {
            if let Some((scheme, rest)) = address.split_once("://") {
                let place = rest.trim_end_matches('/');
                return Err(ClientError::Config(format!(
                    "the bootstrap address '{address}' is not host:port; write it without \
                     {scheme}://, as '{place}'"
                )));
            }
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(ClientError::Config(format!(
                    "the bootstrap address '{address}' is not host:port"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_url() {
        let config = ClientConfig::new(["http://b1:9092/"]);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("without http://, as 'b1:9092'"), "{error}");
    }

    #[test]
    fn an_address_needs_a_port() {
        for bad in ["localhost", "localhost:", "localhost:0", "localhost:x"] {
            let error = ClientConfig::new([bad]).validate().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        assert!(
            ClientConfig::new(["localhost:9092", "[::1]:9092"])
                .validate()
                .is_ok()
        );
        assert!(ClientConfig::new(Vec::<String>::new()).validate().is_err());
    }
}
