//! The fuzzer's entry: any of the targets of `hub/tests/fuzz_corpus` and `agent/tests/fuzz_corpus`, chosen by `FUZZ_TARGET`. Holds a
//! copy of the MQTT front's modules, so that they are what is instrumented.
#![no_main]
#![allow(missing_docs, dead_code, unreachable_pub, unused_imports)]

#[path = "../../agent/tests/fuzz_corpus/targets/mod.rs"]
mod agent_targets;
#[path = "../../hub/src/mqtt/mod.rs"]
mod mqtt;
#[path = "../../hub/tests/fuzz_corpus/targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<Box<dyn Fn(&[u8]) + Send + Sync>> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match name.as_str() {
        "framing" => return Box::new(targets::framing),
        "connect" => return Box::new(targets::connect),
        "session" => return Box::new(targets::session),
        _ => {}
    }
    let agents = agent_targets::TARGETS;
    match agents.iter().find(|(target, _)| *target == name) {
        Some(&(_, target)) => Box::new(move |data| _ = target(data)),
        None => panic!("FUZZ_TARGET is framing, connect, session or one of {:?}", agents.map(|(target, _)| target)),
    }
});

fuzz_target!(|data: &[u8]| TARGET(data));
