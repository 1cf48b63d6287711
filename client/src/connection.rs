//! The connections of a client: for each endpoint one for calls and one for bulk data, made when
//! first used. A channel reconnects by itself when it is used again; when to do so is its user's
//! decision.

use std::collections::HashMap;
use std::time::Duration;

use ottla_model::limits::{
    CLIENT_MESSAGE_BYTES_MAX, H2_CONNECTION_WINDOW, H2_FRAME_SIZE, H2_STREAM_WINDOW,
    INTERNAL_MESSAGE_BYTES_MAX,
};
use ottla_proto::v1::admin_service_client::AdminServiceClient;
use ottla_proto::v1::cluster_service_client::ClusterServiceClient;
use ottla_proto::v1::log_service_client::LogServiceClient;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::config::ClientConfig;
use crate::failure::Failure;

/// How many endpoints' channels are kept. A cluster whose brokers keep changing their addresses
/// starts the collection anew; streams in use keep their channel.
const ENDPOINTS_MAX: usize = 4_096;

/// What a connection carries. Bulk data has one of its own, so that a call never queues behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Calls,
    Data,
}

#[derive(Debug)]
pub(crate) struct Connections {
    config: ClientConfig,
    channels: Mutex<HashMap<(String, Purpose), Channel>>,
}

impl Connections {
    pub(crate) fn new(config: ClientConfig) -> Connections {
        Connections {
            config,
            channels: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn admin(&self, endpoint: &str) -> Result<AdminServiceClient<Channel>, Failure> {
        let channel = self.channel(endpoint, Purpose::Calls)?;
        Ok(AdminServiceClient::new(channel).max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX))
    }

    /// Views of large clusters are large, hence the higher limit.
    pub(crate) fn cluster(&self, endpoint: &str) -> Result<ClusterServiceClient<Channel>, Failure> {
        let channel = self.channel(endpoint, Purpose::Calls)?;
        Ok(
            ClusterServiceClient::new(channel)
                .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        )
    }

    /// For single calls of the log service.
    pub(crate) fn log(&self, endpoint: &str) -> Result<LogServiceClient<Channel>, Failure> {
        let channel = self.channel(endpoint, Purpose::Calls)?;
        Ok(LogServiceClient::new(channel).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX))
    }

    /// For the produce and fetch streams.
    pub(crate) fn data(&self, endpoint: &str) -> Result<Channel, Failure> {
        self.channel(endpoint, Purpose::Data)
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    fn channel(&self, endpoint: &str, purpose: Purpose) -> Result<Channel, Failure> {
        let mut channels = self.channels.lock();
        let key = (endpoint.to_owned(), purpose);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = open_lazily(endpoint, &self.config)?;
        if channels.len() >= 2 * ENDPOINTS_MAX {
            channels.clear();
        }
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

fn open_lazily(endpoint: &str, config: &ClientConfig) -> Result<Channel, Failure> {
    let unusable = |error: tonic::transport::Error| {
        Failure::NotConnected(format!("'{endpoint}' is no usable address: {error}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .and_then(|endpoint| endpoint.user_agent(config.client_id.clone()))
        .map_err(unusable)?;
    Ok(endpoint
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_frame_size(H2_FRAME_SIZE)
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(true)
        .connect_lazy())
}
