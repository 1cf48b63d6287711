//! Connecting to a cluster, the same for every command.

use std::time::Duration;

use ottla_client::v1::{ClusterView, ControllerView};
use ottla_client::{Client, ClientConfig, ClientError};
use ottla_model::ErrorCode;
use ottla_proto::convert::endpoint_text;

use crate::args::{ConnectArgs, RequestArgs};
use crate::exit::{CommandError, CommandResult};

/// How long a broker may take to say which controllers there are, where none of them answers.
const CONTROLLERS_PATIENCE: Duration = Duration::from_secs(2);

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

/// The cluster's refusal. Where no controller answered, the broker tells of the last that it asked:
/// all that there are stand behind it.
pub async fn refused(client: &Client, error: ClientError) -> CommandError {
    let nobody_answered = error.code() == Some(ErrorCode::NoControllerQuorum);
    let error = CommandError::from(error);
    if !nobody_answered {
        return error;
    }
    let admin = client.admin();
    let looking = tokio::time::timeout(CONTROLLERS_PATIENCE, admin.describe_cluster());
    match looking.await {
        Ok(Ok(view)) if !view.controllers.is_empty() => error.advised(controllers(&view)),
        _ => error,
    }
}

fn controllers(view: &ClusterView) -> String {
    let one = |controller: &ControllerView| match &controller.internal_endpoint {
        Some(endpoint) => format!("{} ({})", controller.node_id, endpoint_text(endpoint)),
        None => controller.node_id.to_string(),
    };
    let all: Vec<String> = view.controllers.iter().map(one).collect();
    format!("the controllers are {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::Endpoint;

    use super::*;

    #[test]
    fn every_controller_is_named_with_its_address() {
        let controller = |node_id| ControllerView {
            node_id,
            internal_endpoint: Some(Endpoint {
                host: "c".to_owned(),
                port: 9090 + node_id as u32,
            }),
        };
        let view = ClusterView {
            controllers: vec![controller(1), controller(2), controller(3)],
            ..ClusterView::default()
        };
        let said = "the controllers are 1 (c:9091), 2 (c:9092), 3 (c:9093)";
        assert_eq!(controllers(&view), said);
    }
}
