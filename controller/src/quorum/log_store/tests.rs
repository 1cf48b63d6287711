use openraft::entry::RaftEntry as _;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId as _;
use ottla_log::{Preparing, RealDisk, SimDisk};

use super::*;
use crate::feed::Feed;
use crate::history::History;
use crate::quorum::snapshot_file::SnapshotDir;
use crate::quorum::state_machine::{SinceSnapshot, StateMachine};
use crate::quorum::types::EntryData;

const DIR: &str = "/raft";

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>>
    {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let config = small_files();
        let store =
            LogStore::open(Arc::clone(&disk), None, &dir.path().join("log"), config).unwrap();
        let snapshots = SnapshotDir::open(disk, dir.path().join("snapshots")).unwrap();
        let feed = Arc::new(Feed::new(1 << 20));
        let history = History::open(&dir.path().join("history"), i64::MAX);
        let since = Arc::new(SinceSnapshot::new(u64::MAX, u64::MAX));
        let machine = StateMachine::open(snapshots, None, feed, history, since).unwrap();
        Ok((dir, store, machine))
    }
}

fn small_files() -> WalConfig {
    WalConfig {
        file_bytes: 64 * 1024,
        spare_files: 1,
        preparing: Preparing::AfterSync,
        notes_synced: true,
        id_if_new: 7,
    }
}

fn open(disk: &SimDisk) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), None, Path::new(DIR), small_files()).unwrap()
}

fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_std::LeaderId::new(term, 1);
    LogId::new(leader.to_committed(), index)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let data = EntryData(bytes::Bytes::from(vec![index as u8; bytes]));
    Entry::new(log_id(term, index), openraft::EntryPayload::Normal(data))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[test]
fn the_store_passes_the_consensus_own_suite() {
    runtime().block_on(Suite::test_all(Builder)).unwrap();
}

#[test]
fn a_reported_append_and_a_saved_vote_survive_a_crash() {
    runtime().block_on(async {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        let vote = Vote::new(3, 2);
        store.save_vote(&vote).await.unwrap();
        let entries = (1..=3).map(|index| entry(3, index, 100));
        store.blocking_append(entries).await.unwrap();
        disk.crash();
        let mut store = open(&disk);
        assert_eq!(store.read_vote().await.unwrap(), Some(vote));
        assert_eq!(indexes(&mut store).await, [1, 2, 3]);
    });
}

#[test]
fn an_unreported_append_may_be_lost_but_leaves_no_hole_whatever_survives() {
    for seed in 0..200 {
        runtime().block_on(async {
            let disk = SimDisk::new();
            let mut store = open(&disk);
            store
                .blocking_append((1..=5).map(|index| entry(1, index, 50)))
                .await
                .unwrap();
            disk.lose_power_after(seed % 9);
            for index in 6..=20 {
                let appended = store.blocking_append([entry(1, index, 700)]).await;
                if appended.is_err() {
                    break;
                }
            }
            disk.crash_keeping_some(seed);
            let mut store = open(&disk);
            let found = indexes(&mut store).await;
            assert!(found.len() >= 5, "seed {seed} lost synced entries");
            let whole: Vec<u64> = (1..=found.len() as u64).collect();
            assert_eq!(found, whole, "seed {seed}");
        });
    }
}

#[test]
fn a_failed_sync_is_reported_and_final() {
    runtime().block_on(async {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        disk.fail_next_sync();
        assert!(store.save_vote(&Vote::new(1, 1)).await.is_err());
        assert!(store.blocking_append([entry(1, 1, 10)]).await.is_err());
    });
}

#[test]
fn a_purge_gives_files_back_and_keeps_the_vote_and_what_is_live() {
    runtime().block_on(async {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        let vote = Vote::new(2, 1);
        store.save_vote(&vote).await.unwrap();
        store
            .blocking_append((1..=200).map(|index| entry(2, index, 2_000)))
            .await
            .unwrap();
        store.save_committed(Some(log_id(2, 190))).await.unwrap();
        let files = disk.list(Path::new(DIR)).unwrap().len();
        store.purge(log_id(2, 180)).await.unwrap();
        assert!(disk.list(Path::new(DIR)).unwrap().len() < files);
        disk.crash();
        let mut store = open(&disk);
        assert_eq!(store.read_vote().await.unwrap(), Some(vote));
        assert_eq!(store.purged(), Some(log_id(2, 180)));
        assert_eq!(indexes(&mut store).await, Vec::from_iter(181..=200));
        assert_eq!(store.read_committed().await.unwrap(), Some(log_id(2, 190)));
        store.blocking_append([entry(2, 201, 10)]).await.unwrap();
    });
}

/// A purge's checkpoint may stand in a later file than the entries behind it. When those are purged
/// in turn, the oldest file left begins with a checkpoint that names entries that are gone; the
/// controllers' crash matrix came upon a log that could not be opened again because of it.
#[test]
fn a_log_opens_again_whose_oldest_checkpoint_speaks_of_entries_that_were_purged_later() {
    runtime().block_on(async {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        store.blocking_append([entry(1, 1, 30_000)]).await.unwrap();
        store.blocking_append([entry(1, 2, 35_400)]).await.unwrap();
        store.purge(log_id(1, 1)).await.unwrap();
        store.blocking_append([entry(1, 3, 10)]).await.unwrap();
        store.purge(log_id(1, 2)).await.unwrap();
        drop(store);
        disk.crash();
        assert_eq!(
            disk.list(Path::new(DIR)).unwrap().len(),
            4,
            "two files, the identity and the note"
        );
        let mut store = open(&disk);
        assert_eq!(indexes(&mut store).await, [3]);
        assert_eq!(store.purged(), Some(log_id(1, 2)));
        store.blocking_append([entry(1, 4, 10)]).await.unwrap();
    });
}

#[test]
fn entries_written_after_a_truncation_replace_those_before_it() {
    runtime().block_on(async {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        store
            .blocking_append((1..=6).map(|index| entry(1, index, 10)))
            .await
            .unwrap();
        store.truncate_after(Some(log_id(1, 3))).await.unwrap();
        store
            .blocking_append((4..=5).map(|index| entry(2, index, 10)))
            .await
            .unwrap();
        // A snapshot may cover more than the log ever had.
        store.purge(log_id(2, 9)).await.unwrap();
        store.blocking_append([entry(2, 10, 10)]).await.unwrap();
        disk.crash();
        let mut store = open(&disk);
        assert_eq!(indexes(&mut store).await, [10]);
        let state = store.get_log_state().await.unwrap();
        assert_eq!(state.last_log_id, Some(log_id(2, 10)));
    });
}
