//! The hub dies at its writes while a credential is made, changed or ended, or a command sent: afterwards that is either done or
//! not, never half; what was acknowledged holds; the audit log says the same; and whoever tries again ends well.
#![allow(clippy::unwrap_used)]

mod commanding;
mod ending;
mod enrolling;
mod kills;
mod rotating;
