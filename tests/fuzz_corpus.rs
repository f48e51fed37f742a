//! Every input that `fuzz/` keeps, through its target: what fuzzing has found stays found, without a fuzzer.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a crate of its own, for tests")]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the files of all corpora may have together, in bytes; what one may have.
const CORPORA_LIMIT: u64 = 1_500_000;
const FILE_LIMIT: u64 = 70_000;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_target_passes_its_corpus() {
    for (name, target) in targets::TARGETS {
        let files = files(&corpora().join(name));
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            // Shown when the target panics.
            println!("{}", file.display());
            target(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_target_passes_the_beginnings_of_its_corpus() {
    for (name, target) in targets::TARGETS {
        for file in files(&corpora().join(name)) {
            println!("{}", file.display());
            let bytes = fs::read(&file).unwrap();
            let step = (bytes.len() / 16).max(1);
            (0..bytes.len()).step_by(step).for_each(|end| target(&bytes[..end]));
        }
    }
}

#[test]
fn every_corpus_is_a_targets_and_small() {
    let names: BTreeSet<_> = targets::TARGETS.iter().map(|(name, _)| corpora().join(name)).collect();
    assert_eq!(files(&corpora()).into_iter().collect::<BTreeSet<_>>(), names);
    let sizes: Vec<_> =
        names.iter().flat_map(|folder| files(folder)).map(|file| fs::metadata(file).unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size <= FILE_LIMIT));
    assert!(sizes.iter().sum::<u64>() <= CORPORA_LIMIT);
}
