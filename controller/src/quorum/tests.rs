//! A quorum of one on a disk that forgets and fails.

use std::path::Path;

use openraft::vote::RaftLeaderId as _;
use ottla_log::{Disk, SimDisk};
use ottla_metadata::{ClusterCreated, Endpoint, MetadataBatch, MetadataRecord, TopicCreated};
use ottla_model::name::TopicName;
use ottla_model::{ClusterId, DirectoryId, MetadataOffset, TimestampMs, TopicId};

use super::*;
use crate::config::{QuorumConfig, Voter};
use crate::dir_lock::DirLock;
use crate::error::{FatalError, StartError};
use crate::feed::Feed;
use crate::history::History;
use crate::identity::Identity;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a node has: a disk that outlives it, and a directory for what may be lost.
struct Node {
    disk: SimDisk,
    dir: tempfile::TempDir,
    snapshot_entries: u64,
    /// What the directory says that it belongs to.
    cluster: Option<ClusterId>,
}

/// A node that runs.
struct Running {
    quorum: Quorum,
    feed: Arc<Feed>,
    fatal: watch::Receiver<Option<FatalError>>,
}

impl Node {
    fn new() -> Node {
        Node {
            disk: SimDisk::new(),
            dir: tempfile::tempdir().unwrap(),
            snapshot_entries: 10,
            cluster: None,
        }
    }

    async fn start(&self) -> Running {
        self.try_start().await.unwrap()
    }

    /// A node that just ended lets go of its directory a moment later.
    fn lock(&self) -> DirLock {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match DirLock::take(self.dir.path()) {
                Ok(lock) => return lock,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        }
    }

    async fn try_start(&self) -> Result<Running, StartError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let dir = Path::new("/controller");
        disk.create_dir_all(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let directory = DirectoryId::from_random(1);
        let identity = Identity::open(Arc::clone(&disk), dir, NodeId(1), directory).unwrap();
        let (note, fatal) = watch::channel(None);
        let on_fatal: OnFatal = Arc::new(move |error| {
            note.send_replace(Some(error));
        });
        let feed = Arc::new(Feed::new(1 << 20));
        let mut config = QuorumConfig::new(vec![Voter {
            node_id: NodeId(1),
            internal_endpoint: Endpoint::new("127.0.0.1", 1),
        }]);
        config.log_file_bytes = 16 * 1024;
        config.snapshot_entries = self.snapshot_entries;
        if let Some(cluster) = self.cluster {
            identity.set_cluster_id(cluster).unwrap();
        }
        let quorum = Quorum::open(QuorumParts {
            disk,
            lock: self.lock(),
            dir: dir.to_owned(),
            guard: Arc::new(Guard::new(Arc::new(identity), on_fatal)),
            config,
            feed: Arc::clone(&feed),
            history: History::open(&self.dir.path().join("history"), i64::MAX),
            log_id_if_new: 3,
        });
        Ok(Running {
            quorum: quorum.await?,
            feed,
            fatal,
        })
    }
}

impl Running {
    async fn lead(&self) {
        let mut status = self.quorum.status();
        let leads = status.wait_for(|status| status.is_leader);
        tokio::time::timeout(PATIENCE, leads)
            .await
            .unwrap()
            .unwrap();
        // Its own first entry, and with it everything before, is applied.
        let term = self.quorum.status().borrow().term;
        let mut current = self.feed.subscribe();
        let applied = current.wait_for(|now| now.applied.is_some_and(|at| at.term == term));
        tokio::time::timeout(PATIENCE, applied)
            .await
            .unwrap()
            .unwrap();
    }

    async fn propose(&self, record: MetadataRecord) -> Result<Applied, ProposeError> {
        let batch = MetadataBatch {
            base_offset: self.feed.current().image.offset,
            records: vec![record],
            wall_ms: TimestampMs(0),
        };
        self.quorum.propose(batch.encode()).await
    }
}

fn found() -> MetadataRecord {
    let cluster_id = ClusterId::from_random(9);
    ClusterCreated { cluster_id }.into()
}

fn topic(number: u128) -> MetadataRecord {
    let topic = TopicId::from_random(number);
    let name = TopicName::new(format!("topic-{number}")).unwrap();
    TopicCreated { topic, name }.into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn what_was_committed_survives_any_crash() {
    let mut purged = 0;
    for seed in 0..12_u64 {
        let node = Node::new();
        let mut committed = 0;
        let mut number = 0;
        for life in 0..4 {
            let runtime = runtime();
            runtime.block_on(async {
                let running = node.start().await;
                running.lead().await;
                let offset = running.feed.current().image.offset.0;
                assert!(offset >= committed, "seed {seed} life {life}: {offset}");
                node.disk
                    .lose_power_after(40 + (seed * 37 + life * 11) % 200);
                loop {
                    number += 1;
                    match running.propose(topic(number)).await {
                        Ok(Applied::Replayed(end)) => committed = end.0,
                        Ok(other) => panic!("seed {seed}: {other:?}"),
                        Err(_) => break,
                    }
                }
                purged += u64::from(running.quorum.member.store.purged().is_some());
            });
            drop(runtime);
            wait_until_free(&node);
            node.disk.crash_keeping_some(seed * 7 + life);
        }
    }
    assert!(purged > 0, "no run went past a snapshot");
}

/// The writer's thread ends a moment after its last handle is gone.
fn wait_until_free(node: &Node) {
    let begun = std::time::Instant::now();
    while DirLock::take(node.dir.path()).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the directory stays taken");
        std::thread::yield_now();
    }
}

#[test]
fn an_entry_decided_on_a_stale_image_is_skipped() {
    runtime().block_on(async {
        let running = Node::new().start().await;
        running.lead().await;
        running.propose(found()).await.unwrap();
        let stale = MetadataBatch {
            base_offset: MetadataOffset::ZERO,
            records: vec![topic(1)],
            wall_ms: TimestampMs(0),
        };
        let applied = running.quorum.propose(stale.encode()).await.unwrap();
        assert_eq!(applied, Applied::Skipped);
        assert_eq!(running.feed.current().image.offset, MetadataOffset(1));
    });
}

#[test]
fn a_sync_that_fails_stops_the_node_with_the_reason() {
    runtime().block_on(async {
        let node = Node::new();
        let mut running = node.start().await;
        running.lead().await;
        running.propose(found()).await.unwrap();
        node.disk.fail_next_sync();
        let failed = running.propose(topic(1)).await.unwrap_err();
        assert!(matches!(failed, ProposeError::Stopped(_)), "{failed}");
        let fatal = running.fatal.wait_for(Option::is_some);
        let fatal = tokio::time::timeout(PATIENCE, fatal).await.unwrap();
        let fatal = fatal.unwrap().clone();
        assert!(matches!(fatal, Some(FatalError::Consensus(_))), "{fatal:?}");
        assert!(!running.quorum.status().borrow().is_leader);
    });
}

/// A vote of a term that is far ahead, in the name of a controller, which no lease holds up.
fn vote_of(candidate: u64, term: u64) -> types::VoteRequest {
    let leader = openraft::impls::leader_id_std::LeaderId::new(term, candidate);
    types::VoteRequest {
        vote: types::Vote {
            leader_id: leader,
            committed: false,
        },
        last_log_id: None,
        leadership_transfer: true,
    }
}

#[test]
fn a_damaged_or_false_vote_under_a_good_envelope_changes_no_term() {
    use ottla_proto::v1::raft_service_server::RaftService as _;
    runtime().block_on(async {
        let node = Node::new();
        let running = node.start().await;
        running.lead().await;
        let before = running.quorum.status().borrow().term;
        let handler = running.quorum.handler();
        let good = wire::encode(&vote_of(1, 70)).unwrap();
        let mut bodies = vec![
            bytes::Bytes::new(),
            bytes::Bytes::from(postcard::to_stdvec(&vote_of(1, 70)).unwrap()),
            [&good[..], &[0]].concat().into(),
            wire::encode(&(vote_of(1, 70), 7u8)).unwrap(),
            wire::encode(&vote_of(2, 70)).unwrap(),
            wire::encode(&vote_of(1, u64::MAX)).unwrap(),
        ];
        bodies.extend((0..good.len()).map(|end| good.slice(..end)));
        bodies.extend((0..good.len() * 8).map(|bit| {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped.into()
        }));
        for body in bodies {
            let request = ottla_proto::v1::VoteRequest {
                envelope: Some(running.quorum.member.guard.envelope(NodeId(1))),
                body: body.clone(),
            };
            let refused = handler.vote(tonic::Request::new(request)).await;
            let status = refused.expect_err("a refusal");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{body:?}");
            assert_eq!(running.quorum.status().borrow().term, before, "{body:?}");
        }
        running.quorum.shutdown().await;
    });
}

#[test]
fn a_voter_alone_leads_on_without_anything_to_do() {
    runtime().block_on(async {
        let node = Node::new();
        let running = node.start().await;
        running.lead().await;
        let mut status = running.quorum.status();
        let lost = status.wait_for(|status| !status.is_leader);
        // Longer than a leader counts as one that no majority answers.
        let lost = tokio::time::timeout(Duration::from_millis(2_000), lost).await;
        assert!(lost.is_err(), "{lost:?}");
        running.quorum.shutdown().await;
    });
}

#[test]
fn a_controller_of_a_cluster_that_lost_its_log_does_not_begin_anew() {
    let mut node = Node::new();
    runtime().block_on(async {
        let running = node.start().await;
        running.lead().await;
        running.quorum.shutdown().await;
    });
    node.cluster = Some(ClusterId::from_random(9));
    runtime().block_on(async {
        node.start().await.quorum.shutdown().await;
    });
    let log = Path::new("/controller/log");
    node.disk.remove_dir_all(log).unwrap();
    runtime().block_on(async {
        let refused = node.try_start().await.err().expect("a refusal");
        let refused = refused.to_string();
        assert!(
            refused.contains("/controller/log") && refused.contains("restore"),
            "{refused}"
        );
    });
}
