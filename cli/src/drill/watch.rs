//! Watching the cluster through every broker, so that the first survivor to know of a change is
//! heard.

use std::time::Duration;

use ottla_client::v1::WatchClusterRequest;
use ottla_client::v1::cluster_service_client::ClusterServiceClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Endpoint;

use super::measure::Observer;
use super::scene::Scene;

/// How long to wait before a broker that is gone is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Watchers of every broker, until dropped.
pub struct Watchers {
    _tasks: JoinSet<()>,
}

impl Watchers {
    /// Starts a watcher for each broker, given by id and address.
    pub fn start(brokers: Vec<(i32, String)>, topic: &str, scene: &Scene) -> Watchers {
        let mut tasks = JoinSet::new();
        for (id, address) in brokers {
            let (topic, scene) = (topic.to_owned(), scene.clone());
            tasks.spawn(async move {
                loop {
                    if let Err(error) = watch(id, &address, &topic, &scene).await {
                        tracing::debug!(broker = id, %error, "the watch ended");
                    }
                    sleep(RETRY).await;
                }
            });
        }
        Watchers { _tasks: tasks }
    }
}

async fn watch(id: i32, address: &str, topic: &str, scene: &Scene) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true);
    let mut client = ClusterServiceClient::new(endpoint.connect().await?);
    let request = WatchClusterRequest {
        topics: vec![topic.to_owned()],
    };
    let mut changes = client.watch_cluster(request).await?.into_inner();
    // The first message describes everything, so what was known before is no longer needed.
    let mut observer = Observer::default();
    while let Some(message) = changes.message().await? {
        if let Some(change) = &message.change {
            scene.observed(id, topic, &mut observer, change);
        }
    }
    Ok(())
}
