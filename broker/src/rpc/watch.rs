//! `WatchCluster`: everything asked for, then what changed. What is told is encoded once for all
//! who are told the same, and who does not take it is told nothing else meanwhile: the next message
//! says at once all that changed since. Whoever falls too far behind has to begin again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::MetadataImage;
use ottla_model::error::ApiError;
use ottla_model::limits::{WATCHES_MAX, WATCHES_PER_HOST_MAX};
use ottla_model::{ErrorCode, MetadataOffset, NodeId, TopicId};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_shell::Connection;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_stream::Stream;
use tonic::Status;

use super::cluster::all_topics;
use super::held_body::{Held, encoded};
use super::unread::{CallBudget, Host, UnreadRoom, host};
use super::view;
use crate::broker::Broker;
use crate::image::ImageChange;

/// Who watches this broker's view of the cluster, and what they are told.
pub struct Watches {
    room: Arc<UnreadRoom>,
    seats: Mutex<Seats>,
    /// Messages of all topics, which all clients share.
    of_all: Mutex<VecDeque<Kept>>,
    /// Messages of those topics that somebody named.
    of_named: Mutex<VecDeque<Kept>>,
    /// Whose turn it is to encode. Thousands who do so at once would leave the connections' threads
    /// no time for anybody else.
    turn: Semaphore,
}

/// How many watch, in all and of each host.
#[derive(Default)]
struct Seats {
    taken: usize,
    by_host: BTreeMap<Option<Host>, usize>,
}

/// How many of the last messages are kept of each kind.
const KEPT_MAX: usize = 4;

/// A message that was encoded, and what it says.
struct Kept {
    wanted: Vec<String>,
    offset: MetadataOffset,
    active_controller: Option<NodeId>,
    news: News,
    message: Bytes,
}

/// What somebody who watches was not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum News {
    Everything,
    /// These topics, beside what is said of the cluster each time.
    Of {
        changed: BTreeSet<TopicId>,
        deleted: BTreeSet<TopicId>,
    },
}

impl News {
    fn of_cluster() -> News {
        News::Of {
            changed: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn add(&mut self, change: &ImageChange) {
        let Some(delta) = &change.delta else {
            *self = News::Everything;
            return;
        };
        if let News::Of { changed, deleted } = self {
            changed.extend(delta.changed_topics());
            changed.extend(delta.changed_partitions().iter().map(|id| id.topic));
            deleted.extend(delta.deleted_topics().keys());
        }
    }
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            room: Arc::new(UnreadRoom::of_views()),
            seats: Mutex::default(),
            of_all: Mutex::default(),
            of_named: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Watches {
    /// Lets somebody on this connection watch, unless too many do.
    pub fn enter(self: &Arc<Self>, connection: Option<&Connection>) -> Result<Seat, ApiError> {
        let host = connection.and_then(Connection::peer).map(host);
        let mut seats = self.seats.lock();
        let here = seats.by_host.get(&host).copied().unwrap_or_default();
        if seats.taken >= WATCHES_MAX || here >= WATCHES_PER_HOST_MAX {
            let message = format!(
                "{} streams watch the cluster through this broker, {here} of them from this host; \
                 at most {WATCHES_MAX} may, and {WATCHES_PER_HOST_MAX} of one host: watch once for \
                 each process",
                seats.taken
            );
            return Err(ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message));
        }
        seats.taken += 1;
        seats.by_host.insert(host, here + 1);
        Ok(Seat {
            watches: Arc::clone(self),
            budget: CallBudget::of_messages(&self.room, connection),
            host,
        })
    }

    /// The message with this news. Those who watch the same topics share it.
    async fn message(&self, broker: &Broker, wanted: &[String], news: &News) -> Bytes {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        let image = broker.image.current();
        let active_controller = broker.image.active_controller();
        let kept = match wanted.is_empty() {
            true => &self.of_all,
            false => &self.of_named,
        };
        let mut kept = kept.lock();
        let says_so = |kept: &&Kept| {
            kept.offset == image.offset
                && kept.active_controller == active_controller
                && kept.wanted == wanted
                && kept.news == *news
        };
        if let Some(known) = kept.iter().find(says_so) {
            return known.message.clone();
        }
        let message = encoded(&response(broker, &image, wanted, news));
        kept.truncate(KEPT_MAX - 1);
        kept.push_front(Kept {
            wanted: wanted.to_vec(),
            offset: image.offset,
            active_controller,
            news: news.clone(),
            message: message.clone(),
        });
        message
    }
}

/// One of those who watch, until dropped.
pub struct Seat {
    watches: Arc<Watches>,
    budget: CallBudget,
    host: Option<Host>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.watches.seats.lock();
        seats.taken -= 1;
        if let Some(here) = seats.by_host.get_mut(&self.host) {
            *here -= 1;
            if *here == 0 {
                seats.by_host.remove(&self.host);
            }
        }
    }
}

/// What is told to one who watches these topics.
pub fn watch(
    broker: Arc<Broker>,
    seat: Seat,
    held: Held,
    wanted: Vec<String>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    async_stream::stream! {
        let mut changes = broker.image.subscribe();
        let mut active = broker.image.watch_active_controller();
        let mut news = News::Everything;
        loop {
            let watches = &seat.watches;
            // Not held while there is no room for it; it is kept for all who want the same.
            let bytes = watches.message(&broker, &wanted, &news).await.len();
            let mut unread = match seat.budget.reserve_message(bytes).await {
                Ok(unread) => unread,
                // Nothing is lost by waiting on: what comes is newer.
                Err(error) if error.code.is_retriable() => continue,
                Err(error) => {
                    yield Err(to_status(&error));
                    return;
                }
            };
            if let Err(error) = drain(&mut changes, &mut news) {
                yield Err(to_status(&error));
                return;
            }
            let message = watches.message(&broker, &wanted, &news).await;
            unread.answer(message.len());
            held.hold(unread);
            yield Ok(message);
            news = News::of_cluster();
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => news.add(&change),
                    Err(RecvError::Lagged(_)) => {
                        yield Err(to_status(&fell_behind()));
                        return;
                    }
                    Err(RecvError::Closed) => return,
                },
                changed = active.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Adds the changes that came meanwhile.
fn drain(changes: &mut Receiver<ImageChange>, news: &mut News) -> Result<(), ApiError> {
    loop {
        match changes.try_recv() {
            Ok(change) => news.add(&change),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            Err(TryRecvError::Lagged(_)) => return Err(fell_behind()),
        }
    }
}

fn fell_behind() -> ApiError {
    let message = "the cluster changed more often than what was told of it was taken; watch again \
                   from the beginning";
    ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message)
}

/// A message with this news, as the image has it. It may be newer than the last change that was
/// heard of, which is then told once more.
fn response(
    broker: &Broker,
    image: &MetadataImage,
    wanted: &[String],
    news: &News,
) -> v1::WatchClusterResponse {
    let (topics, deleted_topic_ids) = match news {
        News::Everything => (all_topics(image, wanted), Vec::new()),
        News::Of { changed, deleted } => {
            let topics = changed.iter().filter_map(|id| image.topic(*id));
            let topics = topics.filter(|topic| view::is_wanted(wanted, &topic.name));
            let id = |id: &TopicId| Bytes::copy_from_slice(id.as_bytes());
            (
                topics.map(|topic| view::topic(image, topic)).collect(),
                deleted.iter().map(id).collect(),
            )
        }
    };
    v1::WatchClusterResponse {
        change: Some(v1::ClusterView {
            topics,
            ..view::cluster(broker, image)
        }),
        deleted_topic_ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_watch_of_a_host_and_whoever_leaves_makes_room() {
        let watches = Arc::new(Watches::default());
        let connection =
            |address: &str| Connection::new(Some(address.parse().expect("an address")));
        let (greedy, other) = (connection("192.0.2.1"), connection("192.0.2.2"));
        let enter = |connection| watches.enter(Some(connection));
        let mut seats: Vec<_> = (0..WATCHES_PER_HOST_MAX)
            .map(|_| enter(&greedy).expect("a seat"))
            .collect();
        let refused = enter(&greedy).err().expect("too many");
        assert_eq!(refused.code, ErrorCode::ThrottlingQuotaExceeded);
        assert!(enter(&other).is_ok());
        seats.pop();
        assert!(enter(&greedy).is_ok());
        drop(seats);
        assert!(watches.seats.lock().by_host.is_empty());
        assert_eq!(watches.seats.lock().taken, 0);
    }

    #[test]
    fn changes_that_were_not_told_become_one_and_a_snapshot_outdoes_them() {
        let image = Arc::new(MetadataImage::default());
        let mut news = News::of_cluster();
        news.add(&ImageChange {
            image: Arc::clone(&image),
            delta: None,
        });
        assert_eq!(news, News::Everything);
        let delta = Some(Arc::new(ottla_metadata::MetadataDelta::new(Arc::clone(
            &image,
        ))));
        news.add(&ImageChange { image, delta });
        assert_eq!(news, News::Everything);
    }
}
