//! Commits the workload to a store and prints `acked N` for each batch that was acknowledged, until it is killed.
//!
//! ```text
//! store-child commit DIR COUNT     through the store, 8 batches in flight
//! store-child persist DIR COUNT    the same; after an error reopens the store in place, checks it, prints `reopened N`, goes on
//! store-child unsafe DIR COUNT     the negative control: sled's plain flush into the same files
//! store-child verify DIR           opens, compares every row, prints `whole N`
//! ```

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;

use hearthkey::store::{SledStore, Store};
use hearthkey_core::write::{Sequence, Write};
use hearthkey_tests::power_cut::workload::{batch, rows_after};

/// Batches that are committed before the first of them is acknowledged.
const IN_FLIGHT: u64 = 8;

/// A fault that stays is not overcome by reopening.
const MAX_REOPENED: u32 = 20;

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let outcome = match arguments[..] {
        ["commit", data, n] => count(n).and_then(|n| commit(Path::new(data), n)),
        ["persist", data, n] => count(n).and_then(|n| persist(Path::new(data), n)),
        ["unsafe", data, n] => count(n).and_then(|n| commit_by_plain_flush(Path::new(data), n)),
        ["verify", data] => verify(Path::new(data)),
        _ => Err("usage: store-child commit|persist|unsafe|verify DIR [COUNT]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "store-child: {error}");
            ExitCode::FAILURE
        }
    }
}

fn commit(data: &Path, count: u64) -> Outcome {
    let store = open(data)?;
    commit_from(&store, store.last_sequence().0 + count)
}

fn persist(data: &Path, count: u64) -> Outcome {
    let store = open(data)?;
    let until = store.last_sequence().0 + count;
    let mut last = Ok(());
    for _ in 0..MAX_REOPENED {
        last = commit_from(&store, until);
        if last.is_ok() {
            return Ok(());
        }
        let acknowledged = store.last_sequence();
        match store.reopen() {
            Ok(found) if found < acknowledged => {
                return Err(format!("{acknowledged:?} was durable, {found:?} is left"));
            }
            Ok(found) => {
                check(&store)?;
                say(&format!("reopened {}", found.0));
            }
            Err(error) => last = Err(error.to_string()),
        }
    }
    last
}

fn commit_from(store: &SledStore, until: u64) -> Outcome {
    let (done, outcomes) = mpsc::channel();
    let mut newest = store.last_sequence();
    let mut waiting = 0;
    loop {
        while waiting < IN_FLIGHT && newest.0 < until {
            let done = done.clone();
            let on_done = Box::new(move |outcome: Result<Sequence, _>| {
                if let Ok(sequence) = &outcome {
                    say(&format!("acked {}", sequence.0));
                }
                let _ = done.send(outcome);
            });
            newest = store.commit(newest, batch(newest.0 + 1), on_done).map_err(|error| error.to_string())?;
            waiting += 1;
        }
        if waiting == 0 {
            return Ok(());
        }
        let outcome = outcomes.recv().map_err(|error| error.to_string())?;
        outcome.map_err(|error| error.to_string())?;
        waiting -= 1;
    }
}

/// Everything as the store does it, but for the one sync.
fn commit_by_plain_flush(data: &Path, count: u64) -> Outcome {
    let first = {
        let store = open(data)?;
        store.last_sequence().0 + 1
    };
    let config =
        sled::Config::new().path(data.join("store")).mode(sled::Mode::LowSpace).flush_every_ms(None).use_compression(false);
    let db = config.open().map_err(|error| error.to_string())?;
    for n in first..first + count {
        let mut merged = sled::Batch::default();
        for write in batch(n) {
            let key = [&[write.table().tag()], write.key()].concat();
            match write {
                Write::Put { value, .. } => merged.insert(key, value),
                Write::Delete { .. } => merged.remove(key),
            }
        }
        merged.insert(b"\xffsequence", &n.to_be_bytes());
        db.apply_batch(merged).and_then(|()| db.flush()).map_err(|error| error.to_string())?;
        say(&format!("acked {n}"));
    }
    Ok(())
}

fn verify(data: &Path) -> Outcome {
    let store = open(data)?;
    check(&store)?;
    say(&format!("whole {}", store.last_sequence().0));
    Ok(())
}

fn check(store: &SledStore) -> Outcome {
    let newest = store.last_sequence().0;
    let rows = store.load().map_err(|error| error.to_string())?;
    if rows != rows_after(newest) {
        return Err(format!("after batch {newest} the rows are not those of any number of whole batches"));
    }
    Ok(())
}

fn open(data: &Path) -> Result<SledStore, String> {
    Ok(SledStore::open(data).map_err(|error| error.to_string())?.store)
}

/// One line in one write: a reader sees all of it or nothing.
fn say(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}
