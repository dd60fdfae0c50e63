//! Many short lives, and what the checks see when something is broken on purpose.

use crate::fabrics::{Ground, Lossy};
use crate::world::{Sabotage, World};
use hearthkey::mqtt::fabric_native::NativeFabric;
use hearthkey::mqtt::fabric_router::RouterFabric;
use std::sync::Arc;

/// Steps of one life.
const STEPS: usize = 200;
/// Lives in CI on a fabric without a thread; a third as many on the router, which has to be waited for.
const LIVES: u64 = 60;

/// One life from a seed, in virtual time: what was wrong with it, and the life.
fn life<F: Ground>(seed: u64, sabotage: Sabotage) -> (Result<(), String>, World<F>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::<F>::new(seed, sabotage);
        let outcome = world.live(STEPS).await;
        (outcome, world)
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn lives<F: Ground>() {
    let (first, count) = match (number("HEARTHKEY_SEED"), number("HEARTHKEY_SEEDS")) {
        (Some(seed), _) => (seed, 1),
        (None, count) => (1, count.unwrap_or(if F::HAS_THREAD { LIVES / 3 } else { LIVES })),
    };
    let (mut received, mut fired, mut retained, mut taken_over, mut shared) = (0, 0, 0, 0, 0);
    for seed in first..first + count {
        let (outcome, world) = life::<F>(seed, Sabotage::None);
        received += world.received;
        fired += world.fired;
        retained += world.retained_came;
        taken_over += world.taken_over;
        shared += world.shared;
        if let Err(why) = outcome {
            println!("{}", world.log.join("\n"));
            panic!("seed {seed} on the fabric `{}`: {why}\nrepeat it with HEARTHKEY_SEED={seed}", F::NAME);
        }
    }
    println!(
        "{count} lives on the fabric `{}`: {received} messages received, {shared} of them shared, {fired} wills fired, \
         {retained} retained, {taken_over} connections taken over",
        F::NAME
    );
    let least = [received / 20, fired, retained, shared, taken_over].into_iter().min().unwrap();
    // One life may be a quiet one.
    assert!(count == 1 || least > usize::try_from(count).unwrap(), "too quiet to prove anything");
}

/// That the checks see it at some seed, and say one of these words.
fn assert_seen<F: Ground>(sabotage: Sabotage, words: &[&str]) {
    let is_seen = (1..=LIVES).any(|seed| {
        let (outcome, world) = life::<F>(seed, sabotage);
        let why = outcome.err().inspect(|why| println!("{}\nseed {seed}: {why}", world.log.join("\n")));
        why.is_some_and(|why| words.iter().any(|word| why.contains(word)))
    });
    assert!(is_seen, "{sabotage:?} on `{}` was not seen in {LIVES} lives", F::NAME);
}

#[test]
fn every_promise_is_kept_over_the_router() {
    lives::<Arc<RouterFabric>>();
}

#[test]
fn every_promise_is_kept_over_the_native_fabric() {
    lives::<NativeFabric>();
}

#[test]
fn the_checks_see_a_fabric_that_loses_messages() {
    assert_seen::<Lossy<NativeFabric>>(Sabotage::None, &["what is owed"]);
}

#[test]
fn the_checks_see_a_hub_that_is_deaf_to_a_change_of_rights() {
    assert_seen::<NativeFabric>(Sabotage::DeafToRights, &["right", "subscribes", "answered"]);
}

#[test]
fn the_checks_see_a_will_of_somebody_who_took_leave() {
    assert_seen::<NativeFabric>(Sabotage::WordlessLeave, &["without a right"]);
}

#[test]
fn the_checks_see_a_restart_that_forgets_a_row() {
    assert_seen::<NativeFabric>(Sabotage::ForgetfulRestart, &[""]);
}

#[test]
fn the_checks_see_a_restart_that_forgets_the_wills() {
    assert_seen::<NativeFabric>(Sabotage::WilllessRestart, &["what is owed", "retained"]);
}

#[test]
fn the_checks_see_a_hub_that_leaves_a_connection_beside_the_one_that_takes_over() {
    assert_seen::<NativeFabric>(Sabotage::StrangersTakeover, &["taken over", "session present"]);
}

#[test]
fn the_checks_see_a_message_that_two_members_of_a_group_get() {
    assert_seen::<NativeFabric>(Sabotage::EverybodysShare, &["a second time"]);
}

#[test]
fn the_checks_see_a_message_that_no_member_of_a_group_gets() {
    assert_seen::<NativeFabric>(Sabotage::SecretMember, &["what is owed"]);
}
