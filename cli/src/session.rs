//! Connecting to a cluster, the same for every command.

use std::time::Duration;

use ottla_client::{Client, ClientConfig};

use crate::args::{ConnectArgs, RequestArgs};
use crate::exit::CommandResult;

/// Connects to the cluster; every later call gives up after `timeout`.
pub async fn connect(args: &ConnectArgs, timeout: Duration) -> CommandResult<Client> {
    let config = ClientConfig {
        bootstrap: args.bootstrap.clone(),
        client_id: concat!("ottla/", env!("CARGO_PKG_VERSION")).to_owned(),
        request_timeout: timeout,
        ..ClientConfig::default()
    };
    Ok(Client::connect(config).await?)
}

/// Connects for a command that asks and prints.
pub async fn open(args: &RequestArgs) -> CommandResult<Client> {
    connect(&args.connect, args.timeout).await
}
