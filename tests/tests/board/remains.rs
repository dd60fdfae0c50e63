//! What is left in the board's RAM of a secret that was used: nothing.

use hearthkey_agent::keys::{Drbg, SecretKey};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::ops::Reduce;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::{FieldBytes, Scalar, U256};
use sha2::{Digest as _, Sha256};

use crate::emulated::{Board, Image};

/// How many keys are used in each way; half of their scalars are even, which p256-cm4 negates.
const KEYS: u8 = 6;

/// Uses of secrets, and what must not be left of each.
#[derive(Default)]
struct Questions {
    count: u32,
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Questions {
    fn ask(&mut self, kind: u8, fields: [&[u8]; 2], needles: &[(&str, Vec<u8>)]) {
        self.count += 1;
        self.bytes.push(kind);
        fields.iter().for_each(|field| self.field(field));
        self.bytes.push(u8::try_from(needles.len()).expect("few"));
        needles.iter().for_each(|(_, needle)| self.field(needle));
        let what: Vec<&str> = needles.iter().map(|(what, _)| *what).collect();
        self.names.push(format!("{}: {}", char::from(kind), what.join(", ")));
    }

    fn field(&mut self, field: &[u8]) {
        self.bytes.extend(u16::try_from(field.len()).expect("short").to_le_bytes());
        self.bytes.extend(field);
    }

    fn sign(&mut self, secret: &[u8; 32]) {
        let (message, d) = (b"what is signed".as_slice(), scalar(secret));
        let signature = SecretKey::from_bytes(secret).expect("a scalar").sign(message).expect("a key signs");
        let [r, s] = [0, 32].map(|at| scalar(signature[at..][..32].try_into().expect("32")));
        let z = <Scalar as Reduce<U256>>::reduce_bytes(&Sha256::digest(message));
        // s = (z + r d) / k
        let k = s.invert().expect("not zero") * (z + r * d);
        let inverse = k.invert().expect("not zero");
        let needles = [("scalar", d), ("negated", -d), ("nonce", k), ("negated nonce", -k), ("inverted nonce", inverse)];
        self.ask(b's', [secret, message], &needles.map(|(what, number)| (what, number.to_bytes().to_vec())));
    }

    fn generate(&mut self, seed: &[u8; 32]) {
        let mut secret = [0; 32];
        rand_core::RngCore::fill_bytes(&mut Drbg::from_seed(seed, "check"), &mut secret);
        let d = scalar(&secret);
        let needles = [("scalar", d), ("negated", -d)].map(|(what, number)| (what, number.to_bytes().to_vec()));
        self.ask(b'g', [seed, &[]], &needles);
    }

    fn exchange(&mut self, secret: &[u8; 32], other: &[u8; 32]) {
        let d = scalar(secret);
        let other = p256::SecretKey::from_bytes(other.into()).expect("a scalar").public_key();
        let own = p256::SecretKey::from_bytes(secret.into()).expect("a scalar");
        let shared = diffie_hellman(own.to_nonzero_scalar(), other.as_affine()).raw_secret_bytes().to_vec();
        let mut needles = vec![("shared secret", shared), ("digits", digits(d))];
        needles.extend([("scalar", d), ("negated", -d)].map(|(what, number)| (what, number.to_bytes().to_vec())));
        self.ask(b'x', [secret, other.to_encoded_point(false).as_bytes()], &needles);
    }
}

fn scalar(bytes: &[u8; 32]) -> Scalar {
    Scalar::reduce_bytes(FieldBytes::from_slice(bytes))
}

/// The odd digits between -15 and 15 that p256-cm4 makes of a scalar, or of its negative if it is even, a byte each.
fn digits(scalar: Scalar) -> Vec<u8> {
    let odd = if scalar.to_bytes()[31] & 1 == 1 { scalar } else { -scalar };
    let bytes = odd.to_bytes();
    let mut digits: Vec<i8> = bytes.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]).map(|digit| digit as i8).collect();
    for at in 1..digits.len() {
        digits[at - 1] -= if digits[at] & 1 == 0 { 16 } else { 0 };
        digits[at] |= 1;
    }
    digits.into_iter().map(|digit| digit as u8).collect()
}

async fn find_nothing(image: Image) {
    let mut questions = Questions::default();
    for number in 1..=KEYS {
        let secret: [u8; 32] = Sha256::digest([number]).into();
        let other: [u8; 32] = Sha256::digest([number, number]).into();
        questions.sign(&secret);
        questions.generate(&other);
        // The engine's key exchange by p256 as it is published is not ours to wipe.
        if let Image::Fast = image {
            questions.exchange(&secret, &other);
        }
    }
    // The control: what is left is found, in every order of bytes and words, and from a part of it.
    let left: Vec<u8> = Sha256::digest(b"left").to_vec();
    let orders: [fn(usize) -> usize; 4] = [|at| at, |at| 31 - at, |at| at ^ 3, |at| 31 - (at ^ 3)];
    let needles = orders.map(|order| (0..32).map(|at| left[order(at)]).collect::<Vec<u8>>());
    for needle in &needles {
        questions.ask(b'c', [&left, &[]], &[("control", needle.clone())]);
        let part = [&[0xee; 8], &needle[4..20], &[0xee; 8]].concat();
        questions.ask(b'c', [&left, &[]], &[("part of control", part)]);
    }
    questions.ask(b'c', [&left, &[]], &[("something else", Sha256::digest(b"else").to_vec())]);

    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("questions");
    std::fs::write(&file, [questions.count.to_le_bytes().as_slice(), &questions.bytes].concat()).expect("written");
    let arguments = ["--program", "remains-check", "--load", file.to_str().expect("text")];
    let mut board = Board::start_of(image, "", &arguments).await;
    let mut wrong = Vec::new();
    for what in &questions.names {
        let answer = board.said("answer ").await;
        if what.contains("control") == (answer == "clean") {
            wrong.push(format!("{what}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    board.said("answered").await;
}

#[tokio::test]
async fn nothing_is_left_of_a_secret_that_was_used() {
    find_nothing(Image::Fast).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_secret_that_was_used_with_p256_alone() {
    find_nothing(Image::Reference).await;
}
