//! `ClusterService`: what the cluster looks like, once or on every change.

use ottla_metadata::MetadataImage;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::cluster_service_server::ClusterService;
use ottla_shell::Connection;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::held_body::{Encoded, Held};
use super::view;
use super::watch::watch;
use crate::broker::BrokerCell;

/// The service over one broker.
#[derive(Clone)]
pub struct ClusterRpc(pub BrokerCell);

#[tonic::async_trait]
impl ClusterService for ClusterRpc {
    /// The answers are encoded once for all who watch, and take the place of this.
    type WatchClusterStream = Empty<Result<v1::WatchClusterResponse, Status>>;

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
        let connection = request.extensions().get::<Connection>().cloned();
        let seat = broker.watches.enter(connection.as_ref());
        let seat = seat.map_err(|error| to_status(&error))?;
        let wanted = request.into_inner().topics;
        let held = Held::default();
        let mut response = Response::new(tokio_stream::empty());
        Encoded::instead_of(&mut response, watch(broker, seat, held.clone(), wanted));
        held.until_sent(&mut response);
        Ok(response)
    }
}

pub(super) fn all_topics(image: &MetadataImage, wanted: &[String]) -> Vec<v1::TopicView> {
    image
        .topics
        .iter()
        .filter(|topic| view::is_wanted(wanted, &topic.name))
        .map(|topic| view::topic(image, topic))
        .collect()
}
