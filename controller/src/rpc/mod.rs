//! What brokers ask of controllers. Each file is one call.

mod control;
mod convert;
mod decide;
mod inspect;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use ottla_controller_core::Request as Ask;
use ottla_model::error::ApiError;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::controller_service_server::ControllerService;
use tonic::{Request, Response, Status, Streaming};

use crate::active::{Decided, Decisions};
use crate::feed::Feed;
use crate::quorum::Quorum;

/// How long decisions may take whose callers do not say.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);

/// Timings of the calls.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    pub beat_interval: Duration,
    pub session_timeout: Duration,
    pub probe_timeout: Duration,
    pub watch_stall: Duration,
}

/// The service.
#[derive(Clone)]
pub struct ControllerHandler {
    pub decisions: Decisions,
    pub quorum: Arc<Quorum>,
    pub feed: Arc<Feed>,
    pub timings: Timings,
}

impl ControllerHandler {
    async fn decide_by(&self, request: Ask, timeout: Duration) -> Result<Decided, ApiError> {
        self.decisions.ask(request, timeout).await
    }
}

fn refuse(error: ApiError) -> Status {
    to_status(&error)
}

#[tonic::async_trait]
impl ControllerService for ControllerHandler {
    type ControlStream = BoxStream<'static, Result<v1::ControlResponse, Status>>;
    type WatchMetadataStream = BoxStream<'static, Result<v1::WatchMetadataResponse, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        Ok(Response::new(control::serve(
            self.clone(),
            request.into_inner(),
        )))
    }

    async fn watch_metadata(
        &self,
        request: Request<v1::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let stream = watch::serve(self, request.into_inner()).map_err(refuse)?;
        Ok(Response::new(stream))
    }

    async fn alter_partitions(
        &self,
        request: Request<v1::AlterPartitionsRequest>,
    ) -> Result<Response<v1::AlterPartitionsResponse>, Status> {
        let request = convert::alter_partitions(request.into_inner()).map_err(refuse)?;
        let decided = self.decide_by(request, DECISION_TIMEOUT).await;
        let decided = decided.map_err(refuse)?;
        let response = convert::partitions_altered(decided.reply).map_err(refuse)?;
        Ok(Response::new(response))
    }

    async fn report_damage(
        &self,
        request: Request<v1::ReportDamageRequest>,
    ) -> Result<Response<v1::ReportDamageResponse>, Status> {
        let request = convert::report_damage(request.into_inner()).map_err(refuse)?;
        let decided = self.decide_by(request, DECISION_TIMEOUT).await;
        let decided = decided.map_err(refuse)?;
        convert::done(decided.reply).map_err(refuse)?;
        Ok(Response::new(v1::ReportDamageResponse {
            metadata_offset: decided.offset.0,
        }))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<v1::AllocateProducerIdsRequest>,
    ) -> Result<Response<v1::AllocateProducerIdsResponse>, Status> {
        let request = convert::allocate_producer_ids(request.into_inner());
        let decided = self.decide_by(request, DECISION_TIMEOUT).await;
        let decided = decided.map_err(refuse)?;
        let response = convert::producer_ids(decided.reply).map_err(refuse)?;
        Ok(Response::new(response))
    }

    async fn decide(
        &self,
        request: Request<v1::DecideRequest>,
    ) -> Result<Response<v1::DecideResponse>, Status> {
        let response = decide::serve(self, request.into_inner()).await;
        response.map(Response::new).map_err(refuse)
    }

    async fn inspect_quorum(
        &self,
        _request: Request<v1::InspectQuorumRequest>,
    ) -> Result<Response<v1::InspectQuorumResponse>, Status> {
        inspect::serve(self).map(Response::new).map_err(refuse)
    }
}
