//! Replays in the tests what fuzzing found: the same functions over the same inputs.

use std::path::{Path, PathBuf};

/// The inputs that were found for a target, in the order of their names.
pub(crate) fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(|folder| {
        let corpus = folder.join("tests/fuzz/corpus").join(target);
        corpus.is_dir().then_some(corpus)
    });
    let corpus = corpus.unwrap_or_else(|| panic!("no corpus of {target}"));
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 20, "{} holds {} inputs", corpus.display(), inputs.len());
    inputs.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs a target over all its inputs; what it said of each. A panic names the input.
pub(crate) fn replay<T>(target: &str, run: impl Fn(&[u8]) -> T) -> Vec<T> {
    let run = |(path, data): (PathBuf, Vec<u8>)| {
        let named = Named(&path);
        let said = run(&data);
        std::mem::forget(named);
        said
    };
    inputs(target).into_iter().map(run).collect()
}

/// Says its name when it is dropped by a panic.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("input: {}", self.0.display());
        }
    }
}
