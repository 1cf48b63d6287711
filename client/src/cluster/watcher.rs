//! Follows `WatchCluster` and publishes each change. When the stream breaks, or when somebody
//! suspects that its broker has fallen behind, it moves to another broker at once.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use ottla_model::{PartitionIndex, TopicId};
use ottla_proto::v1;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Streaming;

use super::ClusterSnapshot;
use crate::backoff::Backoff;
use crate::connection::Connections;
use crate::error::{ClientError, FailedAttempt};
use crate::failure::Failure;

/// How long the watch stays with a broker at least, however often somebody suspects it.
const SUSPICION_PAUSE: Duration = Duration::from_millis(500);

type Changes = Streaming<v1::WatchClusterResponse>;

/// The published view. Cheap to share; everyone who waits for a change waits here.
#[derive(Debug)]
pub(crate) struct View {
    sender: watch::Sender<Arc<ClusterSnapshot>>,
    suspected: Notify,
}

impl View {
    fn new(snapshot: ClusterSnapshot) -> View {
        View {
            sender: watch::Sender::new(Arc::new(snapshot)),
            suspected: Notify::new(),
        }
    }

    pub(crate) fn current(&self) -> Arc<ClusterSnapshot> {
        Arc::clone(&self.sender.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<ClusterSnapshot>> {
        self.sender.subscribe()
    }

    /// Publishes what a refusal said about a partition's leader, if it is news.
    pub(crate) fn learn_leader(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        hint: &v1::LeaderHint,
    ) {
        self.update(|snapshot| snapshot.merge_leader(topic, partition, hint));
    }

    /// Says that the view did not lead to a leader that accepts: another broker may know better.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    fn update(&self, change: impl FnOnce(&mut ClusterSnapshot) -> bool) {
        self.sender
            .send_if_modified(|snapshot| change(Arc::make_mut(snapshot)));
    }
}

/// A watch that has delivered its first response.
pub(crate) struct FirstView {
    pub(crate) view: Arc<View>,
    endpoint: String,
    changes: Changes,
}

/// Opens a watch at whichever bootstrap address answers first. Addresses whose node is only
/// starting are asked again until the request timeout.
pub(crate) async fn first_view(connections: &Arc<Connections>) -> Result<FirstView, ClientError> {
    let config = connections.config();
    let deadline = Instant::now() + config.request_timeout;
    let mut backoff = Backoff::new(config.reconnect_backoff_min, config.reconnect_backoff_max);
    loop {
        let mut attempts: FuturesUnordered<_> = config
            .bootstrap
            .iter()
            .map(|endpoint| async move {
                let result = open(connections, endpoint, None).await;
                (endpoint.clone(), result)
            })
            .collect();
        let mut tried = Vec::new();
        let mut starting = false;
        while let Some((endpoint, result)) = attempts.next().await {
            match result {
                Ok((first, changes)) => {
                    let mut snapshot = ClusterSnapshot::default();
                    snapshot.merge_all(&first);
                    let view = Arc::new(View::new(snapshot));
                    return Ok(FirstView {
                        view,
                        endpoint,
                        changes,
                    });
                }
                Err(failure) => {
                    starting |= matches!(&failure, Failure::Refused(e) if e.code.is_retriable());
                    let reason = failure.reason();
                    tried.push(FailedAttempt { endpoint, reason });
                }
            }
        }
        let wait = backoff.on_failure();
        if !starting || Instant::now() + wait >= deadline {
            tried.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
            return Err(ClientError::Bootstrap { tried });
        }
        sleep(wait).await;
    }
}

/// Starts the task that follows the watch for as long as it is not aborted.
pub(crate) fn spawn(connections: Arc<Connections>, first: FirstView) -> JoinHandle<()> {
    let config = connections.config();
    let watcher = Watcher {
        backoff: Backoff::new(config.reconnect_backoff_min, config.reconnect_backoff_max),
        view: first.view,
        endpoint: first.endpoint,
        connections,
    };
    tokio::spawn(watcher.run(first.changes))
}

struct Watcher {
    connections: Arc<Connections>,
    view: Arc<View>,
    /// The broker that is being, or was last, listened to.
    endpoint: String,
    backoff: Backoff,
}

impl Watcher {
    async fn run(mut self, mut changes: Changes) {
        loop {
            let since = Instant::now();
            self.follow(changes, since).await;
            changes = self.reopen().await;
        }
    }

    /// Publishes changes until the stream ends or its broker is suspected.
    async fn follow(&mut self, mut changes: Changes, since: Instant) {
        loop {
            let next = tokio::select! {
                next = changes.next() => next,
                () = self.view.suspected.notified() => {
                    if since.elapsed() < SUSPICION_PAUSE {
                        continue;
                    }
                    return;
                }
            };
            match next {
                Some(Ok(response)) => self.publish(&response),
                Some(Err(status)) => {
                    let reason = Failure::classify(&status).reason();
                    tracing::debug!(endpoint = self.endpoint, reason, "the cluster watch broke");
                    return;
                }
                None => return,
            }
        }
    }

    fn publish(&self, response: &v1::WatchClusterResponse) {
        self.view.update(|snapshot| {
            let unchanged = v1::ClusterView::default();
            let change = response.change.as_ref().unwrap_or(&unchanged);
            snapshot.merge_change(change, &response.deleted_topic_ids);
            true
        });
    }

    /// Tries the other brokers, then the last one, round after round.
    async fn reopen(&mut self) -> Changes {
        loop {
            let snapshot = self.view.current();
            for endpoint in self.candidates(&snapshot) {
                match open(&self.connections, &endpoint, Some(&snapshot.cluster_id)).await {
                    Ok((first, changes)) => {
                        self.backoff.on_success();
                        self.endpoint = endpoint;
                        self.view.update(|snapshot| {
                            snapshot.merge_all(&first);
                            true
                        });
                        return changes;
                    }
                    Err(failure) => {
                        let reason = failure.reason();
                        tracing::debug!(endpoint, reason, "no cluster watch from this broker");
                    }
                }
            }
            sleep(self.backoff.on_failure()).await;
        }
    }

    fn candidates(&self, snapshot: &ClusterSnapshot) -> Vec<String> {
        let mut all = endpoints(snapshot, &self.connections.config().bootstrap);
        // The one just left comes last; the order of the others turns with it.
        if let Some(at) = all.iter().position(|endpoint| *endpoint == self.endpoint) {
            all.rotate_left(at + 1);
        }
        all
    }
}

/// All addresses worth asking: brokers in service, then fenced ones, then the bootstrap addresses.
pub(crate) fn endpoints(snapshot: &ClusterSnapshot, bootstrap: &[String]) -> Vec<String> {
    let brokers = || snapshot.brokers.values();
    let serving = brokers().filter(|b| !b.fenced && !b.in_controlled_shutdown);
    let others = brokers().filter(|b| b.fenced || b.in_controlled_shutdown);
    let mut all: Vec<String> = Vec::new();
    let known = serving.chain(others).map(|broker| &broker.endpoint);
    for endpoint in known.chain(bootstrap) {
        if !endpoint.is_empty() && !all.contains(endpoint) {
            all.push(endpoint.clone());
        }
    }
    all
}

/// Opens a watch and waits for its first response. A broker of another cluster is refused.
async fn open(
    connections: &Connections,
    endpoint: &str,
    cluster_id: Option<&str>,
) -> Result<(v1::ClusterView, Changes), Failure> {
    let mut client = connections.cluster(endpoint)?;
    // The connection attempt has a limit of its own; the first response may need as long again.
    let limit = connections.config().connect_timeout * 2;
    let deadline = Instant::now() + limit;
    let late = || Failure::Broken(format!("no answer within {limit:?}"));
    let request = v1::WatchClusterRequest { topics: Vec::new() };
    let mut changes = timeout_at(deadline, client.watch_cluster(request))
        .await
        .map_err(|_| late())?
        .map_err(|status| Failure::classify(&status))?
        .into_inner();
    let first = timeout(
        deadline.saturating_duration_since(Instant::now()),
        changes.message(),
    )
    .await
    .map_err(|_| late())?
    .map_err(|status| Failure::classify(&status))?;
    let first = first
        .and_then(|response| response.change)
        .ok_or_else(|| Failure::Broken("the cluster watch ended at once".to_owned()))?;
    match cluster_id {
        Some(known) if !known.is_empty() && first.cluster_id != known => {
            let other = &first.cluster_id;
            let reason = format!("it belongs to cluster {other}, not to {known}");
            Err(Failure::NotConnected(reason))
        }
        _ => Ok((first, changes)),
    }
}
