//! Bits that flip at rest: what is read is what was written, or an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ottla_log::disk::OpenMode;
use ottla_log::{Disk as _, ReadError, SimDisk};
use ottla_model::Offset;

use super::model::{Model, Random, id};
use super::work::{Step, Worker};
use super::world::{DIR, Store, World, config};

const FLIPS: u64 = 1_500;

/// A log of several segments, closed in order, and what it holds.
fn written(disk: &SimDisk) -> Result<Model, String> {
    let world = World::empty();
    let store = Store::open(disk, &world, config()).map_err(|error| error.to_string())?;
    let mut worker = Worker {
        ticket: 0,
        epoch: 3,
    };
    let append = Step::Append {
        log: 0,
        batches: 2,
        bytes: 400,
    };
    let steps = vec![append; 12];
    worker
        .hurry(&store, &steps)
        .map_err(|error| error.to_string())?;
    store.shutdown().map_err(|error| error.to_string())?;
    let model = Model::clone(world.known().logs[0].current());
    Ok(model)
}

fn segments(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let dir = Path::new(DIR).join("partitions").join(id(0).to_string());
    let paths = disk.list(&dir).unwrap().into_iter();
    let paths = paths.map(|entry| dir.join(entry.name));
    paths
        .filter(|path| ottla_log::dump::is_segment(path))
        .map(|path| {
            let file = disk.open(&path, OpenMode::Existing).unwrap();
            let size = file.size().unwrap();
            (path, size)
        })
        .collect()
}

/// Flips bits of a closed store's segments, one at a time on a disk of its own, and reads it all.
/// Returns how many flips a reader was told of.
///
/// # Errors
/// Names the first flip whose bytes were served.
pub fn flip_bits(prepare: impl Fn(&SimDisk)) -> Result<usize, String> {
    let disk = SimDisk::new();
    prepare(&disk);
    let model = written(&disk)?;
    let expected: Vec<_> = model.readable().cloned().collect();
    let expected: BTreeSet<&[u8]> = expected.iter().map(|batch| &batch[..]).collect();
    let segments = segments(&disk);
    assert!(segments.len() > 3, "{segments:?}");
    let mut random = Random::new(7);
    let mut told = 0;
    for _ in 0..FLIPS {
        let (path, size) = &segments[random.below(segments.len() as u64) as usize];
        let bit = random.below(size * 8);
        let disk = disk.fork();
        disk.flip_bit(path, bit).unwrap();
        let store = Store::open(&disk, &World::empty(), config());
        let store = store.map_err(|error| super::chain(&error))?;
        told += usize::from(!store.damage().is_empty());
        let log = store.get(id(0)).unwrap();
        // Each batch is asked for by itself, so that what is whole before and behind is seen too.
        for base in log.log_start().0..log.log_end().0 {
            match log.read_blocking(Offset(base), Offset(i64::MAX), 1) {
                Ok(pieces) => {
                    if !pieces.iter().all(|piece| expected.contains(&piece[..])) {
                        let path = path.display();
                        return Err(format!("bit {bit} of {path}: served at offset {base}"));
                    }
                }
                Err(ReadError::Damaged { .. }) => told += 1,
                Err(error) => return Err(super::chain(&error)),
            }
        }
    }
    Ok(told)
}

#[test]
fn bits_that_flip_at_rest_are_never_served() {
    let told = flip_bits(|_| {}).unwrap_or_else(|what| panic!("{what}"));
    assert!(told > FLIPS as usize / 2, "only {told} errors");
}
