//! The services of a fake node.

use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use futures::Stream;
use ottla_model::ErrorCode;
use ottla_model::batch::BatchHeader;
use ottla_model::error::ApiError;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use ottla_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use ottla_proto::v1::log_service_server::{LogService, LogServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Fault, Partition, Shared};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Node {
    id: i32,
    shared: Shared,
}

pub(super) async fn serve(id: i32, shared: Shared, listener: std::net::TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
    let node = Node { id, shared };
    tonic::transport::Server::builder()
        .add_service(LogServiceServer::new(node.clone()).max_decoding_message_size(1 << 24))
        .add_service(ClusterServiceServer::new(node.clone()))
        .add_service(AdminServiceServer::new(node))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

/// `None`: the stream must break.
type Appended = Option<Result<i64, v1::Error>>;

impl Node {
    /// Finds the partition, if this node leads it.
    fn led<T>(
        &self,
        at: &v1::TopicPartition,
        use_it: impl FnOnce(&mut Partition) -> T,
    ) -> Result<T, v1::Error> {
        let refuse = |code| v1::Error::from(&ApiError::new(code, "the fake refuses"));
        let mut state = self.shared.state.lock();
        let found = state
            .topics
            .values_mut()
            .find(|t| t.id.as_bytes()[..] == at.topic_id[..]);
        let partition = found
            .and_then(|topic| topic.partitions.get_mut(at.partition as usize))
            .ok_or_else(|| refuse(ErrorCode::UnknownTopicId))?;
        if partition.leader != self.id {
            return Err(refuse(ErrorCode::NotLeaderOrFollower));
        }
        Ok(use_it(partition))
    }

    fn append(&self, request: &v1::ProducePartition) -> Appended {
        let refuse = |code| Err(v1::Error::from(&ApiError::new(code, "injected")));
        let at = request.partition.as_ref().unwrap();
        let appended = self.led(at, |partition| {
            let fault = partition.faults.pop_front();
            match fault {
                Some(Fault::Refuse(code)) => return Some(refuse(code)),
                Some(Fault::Ignore) => return None,
                _ => {}
            }
            let base = match partition.append(&request.batch) {
                Ok(base) => base,
                Err(code) => return Some(refuse(code)),
            };
            match fault {
                Some(Fault::AppendAndRefuse(code)) => Some(refuse(code)),
                Some(Fault::AppendAndBreak) => Some(Ok(-1)),
                _ => Some(Ok(base)),
            }
        });
        match appended {
            Ok(Some(result)) => Some(result),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn produce_all(
        &self,
        mut requests: Streaming<v1::ProduceRequest>,
        replies: mpsc::Sender<Result<v1::ProduceResponse, Status>>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            let mut results = Vec::new();
            let mut ignored = false;
            for partition in &request.partitions {
                let (base_offset, error) = match self.append(partition) {
                    // -1 stands for a break after the append.
                    Some(Ok(-1)) => return,
                    Some(Ok(base)) => (base, None),
                    Some(Err(error)) => (-1, Some(error)),
                    None => {
                        ignored = true;
                        continue;
                    }
                };
                results.push(v1::ProduceResult {
                    partition: partition.partition.clone(),
                    error,
                    base_offset,
                    ..v1::ProduceResult::default()
                });
            }
            self.shared.change(|_| ());
            let request_id = request.request_id;
            let response = v1::ProduceResponse {
                request_id,
                results,
            };
            if !ignored && replies.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }

    async fn fetch(&self, request: v1::FetchRequest) -> v1::FetchResponse {
        let mut changes = self.shared.changes.subscribe();
        let wait = Duration::from_millis(u64::from(request.max_wait_ms));
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let all = request.partitions.iter();
            let results: Vec<_> = all.filter_map(|partition| self.read(partition)).collect();
            let waited = tokio::time::timeout_at(deadline, changes.changed());
            if !results.is_empty() || waited.await.is_err() {
                return v1::FetchResponse {
                    request_id: request.request_id,
                    results,
                };
            }
        }
    }

    fn read(&self, request: &v1::FetchPartition) -> Option<v1::FetchResult> {
        let at = request.partition.as_ref().unwrap();
        let mut result = v1::FetchResult {
            partition: request.partition.clone(),
            ..v1::FetchResult::default()
        };
        let read = self.led(at, |partition| {
            let mut batches = BytesMut::new();
            for batch in &partition.batches {
                let header = BatchHeader::decode(batch).unwrap();
                let small = batches.len() + batch.len() <= request.max_bytes as usize;
                if header.next_offset().0 <= request.offset {
                    continue;
                }
                if !batches.is_empty() && !small {
                    break;
                }
                batches.extend_from_slice(batch);
            }
            (partition.log_start, partition.end(), batches.freeze())
        });
        match read {
            Ok((start, end, batches)) => {
                (result.log_start_offset, result.high_watermark) = (start, end);
                if request.offset < start || request.offset > end {
                    let error = ApiError::new(ErrorCode::OffsetOutOfRange, "out of range");
                    result.error = Some(v1::Error::from(&error));
                } else if batches.is_empty() {
                    return None;
                }
                result.batches = batches;
            }
            Err(error) => result.error = Some(error),
        }
        Some(result)
    }

    fn list(&self, request: v1::ListOffsetsPartition) -> v1::ListOffsetsResult {
        use v1::list_offsets_partition::Position;
        let at = request.partition.clone().unwrap();
        let found = self.led(&at, |partition| match request.position {
            Some(Position::Earliest(_)) => Some(partition.log_start),
            Some(Position::TimestampMs(time)) => {
                let headers = partition
                    .batches
                    .iter()
                    .map(|b| BatchHeader::decode(b).unwrap());
                let mut at_or_after = headers.filter(|header| header.max_timestamp.0 >= time);
                at_or_after.next().map(|header| header.base_offset.0)
            }
            _ => Some(partition.end()),
        });
        let mut result = v1::ListOffsetsResult {
            partition: request.partition,
            ..v1::ListOffsetsResult::default()
        };
        match found {
            Ok(offset) => result.offset = offset,
            Err(error) => result.error = Some(error),
        }
        result
    }
}

#[tonic::async_trait]
impl LogService for Node {
    type ProduceStream = Replies<v1::ProduceResponse>;
    type FetchStream = Replies<v1::FetchResponse>;
    type SubscribeStream = Replies<v1::SubscribeResponse>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let (replies, receiver) = mpsc::channel(64);
        let (node, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move { node.produce_all(requests, replies).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (replies, receiver) = mpsc::channel(64);
        let (node, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let (node, replies) = (node.clone(), replies.clone());
                tokio::spawn(async move {
                    let response = node.fetch(request).await;
                    let _ = replies.send(Ok(response)).await;
                });
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_once(
        &self,
        _: Request<v1::FetchOnceRequest>,
    ) -> Result<Response<v1::FetchOnceResponse>, Status> {
        Err(Status::unimplemented("not part of the fake"))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let asked = request.into_inner().partitions.into_iter();
        let results = asked.map(|partition| self.list(partition)).collect();
        Ok(Response::new(v1::ListOffsetsResponse { results }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let asked = request.into_inner().partitions.into_iter();
        let results = asked.map(|part| v1::DeleteRecordsResult {
            partition: part.partition,
            error: None,
            low_watermark: part.before_offset,
        });
        Ok(Response::new(v1::DeleteRecordsResponse {
            results: results.collect(),
        }))
    }

    async fn publish(
        &self,
        _: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("not part of the fake"))
    }

    async fn subscribe(
        &self,
        _: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("not part of the fake"))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        let mut state = self.shared.state.lock();
        state.producer_ids += 1;
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id: state.producer_ids,
            producer_epoch: 0,
        }))
    }
}

#[tonic::async_trait]
impl ClusterService for Node {
    type WatchClusterStream = Replies<v1::WatchClusterResponse>;

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let cluster = Some(self.shared.view());
        Ok(Response::new(v1::DescribeClusterResponse { cluster }))
    }

    async fn watch_cluster(
        &self,
        _: Request<v1::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let (replies, receiver) = mpsc::channel(64);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let mut changes = shared.changes.subscribe();
            loop {
                let response = v1::WatchClusterResponse {
                    change: Some(shared.view()),
                    deleted_topic_ids: Vec::new(),
                };
                if replies.send(Ok(response)).await.is_err() || changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

macro_rules! not_part_of_the_fake {
    ($($name:ident: $request:ident -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl AdminService for Node {
            async fn describe_topic(
                &self,
                request: Request<v1::DescribeTopicRequest>,
            ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
                let name = request.into_inner().name;
                let view = self.shared.view();
                let topic = view.topics.into_iter().find(|topic| topic.name == name);
                let unknown = ApiError::new(ErrorCode::UnknownTopicOrPartition, "no such topic");
                let topic = topic.ok_or_else(|| to_status(&unknown))?;
                let configs = Vec::new();
                Ok(Response::new(v1::DescribeTopicResponse { topic: Some(topic), configs }))
            }

            $(async fn $name(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented("not part of the fake"))
            })*
        }
    };
}

not_part_of_the_fake! {
    create_topic: CreateTopicRequest -> CreateTopicResponse;
    list_topics: ListTopicsRequest -> ListTopicsResponse;
    alter_topic: AlterTopicRequest -> AlterTopicResponse;
    create_partitions: CreatePartitionsRequest -> CreatePartitionsResponse;
    delete_topic: DeleteTopicRequest -> DeleteTopicResponse;
    describe_broker: DescribeBrokerRequest -> DescribeBrokerResponse;
    elect_leaders: ElectLeadersRequest -> ElectLeadersResponse;
    unregister_broker: UnregisterBrokerRequest -> UnregisterBrokerResponse;
    describe_quorum: DescribeQuorumRequest -> DescribeQuorumResponse;
}
