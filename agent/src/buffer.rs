//! Writes into a fixed stretch of memory and says when it is full. Knows no format.

use base64ct::{Base64UrlUnpadded, Encoding as _};

/// The text or packet does not fit its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferFull;

/// A cursor over a caller's bytes. Also a [`core::fmt::Write`], so that `write!` formats into it.
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

// What is written may be a secret, and what lies behind it may have been one.
impl core::fmt::Debug for Buffer<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Buffer({} bytes)", self.length)
    }
}

impl<'a> Buffer<'a> {
    /// An empty buffer over `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }

    /// Appends `bytes`, or nothing.
    ///
    /// # Errors
    /// [`BufferFull`] if they do not fit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BufferFull> {
        let end = self.length.checked_add(bytes.len()).ok_or(BufferFull)?;
        self.bytes.get_mut(self.length..end).ok_or(BufferFull)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Appends `bytes` in base64url without padding.
    ///
    /// # Errors
    /// [`BufferFull`] if the text does not fit.
    pub fn push_base64url(&mut self, bytes: &[u8]) -> Result<(), BufferFull> {
        let free = self.bytes.get_mut(self.length..).ok_or(BufferFull)?;
        self.length += Base64UrlUnpadded::encode(bytes, free).map_err(|_| BufferFull)?.len();
        Ok(())
    }

    /// Appends what `write` puts at the beginning of the free space and says the length of; `None` says that it is too short.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub(crate) fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Result<(), BufferFull> {
        let free = self.bytes.get_mut(self.length..).ok_or(BufferFull)?;
        let longest = free.len();
        let written = write(free).filter(|written| *written <= longest).ok_or(BufferFull)?;
        self.length += written;
        Ok(())
    }

    /// Moves what was written since `start` by `by` bytes to the right and returns the gap.
    pub(crate) fn open_gap(&mut self, start: usize, by: usize) -> Result<&mut [u8], BufferFull> {
        let end = self.length.checked_add(by).filter(|end| *end <= self.bytes.len()).ok_or(BufferFull)?;
        if start > self.length {
            return Err(BufferFull);
        }
        self.bytes.copy_within(start..self.length, start + by);
        self.length = end;
        self.bytes.get_mut(start..start + by).ok_or(BufferFull)
    }

    /// Whether `count` bytes fit behind the first `length`.
    pub(crate) fn has_room_for(&self, length: usize, count: usize) -> bool {
        length.checked_add(count).is_some_and(|end| end <= self.bytes.len())
    }

    /// Forgets what was written after `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What was written so far.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl core::fmt::Write for Buffer<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.push(text.as_bytes()).map_err(|BufferFull| core::fmt::Error)
    }
}

impl From<core::fmt::Error> for BufferFull {
    /// Formatting into a [`Buffer`] fails for one reason only.
    fn from(_: core::fmt::Error) -> Self {
        Self
    }
}
