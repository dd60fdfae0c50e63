//! The CA on disk: private, whole or absent, never replaced, and recovered when its creation was cut short.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearthkey_certs::{CERTIFICATE_FILE, Error, HomeCa, KEY_FILE};
use rustls_pki_types::UnixTime;

#[test]
fn a_ca_is_the_same_after_a_restart() {
    let home = Place::new();
    let made = HomeCa::load_or_create(&home.ca, now()).expect("first start");
    let opened = HomeCa::load_or_create(&home.ca, now()).expect("second start");
    assert_eq!(made.certificate_der(), opened.certificate_der());
    assert_eq!(made.sha256(), opened.sha256());
    assert_eq!(opened.certificate_pem(), home.read(CERTIFICATE_FILE));
}

#[test]
fn the_key_is_private_and_so_is_the_directory() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    assert_eq!(mode(&home.ca), 0o700);
    assert_eq!(mode(&home.ca.join(KEY_FILE)), 0o600);
    assert_eq!(mode(&home.ca.join(CERTIFICATE_FILE)), 0o644);
    assert_eq!(home.files(), [CERTIFICATE_FILE, KEY_FILE], "nothing temporary is left");
}

#[test]
fn a_key_that_others_may_access_is_refused_with_the_remedy() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    let key = home.ca.join(KEY_FILE);
    for exposed in [0o640, 0o604, 0o620, 0o602, 0o601, 0o644, 0o777] {
        fs::set_permissions(&key, Permissions::from_mode(exposed)).expect("ours");
        let refused = HomeCa::load_or_create(&home.ca, now()).expect_err("exposed");
        assert!(matches!(refused, Error::KeyExposed { mode, .. } if mode == exposed));
        assert!(refused.to_string().contains(&format!("chmod 600 {}", key.display())), "{refused}");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).expect("ours");
    HomeCa::load(&home.ca).expect("readable by the owner alone");
}

#[test]
fn a_creation_that_was_cut_short_is_finished_with_the_same_key() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    let key = home.read(KEY_FILE);
    let subject = subject_of(&HomeCa::load(&home.ca).expect("complete"));

    // Cut after the key: the certificate is missing. Cut inside a write: a temporary file is left.
    fs::remove_file(home.ca.join(CERTIFICATE_FILE)).expect("there");
    fs::write(home.ca.join(".ca.new-Xy12"), "half a cert").expect("writable");

    let recovered = HomeCa::load_or_create(&home.ca, now()).expect("recovered");
    assert_eq!(home.read(KEY_FILE), key);
    assert_eq!(subject_of(&recovered), subject);
    assert_eq!(home.files(), [CERTIFICATE_FILE, KEY_FILE]);
}

#[test]
fn an_empty_directory_and_a_left_over_alone_become_a_ca() {
    let home = Place::new();
    fs::create_dir(&home.ca).expect("writable");
    fs::write(home.ca.join(".ca.new-Xy12"), "half a key").expect("writable");
    HomeCa::load_or_create(&home.ca, now()).expect("made");
    assert_eq!(home.files(), [CERTIFICATE_FILE, KEY_FILE]);
}

#[test]
fn a_ca_is_never_replaced() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    let before = (home.read(KEY_FILE), home.read(CERTIFICATE_FILE));
    let refused = HomeCa::create(&home.ca, now()).expect_err("exists");
    assert!(matches!(refused, Error::Exists(_)), "{refused}");
    assert_eq!((home.read(KEY_FILE), home.read(CERTIFICATE_FILE)), before);
}

#[test]
fn a_missing_key_is_not_papered_over_with_another() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    fs::remove_file(home.ca.join(KEY_FILE)).expect("there");
    let refused = HomeCa::load_or_create(&home.ca, now()).expect_err("no key");
    assert!(matches!(refused, Error::KeyMissing(_)), "{refused}");
    assert_eq!(home.files(), [CERTIFICATE_FILE]);
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (home, other) = (Place::new(), Place::new());
    HomeCa::create(&home.ca, now()).expect("made");
    HomeCa::create(&other.ca, now()).expect("made");
    fs::copy(other.ca.join(CERTIFICATE_FILE), home.ca.join(CERTIFICATE_FILE)).expect("writable");
    let refused = HomeCa::load(&home.ca).expect_err("mixed");
    assert!(refused.to_string().contains("not the certificate of the key beside it"), "{refused}");
}

#[test]
fn damaged_files_are_named_and_nothing_of_the_key_is_told() {
    let home = Place::new();
    HomeCa::create(&home.ca, now()).expect("made");
    let (key, certificate) = (home.read(KEY_FILE), home.read(CERTIFICATE_FILE));
    let secret_line = key.lines().nth(1).expect("PEM body").to_owned();

    for damaged in ["", "garbage", &key[..key.len() / 2], &certificate, &"x".repeat(20_000)] {
        fs::write(home.ca.join(KEY_FILE), damaged).expect("writable");
        let refused = HomeCa::load_or_create(&home.ca, now()).expect_err("damaged key");
        assert!(matches!(&refused, Error::Damaged { path, .. } if path.ends_with(KEY_FILE)), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains(&secret_line));
    }
    fs::write(home.ca.join(KEY_FILE), &key).expect("writable");
    for damaged in ["", "garbage", &certificate[..certificate.len() / 2], &key, &"x".repeat(20_000)] {
        fs::write(home.ca.join(CERTIFICATE_FILE), damaged).expect("writable");
        let refused = HomeCa::load_or_create(&home.ca, now()).expect_err("damaged certificate");
        assert!(matches!(&refused, Error::Damaged { path, .. } if path.ends_with(CERTIFICATE_FILE)), "{refused}");
        assert!(!format!("{refused} {refused:?}").contains(&secret_line));
    }
}

#[test]
fn a_missing_ca_says_how_to_make_one() {
    let home = Place::new();
    let refused = HomeCa::load(&home.ca).expect_err("nothing there");
    assert!(matches!(refused, Error::Missing(_)));
    assert!(refused.to_string().contains("hearthkey up"), "{refused}");
}

struct Place {
    _dir: tempfile::TempDir,
    ca: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = dir.path().join("home").join("ca");
        fs::create_dir(dir.path().join("home")).expect("writable");
        Self { _dir: dir, ca }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.ca.join(file)).expect("readable")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.ca).expect("readable");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII")).collect();
        names.sort();
        names
    }
}

fn subject_of(ca: &HomeCa) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(ca.certificate_der()).expect("DER");
    parsed.subject().to_string()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000))
}
