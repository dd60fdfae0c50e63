//! OAuth clients that we did not write, against the real hub: what each of them calls standard works as it says; and a judge of
//! its OpenAPI document.
#![allow(clippy::unwrap_used)]

mod authlib;
mod foreign;
mod oauth2_crate;
mod oauth4webapi;
mod schemathesis;
