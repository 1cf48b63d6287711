//! Producer ids, taken from the controller a block at a time and one block ahead, so that
//! producers can start while no controller answers.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, ProducerId};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::controllers::Controllers;
use crate::registration::Registration;

/// How long one request for a block may take before it is made again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The ids that this broker may give out.
pub struct ProducerIds {
    stock: Mutex<Stock>,
    /// Something was taken: see whether a block is needed.
    taken: Notify,
    /// A block came.
    filled: Notify,
}

/// What is left of the current block, and the whole block after it. Ends are exclusive.
#[derive(Debug, Default)]
struct Stock {
    next: i64,
    end: i64,
    spare: Option<(i64, i64)>,
}

impl Stock {
    fn take(&mut self) -> Option<ProducerId> {
        if self.next >= self.end {
            (self.next, self.end) = self.spare.take()?;
        }
        self.next += 1;
        Some(ProducerId(self.next - 1))
    }

    fn add(&mut self, block: (i64, i64)) {
        if self.next >= self.end {
            (self.next, self.end) = block;
        } else {
            self.spare = Some(block);
        }
    }
}

impl ProducerIds {
    pub fn new() -> ProducerIds {
        ProducerIds {
            stock: Mutex::new(Stock::default()),
            taken: Notify::new(),
            filled: Notify::new(),
        }
    }

    /// An id that nobody else gets; waits for a block if there is none.
    pub async fn next(&self, patience: Duration) -> Result<ProducerId, ApiError> {
        let deadline = Instant::now() + patience;
        loop {
            let filled = self.filled.notified();
            if let Some(id) = self.stock.lock().take() {
                self.taken.notify_one();
                return Ok(id);
            }
            if timeout_at(deadline, filled).await.is_err() {
                let message = "there is no controller quorum to take producer ids from, and this \
                               broker has none left";
                return Err(ApiError::new(ErrorCode::NoControllerQuorum, message));
            }
        }
    }

    /// Keeps a block ahead, for the life of the broker.
    pub async fn run(&self, controllers: Arc<Controllers>, registration: Arc<Registration>) {
        let mut standing = registration.standing();
        // Blocks are given to registered brokers only. The sender lives as long as this task.
        let _ = standing.wait_for(|standing| standing.epoch.is_some()).await;
        loop {
            if self.stock.lock().spare.is_some() {
                self.taken.notified().await;
                continue;
            }
            match fetch(&controllers, &registration).await {
                Ok(block) => {
                    self.stock.lock().add(block);
                    self.filled.notify_waiters();
                }
                Err(error) => {
                    tracing::debug!(%error, "no block of producer ids was given");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

async fn fetch(
    controllers: &Controllers,
    registration: &Registration,
) -> Result<(i64, i64), ApiError> {
    let request = v1::AllocateProducerIdsRequest {
        broker_id: registration.node_id().0,
        broker_epoch: registration.epoch().map_or(-1, |epoch| epoch.0),
    };
    let response = controllers
        .call(Instant::now() + FETCH_TIMEOUT, |mut client| async move {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_order_across_blocks_and_then_run_out() {
        let mut stock = Stock::default();
        assert_eq!(stock.take(), None);
        stock.add((10, 12));
        stock.add((20, 21));
        let taken: Vec<_> = std::iter::from_fn(|| stock.take()).collect();
        assert_eq!(taken, [10, 11, 20].map(ProducerId));
    }
}
