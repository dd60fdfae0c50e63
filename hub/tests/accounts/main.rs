//! People, credentials and the life of tokens, at a whole hub: HTTPS and MQTT over real sockets, a real store.

mod approvals;
mod audit;
mod described;
mod gateways;
mod home;
mod keys;
mod people;
mod possession;
mod refused_commands;
mod rules;
mod sys;
mod tokens;
mod twins;

#[allow(dead_code, reason = "the devices of the other tests, without their hub")]
#[path = "../http/home.rs"]
mod device;
