//! What a client is told of the services: its own, and what the details of errors are made of.

use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Ask;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;

use super::node::Node;

/// The answer, or `None` if there is no such thing.
async fn ask(node: &Node, asked: Ask) -> Option<Answer> {
    let mut reflection = ServerReflectionClient::new(node.client());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(asked),
    };
    let stream = reflection
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    match stream.expect("a stream").into_inner().message().await {
        Ok(answer) => answer.expect("an answer").message_response,
        Err(status) => {
            assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
            None
        }
    }
}

#[tokio::test]
async fn clients_are_told_of_their_own_services_and_of_no_others() {
    let node = Node::start().await;
    let Some(Answer::ListServicesResponse(listed)) =
        ask(&node, Ask::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|service| &service.name[..])
        .collect();
    let ours: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("ottla."))
        .collect();
    let expected = [
        "ottla.v1.AdminService",
        "ottla.v1.ClusterService",
        "ottla.v1.LogService",
    ];
    assert_eq!(ours.len(), expected.len(), "{names:?}");
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "{names:?}"
    );

    for hidden in [
        "ottla.v1.RaftService",
        "ottla.v1.ReplicateRequest",
        "ottla.v1.BeatReply",
    ] {
        let answer = ask(&node, Ask::FileContainingSymbol(hidden.to_owned())).await;
        assert!(answer.is_none(), "{hidden}: {answer:?}");
    }
}

#[tokio::test]
async fn clients_can_read_the_details_of_errors() {
    let node = Node::start().await;
    let symbols = [
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.Status",
    ];
    for symbol in symbols
        .into_iter()
        .chain(["ottla.v1.Error", "ottla.v1.ProduceRequest"])
    {
        let answer = ask(&node, Ask::FileContainingSymbol(symbol.to_owned())).await;
        assert!(
            matches!(answer, Some(Answer::FileDescriptorResponse(_))),
            "{symbol}: {answer:?}"
        );
    }
    // Whatever those files import.
    for file in [
        "google/protobuf/any.proto",
        "google/protobuf/duration.proto",
    ] {
        let answer = ask(&node, Ask::FileByFilename(file.to_owned())).await;
        assert!(
            matches!(answer, Some(Answer::FileDescriptorResponse(_))),
            "{file}: {answer:?}"
        );
    }
}
