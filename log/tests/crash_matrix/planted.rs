//! Bugs planted on purpose: the matrix catches each of them. That it finds nothing where nothing
//! is planted is what the other tests say, with the same runs.

use ottla_log::SimDisk;
use ottla_log::disk::{Call, Fault};
use ottla_log::planted::Bug;

use super::damage::flip_bits;
use super::random_run;
use super::scripts::SCRIPTS;

/// The first failure that the matrix meets.
fn caught(bug: Bug) -> String {
    for seed in 0..super::SEEDS {
        let disk = SimDisk::new();
        disk.plant(bug);
        let mut run = random_run(seed, 2);
        if bug == Bug::IgnoredSyncError {
            let fault = Fault::new(Call::Sync).of("journal");
            run.fault = Some(fault.after(seed % 8));
        }
        if let Err(what) = run.check(disk) {
            println!(
                "{bug:?} is caught: {}",
                what.lines().next().unwrap_or_default()
            );
            return what;
        }
    }
    panic!("{bug:?} is not caught");
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    caught(Bug::AcknowledgeBeforeSync);
}

#[test]
fn a_sync_of_the_wrong_file_is_caught() {
    caught(Bug::SyncOfTheWrongFile);
}

#[test]
fn a_missing_directory_sync_after_a_rename_is_caught() {
    caught(Bug::NoDirectorySyncAfterRename);
}

#[test]
fn a_sync_of_the_whole_disk_that_is_left_out_is_caught() {
    caught(Bug::WholeSyncLeftOut);
}

#[test]
fn a_file_of_the_journal_whose_name_is_not_durable_is_caught() {
    caught(Bug::SpareWithoutItsName);
}

#[test]
fn an_ignored_sync_error_is_caught() {
    caught(Bug::IgnoredSyncError);
}

#[test]
fn a_truncation_that_is_not_journaled_is_caught() {
    caught(Bug::TruncationNotJournaled);
}

#[test]
fn producers_that_outlive_a_cut_are_caught() {
    caught(Bug::ProducersOutliveACut);
}

#[test]
fn a_recycled_frame_that_is_accepted_is_caught() {
    caught(Bug::RecycledFrameAccepted);
}

#[test]
fn a_checksum_that_is_skipped_is_caught() {
    let served = flip_bits(|disk| disk.plant(Bug::ChecksumSkipped)).unwrap_err();
    assert!(served.contains("served"), "{served}");
}

#[test]
fn scripts_catch_a_truncation_that_is_not_journaled_too() {
    let caught = SCRIPTS.iter().any(|(name, lives)| {
        let disk = SimDisk::new();
        disk.plant(Bug::TruncationNotJournaled);
        super::script_run(name, lives, super::EACH)
            .check(disk)
            .is_err()
    });
    assert!(caught);
}
