//! The client: what its admin, producers and consumers share.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ProducerEpoch, ProducerId};
use ottla_proto::v1;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::admin::Admin;
use crate::cluster::{ClusterSnapshot, TopicInfo, View, first_view, spawn};
use crate::config::ClientConfig;
use crate::connection::Connections;
use crate::consumer::{Consumer, ConsumerConfig};
use crate::error::ClientError;
use crate::failure::Failure;
use crate::producer::{Producer, ProducerConfig};
use crate::retry::{Call, is_unknown_topic};

/// A connection to a cluster. Cheap to clone; the connections and the view of the cluster are
/// shared, and end with the last clone, producer and consumer. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connections: Arc<Connections>,
    view: Arc<View>,
    watcher: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Client {
    /// Connects to the first bootstrap address that answers.
    ///
    /// # Errors
    /// [`ClientError::Bootstrap`] names every address and why it did not answer.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        config.validate()?;
        let connections = Arc::new(Connections::new(config));
        let first = first_view(&connections).await?;
        let view = Arc::clone(&first.view);
        let watcher = spawn(Arc::clone(&connections), first);
        Ok(Client {
            shared: Arc::new(Shared {
                connections,
                view,
                watcher,
            }),
        })
    }

    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Starts a producer. Settings out of their range are brought into it.
    pub fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::start(self.clone(), config)
    }

    /// Starts a consumer. Settings out of their range are brought into it.
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::start(self.clone(), config)
    }

    /// The cluster as last seen: brokers, topics, leaders.
    pub fn cluster(&self) -> Arc<ClusterSnapshot> {
        self.shared.view.current()
    }

    /// Waits until the view of the cluster satisfies `predicate`, and returns that view. Reacts to
    /// changes; does not poll.
    ///
    /// # Errors
    /// [`ClientError::TimedOut`] if it does not within `limit`.
    pub async fn wait_for<F>(
        &self,
        mut predicate: F,
        limit: Duration,
    ) -> Result<Arc<ClusterSnapshot>, ClientError>
    where
        F: FnMut(&ClusterSnapshot) -> bool,
    {
        let mut changes = self.shared.view.subscribe();
        let waited = timeout(limit, changes.wait_for(|snapshot| predicate(snapshot))).await;
        match waited {
            Ok(Ok(snapshot)) => Ok(Arc::clone(&snapshot)),
            _ => Err(ClientError::TimedOut {
                what: "the awaited change of the cluster".to_owned(),
                after: limit,
            }),
        }
    }

    /// The topic with this name. One that the view does not have is asked for, so that a topic that
    /// is new is found, and one that does not exist is told as soon as the brokers have said so,
    /// or after `limit`.
    pub(crate) async fn find_topic(&self, name: &str, limit: Duration) -> Option<Arc<TopicInfo>> {
        let of = |cluster: Arc<ClusterSnapshot>| cluster.topic(name).cloned();
        if let Some(known) = of(self.cluster()) {
            return Some(known);
        }
        let admin = self.admin();
        let refused = async {
            let described = admin.describe_topic(name).await;
            let code = described.err().and_then(|error| error.code());
            if !code.is_some_and(|code| is_unknown_topic(code) || !code.is_retriable()) {
                // It exists, or nobody could say: the view decides.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            known = self.wait_for(|cluster| cluster.topic(name).is_some(), limit) => {
                known.ok().and_then(of)
            }
            () = refused => of(self.cluster()),
        }
    }

    pub fn config(&self) -> &ClientConfig {
        self.shared.connections.config()
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.shared.view
    }

    /// Takes a fresh producer id from any broker.
    pub(crate) async fn init_producer_id(
        &self,
    ) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let response = Call::new(self, "taking a producer id")
            .run(|connections, endpoint, _| async move {
                let mut client = connections.log(&endpoint)?;
                let response = client.init_producer_id(v1::InitProducerIdRequest {}).await;
                Ok(response
                    .map_err(|status| Failure::classify(&status))?
                    .into_inner())
            })
            .await?;
        let epoch = i16::try_from(response.producer_epoch).unwrap_or(0);
        Ok((ProducerId(response.producer_id), ProducerEpoch(epoch)))
    }
}
