use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use ottla_proto::v1::controller_service_server::{ControllerService, ControllerServiceServer};
use tonic::{Request, Response};

use super::*;
use crate::fixture::config;
use crate::identity::BrokerIdentity;

const GRANTED: BrokerEpoch = BrokerEpoch(41);

/// What a controller saw of a broker: the last epoch that it stated, and what its directory said of
/// that when it beat first.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    stated: Option<i64>,
    on_disk: Option<BrokerEpoch>,
}

/// A controller that grants one epoch and looks into the broker's directory.
struct FakeController {
    dir: PathBuf,
    seen: mpsc::Sender<Seen>,
}

fn granted(response: Hear) -> Result<v1::ControlResponse, Status> {
    Ok(v1::ControlResponse {
        message: Some(response),
    })
}

fn on_disk(dir: &Path) -> Option<BrokerEpoch> {
    let identity = BrokerIdentity::open(dir, NodeId(1), 0).expect("an identity");
    identity.last_broker_epoch
}

macro_rules! not_part_of_the_fake {
    ($($name:ident: $request:ident -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl ControllerService for FakeController {
            type ControlStream = BoxStream<'static, Result<v1::ControlResponse, Status>>;
            type WatchMetadataStream =
                BoxStream<'static, Result<v1::WatchMetadataResponse, Status>>;

            async fn control(
                &self,
                request: Request<Streaming<v1::ControlRequest>>,
            ) -> Result<Response<Self::ControlStream>, Status> {
                let mut messages = request.into_inner();
                let first = messages.message().await?.and_then(|it| it.message);
                let Some(Say::Registration(registration)) = first else {
                    return Err(Status::invalid_argument("no registration"));
                };
                let (dir, seen) = (self.dir.clone(), self.seen.clone());
                let answer = granted(Hear::Registered(v1::Registered {
                    broker_epoch: GRANTED.0,
                    beat_interval_ms: 10,
                    session_timeout_ms: 60_000,
                }));
                let look = async move {
                    let _first_beat = messages.message().await;
                    let stated = registration.last_broker_epoch;
                    // Whoever asked may have seen enough.
                    let _ = seen.send(Seen { stated, on_disk: on_disk(&dir) }).await;
                    Err(Status::unavailable("gone"))
                };
                let answers = stream::iter([answer]).chain(stream::once(look));
                Ok(Response::new(answers.boxed()))
            }

            async fn watch_metadata(
                &self,
                _: Request<v1::WatchMetadataRequest>,
            ) -> Result<Response<Self::WatchMetadataStream>, Status> {
                Err(Status::unimplemented("not part of the fake"))
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
    alter_partitions: AlterPartitionsRequest -> AlterPartitionsResponse;
    report_damage: ReportDamageRequest -> ReportDamageResponse;
    allocate_producer_ids: AllocateProducerIdsRequest -> AllocateProducerIdsResponse;
    decide: DecideRequest -> DecideResponse;
    inspect_quorum: InspectQuorumRequest -> InspectQuorumResponse;
}

async fn listen(controller: FakeController) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("an address");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = ControllerServiceServer::new(controller);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

#[tokio::test]
async fn an_epoch_is_on_disk_before_the_first_beat_and_stated_when_the_broker_registers_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = BrokerIdentity::open(dir.path(), NodeId(1), 7).expect("an identity");
    let (sender, mut seen) = mpsc::channel(1);
    let controller = FakeController {
        dir: dir.path().to_owned(),
        seen: sender,
    };
    let config = config(dir.path(), identity.clone(), listen(controller).await);
    let image = Arc::new(ImageStore::open(dir.path(), identity));
    let controllers = Controllers::new(config.controllers.clone(), Arc::clone(&image));
    let registration = Arc::new(Registration::new(config, None));
    registration.set_ready();
    let running = tokio::spawn(registration.run(Arc::new(controllers), image, Arc::new(|_| {})));
    let within = Duration::from_secs(30);
    let first = timeout(within, seen.recv()).await.expect("a registration");
    let on_disk = Some(GRANTED);
    assert_eq!(
        first,
        Some(Seen {
            stated: None,
            on_disk
        })
    );
    let again = timeout(within, seen.recv()).await.expect("another");
    let stated = Some(GRANTED.0);
    assert_eq!(again, Some(Seen { stated, on_disk }));
    running.abort();
}
