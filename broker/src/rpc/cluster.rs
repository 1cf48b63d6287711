//! `ClusterService`: what the cluster looks like, once or on every change.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::MetadataImage;
use ottla_model::TopicId;
use ottla_proto::v1;
use ottla_proto::v1::cluster_service_server::ClusterService;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::view;
use crate::broker::{Broker, BrokerCell};
use crate::image::ImageChange;

/// The service over one broker.
#[derive(Clone)]
pub struct ClusterRpc(pub BrokerCell);

#[tonic::async_trait]
impl ClusterService for ClusterRpc {
    type WatchClusterStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchClusterResponse, Status>> + Send>>;

    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let broker = self.0.get()?;
        let request = request.into_inner();
        let image = broker.image.current();
        let mut cluster = view::cluster(broker, &image);
        if !request.without_topics {
            cluster.topics = all_topics(&image, &request.topics);
        }
        Ok(Response::new(v1::DescribeClusterResponse {
            cluster: Some(cluster),
        }))
    }

    async fn watch_cluster(
        &self,
        request: Request<v1::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let broker = self.0.get()?.clone();
        let wanted = request.into_inner().topics;
        Ok(Response::new(Box::pin(watch(broker, wanted))))
    }
}

fn all_topics(image: &MetadataImage, wanted: &[String]) -> Vec<v1::TopicView> {
    image
        .topics
        .iter()
        .filter(|topic| view::is_wanted(wanted, &topic.name))
        .map(|topic| view::topic(image, topic))
        .collect()
}

fn watch(
    broker: Arc<Broker>,
    wanted: Vec<String>,
) -> impl Stream<Item = Result<v1::WatchClusterResponse, Status>> + Send + 'static {
    async_stream::stream! {
        let mut changes = broker.image.subscribe();
        let mut active = broker.image.watch_active_controller();
        yield Ok(everything(&broker, &wanted));
        loop {
            let response = tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => changed(&broker, &wanted, &change),
                    // Too many changes at once: the whole picture says the same with less.
                    Err(RecvError::Lagged(_)) => everything(&broker, &wanted),
                    Err(RecvError::Closed) => return,
                },
                changed = active.changed() => match changed {
                    Ok(()) => v1::WatchClusterResponse {
                        change: Some(view::cluster(&broker, &broker.image.current())),
                        deleted_topic_ids: Vec::new(),
                    },
                    Err(_) => return,
                },
            };
            yield Ok(response);
        }
    }
}

fn everything(broker: &Broker, wanted: &[String]) -> v1::WatchClusterResponse {
    let image = broker.image.current();
    let topics = all_topics(&image, wanted);
    let change = v1::ClusterView {
        topics,
        ..view::cluster(broker, &image)
    };
    v1::WatchClusterResponse {
        change: Some(change),
        deleted_topic_ids: Vec::new(),
    }
}

fn changed(broker: &Broker, wanted: &[String], change: &ImageChange) -> v1::WatchClusterResponse {
    let Some(delta) = &change.delta else {
        return everything(broker, wanted);
    };
    let image = &change.image;
    let mut ids: BTreeSet<TopicId> = delta.changed_topics().clone();
    ids.extend(delta.changed_partitions().iter().map(|id| id.topic));
    let topics = ids
        .into_iter()
        .filter_map(|id| image.topic(id))
        .filter(|topic| view::is_wanted(wanted, &topic.name))
        .map(|topic| view::topic(image, topic))
        .collect();
    v1::WatchClusterResponse {
        change: Some(v1::ClusterView {
            topics,
            ..view::cluster(broker, image)
        }),
        deleted_topic_ids: delta
            .deleted_topics()
            .keys()
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .collect(),
    }
}
