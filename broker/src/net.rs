//! How nodes connect to each other: the settings that bite, in one place.

use std::time::Duration;

use ottla_metadata::Endpoint;
use ottla_model::limits::{H2_CONNECTION_WINDOW, H2_INTERNAL_FRAME_SIZE, H2_STREAM_WINDOW};
use tonic::transport::Channel;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A vanished host is noticed within these two together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to another node, made when first used and again whenever it broke.
pub fn internal_channel(endpoint: &Endpoint) -> Channel {
    let uri = format!("http://{endpoint}");
    let endpoint = Channel::from_shared(uri).unwrap_or_else(|_| {
        // A host that makes no URI cannot be reached; the connection then fails with its reason.
        Channel::from_static("http://invalid.invalid:1")
    });
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_frame_size(H2_INTERNAL_FRAME_SIZE)
        .connect_lazy()
}
