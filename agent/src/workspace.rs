//! The memory that one device works in. Place it in a static cell or a box: it is too large for a small stack.

use crate::mqtt::{MAX_INCOMING_PACKET, MAX_OUTGOING_PACKET};
use crate::tls::TlsBuffers;
use zeroize::Zeroize as _;

/// Buffers for one connection at a time, some 11 KB.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) tls: TlsBuffers,
    pub(crate) incoming: [u8; MAX_INCOMING_PACKET],
    pub(crate) outgoing: [u8; MAX_OUTGOING_PACKET],
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Workspace {
    /// Empty buffers.
    #[must_use]
    pub const fn new() -> Self {
        Self { tls: TlsBuffers::new(), incoming: [0; MAX_INCOMING_PACKET], outgoing: [0; MAX_OUTGOING_PACKET] }
    }

    /// Overwrites whatever a former connection left: tokens and assertions among it.
    pub(crate) fn wipe(&mut self) {
        self.tls.wipe();
        self.incoming.zeroize();
        self.outgoing.zeroize();
    }
}
