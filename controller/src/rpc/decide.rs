//! `Decide`: an admin call that a broker forwards. Refusals of the request itself are part of the
//! answer; that this controller is not the one to ask is a status, so that the broker asks another.

use std::time::Duration;

use ottla_controller_core::{Reply, Request};
use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use ottla_proto::v1;
use ottla_proto::v1::decide_request::Request as Wire;
use ottla_proto::v1::decide_response::Response as Answer;

use super::{ControllerHandler, DECISION_TIMEOUT, convert};
use crate::active::not_active;

type MakeAnswer = Box<dyn FnOnce(Reply) -> Result<Answer, ApiError> + Send>;

pub async fn serve(
    handler: &ControllerHandler,
    request: v1::DecideRequest,
) -> Result<v1::DecideResponse, ApiError> {
    let v1::DecideRequest {
        timeout_ms,
        request,
    } = request;
    let status = *handler.decisions.status().borrow();
    if !status.is_leader {
        return Err(not_active(status));
    }
    let timeout = match timeout_ms {
        0 => DECISION_TIMEOUT,
        millis => Duration::from_millis(u64::from(millis)),
    };
    let decided = match convert(handler, request) {
        Ok((request, make)) => {
            let decided = handler.decide_by(request, timeout).await;
            decided.and_then(|decided| Ok((make(decided.reply)?, decided.offset)))
        }
        Err(error) => Err(error),
    };
    match decided {
        Ok((answer, offset)) => Ok(v1::DecideResponse {
            metadata_offset: offset.0,
            response: Some(answer),
        }),
        Err(error) if is_of_the_controller(error.code) => Err(error),
        Err(error) => Ok(v1::DecideResponse {
            metadata_offset: handler.feed.current().image.offset.0,
            response: Some(Answer::Error((&error).into())),
        }),
    }
}

/// Whether an error speaks of this controller rather than of the request.
fn is_of_the_controller(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotController
            | ErrorCode::NoControllerQuorum
            | ErrorCode::NodeShuttingDown
            | ErrorCode::ThrottlingQuotaExceeded
    )
}

fn convert(
    handler: &ControllerHandler,
    request: Option<Wire>,
) -> Result<(Request, MakeAnswer), ApiError> {
    Ok(match request {
        Some(Wire::CreateTopic(wire)) => {
            let name = wire.name.clone();
            let make: MakeAnswer =
                Box::new(|reply| convert::topic_created(reply, name).map(Answer::CreateTopic));
            (convert::create_topic(wire)?, make)
        }
        Some(Wire::AlterTopic(wire)) => {
            let answer = Answer::AlterTopic(v1::AlterTopicResponse {});
            let make = Box::new(|reply| convert::done(reply).map(|()| answer));
            (convert::alter_topic(wire)?, make)
        }
        Some(Wire::CreatePartitions(wire)) => {
            let answer = Answer::CreatePartitions(v1::CreatePartitionsResponse {});
            let make = Box::new(|reply| convert::done(reply).map(|()| answer));
            (convert::create_partitions(wire)?, make)
        }
        Some(Wire::DeleteTopic(wire)) => {
            let make = Box::new(|reply| convert::topic_deleted(reply).map(Answer::DeleteTopic));
            (convert::delete_topic(wire)?, make)
        }
        Some(Wire::UnregisterBroker(wire)) => {
            let answer = Answer::UnregisterBroker(v1::UnregisterBrokerResponse {});
            let make = Box::new(|reply| convert::done(reply).map(|()| answer));
            (convert::unregister_broker(wire)?, make)
        }
        Some(Wire::ElectLeaders(wire)) => {
            let image = handler.feed.current().image;
            let make = Box::new(|reply| convert::elected(reply).map(Answer::ElectLeaders));
            (convert::elect_leaders(wire, &image)?, make)
        }
        None => {
            let message = "the request names nothing to decide";
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("request"));
        }
    })
}
