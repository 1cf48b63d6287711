//! Producer ids, taken from the controller a block at a time.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::ProducerId;
use ottla_model::error::ApiError;
use ottla_proto::v1;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::controllers::Controllers;
use crate::registration::Registration;

/// The ids that this broker may give out.
pub struct ProducerIds {
    controllers: Arc<Controllers>,
    registration: Arc<Registration>,
    /// Next and end of the current block. An async lock: one caller fetches, the others wait.
    block: Mutex<(i64, i64)>,
}

impl ProducerIds {
    pub fn new(controllers: Arc<Controllers>, registration: Arc<Registration>) -> ProducerIds {
        ProducerIds {
            controllers,
            registration,
            block: Mutex::new((0, 0)),
        }
    }

    /// An id that nobody else gets.
    pub async fn next(&self, patience: Duration) -> Result<ProducerId, ApiError> {
        let deadline = Instant::now() + patience;
        let mut block = self.block.lock().await;
        if block.0 >= block.1 {
            *block = self.fetch(deadline).await?;
        }
        block.0 += 1;
        Ok(ProducerId(block.0 - 1))
    }

    async fn fetch(&self, deadline: Instant) -> Result<(i64, i64), ApiError> {
        let request = v1::AllocateProducerIdsRequest {
            broker_id: self.registration.node_id().0,
            broker_epoch: self.registration.epoch().map_or(-1, |epoch| epoch.0),
        };
        let response = self
            .controllers
            .call(deadline, |mut client| async move {
                client
                    .allocate_producer_ids(request)
                    .await
                    .map(tonic::Response::into_inner)
            })
            .await?;
        Ok((
            response.first_producer_id,
            response.first_producer_id + response.count,
        ))
    }
}
