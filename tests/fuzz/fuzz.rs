//! The fuzzer's entry: any of the targets of `hub/tests/fuzz_corpus`, chosen by `FUZZ_TARGET`. Holds a copy of the MQTT front's
//! modules, so that they are what is instrumented.
#![no_main]
#![allow(missing_docs, dead_code, unreachable_pub)]

#[path = "../../hub/src/mqtt/mod.rs"]
mod mqtt;
#[path = "../../hub/tests/fuzz_corpus/targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| match std::env::var("FUZZ_TARGET").as_deref() {
    Ok("framing") => targets::framing,
    Ok("connect") => targets::connect,
    Ok("session") => targets::session,
    _ => panic!("FUZZ_TARGET is framing, connect or session"),
});

fuzz_target!(|data: &[u8]| TARGET(data));
