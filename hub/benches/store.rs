//! Commits per second of the store, beside sled's plain flush, which a power cut undoes. `cargo bench -p hearthkey --bench store`

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hearthkey::store::{SledStore, Store};
use hearthkey_core::write::{Sequence, Table, Write};

/// Of the store and of the plain flush alike.
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 1000;
const COMMITS_ALONE: u64 = 4_000;
const COMMITS_TOGETHER: u64 = 64_000;
const TASKS: u64 = 32;
const ROUNDS: usize = 3;

fn main() {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "median of {ROUNDS} rounds, {VALUE_BYTES}-byte values");
    let plain = median(|| plain_flush(COMMITS_ALONE));
    for (what, commits, tasks) in [("one task", COMMITS_ALONE, 1), ("32 tasks", COMMITS_TOGETHER, TASKS)] {
        let ours = median(|| store(commits, tasks));
        let (rate, p99) = (ours.per_second, ours.p99.as_secs_f64() * 1e3);
        let ratio = rate / plain.per_second;
        let _ = writeln!(out, "durable, {what}: {rate:.0}/s, p99 {p99:.2} ms, {ratio:.2} x the plain flush");
    }
    let (rate, p99) = (plain.per_second, plain.p99.as_secs_f64() * 1e3);
    let _ = writeln!(out, "plain flush (unsafe), one task: {rate:.0}/s, p99 {p99:.2} ms");
}

struct Measured {
    per_second: f64,
    p99: Duration,
}

impl Measured {
    fn of(started: Instant, mut latencies: Vec<Duration>) -> Measured {
        let per_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
        latencies.sort_unstable();
        Measured { per_second, p99: latencies[latencies.len() * 99 / 100] }
    }
}

fn median(run: impl Fn() -> Measured) -> Measured {
    let mut rounds: Vec<Measured> = (0..ROUNDS).map(|_| run()).collect();
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    rounds.swap_remove(ROUNDS / 2)
}

fn store(commits: u64, tasks: u64) -> Measured {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(SledStore::open(directory.path()).unwrap_or_else(|error| panic!("{error}")).store);
    let newest = Arc::new(Mutex::new(Sequence(0)));
    let started = Instant::now();
    let threads: Vec<_> = (0..tasks)
        .map(|task| {
            let (store, newest) = (Arc::clone(&store), Arc::clone(&newest));
            thread::spawn(move || {
                let commit = |n| {
                    let (done, outcome) = mpsc::channel();
                    let put = Write::Put { table: Table::Device, key: key(n), value: vec![n as u8; VALUE_BYTES] };
                    let started = Instant::now();
                    {
                        let mut newest = newest.lock().expect("no thread panics");
                        let on_done = Box::new(move |result| drop(done.send(result)));
                        *newest = store.commit(*newest, vec![put], on_done).expect("accepted");
                    }
                    outcome.recv().expect("called once").expect("durable");
                    started.elapsed()
                };
                (0..commits / tasks).map(|n| commit(n * tasks + task)).collect::<Vec<Duration>>()
            })
        })
        .collect();
    let latencies = threads.into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect();
    Measured::of(started, latencies)
}

fn plain_flush(commits: u64) -> Measured {
    let directory = tempfile::tempdir().expect("a directory");
    let db = open_plain(directory.path());
    let started = Instant::now();
    let commit = |n| {
        let started = Instant::now();
        db.insert(key(n), vec![n as u8; VALUE_BYTES]).and_then(|_| db.flush()).expect("written");
        started.elapsed()
    };
    let latencies = (0..commits).map(commit).collect();
    Measured::of(started, latencies)
}

fn open_plain(path: &Path) -> sled::Db {
    let config = sled::Config::new().path(path.join("plain")).mode(sled::Mode::LowSpace).flush_every_ms(None);
    config.open().expect("opened")
}

fn key(n: u64) -> Vec<u8> {
    format!("device-{:04}", n % KEYS).into_bytes()
}
