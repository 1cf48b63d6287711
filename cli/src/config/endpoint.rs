//! A host and a port that others connect to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `host:port`; an IPv6 address stands in brackets. The host may be a name, which is resolved
/// whenever a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no address: write host:port, for example broker-1:9092 or [::1]:9092")]
pub struct EndpointError {
    text: String,
}

impl Endpoint {
    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// An endpoint on this machine's loopback.
    pub fn loopback(port: u16) -> Endpoint {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()
    }

    /// Whether the host is an address that stands for "every address of this machine", to which
    /// nobody else can connect.
    pub fn is_unspecified(&self) -> bool {
        self.host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let error = || EndpointError {
            text: text.to_owned(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(error)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        if !valid {
            return Err(error());
        }
        Ok(Endpoint {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Endpoint, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_text() {
        for text in ["broker-1.example:9092", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused_or_recognised() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:70000",
            ":9092",
            "::1:9092",
            "a b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!("0.0.0.0:1".parse::<Endpoint>().unwrap().is_unspecified());
        assert!("[::]:1".parse::<Endpoint>().unwrap().is_unspecified());
        assert!(!"host:1".parse::<Endpoint>().unwrap().is_unspecified());
    }
}
