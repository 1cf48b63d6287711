//! `ControllerService`, one file per call or small group of calls. Conversion and waiting; what is
//! decided is decided in the core.

mod control;
mod decide;
mod partitions;
mod quorum;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ottla_proto::v1;
use ottla_proto::v1::controller_service_server::ControllerService;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::active::ActiveController;
use crate::feed::MetadataFeed;
use crate::sessions::ControlStreams;

/// What brokers are told of the control stream's pace.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub beat_interval: Duration,
    pub session_timeout: Duration,
}

/// The service over one controller.
#[derive(Clone)]
pub struct ControllerRpc {
    pub active: Arc<ActiveController>,
    pub feed: Arc<MetadataFeed>,
    pub streams: Arc<ControlStreams>,
    pub pace: Pace,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ControllerService for ControllerRpc {
    type ControlStream = ResponseStream<v1::ControlResponse>;
    type WatchMetadataStream = ResponseStream<v1::WatchMetadataResponse>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        Ok(Response::new(Box::pin(control::serve(
            self.clone(),
            request.into_inner(),
        ))))
    }

    async fn watch_metadata(
        &self,
        request: Request<v1::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let stream = watch::serve(self.clone(), &request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn alter_partitions(
        &self,
        request: Request<v1::AlterPartitionsRequest>,
    ) -> Result<Response<v1::AlterPartitionsResponse>, Status> {
        partitions::alter(&self.active, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<v1::AllocateProducerIdsRequest>,
    ) -> Result<Response<v1::AllocateProducerIdsResponse>, Status> {
        partitions::allocate_producer_ids(&self.active, &request.into_inner())
            .await
            .map(Response::new)
    }

    async fn decide(
        &self,
        request: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        decide::decide(&self.active, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn inspect_quorum(
        &self,
        _request: Request<v1::InspectQuorumRequest>,
    ) -> Result<Response<v1::InspectQuorumResponse>, Status> {
        Ok(Response::new(quorum::inspect(&self.active)))
    }
}
