//! Connecting to a cluster, the same for every command.

use std::time::Duration;

use ottla_client::{Client, ClientConfig, ClientError};

use crate::args::{ConnectArgs, RequestArgs};
use crate::exit::{CommandError, CommandResult};

/// Connects to the cluster; every later call gives up after `timeout`.
pub async fn connect(args: &ConnectArgs, timeout: Duration) -> CommandResult<Client> {
    let config = ClientConfig {
        bootstrap: args.bootstrap.clone(),
        client_id: concat!("ottla/", env!("CARGO_PKG_VERSION")).to_owned(),
        request_timeout: timeout,
        ..ClientConfig::default()
    };
    Client::connect(config).await.map_err(|error| {
        let is_bootstrap = matches!(error, ClientError::Bootstrap { .. });
        let error = CommandError::from(error);
        match is_bootstrap {
            true => error.advised(
                "name brokers that run with --bootstrap HOST:PORT or OTTLA_BOOTSTRAP, or start a \
                 cluster here with `ottla dev`",
            ),
            false => error,
        }
    })
}

/// Connects for a command that asks and prints.
pub async fn open(args: &RequestArgs) -> CommandResult<Client> {
    connect(&args.connect, args.timeout).await
}
