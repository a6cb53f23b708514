//! The inputs that fuzzing has found to be worth keeping, run through what fuzzes: see `tests/fuzz/run.sh`.

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[test]
fn every_kept_input_passes() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let corpus = fs::read_dir(corpora.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut count = 0;
        for entry in corpus {
            let path = entry.expect("a directory of files").path();
            let input = fs::read(&path).expect("a file");
            assert!(
                catch_unwind(AssertUnwindSafe(|| target(&input))).is_ok(),
                "{name} fails with {}",
                path.display()
            );
            count += 1;
        }
        assert!(count >= 10, "{name} has a corpus of {count}");
    }
}

#[test]
fn every_target_is_built_and_has_a_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the package of the targets");
    let names = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).expect("a directory");
        let stem =
            |entry: fs::DirEntry| entry.path().file_stem().map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<String> = entries.flatten().filter_map(stem).collect();
        names.sort_unstable();
        names
    };
    let mut known: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
    assert!(known.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}
