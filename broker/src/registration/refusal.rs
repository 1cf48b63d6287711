//! What a broker does about the cluster's word that it will not have it.

use std::sync::Arc;
use std::time::Duration;

use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::node::Fatal;

/// How long what goes on is not told again.
const REPEAT_AFTER: Duration = Duration::from_secs(10);

/// Hears why the cluster will not have this broker.
pub type Refused = Arc<dyn Fn(&ApiError) + Send + Sync>;

/// Ends the broker where waiting does not help, and tells now and then what it waits for elsewhere.
pub fn what_to_do(fatal: Fatal) -> Refused {
    let told = NowAndThen::default();
    Arc::new(move |error| {
        if is_final(error) {
            fatal(format!("the cluster refuses this broker: {error}"));
        } else if error.code == ErrorCode::NodeStarting {
            // Every broker of a new cluster comes by here.
            tracing::info!(%error, "the registration waits for the cluster");
        } else if error.code != ErrorCode::NotController && told.may_tell() {
            tracing::warn!(%error, "the registration was refused; trying again");
        }
    })
}

/// Whether a refusal will not go away by waiting.
fn is_final(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::InconsistentClusterId | ErrorCode::InvalidRequest
    )
}

/// Lets somebody tell what goes on and on, now and then.
#[derive(Default)]
struct NowAndThen {
    last: Mutex<Option<Instant>>,
}

impl NowAndThen {
    fn may_tell(&self) -> bool {
        let mut last = self.last.lock();
        let may = last.is_none_or(|at| at.elapsed() >= REPEAT_AFTER);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
