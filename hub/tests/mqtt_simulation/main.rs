//! A home of MQTT sessions in virtual time, from a seed, against a reference model: clients come and go, publish, subscribe, renew,
//! lose and regain rights, are revoked; the hub restarts on what is durable, the fabric dies. Nothing that was acknowledged is
//! lost, nothing comes twice beyond its QoS, nothing comes without a right, and each topic keeps its order; what a group shares comes
//! to one member, also when another goes; a connection takes the place of an earlier one and loses nothing; a will comes when its
//! time has come and not otherwise, and what is retained is what was published last.
//!
//! `HEARTHKEY_SEED=17 cargo test -p hearthkey --test mqtt_simulation -- --nocapture` repeats one life; `HEARTHKEY_SEEDS=5000`
//! lives as many.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod client;
mod fabrics;
mod lives;
mod model;
#[path = "../mqtt_front/support.rs"]
mod support;
mod world;
