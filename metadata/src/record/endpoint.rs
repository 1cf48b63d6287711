//! Where a node can be reached.

use std::fmt;

use super::RecordError;
use super::wire::bad;

/// A host (name or address) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn new(host: impl Into<String>, port: u16) -> Endpoint {
        Endpoint {
            host: host.into(),
            port,
        }
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

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EndpointWire {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
}

impl EndpointWire {
    pub(crate) fn of(endpoint: &Endpoint) -> Option<EndpointWire> {
        Some(EndpointWire {
            host: endpoint.host.clone(),
            port: u32::from(endpoint.port),
        })
    }

    pub(crate) fn open(
        wire: Option<EndpointWire>,
        record: u32,
        field: &'static str,
    ) -> Result<Endpoint, RecordError> {
        let wire = wire.ok_or_else(|| bad(record, field))?;
        let port = u16::try_from(wire.port).map_err(|_| bad(record, field))?;
        Ok(Endpoint {
            host: wire.host,
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_shown_in_brackets() {
        assert_eq!(Endpoint::new("::1", 9092).to_string(), "[::1]:9092");
        assert_eq!(Endpoint::new("host", 9092).to_string(), "host:9092");
    }
}
