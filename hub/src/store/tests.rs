//! What the store promises, against the real engine on the real disk. Kills, full disks and power cuts are tested from
//! outside, in the `tests` package.

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use super::*;

const DEVICES: Table = Table::ALL[0];
const OTHERS: Table = Table::ALL[1];

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let data = tempfile::tempdir().expect("a directory");
    let opened = SledStore::open(data.path()).expect("created");
    assert!(opened.created && opened.restored.is_none());
    let store = opened.store;
    assert_eq!(store.last_sequence(), Sequence(0));
    assert_eq!(store.load().expect("empty"), []);
    commit(&store, vec![put(DEVICES, "lamp", "on"), put(OTHERS, "lamp", "1")]).expect("durable");
    commit(&store, vec![put(DEVICES, "lamp", "off"), put(DEVICES, "door", "")]).expect("durable");
    drop(store);

    let opened = SledStore::open(data.path()).expect("reopened");
    assert!(!opened.created);
    assert_eq!(opened.store.last_sequence(), Sequence(2));
    let expected = [row(DEVICES, "door", ""), row(DEVICES, "lamp", "off"), row(OTHERS, "lamp", "1")];
    assert_eq!(opened.store.load().expect("rows"), expected);
}

#[test]
fn within_a_batch_the_last_write_of_a_key_counts() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    let delete = |key: &str| Write::Delete { table: DEVICES, key: key.into() };
    let batch = vec![put(DEVICES, "a", "1"), delete("a"), delete("b"), put(DEVICES, "b", "2"), delete("c")];
    commit(&store, batch).expect("durable");
    assert_eq!(store.load().expect("rows"), [row(DEVICES, "b", "2")]);
}

#[test]
fn a_key_or_value_that_is_too_long_is_refused_and_nothing_of_its_batch_is_stored() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    let long = |key, value| Write::Put { table: OTHERS, key: vec![1; key], value: vec![1; value] };
    let good = put(DEVICES, "good", "1");
    let key = commit(&store, vec![good.clone(), long(MAX_KEY_BYTES + 1, 0)]);
    assert!(matches!(key, Err(StoreError::KeyTooLarge { bytes: 256, .. })), "{key:?}");
    let value = commit(&store, vec![good.clone(), long(1, MAX_VALUE_BYTES + 1)]);
    assert!(matches!(value, Err(StoreError::ValueTooLarge { bytes: 4097, .. })), "{value:?}");
    let many = commit(&store, vec![good.clone(); MAX_BATCH_OPERATIONS + 1]);
    assert!(matches!(many, Err(StoreError::BatchTooLarge { .. })), "{many:?}");
    let much = commit(&store, vec![long(MAX_KEY_BYTES, MAX_VALUE_BYTES); 300]);
    assert!(matches!(much, Err(StoreError::BatchTooLarge { .. })), "{much:?}");
    assert_eq!(store.load().expect("rows"), []);
    assert_eq!(store.last_sequence(), Sequence(0));

    commit(&store, vec![good, long(MAX_KEY_BYTES, MAX_VALUE_BYTES)]).expect("just fits");
    assert_eq!(store.load().expect("rows").len(), 2);
}

#[test]
fn rows_of_the_largest_size_never_reach_the_unsynced_blobs() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    for round in 0..3 {
        for n in 0..40u8 {
            let put = |m: u8| Write::Put {
                table: DEVICES,
                key: [vec![n, m], vec![7; MAX_KEY_BYTES - 2]].concat(),
                value: vec![round; MAX_VALUE_BYTES],
            };
            commit(&store, (0..20).map(put).collect()).expect("durable");
        }
    }
    assert_eq!(store.load().expect("rows").len(), 800);
    assert_eq!(directory::count(&data.path().join("store/blobs")), 0);
}

#[test]
fn a_second_opener_is_told_who_has_the_directory() {
    let data = tempfile::tempdir().expect("a directory");
    let first = open(data.path());
    let refused = SledStore::open(data.path()).err().expect("refused");
    assert!(refused.to_string().contains("is in use by another hearthkey"), "{refused}");
    assert!(matches!(restore(data.path(), Path::new("x")), Err(StoreError::InUse(_))));
    commit(&first, vec![put(DEVICES, "lamp", "on")]).expect("the first is not disturbed");
    drop(first);
    open(data.path());
}

#[test]
fn only_the_owner_may_look_into_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().expect("a directory");
    let data = parent.path().join("hearthkey");
    let _store = open(&data);
    for path in [data.clone(), data.join("store")] {
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn a_store_reopens_in_place_and_goes_on() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    assert_eq!(store.reopen().expect("reopened"), Sequence(1));
    commit(&store, vec![put(DEVICES, "door", "shut")]).expect("durable");
    assert_eq!(store.load().expect("rows").len(), 2);
}

#[test]
fn a_store_is_not_reopened_from_a_completion() {
    let data = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(data.path()));
    let (done, outcome) = mpsc::channel();
    let same = Arc::clone(&store);
    let on_done = Box::new(move |_| drop(done.send(same.reopen())));
    store.commit(Sequence(0), vec![put(DEVICES, "lamp", "on")], on_done).expect("accepted");
    assert!(outcome.recv().expect("an answer instead of a deadlock").is_err());
    store.reopen().expect("from elsewhere it is");
}

#[test]
fn what_an_interrupted_opening_or_creation_left_is_cleared_up() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    drop(store);
    fs::write(data.path().join("store/snap.0000000000000100.generating"), b"torn").expect("written");
    fs::create_dir(data.path().join("store.new")).expect("made");
    fs::write(data.path().join("store.new/db"), b"torn").expect("written");
    let store = open(data.path());
    assert_eq!(store.load().expect("rows"), [row(DEVICES, "lamp", "on")]);
    assert!(!data.path().join("store.new").exists());
}

#[test]
fn damage_without_a_backup_is_refused_and_nothing_is_touched() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    drop(store);
    damage(data.path());
    for _ in 0..2 {
        let refused = SledStore::open(data.path()).err().expect("refused");
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("hearthkey restore FILE"), "{refused}");
    }
    assert_eq!(directory_names(data.path()), ["store", "store.lock", "store.reserve"]);
}

#[test]
fn damage_is_moved_aside_and_the_newest_whole_backup_restored() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    let older = store.back_up().expect("backed up");
    commit(&store, vec![put(DEVICES, "lamp", "off")]).expect("durable");
    let torn = store.back_up().expect("backed up");
    drop(store);
    let whole = fs::read(&torn).expect("read");
    fs::write(&torn, &whole[..whole.len() - 1]).expect("torn");
    for time in 1..=MAX_DAMAGED_KEPT {
        damage(data.path());
        let opened = SledStore::open(data.path()).expect("restored");
        let restored = opened.restored.expect("it says so");
        assert_eq!(restored.backup, older);
        assert_eq!(restored.moved_to, Some(data.path().join(format!("store.damaged-{time}"))));
        assert_eq!(opened.store.load().expect("rows"), [row(DEVICES, "lamp", "on")]);
        // Never below a number that was given out and backed up.
        assert_eq!(opened.store.last_sequence(), Sequence(2));
    }
    damage(data.path());
    let refused = SledStore::open(data.path()).err().expect("enough is enough");
    assert!(matches!(refused, StoreError::DamagedAgain { .. }), "{refused}");
}

#[test]
fn a_store_that_lost_what_was_backed_up_is_damaged() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    drop(store);
    let copy = data.path().join("older");
    copy_directory(&data.path().join("store"), &copy);
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "off")]).expect("durable");
    store.back_up().expect("backed up");
    drop(store);
    fs::remove_dir_all(data.path().join("store")).expect("removed");
    fs::rename(&copy, data.path().join("store")).expect("an older state");
    let opened = SledStore::open(data.path()).expect("restored");
    assert!(opened.restored.is_some());
    assert_eq!(opened.store.load().expect("rows"), [row(DEVICES, "lamp", "off")]);
}

#[test]
fn a_home_may_begin_anew_although_backups_of_the_old_one_are_kept() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    store.back_up().expect("backed up");
    drop(store);
    fs::remove_dir_all(data.path().join("store")).expect("removed");
    for created in [true, false] {
        let opened = SledStore::open(data.path()).expect("opened");
        assert_eq!((opened.created, opened.restored), (created, None));
        assert_eq!(opened.store.load().expect("rows"), []);
    }
}

#[test]
fn only_two_backups_are_kept() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    for n in 0..4 {
        commit(&store, vec![put(DEVICES, "lamp", &n.to_string())]).expect("durable");
        store.back_up().expect("backed up");
    }
    let kept = directory_names(&data.path().join("backups"));
    assert_eq!(kept.len(), 2);
    assert!(kept[1].ends_with("4.backup"), "{kept:?}");
}

#[test]
fn who_asks_for_a_backup_while_one_is_written_is_told_so_at_once() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    let writing = store.backing_up_as_asked.lock().expect("no panic");
    let refused = store.back_up_as_asked();
    assert!(matches!(refused, Err(StoreError::BackupUnderWay)), "{refused:?}");
    store.back_up().expect("the daily one is another file");
    drop(writing);
    assert!(store.back_up_as_asked().expect("written").is_file());
}

#[test]
fn a_backup_that_is_asked_for_leaves_the_space_that_the_store_needs() {
    let data = tempfile::tempdir().expect("a directory");
    let directory = directory::Directory::lock(data.path()).expect("locked");
    directory.check_room_for_backup(0).expect("the disk of this test has room");
    let refused = directory.check_room_for_backup(u64::MAX).expect_err("no disk has so much");
    assert!(refused.to_string().contains("free some space"), "{refused}");
}

#[test]
fn a_backup_restores_into_another_directory_and_what_was_there_is_kept() {
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("home.backup");
    let store = open(&data.path().join("old"));
    commit(&store, vec![put(DEVICES, "lamp", "on"), put(OTHERS, "x", "y")]).expect("durable");
    store.back_up_to(&file).expect("backed up");

    let new = data.path().join("new");
    commit(&open(&new), vec![put(DEVICES, "door", "shut")]).expect("durable");
    let restored = restore(&new, &file).expect("restored");
    assert_eq!(restored.rows, 2);
    let store_of_new = open(&new);
    assert_eq!(store_of_new.load().expect("rows"), store.load().expect("rows"));
    assert!(restored.moved_to.expect("said").join("db").is_file());
    drop(store_of_new);

    fs::write(&file, b"hearthkey-backup 1\nnonsense").expect("written");
    assert!(matches!(restore(&new, &file), Err(StoreError::BadBackup { .. })));
    assert_eq!(open(&new).load().expect("untouched").len(), 2);
}

#[test]
fn a_restore_that_was_interrupted_leaves_the_old_store_or_the_new() {
    let data = tempfile::tempdir().expect("a directory");
    let store = open(data.path());
    commit(&store, vec![put(DEVICES, "lamp", "on")]).expect("durable");
    drop(store);
    // Cut before the old one was moved aside: the new one is made again when the owner asks again.
    copy_directory(&data.path().join("store"), &data.path().join("store.whole"));
    assert_eq!(open(data.path()).load().expect("rows").len(), 1);
    assert!(!data.path().join("store.whole").exists());
    // Cut after it.
    fs::rename(data.path().join("store"), data.path().join("store.whole")).expect("renamed");
    let opened = SledStore::open(data.path()).expect("opened");
    assert!(!opened.created);
    assert_eq!(opened.store.load().expect("rows").len(), 1);
}

#[test]
fn no_table_has_the_tag_of_the_stores_own_rows() {
    assert!(Table::ALL.iter().all(|table| table.tag() != 0xff));
}

/// Overwrites the middle of the log, as a failing disk would.
fn damage(data: &Path) {
    let db = data.join("store/db");
    let length = fs::metadata(&db).expect("there").len() as usize;
    fs::write(&db, vec![0xa5; length]).expect("written");
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for name in directory_names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() { copy_directory(&from, &to) } else { fs::copy(from, to).map(drop).expect("copied") }
    }
}

fn directory_names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("listed");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn open(data: &Path) -> SledStore {
    SledStore::open(data).unwrap_or_else(|error| panic!("{error}")).store
}

fn commit(store: &SledStore, batch: Vec<Write>) -> Result<Sequence, StoreError> {
    let (done, outcome) = mpsc::channel();
    store.commit(store.last_sequence(), batch, Box::new(move |result| drop(done.send(result))))?;
    outcome.recv().expect("called exactly once")
}

fn put(table: Table, key: &str, value: &str) -> Write {
    Write::Put { table, key: key.into(), value: value.into() }
}

fn row(table: Table, key: &str, value: &str) -> Row {
    Row { table, key: key.into(), value: value.into() }
}
