//! The memory that one device works in. Place it in a static cell or a box: it is too large for a small stack.

use crate::mqtt::{MAX_INCOMING_PACKET, MAX_OUTGOING_PACKET};
use crate::tls::TlsBuffers;
use zeroize::Zeroize as _;

/// Buffers for one connection at a time, some 11 KB.
pub struct Workspace {
    pub(crate) tls: TlsBuffers,
    pub(crate) incoming: [u8; MAX_INCOMING_PACKET],
    pub(crate) outgoing: [u8; MAX_OUTGOING_PACKET],
}

// Its bytes are tokens, assertions and enrolment codes; so nothing of them is shown.
impl core::fmt::Debug for Workspace {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Workspace")
    }
}

/// A workspace in use. It is wiped when that ends, be it by an error or because the future that used it was dropped.
pub(crate) struct InUse<'a>(pub(crate) &'a mut Workspace);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.wipe();
    }
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
    #[inline(never)]
    pub(crate) fn wipe(&mut self) {
        self.tls.wipe();
        self.incoming.zeroize();
        self.outgoing.zeroize();
    }
}
