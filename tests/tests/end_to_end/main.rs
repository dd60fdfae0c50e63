//! Stories from outside: the real hub in its own process, the real agent, and clients that we did not write.
#![allow(clippy::unwrap_used)]

mod credentials;
mod rights;
mod whole_path;
