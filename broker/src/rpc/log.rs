//! `LogService`: the dispatch to the calls' own files.

use std::pin::Pin;
use std::time::Duration;

use ottla_proto::messages::Messages;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::log_service_server::LogService;
use ottla_shell::Connection;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::held_body::Held;
use super::unread::CallBudget;
use super::{delete_records, fetch, list_offsets, produce, publish, subscribe};
use crate::broker::{BrokerCell, time_left};

const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// The service over one broker.
#[derive(Clone)]
pub struct LogRpc(pub BrokerCell);

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl LogService for LogRpc {
    type ProduceStream = ResponseStream<v1::ProduceResponse>;
    type FetchStream = ResponseStream<v1::FetchResponse>;
    type SubscribeStream = ResponseStream<v1::SubscribeResponse>;

    async fn produce(
        &self,
        mut request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let broker = self.0.get()?.clone();
        let connection = request.extensions().get::<Connection>().cloned();
        let connection = connection.as_ref();
        let room = produce::Incoming::of(&broker, connection);
        let requests = Messages::of(&mut request, produce::LIMITS, room)?;
        let answers = produce::serve(broker, requests, connection);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let broker = self.0.get()?.clone();
        let connection = request.extensions().get::<Connection>().cloned();
        let held = Held::default();
        let fetched = fetch::serve(
            broker,
            connection.as_ref(),
            held.clone(),
            request.into_inner(),
        );
        let mut response: Response<Self::FetchStream> = Response::new(Box::pin(fetched));
        held.until_sent(&mut response);
        Ok(response)
    }

    async fn fetch_once(
        &self,
        request: Request<v1::FetchOnceRequest>,
    ) -> Result<Response<v1::FetchOnceResponse>, Status> {
        let broker = self.0.get()?;
        let connection = request.extensions().get::<Connection>();
        let budget = CallBudget::of_call(&broker.unread, connection);
        let fetch = request.into_inner().fetch.unwrap_or_default();
        let fetched = fetch::fetch(broker, &fetch, &budget).await?;
        let mut response = Response::new(v1::FetchOnceResponse {
            fetch: Some(fetched.response),
        });
        let held = Held::default();
        held.hold(fetched.unread);
        held.until_sent(&mut response);
        Ok(response)
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let broker = self.0.get()?;
        list_offsets::list_offsets(broker, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let broker = self.0.get()?;
        delete_records::delete_records(broker, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let broker = self.0.get()?;
        publish::publish(broker, request).await.map(Response::new)
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let broker = self.0.get()?.clone();
        let connection = request.extensions().get::<Connection>().cloned();
        let budget = CallBudget::of_stream(&broker.unread, connection.as_ref());
        let held = Held::default();
        let stream = subscribe::subscribe(broker, budget, held.clone(), request.into_inner())?;
        let mut response: Response<Self::SubscribeStream> = Response::new(Box::pin(stream));
        held.until_sent(&mut response);
        Ok(response)
    }

    async fn init_producer_id(
        &self,
        request: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        let broker = self.0.get()?;
        let patience = time_left(&request, DEFAULT_PATIENCE);
        let id = broker
            .producer_ids
            .next(patience)
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id: id.0,
            producer_epoch: 0,
        }))
    }
}
